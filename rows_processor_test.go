package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// reply is one way in which a processor answers an attempt.
type reply struct {
	name string
	// unknown: the attempt may have been written, or may still be; the payment must stay here.
	unknown bool
	answer  func(rw http.ResponseWriter)
}

func replyOf(status int, body string) func(http.ResponseWriter) {
	return func(rw http.ResponseWriter) {
		rw.WriteHeader(status)
		io.WriteString(rw, body)
	}
}

// raw answers with bytes and ends the connection in the middle of them.
func raw(text string, reset bool) func(http.ResponseWriter) {
	return func(rw http.ResponseWriter) {
		conn, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		io.WriteString(conn, text)
		if tcp := conn.(*net.TCPConn); reset {
			awaitAcknowledged(tcp) // a reset drops what is under way
			tcp.SetLinger(0)
		}
		conn.Close()
	}
}

// replies is the contract's table of outcomes, without those that end a payment.
var replies = []reply{
	{"500 with nothing in it", false, replyOf(500, "")},
	{"429", false, replyOf(429, "")},
	{"401", false, replyOf(401, "who are you?")},
	{"403", false, replyOf(403, "<html>forbidden</html>")},
	{"404", false, replyOf(404, "")},
	{"405", false, replyOf(405, "")},
	{"418", false, replyOf(418, "")},
	{"closed without an answer", true, hijacked},
	{"reset in the middle of the answer", true, raw("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{\"mess", true)},
	{"closed in the middle of the answer", true, raw("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{\"message\":\"payment", false)},
	{"closed in the middle of the head", true, raw("HTTP/1.1 200 O", false)},
	{"200 with HTML", true, replyOf(200, "<html>welcome</html>")},
	{"200 with half of its JSON", true, replyOf(200, `{"message":"payment`)},
	{"500 with something in it", true, replyOf(500, `{"error":"around the write"}`)},
	{"302", true, func(rw http.ResponseWriter) { rw.Header().Set("Location", "/elsewhere"); rw.WriteHeader(302) }},
	{"502", true, replyOf(502, "bad gateway")},
	{"503", true, replyOf(503, "")},
	{"504", true, replyOf(504, "")},
}

// strictBook watches what both processors are sent: a payment with an unknown attempt at one must never come to the other, and keeps
// its requestedAt.
type strictBook struct {
	t      *testing.T
	mu     sync.Mutex
	pinned map[string]struct {
		at          *fakeProcessor
		requestedAt string
	}
}

func newStrictBook(t *testing.T) *strictBook {
	return &strictBook{t: t, pinned: make(map[string]struct {
		at          *fakeProcessor
		requestedAt string
	})}
}

func (s *strictBook) sees(f *fakeProcessor, p fakePayment, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pin, ok := s.pinned[p.ID]
	switch {
	case ok && pin.at != f:
		s.t.Errorf("%s was sent to the other processor, with an unknown attempt at this one", p.ID)
	case ok && pin.requestedAt != p.RequestedAt:
		s.t.Errorf("%s was sent again under another requestedAt", p.ID)
	case !ok && unknown:
		pin.at, pin.requestedAt = f, p.RequestedAt
		s.pinned[p.ID] = pin
	}
}

// TestEveryOutcomeOfTheTable: each row, at the first attempt of some payments, written or not where that is unknown.
func TestEveryOutcomeOfTheTable(t *testing.T) {
	w := newTestWorld(t)
	b, strict := newBooks(w.def, w.fall), newStrictBook(t)
	const each = 4
	for _, f := range []*fakeProcessor{w.def, w.fall} {
		f.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
			n := numberOf(p.ID)
			r := replies[n/each]
			first := w.def.attempts(p.ID)+w.fall.attempts(p.ID) == 1
			strict.sees(f, p, first && r.unknown)
			if !first {
				return false
			}
			if r.unknown && n%2 == 0 {
				f.bookOnce(p)
			}
			r.answer(rw)
			return true
		})
	}
	g := w.start(t, "PATIENCE", "0s")
	for n := range uint64(each * len(replies)) {
		g.accepted(nthID(n), string(nthAmount(n).appendDecimal(nil)))
		b.promise(nthID(n), nthAmount(n))
	}
	inTheEnd(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	b.audit(t, nil, map[string]asking{"one": g.get})
}

// numberOf is the n of nthID.
func numberOf(id string) int {
	var n int
	fmt.Sscanf(id[len(id)-12:], "%x", &n)
	return n
}

// TestUnknownThenAnythingThenTheFirstOneLands: after an unknown attempt come refusals, 4xx, nonsense and silence, in any order; then
// the first attempt is written after all. Nothing of that moves the payment, and it is settled as first sent. Meanwhile all other payments flow.
func TestUnknownThenAnythingThenTheFirstOneLands(t *testing.T) {
	w := newTestWorld(t)
	b, strict := newBooks(w.def, w.fall), newStrictBook(t)
	const pinned, tries = 12, 3
	first := make(map[string]fakePayment)
	var mu sync.Mutex
	then := append([]reply{{"400", true, replyOf(400, "never")}, {"422, and not found", true, replyOf(422, "")}}, replies...)
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
		n := numberOf(p.ID)
		if n >= pinned {
			return false
		}
		strict.sees(w.def, p, true)
		mu.Lock()
		defer mu.Unlock()
		if _, ok := first[p.ID]; !ok {
			first[p.ID] = p
			hijacked(rw)
			return true
		}
		if _, landed := w.def.has(p.ID); landed {
			return false
		}
		then[rand.IntN(len(then))].answer(rw)
		return true
	})
	w.fall.behave(func(_ http.ResponseWriter, p fakePayment, _ func()) bool { strict.sees(w.fall, p, false); return false })
	g := w.start(t, "PATIENCE", "1h") // or one that had its first attempt refused would go to the other processor
	posted := uint64(0)
	post := func() {
		g.accepted(nthID(posted), string(nthAmount(posted).appendDecimal(nil)))
		b.promise(nthID(posted), nthAmount(posted))
		posted++
	}
	for posted < pinned {
		post()
	}
	inTheEnd(t, "all of them were tried again", func() bool {
		post() // one that is paid opens the processor again, which the refusals close
		for n := range uint64(pinned) {
			if w.def.attempts(nthID(n).String()) < tries {
				return false
			}
		}
		return true
	})
	inTheEnd(t, "all others are paid and settled", func() bool { return g.ledger.pending.Load() == pinned })
	for n := range uint64(pinned) {
		if s := g.state(nthID(n)); s != "pinned default" {
			t.Errorf("payment %d is %s", n, s)
		}
	}
	mu.Lock()
	for _, p := range first {
		w.def.bookOnce(p)
	}
	mu.Unlock()
	inTheEnd(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	b.audit(t, nil, map[string]asking{"one": g.get})
}

