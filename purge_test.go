package main

import (
	"testing"
)

// TestPurgeGoesBeyondOneThatWasMissed: two instances purge, one after the other, and the second has not heard of the first. What was
// settled in between is forgotten, too.
func TestPurgeGoesBeyondOneThatWasMissed(t *testing.T) {
	url, dir := startMini(t).url, t.TempDir()
	var both [2]*settler
	for i := range both {
		l, _ := openTestLedger(t, dir)
		defer l.close()
		both[i] = newSettler(l, openStore(t, url), newLifeWatch(), 0, newMetrics(), quietLog())
	}
	for range 2 { // the first one's life is ready when the second has reported
		for _, s := range both {
			if err := s.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	purge := func(s *settler) {
		t.Helper()
		if err := s.startPurge(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	purge(both[0])
	ok := must(t)
	paid := ok(both[0].ledger.paid(ok(both[0].ledger.sent(accept(t, both[0].ledger, 1, 100), onDefault, nowMicros()))))
	if err := both[0].settle(t.Context(), []ref{paid.ref}); err != nil {
		t.Fatal(err)
	}
	purge(both[1])
	if got, want := summaryOf(t, url), wantSummary(0, "0.00", 0, "0.00"); got != want {
		t.Errorf("the store holds %s, want %s", got, want)
	}
	if mark := both[1].mark(); mark != 2 {
		t.Errorf("the mark is %d, want 2", mark)
	}
}
