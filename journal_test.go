package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// openTestLedger opens the journals in dir as the instance "test".
func openTestLedger(t testing.TB, dir string) (*ledger, found) {
	t.Helper()
	f, err := openFolder(dir, "test", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	l, found, err := openLedger(f, newClock(), 1<<20, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	return l, found
}

// crash lets go of a ledger's journals as the kernel does when a process is killed: the locks are free, nothing is written or
// unmapped.
func crash(l *ledger) {
	for _, j := range *l.journals.Load() {
		unix.Flock(int(j.lock.Fd()), unix.LOCK_UN)
		unix.Flock(int(j.folderLock.Fd()), unix.LOCK_UN)
	}
}

func nthID(n uint64) (id paymentID) {
	binary.BigEndian.PutUint64(id[8:], n)
	id[0] = 0xfe
	return id
}

// accept makes a slot and returns it.
func accept(t testing.TB, l *ledger, n uint64, amount cents) slotView {
	t.Helper()
	id := nthID(n)
	r, what := l.accept(&id, amount)
	if what != acceptedNew {
		t.Fatalf("payment %d: acceptance %d", n, what)
	}
	v, ok := l.read(r)
	if !ok {
		t.Fatalf("payment %d cannot be read", n)
	}
	return v
}

func must(t testing.TB) func(v slotView, ok bool) slotView {
	return func(v slotView, ok bool) slotView {
		t.Helper()
		if !ok {
			t.Fatalf("transition of %s to %s refused", v.id, v.word.state())
		}
		return v
	}
}

func TestSlotIsOneCacheLine(t *testing.T) {
	var s slot
	if size := unsafe.Sizeof(s); size != slotSize {
		t.Errorf("a slot has %d bytes, want %d", size, slotSize)
	}
	if at := unsafe.Offsetof(s.word); at != 0 {
		t.Errorf("the word is at %d", at)
	}
	if end := unsafe.Offsetof(s.bookedSum) + 4; end != slotSize {
		t.Errorf("the checksum ends at %d", end)
	}
	if size := unsafe.Sizeof(segmentHead{}); size > segmentHeader {
		t.Errorf("a segment's head has %d bytes", size)
	}
	if size := unsafe.Sizeof(journalHead{}); size > headBytes {
		t.Errorf("a journal's head has %d bytes", size)
	}
}

func TestWordKeepsItsFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state := slotState(rapid.IntRange(1, int(slotStates)-1).Draw(t, "state"))
		p := processorID(rapid.IntRange(0, 1).Draw(t, "processor"))
		offset := micros(rapid.Int64Range(-maxOffset, maxOffset).Draw(t, "offset"))
		attempts := rapid.IntRange(0, 40).Draw(t, "attempts")
		w := word(0).with(state)
		for range attempts {
			w = w.attempted()
		}
		w = w.at(p, 1000, 1000+offset)
		pinned := rapid.Bool().Draw(t, "pinned")
		if pinned {
			w = w.pin()
		}
		if !w.valid() || w.state() != state || w.processor() != p || micros(w.offset()) != offset || w.pinned() != pinned ||
			w.attempts() != min(attempts, attemptsMask) || w.foreign() {
			t.Fatalf("%016x: %s %s %d %d", uint64(w), w.state(), w.processor(), w.offset(), w.attempts())
		}
		flip := rapid.IntRange(0, 63).Draw(t, "flip")
		if (w ^ 1<<flip).valid() {
			t.Fatalf("%016x with bit %d flipped reads as valid", uint64(w), flip)
		}
	})
}

// TestForeignValuesAreKept: a processor may have booked an id years ago, for another amount.
func TestForeignValuesAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := slot{seq: 7, amount: 5, acceptedAt: micros(rapid.Int64Range(0, 1<<52).Draw(t, "acceptedAt"))}
		amount := cents(rapid.Int64Range(1, 999_999_999_999).Draw(t, "amount"))
		at := micros(rapid.Int64Range(-1<<54, 1<<54).Draw(t, "requestedAt"))
		p := processorID(rapid.IntRange(0, 1).Draw(t, "processor"))
		w, booked := word(0).with(slotPaid).pin().foreignAt(p, amount, s.acceptedAt, at)
		s.booked.Store(booked)
		if !w.valid() || !w.pinned() || s.paidAmount(w) != amount || s.requestedAt(w) != at || w.processor() != p {
			t.Fatalf("%016x: %d at %d, want %d at %d", uint64(w), s.paidAmount(w), s.requestedAt(w), amount, at)
		}
	})
}

