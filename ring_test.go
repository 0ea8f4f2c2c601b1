package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// nearWrap is a start from which positions pass the end of uint64 after ten
// pushes.
const nearWrap = math.MaxUint64 - 9

func TestRingHoldsThePowerOfTwoThatWasAskedFor(t *testing.T) {
	for asked, want := range map[int]int{-1: 2, 0: 2, 1: 2, 2: 2, 3: 4, 4: 4, 5: 8, 1000: 1024, 1024: 1024} {
		r := newRingAt(asked, nearWrap)
		held := 0
		for held <= want && r.push(ref(held)) {
			held++
		}
		if held != want {
			t.Errorf("newRing(%d) holds %d refs, want %d", asked, held, want)
		}
	}
}

func TestRingHeadAndTailShareNoCacheLine(t *testing.T) {
	var r ring
	offsets := map[string]uintptr{
		"head after the read-only fields": unsafe.Offsetof(r.head) - (unsafe.Offsetof(r.mask) + unsafe.Sizeof(r.mask)),
		"tail after head":                 unsafe.Offsetof(r.tail) - (unsafe.Offsetof(r.head) + unsafe.Sizeof(r.head)),
		"end of ring after tail":          unsafe.Sizeof(r) - (unsafe.Offsetof(r.tail) + unsafe.Sizeof(r.tail)),
	}
	const line = 64
	for what, gap := range offsets {
		if gap < line-8 {
			t.Errorf("%s: %d bytes between, may share a line of %d", what, gap, line)
		}
	}
	for what, offset := range map[string]uintptr{
		"head": unsafe.Offsetof(r.head), "tail": unsafe.Offsetof(r.tail), "size": unsafe.Sizeof(r),
	} {
		if offset%falseSharing != 0 {
			t.Errorf("%s is at %d, want a multiple of %d", what, offset, falseSharing)
		}
	}
	if size := unsafe.Sizeof(ringCell{}); line%size != 0 {
		t.Errorf("a cell of %d bytes may straddle two cache lines", size)
	}
}

// TestRingAgreesWithASlice compares every answer with those of a slice, for
// random calls, capacities and starts on both sides of the wrap-around.
func TestRingAgreesWithASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := 1 << rapid.IntRange(1, 5).Draw(t, "log2 of capacity")
		start := rapid.Uint64Range(0, 200).Draw(t, "start") - 100
		r := newRingAt(capacity, start)
		var model []ref
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				v := ref(rapid.Uint64().Draw(t, "value"))
				got, want := r.push(v), len(model) < capacity
				if got != want {
					t.Fatalf("push: %v, want %v with %d of %d inside", got, want, len(model), capacity)
				}
				if got {
					model = append(model, v)
				}
			},
			"pop": func(t *rapid.T) {
				v, ok := r.pop()
				if ok != (len(model) > 0) || ok && v != model[0] {
					t.Fatalf("pop: %d, %v, want the first of %v", v, ok, model)
				}
				if ok {
					model = model[1:]
				}
			},
			"popInto": func(t *rapid.T) {
				buf := make([]ref, rapid.IntRange(0, capacity+2).Draw(t, "room"))
				n := r.popInto(buf)
				want := model[:min(len(buf), len(model))]
				if !slices.Equal(buf[:n], want) {
					t.Fatalf("popInto: %v, want %v", buf[:n], want)
				}
				model = model[n:]
			},
			"": func(t *rapid.T) {
				if r.len() != len(model) || r.ready() != (len(model) > 0) {
					t.Fatalf("len %d, ready %v, want %d inside", r.len(), r.ready(), len(model))
				}
			},
		})
	})
}

