package main

import (
	"context"
	"errors"
	"testing"
)

// emptyStore is a store that answers and knows nothing.
type emptyStore struct{}

func (emptyStore) records(context.Context, []paymentID, []foundRecord) error { return nil }
func (emptyStore) conflictOf(context.Context, paymentID) (cents, error)      { return 0, nil }

type busThatMustNotBeAsked struct{ t *testing.T }

func (b busThatMustNotBeAsked) ask(context.Context, paymentID, func([]answer) bool) []answer {
	b.t.Error("asked around")
	return nil
}

// TestOwnerOfEveryJournalAsksNobody: an instance that is left alone would wait for answers that never come, in a seat that others need.
func TestOwnerOfEveryJournalAsksNobody(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	f := &finder{ledger: l, store: emptyStore{}, bus: busThatMustNotBeAsked{t}}
	if _, err := f.find(t.Context(), nthID(1)); !errors.Is(err, errUnknownPayment) {
		t.Errorf("%v", err)
	}
}
