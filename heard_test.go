package main

import (
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
	refused := func() bool { status, _ := a.get("/payments-summary"); return status == http.StatusServiceUnavailable }
	inTheEnd(t, "the other one refuses summaries", refused)
	close(answer)
	b.becomes(nthID(1), "paid default")
	for range 20 {
		if !refused() {
			t.Fatal("a summary lacks a payment that was paid")
		}
	}
	proxy.heal()
	inTheEnd(t, "the summary has it", func() bool {
		_, body := a.get("/payments-summary")
		return body == wantSummary(1, "1.00", 0, "0.00")
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
