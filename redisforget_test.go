package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// waitFor waits for a condition that another goroutine brings about.
func waitFor(t *testing.T, what string, met func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !met() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s has not come about", what)
		}
	}
}

func TestPurgeForgetsHistoryAndKeepsClaims(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		other := openStore(t, url)
		makeReady(t, other)
		held := paidOne(1, onDefault, noon, 1990)
		claimOne(t, s, token, claimFor(held, "j1", 1))
		for i := 10; i < 1500; i++ {
			settleAll(t, s, token, paidOne(i, onDefault, noon+micros(i)*secondLength, 1990))
		}
		if mark, err := s.purge(t.Context(), token, 7); err != nil || mark != 7 {
			t.Fatalf("mark %d, %v", mark, err)
		}
		if mark, err := other.purge(t.Context(), token, 5); err != nil || mark != 7 {
			t.Fatalf("marks only rise: %d, %v", mark, err)
		}
		late, err := other.summary(t.Context(), 0, 2*noon, nil)
		if err != nil || late != (summary{}) {
			t.Fatalf("%+v, %v", late, err)
		}
		gone := paidOne(10, onDefault, noon+10*secondLength, 1990)
		if got := lookUp(t, s, gone.id); !got.hidden {
			t.Fatalf("%+v", got)
		}
		if got := claimOne(t, s, token, claimFor(gone, "j2", 1)); got.kind != claimFinal {
			t.Fatalf("an id that was paid before the purge can be claimed: %+v", got)
		}
		if got := lookUp(t, s, held.id); !got.found || got.state != recordClaimed {
			t.Fatalf("the claim is gone: %+v", got)
		}
		_, err = s.settle(t.Context(), token, 0, []settlement{held}, nil)
		if !isPurged(err, 7) {
			t.Fatalf("settled with the old mark: %v", err)
		}
		settleAll(t, s, token, held)
		if hidden, err := s.settle(t.Context(), token, 7, []settlement{held, gone}, nil); err != nil || !slices.Equal(hidden, []paymentID{gone.id}) {
			t.Fatalf("settled again: hidden %v, %v", hidden, err)
		}
		if got, err := s.summary(t.Context(), 0, 2*noon, nil); err != nil || got.totals[onDefault].requests != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		conn := rawConn(t, url)
		waitFor(t, "the end of the old history", func() bool { return countKeys(t, conn, keyPrefix+"0:*") == 0 })
		if countKeys(t, conn, keyPrefix+"7:*") == 0 {
			t.Fatal("the new history is gone, too")
		}
	})
}

func isPurged(err error, mark uint64) bool {
	purged, ok := errors.AsType[purgedError](err)
	return ok && purged.mark == mark
}

func countKeys(t *testing.T, conn redis.Conn, pattern string) int {
	t.Helper()
	keys, err := redis.Strings(conn.Do("KEYS", pattern))
	if err != nil {
		t.Fatal(err)
	}
	return len(keys)
}

func TestLifeTakesTheHighestMarkAndCleansUp(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		settleAll(t, s, token, paidOne(1, onDefault, noon, 1990))
		// A process that purged and was killed before it had cleaned up.
		do(t, conn, "SET", keyMark, 3)
		begun, err := openStore(t, url).beginLife(t.Context(), 2)
		if err != nil || begun.mark != 3 {
			t.Fatalf("%+v, %v", begun, err)
		}
		waitFor(t, "the end of the old history", func() bool { return countKeys(t, conn, keyPrefix+"0:*") == 0 })
		// A wiped store may have a lower mark than it had: what is settled there stays, whatever was believed before.
		do(t, conn, "FLUSHALL")
		token = makeReady(t, s)
		settleAll(t, s, token, paidOne(2, onDefault, noon, 1990))
		if err := s.cleaner.unlinkBelow(t.Context(), 3); !isPurged(err, 0) {
			t.Fatalf("unlinked below a mark that is not in force: %v", err)
		}
		if got, err := s.summary(t.Context(), noon, noon, nil); err != nil || got.totals[onDefault].requests != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		// A journal that knows of a purge that the store has lost.
		if begun, err = s.beginLife(t.Context(), 12); err != nil || begun.mark != 12 {
			t.Fatalf("%+v, %v", begun, err)
		}
	})
}

// sweptStore has one payment in each of some minutes, the earlier ones of which are forgotten.
func sweptStore(t *testing.T, url string) (s *redisStore, token lifeToken, all []settlement, before micros) {
	t.Helper()
	s, token = readyStore(t, url)
	start := floorDiv(noon, dayLength)*dayLength - 3*minuteLength // The minutes lie on both sides of midnight.
	for i := range 600 {
		all = append(all, paidOne(i, processorID(i%2), start+micros(i)*777_777, cents(i+1)))
	}
	settleAll(t, s, token, all...)
	before = start + 5*minuteLength
	if err := s.forgetBefore(t.Context(), before+secondLength); err != nil {
		t.Fatal(err)
	}
	return s, token, all, before
}

