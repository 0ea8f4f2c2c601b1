package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// The limits of the real processor.
const (
	servedAtOnce = 800
	queuedBehind = 500
	healthWindow = 5 * time.Second
)

// A processor is one simulated payment processor: it does what the contract says the real one does, in the same
// order, and it remembers everything it has written, so that galo can be judged by it afterwards.
type processor struct {
	name   string
	fee    fee
	room   *waitingRoom
	health healthLimit
	ledger ledger

	// What the admin side sets while requests read it. Nothing else is published through these.
	delay     atomic.Int64 // a time.Duration
	failing   atomic.Bool
	token     atomic.Pointer[string]
	loseClose atomic.Uint32 // of wholeShare answers to written payments: the connection is closed instead
	loseHang  atomic.Uint32 // of wholeShare: the connection stays open and silent instead
	odd       atomic.Pointer[oddity]

	counters  counters
	answered  *times        // how long payments took from their request to their answer
	lookedUp  atomic.Uint64 // turns the zone letter of look-ups on and off
	server    *fasthttp.Server
	closing   context.Context // done when hanging connections are to be let go
	stopHangs context.CancelFunc
}

// counters are what a verdict wants to know beyond the payments.
type counters struct {
	posts, lookups, healths, busy, tooSoon, failed, repeated, malformed, lost, odd atomic.Uint64
}

// wholeShare is all of the answers: shares to lose are in hundredths of a percent.
const wholeShare = 10_000

func newProcessor(name string, f fee, token string) *processor {
	p := &processor{name: name, fee: f, room: newWaitingRoom(), answered: newTimes()}
	p.token.Store(&token)
	p.closing, p.stopHangs = context.WithCancel(context.Background())
	p.server = &fasthttp.Server{
		Handler:               p.handle,
		Name:                  "bench-processor",
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		CloseOnShutdown:       true,
	}
	return p
}

// serve answers on the listener until close is called.
func (p *processor) serve(l net.Listener) error {
	if err := p.server.Serve(l); err != nil {
		return fmt.Errorf("cannot serve as processor %s: %w", p.name, err)
	}
	return nil
}

// close ends serving; payments that are in their delay are given a moment to be written.
func (p *processor) close() {
	p.stopHangs()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.server.ShutdownWithContext(ctx) // it only fails when the moment is over, and then the process ends anyway
}

func (p *processor) handle(ctx *fasthttp.RequestCtx) {
	path := string(ctx.Path())
	if !strings.HasPrefix(path, "/admin/") && p.answersOddly(ctx, false) {
		return
	}
	switch {
	case path == "/payments":
		if only(ctx, fasthttp.MethodPost) {
			began := time.Now()
			p.limited(ctx, p.pay)
			p.answered.add(time.Since(began))
		}
	case path == "/payments/service-health":
		if only(ctx, fasthttp.MethodGet) {
			p.answerHealth(ctx)
		}
	case strings.HasPrefix(path, "/payments/"):
		if only(ctx, fasthttp.MethodGet) {
			p.limited(ctx, p.lookUp)
		}
	case strings.HasPrefix(path, "/admin/"):
		p.handleAdmin(ctx, path)
	default:
		ctx.SetStatusCode(fasthttp.StatusNotFound)
	}
}

func only(ctx *fasthttp.RequestCtx, method string) bool {
	if string(ctx.Method()) == method {
		return true
	}
	ctx.Response.Header.Set(fasthttp.HeaderAllow, method)
	ctx.SetStatusCode(fasthttp.StatusMethodNotAllowed)
	return false
}

// limited serves a request when there is room for it, now or after a wait, and turns it away when there is none.
func (p *processor) limited(ctx *fasthttp.RequestCtx, serve fasthttp.RequestHandler) {
	if !p.room.enter() {
		p.counters.busy.Add(1)
		ctx.SetStatusCode(fasthttp.StatusTooManyRequests)
		return
	}
	defer p.room.leave()
	serve(ctx)
}

type paymentRequest struct {
	CorrelationID string      `json:"correlationId"`
	Amount        json.Number `json:"amount"`
	RequestedAt   string      `json:"requestedAt"`
}

// pay waits, fails, writes and answers, in the order of the real processor. A client that gives up in between
// changes nothing: its payment is written all the same.
func (p *processor) pay(ctx *fasthttp.RequestCtx) {
	p.counters.posts.Add(1)
	w, err := readPayment(ctx.PostBody())
	if err != nil {
		p.counters.malformed.Add(1)
		answerJSON(ctx, fasthttp.StatusBadRequest, map[string]string{"message": err.Error()})
		return
	}
	if d := time.Duration(p.delay.Load()); d > 0 {
		time.Sleep(d)
	}
	if p.failing.Load() {
		p.counters.failed.Add(1)
		ctx.SetStatusCode(fasthttp.StatusInternalServerError) // with an empty body: nothing was written
		return
	}
	if !p.ledger.write(w) {
		p.counters.repeated.Add(1)
		answerJSON(ctx, fasthttp.StatusUnprocessableEntity, map[string]string{"message": "CorrelationId already exists"})
		return
	}
	if p.loseAnswer(ctx) {
		p.counters.lost.Add(1)
		return
	}
	if p.answersOddly(ctx, true) {
		return
	}
	ctx.SetContentType("application/json; charset=utf-8")
	ctx.SetBodyString(`{"message":"payment processed successfully"}`)
}