// TestJournalReopenedAfterEveryState kills the owner with a slot in every state, and looks at what the next one takes up.
func TestJournalReopenedAfterEveryState(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	ok := must(t)
	sent := func(v slotView) slotView { return ok(l.sent(v, onFallback, v.acceptedAt+77)) }

	accepted := accept(t, l, 1, 100)
	out := sent(accept(t, l, 2, 200))
	pinned := ok(l.pinned(sent(accept(t, l, 3, 300))))
	refused := ok(l.refused(sent(accept(t, l, 4, 400))))
	paid := ok(l.paid(sent(accept(t, l, 5, 500))))
	const longAgo = micros(12345) // 1970
	foreign := ok(l.paidAs(sent(accept(t, l, 6, 600)), onFallback, 999, longAgo))
	settled := ok(l.become(ok(l.paid(sent(accept(t, l, 7, 700)))), slotSettled))
	invalid := ok(l.become(sent(accept(t, l, 8, 800)), slotInvalid))
	rejected := ok(l.become(ok(l.become(sent(accept(t, l, 9, 900)), slotInvalid)), slotRejected))
	elsewhere := ok(l.become(accept(t, l, 10, 1000), slotElsewhere))
	duplicate := ok(l.become(accept(t, l, 11, 1100), slotDuplicate))
	conflict := ok(l.become(accept(t, l, 12, 1200), slotConflict))
	leaving := ok(l.leaving(accept(t, l, 13, 1300), onFallback, nowMicros()))
	left := ok(l.left(ok(l.leaving(accept(t, l, 14, 1400), onFallback, nowMicros()))))
	setAside := ok(l.become(accept(t, l, 15, 1500), slotSetAside))
	if got := l.pending.Load(); got != 10 {
		t.Errorf("%d pending before the crash, want 10", got)
	}
	crash(l)

	l, f := openTestLedger(t, dir)
	defer l.close()
	if l.pending.Load() != 10 || f.unsettled() != 10 || f.published != 15 || f.damaged != 0 {
		t.Errorf("pending %d, found %+v", l.pending.Load(), f)
	}
	same := func(name string, list []ref, want ...slotView) {
		t.Helper()
		if len(list) != len(want) {
			t.Fatalf("%s: %d slots, want %d", name, len(list), len(want))
		}
		for i, r := range list {
			if v, _ := l.read(r); v.id != want[i].id {
				t.Errorf("%s: found %s, want %s", name, v.id, want[i].id)
			}
		}
	}
	same("accepted", f.accepted, accepted, refused, leaving)
	same("sent", f.sent, out, pinned, left)
	same("settling", f.settling, paid, foreign, invalid)
	same("elsewhere", f.elsewhere, elsewhere)
	for _, was := range []slotView{accepted, out, pinned, refused, paid, foreign, settled, invalid, rejected, elsewhere, duplicate, conflict, leaving, left, setAside} {
		v, known := l.find(&was.id, indexHash(&was.id))
		if !known {
			t.Fatalf("%s (%s) is not in the index", was.id, was.word.state())
		}
		if was.word.state() == slotSent {
			was.word = was.word.pin() // nobody saw the answer
		}
		if was.word.state() == slotLeaving {
			was.word = was.word.with(slotAccepted) // it never went out
		}
		if v != was {
			t.Errorf("read back\n%+v, was\n%+v", v, was)
		}
	}
	if v, _ := l.find(&foreign.id, indexHash(&foreign.id)); v.paidAmount != 999 || v.requestedAt != longAgo {
		t.Errorf("foreign values read back as %d at %d", v.paidAmount, v.requestedAt)
	}
}

// TestPinnedSlotKeepsItsProcessorAndInstant: whatever is written to a pinned slot by a later attempt.
func TestPinnedSlotKeepsItsProcessorAndInstant(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	ok := must(t)
	v := accept(t, l, 1, 100)
	at := v.acceptedAt + 1111
	v = ok(l.pinned(ok(l.sent(v, onFallback, at))))
	v = ok(l.sent(v, onDefault, at+2222))
	v = ok(l.refused(v))
	if v, _ = l.read(v.ref); v.word.state() != slotSent || !v.word.pinned() || v.word.processor() != onFallback || v.requestedAt != at {
		t.Errorf("%s at %s, pinned %v, requestedAt %d", v.word.state(), v.word.processor(), v.word.pinned(), v.requestedAt)
	}
}

