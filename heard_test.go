package main

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// TestSummaryIsRefusedWhileAJournalIsSilent: what its owner has last said, and when, decides.
func TestSummaryIsRefusedWhileAJournalIsSilent(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		ask := func() error {
			_, err := s.summary(t.Context(), math.MinInt64, math.MaxInt64, []string{"j1", "j2"})
			return err
		}
		heard := func(word string) {
			t.Helper()
			if _, err := conn.Do("HSET", keyHeard, "j2", word); err != nil {
				t.Fatal(err)
			}
		}
		ago := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(-d).UnixMilli(), 10) }
		if _, err := conn.Do("HSET", keyHeard, "j1", heardLeft); err != nil { // so that it does not depend on this test's pace
			t.Fatal(err)
		}

		if err := ask(); err != nil {
			t.Errorf("a journal that never reported has paid nothing: %v", err)
		}
		for word, silent := range map[string]bool{
			heardLeft: false, ago(-time.Minute): true, ago(heardLife + time.Minute): true, "1": true, strconv.FormatInt(math.MaxInt64, 10): true,
		} {
			heard(word)
			if err := ask(); (err != nil) != silent {
				t.Errorf("heard %q: %v", word, err)
			}
		}
		heard("yesterday")
		if ask() == nil {
			t.Error("a word that nobody understands was taken for one")
		}

		heard(ago(time.Minute))
		if _, err := s.report(t.Context(), token, "j2", false, []string{"j2"}); err != nil {
			t.Fatal(err)
		}
		if ask() == nil {
			t.Error("it reported that it cannot settle, and was heard as if it could")
		}
		before := time.Now().UnixMilli()
		if _, err := s.report(t.Context(), token, "j2", true, []string{"j2"}); err != nil {
			t.Fatal(err)
		}
		if at, err := redis.Int64(conn.Do("HGET", keyHeard, "j2")); err != nil || at < before-1000 || at > time.Now().UnixMilli()+1000 {
			t.Errorf("heard at %d, %d before, %v", at, before, err)
		}
		if err := s.leave(t.Context(), token, []string{"j2"}); err != nil {
			t.Fatal(err)
		}
		if err := ask(); err != nil {
			t.Errorf("it left nothing behind: %v", err)
		}
		for _, command := range []string{"HGET", "HDEL"} { // what it said when it left, and nothing at all
			do(t, conn, command, keyHeard, "j2")
			if _, err := s.report(t.Context(), token, "j2", false, []string{"j2"}); err != nil {
				t.Fatal(err)
			}
			if ask() == nil {
				t.Errorf("after %s: it reported that it cannot settle, and nobody waits for it", command)
			}
		}
	})
}

// TestBeatSaysWhatAReportSays: of all journals at once, in a life that is ready and under the mark in force.
func TestBeatSaysWhatAReportSays(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		heard := func(journal string) int64 {
			t.Helper()
			at, err := redis.Int64(conn.Do("HGET", keyHeard, journal))
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		before := time.Now().UnixMilli()
		do(t, conn, "HSET", keyHeard, "j1", "1", "j2", "1")
		do(t, conn, "DEL", keyHere)
		if err := s.beat(t.Context(), token, 0, true, []string{"j1", "j2"}); err != nil {
			t.Fatal(err)
		}
		for _, journal := range []string{"j1", "j2"} {
			if at := heard(journal); at < before-1000 || at > time.Now().UnixMilli()+1000 {
				t.Errorf("%s was heard at %d, and it is %d", journal, at, before)
			}
		}
		if there, err := redis.Int(conn.Do("ZCARD", keyHere)); err != nil || there != 1 || s.instances() != 1 {
			t.Errorf("%d processes are there, and it knows of %d: %v", there, s.instances(), err)
		}
		do(t, conn, "HSET", keyHeard, "j1", "1", "j2", heardLeft)
		if err := s.beat(t.Context(), token, 0, false, []string{"j1", "j2"}); err != nil {
			t.Fatal(err)
		}
		if first, second := heard("j1"), heard("j2"); first != 1 || second != 0 {
			t.Errorf("it cannot settle, and was heard at %d and %d", first, second)
		}

		do(t, conn, "SET", keyMark, "3")
		if purged, ok := errors.AsType[purgedError](s.beat(t.Context(), token, 0, true, nil)); !ok || purged.mark != 3 {
			t.Errorf("the mark is 3, and it was told of %v", purged)
		}
		do(t, conn, "SET", keyLife, string(token)+":"+stateReplaying)
		if err := s.beat(t.Context(), token, 3, true, nil); !errors.Is(err, errNoLife) {
			t.Errorf("the life is replaying, and it was told %v", err)
		}
		do(t, conn, "SET", keyLife, "another.life:"+stateReady)
		if err := s.beat(t.Context(), token, 3, true, nil); !errors.Is(err, errNoLife) || s.token() != "" {
			t.Errorf("the life is another one, and it was told %v", err)
		}
	})
}