func readPayment(body []byte) (written, error) {
	var req paymentRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return written{}, fmt.Errorf("cannot read payment: %w", err)
	}
	id, err := uuid.Parse(req.CorrelationID)
	if err != nil || len(req.CorrelationID) != len(id.String()) {
		return written{}, fmt.Errorf("cannot read correlationId %q: a UUID is needed", req.CorrelationID)
	}
	amount, err := parseCents(req.Amount.String())
	if err != nil {
		return written{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, req.RequestedAt)
	if err != nil {
		return written{}, fmt.Errorf("cannot read requestedAt: %w", err)
	}
	return written{id: id, amount: amount, requestedAt: at.UnixMicro()}, nil
}

// loseAnswer decides by lot whether the answer to a written payment is lost, and says whether it was.
func (p *processor) loseAnswer(ctx *fasthttp.RequestCtx) bool {
	lot, closed, hung := rand.Uint32N(wholeShare), p.loseClose.Load(), p.loseHang.Load()
	switch {
	case lot < closed:
		ctx.Hijack(func(net.Conn) {}) // fasthttp closes the connection when the function returns
	case lot < closed+hung:
		ctx.Hijack(p.hang)
	default:
		return false
	}
	ctx.HijackSetNoResponse(true)
	return true
}

// hang keeps a connection open and silent until its client leaves or the processor closes. It holds no place in
// the waiting room: the processor is done with the payment, only its answer got lost on the way.
func (p *processor) hang(c net.Conn) {
	stop := context.AfterFunc(p.closing, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var rest [512]byte
	for {
		if _, err := c.Read(rest[:]); err != nil {
			return
		}
	}
}

// The two ways in which the contract lets a look-up write its instant.
const (
	zonedMicros   = "2006-01-02T15:04:05.000000Z"
	unzonedMicros = "2006-01-02T15:04:05.000000"
)

// lookUp answers at once and never fails. The zone letter is there every other time, since the contract says "perhaps".
func (p *processor) lookUp(ctx *fasthttp.RequestCtx) {
	turn := p.lookedUp.Add(1)
	p.counters.lookups.Add(1)
	id, err := uuid.ParseBytes(ctx.Path()[len("/payments/"):])
	if err != nil {
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		return
	}
	w, found := p.ledger.find(id)
	if !found {
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		return
	}
	layout := zonedMicros
	if turn%2 == 0 {
		layout = unzonedMicros
	}
	answerJSON(ctx, fasthttp.StatusOK, paymentRequest{
		CorrelationID: w.id.String(),
		Amount:        json.Number(w.amount.String()),
		RequestedAt:   time.UnixMicro(w.requestedAt).UTC().Format(layout),
	})
}

type healthAnswer struct {
	Failing         bool  `json:"failing"`
	MinResponseTime int64 `json:"minResponseTime"` // milliseconds
}

func (p *processor) answerHealth(ctx *fasthttp.RequestCtx) {
	p.counters.healths.Add(1)
	if !p.health.allow(time.Now()) {
		p.counters.tooSoon.Add(1)
		ctx.SetStatusCode(fasthttp.StatusTooManyRequests)
		return
	}
	answerJSON(ctx, fasthttp.StatusOK, healthAnswer{
		Failing:         p.failing.Load(),
		MinResponseTime: time.Duration(p.delay.Load()).Milliseconds(),
	})
}

// healthLimit lets one call through per window. A window begins with the call that is let through: that is the
// strictest of the fixed windows the real one may have, and what is well here is well there.
type healthLimit struct {
	mu       sync.Mutex
	until    time.Time
	shortest time.Duration // from a call that was let through to the next one
}

func (h *healthLimit) closest() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shortest
}

func (h *healthLimit) allow(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.until.IsZero() {
		if gap := now.Sub(h.until) + healthWindow; h.shortest == 0 || gap < h.shortest {
			h.shortest = gap
		}
	}
	if now.Before(h.until) {
		return false
	}
	h.until = now.Add(healthWindow)
	return true
}

// A waitingRoom serves so many at once and lets so many wait, first come first served.
type waitingRoom struct {
	served  chan struct{}
	waiting atomic.Int64
}

func newWaitingRoom() *waitingRoom {
	return &waitingRoom{served: make(chan struct{}, servedAtOnce)}
}

// enter waits for a place and says whether there was even one to wait in.
func (r *waitingRoom) enter() bool {
	select {
	case r.served <- struct{}{}:
		return true
	default:
	}
	if r.waiting.Add(1) > queuedBehind {
		r.waiting.Add(-1)
		return false
	}
	r.served <- struct{}{} // senders on a channel are served in the order they came
	r.waiting.Add(-1)
	return true
}

func (r *waitingRoom) leave() { <-r.served }

func answerJSON(ctx *fasthttp.RequestCtx, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // no type that is answered here can fail
		ctx.Error(err.Error(), fasthttp.StatusInternalServerError)
		return
	}
	ctx.SetContentType("application/json; charset=utf-8")
	ctx.SetStatusCode(status)
	ctx.SetBody(body)
}
