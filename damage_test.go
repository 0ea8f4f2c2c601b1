package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

// segmentFile is a segment of a journal that nobody owns, to be damaged.
type segmentFile struct {
	path  string
	bytes []byte
	head  *segmentHead
	slots []slot
}

// inSegment reads a whole segment, lets damage change it, and writes it back.
func inSegment(t testing.TB, dir string, number uint64, damage func(s segmentFile)) {
	t.Helper()
	path := segmentPath(dir, number)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damage(segmentFile{path, b, (*segmentHead)(unsafe.Pointer(&b[0])),
		unsafe.Slice((*slot)(unsafe.Pointer(&b[segmentHeader])), (len(b)-segmentHeader)/slotSize)})
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

func (s segmentFile) slotBytes(i int) []byte {
	return s.bytes[segmentHeader+i*slotSize : segmentHeader+(i+1)*slotSize]
}

func garble(b []byte) {
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
}

// TestMissingSegmentComesBackFromItsClaims: of three segments the one in the middle is gone.
func TestMissingSegmentComesBackFromItsClaims(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	j := l.active
	fillSegment(t, l, slotElsewhere)
	j.next.Store(2 * segmentSlots)
	if err := j.prepare(); err != nil {
		t.Fatal(err)
	}
	accept(t, l, 1<<20, 1)
	crash(l)
	if err := os.Remove(segmentPath(j.dir, 1)); err != nil {
		t.Fatal(err)
	}
	l, f := openTestLedger(t, dir)
	defer l.close()
	if len(f.searched) != 1 {
		t.Fatal("nothing is looked for")
	}
	j = l.active
	m := newMender(l, nil, nil, newResolver(l, nil, nil, nil, [processors]client{}, newMetrics(), quietLog()), newMetrics(), quietLog())
	lost := record{id: nthID(1 << 21), amount: 5, acceptedAt: 7, journal: j.id.String(), seq: segmentSlots + 3}
	pending := l.pending.Load()
	if err := m.search(j, map[uint64]record{lost.seq: lost, 5: {id: nthID(5)}, 9 * segmentSlots: lost}, &mendCount{}); err != nil {
		t.Fatal(err)
	}
	v, ok := l.read(makeRef(0, lost.seq))
	if !ok || v.id != lost.id || v.amount != lost.amount || v.acceptedAt != lost.acceptedAt || v.word != damagedWord {
		t.Errorf("%v %+v", ok, v)
	}
	if got := l.pending.Load(); got != pending+1 {
		t.Errorf("%d pending, want %d", got, pending+1)
	}
	if v, _ := l.read(makeRef(0, 5)); v.word.state() != slotElsewhere {
		t.Errorf("an intact slot became %s", v.word.state())
	}
}

// TestForeignSegmentIsSetAside: a whole segment that belongs to another journal is nobody's damage.
func TestForeignSegmentIsSetAside(t *testing.T) {
	other := t.TempDir()
	o, _ := openTestLedger(t, other)
	accept(t, o, 1, 1)
	foreign := segmentPath(o.active.dir, 0)
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	own := segmentPath(l.active.dir, 0)
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(foreign)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, before, 0o640); err != nil {
		t.Fatal(err)
	}
	l, f := openTestLedger(t, dir)
	defer l.close()
	if after, err := os.ReadFile(own + ".damaged"); err != nil || !slices.Equal(after, before) {
		t.Errorf("the file was changed, or is not there (%v)", err)
	}
	if f.published != 0 {
		t.Errorf("found %+v", f)
	}
	if v := accept(t, l, 1, 1); v.ref.seq() < segmentSlots {
		t.Errorf("sequence %d is used again", v.ref.seq())
	}
}

// TestRetiredSegmentIsReadAfterAPowerLoss: its header, which says that everything is settled, may have reached the disk before
// the words did.
func TestRetiredSegmentIsReadAfterAPowerLoss(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	fillSegment(t, l, slotSettled)
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	folder := l.active.dir
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	open := func() found {
		l, f := openTestLedger(t, dir)
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	asOfAnotherBoot := func(s segmentFile) {
		s.head.boot = [16]byte{9}
		s.head.sum = s.head.checksum()
	}
	if f := open(); f.published != 1 {
		t.Fatalf("%d slots were read in the same run of the host, want 1", f.published)
	}
	inSegment(t, folder, 0, asOfAnotherBoot)
	if f := open(); f.published != 1 || f.unsettled() != 1 {
		t.Errorf("a segment that is settled after all was taken up: %+v", f)
	}
	inSegment(t, folder, 0, func(s segmentFile) {
		asOfAnotherBoot(s)
		s.slots[3].word.Store(uint64(word(0).with(slotAccepted)))
		s.slots[4].word.Store(uint64(word(0).with(slotSent).at(onFallback, 0, 5)))
		s.slots[5].word.Store(uint64(word(0).with(slotPaid).at(onFallback, 0, 5)))
	})
	f := open()
	if len(f.doubtful) != 1 || f.doubtful[0].seq() != 3 || len(f.waiting) != 1 || f.waiting[0].ref.seq() != 4 || len(f.settling) != 1 {
		t.Errorf("doubtful %v, waiting %v, settling %v", f.doubtful, f.waiting, f.settling)
	}
}

// TestDamagedSettledSlotIsReportedByAReplay: nobody looks at a segment whose header says that all is settled until Redis is filled.
func TestDamagedSettledSlotIsReportedByAReplay(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	defer l.close()
	fillSegment(t, l, slotSettled)
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	seg, err := openSegment(l.active.dir, l.active.id, 0)
	if err != nil {
		t.Fatal(err)
	}
	seg.slots[7].amount++
	if err := seg.unmap(); err != nil {
		t.Fatal(err)
	}
	whole := 0
	damaged, err := l.active.eachRetired(0, func(slotView) { whole++ })
	if damaged != 1 || whole != segmentSlots-1 || err != nil {
		t.Errorf("%d damaged, %d whole, %v", damaged, whole, err)
	}
}

// TestDamagedRetiredSegmentKeepsNobodyWaiting: a life of the store begins, a purge goes on.
func TestDamagedRetiredSegmentKeepsNobodyWaiting(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	fillSegment(t, l, slotSettled)
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	inSegment(t, l.active.dir, 0, func(s segmentFile) { garble(s.bytes[:segmentHeader]) })
	if _, err := l.active.eachRetired(0, func(slotView) {}); err != nil {
		t.Error(err)
	}
	if err := l.purge(3); err != nil {
		t.Error(err)
	}
}

func TestCheckedNumbersKnowTheirDamage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Uint64Range(0, 1<<checkedBits-1).Draw(t, "x")
		var c checked[uint64]
		c.Store(x)
		if c.Load() != x || !c.intact() {
			t.Fatalf("%d reads as %d", x, c.Load())
		}
		stored := c.v.Load()
		for at := range 8 {
			for flips := range uint64(256) {
				c.v.Store(stored ^ flips<<(8*at))
				if damaged := flips != 0; damaged && c.Load() != 0 || c.intact() == damaged {
					t.Fatalf("%d with %02x flipped in byte %d reads as %d", x, flips, at, c.Load())
				}
			}
		}
	})
	var ones checked[uint64]
	if !ones.intact() || ones.Load() != 0 {
		t.Error("a new one is not 0")
	}
	ones.v.Store(1<<64 - 1)
	if ones.intact() {
		t.Error("all ones are taken for a number")
	}
}

