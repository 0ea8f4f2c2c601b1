package main

import (
	"testing"
)

// TestUnrejectPutsTheClaimInPlace: in one step, and only where the rejected record is this very slot's.
func TestUnrejectPutsTheClaimInPlace(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		const mark = 3
		if _, err := s.purge(t.Context(), token, mark); err != nil {
			t.Fatal(err)
		}
		settled := func(n uint64, state recordState, acceptedAt micros) {
			t.Helper()
			one := settlement{record: record{id: nthID(n), amount: 500, state: state, acceptedAt: acceptedAt, requestedAt: acceptedAt, settledAt: acceptedAt + 5}}
			if _, err := s.settle(t.Context(), token, mark, []settlement{one}, nil); err != nil {
				t.Fatal(err)
			}
		}
		const rejected, paid, others, absent = 1, 2, 3, 4
		settled(rejected, recordRejected, 1000)
		settled(paid, recordPaid, 1000)
		settled(others, recordRejected, 999)
		var mine []claim
		for _, n := range []uint64{rejected, paid, others, absent} {
			mine = append(mine, claim{id: nthID(n), amount: 500, acceptedAt: 1000, journal: "j1", seq: n})
		}
		for range 2 { // it may be repeated
			if err := s.unreject(t.Context(), token, mark, mine); err != nil {
				t.Fatal(err)
			}
			var found [5]foundRecord
			if err := s.records(t.Context(), []paymentID{nthID(rejected), nthID(paid), nthID(others), nthID(absent)}, found[:4]); err != nil {
				t.Fatal(err)
			}
			if f := found[0]; !f.found || f.state != recordClaimed || f.journal != "j1" || f.seq != rejected {
				t.Errorf("the rejected payment is %+v, want claimed by its slot", f)
			}
			if f := found[1]; !f.found || f.state != recordPaid {
				t.Errorf("the paid payment is %+v", f)
			}
			if f := found[2]; !f.found || f.state != recordRejected {
				t.Errorf("another slot's rejection is %+v", f)
			}
			if found[3].found {
				t.Errorf("a payment that nobody knew is %+v", found[3])
			}
		}
		conn := rawConn(t, url)
		if n := do(t, conn, "ZCARD", keyLate); n != int64(1) {
			t.Errorf("%d rejections wait for their age, want the other slot's", n)
		}
		settled(rejected, recordPaid, 1000)
		sum, err := s.summary(t.Context(), 0, 1<<40, nil)
		if err != nil || sum.totals[onDefault].requests != 2 {
			t.Errorf("summary %+v, %v: want both paid ones", sum, err)
		}
	})
}