// processorTrouble is how both processors behave for a while.
type processorTrouble struct {
	name     string
	settings []string
	// answer is true when it has answered; unknown is whether the attempt's outcome cannot be known by that.
	answer func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment) (answered, unknown bool)
}

// dropped loses a part of the answers, after the payment was written.
func dropped(percent int) func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment) (bool, bool) {
	return func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment) (bool, bool) {
		if rand.IntN(100) >= percent {
			return false, false
		}
		f.bookOnce(p)
		hijacked(rw)
		return true, true
	}
}

func always(r func(http.ResponseWriter), unknown bool) func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment) (bool, bool) {
	return func(_ *fakeProcessor, rw http.ResponseWriter, _ fakePayment) (bool, bool) {
		r(rw)
		return true, unknown
	}
}

var processorTroubles = []processorTrouble{
	{"1 % of the answers dropped", nil, dropped(1)},
	{"5 % of the answers dropped", nil, dropped(5)},
	{"50 % of the answers dropped", nil, dropped(50)},
	{"a gateway that answers 403", nil, always(replyOf(403, "<html>forbidden</html>"), false)},
	{"a gateway that answers 200 with HTML", nil, always(replyOf(200, "<html>we are back soon</html>"), true)},
	{"a gateway that answers 502", nil, always(replyOf(502, "bad gateway"), true)},
	{"both failing", nil, always(replyOf(500, ""), false)},
	{"a storm of 429", nil, func(_ *fakeProcessor, rw http.ResponseWriter, _ fakePayment) (bool, bool) {
		if rand.IntN(10) < 7 {
			rw.WriteHeader(429)
			return true, false
		}
		return false, false
	}},
	{"answers torn anywhere", nil, func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment) (bool, bool) {
		const whole = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 44\r\n\r\n{\"message\":\"payment processed successfully\"}"
		if rand.IntN(2) == 0 {
			f.bookOnce(p)
		}
		raw(whole[:rand.IntN(len(whole))], rand.IntN(2) == 0)(rw)
		return true, true
	}},
	{"answers after the client has given up", []string{"SEND_TIMEOUT", "100ms"}, func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment) (bool, bool) {
		<-time.After(200 * time.Millisecond)
		f.bookOnce(p)
		rw.WriteHeader(200)
		return true, true
	}},
}

// TestProcessorInTrouble: both processors are in the same trouble for a while, under load. Whatever it is, nothing is lost, nothing is
// paid twice, and no payment leaves the processor that may have it.
func TestProcessorInTrouble(t *testing.T) {
	for _, trouble := range processorTroubles {
		t.Run(trouble.name, func(t *testing.T) {
			w := newTestWorld(t)
			b, strict := newBooks(w.def, w.fall), newStrictBook(t)
			behave := func(f *fakeProcessor, inTrouble bool) {
				f.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
					if !inTrouble {
						strict.sees(f, p, false)
						return false
					}
					// What it will come to is known only when it is answered; until then nobody else may send it.
					answered, unknown := trouble.answer(f, rw, p)
					strict.sees(f, p, unknown)
					return answered
				})
			}
			behave(w.def, true)
			behave(w.fall, true)
			g := w.start(t, append([]string{"PATIENCE", "0s"}, trouble.settings...)...)
			const payments = 150
			for n := range uint64(payments) {
				g.accepted(nthID(n), string(nthAmount(n).appendDecimal(nil)))
				b.promise(nthID(n), nthAmount(n))
			}
			inTheEnd(t, "the trouble is met", func() bool { return attemptsOf(w.def)+attemptsOf(w.fall) >= 12 })
			behave(w.def, false)
			behave(w.fall, false)
			inTheEnd(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
			b.audit(t, nil, map[string]asking{"one": g.get})
		})
	}
}

// attemptsOf is how many payments a processor was sent.
func attemptsOf(f *fakeProcessor) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, tries := range f.posts {
		n += tries
	}
	return n
}

// TestProcessorThatRefusesConnections: nobody listens there, and everything goes to the other one.
func TestProcessorThatRefusesConnections(t *testing.T) {
	w := newTestWorld(t)
	b := newBooks(w.def, w.fall)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	g := w.start(t, "PATIENCE", "0s", "PROCESSOR_DEFAULT_URL", "http://"+ln.Addr().String())
	for n := range uint64(50) {
		g.accepted(nthID(n), string(nthAmount(n).appendDecimal(nil)))
		b.promise(nthID(n), nthAmount(n))
	}
	inTheEnd(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	if n := w.fall.count(); n != 50 {
		t.Errorf("%d are at the one that listens", n)
	}
	b.audit(t, nil, map[string]asking{"one": g.get})
}
