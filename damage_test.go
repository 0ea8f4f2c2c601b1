package main

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"
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
	if !ok || v.id != lost.id || v.amount != lost.amount || v.acceptedAt != lost.acceptedAt || v.word.state() != slotAccepted {
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
	if len(f.doubtful) != 1 || f.doubtful[0].seq() != 3 || len(f.sent) != 1 || f.sent[0].seq() != 4 || len(f.settling) != 1 {
		t.Errorf("doubtful %v, sent %v, settling %v", f.doubtful, f.sent, f.settling)
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
	if err := l.active.eachRetired(0, 0, func(slotView) {}); err != nil {
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
		c.v.Store(c.v.Load() ^ 1<<rapid.IntRange(0, 63).Draw(t, "bit"))
		if c.intact() || c.Load() != 0 {
			t.Fatalf("%d with a flipped bit reads as %d", x, c.Load())
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
