package main

import (
	"fmt"
	"os"
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
	l.active.searching.Store(false) // as the mender has it, once it found that nothing was lost
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

// TestSegmentSetAsideIsNotAppendedTo: the spare segment is damaged, and galo is started twice before the next payment.
func TestSegmentSetAsideIsNotAppendedTo(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	accept(t, l, 1, 100)
	crash(l)
	if err := os.WriteFile(segmentPath(l.active.dir, 1), make([]byte, segmentBytes), 0o640); err != nil {
		t.Fatal(err)
	}
	l, _ = openTestLedger(t, dir)
	crash(l)
	l, _ = openTestLedger(t, dir)
	defer l.close()
	if v := accept(t, l, 2, 100); v.ref.seq() < 2*segmentSlots {
		t.Errorf("appended at %d: a few more, and they come to where a damaged segment was", v.ref.seq())
	}
}

// TestProgressEndsWhereTheNextOwnerAppends: a journal is taken over and finished, the one that did so dies, and its first owner
// comes back and appends to it. What it appends lies beyond all progress that was ever told, or an older copy of the store
// would never be given it back.
func TestProgressEndsWhereTheNextOwnerAppends(t *testing.T) {
	dir := t.TempDir()
	ok := must(t)
	l, _ := openTestLedger(t, dir)
	ok(l.become(ok(l.paid(ok(l.sent(accept(t, l, 1, 100), onDefault, nowMicros())))), slotSettled))
	crash(l)

	f, err := openFolder(dir, "other", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := openLedger(f, newClock(), 100, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.adoptOrphans(map[journalID]bool{l.active.id: true}); err != nil {
		t.Fatal(err)
	}
	adopted := (*other.journals.Load())[1]
	told := adopted.advanceLow()
	if adopted.id != l.active.id || told != 1 {
		t.Errorf("progress of %s is %d, want 1: that much is final", adopted.id, told)
	}
	crash(other)

	l, _ = openTestLedger(t, dir)
	defer l.close()
	if v := accept(t, l, 2, 100); v.ref.seq() < told {
		t.Errorf("slot %d is new, and %d slots are told to be settled", v.ref.seq(), told)
	}
}

// TestRetiredSegmentIsNotWrittenOver: a payment from before a reboot is unsettled still, everything that came after it is settled
// and retired, and galo is started again. What it appends goes behind all of that.
func TestRetiredSegmentIsNotWrittenOver(t *testing.T) {
	dir := t.TempDir()
	ok := must(t)
	open := func(name string, boot byte) *ledger {
		f, err := openFolder(dir, name, false, quietLog())
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
	l := open("test", 1)
	accept(t, l, 1, 100)
	crash(l)
	l = open("test", 2)
	settled := ok(l.become(ok(l.paid(ok(l.sent(accept(t, l, 2, 100), onDefault, nowMicros())))), slotSettled))
	crash(l)
	other := open("other", 2) // it seals what it takes over, so that a segment need not be full to be retired
	if _, err := other.adoptOrphans(map[journalID]bool{l.active.id: true}); err != nil {
		t.Fatal(err)
	}
	(*other.journals.Load())[1].searching.Store(false) // no damaged slot of it is looked for in the store
	if err := other.tidy(); err != nil {
		t.Fatal(err)
	}
	crash(other)

	l = open("test", 2)
	defer l.close()
	if v := accept(t, l, 3, 100); v.ref.seq() <= settled.ref.seq() {
		t.Errorf("appended at %d, and %d is in a retired segment", v.ref.seq(), settled.ref.seq())
	}
	found := 0
	if _, err := l.active.eachRetired(0, func(v slotView) {
		if v.id == settled.id {
			found++
		}
	}); err != nil || found != 1 {
		t.Errorf("the settled payment is there %d times (%v)", found, err)
	}
}

// TestOfTwoRacingSlotsTheClaimDecides: two requests with one id raced, the second to be published was the first in the index, and the
// process was killed before the other one was taken back. Whichever has the claim, the payment is paid, and once.
func TestOfTwoRacingSlotsTheClaimDecides(t *testing.T) {
	for claimant := range 2 {
		t.Run(fmt.Sprintf("slot %d has it", claimant), func(t *testing.T) {
			w := damagedWorld(t)
			g := w.start(t)
			token, ok := g.life.await(t.Context())
			if !ok {
				t.Fatal("no life")
			}
			id := nthID(0)
			g.ledger.accept(&id, 100) // no worker is told of it
			g.ledger.active.append(&id, 100, g.ledger.clock.now(), indexHash(&id))
			v, _ := g.ledger.read(makeRef(0, uint64(claimant)))
			var answers [1]claimAnswer
			if err := g.store.claim(t.Context(), token, false, []claim{g.ledger.claimOf(v)}, answers[:]); err != nil || answers[0].kind != claimWon {
				t.Fatalf("%+v, %v", answers, err)
			}
			dir := g.ledger.active.dir
			g.stopAll()
			inSegment(t, dir, 0, func(s segmentFile) { s.slots[1].word.Store(uint64(word(0).with(slotAccepted))) })
			g = w.start(t)
			w.paidOnce(t, g, 1)
			if n := w.def.attempts(id.String()) + w.fall.attempts(id.String()); n != 1 {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

// TestLoserOfARaceIsNotTakenForTheWinner: of two requests with one id at once the later slot won, and the earlier one was refused, under
// another amount. After a start it is the winner that is found.
func TestLoserOfARaceIsNotTakenForTheWinner(t *testing.T) {
	for _, lost := range []slotState{slotDuplicate, slotConflict} {
		dir := t.TempDir()
		l, _ := openTestLedger(t, dir)
		v := accept(t, l, 1, 1000)
		accept(t, l, 2, 2000)
		s := &l.active.table.Load().list[0].slots[1]
		s.id = v.id
		s.sum = s.checksum(l.active.seed)
		must(t)(l.become(v, lost))
		crash(l)

		l, _ = openTestLedger(t, dir)
		defer l.close()
		if found, _ := l.find(&v.id, indexHash(&v.id)); found.amount != 2000 || found.word.state() != slotAccepted {
			t.Errorf("beside one that is %s: found %d cents, %s", lost, found.amount, found.word.state())
		}
	}
}
