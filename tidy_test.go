package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// fillSegments accepts payments until n segments are full, all of them settled but those of which keep says so.
func fillSegments(t testing.TB, l *ledger, n uint64, keep func(n uint64) bool) {
	t.Helper()
	for i := range n * segmentSlots {
		if i%(segmentSlots/2) == 0 {
			if err := l.active.prepare(); err != nil {
				t.Fatal(err)
			}
		}
		if v := accept(t, l, i, 1); !keep(i) {
			must(t)(l.become(v, slotSettled))
		}
	}
}

func TestSettledSegmentsGoBySizeOldestFirst(t *testing.T) {
	synctest.Test(t, testSegmentsGoBySize)
}

func testSegmentsGoBySize(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	const pinned = segmentSlots + 7 // in the second segment
	fillSegments(t, l, 3, func(n uint64) bool { return n == pinned })
	there := func() (have []bool) {
		for n := range uint64(3) {
			have = append(have, exists(t, segmentPath(l.active.dir, n)))
		}
		return have
	}
	check := func(maxBytes int64, want ...bool) {
		t.Helper()
		l.maxBytes = maxBytes
		if err := l.tidy(); err != nil {
			t.Fatal(err)
		}
		have := there()
		for n := range want {
			if have[n] != want[n] {
				t.Errorf("with %d bytes allowed, of %d: segments there are %v, want %v", maxBytes, l.bytes(), have, want)
				return
			}
		}
	}
	check(0, true, true, true)
	all := l.bytes()
	check(1, true, true, true) // Redis may come back without its last second, and has to be told again
	time.Sleep(minimumAge)
	check(all, true, true, true)
	check(all-1, false, true, true)
	check(1, false, true, false) // what is not settled stays, whatever it takes
	id := nthID(pinned)
	if _, known := l.find(&id, indexHash(&id)); !known {
		t.Error("an unsettled payment is gone")
	}
}

// TestFinishedJournalIsRemoved: its folder, its place among the journals that are answered for, but not its number.
func TestFinishedJournalIsRemoved(t *testing.T) {
	dir := t.TempDir()
	gone, _ := openTestLedger(t, dir)
	accept(t, gone, 1, 1)
	crash(gone)
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
	adopt := func() {
		t.Helper()
		for range 2 {
			if _, err := heir.adoptOrphans(orphans); err != nil {
				t.Fatal(err)
			}
		}
	}
	adopt()
	id := nthID(1)
	v, known := heir.find(&id, indexHash(&id))
	if !known {
		t.Fatal("the orphan was not taken")
	}
	tidy := func() {
		t.Helper()
		if err := heir.tidy(); err != nil {
			t.Fatal(err)
		}
	}
	heir.retention = -time.Hour
	if tidy(); !heir.owns(gone.active.id) {
		t.Fatal("a journal with an unsettled payment is gone")
	}
	heir.retention = time.Hour
	must(t)(heir.become(v, slotSettled))
	if tidy(); !heir.owns(gone.active.id) {
		t.Fatal("a journal with a payment within retention is gone")
	}
	// Somebody tries to take it all the while: it is owned, or it is not there.
	claimed, removed := make(chan error), make(chan struct{})
	go func() {
		for over := false; ; {
			select {
			case <-removed:
				over = true
			default:
			}
			j, err := f.claim(gone.active.id)
			if j != nil || !errors.Is(err, errOwned) || over {
				claimed <- err
				return
			}
		}
	}()
	heir.retention = -time.Hour
	tidy()
	close(removed)
	if err := <-claimed; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a claim of a removed journal: %v", err)
	}
	if heir.owns(gone.active.id) || exists(t, gone.active.dir) || exists(t, gone.active.dir+removedSuffix) {
		t.Error("a finished journal is still there")
	}
	if v, ok := heir.read(v.ref); ok {
		t.Errorf("read %v from a journal that is gone", v)
	}
	if tidy(); !heir.owns(heir.active.id) || !exists(t, heir.active.dir) {
		t.Error("the journal in use is gone")
	}

	next, _ := openTestLedger(t, dir)
	w := accept(t, next, 2, 1)
	crash(next)
	adopt()
	id = nthID(2)
	if v, known := heir.find(&id, indexHash(&id)); !known || v.ref.journal() != 2 || v.id != w.id {
		t.Errorf("the next journal has number %d, want 2: old refs would lead to it", v.ref.journal())
	}
}

