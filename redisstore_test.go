package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// noon is an instant in the middle of nowhere special: 2025-07-15T12:34:56.789012Z.
const noon micros = 1_752_582_896_789_012

func testID(n int) paymentID {
	var id paymentID
	binary.BigEndian.PutUint64(id[:8], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func paidOne(n int, p processorID, at micros, amount cents) settlement {
	return settlement{record: record{
		id: testID(n), amount: amount, state: recordPaid, acceptedAt: at - 1500, processor: p,
		requestedAt: at, settledAt: at + 2500,
	}}
}

func rejectedOne(n int, at micros) settlement {
	return settlement{record: record{id: testID(n), amount: 1990, state: recordRejected, acceptedAt: at, settledAt: at + 700}}
}

func claimFor(one settlement, journal string, seq uint64) claim {
	return claim{id: one.id, amount: one.amount, acceptedAt: one.acceptedAt, journal: journal, seq: seq}
}

// dump is everything in the store but the life, the polls and when journals and processes were heard of, which differ from run to run.
func dump(tb testing.TB, conn redis.Conn) string {
	tb.Helper()
	keys, err := redis.Strings(conn.Do("KEYS", "*"))
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(keys)
	var out strings.Builder
	for _, key := range keys {
		if key == keyLife || key == keyHeard || key == keyHere || strings.HasPrefix(key, keyPoll) {
			continue
		}
		var content []string
		var err error
		switch kind := do(tb, conn, "TYPE", key); kind {
		case "string":
			content, err = redis.Strings([]any{do(tb, conn, "GET", key)}, nil)
		case "hash":
			var fields map[string]string
			fields, err = redis.StringMap(conn.Do("HGETALL", key))
			for name, value := range fields {
				content = append(content, name+"="+value)
			}
		case "set":
			content, err = redis.Strings(conn.Do("SMEMBERS", key))
		case "zset":
			content, err = redis.Strings(conn.Do("ZRANGE", key, 0, -1, "WITHSCORES"))
		default:
			tb.Fatalf("%s is a %v", key, kind)
		}
		if err != nil {
			tb.Fatal(err)
		}
		if do(tb, conn, "TYPE", key) != "zset" {
			slices.Sort(content)
		}
		fmt.Fprintf(&out, "%s %q\n", key, content)
	}
	return out.String()
}

func claimOne(t *testing.T, s *redisStore, token lifeToken, c claim) claimAnswer {
	t.Helper()
	out := make([]claimAnswer, 1)
	if err := s.claim(t.Context(), token, false, []claim{c}, out); err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func settleAll(t testing.TB, s *redisStore, token lifeToken, in ...settlement) {
	t.Helper()
	if _, err := s.settle(t.Context(), token, s.mark.Load(), in, nil); err != nil {
		t.Fatal(err)
	}
}

func lookUp(t *testing.T, s *redisStore, id paymentID) foundRecord {
	t.Helper()
	out := make([]foundRecord, 1)
	if err := s.records(t.Context(), []paymentID{id}, out); err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func TestOnlyTheURLCanStopNewStore(t *testing.T) {
	for url, good := range map[string]bool{
		"redis://127.0.0.1:1": true, "redis://user:secret@host/3": true, "rediss://host": true,
		"http://host": false, "redis://host/none": false, "host:6379": false, "": false,
	} {
		s, err := newStore(storeOptions{url: url})
		if (err == nil) != good {
			t.Errorf("%q: %v", url, err)
		}
		if s != nil {
			if err := s.close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestStoreAwayIsNeitherNoLifeNorPurged(t *testing.T) {
	s := openStore(t, "redis://127.0.0.1:1")
	_, err := s.beginLife(t.Context(), 0)
	if _, purged := errors.AsType[purgedError](err); err == nil || purged || errors.Is(err, errNoLife) {
		t.Fatalf("beginLife: %v", err)
	}
}

func TestClosedStoreAnswersWithAnError(t *testing.T) {
	s, err := newStore(storeOptions{url: startMini(t).url})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.beginLife(ctx, 0); err == nil {
		t.Fatal("a closed store began a life")
	}
}

func TestOneOfTwoJournalsWinsAClaim(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		const payments = 300 // more than one batch
		ours, theirs := make([]claim, payments), make([]claim, payments)
		for i := range payments {
			one := paidOne(i, onDefault, noon, 1990)
			ours[i], theirs[i] = claimFor(one, "j1", uint64(i)), claimFor(one, "j2", uint64(i)+7)
		}
		slices.Reverse(theirs)
		var answers [2][]claimAnswer
		errs := make(chan error, 2)
		for i, claims := range [][]claim{ours, theirs} {
			answers[i] = make([]claimAnswer, payments)
			go func() { errs <- s.claim(t.Context(), token, false, claims, answers[i]) }()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		for i := range payments {
			a, b := answers[0][i], answers[1][payments-1-i]
			if (a.kind == claimWon) == (b.kind == claimWon) {
				t.Fatalf("payment %d: %v and %v", i, a.kind, b.kind)
			}
			if lost := a; a.kind == claimHeld && (lost.rec.journal != "j2" || lost.rec.seq != uint64(i)+7 || lost.rec.amount != 1990) {
				t.Fatalf("held by %+v", lost.rec)
			}
		}
		// The winner of each may ask again.
		again := make([]claimAnswer, payments)
		if err := s.claim(t.Context(), token, false, ours, again); err != nil {
			t.Fatal(err)
		}
		for i := range again {
			if again[i].kind != answers[0][i].kind {
				t.Fatalf("payment %d: %v, then %v", i, answers[0][i].kind, again[i].kind)
			}
		}
	})
}

func TestTwoSlotsOfOnePaymentInOneBatch(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		one := paidOne(1, onDefault, noon, 1990)
		out := make([]claimAnswer, 2)
		in := []claim{claimFor(one, "j1", 1), claimFor(one, "j1", 2)}
		if err := s.claim(t.Context(), token, false, in, out); err != nil {
			t.Fatal(err)
		}
		if out[0].kind != claimWon || out[1].kind != claimHeld || out[1].rec.seq != 1 {
			t.Fatalf("%+v", out)
		}
	})
}

// TestSlotWithAnAttemptOutTakesItsClaim: an older copy of the store has another slot in its place.
func TestSlotWithAnAttemptOutTakesItsClaim(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		one, final := paidOne(1, onDefault, noon, 1990), paidOne(2, onDefault, noon, 1990)
		claimOne(t, s, token, claimFor(one, "j1", 1))
		settleAll(t, s, token, final)
		out := claimFor(one, "j2", 2)
		if got := claimOne(t, s, token, out); got.kind != claimHeld {
			t.Fatalf("%+v", got)
		}
		if got := lookUp(t, s, one.id); got.journal != "j1" {
			t.Fatalf("a slot that has nothing out took the claim: %+v", got)
		}
		out.out = true
		if got := claimOne(t, s, token, out); got.kind != claimHeld || got.rec.journal != "j1" {
			t.Fatalf("it is not told whose claim it took: %+v", got)
		}
		if got := lookUp(t, s, one.id); got.journal != "j2" || got.seq != 2 {
			t.Fatalf("%+v", got)
		}
		late := claimFor(final, "j2", 3)
		late.out = true
		if got := claimOne(t, s, token, late); got.kind != claimFinal {
			t.Fatalf("%+v", got)
		}
		if got := lookUp(t, s, final.id); got.state != recordPaid {
			t.Fatalf("%+v", got)
		}
	})
}

func TestClaimTellsTheFinalRecord(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		paid, rejected := paidOne(1, onFallback, noon, 999_999_999_999), rejectedOne(2, noon)
		settleAll(t, s, token, paid, rejected)
		for _, one := range []settlement{paid, rejected} {
			if got := claimOne(t, s, token, claimFor(one, "j1", 1)); got.kind != claimFinal || got.rec != one.record {
				t.Errorf("got %+v, want %+v", got, one.record)
			}
		}
	})
}

