package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
)

const testToken = "secret"

func testProcessor() *processor { return newProcessor("default", 500, testToken) }

// ask calls the processor without a connection, so that it can happen in virtual time.
func ask(p *processor, method, target, body string) *fasthttp.RequestCtx {
	var req fasthttp.Request
	req.Header.SetMethod(method)
	req.SetRequestURI(target)
	req.Header.Set(tokenHeader, testToken)
	req.SetBodyString(body)
	var ctx fasthttp.RequestCtx
	ctx.Init(&req, nil, nil)
	p.handle(&ctx)
	return &ctx
}

func payment(id string, amount, at string) string {
	return fmt.Sprintf(`{"correlationId":%q,"amount":%s,"requestedAt":%q}`, id, amount, at)
}

const (
	someID   = "5b0e1b9c-6a4e-4e2a-9a53-0c7d1f3f5e11"
	otherID  = "5b0e1b9c-6a4e-4e2a-9a53-0c7d1f3f5e12"
	someTime = "2025-07-15T12:34:56.000001Z"
)

func wantStatus(t *testing.T, ctx *fasthttp.RequestCtx, status int) {
	t.Helper()
	if got := ctx.Response.StatusCode(); got != status {
		t.Fatalf("answered %d %q, want %d", got, ctx.Response.Body(), status)
	}
}

func set(t *testing.T, p *processor, what, body string) {
	t.Helper()
	wantStatus(t, ask(p, "PUT", "/admin/configurations/"+what, body), 200)
}

func TestPaymentIsAnsweredAfterTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testProcessor()
		set(t, p, "delay", `{"delay":1500}`)
		began := time.Now()
		ctx := ask(p, "POST", "/payments", payment(someID, "19.90", someTime))
		wantStatus(t, ctx, 200)
		if got := string(ctx.Response.Body()); got != `{"message":"payment processed successfully"}` {
			t.Errorf("body %q", got)
		}
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestFailingProcessorWaitsThenAnswersEmptyAndWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testProcessor()
		set(t, p, "delay", `{"delay":100}`)
		set(t, p, "failure", `{"failure":true}`)
		began := time.Now()
		ctx := ask(p, "POST", "/payments", payment(someID, "19.90", someTime))
		wantStatus(t, ctx, 500)
		if len(ctx.Response.Body()) != 0 {
			t.Errorf("body %q, want none", ctx.Response.Body())
		}
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		wantStatus(t, ask(p, "GET", "/payments/"+someID, ""), 404)
	})
}

// The processor that begins to fail during a delay fails the payment that waits: failing is looked at after the delay.
func TestFailureIsDecidedAfterTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testProcessor()
		set(t, p, "delay", `{"delay":1000}`)
		var ctx *fasthttp.RequestCtx
		var paying sync.WaitGroup
		paying.Go(func() { ctx = ask(p, "POST", "/payments", payment(someID, "19.90", someTime)) })
		synctest.Wait()
		set(t, p, "failure", `{"failure":true}`)
		paying.Wait()
		wantStatus(t, ctx, 500)
	})
}

func TestPaymentIsVisibleOnlyAfterTheDelayAndLookUpsAreNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testProcessor()
		set(t, p, "delay", `{"delay":5000}`)
		var paying sync.WaitGroup
		paying.Go(func() { ask(p, "POST", "/payments", payment(someID, "19.90", someTime)) })
		time.Sleep(4999 * time.Millisecond)
		began := time.Now()
		wantStatus(t, ask(p, "GET", "/payments/"+someID, ""), 404)
		if took := time.Since(began); took != 0 {
			t.Errorf("look-up took %v", took)
		}
		paying.Wait()
		wantStatus(t, ask(p, "GET", "/payments/"+someID, ""), 200)
	})
}

func TestLookUpGivesThePaymentToTheMicrosecond(t *testing.T) {
	p := testProcessor()
	wantStatus(t, ask(p, "POST", "/payments", payment(someID, "19.9", "2025-07-15T14:34:56.123456+02:00")), 200)
	want := []string{
		`{"correlationId":"` + someID + `","amount":19.90,"requestedAt":"2025-07-15T12:34:56.123456Z"}`,
		`{"correlationId":"` + someID + `","amount":19.90,"requestedAt":"2025-07-15T12:34:56.123456"}`,
	}
	for _, body := range want { // with the zone letter and without it, in turn
		if got := string(ask(p, "GET", "/payments/"+someID, "").Response.Body()); got != body {
			t.Errorf("look-up %s, want %s", got, body)
		}
	}
}

func TestRepeatedIDIsAnsweredWith422AndKeepsTheFirst(t *testing.T) {
	p := testProcessor()
	wantStatus(t, ask(p, "POST", "/payments", payment(someID, "19.90", someTime)), 200)
	ctx := ask(p, "POST", "/payments", payment(strings.ToUpper(someID), "5.00", someTime))
	wantStatus(t, ctx, 422)
	if len(ctx.Response.Body()) == 0 {
		t.Error("422 without a body")
	}
	if w := p.ledger.all(); len(w) != 1 || w[0].amount != 1990 {
		t.Errorf("ledger %v", w)
	}
}

