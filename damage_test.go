package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// refusing is a processor that writes nothing; breaking one that answers nothing.
func refusing(rw http.ResponseWriter, _ fakePayment, _ func()) bool {
	rw.WriteHeader(http.StatusInternalServerError)
	return true
}

func breaking(rw http.ResponseWriter, _ fakePayment, _ func()) bool {
	hijacked(rw)
	return true
}

func (f *fakeProcessor) hush(silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = silent
}

// damagedWorld has a Redis that outlives the instance.
func damagedWorld(t *testing.T) *testWorld {
	w := newTestWorld(t)
	w.env["REDIS_URL"] = startRedis(t).url()
	return w
}

// leave starts an instance, has it accept payments 0 to n-1 of 1.00, waits until each is as wanted and claimed or settled in the
// store, stops it, and returns its journal's folder.
func (w *testWorld) leave(t *testing.T, n int, wanted func(v slotView) bool, settings ...string) string {
	t.Helper()
	g := w.start(t, settings...)
	for i := range uint64(n) {
		g.accepted(nthID(i), "1.00")
	}
	eventually(t, "all are as wanted", func() bool {
		for i := range uint64(n) {
			if v, _ := g.ledger.read(makeRef(0, i)); !wanted(v) {
				return false
			}
		}
		return true
	})
	dir := g.ledger.active.dir
	g.stopAll()
	return dir
}

func isSettled(v slotView) bool { return v.word.state() == slotSettled }

// wasRefused: claimed, tried, and may be sent anywhere.
func wasRefused(v slotView) bool {
	return v.word.state() == slotAccepted && v.word.attempts() > 0
}

func isPinnedAt(p processorID) func(v slotView) bool {
	return func(v slotView) bool {
		return v.word.state() == slotSent && v.word.pinned() && v.word.processor() == p
	}
}

// claimed leaves n payments that are claimed, were tried where that was possible, and have not been paid.
func (w *testWorld) claimed(t *testing.T, n int) string {
	t.Helper()
	w.def.behave(refusing)
	w.fall.behave(refusing)
	g := w.start(t, "WORKERS", "32", "LINGER", "100ms") // a worker that waits at the closed gate claims no more
	for i := range uint64(n) {
		g.accepted(nthID(i), "1.00")
	}
	eventually(t, "all are claimed", func() bool {
		claims := 0
		err := g.store.eachClaim(t.Context(), g.store.token(), func(record) { claims++ })
		return err == nil && claims == n
	})
	dir := g.ledger.active.dir
	g.stopAll()
	w.def.behave(nil)
	w.fall.behave(nil)
	return dir
}

// paidOnce waits until payments 0 to n-1 are all paid, and checks that none is paid twice and the summary agrees.
func (w *testWorld) paidOnce(t *testing.T, g *testGalo, n int) {
	t.Helper()
	eventually(t, "all are paid", func() bool { return w.def.count()+w.fall.count() >= n })
	eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	for i := range uint64(n) {
		id := nthID(i).String()
		_, atDefault := w.def.has(id)
		_, atFallback := w.fall.has(id)
		if atDefault == atFallback {
			t.Errorf("payment %d: at default %v, at fallback %v", i, atDefault, atFallback)
		}
		if s := g.state(nthID(i)); !strings.HasPrefix(s, "settled") {
			t.Errorf("payment %d is %s", i, s)
		}
	}
	want := wantSummary(w.def.count(), fmt.Sprintf("%d.00", w.def.count()), w.fall.count(), fmt.Sprintf("%d.00", w.fall.count()))
	eventually(t, "the summary is "+want, func() bool { return g.summary("") == want })
}

func (g *testGalo) slotState(seq uint64) slotState {
	v, _ := g.ledger.read(makeRef(0, seq))
	return v.word.state()
}

func TestDamagedWordIsDecidedByItsRecord(t *testing.T) {
	w := damagedWorld(t)
	dir := w.leave(t, 5, isSettled)
	inSegment(t, dir, 0, func(s segmentFile) {
		s.slots[1].word.Store(s.slots[1].word.Load() ^ 1<<40)
		s.slots[2].word.Store(0xffff_ffff_ffff_ffff)
		s.slots[4].word.Store(0) // as if it had never been published
	})
	w.def.hush(true) // nobody needs to be asked
	g := w.start(t)
	w.paidOnce(t, g, 5)
	for _, seq := range []uint64{1, 2, 4} {
		v, _ := g.ledger.read(makeRef(0, seq))
		p, _ := w.def.has(nthID(seq).String())
		if at, _ := parseProcessorTime([]byte(p.RequestedAt)); v.word.state() != slotSettled || v.requestedAt != at || v.paidAmount != 100 {
			t.Errorf("slot %d is %s, %d at %d", seq, v.word.state(), v.paidAmount, v.requestedAt)
		}
	}
	if n := g.metrics.damaged.Get(); n != 2 {
		t.Errorf("%d damaged slots reported, want 2: one reads as never published", n)
	}
}

