package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestOneSyncServesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began []time.Time
		g := newGroupSync(func() error {
			began = append(began, time.Now())
			time.Sleep(10 * time.Millisecond)
			return nil
		}, quietLog())
		go g.run(t.Context())
		start := time.Now()
		served := make(chan time.Duration, 100)
		wait := func() {
			g.wait()
			served <- time.Since(start)
		}
		go wait()
		synctest.Wait()
		time.Sleep(5 * time.Millisecond) // the first sync is half done: it does not serve those that come now
		for range 99 {
			go wait()
		}
		if got := <-served; got != 10*time.Millisecond {
			t.Errorf("the first was served after %s", got)
		}
		for range 99 {
			if got := <-served; got != 20*time.Millisecond {
				t.Errorf("one that came during the first sync was served after %s", got)
			}
		}
		if len(began) != 2 {
			t.Errorf("%d syncs for 100 who wait, want 2", len(began))
		}
	})
}

func TestSyncThatFailsIsRepeatedBeforeAnybodyIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		g := newGroupSync(func() error {
			if tries++; tries < 4 {
				return errors.New("no space")
			}
			return nil
		}, quietLog())
		go g.run(t.Context())
		g.wait()
		if tries != 4 {
			t.Errorf("served after %d tries", tries)
		}
	})
}

func TestDurableOnDiskIsPaidTheSame(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t, "DURABILITY", "disk")
	for n := range uint64(20) {
		g.accepted(nthID(n), "1.00")
	}
	eventually(t, "all are paid", func() bool { return w.def.count() == 20 })
	eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	if n := g.ledger.disk.done.Load(); n < 20 {
		t.Errorf("%d syncs for 20 payments that came one after the other", n)
	}
}

// TestAfterAPowerLossNothingDoubtfulIsSentUnasked: in a journal of another boot, "accepted" may have been "sent".
func TestAfterAPowerLossNothingDoubtfulIsSentUnasked(t *testing.T) {
	w := newTestWorld(t)
	l := w.beforeTheHostWentDown(t)
	there, nowhere := nthID(1), nthID(2)
	accept(t, l, 1, 500)
	accept(t, l, 2, 600)
	crash(l)
	const at = "2026-01-02T03:04:05.000006Z"
	w.fall.paid[there.String()] = fakePayment{ID: there.String(), Amount: "5.00", RequestedAt: at}

	w.fall.silent = true
	g := w.start(t, "SEND_TIMEOUT", "500ms")
	eventually(t, "both are asked about", func() bool { return g.metrics.lookUps[onFallback][lookUpNoAnswer].Get() >= 2 })
	if n := w.def.count(); n != 0 {
		t.Errorf("%d were sent while the fallback had not answered", n)
	}
	w.fall.mu.Lock()
	w.fall.silent = false
	w.fall.mu.Unlock()
	g.becomes(there, "settled fallback")
	g.becomes(nowhere, "settled default")
	if n := w.def.attempts(there.String()) + w.fall.attempts(there.String()); n != 0 {
		t.Errorf("%d attempts for a payment that was paid before the power went", n)
	}
	if got := g.summary("?to=" + at); got != wantSummary(0, "0.00", 1, "5.00") {
		t.Errorf("summary %s", got)
	}
	if v := accept(t, g.ledger, 3, 1); v.ref.seq() < segmentSlots {
		t.Error("a slot of this boot went into a segment of the last one")
	}
}

