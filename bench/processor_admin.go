package main

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/valyala/fasthttp"
)

const tokenHeader = "X-Rinha-Token"

// handleAdmin is the side that tests and the judge use. The first group is the real processor's; what follows is
// this simulation's own: lost answers, the whole ledger, the counters, the answer times.
func (p *processor) handleAdmin(ctx *fasthttp.RequestCtx, path string) {
	given := ctx.Request.Header.Peek(tokenHeader)
	switch {
	case len(given) == 0:
		ctx.SetStatusCode(fasthttp.StatusUnauthorized)
		return
	case subtle.ConstantTimeCompare(given, []byte(*p.token.Load())) != 1:
		ctx.SetStatusCode(fasthttp.StatusForbidden)
		return
	}
	switch string(ctx.Method()) + " " + path {
	case "GET /admin/payments-summary":
		p.adminSummary(ctx)
	case "PUT /admin/configurations/delay":
		p.setDelay(ctx)
	case "PUT /admin/configurations/failure":
		p.setFailure(ctx)
	case "PUT /admin/configurations/token":
		p.setToken(ctx)
	case "POST /admin/purge-payments":
		p.ledger.purge()
		answerJSON(ctx, fasthttp.StatusOK, map[string]string{"message": "All payments purged."})

	case "PUT /admin/configurations/lose":
		p.setLose(ctx)
	case "PUT /admin/configurations/odd":
		p.setOdd(ctx)
	case "GET /admin/payments":
		p.adminPayments(ctx)
	case "GET /admin/counters":
		answerJSON(ctx, fasthttp.StatusOK, p.counted())
	case "GET /admin/answer-times": // since the last such question
		answerJSON(ctx, fasthttp.StatusOK, p.answered.sinceLast())
	default:
		ctx.SetStatusCode(fasthttp.StatusNotFound)
	}
}

// adminTotals is the real processor's summary. The fees are numbers and not cents because the real one answers so.
type adminTotals struct {
	TotalRequests     int64       `json:"totalRequests"`
	TotalAmount       json.Number `json:"totalAmount"`
	TotalFee          json.Number `json:"totalFee"`
	FeePerTransaction json.Number `json:"feePerTransaction"`
}

func (p *processor) adminSummary(ctx *fasthttp.RequestCtx) {
	from, err := edge(ctx, "from", math.MinInt64)
	if err == nil {
		var to int64
		if to, err = edge(ctx, "to", math.MaxInt64); err == nil {
			all := p.ledger.all()
			skip := ctx.QueryArgs().GetUintOrZero("skip")
			t := within(all[min(skip, len(all)):], from, to)
			answerJSON(ctx, fasthttp.StatusOK, adminTotals{
				TotalRequests:     t.requests,
				TotalAmount:       json.Number(t.amount.String()),
				TotalFee:          json.Number(p.fee.of(t.amount).String()),
				FeePerTransaction: json.Number(p.fee.String()),
			})
			return
		}
	}
	refuse(ctx, err)
}

// edge reads one end of a window in microseconds, or the open end where it is missing.
func edge(ctx *fasthttp.RequestCtx, name string, open int64) (int64, error) {
	text := ctx.QueryArgs().Peek(name)
	if len(text) == 0 {
		return open, nil
	}
	at, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return at.UnixMicro(), nil
}

func (p *processor) setDelay(ctx *fasthttp.RequestCtx) {
	var set struct {
		Delay *int64 `json:"delay"` // milliseconds
	}
	if !read(ctx, &set) {
		return
	}
	if set.Delay == nil || *set.Delay < 0 {
		refuse(ctx, fmt.Errorf("cannot set delay: milliseconds from 0 are needed"))
		return
	}
	p.delay.Store(int64(time.Duration(*set.Delay) * time.Millisecond))
	done(ctx)
}

func (p *processor) setFailure(ctx *fasthttp.RequestCtx) {
	var set struct {
		Failure *bool `json:"failure"`
	}
	if !read(ctx, &set) {
		return
	}
	if set.Failure == nil {
		refuse(ctx, fmt.Errorf("cannot set failure: true or false is needed"))
		return
	}
	p.failing.Store(*set.Failure)
	done(ctx)
}

