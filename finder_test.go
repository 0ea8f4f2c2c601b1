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

// storeThatIsSettled is a store that knows a payment once it was settled.
type storeThatIsSettled struct {
	emptyStore
	settled bool
}

func (s *storeThatIsSettled) records(_ context.Context, ids []paymentID, out []foundRecord) error {
	out[0] = foundRecord{record: record{id: ids[0], state: recordPaid, amount: 100, processor: onDefault}, found: s.settled}
	return nil
}

// busWhereMeanwhile has something happen between the question and the answers.
type busWhereMeanwhile func() []answer

func (b busWhereMeanwhile) ask(context.Context, paymentID, func([]answer) bool) []answer { return b() }

// TestSettledWhileOthersAreAskedIsNo404: it was not in Redis yet when that was asked, and its journal has it settled when that is.
func TestSettledWhileOthersAreAskedIsNo404(t *testing.T) {
	dir := t.TempDir()
	here, _ := openTestLedger(t, dir)
	defer here.close()
	there, _ := openTestLedger(t, dir)
	defer there.close()
	store := &storeThatIsSettled{}
	f := &finder{ledger: here, store: store, bus: busWhereMeanwhile(func() []answer {
		store.settled = true
		return []answer{{journals: there.journalNames()}}
	})}
	if p, err := f.find(t.Context(), nthID(1)); err != nil || p.state != "settled" || p.amount != 100 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestTakenOverWhileOthersAreAskedIsNo404: its instance is gone, and its journal comes to the one that was asked.
func TestTakenOverWhileOthersAreAskedIsNo404(t *testing.T) {
	dir := t.TempDir()
	here, _ := openTestLedger(t, dir)
	defer here.close()
	there, _ := openTestLedger(t, dir)
	accept(t, there, 1, 100)
	f := &finder{ledger: here, store: emptyStore{}, bus: busWhereMeanwhile(func() []answer {
		crash(there)
		if _, err := here.adopt(func(*journalHead) bool { return true }); err != nil {
			t.Error(err)
		}
		return nil
	})}
	if p, err := f.find(t.Context(), nthID(1)); err != nil || p.state != "accepted" || p.amount != 100 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := f.find(t.Context(), nthID(2)); !errors.Is(err, errUnknownPayment) {
		t.Errorf("a payment that nobody knows: %v", err)
	}
}

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