func TestRecordIsTheClaimUntilItIsFinal(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		one := paidOne(1, onFallback, noon, 1990)
		if got := lookUp(t, s, one.id); got.found {
			t.Fatalf("found %+v before the claim", got)
		}
		claimOne(t, s, token, claimFor(one, `j"1,`, 1<<48-1))
		want := record{id: one.id, amount: 1990, state: recordClaimed, acceptedAt: one.acceptedAt, journal: `j"1,`, seq: 1<<48 - 1}
		if got := lookUp(t, s, one.id); !got.found || got.record != want {
			t.Fatalf("claimed: %+v", got)
		}
		settleAll(t, s, token, one)
		if got := lookUp(t, s, one.id); !got.found || got.record != one.record {
			t.Fatalf("settled: %+v", got)
		}
		if n := do(t, rawConn(t, url), "EXISTS", keyClaims); n != int64(0) {
			t.Fatal("the claim outlived the settlement")
		}
	})
}

func TestSettlingInAnyOrderAndAgainGivesTheSame(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		conn := rawConn(t, url)
		var all []settlement
		for i := range 700 {
			all = append(all, paidOne(i, processorID(i%2), noon+micros(i%7)*37_000, cents(i)+1))
		}
		for i := 700; i < 720; i++ {
			all = append(all, rejectedOne(i, noon))
		}
		// One that one instance saw rejected and another paid: paid counts.
		all = append(all, rejectedOne(5, noon), paidOne(705, onDefault, noon, 5))
		progress := []journalProgress{{"j1", 1 << 47}, {"j2", 9}}
		var want string
		for try := range 4 {
			do(t, conn, "FLUSHALL")
			s, token := readyStore(t, url)
			for range try + 1 {
				rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				for part := range slices.Chunk(all, 300-70*try) {
					if _, err := s.settle(t.Context(), token, 0, append(part, part[0]), progress); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := s.settle(t.Context(), token, 0, nil, []journalProgress{{"j1", 3}, {"j2", 8}}); err != nil {
				t.Fatal(err)
			}
			got := dump(t, conn)
			if try == 0 {
				want = got
			}
			if got != want {
				t.Fatalf("try %d: %s\nwant %s", try, got, want)
			}
		}
		for _, line := range []string{`j1=140737488355328" "j2=9`} {
			if !strings.Contains(want, line) {
				t.Errorf("no %s in the store", line)
			}
		}
	})
}

