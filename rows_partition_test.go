package main

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestRedisOutOfReachOfOneInstance: the other one works on, with the same ids at both, and no id is paid twice.
func TestRedisOutOfReachOfOneInstance(t *testing.T) {
	w, redis := newSharedWorld(t)
	proxy := newCutProxy(t, strings.TrimPrefix(redis.url(), "redis://"))
	w.env["SEND_TIMEOUT"] = patientSend
	s := &storeScene{t: t, w: w, redis: redis, proxy: proxy, books: newBooks(w.def, w.fall)}
	s.a = w.start(t, "INSTANCE", "a")
	s.b = w.start(t, "INSTANCE", "b", "REDIS_URL", "redis://"+proxy.addr())
	s.postAtBoth(0, 20)
	s.settled()
	proxy.block()
	for _, g := range []*testGalo{s.a, s.b} { // the other one, too: it cannot know what this one has paid
		inTheEnd(t, "there is no summary", g.refusesSummaries)
	}
	s.postAtBoth(10, 60)
	for n := uint64(100); n < 120; n++ { // these reach only the one that can pay nothing
		s.b.accepted(nthID(n), "1.00")
		s.books.promise(nthID(n), 100)
	}
	inTheEnd(t, "the other one pays", func() bool { return s.a.ledger.pending.Load() == 0 && w.def.count()+w.fall.count() == 60 })
	for n := uint64(100); n < 120; n++ {
		if state := s.b.state(nthID(n)); state != "accepted" {
			t.Errorf("payment %d is %s, without a claim", n, state)
		}
	}
	proxy.heal()
	s.settled()
	for _, g := range []*testGalo{s.a, s.b} {
		inTheEnd(t, "the summary is whole", func() bool { _, body := g.get("/payments-summary"); return body == s.books.sum() })
	}
	for id := range s.books.promised {
		if n := w.def.attempts(id.String()) + w.fall.attempts(id.String()); n != 1 {
			t.Errorf("%s was sent %d times", id, n)
		}
	}
	s.books.audit(t, nil, map[string]asking{"a": s.a.get, "b": s.b.get})
}

// hearEachOther waits until a question of each reaches the other: for one that nobody knows, both have to be heard.
func hearEachOther(t *testing.T, a, b *testGalo) {
	t.Helper()
	a.becomes(nthID(1<<40), "404")
	b.becomes(nthID(1<<40), "404")
}

// TestNATSKilledAndStartedAgain: nobody waits for it, and when it is back both are heard again.
func TestNATSKilledAndStartedAgain(t *testing.T) {
	w := newTestWorld(t)
	w.env["REDIS_URL"] = startRedis(t).url()
	nats := startNATS(t, -1)
	w.env["NATS_URL"] = nats.ClientURL()
	s := &storeScene{t: t, w: w, books: newBooks(w.def, w.fall)}
	s.a, s.b = w.startTwo(t)
	hearEachOther(t, s.a, s.b)
	s.postAtBoth(0, 20)
	port := nats.Addr().(*net.TCPAddr).Port
	stopNATS(nats)
	inTheEnd(t, "both notice", func() bool { return !s.a.bus.connected() && !s.b.bus.connected() })
	s.goesOnWithoutEars(20, 40)
	startNATS(t, port)
	hearEachOther(t, s.a, s.b)
	s.postAtBoth(40, 60)
	s.settled()
	s.books.audit(t, nil, map[string]asking{"a": s.a.get, "b": s.b.get})
}

// TestNATSOutOfReachOfOneInstance: each goes on with its own findings.
func TestNATSOutOfReachOfOneInstance(t *testing.T) {
	w, _ := newSharedWorld(t)
	proxy := newCutProxy(t, strings.TrimPrefix(w.env["NATS_URL"], "nats://"))
	s := &storeScene{t: t, w: w, books: newBooks(w.def, w.fall)}
	s.a = w.start(t, "INSTANCE", "a", "ROLE", "leader")
	s.b = w.start(t, "INSTANCE", "b", "ROLE", "follower", "NATS_URL", "nats://"+proxy.addr())
	hearEachOther(t, s.a, s.b)
	proxy.block()
	inTheEnd(t, "it notices", func() bool { return !s.b.bus.connected() })
	s.goesOnWithoutEars(0, 20)
	proxy.heal()
	hearEachOther(t, s.a, s.b)
	s.postAtBoth(20, 40)
	s.settled()
	s.books.audit(t, nil, map[string]asking{"a": s.a.get, "b": s.b.get})
}

// goesOnWithoutEars has payments paid while the instances do not hear each other, and while the default processor refuses: what each
// finds out by itself is enough.
func (s *storeScene) goesOnWithoutEars(from, to uint64) {
	s.t.Helper()
	s.w.def.behave(func(rw http.ResponseWriter, _ fakePayment, _ func()) bool { rw.WriteHeader(500); return true })
	s.postAtBoth(from, to)
	s.settled()
	for n := from; n < to; n++ {
		if _, ok := s.w.fall.has(nthID(n).String()); !ok {
			s.t.Errorf("payment %d is not at the processor that works", n)
		}
	}
	s.w.def.behave(nil)
	if got := s.a.summary(""); got != s.books.sum() {
		s.t.Errorf("summary %s, want %s", got, s.books.sum())
	}
}
