package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// newSharedWorld is a world with a real Redis and NATS, for instances that share DATA_DIR.
func newSharedWorld(t *testing.T) (*testWorld, *redisServer) {
	w := newTestWorld(t)
	redis := startRedis(t)
	w.env["REDIS_URL"] = redis.url()
	w.env["NATS_URL"] = startNATS(t, -1).ClientURL()
	return w, redis
}

func (w *testWorld) startTwo(t *testing.T, settings ...string) (a, b *testGalo) {
	a = w.start(t, append([]string{"INSTANCE", "a", "ROLE", "leader"}, settings...)...)
	b = w.start(t, append([]string{"INSTANCE", "b", "ROLE", "follower"}, settings...)...)
	return a, b
}

// TestSameIDAtBothInstancesIsPaidOnce posts every id to both at once.
func TestSameIDAtBothInstancesIsPaidOnce(t *testing.T) {
	w, _ := newSharedWorld(t)
	a, b := w.startTwo(t)
	const n = 300
	var wg sync.WaitGroup
	for _, g := range []*testGalo{a, b, a, b} {
		wg.Go(func() {
			for i := range uint64(n) {
				g.accepted(nthID(i), "1.00")
			}
		})
	}
	wg.Wait()
	eventually(t, "nothing is pending", func() bool { return a.ledger.pending.Load() == 0 && b.ledger.pending.Load() == 0 })
	for i := range uint64(n) {
		id := nthID(i).String()
		if w.def.attempts(id)+w.fall.attempts(id) != 1 {
			t.Errorf("%s was sent %d + %d times", id, w.def.attempts(id), w.fall.attempts(id))
		}
	}
	want := wantSummary(w.def.count(), fmt.Sprintf("%d.00", w.def.count()), w.fall.count(), fmt.Sprintf("%d.00", w.fall.count()))
	for _, g := range []*testGalo{a, b} {
		if got := g.summary(""); got != want {
			t.Errorf("summary %s, want %s", got, want)
		}
	}
}

// TestAnyInstanceKnowsRightAfterThe202 reads each payment through the instance that did not accept it.
func TestAnyInstanceKnowsRightAfterThe202(t *testing.T) {
	w, _ := newSharedWorld(t)
	a, b := w.startTwo(t, "LINGER", "100ms")
	b.becomes(nthID(1), "404") // once both are up and hear each other
	for i := range uint64(50) {
		a.accepted(nthID(i), "1.00")
		if s := b.state(nthID(i)); strings.HasPrefix(s, "4") || strings.HasPrefix(s, "5") {
			t.Fatalf("payment %d: %s", i, s)
		}
	}
}

func TestUnknownWhileAnInstanceIsSilentIsNo404(t *testing.T) {
	w, _ := newSharedWorld(t)
	a, b := w.startTwo(t)
	b.becomes(nthID(1), "404")
	a.bus.conn.Close() // a lives, and holds its journal, but cannot be asked
	if s := b.state(nthID(1)); s != "503" {
		t.Errorf("%s, want 503", s)
	}
}

// TestTwoAmountsAtTwoInstancesAreAConflict: found out late, and shown by both.
func TestTwoAmountsAtTwoInstancesAreAConflict(t *testing.T) {
	w, _ := newSharedWorld(t)
	a, b := w.startTwo(t)
	a.accepted(nthID(1), "1.00")
	a.becomes(nthID(1), "settled default")
	b.accepted(nthID(1), "2.00")
	for _, g := range []*testGalo{a, b} {
		eventually(t, "the conflict is shown", func() bool {
			_, body, _ := g.do("GET", "/payments/"+nthID(1).String(), "")
			return strings.Contains(body, `"amount":1.00`) && strings.Contains(body, `"conflict":{"amount":2.00}`)
		})
	}
	if n := w.def.attempts(nthID(1).String()); n != 1 {
		t.Errorf("%d attempts", n)
	}
}