func TestMalformedPaymentsAreAnsweredWith400AndABody(t *testing.T) {
	p := testProcessor()
	for name, body := range map[string]string{
		"not JSON":       `{`,
		"no id":          `{"amount":1,"requestedAt":"` + someTime + `"}`,
		"not a UUID":     payment("5b0e1b9c", "19.90", someTime),
		"UUID in braces": payment("{"+someID+"}", "19.90", someTime),
		"no amount":      `{"correlationId":"` + someID + `","requestedAt":"` + someTime + `"}`,
		"three decimals": payment(someID, "19.901", someTime),
		"no time":        `{"correlationId":"` + someID + `","amount":1}`,
		"not a time":     payment(someID, "19.90", "yesterday"),
	} {
		ctx := ask(p, "POST", "/payments", body)
		if ctx.Response.StatusCode() != 400 || !json.Valid(ctx.Response.Body()) {
			t.Errorf("%s: answered %d %q", name, ctx.Response.StatusCode(), ctx.Response.Body())
		}
	}
	if len(p.ledger.all()) != 0 {
		t.Error("a malformed payment was written")
	}
}

func TestServes800Queues500AndTurnsAwayTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testProcessor()
		set(t, p, "delay", `{"delay":1000}`)
		began := time.Now()
		var first, second, away atomic.Int64
		var all sync.WaitGroup
		const extra = 7
		for range servedAtOnce + queuedBehind + extra {
			all.Go(func() {
				ctx := ask(p, "POST", "/payments", payment(freshID().String(), "1.00", someTime))
				switch took := time.Since(began); {
				case ctx.Response.StatusCode() == 429 && took == 0:
					away.Add(1)
				case ctx.Response.StatusCode() == 200 && took == time.Second:
					first.Add(1)
				case ctx.Response.StatusCode() == 200 && took == 2*time.Second:
					second.Add(1)
				default:
					t.Errorf("answered %d after %v", ctx.Response.StatusCode(), took)
				}
			})
		}
		synctest.Wait()
		wantStatus(t, ask(p, "GET", "/payments/"+someID, ""), 429) // look-ups need room, too
		all.Wait()
		if first.Load() != servedAtOnce || second.Load() != queuedBehind || away.Load() != extra {
			t.Errorf("%d at once, %d after a wait, %d turned away", first.Load(), second.Load(), away.Load())
		}
		if c := p.counted(); c.Busy != extra+1 {
			t.Errorf("counted %d turned away", c.Busy)
		}
	})
}

func TestHealthAllowsOneCallAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testProcessor()
		set(t, p, "delay", `{"delay":70}`)
		set(t, p, "failure", `{"failure":true}`)
		began := time.Now()
		ctx := ask(p, "GET", "/payments/service-health", "")
		if got := string(ctx.Response.Body()); got != `{"failing":true,"minResponseTime":70}` {
			t.Errorf("health %q", got)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("health took %v", took)
		}
		time.Sleep(healthWindow - time.Microsecond)
		wantStatus(t, ask(p, "GET", "/payments/service-health", ""), 429)
		time.Sleep(time.Microsecond) // a refused call does not begin a window
		wantStatus(t, ask(p, "GET", "/payments/service-health", ""), 200)
		if c := p.counted(); c.Healths != 3 || c.TooSoon != 1 {
			t.Errorf("counted %d health calls, %d too soon", c.Healths, c.TooSoon)
		}
	})
}

func TestAdminSummaryIncludesBothEdges(t *testing.T) {
	p := testProcessor()
	for i, at := range []string{"12:00:00.000001", "12:00:00.000002", "12:00:00.000003"} {
		body := payment(freshID().String(), fmt.Sprintf("%d.00", 10*(i+1)), "2025-07-15T"+at+"Z")
		wantStatus(t, ask(p, "POST", "/payments", body), 200)
	}
	want := func(from, to, body string) {
		t.Helper()
		query := "?from=2025-07-15T12:00:00." + from + "Z&to=2025-07-15T12:00:00." + to + "Z"
		if got := string(ask(p, "GET", "/admin/payments-summary"+query, "").Response.Body()); got != body {
			t.Errorf("%s to %s: %s, want %s", from, to, got, body)
		}
	}
	want("000001", "000003", `{"totalRequests":3,"totalAmount":60.00,"totalFee":3.00,"feePerTransaction":0.0500}`)
	want("000002", "000002", `{"totalRequests":1,"totalAmount":20.00,"totalFee":1.00,"feePerTransaction":0.0500}`)
	want("000004", "000009", `{"totalRequests":0,"totalAmount":0.00,"totalFee":0.00,"feePerTransaction":0.0500}`)
	wantStatus(t, ask(p, "GET", "/admin/payments-summary?from=yesterday", ""), 400)
}