func TestNewSlotsComeAfterTheLastPublishedOne(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	j := l.active
	for n := range uint64(8) {
		accept(t, l, n, 1)
	}
	j.next.Add(1) // a handler died between taking slot 8 and publishing it
	last := accept(t, l, 9, 1)
	crash(l)

	l, f := openTestLedger(t, dir)
	defer l.close()
	if len(f.accepted) != 9 {
		t.Errorf("%d accepted, want 9", len(f.accepted))
	}
	if v := accept(t, l, 10, 1); v.ref.seq() != last.ref.seq()+1 {
		t.Errorf("the next slot is %d, want %d", v.ref.seq(), last.ref.seq()+1)
	}
	for _, r := range f.accepted {
		v, _ := l.read(r)
		must(t)(l.become(v, slotDuplicate))
	}
	if low := l.active.advanceLow(); low != last.ref.seq()+1 {
		t.Errorf("low is %d: the hole at 8 holds it up", low)
	}
}

func TestRepeatedIDs(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	v := accept(t, l, 1, 100)
	check := func(amount cents, want acceptance) {
		t.Helper()
		id := nthID(1)
		if _, got := l.accept(&id, amount); got != want {
			t.Errorf("again with %d: %d, want %d", amount, got, want)
		}
	}
	check(100, acceptedAgain)
	check(101, acceptedConflict)
	must(t)(l.become(v, slotElsewhere))
	check(101, acceptedAgain) // what the winner's amount is, is not known here
	if l.pending.Load() != 1 {
		t.Errorf("%d pending", l.pending.Load())
	}
}

func TestOneIDAtOnceMakesOneLiveSlot(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	for n := range uint64(200) {
		id := nthID(n)
		var fresh, again int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				_, what := l.accept(&id, 5)
				mu.Lock()
				defer mu.Unlock()
				switch what {
				case acceptedNew:
					fresh++
				case acceptedAgain:
					again++
				case acceptedConflict, acceptedFull:
					t.Errorf("acceptance %d", what)
				}
			})
		}
		wg.Wait()
		if fresh != 1 || again != 3 {
			t.Fatalf("payment %d: %d new, %d again", n, fresh, again)
		}
	}
	if l.pending.Load() != 200 {
		t.Errorf("%d pending, want 200", l.pending.Load())
	}
}

// TestLosersKnowWhatTheyLearnt: a slot that lost its claim answers for the amounts once it knows what was paid.
func TestLosersKnowWhatTheyLearnt(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	for n, c := range []struct {
		state                slotState
		sameAmount, anyOther acceptance
	}{
		{slotElsewhere, acceptedAgain, acceptedAgain},    // it is not known yet
		{slotDuplicate, acceptedAgain, acceptedConflict}, // paid under its own amount
		{slotConflict, acceptedConflict, acceptedAgain},  // paid under another one
	} {
		v := must(t)(l.become(accept(t, l, uint64(n+1), 100), c.state))
		if _, got := l.accept(&v.id, 100); got != c.sameAmount {
			t.Errorf("%s, the same amount: %d", c.state, got)
		}
		if _, got := l.accept(&v.id, 200); got != c.anyOther {
			t.Errorf("%s, another amount: %d", c.state, got)
		}
	}
}

func TestFullQueueAcceptsNothing(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	l.maxPending = 2
	first := accept(t, l, 1, 1)
	accept(t, l, 2, 1)
	id := nthID(3)
	if _, what := l.accept(&id, 1); what != acceptedFull {
		t.Fatalf("acceptance %d", what)
	}
	if _, known := l.find(&id, indexHash(&id)); known {
		t.Error("a refused payment is known")
	}
	must(t)(l.become(first, slotDuplicate))
	accept(t, l, 3, 1)
	crash(l)
	l, f := openTestLedger(t, dir)
	defer l.close()
	if f.published != 3 {
		t.Errorf("%d slots, want 3", f.published)
	}
}

func TestDamageIsFoundAndTheRestGoesOn(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func(s *slot)
	}{
		{"amount", func(s *slot) { s.amount++ }},
		{"id", func(s *slot) { s.id[3] ^= 1 }},
		{"sequence", func(s *slot) { s.seq++ }},
		{"word", func(s *slot) { s.word.Store(s.word.Load() ^ 1<<40) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			dir := t.TempDir()
			l, _ := openTestLedger(t, dir)
			for n := range uint64(3) {
				accept(t, l, n, 1)
			}
			damage.do(&l.active.table.Load().at(0).slots[1])
			crash(l)
			l, f := openTestLedger(t, dir)
			defer l.close()
			if f.damaged != 1 || len(f.accepted) != 2 {
				t.Errorf("%d damaged, %d accepted", f.damaged, len(f.accepted))
			}
		})
	}
}

