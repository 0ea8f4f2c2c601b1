package main

import "testing"

// TestSlotThatAsksAgainKeepsItsClaim: the answer to its first claim was lost, or it crashed.
func TestSlotThatAsksAgainKeepsItsClaim(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		one := paidOne(1, onDefault, noon, 1990)
		for _, want := range []struct {
			journal string
			seq     uint64
			kind    claimKind
		}{{"j1", 7, claimWon}, {"j1", 7, claimWon}, {"j1", 8, claimHeld}, {"j2", 7, claimHeld}, {"j1", 7, claimWon}} {
			var answer [1]claimAnswer
			if err := s.claim(t.Context(), token, false, []claim{claimFor(one, want.journal, want.seq)}, answer[:]); err != nil {
				t.Fatal(err)
			}
			if answer[0].kind != want.kind {
				t.Errorf("slot %d of %s: %s, want %s", want.seq, want.journal, answer[0].kind, want.kind)
			}
		}
	})
}