func TestAdminSideWantsItsToken(t *testing.T) {
	p := testProcessor()
	with := func(token string) int {
		var req fasthttp.Request
		req.SetRequestURI("/admin/counters")
		if token != "" {
			req.Header.Set(tokenHeader, token)
		}
		var ctx fasthttp.RequestCtx
		ctx.Init(&req, nil, nil)
		p.handle(&ctx)
		return ctx.Response.StatusCode()
	}
	if none, wrong, right := with(""), with("guess"), with(testToken); none != 401 || wrong != 403 || right != 200 {
		t.Errorf("answered %d without, %d with a wrong, %d with the right token", none, wrong, right)
	}
	set(t, p, "token", `{"token":"new"}`)
	if before, after := with(testToken), with("new"); before != 403 || after != 200 {
		t.Errorf("answered %d to the old, %d to the new token", before, after)
	}
}

func TestAdminRefusesWhatItCannotSet(t *testing.T) {
	p := testProcessor()
	for _, c := range [][2]string{
		{"delay", `{"delay":-1}`}, {"delay", `{}`}, {"failure", `{}`}, {"token", `{"token":""}`},
		{"lose", `{"close":60,"hang":41}`}, {"lose", `{"close":-1}`}, {"delay", `no`},
	} {
		wantStatus(t, ask(p, "PUT", "/admin/configurations/"+c[0], c[1]), 400)
	}
	wantStatus(t, ask(p, "PUT", "/admin/configurations/weather", `{}`), 404)
	wantStatus(t, ask(p, "DELETE", "/payments", ""), 405)
	wantStatus(t, ask(p, "GET", "/", ""), 404)
}

func TestPurgeForgetsEverything(t *testing.T) {
	p := testProcessor()
	wantStatus(t, ask(p, "POST", "/payments", payment(someID, "19.90", someTime)), 200)
	wantStatus(t, ask(p, "POST", "/admin/purge-payments", ""), 200)
	wantStatus(t, ask(p, "GET", "/payments/"+someID, ""), 404)
	wantStatus(t, ask(p, "POST", "/payments", payment(someID, "19.90", someTime)), 200)
}

// served is a processor on a loopback port, and an admin client for it.
func served(t *testing.T) (*processor, *adminClient) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := testProcessor()
	ended := make(chan error, 1)
	go func() { ended <- p.serve(l) }()
	t.Cleanup(func() {
		p.close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p, newAdminClient(p.name, "http://"+l.Addr().String(), testToken)
}

func TestWriteGoesOnAfterTheClientHasLeft(t *testing.T) {
	p, admin := served(t)
	set(t, p, "delay", `{"delay":30}`)
	c, err := net.Dial("tcp", strings.TrimPrefix(admin.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	body := payment(someID, "19.90", someTime)
	fmt.Fprintf(c, "POST /payments HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	await(t, "the payment to be taken in", func() bool { return p.counted().Posts == 1 })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, "the payment to be written", func() bool { return len(p.ledger.all()) == 1 })
}

// await waits for a condition in real time: there is a connection under it.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for limit := time.Now().Add(5 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func TestLostAnswersArePaidAllTheSame(t *testing.T) {
	post := func(admin *adminClient, id string, timeout time.Duration) error {
		c := http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Post(admin.base+"/payments", "application/json", strings.NewReader(payment(id, "19.90", someTime)))
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	p, admin := served(t)
	if err := admin.lose(t.Context(), losses{Close: 100}); err != nil {
		t.Fatal(err)
	}
	if err := post(admin, someID, 5*time.Second); err == nil || !strings.Contains(err.Error(), io.EOF.Error()) {
		t.Errorf("closed answer ended with %v, want %v", err, io.EOF)
	}
	if err := admin.lose(t.Context(), losses{Hang: 100}); err != nil {
		t.Fatal(err)
	}
	err := post(admin, otherID, 50*time.Millisecond)
	if e, ok := err.(net.Error); !ok || !e.Timeout() {
		t.Errorf("hung answer ended with %v, want a time-out", err)
	}
	if got := len(p.ledger.all()); got != 2 {
		t.Errorf("%d payments written, want 2", got)
	}
	if len(p.room.served) != 0 {
		t.Error("a lost answer still holds a place")
	}
	if c, err := admin.counters(t.Context()); err != nil || c.Lost != 2 {
		t.Errorf("counted %d lost (%v)", c.Lost, err)
	}
}

func TestAdminClientReadsWhatTheProcessorWrote(t *testing.T) {
	_, admin := served(t)
	p := []string{payment(someID, "19.90", someTime), payment(otherID, "0.01", "2025-07-15T12:34:56.000002Z")}
	for _, body := range p {
		resp, err := http.Post(admin.base+"/payments", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	list, err := admin.payments(t.Context())
	if err != nil || len(list) != 2 || list[0].id.String() != someID || list[0].amount != 1990 || list[1].requestedAt-list[0].requestedAt != 1 {
		t.Errorf("payments %v, %v", list, err)
	}
	sum, rate, err := admin.summary(t.Context(), window{list[1].requestedAt, list[1].requestedAt})
	if err != nil || sum != (total{1, 1}) || rate != 500 {
		t.Errorf("summary %v, fee %v, %v", sum, rate, err)
	}
	if err := newAdminClient("default", admin.base, "wrong").purge(t.Context()); err == nil {
		t.Error("a wrong token was taken")
	}
}
