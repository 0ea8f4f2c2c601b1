package main

import "sync/atomic"

// ring is a bounded first-in-first-out queue of refs for any number of
// producers and consumers. It is Dmitry Vyukov's scheme: there is no lock and
// no list, only an array whose cells each carry a sequence number that says
// whose turn it is.
//
// Positions count pushes and pops since the start, in uint64 and around its
// end; position p lives in cell p & mask. They are never compared by size,
// only by their signed difference, which stays within the capacity.
//
// A cell has one owner at any time, and seq names it:
//
//	seq == p              nobody: the producer that moves head from p to p+1 owns it next
//	seq == p, head > p    that producer, until it stores seq = p+1
//	seq == p+1            nobody: the consumer that moves tail past p owns it next
//	seq == p+1, tail > p  that consumer, until it stores seq = p+capacity,
//	                      which is "nobody" again for the next lap
//
// So a cell changes hands at exactly two kinds of atomic operation: the
// compare-and-swap on head or tail gives it to one goroutine, and that
// goroutine's store to seq gives it away. The value itself is a plain field,
// touched by the owner only; the store to seq publishes it.
//
// No operation waits for another goroutine. The price: a producer that the
// scheduler stops between its two steps hides the refs pushed behind it, which
// look like an empty ring until it goes on, and a consumer stopped likewise
// makes the ring look full a lap later. Whoever sleeps when a ring looks empty
// must therefore be woken by a check that comes after the push, not by the
// pushes before it (see dispatcher).
type ring struct {
	cells []ringCell
	mask  uint64
	_     [falseSharing - 32]byte

	// head is the position of the next push. Producers move it by
	// compare-and-swap; it hands out cells but publishes nothing.
	head atomic.Uint64
	_    [falseSharing - 8]byte

	// tail is the position of the next pop. Consumers move it by
	// compare-and-swap, by one or by a whole run of published cells.
	tail atomic.Uint64
	_    [falseSharing - 8]byte
}

// ringCell is a quarter of a cache line. Giving every cell a line of its own
// would take four times the memory, and popInto would read four times the lines.
type ringCell struct {
	// seq says who owns the cell. Stored by the owner to give the cell away,
	// loaded by everybody.
	seq atomic.Uint64
	// value belongs to the owner alone.
	value ref
}

const (
	// falseSharing is how many bytes apart two fields must be so that writing
	// one does not slow down the other: two lines of 64 bytes, since x86
	// prefetches lines in pairs, and one line of arm64's largest.
	falseSharing = 128

	// minRingCapacity is 2 because with a single cell "published at p" and
	// "free for p+1" would be the same sequence number.
	minRingCapacity = 2
)

// newRing returns an empty ring that holds at least capacity refs: the next
// power of two.
func newRing(capacity int) *ring {
	return newRingAt(capacity, 0)
}

// newRingAt is newRing with the position of the first push, so that a test can
// begin shortly before positions wrap around.
func newRingAt(capacity int, start uint64) *ring {
	size := uint64(minRingCapacity)
	for size < uint64(max(capacity, 0)) {
		size *= 2
	}
	r := &ring{cells: make([]ringCell, size), mask: size - 1}
	for p := start; p != start+size; p++ {
		r.cells[p&r.mask].seq.Store(p)
	}
	r.head.Store(start)
	r.tail.Store(start)
	return r
}

// push appends v, or reports false when the ring is full.
func (r *ring) push(v ref) bool {
	for {
		p := r.head.Load()
		c := &r.cells[p&r.mask]
		switch turn := int64(c.seq.Load() - p); {
		case turn == 0:
			if r.head.CompareAndSwap(p, p+1) {
				// The cell is ours from here to the store.
				c.value = v
				c.seq.Store(p + 1)
				return true
			}
		case turn < 0:
			// Still a ref of the lap before, or a consumer at it.
			return false
		}
		// Another producer took p: it has made progress, and we try the next.
	}
}

// pop takes the oldest ref, or reports false when the ring is empty.
func (r *ring) pop() (ref, bool) {
	for {
		p := r.tail.Load()
		c := &r.cells[p&r.mask]
		switch turn := int64(c.seq.Load() - (p + 1)); {
		case turn == 0:
			if r.tail.CompareAndSwap(p, p+1) {
				// The cell is ours from here to the store.
				v := c.value
				c.seq.Store(p + uint64(len(r.cells)))
				return v, true
			}
		case turn < 0:
			return 0, false
		}
		// Another consumer took p: it has made progress, and we try the next.
	}
}

// popInto takes as many of the oldest refs as are published in an unbroken run
// and fit into buf, and returns how many. It returns fewer than len(buf) only
// after it saw the cell behind the last one unpublished. One compare-and-swap
// pays for the whole run.
func (r *ring) popInto(buf []ref) int {
	if len(buf) == 0 {
		return 0
	}
	for {
		p := r.tail.Load()
		n, turn := r.run(p, len(buf))
		if n == 0 {
			if turn < 0 {
				return 0
			}
			continue // Another consumer took p.
		}
		// A published cell stays as it is until tail moves past it. So if tail
		// is still p, the whole run is as we saw it, and becomes ours at once.
		if !r.tail.CompareAndSwap(p, p+uint64(n)) {
			continue
		}
		for i := range n {
			q := p + uint64(i)
			c := &r.cells[q&r.mask]
			buf[i] = c.value
			c.seq.Store(q + uint64(len(r.cells)))
		}
		return n
	}
}

// run counts the published cells from position p on, up to most. With none, turn says
// whether p is yet to be published (negative) or already taken (positive).
func (r *ring) run(p uint64, most int) (n int, turn int64) {
	for n < most {
		q := p + uint64(n)
		if turn = int64(r.cells[q&r.mask].seq.Load() - (q + 1)); turn != 0 {
			break
		}
		n++
	}
	return n, turn
}

// ready reports whether a pop would have found a ref. Unlike len it does not
// count a push that is still under way.
func (r *ring) ready() bool {
	for {
		p := r.tail.Load()
		switch turn := int64(r.cells[p&r.mask].seq.Load() - (p + 1)); {
		case turn == 0:
			return true
		case turn < 0:
			return false
		}
		// A consumer moved tail between our two loads.
	}
}

// len returns about how many refs are inside, from 0 to the capacity. It
// counts pushes that are under way, and is old when it returns.
func (r *ring) len() int {
	// Tail first: head only grows, so the difference can't be negative.
	tail := r.tail.Load()
	return int(min(r.head.Load()-tail, uint64(len(r.cells))))
}