func TestRemovalThatWasCutOffIsFinished(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	path := l.active.dir
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+removedSuffix); err != nil {
		t.Fatal(err)
	}
	l, _ = openTestLedger(t, dir)
	defer l.close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+removedSuffix)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestJournalThatWasNeverMadeIsRemoved: its maker died before it had a name. One that may be in the making is left alone.
func TestJournalThatWasNeverMadeIsRemoved(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "00112233aabbccdd"+journalSuffix+newSuffix), filepath.Join(dir, "00112233aabbccde"+journalSuffix+newSuffix)
	long := time.Now().Add(-2 * halfMadeAge)
	if err := errors.Join(os.Mkdir(old, 0o750), os.Mkdir(fresh, 0o750), os.Chtimes(old, long, long)); err != nil {
		t.Fatal(err)
	}
	l, _ := openTestLedger(t, dir)
	defer l.close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+newSuffix)); !slices.Equal(left, []string{fresh}) {
		t.Errorf("left: %v", left)
	}
}

// TestTheFreshestOwnJournalIsAppendedTo: several free journals carry the name of the instance that starts.
func TestTheFreshestOwnJournalIsAppendedTo(t *testing.T) {
	dir := t.TempDir()
	const n, freshestAt = 5, 2
	var all []*ledger
	for range n {
		l, _ := openTestLedger(t, dir) // the earlier ones are owned, so it makes its own
		all = append(all, l)
	}
	var before micros
	for i, l := range all {
		if i != freshestAt {
			before = max(before, accept(t, l, uint64(i), 1).acceptedAt)
		}
	}
	for all[freshestAt].clock.now() <= before { // each ledger has a clock of its own, and rounds
	}
	accept(t, all[freshestAt], freshestAt, 1)
	for _, l := range all {
		crash(l)
	}
	l, f := openTestLedger(t, dir)
	defer l.close()
	if l.active.id != all[freshestAt].active.id {
		t.Error("another journal than the one with the newest payment is appended to")
	}
	if len(f.accepted) != n || len(*l.journals.Load()) != n {
		t.Errorf("found %d payments in %d journals, want %d in %d", len(f.accepted), len(*l.journals.Load()), n, n)
	}
	for _, j := range *l.journals.Load() {
		if j != l.active && j.next.Load() != j.limit.Load() {
			t.Errorf("journal %s is to be finished and has room", j.id)
		}
	}
}

func TestAJournalWithRoomIsFresherThanAFullOne(t *testing.T) {
	make := func(room uint64, newest micros) *journal {
		j := &journal{retired: []retiredSegment{{since: newest}}}
		j.table.Store(&segmentTable{})
		j.limit.Store(room)
		return j
	}
	full, old, young := make(0, 9), make(5, 1), make(5, 2)
	if freshest([]*journal{full, old, young}) != young || freshest([]*journal{young, old, full}) != young || freshest([]*journal{full}) != full || freshest(nil) != nil {
		t.Error("the wrong one")
	}
}

func TestJournalMaxSizeReachesTheLedger(t *testing.T) {
	g := newTestWorld(t).start(t, "JOURNAL_MAX_SIZE", "64MiB")
	g.accepted(nthID(1), "1.00")
	if g.ledger.maxBytes != 64<<20 {
		t.Errorf("the ledger keeps within %d bytes", g.ledger.maxBytes)
	}
}

// TestLateSettledPaymentOutlivesItsSettling: it was unsettled for longer than RETENTION. Redis, which has learnt of it just now, comes
// back without that, and is told again.
func TestLateSettledPaymentOutlivesItsSettling(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		l, _ := openTestLedger(t, t.TempDir())
		defer l.close()
		ok := must(t)
		l.clock.base -= 2 * micros(l.retention.Microseconds())
		pinned := ok(l.pinned(ok(l.sent(accept(t, l, 0, 1990), onDefault, nowMicros()))))
		for n := uint64(1); n < segmentSlots; n++ {
			ok(l.become(accept(t, l, n, 1), slotDuplicate))
		}
		s := newSettler(l, openStore(t, url), newLifeWatch(), 0, newMetrics(), quietLog())
		if err := s.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.add(ok(l.paid(pinned)).ref)
		s.work(t.Context())
		if err := l.tidy(); err != nil {
			t.Fatal(err)
		}
		if v, mapped := l.read(pinned.ref); mapped {
			t.Fatalf("it is %s: this test is about a segment that is retired", v.word.state())
		}
		do(t, rawConn(t, url), "FLUSHALL")
		s.known = ""
		if err := s.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := lookUp(t, s.store.(*redisStore), pinned.id); !got.found || got.state != recordPaid {
			t.Errorf("the store was not told again: %+v", got)
		}
	})
}