func TestStoredFormsStayPacked(t *testing.T) {
	// Redis packs a hash only while no value is longer.
	const packed = 64
	one := paidOne(1, onFallback, noon, 999_999_999_999)
	one.settledAt = one.acceptedAt + 30*dayLength
	one.requestedAt = one.acceptedAt - 1*dayLength
	if text := one.appendJSON(nil, 99); len(text) > packed {
		t.Errorf("%s has %d bytes", text, len(text))
	}
	held := claimFor(one, "0123456789abcdef", 1<<32)
	held.amount = 99_999_999
	if text := held.appendJSON(nil); len(text) > packed {
		t.Errorf("%s has %d bytes", text, len(text))
	}
}

func TestSettleLeavesNothingHalfDone(t *testing.T) {
	one := paidOne(1, onDefault, noon, 1990)
	other := paidOne(2, onFallback, noon, 1990)
	refused := rejectedOne(3, noon)
	last := func(build func(dst []byte) []byte) string { return string(build(nil)) }
	slice := floorDiv(noon, sliceLength)
	broken := map[string][]any{
		"claim": {"SET", keyClaims, "x"},
		"slice": {"SET", last(func(dst []byte) []byte { return appendSliceKey(dst, 0, onFallback, int64(slice)) }), "x"},
		"late":  {"SET", keyLate, "x"},
		"swept": {"SET", last(func(dst []byte) []byte { return appendSweptKey(dst, 0) }), "x"},
		"pace":  {"SET", keyProgress, "x"},
	}
	for _, level := range bucketLevels() {
		n := int64(floorDiv(noon, level.unit))
		key := string(level.appendKey(nil, 0, onFallback, n))
		field := level.field(n)
		broken["type of "+string(level.letter)] = []any{"SET", key, "x"}
		broken["count of "+string(level.letter)] = []any{"HSET", key, fmt.Sprintf("%dn", field), "x"}
		broken["sum of "+string(level.letter)] = []any{"HSET", key, fmt.Sprintf("%dc", field), "9223372036854775807"}
	}
	eachServer(t, func(t *testing.T, url string) {
		s := openStore(t, url)
		conn := rawConn(t, url)
		for name, command := range broken {
			do(t, conn, "FLUSHALL")
			token := makeReady(t, s)
			claimOne(t, s, token, claimFor(one, "j1", 1))
			do(t, conn, command[0].(string), command[1:]...)
			before := dump(t, conn)
			_, err := s.settle(t.Context(), token, 0, []settlement{one, other, refused}, []journalProgress{{"j1", 2}})
			if err == nil {
				t.Errorf("%s: settled", name)
			}
			if after := dump(t, conn); after != before {
				t.Errorf("%s: before\n%s\nafter\n%s", name, before, after)
			}
		}
	})
}

