package main

import (
	"context"
	"testing"
)

// emptyRecords is a store that is ready and knows of no payment.
type emptyRecords struct{}

func (emptyRecords) records(context.Context, []paymentID, []foundRecord) error { return nil }
func (emptyRecords) noteConflicts(context.Context, []conflictNote) error       { return nil }

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
