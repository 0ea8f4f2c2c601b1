package main

import (
	"testing"
	"time"
)

// TestNewSlotsComeAfterSegmentsThatAreGone: the host was started anew and galo twice since, before the first payment came. Of the
// segments from before nothing is left, and those that are there are empty.
func TestNewSlotsComeAfterSegmentsThatAreGone(t *testing.T) {
	dir := t.TempDir()
	open := func(boot byte) *ledger {
		f, err := openFolder(dir, "test", false, quietLog())
		if err != nil {
			t.Fatal(err)
		}
		f.boot = [16]byte{boot}
		l, _, err := openLedger(f, newClock(), 100, time.Hour, quietLog())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open(1)
	crash(l)
	l = open(2)
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	if left, err := segmentNumbers(l.active.dir); err != nil || left[0] == 0 {
		t.Fatalf("segments %v are left (%v): this test is about a journal whose first one is gone", left, err)
	}
	crash(l)
	l = open(2)
	defer l.close()
	v := accept(t, l, 1, 100)
	if again, known := l.find(&v.id, indexHash(&v.id)); !known || again != v {
		t.Errorf("found again: %+v, was %+v", again, v)
	}
}