// TestIdleInstanceIsHeardOf: with nothing to settle it says all the same that it is there.
func TestIdleInstanceIsHeardOf(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	a := w.start(t, "INSTANCE", "a", "REDIS_URL", redis.url())
	b := w.start(t, "INSTANCE", "b", "REDIS_URL", redis.url())
	a.accepted(nthID(1), "1.00")
	b.accepted(nthID(2), "1.00")
	paid := wantSummary(2, "2.00", 0, "0.00")
	eventually(t, "both are paid", func() bool { return a.summary("") == paid })
	time.Sleep(2 * heardLife)
	eventually(t, "the sum is still known", func() bool { return a.summary("") == paid && b.summary("") == paid })
	eventually(t, "both are there", func() bool { return a.store.instances() == 2 })
}

// TestBeatCleansUpAfterAPurgeElsewhere: whoever learns of a purge by being refused unlinks what it left, if nobody else has.
func TestBeatCleansUpAfterAPurgeElsewhere(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		left := string(appendSweptKey(nil, 0))
		do(t, conn, "HSET", left, "to", "1")
		do(t, conn, "SET", keyMark, "3")
		if err := s.beat(t.Context(), token, 0, true, nil); err == nil {
			t.Fatal("the mark is another one")
		}
		if err := s.beat(t.Context(), token, 3, true, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is gone", func() bool {
			there, err := redis.Int(conn.Do("EXISTS", left))
			return err == nil && there == 0
		})
	})
}

// TestNoSummaryLacksWhatAnInstancePaidThatHearsNothing: an instance without Redis and without NATS has a payment's answer come in. No
// other one can know, and says so instead of giving a sum without it.
func TestNoSummaryLacksWhatAnInstancePaidThatHearsNothing(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	proxy := newCutProxy(t, strings.TrimPrefix(redis.url(), "redis://"))
	a := w.start(t, "INSTANCE", "a", "REDIS_URL", redis.url())
	b := w.start(t, "INSTANCE", "b", "REDIS_URL", "redis://"+proxy.addr(), "SEND_TIMEOUT", patientSend)
	answer := make(chan struct{})
	w.def.behave(func(_ http.ResponseWriter, _ fakePayment, write func()) bool {
		<-answer
		write()
		return false
	})
	b.accepted(nthID(1), "1.00")
	eventually(t, "it is on its way", func() bool { return w.def.attempts(nthID(1).String()) == 1 })
	proxy.block()
	a.refusesSummariesFor(b)
	close(answer)
	b.becomes(nthID(1), "paid default")
	a.refusesSummariesUntil(proxy, wantSummary(1, "1.00", 0, "0.00"))
}

func (g *testGalo) refusesSummaries() bool {
	status, _ := g.get("/payments-summary")
	return status == http.StatusServiceUnavailable
}

