package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// These tests run in bubbles of virtual time wherever they can. There a lost
// wake-up needs no time-out to be noticed: when everybody waits and no timer
// runs, synctest fails the test at once.

// testLinger is long enough that an instant in virtual time can't be taken for it.
const testLinger = 5 * time.Millisecond

// haul is what one call of take returned.
type haul struct {
	worker int
	refs   []ref
	at     time.Time
}

// startWorkers runs all workers of d until the returned stop, sending what each
// take returns to hauls. A worker is busy until its haul is received.
func startWorkers(d *dispatcher, room int) (hauls chan haul, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	hauls = make(chan haul)
	var done sync.WaitGroup
	for w := range d.workers {
		done.Go(func() {
			buf := make([]ref, room)
			for {
				n := d.take(ctx, w, buf)
				if n == 0 {
					return
				}
				hauls <- haul{w, append([]ref(nil), buf[:n]...), time.Now()}
			}
		})
	}
	return hauls, func() {
		cancel()
		done.Wait()
	}
}

func TestLonePaymentIsTakenAfterExactlyTheLinger(t *testing.T) {
	f := func(workers int, linger time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			d := newDispatcher(workers, 100, linger)
			hauls, stop := startWorkers(d, 64)
			defer stop()
			for v := range ref(20) {
				synctest.Wait()
				if d.idle() != workers || d.waiting() != 0 {
					t.Fatalf("%d idle, %d waiting, want %d and 0", d.idle(), d.waiting(), workers)
				}
				pushed := time.Now()
				d.push(v)
				got := <-hauls
				if len(got.refs) != 1 || got.refs[0] != v {
					t.Fatalf("took %v, want only %d", got.refs, v)
				}
				if waited := got.at.Sub(pushed); waited != linger {
					t.Fatalf("taken after %v, want %v", waited, linger)
				}
				time.Sleep(time.Second)
			}
		})
	}
	for _, workers := range []int{1, 4, maxWorkers} {
		f(workers, 0)
		f(workers, testLinger)
	}
}

func TestPushesWakeNobodyElseWhileOneWorkerCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(4, 100, testLinger)
		hauls, stop := startWorkers(d, 64)
		defer stop()
		synctest.Wait()
		start := time.Now()
		for v := range ref(5) {
			d.push(v)
			synctest.Wait()
			if d.idle() != 3 {
				t.Fatalf("%d idle after %d pushes, want all but the collector", d.idle(), v+1)
			}
			time.Sleep(testLinger/5 - time.Microsecond)
		}
		got := <-hauls
		if len(got.refs) != 5 || got.at.Sub(start) != testLinger {
			t.Fatalf("took %v after %v, want all 5 after %v", got.refs, got.at.Sub(start), testLinger)
		}
	})
}

func TestWorkerLingersOnlyForLessThanHalfABuffer(t *testing.T) {
	f := func(waiting, room int, want time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			d := newDispatcher(2, 100, testLinger)
			for v := range waiting {
				d.push(ref(v))
			}
			start := time.Now()
			n := d.take(t.Context(), 0, make([]ref, room))
			if waited := time.Since(start); n != waiting || waited != want {
				t.Errorf("took %d of %d into %d after %v, want all after %v", n, waiting, room, waited, want)
			}
		})
	}
	f(1, 1, 0)
	f(1, 2, 0)
	f(1, 3, testLinger)
	f(31, 64, testLinger)
	f(32, 64, 0)
	f(64, 64, 0)
}

func TestWorkerComingBackParksWhileAnotherCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(2, 100, testLinger)
		hauls, stop := startWorkers(d, 64)
		defer stop()
		synctest.Wait()
		d.push(1)
		time.Sleep(testLinger) // its taker is now busy until the haul is received
		synctest.Wait()
		d.push(2)
		synctest.Wait()
		if d.idle() != 0 {
			t.Fatalf("%d idle, want one busy and one collecting", d.idle())
		}
		<-hauls
		synctest.Wait()
		if d.idle() != 1 || d.waiting() != 1 {
			t.Fatalf("%d idle, %d waiting, want the second left to its collector", d.idle(), d.waiting())
		}
		<-hauls
	})
}