func TestNewerFormatIsNotTouched(t *testing.T) {
	for _, file := range []string{"head", "segment"} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			l, _ := openTestLedger(t, dir)
			accept(t, l, 1, 1)
			if head := l.active.head; file == "head" {
				head.version, head.sum = formatVersion+1, ^head.sum
			} else {
				head := l.active.table.Load().at(0).head
				head.version, head.sum = formatVersion+1, ^head.sum
			}
			crash(l)
			before := readAll(t, dir)
			f, err := openFolder(dir, "test", false, quietLog())
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := openLedger(f, newClock(), 10, time.Hour, quietLog()); !errors.Is(err, errNewerFormat) {
				t.Errorf("opened with %v", err)
			}
			if after := readAll(t, dir); after != before {
				t.Error("files changed")
			}
		})
	}
}

// readAll is the content of every file below dir, digested.
func readAll(t *testing.T, dir string) string {
	t.Helper()
	all := ""
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all += fmt.Sprintf("%s %x\n", path, b[:min(len(b), 8192)])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestJournalThatCannotBeOpenedIsSetAside: else every life of the store would wait for its report for ever.
func TestJournalThatCannotBeOpenedIsSetAside(t *testing.T) {
	const name = "0123456789abcdef" + journalSuffix
	for what, spoil := range map[string]func(dir string) error{
		"no head":    func(dir string) error { return nil },
		"empty head": func(dir string) error { return os.WriteFile(filepath.Join(dir, headName), nil, 0o600) },
		"zero head": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, headName), make([]byte, headBytes), 0o600)
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := spoil(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			l, _ := openTestLedger(t, dir)
			defer l.close()
			ids, err := l.folder.journalIDs()
			if err != nil || len(ids) != 1 {
				t.Errorf("journals %v, %v", ids, err)
			}
			if _, err := l.highestMark(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, name+".damaged")); err != nil {
				t.Error(err)
			}
			accept(t, l, 1, 1)
		})
	}
}

func TestOneOwnerPerJournal(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	defer l.close()
	other, f := openTestLedger(t, dir)
	defer other.close()
	if other.active.id == l.active.id || f.published != 0 {
		t.Error("two ledgers own one journal")
	}
}