func TestDamagedWordWithoutARecordIsLookedUpBeforeItIsSent(t *testing.T) {
	w := damagedWorld(t)
	dir := w.claimed(t, 3)
	inSegment(t, dir, 0, func(s segmentFile) {
		for i := range 3 {
			s.slots[i].word.Store(0x1234_5678_9abc_def0)
		}
	})
	there := nthID(1).String()
	tried := w.def.attempts(there) + w.fall.attempts(there)
	w.fall.paid[there] = fakePayment{ID: there, Amount: "1.00", RequestedAt: "2026-01-02T03:04:05.000006Z"}
	w.fall.hush(true)
	g := w.start(t)
	eventually(t, "the fallback is asked", func() bool { return g.metrics.lookUps[onFallback][lookUpNoAnswer].Get() >= 3 })
	if w.def.count() != 0 {
		t.Error("sent while the fallback had not answered")
	}
	if s := g.state(nthID(0)); s != "accepted" {
		t.Errorf("meanwhile it is %s", s)
	}
	w.fall.hush(false)
	w.paidOnce(t, g, 3)
	if n := w.def.attempts(there) + w.fall.attempts(there); n != tried {
		t.Errorf("sent again %d times, and was paid before", n-tried)
	}
}

func TestDamagedPaymentComesBackFromItsClaim(t *testing.T) {
	for name, damage := range map[string]func(s segmentFile, i int){
		"amount":     func(s segmentFile, i int) { s.slots[i].amount ^= 1 << 3 },
		"id":         func(s segmentFile, i int) { s.slots[i].id[3] ^= 1 },
		"sequence":   func(s segmentFile, i int) { s.slots[i].seq++ },
		"checksum":   func(s segmentFile, i int) { s.slots[i].sum = 0 },
		"everything": func(s segmentFile, i int) { garble(s.slotBytes(i)) },
		"ones":       func(s segmentFile, i int) { copy(s.slotBytes(i), slices.Repeat([]byte{0xff}, slotSize)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := damagedWorld(t)
			dir := w.claimed(t, 6)
			inSegment(t, dir, 0, func(s segmentFile) {
				for _, i := range []int{0, 2, 5} {
					damage(s, i)
				}
			})
			g := w.start(t)
			w.paidOnce(t, g, 6)
			if n := g.metrics.damaged.Get(); n != 3 {
				t.Errorf("%d damaged slots reported, want 3", n)
			}
			for i := range uint64(6) {
				if g.post(nthID(i), "2.00") != http.StatusConflict {
					t.Errorf("payment %d is not recognised", i)
				}
			}
		})
	}
}

// TestDamagedPaymentThatWasOutStaysWithItsProcessor: its word is whole and says where it was sent; its amount is not.
func TestDamagedPaymentThatWasOutStaysWithItsProcessor(t *testing.T) {
	w := damagedWorld(t)
	w.def.behave(refusing)
	w.fall.behave(breaking)
	w.fall.hush(true)
	dir := w.leave(t, 4, isPinnedAt(onFallback), "PATIENCE", "1ms", "STOP_TIMEOUT", "2s")
	var requested []string
	inSegment(t, dir, 0, func(s segmentFile) {
		for i := range 3 {
			requested = append(requested, string(s.slots[i].requestedAt(s.slots[i].load()).appendTime(nil)))
			s.slots[i].amount++
		}
	})
	w.def.behave(nil)
	w.fall.behave(nil)
	// The third is at the default: its word said otherwise by chance.
	third := nthID(2).String()
	w.def.paid[third] = fakePayment{ID: third, Amount: "1.00", RequestedAt: "2026-01-02T03:04:05.000006Z"}
	w.def.hush(true)
	g := w.start(t)
	eventually(t, "the default is asked about all three", func() bool { return g.metrics.lookUps[onDefault][lookUpNoAnswer].Get() >= 3 })
	w.fall.hush(false)
	w.def.hush(false)
	w.paidOnce(t, g, 4)
	for i := range 2 {
		p, ok := w.fall.has(nthID(uint64(i)).String())
		if !ok || p.Amount != "1.00" || p.RequestedAt != requested[i] {
			t.Errorf("payment %d: %v %+v, want it at fallback with requestedAt %s", i, ok, p, requested[i])
		}
	}
}