// TestCollectorThatLeavesWorkWakesTheNext has refs in the rings whose pushers
// relied on the collector, and workers that never come back from their first take.
func TestCollectorThatLeavesWorkWakesTheNext(t *testing.T) {
	for _, linger := range []time.Duration{0, testLinger} {
		synctest.Test(t, func(t *testing.T) {
			const room = 4
			d := newDispatcher(4, 100, linger)
			hauls, stop := startWorkers(d, room)
			defer stop()
			synctest.Wait()
			for v := range ref(4*room - 1) {
				d.rings[v%4].push(v)
			}
			start := time.Now()
			d.push(99)
			synctest.Wait()
			if d.waiting() != 0 {
				t.Errorf("%d left waiting beside %d idle workers", d.waiting(), d.idle())
			}
			for range 4 {
				if got := <-hauls; len(got.refs) != room || got.at != start {
					t.Errorf("took %v after %v, want %d at once", got.refs, got.at.Sub(start), room)
				}
			}
		})
	}
}

func TestStuckWorkerDoesNotKeepItsRefsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(4, 1000, testLinger)
		// Only worker 2 ever takes: the others are blocked elsewhere.
		ctx, cancel := context.WithCancel(t.Context())
		var took atomic.Int64
		var done sync.WaitGroup
		done.Go(func() {
			buf := make([]ref, 64)
			for n := d.take(ctx, 2, buf); n > 0; n = d.take(ctx, 2, buf) {
				took.Add(int64(n))
			}
		})
		for v := range ref(1000) {
			d.push(v)
		}
		time.Sleep(2 * testLinger)
		if took.Load() != 1000 {
			t.Errorf("%d of 1000 taken", took.Load())
		}
		cancel()
		done.Wait()
	})
}

// TestStuckWorkersRefsAreReachedUnderFullLoad never lets the ring of the only
// worker that takes run empty.
func TestStuckWorkersRefsAreReachedUnderFullLoad(t *testing.T) {
	const workers, room, stuck = 4, 4, ref(1000)
	d := newDispatcher(workers, 100, 0)
	buf := make([]ref, room)
	for w := 1; w < workers; w++ {
		d.rings[w].push(stuck)
	}
	reached := 0
	for range 4 * workers {
		for d.rings[0].len() < room {
			d.rings[0].push(1)
		}
		for _, v := range buf[:d.take(t.Context(), 0, buf)] {
			if v == stuck {
				reached++
			}
		}
	}
	if reached != workers-1 {
		t.Errorf("%d of %d other rings reached", reached, workers-1)
	}
}

func TestIdleWorkersDoNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(4, 100, testLinger)
		hauls, stop := startWorkers(d, 64)
		defer stop()
		d.push(1)
		<-hauls
		synctest.Wait()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if d.idle() != 4 {
			t.Errorf("%d idle after a day without work, want 4", d.idle())
		}
		for w := range d.workers {
			if d.workers[w].timer.Stop() {
				t.Errorf("the timer of worker %d runs", w)
			}
		}
	})
}

func TestFullRingSendsAPushToTheNext(t *testing.T) {
	d := newDispatcher(3, 10, 0)
	for v := range ref(4) {
		if !d.rings[1].push(v) {
			t.Fatal("a third of the capacity does not fit into one ring")
		}
	}
	for v := range ref(6) {
		d.push(v)
	}
	if d.waiting() != 10 {
		t.Errorf("%d waiting, want 10", d.waiting())
	}
	if n := d.take(t.Context(), 0, make([]ref, 64)); n != 10 {
		t.Errorf("took %d, want 10", n)
	}
}

func TestRefsOfOneWorkerComeInTheOrderOfTheirPushes(t *testing.T) {
	d := newDispatcher(1, 100, 0)
	for v := range ref(100) {
		d.push(v)
	}
	buf := make([]ref, 7)
	for next := ref(0); next < 100; {
		for _, v := range buf[:d.take(t.Context(), 0, buf)] {
			if v != next {
				t.Fatalf("took %d, want %d", v, next)
			}
			next++
		}
	}
}