// TestRingHandsOutEveryRefOnceAndInOrder lets producers and consumers run
// against each other over a ring small enough to be full and empty all the
// time, across the wrap-around. What one producer pushed must reach each
// consumer in that producer's order.
func TestRingHandsOutEveryRefOnceAndInOrder(t *testing.T) {
	const producers = 4
	total := testVolume(t, 1_000_000)
	for _, capacity := range []int{2, 8, 256} {
		for _, consumers := range []int{1, 4} {
			t.Run(fmt.Sprintf("capacity %d to %d", capacity, consumers), func(t *testing.T) {
				r := newRingAt(capacity, -uint64(total/2))
				taken := make([]atomic.Uint32, total)
				var left atomic.Int64
				left.Store(int64(total))
				var done sync.WaitGroup
				for i := range producers {
					done.Go(func() {
						// Producer i owns the refs that are i modulo producers.
						for v := i; v < total; v += producers {
							for !r.push(ref(v)) {
								runtime.Gosched()
							}
						}
					})
				}
				for i := range consumers {
					done.Go(func() {
						last := [producers]int{}
						for p := range last {
							last[p] = -1
						}
						var buf [5]ref
						for left.Load() > 0 {
							// Half of them take one at a time, half in runs.
							n := 0
							if i%2 == 0 {
								n = r.popInto(buf[:])
							} else if v, ok := r.pop(); ok {
								buf[0], n = v, 1
							}
							if n == 0 {
								runtime.Gosched()
								continue
							}
							for _, v := range buf[:n] {
								if v >= ref(total) {
									t.Errorf("took %d, which nobody pushed", v)
									continue
								}
								taken[v].Add(1)
								if p := int(v) % producers; int(v) <= last[p] {
									t.Errorf("took %d after %d of the same producer", v, last[p])
								} else {
									last[p] = int(v)
								}
							}
							left.Add(int64(-n))
							if length := r.len(); length < 0 || length > capacity {
								t.Errorf("len is %d in a ring of %d", length, capacity)
							}
						}
					})
				}
				done.Wait()
				expectEachTakenOnce(t, taken)
				if r.len() != 0 || r.ready() {
					t.Errorf("len %d, ready %v when all is taken", r.len(), r.ready())
				}
			})
		}
	}
}

// TestRingHidesWhatIsPushedBehindAPushUnderWay states the weakness the
// dispatcher has to live with: a stopped producer hides the refs behind its own.
func TestRingHidesWhatIsPushedBehindAPushUnderWay(t *testing.T) {
	r := newRingAt(4, nearWrap)
	stopped := r.head.Add(1) - 1 // as a producer that owns its cell and was stopped there
	r.push(2)
	if _, ok := r.pop(); ok || r.ready() || r.popInto(make([]ref, 4)) != 0 {
		t.Fatal("a ref came out before the one ahead of it was published")
	}
	if r.len() != 2 {
		t.Fatalf("len is %d, want 2: it counts a push under way", r.len())
	}
	c := &r.cells[stopped&r.mask]
	c.value = 1
	c.seq.Store(stopped + 1)
	buf := make([]ref, 4)
	if n := r.popInto(buf); !slices.Equal(buf[:n], []ref{1, 2}) {
		t.Fatalf("took %v, want both in order", buf[:n])
	}
}

func TestRingAllocatesNothing(t *testing.T) {
	r := newRing(8)
	buf := make([]ref, 8)
	allocs := testing.AllocsPerRun(1000, func() {
		r.push(1)
		r.push(2)
		r.push(3)
		r.pop()
		r.popInto(buf)
	})
	if allocs != 0 && !raceEnabled {
		t.Errorf("%v allocations, want none", allocs)
	}
}

// testVolume is how many refs a stress test moves: a tenth under the race
// detector, which costs about ten times the time, and again with -short.
func testVolume(t *testing.T, full int) int {
	t.Helper()
	if raceEnabled {
		full /= 10
	}
	if testing.Short() {
		full /= 10
	}
	return full
}

func expectEachTakenOnce(t *testing.T, taken []atomic.Uint32) {
	t.Helper()
	wrong := 0
	for v := range taken {
		if n := taken[v].Load(); n != 1 {
			if wrong++; wrong <= 10 {
				t.Errorf("ref %d was taken %d times, want once", v, n)
			}
		}
	}
	if wrong > 10 {
		t.Errorf("and %d more", wrong-10)
	}
}