// TestDamagedSlotWithoutAClaimIsSetAside: it was settled. Its bytes are kept for an operator, and its segment may go.
func TestDamagedSlotWithoutAClaimIsSetAside(t *testing.T) {
	w := damagedWorld(t)
	dir := w.leave(t, 4, isSettled)
	var found []byte
	inSegment(t, dir, 0, func(s segmentFile) {
		s.slots[1].amount = 77
		found = slices.Clone(s.slotBytes(1))
	})
	for range 2 {
		g := w.start(t)
		eventually(t, "it is set aside", func() bool { return g.slotState(1) == slotSetAside })
		eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
		if got, want := g.summary(""), wantSummary(4, "4.00", 0, "0.00"); got != want {
			t.Errorf("summary %s, want %s", got, want)
		}
		eventually(t, "low passes it", func() bool { return g.ledger.active.advanceLow() == 4 })
		g.stopAll()
	}
	lines, err := os.ReadFile(filepath.Join(dir, damagedLog))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(lines)); len(got) != 3 || got[1] != "1" || got[2] != hex.EncodeToString(found) {
		t.Errorf("%s holds %q, want one line with %x", damagedLog, lines, found)
	}
}

// TestDamagedSlotsWaitForTheStore: they hold their room, and nothing of them is sent or given up before the store has told.
func TestDamagedSlotsWaitForTheStore(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	w.env["REDIS_URL"] = redis.url()
	dir := w.claimed(t, 3)
	inSegment(t, dir, 0, func(s segmentFile) {
		s.slots[0].amount++
		s.slots[1].word.Store(3)
	})
	redis.kill()
	for range 2 { // a start that learns nothing changes nothing
		g := w.start(t, "STOP_TIMEOUT", "2s")
		g.accepted(nthID(9), "1.00")
		if n := g.ledger.pending.Load(); n != 4 {
			t.Errorf("%d pending, want 4", n)
		}
		if g.slotState(0) != slotFree || g.slotState(1) != slotFree {
			t.Errorf("they are %s and %s", g.slotState(0), g.slotState(1))
		}
		g.stopAll()
	}
	redis.start()
	g := w.start(t)
	eventually(t, "all four are paid", func() bool { return w.def.count() == 4 })
	eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
}

// TestCutSegmentComesBackFromItsClaims cuts a segment at every kind of place.
func TestCutSegmentComesBackFromItsClaims(t *testing.T) {
	for _, size := range []int64{0, 7, 100, segmentHeader - 1, segmentHeader, segmentHeader + 8, segmentHeader + 3*slotSize, segmentHeader + 3*slotSize + 20, segmentBytes - 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := damagedWorld(t)
			dir := w.claimed(t, 6)
			if err := os.Truncate(segmentPath(dir, 0), size); err != nil {
				t.Fatal(err)
			}
			g := w.start(t)
			w.paidOnce(t, g, 6)
			if v := accept(t, g.ledger, 100, 100); v.ref.seq() < segmentSlots {
				t.Errorf("sequence %d is used again", v.ref.seq())
			}
		})
	}
}

func TestLostPagesComeBackFromTheirClaims(t *testing.T) {
	for name, fill := range map[string]func(b []byte){"zeros": func(b []byte) { clear(b) }, "garbage": garble} {
		t.Run(name, func(t *testing.T) {
			w := damagedWorld(t)
			const n = 3 * segmentHeader / slotSize
			dir := w.claimed(t, n)
			inSegment(t, dir, 0, func(s segmentFile) { fill(s.bytes[segmentHeader : 2*segmentHeader]) })
			g := w.start(t)
			w.paidOnce(t, g, n)
		})
	}
}