// TestLostSlotsHoldUpProgress: until their claims were looked for, the store is not told that everything below is final, and
// the segment stays.
func TestLostSlotsHoldUpProgress(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	fillSegment(t, l, slotSettled)
	folder := l.active.dir
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	const from, n = 100, 64
	inSegment(t, folder, 0, func(s segmentFile) { clear(s.bytes[segmentHeader+from*slotSize:][:n*slotSize]) })
	l, f := openTestLedger(t, dir)
	defer l.close()
	if len(f.searched) != 1 {
		t.Fatal("nothing is looked for")
	}
	if low := l.active.advanceLow(); low != from {
		t.Errorf("low is %d, want %d", low, from)
	}
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	if l.active.table.Load().at(0) == nil {
		t.Fatal("the segment was retired before its claims were looked for")
	}
	l.active.searching.Store(false)
	if low := l.active.advanceLow(); low != segmentSlots {
		t.Errorf("low is %d, want %d", low, segmentSlots)
	}
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	if l.active.table.Load().at(0) != nil {
		t.Error("the segment is still there")
	}
}

// spoil fills a part of a file with ones.
func spoil(path string, at, n int) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteAt(bytes.Repeat([]byte{0xff}, n), int64(at))
	return err
}

// TestDamagedHeadIsMadeAnew: the folder's name and the segments say all that has to be known. Nothing is appended to such a journal.
func TestDamagedHeadIsMadeAnew(t *testing.T) {
	for name, damage := range map[string]func(head string) error{
		"all of it":   func(head string) error { return spoil(head, 0, headBytes) },
		"magic":       func(head string) error { return spoil(head, 0, 8) },
		"id":          func(head string) error { return spoil(head, int(unsafe.Offsetof(journalHead{}.id)), 8) },
		"purge marks": func(head string) error { return spoil(head, int(unsafe.Offsetof(journalHead{}.mark)), 16) },
		"cut short":   func(head string) error { return os.Truncate(head, 100) },
		"empty":       func(head string) error { return os.Truncate(head, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, _ := openTestLedger(t, dir)
			accepted := accept(t, l, 1, 100)
			out := must(t)(l.sent(accept(t, l, 2, 200), onFallback, 7))
			if err := l.purge(3); err != nil {
				t.Fatal(err)
			}
			id, head := l.active.id, filepath.Join(l.active.dir, headName)
			if err := l.close(); err != nil {
				t.Fatal(err)
			}
			f, err := openFolder(dir, "another", false, quietLog())
			if err != nil {
				t.Fatal(err)
			}
			l, _, err = openLedger(f, newClock(), 10, time.Hour, quietLog())
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if err := l.purge(4); err != nil {
				t.Fatal(err)
			}
			if err := damage(head); err != nil {
				t.Fatal(err)
			}
			orphans := make(map[journalID]bool)
			var found found
			for range 2 {
				if found, err = l.adoptOrphans(orphans); err != nil {
					t.Fatal(err)
				}
			}
			if len(found.accepted) != 1 || len(found.sent) != 1 || found.damaged != 0 || !l.owns(id) {
				t.Fatalf("found %+v", found)
			}
			for r, was := range map[ref]slotView{found.accepted[0]: accepted, found.sent[0]: out} {
				if v, _ := l.read(r); v.id != was.id || v.amount != was.amount || v.requestedAt != was.requestedAt {
					t.Errorf("read %+v, was %+v", v, was)
				}
			}
			if mark := (*l.journals.Load())[1].head.mark.Load(); mark != 4 {
				t.Errorf("its purge mark is %d, want that of the other journal, 4", mark)
			}
			if v := accept(t, l, 3, 1); v.ref.journal() != 0 {
				t.Error("it is appended to")
			}
		})
	}
}
