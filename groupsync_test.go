package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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
	f, err := openFolder(w.dir, "one", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	f.boot = [16]byte{1, 2, 3}
	l, _, err := openLedger(f, newClock(), 100, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
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
