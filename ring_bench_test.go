package main

import (
	"runtime"
	"sync"
	"testing"
)

// The ring is only worth its subtlety while it beats what Go offers for free.
// So the two baselines stay beside it, and everybody waits in the same way,
// by runtime.Gosched, when there is no room or nothing to take. channelParking
// is the channel as one would write it by hand, where the runtime parks whoever
// waits, and ringRuns takes up to 64 refs at once, as a worker does.
//
//	go test -run '^$' -bench Ring -cpu 2 -count 10

// benchQueue is what the contenders have in common.
type benchQueue interface {
	push(ref) bool
	pop() (ref, bool)
}

// benchCapacity holds some ten microseconds of work at the speeds measured, and
// is small enough to stay in the first-level cache.
const benchCapacity = 1024

func BenchmarkRing(b *testing.B) {
	for _, shape := range []struct {
		name                 string
		producers, consumers int
	}{
		{"1to1", 1, 1},
		{"4to1", 4, 1},
		{"4to4", 4, 4},
	} {
		b.Run(shape.name, func(b *testing.B) {
			polled := func(q func() benchQueue) func(b *testing.B) {
				return func(b *testing.B) {
					queue := q()
					benchmarkTransfer(b, shape.producers, shape.consumers, politePush(queue), politePop(queue))
				}
			}
			b.Run("ring", polled(func() benchQueue { return newRing(benchCapacity) }))
			b.Run("channel", polled(func() benchQueue { return make(channelQueue, benchCapacity) }))
			b.Run("mutex", polled(func() benchQueue { return &mutexQueue{cells: make([]ref, benchCapacity)} }))
			b.Run("channelParking", func(b *testing.B) {
				queue := make(channelQueue, benchCapacity)
				benchmarkTransfer(b, shape.producers, shape.consumers,
					func(v ref) { queue <- v },
					func(want int) int { <-queue; return 1 })
			})
			b.Run("ringRuns", func(b *testing.B) {
				queue := newRing(benchCapacity)
				benchmarkTransfer(b, shape.producers, shape.consumers, politePush(queue), politePopInto(queue))
			})
		})
	}
}

// benchmarkTransfer moves b.N refs from the producers to the consumers. Each
// side has a fixed share of them, so that nobody counts together with others.
// pop takes at most want refs and returns how many it took, at least one.
func benchmarkTransfer(b *testing.B, producers, consumers int, push func(ref), pop func(want int) int) {
	var done sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for i := range producers {
		done.Go(func() {
			for n := share(b.N, producers, i); n > 0; n-- {
				push(ref(n))
			}
		})
	}
	for i := range consumers {
		done.Go(func() {
			for n := share(b.N, consumers, i); n > 0; {
				n -= pop(n)
			}
		})
	}
	done.Wait()
}

// share is the i-th of parts nearly equal parts of total.
func share(total, parts, i int) int {
	n := total / parts
	if i < total%parts {
		n++
	}
	return n
}

func politePush(q benchQueue) func(ref) {
	return func(v ref) {
		for !q.push(v) {
			runtime.Gosched()
		}
	}
}

func politePop(q benchQueue) func(int) int {
	return func(int) int {
		for {
			if _, ok := q.pop(); ok {
				return 1
			}
			runtime.Gosched()
		}
	}
}

func politePopInto(q *ring) func(int) int {
	return func(want int) int {
		var buf [64]ref
		for {
			if n := q.popInto(buf[:min(want, len(buf))]); n > 0 {
				return n
			}
			runtime.Gosched()
		}
	}
}

type channelQueue chan ref

func (q channelQueue) push(v ref) bool {
	select {
	case q <- v:
		return true
	default:
		return false
	}
}

func (q channelQueue) pop() (ref, bool) {
	select {
	case v := <-q:
		return v, true
	default:
		return 0, false
	}
}

// mutexQueue is the plain circular buffer under one lock.
type mutexQueue struct {
	mu         sync.Mutex
	cells      []ref
	head, tail uint64
}

func (q *mutexQueue) push(v ref) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head-q.tail == uint64(len(q.cells)) {
		return false
	}
	q.cells[q.head%uint64(len(q.cells))] = v
	q.head++
	return true
}

func (q *mutexQueue) pop() (ref, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == q.tail {
		return 0, false
	}
	v := q.cells[q.tail%uint64(len(q.cells))]
	q.tail++
	return v, true
}
