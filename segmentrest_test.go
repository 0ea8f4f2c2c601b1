package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestMakingASegmentRestsBetweenItsPages: once it is made beside clients.
func TestMakingASegmentRestsBetweenItsPages(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	j, rests := l.active, 0
	made := func() int {
		t.Helper()
		rests = 0
		j.next.Store(j.limit.Load() - segmentSlots) // the last one has come into use
		if err := j.prepare(); err != nil {
			t.Fatal(err)
		}
		return rests
	}
	if n := made(); n != 0 {
		t.Errorf("%d rests before anybody serves", n)
	}
	j.rest = func() { rests++ }
	const pages = segmentSlots * slotSize / segmentHeader
	if n := made(); n != pages/touchAtOnce {
		t.Errorf("%d rests, want one for every %d of %d pages", n, touchAtOnce, pages)
	}
}

// TestNobodyRestsWhileIntakeRunsOutOfSlots: of the rests that the ledger asks for none is taken.
func TestNobodyRestsWhileIntakeRunsOutOfSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := openTestLedger(t, t.TempDir())
		defer l.close()
		j := l.active
		rested := func() bool {
			began := time.Now()
			j.restBetweenPages()
			return time.Now().After(began)
		}
		j.next.Store(j.limit.Load() - segmentSlots)
		if !rested() {
			t.Error("there is a whole segment, and yet no rest")
		}
		j.next.Store(j.limit.Load() - segmentSlots/2)
		if rested() {
			t.Error("a rest, though half a segment is left")
		}
	})
}
