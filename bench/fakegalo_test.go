package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// A fakeGalo pays everything at the default processor at once, or goes wrong in one way: the bench has to see it.
type fakeGalo struct {
	*httptest.Server
	urls  [processors]string
	fault fault

	mu      sync.Mutex
	taken   int // payments
	asked   int // summaries
	ledgers [processors]ledger
	paying  sync.WaitGroup
}

// faultyPayment is the one payment that a fault strikes, counted from 1.
const faultyPayment = 10

type fault uint8

const (
	noFault fault = iota
	losesOne
	paysOneTwice
	countsOneTooMany
	dropsOneAnswer
	refusesOneAndPaysIt
	hasNoSummaryOnce
)

func (f fault) String() string {
	return [...]string{"honest", "loses one", "pays one twice", "counts one too many", "drops one answer",
		"refuses one and pays it", "has no summary once"}[f]
}

func newFakeGalo(t *testing.T, urls [processors]string, f fault) *fakeGalo {
	g := &fakeGalo{urls: urls, fault: f}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", g.pay)
	mux.HandleFunc("POST /purge-payments", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /payments-summary", g.summary)
	mux.HandleFunc("GET /payments/{id}", g.record)
	g.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		g.Close()
		g.paying.Wait()
	})
	return g
}

func (g *fakeGalo) pay(w http.ResponseWriter, r *http.Request) {
	var in paymentRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	g.taken++
	struck := g.taken == faultyPayment
	g.mu.Unlock()
	if struck && g.fault == losesOne {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	at := time.Now().UTC().Format(zonedMicros)
	g.paying.Go(func() { g.send(onDefault, in, at) })
	if struck && g.fault == paysOneTwice {
		g.paying.Go(func() { g.send(onFallback, in, at) })
	}
	switch {
	case struck && g.fault == dropsOneAnswer:
		panic(http.ErrAbortHandler) // the server closes the connection without an answer
	case struck && g.fault == refusesOneAndPaysIt:
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

func (g *fakeGalo) send(p int, in paymentRequest, at string) {
	body := payment(in.CorrelationID, in.Amount.String(), at)
	resp, err := http.Post(g.urls[p]+"/payments", "application/json", strings.NewReader(body))
	if err != nil {
		return
	}
	_ = resp.Body.Close()
	if w, err := readPayment([]byte(body)); err == nil && resp.StatusCode == http.StatusOK {
		g.ledgers[p].write(w)
	}
}

func (g *fakeGalo) summary(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.asked++
	second := g.asked == 2 // the first is the bench's own question whether galo is there
	g.mu.Unlock()
	if second && g.fault == hasNoSummaryOnce {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	from, _ := time.Parse(time.RFC3339Nano, r.FormValue("from"))
	to, _ := time.Parse(time.RFC3339Nano, r.FormValue("to"))
	var t [processors]total
	for p := range t {
		t[p] = within(g.ledgers[p].all(), from.UnixMicro(), to.UnixMicro())
	}
	if g.fault == countsOneTooMany && t[onDefault].requests > 0 {
		t[onDefault].requests++
	}
	fmt.Fprintf(w, `{"default":{"totalRequests":%d,"totalAmount":%v},"fallback":{"totalRequests":%d,"totalAmount":%v}}`,
		t[onDefault].requests, t[onDefault].amount, t[onFallback].requests, t[onFallback].amount)
}

func (g *fakeGalo) record(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	for p := range g.ledgers {
		for _, x := range g.ledgers[p].all() {
			if x.id.String() == id {
				fmt.Fprintf(w, `{"id":%q,"amount":%v,"state":"paid","processor":%q,"requestedAt":%q}`,
					id, x.amount, processorNames[p], time.UnixMicro(x.requestedAt).UTC().Format(zonedMicros))
				return
			}
		}
	}
	w.WriteHeader(http.StatusNotFound)
}