// refusesSummariesFor waits until the other instance has been silent for as long as its word holds. A summary that is refused once may
// be so for another reason, which passes.
func (g *testGalo) refusesSummariesFor(other *testGalo) {
	g.t.Helper()
	inTheEnd(g.t, "summaries wait for the other one", func() bool {
		_, err := g.store.summary(g.t.Context(), math.MinInt64, math.MaxInt64, other.ledger.journalNames())
		_, unheard := errors.AsType[unheardError](err)
		return unheard
	})
}

// refusesSummariesUntil the wire is whole again, and gives the one that is wanted then.
func (g *testGalo) refusesSummariesUntil(proxy *cutProxy, want string) {
	g.t.Helper()
	for range 20 {
		if !g.refusesSummaries() {
			g.t.Fatal("a summary lacks a payment that was paid")
		}
	}
	proxy.heal()
	inTheEnd(g.t, "the summary has it", func() bool {
		_, body := g.get("/payments-summary")
		return body == want
	})
}

// TestSummariesDoNotWaitForAnInstanceThatStoppedInOrder: it has left nothing that they could lack.
func TestSummariesDoNotWaitForAnInstanceThatStoppedInOrder(t *testing.T) {
	w := newTestWorld(t)
	server := startRedis(t)
	w.env["REDIS_URL"] = server.url()
	b := w.start(t, "INSTANCE", "b")
	b.accepted(nthID(1), "1.00")
	b.becomes(nthID(1), "settled default")
	journal := b.ledger.active.id.String()
	b.stopAll()
	if word, err := redis.String(rawConn(t, server.url()).Do("HGET", keyHeard, journal)); err != nil || word != heardLeft {
		t.Errorf("heard %q, %v", word, err)
	}
	a := w.start(t, "INSTANCE", "a")
	if got := a.summary(""); got != wantSummary(1, "1.00", 0, "0.00") {
		t.Errorf("summary %s", got)
	}
}

// TestSummariesWaitForWhatAStopLeftOut: an instance stops in order, and an attempt's outcome is unknown. When it is back it finds it paid,
// and cannot tell Redis.
func TestSummariesWaitForWhatAStopLeftOut(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	proxy := newCutProxy(t, strings.TrimPrefix(redis.url(), "redis://"))
	instance := func() *testGalo { return w.start(t, "INSTANCE", "b", "REDIS_URL", "redis://"+proxy.addr()) }
	b := instance()
	w.def.behave(unheard)
	b.accepted(nthID(1), "1.00")
	b.becomes(nthID(1), "pinned default")
	b.stopAll()
	proxy.block()
	b = instance()
	w.def.behave(nil)
	b.becomes(nthID(1), "paid default")
	a := w.start(t, "INSTANCE", "a", "REDIS_URL", redis.url())
	a.refusesSummariesFor(b)
	a.refusesSummariesUntil(proxy, wantSummary(1, "1.00", 0, "0.00"))
}

// TestJournalIsAtRest when nothing in it may be, or become, paid without Redis.
func TestJournalIsAtRest(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	accept(t, l, 0, 100)
	for state := slotAccepted; state < slotStates; state++ {
		v := accept(t, l, 1+uint64(state), 100)
		v, _ = l.become(v, state)
		want := state != slotLeaving && state != slotSent && state != slotPaid
		if got := len(l.journalsAtRest()) == 1; got != want {
			t.Errorf("with a slot that is %s it is at rest: %t", state, got)
		}
		must(t)(l.become(v, slotDuplicate))
	}
	v := accept(t, l, 100, 100)
	l.active.doubts.add(v.ref.seq())
	if l.active.atRest() {
		t.Error("at rest with a payment in doubt")
	}
	l.active.doubts.remove(v.ref.seq())
	if must(t)(l.replace(v, damagedWord, 0)); l.active.atRest() {
		t.Error("at rest with a damaged slot")
	}
}