func TestPurgeReachesTheOtherInstance(t *testing.T) {
	w, _ := newSharedWorld(t)
	a, b := w.startTwo(t)
	for i := range uint64(20) {
		a.accepted(nthID(i), "1.00")
		b.accepted(nthID(100+i), "1.00")
	}
	eventually(t, "all are settled", func() bool { return a.ledger.pending.Load()+b.ledger.pending.Load() == 0 })
	if status, body, _ := a.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	b.accepted(nthID(200), "3.00")
	b.becomes(nthID(200), "settled default")
	for _, g := range []*testGalo{a, b} {
		if got := g.summary(""); got != wantSummary(1, "3.00", 0, "0.00") {
			t.Errorf("summary %s", got)
		}
	}
}

// TestPurgeHoldsForAJournalThatWasAway: its owner was down at the purge, and Redis is wiped before
// somebody else takes the journal over.
func TestPurgeHoldsForAJournalThatWasAway(t *testing.T) {
	w, redis := newSharedWorld(t)
	a, b := w.startTwo(t)
	b.accepted(nthID(1), "1.00")
	b.becomes(nthID(1), "settled default")
	b.stopAll()
	if status, body, _ := a.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	a.accepted(nthID(2), "2.00")
	a.becomes(nthID(2), "settled default")
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	if got := a.summary(""); got != wantSummary(1, "2.00", 0, "0.00") {
		t.Errorf("summary %s", got)
	}
}

// TestMoreIsFoundThanMayBePending: a journal holds more than MAX_PENDING now allows, and Redis begins a new life. All of it
// is paid.
func TestMoreIsFoundThanMayBePending(t *testing.T) {
	w, redis := newSharedWorld(t)
	failing := func(rw http.ResponseWriter, _ fakePayment, _ func()) bool { rw.WriteHeader(500); return true }
	w.def.behave(failing)
	w.fall.behave(failing)
	g := w.start(t)
	const n = 500
	for i := range uint64(n) {
		g.accepted(nthID(i), "1.00")
	}
	g.stopAll()
	g = w.start(t, "MAX_PENDING", "16", "WORKERS", "1")
	if status := g.post(nthID(n), "1.00"); status != http.StatusServiceUnavailable {
		t.Errorf("one more was answered %d", status)
	}
	if why := g.ready.why(); why == "" {
		t.Error("ready, though it accepts nothing")
	}
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	w.def.behave(nil)
	eventually(t, "all are paid", func() bool { return w.def.count() == n })
	eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	eventually(t, "the summary is full", func() bool { return g.summary("") == wantSummary(n, "500.00", 0, "0.00") })
}

// TestPurgeDoesNotHideWhatWasPaid: an id was accepted by both instances, and paid through one of them; a purge forgets that before
// the other one has claimed it. It is looked up, and not paid at the other processor.
func TestPurgeDoesNotHideWhatWasPaid(t *testing.T) {
	w, _ := newSharedWorld(t)
	a := w.start(t, "INSTANCE", "a")
	id := nthID(1)
	a.accepted(id, "1.00")
	a.becomes(id, "settled default")
	b := w.start(t, "INSTANCE", "b", "PATIENCE", "0s")
	r, _ := b.ledger.accept(&id, 100) // b has it in its journal, and no worker of b has seen it
	if status, body, _ := a.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	eventually(t, "b follows the purge", func() bool { return b.settler.mark() == a.settler.mark() })
	w.def.behave(func(rw http.ResponseWriter, _ fakePayment, _ func()) bool { rw.WriteHeader(500); return true })
	b.dispatcher.push(r)
	eventually(t, "nothing is pending at b", func() bool { return b.ledger.pending.Load() == 0 })
	if n := w.fall.attempts(id.String()); n != 0 {
		t.Errorf("%d attempts at the fallback", n)
	}
}