func TestOrphanIsFinishedInPlace(t *testing.T) {
	dir := t.TempDir()
	gone, _ := openTestLedger(t, dir)
	accept(t, gone, 1, 1)
	id := gone.active.id

	f, err := openFolder(dir, "heir", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	heir, _, err := openLedger(f, newClock(), 10, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	defer heir.close()
	orphans := make(map[journalID]bool)
	look := func() int {
		t.Helper()
		f, err := heir.adoptOrphans(orphans)
		if err != nil {
			t.Fatal(err)
		}
		return len(f.accepted)
	}
	if look(); look() != 0 {
		t.Error("took a journal whose owner lives")
	}
	crash(gone)
	if look() != 0 {
		t.Error("took a journal at the first look: its owner may be coming back")
	}
	if look() != 1 || !heir.owns(id) {
		t.Fatal("did not take the orphan")
	}
	if v := accept(t, heir, 2, 1); v.ref.journal() == 1 {
		t.Error("appended to a journal that is only to be finished")
	}
	seen := nthID(1)
	v, known := heir.find(&seen, indexHash(&seen))
	if !known {
		t.Fatal("does not know the orphan's payment")
	}
	must(t)(heir.become(v, slotDuplicate))
	if err := heir.tidy(); err != nil {
		t.Fatal(err)
	}
	if n := len((*heir.journals.Load())[1].table.Load().list); n != 0 {
		t.Errorf("%d segments of a finished journal are still mapped", n)
	}
}

// fillSegment accepts payments until the first segment is full, and returns how many.
func fillSegment(t testing.TB, l *ledger, state slotState) uint64 {
	t.Helper()
	for n := range uint64(segmentSlots) {
		if err := l.active.prepare(); err != nil {
			t.Fatal(err)
		}
		must(t)(l.become(accept(t, l, n, 1), state))
	}
	accept(t, l, segmentSlots, 1)
	return segmentSlots
}

func TestSettledSegmentsGoByAge(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	n := fillSegment(t, l, slotSettled)
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	if l.active.table.Load().at(0) != nil {
		t.Fatal("a settled segment is still mapped")
	}
	if v, ok := l.read(makeRef(0, 5)); ok {
		t.Errorf("read %v from a segment that is gone", v)
	}
	count := func() (n uint64) {
		if _, err := l.active.eachRetired(0, func(slotView) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := count(); got != n {
		t.Errorf("%d slots can be replayed, want %d", got, n)
	}
	crash(l)
	l, f := openTestLedger(t, dir)
	defer l.close()
	if f.published != 1 || count() != n {
		t.Errorf("after a restart %d slots were scanned (want 1: the rest is settled), %d can be replayed", f.published, count())
	}
	l.retention = -time.Hour
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(segmentPath(l.active.dir, 0)); !errors.Is(err, os.ErrNotExist) || count() != 0 {
		t.Errorf("an expired segment is still there (%v)", err)
	}
}

func TestUnsettledSlotKeepsItsSegment(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	fillSegment(t, l, slotElsewhere)
	l.retention = -time.Hour
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	if l.active.table.Load().at(0) == nil {
		t.Fatal("a segment with unsettled slots is gone")
	}
}

func TestPurgeForgetsWhatIsSettledOnly(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	fillSegment(t, l, slotSettled)
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	settled := must(t)(l.become(accept(t, l, 1<<20, 1), slotSettled))
	waiting := accept(t, l, 1<<20+1, 1)
	if err := l.purge(7); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		if v, _ := l.read(settled.ref); v.word.state() != slotPurged {
			t.Errorf("settled became %s", v.word.state())
		}
		if v, _ := l.read(waiting.ref); v.word.state() != slotAccepted {
			t.Errorf("accepted became %s", v.word.state())
		}
		retired := 0
		if _, err := l.active.eachRetired(0, func(v slotView) {
			retired++
			if st, ok := settlementOf(v, 0); !ok || !st.hidden {
				t.Fatalf("%v would be counted again", v)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if retired == 0 {
			t.Error("no retired slot was seen")
		}
		if mark, err := l.highestMark(); mark != 7 || err != nil {
			t.Errorf("mark %d (%v)", mark, err)
		}
	}
	look()
	crash(l)
	l, _ = openTestLedger(t, dir)
	defer l.close()
	look()
}

func TestFullDiskRefusesAndGoesOn(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	j := l.active
	j.next.Store(j.limit.Load()) // as if every segment were full and no other could be made
	id := nthID(1)
	if _, what := l.accept(&id, 1); what != acceptedFull {
		t.Fatalf("acceptance %d", what)
	}
	if l.pending.Load() != 0 {
		t.Errorf("%d pending", l.pending.Load())
	}
	select {
	case <-j.wanted:
	default:
		t.Error("nobody asked for a segment")
	}
	if err := j.prepare(); err != nil {
		t.Fatal(err)
	}
	accept(t, l, 1, 1)
}

func TestIntakeAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates; run without -race")
	}
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	n := uint64(0)
	if got := testing.AllocsPerRun(1000, func() {
		n++
		id := nthID(n)
		if _, what := l.accept(&id, 1990); what != acceptedNew {
			t.Fatalf("acceptance %d", what)
		}
	}); got != 0 {
		t.Errorf("%v allocations per payment", got)
	}
}

func BenchmarkAccept(b *testing.B) {
	l, _ := openTestLedger(b, b.TempDir())
	defer l.close()
	b.ReportAllocs()
	for n := range uint64(b.N) {
		if n%(segmentSlots/2) == 0 {
			b.StopTimer()
			if err := l.active.prepare(); err != nil {
				b.Fatal(err)
			}
			if err := l.tidy(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		id := nthID(n)
		r, what := l.accept(&id, 1990)
		if what != acceptedNew {
			b.Fatalf("acceptance %d", what)
		}
		v, _ := l.read(r)
		l.become(v, slotDuplicate)
	}
}

// TestEveryStoreIsMarkedForTheNextSync: what is not marked would stay out of a sync, and DURABILITY=disk would wait for nothing.
func TestEveryStoreIsMarkedForTheNextSync(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	seg := l.active.table.Load().list[0]
	var v slotView
	for _, c := range []struct {
		what  string
		store func()
	}{
		{"an append", func() { v = accept(t, l, 1, 100) }},
		{"the next one", func() { accept(t, l, 2, 100) }},
		{"another state", func() { l.become(v, slotElsewhere) }},
	} {
		if err := l.active.sync(); err != nil {
			t.Fatal(err)
		}
		if seg.dirty.Load() {
			t.Errorf("before %s: still marked after a sync", c.what)
		}
		if c.store(); !seg.dirty.Load() {
			t.Errorf("%s left no mark", c.what)
		}
	}
}
