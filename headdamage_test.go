package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"
)

// headerFiles is a journal that nobody owns, with the beginning of each of its files as it was: what a start may change in it.
type headerFiles struct {
	dir, journal string
	id           journalID
	pages        map[string][]byte
}

// writtenJournal makes a journal of the instance "test" with the purge mark 3 and payments that are
// purged, accepted, sent and settled; the accepted one was queued again.
func writtenJournal(t *testing.T) headerFiles {
	t.Helper()
	l, _ := openTestLedger(t, t.TempDir())
	must(t)(l.become(accept(t, l, 9, 900), slotSettled))
	if err := l.purge(3); err != nil {
		t.Fatal(err)
	}
	accept(t, l, 1, 100)
	must(t)(l.sent(accept(t, l, 2, 200), onFallback, 7))
	must(t)(l.become(accept(t, l, 3, 300), slotSettled))
	if err := l.active.noteRequeue(1); err != nil {
		t.Fatal(err)
	}
	h := headerFiles{dir: l.folder.path, journal: l.active.dir, id: l.active.id, pages: make(map[string][]byte)}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(segmentPath(h.journal, 1)); err != nil { // the spare one is made anew by each start
		t.Fatal(err)
	}
	for _, path := range []string{h.path("head"), h.path("segment")} {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if h.pages[path], err = io.ReadAll(io.LimitReader(file, segmentHeader+8*slotSize)); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	return h
}

func (h headerFiles) path(file string) string {
	if file == "head" {
		return filepath.Join(h.journal, headName)
	}
	return segmentPath(h.journal, 0)
}

// restore brings the folder back to what it was.
func (h headerFiles) restore(t *testing.T) {
	t.Helper()
	for path, page := range h.pages {
		overwrite(t, path, 0, page)
	}
	all, err := filepath.Glob(filepath.Join(h.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if path != h.journal {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Remove(segmentPath(h.journal, 1)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// start is a start of the instance "test" and its looks for journals that nobody has. It returns what was found, and what was logged as an error.
func (h headerFiles) start(t *testing.T) (*ledger, found, string) {
	t.Helper()
	var log bytes.Buffer
	f, err := openFolder(h.dir, "test", false, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		t.Fatal(err)
	}
	l, found, err := openLedger(f, newClock(), 10, time.Hour, f.log)
	if err != nil {
		t.Fatalf("the start is refused: %v", err)
	}
	orphans := make(map[journalID]bool)
	for range 2 {
		more, err := l.adoptOrphans(orphans)
		if err != nil {
			t.Fatal(err)
		}
		found.join(more)
	}
	return l, found, log.String()
}

// wantAll says that everything in the journal was found, and returns it.
func (h headerFiles) wantAll(t *testing.T, l *ledger, f found) *journal {
	t.Helper()
	if len(f.accepted)+len(f.doubtful) != 1 || len(f.sent)+len(f.waiting) != 1 || f.published != 4 || f.damaged != 0 || !l.owns(h.id) {
		t.Fatalf("found %+v", f)
	}
	states := map[uint64]slotState{1: slotAccepted, 2: slotSent, 3: slotSettled, 9: slotPurged}
	for n, state := range states {
		id := nthID(n)
		if v, ok := l.find(&id, indexHash(&id)); !ok || v.amount != cents(100*n) || v.word.state() != state {
			t.Errorf("payment %d is %s: %v %+v", n, v.word.state(), ok, v)
		}
	}
	for _, j := range *l.journals.Load() {
		if j.id == h.id {
			return j
		}
	}
	return nil
}

// TestNoDamagedByteIsTakenForAnotherFormat: whatever becomes of any one byte, and of a version that was lost with its sector.
func TestNoDamagedByteIsTakenForAnotherFormat(t *testing.T) {
	h := writtenJournal(t)
	check := func(page []byte, size uintptr, newer func() bool, what string) {
		for at := range size {
			for flips := 1; flips < 256; flips++ {
				page[at] ^= byte(flips)
				if newer() {
					t.Errorf("byte %d of a %s with %02x flipped", at, what, flips)
				}
				page[at] ^= byte(flips)
			}
		}
		clear(page[8:])
		if newer() {
			t.Errorf("a %s of which only the magic is left", what)
		}
	}
	segment := (*segmentHead)(unsafe.Pointer(&h.pages[h.path("segment")][0]))
	check(h.pages[h.path("segment")], unsafe.Sizeof(*segment), segment.newer, "segment")
	head := (*journalHead)(unsafe.Pointer(&h.pages[h.path("head")][0]))
	check(h.pages[h.path("head")], unsafe.Sizeof(*head), head.newer, "head")
}

// TestDamagedFieldOfAHeaderIsMended: no start is refused, and nothing is lost or goes unsaid.
func TestDamagedFieldOfAHeaderIsMended(t *testing.T) {
	var segment segmentHead
	var head journalHead
	for _, field := range []struct {
		file, name string
		at         uintptr
		values     []byte
		unsaid     bool // nothing was lost by it
	}{
		{"segment", "magic", unsafe.Offsetof(segment.magic), []byte{0}, false},
		{"segment", "version", unsafe.Offsetof(segment.version), []byte{0, 2, 255}, false},
		{"segment", "version's second byte", unsafe.Offsetof(segment.version) + 1, []byte{1}, false},
		{"segment", "sum", unsafe.Offsetof(segment.sum), []byte{0x11}, false},
		{"segment", "journal", unsafe.Offsetof(segment.journal), []byte{0x11}, false},
		{"segment", "number", unsafe.Offsetof(segment.number), []byte{1}, false},
		{"segment", "boot", unsafe.Offsetof(segment.boot), []byte{0x11}, false},
		{"segment", "final since", unsafe.Offsetof(segment.finalSince), []byte{1}, true},
		{"segment", "purged", unsafe.Offsetof(segment.purged), []byte{2}, false},
		{"head", "magic", unsafe.Offsetof(head.magic), []byte{0}, false},
		{"head", "version", unsafe.Offsetof(head.version), []byte{0, 2, 255}, false},
		{"head", "version's second byte", unsafe.Offsetof(head.version) + 1, []byte{1}, false},
		{"head", "sum", unsafe.Offsetof(head.sum), []byte{0x11}, true},
		{"head", "id", unsafe.Offsetof(head.id), []byte{0x11}, false},
		{"head", "instance", unsafe.Offsetof(head.instance), []byte{'T'}, true},
		{"head", "mark", unsafe.Offsetof(head.mark), []byte{0, 4}, false},
		{"head", "mark's last bits", unsafe.Offsetof(head.mark) + 6, []byte{0x21}, false},
		{"head", "purging", unsafe.Offsetof(head.purging), []byte{0, 4}, false},
		{"head", "requeued", unsafe.Offsetof(head.requeued), []byte{0, 9}, false},
		{"head", "owner", unsafe.Offsetof(head.owner), []byte{'T'}, true},
	} {
		t.Run(field.file+"'s "+field.name, func(t *testing.T) {
			h := writtenJournal(t)
			for _, b := range field.values {
				h.restore(t)
				if h.pages[h.path(field.file)][field.at] == b {
					t.Fatalf("it is %02x anyway", b)
				}
				overwrite(t, h.path(field.file), uint32(field.at), []byte{b})
				h.wantMended(t, field.unsaid)
				h.wantMended(t, true)
			}
		})
	}
}

// wantMended starts, and says that everything is there; silent: without a word.
func (h headerFiles) wantMended(t *testing.T, silent bool) {
	t.Helper()
	l, f, said := h.start(t)
	j := h.wantAll(t, l, f)
	if mark, from := j.head.mark.Load(), j.requeuedFrom(); mark != 3 || from > 1 {
		t.Errorf("the purge mark is %d, and replays begin at %d", mark, from)
	}
	if silent != (said == "") {
		t.Errorf("it says %q", said)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
}

// TestSegmentOfWhichOnlyTheVersionIsDamagedIsBelieved: what reads accepted in it is not in doubt, and it is appended to.
func TestSegmentOfWhichOnlyTheVersionIsDamagedIsBelieved(t *testing.T) {
	h := writtenJournal(t)
	overwrite(t, h.path("segment"), uint32(unsafe.Offsetof(segmentHead{}.version)), []byte{formatVersion + 1})
	l, f, _ := h.start(t)
	defer l.close()
	if h.wantAll(t, l, f); len(f.accepted) != 1 || len(f.searched) != 0 {
		t.Errorf("found %+v", f)
	}
	if v := accept(t, l, 20, 1); v.ref.seq() != 4 {
		t.Errorf("the next payment has the sequence %d", v.ref.seq())
	}
}

// TestMarkIsNotBelievedOfWhatIsNoHead: what is no head at all may hold a number that looks intact by chance.
func TestMarkIsNotBelievedOfWhatIsNoHead(t *testing.T) {
	h := writtenJournal(t)
	head := h.path("head")
	if err := spoil(head, 0, headBytes); err != nil {
		t.Fatal(err)
	}
	overwrite(t, head, uint32(unsafe.Offsetof(journalHead{}.mark)), h.pages[head][unsafe.Offsetof(journalHead{}.mark):][:8])
	f, err := openFolder(h.dir, "test", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	if mark, err := f.markOf(h.id); mark != 0 || err != nil {
		t.Errorf("%d, %v", mark, err)
	}
}

// TestPurgedSegmentStaysForgotten: whatever is damaged in the header of one that was settled and unmapped when the purge came. In a
// journal that was never purged nothing can have been forgotten.
func TestPurgedSegmentStaysForgotten(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	dir, folder := l.folder.path, l.active.dir
	fillSegment(t, l, slotSettled)
	if err := l.tidy(); err != nil {
		t.Fatal(err)
	}
	whole := make(map[uint64]segmentFile)
	keep := func(mark uint64) {
		inSegment(t, folder, 0, func(s segmentFile) { s.bytes = slices.Clone(s.bytes); whole[mark] = s })
	}
	keep(0)
	if err := l.purge(3); err != nil {
		t.Fatal(err)
	}
	keep(3)
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	for field, at := range map[string]uintptr{
		"magic": unsafe.Offsetof(segmentHead{}.magic), "version": unsafe.Offsetof(segmentHead{}.version), "boot": unsafe.Offsetof(segmentHead{}.boot),
		"final since": unsafe.Offsetof(segmentHead{}.finalSince), "purged": unsafe.Offsetof(segmentHead{}.purged), "purged's last bits": unsafe.Offsetof(segmentHead{}.purged) + 6,
	} {
		for mark, state := range map[uint64]slotState{0: slotSettled, 3: slotPurged} {
			t.Run(fmt.Sprintf("%s, mark %d", field, mark), func(t *testing.T) {
				overwrite(t, segmentPath(folder, 0), 0, whole[mark].bytes)
				overwrite(t, segmentPath(folder, 0), uint32(at), []byte{whole[mark].bytes[at] ^ 0x11})
				var marks checked[uint64]
				marks.Store(mark)
				number := binary.NativeEndian.AppendUint64(nil, marks.v.Load())
				overwrite(t, filepath.Join(folder, headName), uint32(unsafe.Offsetof(journalHead{}.mark)), slices.Concat(number, number))
				l, f := openTestLedger(t, dir)
				defer l.close()
				if f.damaged != 0 || f.unsettled() != 1 {
					t.Fatalf("found %+v", f)
				}
				seen := make(map[slotState]int)
				count := func(v slotView) { seen[v.word.state()]++ }
				l.active.eachIn(0, 0, count)
				if _, err := l.active.eachRetired(0, count); err != nil {
					t.Fatal(err)
				}
				if seen[state] != segmentSlots || len(seen) != 1 {
					t.Errorf("seen %v", seen)
				}
			})
		}
	}
}

// TestLostHeadIsMadeAnew: the payments are in the segments. While its owner lives, nobody takes the journal or sets it aside.
func TestLostHeadIsMadeAnew(t *testing.T) {
	h := writtenJournal(t)
	owner, found, _ := h.start(t)
	h.wantAll(t, owner, found)
	if err := os.Remove(h.path("head")); err != nil {
		t.Fatal(err)
	}
	heir, found, _ := h.start(t)
	defer heir.close()
	if found.published != 0 || heir.owns(h.id) || !exists(t, h.journal) || exists(t, h.path("head")) {
		t.Fatalf("a journal was taken whose owner lives: %+v", found)
	}
	crash(owner)
	orphans := make(map[journalID]bool)
	for range 2 {
		var err error
		if found, err = heir.adoptOrphans(orphans); err != nil {
			t.Fatal(err)
		}
	}
	if j := h.wantAll(t, heir, found); j.requeuedFrom() != 0 {
		t.Errorf("replays begin at %d", j.requeuedFrom())
	}
	if v := accept(t, heir, 20, 1); v.ref.journal() != 0 {
		t.Error("it is appended to")
	}
}

// TestHeadDoesNotMakeAnOwner: neither one that was put in the place of a lost one, nor one made anew, while the journal's owner lives.
func TestHeadDoesNotMakeAnOwner(t *testing.T) {
	h := writtenJournal(t)
	taken, _, _ := h.start(t)
	defer taken.close()
	made, _, _ := h.start(t)
	defer made.close()
	for name, id := range map[string]journalID{"taken": taken.active.id, "made": made.active.id} {
		head := filepath.Join(made.folder.dir(id), headName)
		if err := os.Remove(head); err != nil {
			t.Fatal(err)
		}
		if j, err := made.folder.restore(id, 0); !errors.Is(err, errOwned) {
			t.Errorf("%s: %v, %v", name, j, err)
		}
		if err := os.WriteFile(head, restoredHead(id, 0), 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := made.folder.claim(id); !errors.Is(err, errOwned) {
			t.Errorf("%s: %v, %v", name, j, err)
		}
	}
}

// TestInspectionLooksPastADamagedVersion: the slots are read, and the damage is named.
func TestInspectionLooksPastADamagedVersion(t *testing.T) {
	h := writtenJournal(t)
	overwrite(t, h.path("segment"), uint32(unsafe.Offsetof(segmentHead{}.version)), []byte{formatVersion + 1})
	overwrite(t, h.path("head"), uint32(unsafe.Offsetof(journalHead{}.version)), []byte{formatVersion + 1})
	list, err := inspectFolder(h.dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	r, err := list[0].report()
	if err != nil || r.Damaged != 2 || r.Slots["accepted"] != 1 || r.Slots["settled"] != 1 || r.Fault != "the version in its head is damaged: it reads 2" {
		t.Errorf("%+v, %v", r, err)
	}
}