func TestTakeTakesNothingWhenItsContextIsDone(t *testing.T) {
	d := newDispatcher(1, 10, 0)
	d.push(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n := d.take(ctx, 0, make([]ref, 4)); n != 0 || d.waiting() != 1 || d.idle() != 0 {
		t.Errorf("took %d, %d waiting, %d idle, want 0, 1, 0", n, d.waiting(), d.idle())
	}
}

func TestWorkerThatStopsPassesItsDutiesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(2, 10, testLinger)
		first, stopFirst := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			if n := d.take(first, 0, make([]ref, 4)); n != 0 {
				t.Errorf("the stopped worker took %d", n)
			}
		})
		synctest.Wait()
		d.push(1) // makes worker 0 the collector
		synctest.Wait()
		var taken time.Time
		done.Go(func() {
			if n := d.take(t.Context(), 1, make([]ref, 4)); n != 1 {
				t.Errorf("the other worker took %d, want 1", n)
			}
			taken = time.Now()
		})
		synctest.Wait()
		if d.idle() != 1 {
			t.Fatalf("%d idle, want worker 1 to leave it to the collector", d.idle())
		}
		stopped := time.Now()
		stopFirst()
		done.Wait()
		if waited := taken.Sub(stopped); waited != testLinger {
			t.Errorf("taken %v after the collector stopped, want %v", waited, testLinger)
		}
	})
}

// TestWorkerChosenWhileItStopsPassesItsDutiesOn plays a pusher that is stopped
// between choosing worker 0 and sending the token, while worker 0 is told to end.
func TestWorkerChosenWhileItStopsPassesItsDutiesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(2, 10, testLinger)
		first, stopFirst := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			if n := d.take(first, 0, make([]ref, 4)); n != 0 {
				t.Errorf("the stopped worker took %d", n)
			}
		})
		done.Go(func() {
			if n := d.take(t.Context(), 1, make([]ref, 4)); n != 1 {
				t.Errorf("the other worker took %d, want 1", n)
			}
		})
		synctest.Wait()
		d.rings[0].push(1)
		if !d.roles.CompareAndSwap(0b11, 0b10|collecting) {
			t.Fatalf("roles are %b, want both idle", d.roles.Load())
		}
		stopFirst()
		synctest.Wait()
		d.workers[0].token <- struct{}{}
		done.Wait()
		if d.roles.Load() != 0 || len(d.workers[0].token) != 0 {
			t.Errorf("roles are %b, %d tokens left, want none", d.roles.Load(), len(d.workers[0].token))
		}
	})
}

// TestNoWakeUpIsLostToAWorkerThatStops stops worker 0 at the very moment of a
// push, over and over; worker 1 goes on.
func TestNoWakeUpIsLostToAWorkerThatStops(t *testing.T) {
	for _, linger := range []time.Duration{0, testLinger} {
		synctest.Test(t, func(t *testing.T) {
			d := newDispatcher(2, 10, linger)
			taken := make(chan ref)
			worker := func(ctx context.Context, w int) {
				buf := make([]ref, 4)
				for n := d.take(ctx, w, buf); n > 0; n = d.take(ctx, w, buf) {
					for _, v := range buf[:n] {
						taken <- v
					}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			var second sync.WaitGroup
			second.Go(func() { worker(ctx, 1) })
			for v := range ref(testVolume(t, 20_000)) {
				short, stop := context.WithCancel(ctx)
				var first sync.WaitGroup
				first.Go(func() { worker(short, 0) })
				if v%2 == 0 {
					synctest.Wait()
				}
				first.Go(stop)
				d.push(v)
				if got := <-taken; got != v {
					t.Errorf("took %d, want %d", got, v)
				}
				first.Wait()
			}
			cancel()
			second.Wait()
		})
	}
}

// TestNoWakeUpIsLost pushes one ref at a time, within nanoseconds after the one
// before was taken: so at every moment of a worker's way back to its rest. To be
// that quick the pusher spins for a while before it waits. There are as many
// rings as can be, to make a worker's last look at them a long one.
func TestNoWakeUpIsLost(t *testing.T) {
	const patience, delays = 2_000, 1_000
	for _, workers := range []int{1, 2, 4} {
		for _, linger := range []time.Duration{0, testLinger} {
			t.Run(fmt.Sprintf("%d workers linger %v", workers, linger), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDispatcher(maxWorkers, 10, linger)
					ctx, cancel := context.WithCancel(t.Context())
					var done sync.WaitGroup
					taken := make(chan ref, 1)
					for w := range workers {
						done.Go(func() {
							buf := make([]ref, 64)
							for d.take(ctx, w, buf) > 0 {
								taken <- buf[0]
							}
						})
					}
					receive := func() ref {
						if linger == 0 { // virtual time stands still for one that spins
							for range patience {
								select {
								case v := <-taken:
									return v
								default:
								}
							}
						}
						return <-taken
					}
					var spent int
					for v := range ref(testVolume(t, 30_000)) {
						d.push(v)
						if got := receive(); got != v {
							t.Errorf("took %d, want %d", got, v)
						}
						for range rand.IntN(delays) {
							spent++
						}
					}
					cancel()
					done.Wait()
					if d.roles.Load() != 0 {
						t.Errorf("roles are %b when all workers have stopped, after %d steps of delay", d.roles.Load(), spent)
					}
				})
			})
		}
	}
}