func TestRetentionKeepsSumsToTheSecond(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, _, all, before := sweptStore(t, url)
		conn := rawConn(t, url)
		for _, one := range all {
			if found := lookUp(t, s, one.id).found; found != (one.requestedAt >= before) {
				t.Fatalf("requested %d µs after the edge: found %v", one.requestedAt-before, found)
			}
		}
		for _, key := range keysLike(t, conn, keyPrefix+"0:z*") {
			var p processorID
			var slice int64
			if !scanSlice(key, &p, &slice) || micros(slice)*sliceLength < before {
				t.Errorf("%s is still there", key)
			}
		}
		first := floorDiv(all[0].requestedAt, secondLength) * secondLength
		for from := first; from < first+12*secondLength; from += secondLength {
			for _, length := range []micros{secondLength, 59 * secondLength, 4 * minuteLength, 7 * minuteLength} {
				want := addUp(all, from, from+length-1)
				tos := []micros{from + length - 1}
				if from+length < before {
					tos = append(tos, from+length-1000) // Clients that cut windows at milliseconds mean the same seconds.
				}
				for _, to := range tos {
					if got, err := s.summary(t.Context(), from, to, nil); err != nil || got != want {
						t.Fatalf("%d..%d: got %+v, want %+v, %v", from, to, got, want, err)
					}
				}
			}
		}
		// Windows that adjoin somewhere within a second still have everything once.
		for _, cut := range []micros{1, 250_000, 499_999, 500_000, 500_001, 999_999} {
			a, err := s.summary(t.Context(), 0, first+secondLength+cut, nil)
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.summary(t.Context(), first+secondLength+cut+1, 2*noon, nil)
			if err != nil {
				t.Fatal(err)
			}
			for p := range a.totals {
				a.totals[p].requests += b.totals[p].requests
				a.totals[p].amount += b.totals[p].amount
			}
			if want := addUp(all, 0, 2*noon); a != want {
				t.Fatalf("cut at %d: got %+v, want %+v", cut, a, want)
			}
		}
	})
}

func keysLike(t *testing.T, conn redis.Conn, pattern string) []string {
	t.Helper()
	keys, err := redis.Strings(conn.Do("KEYS", pattern))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func scanSlice(key string, p *processorID, slice *int64) bool {
	n, err := fmt.Sscanf(strings.TrimPrefix(key, keyPrefix), "0:z%d:%d", p, slice)
	return n == 2 && err == nil
}

func TestReplayOfForgottenPaymentsCountsNothing(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token, all, before := sweptStore(t, url)
		conn := rawConn(t, url)
		want := dump(t, conn)
		settleAll(t, s, token, all...)
		if got := dump(t, conn); got != want {
			t.Fatalf("before\n%s\nafter\n%s", want, got)
		}

		// One that was pinned all the while is counted now, since its claim is there; it stays in the records until
		// its own retention is over, and is counted once.
		pinned := paidOne(1000, onDefault, before-minuteLength, 50_000)
		pinned.settledAt = before + dayLength
		claimOne(t, s, token, claimFor(pinned, "j1", 1))
		settleAll(t, s, token, pinned)
		settleAll(t, s, token, pinned)
		check := func(found bool) {
			t.Helper()
			sum := addUp(append(all, pinned), 0, 2*noon)
			if got, err := s.summary(t.Context(), 0, 2*noon, nil); err != nil || got != sum {
				t.Fatalf("got %+v, want %+v, %v", got, sum, err)
			}
			if got := lookUp(t, s, pinned.id); got.found != found {
				t.Fatalf("found %v", got.found)
			}
		}
		check(true)
		if err := s.forgetBefore(t.Context(), pinned.settledAt); err != nil {
			t.Fatal(err)
		}
		check(true)
		if err := s.forgetBefore(t.Context(), pinned.settledAt+minuteLength); err != nil {
			t.Fatal(err)
		}
		check(false)
		settleAll(t, s, token, pinned)
		check(false)
		if n := countKeys(t, conn, keyPrefix+"r:*") + countKeys(t, conn, keyPrefix+"0:z*") + countKeys(t, conn, keyPrefix+"0:late"); n != 0 {
			t.Fatalf("%d keys of records and slices are left", n)
		}
	})
}

func TestIDThatComesBackAfterRetentionIsNotCountedAgain(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token, all, before := sweptStore(t, url)
		// A client repeats an id that is forgotten here; the processor still has it and gives its old requestedAt.
		again := all[0]
		again.acceptedAt, again.settledAt = before+dayLength, before+dayLength+2500
		if got := claimOne(t, s, token, claimFor(again, "j1", 9999)); got.kind != claimWon {
			t.Fatalf("%+v", got)
		}
		settleAll(t, s, token, again)
		want := addUp(all, 0, 2*noon)
		if got, err := s.summary(t.Context(), 0, 2*noon, nil); err != nil || got != want {
			t.Fatalf("got %+v, want %+v, %v", got, want, err)
		}
		if got := lookUp(t, s, again.id); got.record != again.record {
			t.Fatalf("%+v", got)
		}
	})
}

func TestRetentionDropsRejectedRecords(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		for i := range 2*maxStoreBatch + 10 {
			settleAll(t, s, token, rejectedOne(i, noon))
		}
		if err := s.forgetBefore(t.Context(), noon+2*minuteLength); err != nil {
			t.Fatal(err)
		}
		if n := countKeys(t, rawConn(t, url), keyPrefix+"r:*"); n != 0 {
			t.Fatalf("%d buckets of records are left", n)
		}
	})
}

func TestSweepNeedsALifeThatIsReady(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		settleAll(t, s, token, paidOne(1, onDefault, noon, 1))
		do(t, rawConn(t, url), "SET", keyLife, string(token)+":"+stateReplaying)
		if err := s.forgetBefore(t.Context(), 2*noon); !errors.Is(err, errNoLife) {
			t.Fatal(err)
		}
		makeReady(t, s)
		if !lookUp(t, s, testID(1)).found {
			t.Fatal("forgotten")
		}
	})
}
