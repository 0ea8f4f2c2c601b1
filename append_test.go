package main

import "testing"

// TestSecondOfTwoRacingRequestsIsADuplicate: both have found the id unknown, and one is quicker by a hair.
func TestSecondOfTwoRacingRequestsIsADuplicate(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	id := nthID(1)
	first, same, _ := l.active.append(&id, 100, l.clock.now(), indexHash(&id))
	second, other, full := l.active.append(&id, 100, l.clock.now(), indexHash(&id))
	if same != first || other != first || full {
		t.Errorf("the first is %d (of %d), the second %d (of %d), full %t", first, same, second, other, full)
	}
	if v, _ := l.read(second); v.word.state() != slotDuplicate {
		t.Errorf("the second is %s", v.word.state())
	}
	if v, _ := l.read(first); v.word.state() != slotAccepted {
		t.Errorf("the first is %s", v.word.state())
	}
}