// TestEveryRefIsTakenOnce runs 4 pushers against 4 workers, with just as much
// room as is reserved and with plenty, in virtual time and in real time.
func TestEveryRefIsTakenOnce(t *testing.T) {
	f := func(capacity int, linger time.Duration, volume int) func(*testing.T) {
		return func(t *testing.T) {
			const pushers, workers = 4, 4
			total := testVolume(t, volume)
			d := newDispatcher(workers, capacity, linger)
			for w := range workers {
				d.rings[w] = newRingAt(capacity/workers, -uint64(total/workers/2))
			}
			reserved := make(chan struct{}, capacity)
			taken := make([]atomic.Uint32, total)
			all := make(chan struct{})
			var left atomic.Int64
			left.Store(int64(total))
			ctx, cancel := context.WithCancel(t.Context())
			var done sync.WaitGroup
			for i := range pushers {
				done.Go(func() {
					for v := i; v < total; v += pushers {
						reserved <- struct{}{}
						d.push(ref(v))
					}
				})
			}
			for w := range workers {
				done.Go(func() {
					random := rand.New(rand.NewPCG(1, uint64(w)))
					buf := make([]ref, 16)
					for n := d.take(ctx, w, buf); n > 0; n = d.take(ctx, w, buf[:1+random.IntN(len(buf))]) {
						for _, v := range buf[:n] {
							taken[v].Add(1)
							<-reserved
						}
						if left.Add(int64(-n)) == 0 {
							close(all)
						}
					}
				})
			}
			<-all
			cancel()
			done.Wait()
			expectEachTakenOnce(t, taken)
		}
	}
	for _, capacity := range []int{8, 4096} {
		for _, linger := range []time.Duration{0, 20 * time.Microsecond} {
			name := fmt.Sprintf("capacity %d linger %v", capacity, linger)
			t.Run(name+" virtual", func(t *testing.T) { synctest.Test(t, f(capacity, linger, 400_000)) })
			// A real timer takes its time, and a small capacity waits for many.
			t.Run(name+" real", f(capacity, linger, 40_000))
		}
	}
}

func TestDispatcherAllocatesNothing(t *testing.T) {
	if raceEnabled {
		return // the race detector allocates for its own purposes
	}
	for _, linger := range []time.Duration{0, 10 * time.Microsecond} {
		d := newDispatcher(2, 100, linger)
		ctx, cancel := context.WithCancel(t.Context())
		taken := make(chan int, 100)
		var done sync.WaitGroup
		for w := range 2 {
			done.Go(func() {
				buf := make([]ref, 64)
				for n := d.take(ctx, w, buf); n > 0; n = d.take(ctx, w, buf) {
					taken <- n
				}
			})
		}
		allocs := testing.AllocsPerRun(1000, func() {
			for v := range ref(10) {
				d.push(v)
			}
			for n := 0; n < 10; {
				n += <-taken
			}
		})
		cancel()
		done.Wait()
		if allocs != 0 {
			t.Errorf("%v allocations in 10 pushes and their takes, want none", allocs)
		}
	}
}

func TestDispatcherCountersShareNoCacheLine(t *testing.T) {
	var d dispatcher
	for what, gap := range map[string]uintptr{
		"roles after the read-only fields": unsafe.Offsetof(d.roles) - (unsafe.Offsetof(d.linger) + unsafe.Sizeof(d.linger)),
		"end after roles":                  unsafe.Sizeof(d) - unsafe.Offsetof(d.roles) - 8,
	} {
		if gap < falseSharing-8 {
			t.Errorf("%s: %d bytes between, want %d", what, gap, falseSharing-8)
		}
	}
}

func TestDispatcherRefusesMoreWorkersThanItHasBits(t *testing.T) {
	for _, workers := range []int{-1, 0, maxWorkers + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a dispatcher for %d workers was made", workers)
				}
			}()
			newDispatcher(workers, 10, 0)
		}()
	}
}