// TestDamagedHeaderLosesNothing: of a segment, of the journal, and of both at once.
func TestDamagedHeaderLosesNothing(t *testing.T) {
	garbleFrom := func(path string, at, n int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			garble(b[at : at+n])
			if err := os.WriteFile(filepath.Join(dir, path), b, 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	segment := filepath.Base(segmentPath("", 0))
	both := func(t *testing.T, dir string) {
		garbleFrom(segment, 0, segmentHeader+3*slotSize)(t, dir)
		garbleFrom(headName, 0, headBytes)(t, dir)
	}
	for name, damage := range map[string]func(t *testing.T, dir string){
		"segment":             garbleFrom(segment, 0, segmentHeader),
		"segment's magic":     garbleFrom(segment, 0, 8),
		"segment's checksum":  garbleFrom(segment, 12, 4),
		"segment's newest":    garbleFrom(segment, int(unsafe.Offsetof(segmentHead{}.newest)), 8),
		"head":                garbleFrom(headName, 0, headBytes),
		"head's magic":        garbleFrom(headName, 0, 8),
		"head's id":           garbleFrom(headName, int(unsafe.Offsetof(journalHead{}.id)), 8),
		"head's purge mark":   garbleFrom(headName, int(unsafe.Offsetof(journalHead{}.mark)), 8),
		"head cut off":        func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, headName), 0) },
		"head, segment, slot": both,
	} {
		t.Run(name, func(t *testing.T) {
			w := damagedWorld(t)
			dir := w.claimed(t, 5)
			damage(t, dir)
			g := w.start(t)
			w.paidOnce(t, g, 5)
			if g.settler.mark() != 0 {
				t.Errorf("the purge mark is %d", g.settler.mark())
			}
		})
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

// otherFormat makes a journal of another version, with a half-made segment beside it, and returns what is in its files.
func otherFormat(t *testing.T, dir, file string, version uint32) {
	t.Helper()
	f, err := openFolder(dir, "other", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := openLedger(f, newClock(), 10, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, 1, 1)
	if file == "head" {
		l.active.head.version = version
	} else {
		l.active.table.Load().at(1).head.version = version
	}
	if err := os.WriteFile(segmentPath(l.active.dir, 7)+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(segmentPath(l.active.dir, 0), segmentBytes-8); err != nil { // would be repaired
		t.Fatal(err)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
}

// wholeFolder is every byte of every file below dir.
func wholeFolder(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameFolder(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for path, content := range a {
		if b[path] != content {
			return false
		}
	}
	return true
}

// TestOtherFormatsAreRefusedUntouched: byte for byte, with all that a start would tidy up and repair.
func TestOtherFormatsAreRefusedUntouched(t *testing.T) {
	for _, file := range []string{"head", "segment"} {
		for _, version := range []uint32{0, formatVersion + 1, newestVersion} {
			t.Run(fmt.Sprint(file, version), func(t *testing.T) {
				dir := t.TempDir()
				own, _ := openTestLedger(t, dir) // a journal of this format comes first or second
				accept(t, own, 2, 1)
				if err := own.close(); err != nil {
					t.Fatal(err)
				}
				otherFormat(t, dir, file, version)
				before := wholeFolder(t, dir)
				w := newTestWorld(t)
				w.dir = dir
				_, err := w.build()
				want := errNewerFormat
				if version == 0 {
					want = errOlderFormat
				}
				if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "DATA_DIR=") || strings.Contains(err.Error(), "\n") {
					t.Errorf("started with %v", err)
				}
				if !sameFolder(before, wholeFolder(t, dir)) {
					t.Error("files were changed")
				}
			})
		}
	}
}

// TestOtherFormatIsPassedOverWhileServing: it came into the folder later.
func TestOtherFormatIsPassedOverWhileServing(t *testing.T) {
	for _, file := range []string{"head", "segment"} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			l, _ := openTestLedger(t, dir)
			defer l.close()
			elsewhere := t.TempDir()
			otherFormat(t, elsewhere, file, formatVersion+1)
			if err := os.CopyFS(dir, os.DirFS(elsewhere)); err != nil {
				t.Fatal(err)
			}
			names, _ := filepath.Glob(filepath.Join(elsewhere, "*"+journalSuffix))
			theirs := filepath.Join(dir, filepath.Base(names[0]))
			before := wholeFolder(t, theirs)
			orphans := make(map[journalID]bool)
			said := ""
			for look := range 4 {
				f, err := l.adoptOrphans(orphans)
				if f.published != 0 {
					t.Errorf("took %+v", f)
				}
				if look >= 2 && (!errors.Is(err, errNewerFormat) || err.Error() != said) {
					t.Errorf("look %d says %v, and %s before: it would be logged again", look, err, said)
				}
				said = fmt.Sprint(err)
			}
			if !sameFolder(before, wholeFolder(t, theirs)) {
				t.Error("files were changed")
			}
			accept(t, l, 5, 1)
		})
	}
}