// TestPurgedIDStaysTaken: it was paid, so it is never paid again, through whatever instance it comes, and although the processor
// that has it fails: neither after the purge nor after Redis was wiped and filled again.
func TestPurgedIDStaysTaken(t *testing.T) {
	w, redis := newSharedWorld(t)
	a, b := w.startTwo(t, "PATIENCE", "0s")
	paid, rejected := nthID(1), nthID(2)
	a.accepted(paid, "1.00")
	a.becomes(paid, "settled default")
	w.def.behave(func(rw http.ResponseWriter, _ fakePayment, _ func()) bool { rw.WriteHeader(400); return true })
	a.accepted(rejected, "1.00")
	a.becomes(rejected, "rejected")
	if status, body, _ := a.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	eventually(t, "b follows the purge", func() bool { return b.settler.mark() == a.settler.mark() })
	w.def.behave(func(rw http.ResponseWriter, _ fakePayment, _ func()) bool { rw.WriteHeader(500); return true })
	comesAgain := func(when string) {
		t.Helper()
		for _, id := range []paymentID{paid, rejected} {
			if s := a.state(id); s != "404" {
				t.Errorf("%s: %s", when, s)
			}
			a.accepted(id, "1.00")
			b.accepted(id, "1.00")
		}
		eventually(t, "nothing is pending", func() bool { return a.ledger.pending.Load()+b.ledger.pending.Load() == 0 })
		for _, id := range []paymentID{paid, rejected} {
			if n := w.fall.attempts(id.String()); n != 0 {
				t.Errorf("%s: %d attempts at the other processor", when, n)
			}
		}
		eventually(t, "there is an empty summary", func() bool { return a.summary("") == wantSummary(0, "0.00", 0, "0.00") })
	}
	comesAgain("after the purge")
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	b.stopAll()
	b = w.start(t, "INSTANCE", "c", "PATIENCE", "0s") // knows nothing of either id but what Redis knows
	eventually(t, "the store is ready", func() bool { return a.life.present() != "" && a.life.present() == b.life.present() })
	comesAgain("after Redis was wiped")
}

// TestSummaryIsRefusedWhileNothingCanBeSettled: Redis answers and takes nothing, so it lacks what was paid.
func TestSummaryIsRefusedWhileNothingCanBeSettled(t *testing.T) {
	w, redis := newSharedWorld(t)
	answer := make(chan struct{})
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		<-answer
		return false
	})
	g, other := w.startTwo(t)
	g.accepted(nthID(1), "1.00")
	eventually(t, "it is on its way", func() bool { return w.def.attempts(nthID(1).String()) == 1 })
	conn := rawConn(t, redis.url())
	do(t, conn, "CONFIG", "SET", "maxmemory", "1")
	close(answer)
	for _, one := range []*testGalo{g, other} {
		eventually(t, "summaries are refused", func() bool { status, _, _ := one.do("GET", "/payments-summary", ""); return status == 503 })
	}
	g.accepted(nthID(2), "1.00")
	do(t, conn, "CONFIG", "SET", "maxmemory", "0")
	g.becomes(nthID(1), "settled default")
	g.becomes(nthID(2), "settled default")
	for _, one := range []*testGalo{g, other} {
		eventually(t, "summaries are whole", func() bool { return one.summary("") == wantSummary(2, "2.00", 0, "0.00") })
	}
}

// TestClaimThatComesBackIsTakenUp: a slot had lost its claim, and an older copy of Redis says that it is the owner. All others
// have lost theirs to it by that, so it has to pay.
func TestClaimThatComesBackIsTakenUp(t *testing.T) {
	w, _ := newSharedWorld(t)
	g := w.start(t)
	token, ok := g.life.await(t.Context())
	if !ok {
		t.Fatal("no life")
	}
	id := nthID(1)
	r, _ := g.ledger.accept(&id, 100)
	v, _ := g.ledger.read(r)
	v = must(t)(g.ledger.become(v, slotElsewhere))
	var answers [1]claimAnswer
	if err := g.store.claim(t.Context(), token, false, []claim{g.ledger.claimOf(v)}, answers[:]); err != nil || answers[0].kind != claimWon {
		t.Fatalf("%+v, %v", answers, err)
	}
	g.elsewhere.add(r)
	g.becomes(id, "settled default")
}

// TestProgressIsOnlyOfJournalsThatWereReplayed: else Redis would say that it has what it lacks.
func TestProgressIsOnlyOfJournalsThatWereReplayed(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	s := newSettler(l, nil, newLifeWatch(), 0, newMetrics(), quietLog())
	must(t)(l.become(accept(t, l, 1, 1), slotSettled))
	if list := s.progress("new"); len(list) != 0 {
		t.Errorf("%v", list)
	}
	l.active.replayedIn = "new"
	if list := s.progress("new"); len(list) != 1 || list[0].low != 1 {
		t.Errorf("%v", list)
	}
}

