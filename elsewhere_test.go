package main

import (
	"context"
	"os"
	"testing"
)

// emptyRecords is a store that is ready and knows of no payment.
type emptyRecords struct{}

func (emptyRecords) records(context.Context, []paymentID, []foundRecord) error { return nil }
func (emptyRecords) noteConflicts(context.Context, []conflictNote) error       { return nil }
func (emptyRecords) disown(context.Context, []record) error                    { return nil }

// TestLoserClaimsAnewWhenTheClaimIsLost: the store was wiped while the winner had not been sent yet. Both slots may have lost to
// each other in one life or another, so none of them may be given up; and who pays decides which amount is the conflict.
func TestLoserClaimsAnewWhenTheClaimIsLost(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	ok := must(t)
	lost := ok(l.become(accept(t, l, 1, 100), slotElsewhere))
	f := newFeeder(newDispatcher(1, 16, 0), 16)
	r := newResolver(l, nil, nil, f, [processors]client{}, newMetrics(), quietLog())
	e := &elsewhere{ledger: l, feeder: f, resolver: r, store: emptyRecords{}, metrics: newMetrics(), log: quietLog()}
	e.add(lost.ref)
	e.look(t.Context())
	if v, _ := l.read(lost.ref); v.word.state() != slotAccepted || f.len() != 1 || e.len() != 0 {
		t.Errorf("it is %s, %d are to be claimed, %d wait", v.word.state(), f.len(), e.len())
	}

	// A winner may be forgotten by age: then it was paid, and the processors know it.
	old := ok(l.become(accept(t, l, 2, 100), slotElsewhere))
	l.clock.base += micros(l.retention.Microseconds())
	e.add(old.ref)
	e.look(t.Context())
	if v, _ := l.read(old.ref); v.word.state() != slotAccepted || f.len() != 1 || len(r.doubts) != 1 || r.doubts[0].ref != old.ref {
		t.Errorf("one that lost long ago is %s, %d are to be claimed, in doubt %v", v.word.state(), f.len(), r.doubts)
	}
}

// TestClaimOfASlotThatIsGoneIsRemoved: an old copy of the store was brought back, with a claim whose slot has gone by age since. A claim
// whose slot is there, or may be on another host, is nobody's to remove.
func TestClaimOfASlotThatIsGoneIsRemoved(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		l, _ := openTestLedger(t, t.TempDir())
		defer l.close()
		store, token := readyStore(t, url)
		f := newFeeder(newDispatcher(1, 16, 0), 16)
		e := &elsewhere{ledger: l, feeder: f, store: store, metrics: newMetrics(), log: quietLog()}
		old, young, own := l.keptFrom()-1, nowMicros(), l.active.id.String()
		const gone = 7 * segmentSlots
		for n, c := range []struct {
			claim   claim
			removed bool
		}{
			{claim{journal: own, seq: gone, acceptedAt: old}, true},
			{claim{journal: "0123456789abcdef", seq: 1, acceptedAt: old}, true},
			{claim{journal: own, seq: 7, acceptedAt: old}, false},
			{claim{journal: "0123456789abcdef", seq: 1, acceptedAt: young}, false},
		} {
			v := must(t)(l.become(accept(t, l, uint64(n), 1990), slotElsewhere))
			c.claim.id, c.claim.amount = v.id, v.amount
			claimOne(t, store, token, c.claim)
			e.add(v.ref)
			for range 2 {
				e.look(t.Context())
			}
			if v, _ := l.read(v.ref); lookUp(t, store, v.id).found == c.removed || (v.word.state() == slotAccepted) != c.removed {
				t.Errorf("claim of slot %d of %s, accepted at %d: the slot that waits for it is %s", c.claim.seq, c.claim.journal, c.claim.acceptedAt, v.word.state())
			}
		}

		// The folder is not where it was: nothing is known of anybody's slots.
		c := record{journal: own, seq: gone, acceptedAt: old}
		if before := l.ownerless(c); os.Rename(l.active.dir, l.active.dir+".moved") != nil || !before || l.ownerless(c) {
			t.Error("a slot is taken for gone because the folder is")
		}

		// Somebody else was quicker.
		one := paidOne(100, onDefault, noon, 1990)
		claimOne(t, store, token, claimFor(one, "j2", 2))
		if err := store.disown(t.Context(), []record{{id: one.id, amount: one.amount, acceptedAt: one.acceptedAt, journal: "j1", seq: 1}}); err != nil {
			t.Fatal(err)
		}
		if got := lookUp(t, store, one.id); got.journal != "j2" {
			t.Errorf("the claim of another slot was removed: %+v", got)
		}
	})
}
