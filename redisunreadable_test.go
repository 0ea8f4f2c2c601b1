package main

import (
	"math"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// foreignTexts are what galo never writes in the place of a record or a claim.
var foreignTexts = []string{"", "nonsense", "[]", "null", `["d",100`, `["d",100,5]`, `["q",100,5,5,5]`, `[1,2,3,4]`, `{"amount":1}`}

// TestUnreadableRecordHoldsUpOnlyItsPayment: the store has something in the place of one payment's record, or claim, that galo did not
// write. The others are paid; that one is not sent before it is gone.
func TestUnreadableRecordHoldsUpOnlyItsPayment(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		w := newTestWorld(t)
		w.env["REDIS_URL"] = url
		conn := rawConn(t, url)
		const n = 10
		inRecord, inClaim, noHash := nthID(3), nthID(5), nthID(7)
		place := func(key []byte, id paymentID) []any { return []any{string(key), string(appendField(nil, id))} }
		record, claim := place(appendRecordKey(nil, inRecord), inRecord), place([]byte(keyClaims), inClaim)
		do(t, conn, "HSET", append(record, "nonsense")...)
		do(t, conn, "HSET", append(claim, "nonsense")...)
		do(t, conn, "SET", string(appendRecordKey(nil, noHash)), "nonsense")
		g := w.start(t, "WORKERS", "1")
		for i := range uint64(n) {
			g.accepted(nthID(i), "1.00")
		}
		eventually(t, "all but three are paid", func() bool { return w.def.count() == n-3 })
		eventually(t, "those three are pending", func() bool { return g.ledger.pending.Load() == 3 })
		for _, id := range []paymentID{inRecord, inClaim, noHash} {
			if n := w.def.attempts(id.String()) + w.fall.attempts(id.String()); n != 0 {
				t.Errorf("%s was sent %d times", id, n)
			}
		}
		if got := g.summary(""); got != wantSummary(n-3, "7.00", 0, "0.00") {
			t.Errorf("summary %s", got)
		}
		do(t, conn, "HDEL", record...)
		do(t, conn, "HDEL", claim...)
		do(t, conn, "DEL", string(appendRecordKey(nil, noHash)))
		w.paidOnce(t, g, n)
	})
}

// TestUnreadableClaimAnswersForItself: so do all the forms that galo never writes, among payments that are claimed as ever.
func TestUnreadableClaimAnswersForItself(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		var claims []claim
		var ids []paymentID
		for i := range uint64(2 * len(foreignTexts)) {
			id := nthID(i)
			ids = append(ids, id)
			claims = append(claims, claim{id: id, amount: 100, acceptedAt: 1000, journal: "j1", seq: i})
			if i%2 == 1 {
				do(t, conn, "HSET", string(appendRecordKey(nil, id)), string(appendField(nil, id)), foreignTexts[i/2])
			}
		}
		answers, found := make([]claimAnswer, len(claims)), make([]foundRecord, len(ids))
		if err := s.claim(t.Context(), token, false, claims, answers); err != nil {
			t.Fatal(err)
		}
		if err := s.records(t.Context(), ids, found); err != nil {
			t.Fatal(err)
		}
		for i := range ids {
			wantKind, wantState := claimWon, recordClaimed
			if i%2 == 1 {
				wantKind, wantState = claimUnreadable, recordUnreadable
			}
			if answers[i].kind != wantKind || found[i].state != wantState || !found[i].found || found[i].hidden {
				t.Errorf("%d: claim %s, record %s", i, answers[i].kind, found[i].state)
			}
		}
	})
}

// TestPaidPaymentReplacesWhatCannotBeRead: money that moved is counted, whatever stands in its place, and once.
func TestPaidPaymentReplacesWhatCannotBeRead(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		for i, text := range foreignTexts {
			one := paidOne(i, onDefault, 1_000_000, 100)
			place := []any{string(appendRecordKey(nil, one.id)), string(appendField(nil, one.id))}
			do(t, conn, "HSET", append(place, text)...)
			settleAll(t, s, token, one)
			do(t, conn, "HSET", append(place, text)...) // settled, and spoilt then
			settleAll(t, s, token, one)
			if r := lookUp(t, s, one.id); r.state != recordPaid || r.amount != 100 {
				t.Errorf("in place of %q: %s, %d", text, r.state, r.amount)
			}
		}
		sum, err := s.summary(t.Context(), math.MinInt64, math.MaxInt64, nil)
		if err != nil || int(sum.totals[onDefault].requests) != len(foreignTexts) {
			t.Errorf("%+v, %v", sum, err)
		}
	})
}

// TestUnreadableProgressReplaysAll: a life begins, and progress goes on.
func TestUnreadableProgressReplaysAll(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		do(t, conn, "HSET", keyProgress, "j1", "nonsense", "j2", "7")
		begun, err := s.beginLife(t.Context(), 0)
		if err != nil || begun.progress["j1"] != 0 || begun.progress["j2"] != 7 {
			t.Fatalf("%+v, %v", begun, err)
		}
		if _, err := s.settle(t.Context(), token, 0, nil, []journalProgress{{"j1", 3}}); err != nil {
			t.Fatal(err)
		}
		if low, err := redis.Int(do(t, conn, "HGET", keyProgress, "j1"), nil); low != 3 || err != nil {
			t.Errorf("progress %d, %v", low, err)
		}
	})
}

// TestUnreadableClaimIsPassedOver by the mender, which looks through all of them.
func TestUnreadableClaimIsPassedOver(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		id := nthID(1)
		claimOne(t, s, token, claim{id: id, amount: 100, acceptedAt: 1000, journal: "j1", seq: 1})
		do(t, conn, "HSET", keyClaims, string(appendField(nil, nthID(2))), "nonsense", "nobody", `[100,1000,"j1",2]`)
		var seen []uint64
		if err := s.eachClaim(t.Context(), token, func(rec record) { seen = append(seen, rec.seq) }); err != nil || len(seen) != 1 || seen[0] != 1 {
			t.Errorf("%v, %v", seen, err)
		}
	})
}

// TestForgettingPassesOverWhatCannotBeRead: everything else that is old is forgotten.
func TestForgettingPassesOverWhatCannotBeRead(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		one := paidOne(1, onDefault, 1_000_000, 100)
		settleAll(t, s, token, one, rejectedOne(2, 1_000_000))
		do(t, conn, "ZADD", string(appendSliceKey(nil, 0, onDefault, 10)), 1_000_000, "nonsense")
		do(t, conn, "ZADD", keyLate, 0, "late nonsense")
		for _, level := range bucketLevels() {
			do(t, conn, "HSET", string(level.appendKey(nil, 0, onDefault, 0)), "nonsensen", 1)
		}
		if err := s.forgetBefore(t.Context(), 10*minuteLength); err != nil {
			t.Fatal(err)
		}
		if r := lookUp(t, s, one.id); r.found {
			t.Errorf("%+v is still there", r)
		}
		for _, key := range []string{string(appendSliceKey(nil, 0, onDefault, 10)), keyLate} {
			if n := do(t, conn, "ZCARD", key); n != int64(0) {
				t.Errorf("%s holds %d", key, n)
			}
		}
	})
}