// TestWipedRedisIsFilledAgain: no summary is given before every journal has reported, and then everything is there.
func TestWipedRedisIsFilledAgain(t *testing.T) {
	w, redis := newSharedWorld(t)
	a, b := w.startTwo(t)
	for i := range uint64(50) {
		a.accepted(nthID(i), "1.00")
		b.accepted(nthID(100+i), "1.00")
	}
	eventually(t, "all are settled", func() bool { return a.ledger.pending.Load()+b.ledger.pending.Load() == 0 })
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	seen := make(map[string]bool)
	eventually(t, "a full summary at both", func() bool {
		full := 0
		for _, g := range []*testGalo{a, b} {
			if status, body, _ := g.do("GET", "/payments-summary", ""); status == http.StatusOK {
				seen[body] = true
				full++
			}
		}
		return full == 2
	})
	if len(seen) != 1 || !seen[wantSummary(100, "100.00", 0, "0.00")] {
		t.Errorf("summaries seen: %v", seen)
	}
	a.accepted(nthID(120), "1.00") // b has paid it
	eventually(t, "nothing is pending", func() bool { return a.ledger.pending.Load() == 0 })
	if n := w.def.attempts(nthID(120).String()); n != 1 {
		t.Errorf("%d attempts", n)
	}
}

// TestIntakeGoesOnWithoutRedis: nothing is sent unclaimed, nothing is lost.
func TestIntakeGoesOnWithoutRedis(t *testing.T) {
	w, redis := newSharedWorld(t)
	a, _ := w.startTwo(t)
	a.accepted(nthID(1), "1.00")
	a.becomes(nthID(1), "settled default")
	redis.kill()
	eventually(t, "the summary is refused", func() bool {
		status, _, header := a.do("GET", "/payments-summary", "")
		return status == http.StatusServiceUnavailable && header.Get("Retry-After") != ""
	})
	for i := range uint64(20) {
		a.accepted(nthID(10+i), "1.00")
	}
	if s := a.state(nthID(15)); s != "accepted" {
		t.Errorf("state %s", s)
	}
	if n := w.def.count() + w.fall.count(); n != 1 {
		t.Errorf("%d were paid without a claim", n-1)
	}
	redis.start()
	eventually(t, "all are paid", func() bool { return w.def.count() == 21 })
	eventually(t, "the summary is full", func() bool { return a.summary("") == wantSummary(21, "21.00", 0, "0.00") })
}

// TestOrphanedJournalIsFinishedByTheOther: an instance that is gone for good leaves nothing unpaid.
func TestOrphanedJournalIsFinishedByTheOther(t *testing.T) {
	w, _ := newSharedWorld(t)
	a, b := w.startTwo(t, "PATIENCE", "1h")
	failing := func(rw http.ResponseWriter, _ fakePayment, _ func()) bool { rw.WriteHeader(500); return true }
	w.def.behave(failing)
	w.fall.behave(failing)
	for i := range uint64(20) {
		a.accepted(nthID(i), "1.00")
	}
	a.stopAll()
	w.def.behave(nil)
	eventually(t, "all are paid", func() bool { return w.def.count() == 20 })
	eventually(t, "all are settled", func() bool { return b.ledger.pending.Load() == 0 })
	if got := b.summary(""); got != wantSummary(20, "20.00", 0, "0.00") {
		t.Errorf("summary %s", got)
	}
}

// TestOneHealthCallPerWindow: leader, follower and restarts share one window per processor.
func TestOneHealthCallPerWindow(t *testing.T) {
	w, _ := newSharedWorld(t)
	var mu sync.Mutex
	var calls []time.Time
	w.def.onHealth = func() {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, time.Now())
	}
	a, b := w.startTwo(t)
	eventually(t, "a first call", func() bool { mu.Lock(); defer mu.Unlock(); return len(calls) >= 1 })
	a.stopAll()
	a = w.start(t, "INSTANCE", "a", "ROLE", "leader")
	eventually(t, "a second call", func() bool { mu.Lock(); defer mu.Unlock(); return len(calls) >= 2 })
	a.stopAll()
	b.stopAll()
	for i := 1; i < len(calls); i++ {
		if gap := calls[i].Sub(calls[i-1]); gap < 5*time.Second {
			t.Errorf("%s between two calls", gap)
		}
	}
}
