package main

import (
	"net/http"
	"sync"
	"testing"
)

// purge forgets settled history through one of the instances, and waits until the other has heard of it.
func (s *storeScene) purge() {
	s.t.Helper()
	if status, body, _ := s.a.do("POST", "/purge-payments", ""); status != http.StatusOK {
		s.t.Fatalf("purge: %d %s", status, body)
	}
	inTheEnd(s.t, "the other one follows", func() bool { return s.b.settler.mark() == s.a.settler.mark() })
}

func (s *storeScene) wipe() { do(s.t, rawConn(s.t, s.redis.url()), "FLUSHALL") }

// expectEverywhere compares the summary at both instances.
func (s *storeScene) expectEverywhere(when, want string) {
	s.t.Helper()
	for _, g := range []*testGalo{s.a, s.b} {
		if got := g.summary(""); got != want {
			s.t.Errorf("%s: summary %s, want %s", when, got, want)
		}
	}
}

// sentOnce asserts that no payment was sent twice.
func (s *storeScene) sentOnce() {
	s.t.Helper()
	for id := range s.books.promised {
		if n := s.w.def.attempts(id.String()) + s.w.fall.attempts(id.String()); n != 1 {
			s.t.Errorf("%s was sent %d times", id, n)
		}
	}
}

func newPurgeScene(t *testing.T) *storeScene {
	w, redis := newSharedWorld(t)
	s := &storeScene{t: t, w: w, redis: redis, books: newBooks(w.def, w.fall)}
	s.a, s.b = w.startTwo(t, "SEND_TIMEOUT", patientSend)
	return s
}

// TestPurgeUnderLoadThenRedisIsWiped: what was settled stays gone, what was on its way is paid and counted, and ids that were purged
// are never paid again, whatever instance they come to.
func TestPurgeUnderLoadThenRedisIsWiped(t *testing.T) {
	s := newPurgeScene(t)
	const history, onTheWay, after = 60, 60 + firstWindow, 120 // the ends of three parts
	s.postAtBoth(0, history)
	s.settled()
	gate := make(chan struct{})
	var once sync.Once
	open := func() { once.Do(func() { close(gate) }) }
	t.Cleanup(open)
	s.w.def.behave(func(http.ResponseWriter, fakePayment, func()) bool { <-gate; return false })
	s.postAtBoth(history, onTheWay)
	inTheEnd(t, "they are on their way", func() bool { return attemptsOf(s.w.def) == onTheWay })
	s.purge()
	s.expectEverywhere("while some are on their way", wantSummary(0, "0.00", 0, "0.00"))
	open()
	s.postAtBoth(onTheWay, after)
	s.settled()
	s.expectEverywhere("when all are paid", s.books.sumFrom(history))
	s.wipe()
	s.expectEverywhere("when Redis was wiped", s.books.sumFrom(history))
	s.postAtBoth(0, after) // all of it again
	s.settled()
	s.sentOnce()
	s.expectEverywhere("when all have come again", s.books.sumFrom(history))
	s.b.stopAll()
	s.b = s.w.start(t, "INSTANCE", "b", "ROLE", "follower", "SEND_TIMEOUT", patientSend)
	s.wipe()
	s.expectEverywhere("after a restart and another wipe", s.books.sumFrom(history))
}

// TestPurgeInTheMiddleOfLoad: wherever it cuts, it cuts once. What both instances sum up afterwards stays the same when Redis is wiped,
// and nothing is paid twice.
func TestPurgeInTheMiddleOfLoad(t *testing.T) {
	s := newPurgeScene(t)
	const payments = 300
	purged := make(chan struct{})
	go func() {
		defer close(purged)
		for nothing := wantSummary(0, "0.00", 0, "0.00"); ; {
			if status, body := s.a.get("/payments-summary"); status == http.StatusOK && body != nothing {
				break
			}
		}
		if res, err := http.Post(s.a.url+"/purge-payments", "", nil); err != nil {
			t.Error(err)
		} else if res.Body.Close(); res.StatusCode != http.StatusOK {
			t.Errorf("purge: %d", res.StatusCode)
		}
	}()
	s.postAtBoth(0, payments)
	<-purged
	s.settled()
	cut := s.a.summary("")
	if cut == s.books.sum() {
		t.Error("nothing was purged")
	}
	s.expectEverywhere("when all are paid", cut)
	s.wipe()
	s.expectEverywhere("when Redis was wiped", cut)
	s.postAtBoth(0, payments)
	s.settled()
	s.sentOnce()
	s.expectEverywhere("when all have come again", cut)
}

// TestInstanceThatWasDownAtThePurgeComesBack: its history stays gone, what it had not settled is paid and counted.
func TestInstanceThatWasDownAtThePurgeComesBack(t *testing.T) {
	s := newPurgeScene(t)
	s.postAtBoth(0, 20)
	for n := uint64(20); n < 40; n++ {
		s.b.accepted(nthID(n), string(nthAmount(n).appendDecimal(nil)))
		s.books.promise(nthID(n), nthAmount(n))
	}
	s.settled()
	s.w.def.behave(refusing)
	s.w.fall.behave(refusing)
	for n := uint64(40); n < 50; n++ {
		s.b.accepted(nthID(n), string(nthAmount(n).appendDecimal(nil)))
		s.books.promise(nthID(n), nthAmount(n))
	}
	s.b.stopAll()
	if status, body, _ := s.a.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Fatalf("purge: %d %s", status, body)
	}
	s.w.def.behave(nil)
	s.w.fall.behave(nil)
	s.b = s.w.start(t, "INSTANCE", "b", "ROLE", "follower", "SEND_TIMEOUT", patientSend)
	s.settled()
	s.expectEverywhere("when it is back", s.books.sumFrom(40))
	s.wipe()
	s.expectEverywhere("when Redis was wiped", s.books.sumFrom(40))
	s.postAtBoth(0, 50)
	s.settled()
	s.expectEverywhere("when all have come again", s.books.sumFrom(40))
	for n := range uint64(40) {
		if tries := attemptsAt(s.w, nthID(n)); tries != 1 {
			t.Errorf("payment %d was sent %d times", n, tries)
		}
	}
}

func attemptsAt(w *testWorld, id paymentID) int {
	return w.def.attempts(id.String()) + w.fall.attempts(id.String())
}