// TestRecordThatCannotBeWrittenHoldsUpOnlyItsPayment: its key is no hash. The others of the batch are settled, and counted once; the error
// says that not all are, and the progress waits.
func TestRecordThatCannotBeWrittenHoldsUpOnlyItsPayment(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		batch := []settlement{paidOne(1, onDefault, noon, 1990), paidOne(2, onFallback, noon, 500), paidOne(3, onDefault, noon, 10)}
		for i, one := range batch {
			claimOne(t, s, token, claimFor(one, "j1", uint64(i)))
		}
		key := string(appendRecordKey(nil, batch[1].id))
		settle := func(want string, progress int) {
			t.Helper()
			_, err := s.settle(t.Context(), token, 0, batch, []journalProgress{{"j1", 3}})
			if got, _ := s.summary(t.Context(), math.MinInt64, math.MaxInt64, nil); fmt.Sprint(got.totals) != want {
				t.Errorf("%v, want %s; %v", got.totals, want, err)
			}
			if low, _ := redis.Int(conn.Do("HGET", keyProgress, "j1")); low != progress || (err == nil) != (progress > 0) {
				t.Errorf("progress %d, want %d; %v", low, progress, err)
			}
		}
		do(t, conn, "SET", key, "x")
		settle("[{2 2000} {0 0}]", 0)
		settle("[{2 2000} {0 0}]", 0)
		if n := do(t, conn, "HLEN", keyClaims); n != int64(1) {
			t.Errorf("%d claims are left", n)
		}
		do(t, conn, "DEL", key)
		settle("[{2 2000} {1 500}]", 3)
	})
}

func TestFullRedisRefusesWholeBatches(t *testing.T) {
	url := startRedis(t).url()
	s, token := readyStore(t, url)
	conn := rawConn(t, url)
	var claims []claim
	var paid []settlement
	for i := range 200 {
		paid = append(paid, paidOne(i, onDefault, noon, 1990))
		claims = append(claims, claimFor(paid[i], "j1", uint64(i)))
	}
	answers := make([]claimAnswer, len(claims))
	if err := s.claim(t.Context(), token, false, claims[:100], answers); err != nil {
		t.Fatal(err)
	}
	do(t, conn, "CONFIG", "SET", "maxmemory", "1mb")
	before := dump(t, conn)
	if err := s.claim(t.Context(), token, false, claims[50:], answers); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Fatalf("claim: %v", err)
	}
	if _, err := s.settle(t.Context(), token, 0, paid[:100], []journalProgress{{"j1", 100}}); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Fatalf("settle: %v", err)
	}
	if after := dump(t, conn); after != before {
		t.Fatalf("before\n%s\nafter\n%s", before, after)
	}
	do(t, conn, "CONFIG", "SET", "maxmemory", "0")
	settleAll(t, s, token, paid...)
}