// beforeTheHostWentDown is the ledger of an instance in this world, as it was in an earlier run of the host.
func (w *testWorld) beforeTheHostWentDown(t *testing.T) *ledger {
	t.Helper()
	f, err := openFolder(w.dir, "one", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	f.boot = [16]byte{1, 2, 3}
	l, _, err := openLedger(f, newClock(), 100, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (f *fakeProcessor) books(id paymentID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paid[id.String()] = fakePayment{ID: id.String(), Amount: "1.00", RequestedAt: "2026-01-02T03:04:05.000006Z"}
}

// TestAfterAPowerLossWhatReadsSentMayBeAtTheOther: the word that reads "sent to the default" may have been followed by others that did not
// reach the disk: refused there, and sent to the fallback; or rejected, which Redis knows. So may one that lost its claim to another slot,
// which is gone.
func TestAfterAPowerLossWhatReadsSentMayBeAtTheOther(t *testing.T) {
	w := damagedWorld(t)
	l := w.beforeTheHostWentDown(t)
	ok := must(t)
	there, nowhere, rejected, loser := nthID(1), nthID(2), nthID(3), nthID(4)
	for n := range uint64(3) {
		ok(l.sent(accept(t, l, n+1, 100), onDefault, nowMicros()))
	}
	ok(l.become(accept(t, l, 4, 100), slotElsewhere))
	crash(l)
	s, token := readyStore(t, w.env["REDIS_URL"])
	one := rejectedOne(3, noon)
	one.id = rejected
	settleAll(t, s, token, one)
	w.fall.books(there)
	w.fall.books(loser)

	w.fall.hush(true)
	g := w.start(t)
	eventually(t, "all are asked about", func() bool { return g.metrics.lookUps[onFallback][lookUpNoAnswer].Get() >= 3 })
	if n := w.def.attempts(nowhere.String()) + w.def.attempts(there.String()); n != 0 {
		t.Errorf("%d attempts while the fallback had not answered", n)
	}
	w.fall.hush(false)
	g.becomes(there, "settled fallback")
	g.becomes(loser, "settled fallback")
	g.becomes(nowhere, "settled default")
	g.becomes(rejected, "rejected")
	for _, id := range []paymentID{there, rejected, loser} {
		if n := w.def.attempts(id.String()) + w.fall.attempts(id.String()); n != 0 {
			t.Errorf("%d attempts for %s, which was paid or rejected before the power went", n, id)
		}
	}
	if n := w.fall.attempts(nowhere.String()); n != 0 {
		t.Errorf("%d attempts at the fallback for what was sent to the default", n)
	}
}

// TestAfterAPowerLossAnAttemptMayStillLand: it was out at the fallback when the power went, and arrives when that was asked already.
func TestAfterAPowerLossAnAttemptMayStillLand(t *testing.T) {
	w := newTestWorld(t)
	l := w.beforeTheHostWentDown(t)
	must(t)(l.sent(accept(t, l, 1, 100), onDefault, nowMicros()))
	crash(l)
	g := w.start(t, "SEND_TIMEOUT", "2s")
	eventually(t, "the fallback is asked", func() bool { return g.metrics.lookUps[onFallback][lookUpAbsent].Get() > 0 })
	w.fall.books(nthID(1))
	g.becomes(nthID(1), "settled fallback")
	if n := w.def.count(); n != 0 {
		t.Error("it was sent to the default, too")
	}
}

// TestSyncThatFailedIsNotBelievedTheSecondTime: the kernel tells once that it could not write pages, and takes them for clean from then on.
func TestSyncThatFailedIsNotBelievedTheSecondTime(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	seg := l.active.table.Load().list[0]
	if err := seg.datasync(); err != nil || dirtyBytes(t, seg.data) >= segmentBytes {
		t.Skipf("a file system where a sync leaves %d bytes to be written (%v)", dirtyBytes(t, seg.data), err)
	}
	accept(t, l, 1, 100)
	write, fails := seg.datasync, true
	seg.datasync = func() error {
		if err := write(); err != nil || !fails {
			return err
		}
		fails = false
		return unix.EIO
	}
	if err := l.active.sync(); !errors.Is(err, unix.EIO) {
		t.Fatalf("the first: %v", err)
	}
	if dirty := dirtyBytes(t, seg.data); dirty < segmentBytes {
		t.Errorf("%d of %d bytes are written by the next sync", dirty, segmentBytes)
	}
	if err := l.active.sync(); err != nil || seg.dirty.Load() {
		t.Errorf("the second: %v, and to be repeated %t", err, seg.dirty.Load())
	}
}

// dirtyBytes is how much of a mapping the kernel has yet to write.
func dirtyBytes(t *testing.T, mapped []byte) (sum int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	start := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&mapped[0])))
	inside := false
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.Contains(name, "-"):
			inside = strings.HasPrefix(line, start)
		case inside && (name == "Private_Dirty:" || name == "Shared_Dirty:"):
			kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			sum += kilobytes << 10
		}
	}
	return sum
}

// TestSyncAfterAStartWritesWhatWasThere: the process before was killed before its first sync, or after one that failed. A client that repeats
// its payment must not have its 202 before that is on the disk.
func TestSyncAfterAStartWritesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	accept(t, l, 1, 100)
	crash(l)
	f, err := openFolder(dir, "test", true, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	if l, _, err = openLedger(f, newClock(), 100, time.Hour, quietLog()); err != nil {
		t.Fatal(err)
	}
	defer l.close()
	seg := l.active.table.Load().list[0]
	if dirty := dirtyBytes(t, seg.data); dirty < segmentBytes || !seg.dirty.Load() {
		t.Errorf("%d of %d bytes are written by the next sync, if there is one: %t", dirty, segmentBytes, seg.dirty.Load())
	}
}

// BenchmarkDurability is the price of a 202, by how many clients wait for one at the same time: in the process's keeping alone,
// and on the disk. It has to run on a real file system: on a tmpfs a sync costs nothing.
func BenchmarkDurability(b *testing.B) {
	for _, durable := range []durability{durableProcess, durableDisk} {
		for _, clients := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("%s/clients=%d", durable, clients), func(b *testing.B) { benchmarkDurability(b, durable, clients) })
		}
	}
}

func benchmarkDurability(b *testing.B, durable durability, clients int) {
	f, err := openFolder(b.TempDir(), "test", durable == durableDisk, quietLog())
	if err != nil {
		b.Fatal(err)
	}
	l, _, err := openLedger(f, newClock(), 1<<20, time.Hour, quietLog())
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running, posting sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
		l.close()
	}()
	running.Go(func() { l.keep(ctx) })
	if l.disk != nil {
		running.Go(func() { l.disk.run(ctx) })
	}
	var next atomic.Int64
	b.ResetTimer()
	for range clients {
		posting.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				id := nthID(uint64(n))
				r, what := l.accept(&id, 1990)
				for ; what == acceptedFull; r, what = l.accept(&id, 1990) {
					time.Sleep(100 * time.Microsecond) // keep is making a segment
				}
				v, _ := l.read(r)
				l.become(v, slotDuplicate) // or the queue would be full
			}
		})
	}
	posting.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "payments/s")
	if l.disk != nil {
		b.ReportMetric(float64(b.N)/float64(max(1, l.disk.done.Load())), "payments/sync")
	}
}