func (p *processor) setToken(ctx *fasthttp.RequestCtx) {
	var set struct {
		Token string `json:"token"`
	}
	if !read(ctx, &set) {
		return
	}
	if set.Token == "" {
		refuse(ctx, fmt.Errorf("cannot set token: it must not be empty"))
		return
	}
	p.token.Store(&set.Token)
	done(ctx)
}

// losses are shares in percent of the answers to written payments that never arrive.
type losses struct {
	Close float64 `json:"close"`
	Hang  float64 `json:"hang"`
}

func (p *processor) setLose(ctx *fasthttp.RequestCtx) {
	var set losses
	if !read(ctx, &set) {
		return
	}
	if set.Close < 0 || set.Hang < 0 || set.Close+set.Hang > 100 {
		refuse(ctx, fmt.Errorf("cannot lose %v%% and %v%%: from 0 to 100 together are needed", set.Close, set.Hang))
		return
	}
	p.loseClose.Store(uint32(math.Round(set.Close * wholeShare / 100)))
	p.loseHang.Store(uint32(math.Round(set.Hang * wholeShare / 100)))
	done(ctx)
}

// adminPayments lists the whole ledger, a line each: id, cents, requestedAt in microseconds since the epoch.
func (p *processor) adminPayments(ctx *fasthttp.RequestCtx) {
	var lines bytes.Buffer
	for _, w := range p.ledger.all() {
		fmt.Fprintf(&lines, "%s %d %d\n", w.id, w.amount, w.requestedAt)
	}
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBody(lines.Bytes())
}

// counted is what the judge reads besides the payments.
type counted struct {
	Posts     uint64 `json:"posts"`
	Lookups   uint64 `json:"lookups"`
	Healths   uint64 `json:"healths"`
	Busy      uint64 `json:"busy"`      // 429 because 800 were served and 500 waited
	TooSoon   uint64 `json:"tooSoon"`   // health calls within the window of another
	Failed    uint64 `json:"failed"`    // 500 while failing
	Repeated  uint64 `json:"repeated"`  // 422, the id was there
	Malformed uint64 `json:"malformed"` // 400
	Lost      uint64 `json:"lost"`      // answers that were lost on purpose
	Odd       uint64 `json:"odd"`       // answers that no processor gives
	// Closest is the shortest time in microseconds between a health call that was let through and the next call; 0: none came.
	Closest int64 `json:"closest"`
}

func (p *processor) counted() counted {
	c := &p.counters
	return counted{
		Posts: c.posts.Load(), Lookups: c.lookups.Load(), Healths: c.healths.Load(),
		Busy: c.busy.Load(), TooSoon: c.tooSoon.Load(), Failed: c.failed.Load(),
		Repeated: c.repeated.Load(), Malformed: c.malformed.Load(), Lost: c.lost.Load(), Odd: c.odd.Load(),
		Closest: p.health.closest().Microseconds(),
	}
}

// read takes the JSON body, or answers 400 and says no.
func read(ctx *fasthttp.RequestCtx, into any) bool {
	if err := json.Unmarshal(ctx.PostBody(), into); err != nil {
		refuse(ctx, fmt.Errorf("cannot read body: %w", err))
		return false
	}
	return true
}

func refuse(ctx *fasthttp.RequestCtx, err error) {
	answerJSON(ctx, fasthttp.StatusBadRequest, map[string]string{"message": err.Error()})
}

func done(ctx *fasthttp.RequestCtx) {
	answerJSON(ctx, fasthttp.StatusOK, map[string]string{"message": "ok"})
}

// since is what was counted after an earlier reading.
func (c counted) since(before counted) counted {
	return counted{
		Posts: c.Posts - before.Posts, Lookups: c.Lookups - before.Lookups, Healths: c.Healths - before.Healths,
		Busy: c.Busy - before.Busy, TooSoon: c.TooSoon - before.TooSoon, Failed: c.Failed - before.Failed,
		Repeated: c.Repeated - before.Repeated, Malformed: c.Malformed - before.Malformed, Lost: c.Lost - before.Lost, Odd: c.Odd - before.Odd,
		Closest: c.Closest,
	}
}