// TestFullRedisCanBeMadeRoomIn: what retention and a purge are for is not refused by a Redis that is full, nor what they need.
func TestFullRedisCanBeMadeRoomIn(t *testing.T) {
	url := startRedis(t).url()
	s, token := readyStore(t, url)
	conn := rawConn(t, url)
	for i := range 100 {
		settleAll(t, s, token, paidOne(i, onDefault, noon+micros(i)*minuteLength, 1990))
	}
	do(t, conn, "CONFIG", "SET", "maxmemory", "1mb")
	again := openStore(t, url)
	born, err := again.beginLife(t.Context(), 0)
	if err != nil || born.token != token {
		t.Fatalf("beginning the life: %+v, %v", born, err)
	}
	if _, err := again.report(t.Context(), token, "j2", true, []string{"j2"}); err != nil {
		t.Error(err)
	}
	if err := again.beat(t.Context(), token, 0, true, []string{"j2"}); err != nil {
		t.Error(err)
	}
	if err := again.forgetBefore(t.Context(), noon+50*minuteLength); err != nil {
		t.Error(err)
	}
	if lookUp(t, again, testID(1)).found || !lookUp(t, again, testID(99)).found {
		t.Error("what is old is there, or what is not is gone")
	}
	if mark, err := again.purge(t.Context(), token, 1); err != nil || mark != 1 {
		t.Errorf("purged to %d, %v", mark, err)
	}
	waitFor(t, "purged history is gone", func() bool { return countKeys(t, conn, keyPrefix+"0:*") == 0 })
	if err := again.leave(t.Context(), token, []string{"j2"}); err != nil {
		t.Error(err)
	}
}

// TestLifeStaysReadyWhateverComesLate: a question was refused, since the life was not ready, and its answer comes behind the one that says that
// it is.
func TestLifeStaysReadyWhateverComesLate(t *testing.T) {
	s, token := readyStore(t, startRedis(t).url())
	if err := s.refusal(token, redis.Error("LIFESTATE "+stateReplaying)); !errors.Is(err, errNoLife) {
		t.Error(err)
	}
	if !s.ready() {
		t.Error("the life is taken for one that is not ready")
	}
	if err := s.eachClaim(t.Context(), token, func(record) {}); err != nil {
		t.Error(err)
	}
}

func TestLostScriptsAreLoadedAgain(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		do(t, rawConn(t, url), "SCRIPT", "FLUSH")
		one := paidOne(1, onDefault, noon, 1990)
		claimOne(t, s, token, claimFor(one, "j1", 1))
		settleAll(t, s, token, one)
		if got := lookUp(t, s, one.id); got.record != one.record {
			t.Fatalf("%+v", got)
		}
	})
}

func TestBigBatchesThroughTheEmbeddedStoreAreQuick(t *testing.T) {
	s, token := readyStore(t, startMini(t).url)
	const payments, limit = 20 * maxStoreBatch, 10 * time.Second
	begun := time.Now()
	var batch []settlement
	var claims []claim
	answers := make([]claimAnswer, maxStoreBatch)
	for i := range payments {
		batch = append(batch, paidOne(i, processorID(i%2), noon+micros(i)*200, 1990))
		claims = append(claims, claimFor(batch[len(batch)-1], "j1", uint64(i)))
		if len(batch) < maxStoreBatch {
			continue
		}
		if err := s.claim(t.Context(), token, false, claims, answers); err != nil {
			t.Fatal(err)
		}
		settleAll(t, s, token, batch...)
		batch, claims = batch[:0], claims[:0]
	}
	got, err := s.summary(t.Context(), noon, noon+minuteLength, nil)
	if err != nil || got.totals[0].requests+got.totals[1].requests != payments {
		t.Fatalf("%+v, %v", got, err)
	}
	if took := time.Since(begun); took > limit {
		t.Fatalf("%d payments took %s", payments, took)
	} else {
		t.Logf("%d payments took %s", payments, took)
	}
}
