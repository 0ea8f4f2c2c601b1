package main

import (
	"context"
	"fmt"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"
)

// dispatcher hands refs from any number of pushers to a fixed set of workers.
// Every worker has a ring; refs go round by their numbers, and a worker whose ring is empty
// takes from the others, so that no ref depends on one worker coming back.
//
// Workers that find nothing park on a channel of their own. Whoever pushes
// wakes one of them, and this one is the collector until it has lingered: refs
// pushed meanwhile pile up for it and wake nobody else. So a quiet system does
// one thing per push, a busy one none, and an idle one nothing at all.
//
// # Why no wake-up is lost
//
// All turns on the word roles: a bit per idle worker and one that says that
// somebody is collecting. Go's atomics are sequentially consistent, so of two
// goroutines that each write one word and then read the other's, at least one
// sees the other's write. That is used three times over:
//
//   - A pusher publishes its ref and then loads roles. If it sees nobody idle
//     and nobody collecting, then every worker is yet to set its idle bit, and
//     looks at the rings after that: it will find the ref.
//   - If it sees somebody collecting, that worker is yet to clear the bit, and
//     sweeps the rings after that: it will find the ref, or fill its buffer
//     before, see that work is left, and wake the next.
//   - Otherwise it takes an idle bit away and sets the collecting bit in the
//     same compare-and-swap, which nobody else can do then, and sends the
//     token. Only the owner of that swap sends, and the worker does not set
//     its bit again before it has received, so the send never waits.
//
// A worker that sets its bit and then finds work at its last look acts as a
// pusher of that ref would: it wakes an idle worker, itself preferably, or
// leaves the ref to whoever collects.
//
// A ref hidden behind a push under way (see ring) can be missed by all of
// these, but the pusher that hides it loads roles after it has published.
type dispatcher struct {
	// Read-only after newDispatcher.
	rings   []*ring
	workers []parkedWorker
	linger  *linger
	_       [falseSharing]byte

	// roles has bit w set while worker w is idle, and the collecting bit from
	// the moment an idle worker is chosen to the moment it has lingered. Idle
	// bits are set by their worker and cleared by whoever wakes it; the
	// collecting bit is set together with that, and cleared by the worker
	// chosen. Every load of it comes after the ring operation that gave cause.
	roles atomic.Uint64
	_     [falseSharing - 8]byte
}

// parkedWorker is what a worker needs to park and to be woken.
type parkedWorker struct {
	// token makes this worker the collector. There is at most one token in all
	// channels together, since the collecting bit allows for one at a time.
	token chan struct{}
	// timer ends the lingering; it runs at no other time. Used by the worker only.
	timer *time.Timer
}

const (
	// collecting is the bit of roles that no worker has.
	collecting = uint64(1) << maxWorkers

	// maxWorkers is what fits into roles beside the collecting bit.
	maxWorkers = 63

	// claimsEnough is how many refs are worth a claim at once.
	claimsEnough = 16
)

// newDispatcher returns a dispatcher for workers 0 to workers-1 whose rings
// hold at least capacity refs together. A worker that is woken lets work pile
// up until there is enough, but for no longer than longest, which may be 0.
func newDispatcher(workers, capacity int, longest time.Duration) *dispatcher {
	if workers < 1 || workers > maxWorkers {
		panic(fmt.Sprintf("dispatcher: %d workers, allowed are 1 to %d", workers, maxWorkers))
	}
	d := &dispatcher{
		rings:   make([]*ring, workers),
		workers: make([]parkedWorker, workers),
		linger:  newLinger(longest, claimsEnough),
	}
	for w := range workers {
		d.rings[w] = newRing((capacity + workers - 1) / workers)
		timer := time.NewTimer(longest)
		timer.Stop()
		d.workers[w] = parkedWorker{token: make(chan struct{}, 1), timer: timer}
	}
	return d
}

// push hands v to the workers. The caller has reserved room: while there are
// never more than capacity refs inside, counting those that take has not yet
// returned, some ring has room or is about to have it.
func (d *dispatcher) push(v ref) {
	w := int(uint32(v) % uint32(len(d.rings))) // sequences go round by themselves
	for tried := 1; !d.rings[w].push(v); tried++ {
		if w++; w == len(d.rings) {
			w = 0
		}
		if tried%len(d.rings) == 0 {
			// Every ring looked full, so a worker was stopped in the middle of
			// taking from one, or others were quicker. Let them go on.
			runtime.Gosched()
		}
	}
	d.wake(w)
}

// wake makes an idle worker the collector, unless somebody is collecting or
// nobody is idle. It prefers the given worker, then the next higher. It is
// called after a ref was published or seen.
func (d *dispatcher) wake(preferred int) {
	for {
		roles := d.roles.Load()
		if roles&collecting != 0 || roles == 0 {
			return
		}
		candidates := roles
		if higher := roles >> preferred << preferred; higher != 0 {
			candidates = higher
		}
		w := bits.TrailingZeros64(candidates)
		if d.roles.CompareAndSwap(roles, roles&^(1<<w)|collecting) {
			d.workers[w].token <- struct{}{} // has room: see dispatcher
			return
		}
	}
}

// take fills buf with the refs that wait, of all rings in equal parts if they are
// more than fit, and returns how many it took: at least one, or 0
// when ctx is done. It is called by worker w only. Refs of one ring come out in
// the order of their pushes. A worker that finds less than half of buf waiting
// lingers first; a ref that one collector had no room for may see another linger.
func (d *dispatcher) take(ctx context.Context, w int, buf []ref) int {
	if len(buf) == 0 {
		return 0
	}
	for ctx.Err() == nil {
		if d.worthwhile(buf) {
			if n := d.sweep(w, buf); n > 0 {
				return n
			}
		}
		d.roles.Or(1 << w)
		if d.ready() {
			d.wake(w)
		}
		if !d.park(ctx, w) {
			return 0
		}
		if !d.worthwhile(buf) {
			d.wait(ctx, w)
		}
		// From here pushes wake others again. The sweep must come after.
		d.roles.And(^collecting)
		if ctx.Err() != nil {
			d.passOn(w)
			return 0
		}
		if n := d.sweep(w, buf); n > 0 {
			return n
		}
		// Another worker was quicker, or the ref is behind a push under way.
	}
	return 0
}

// park waits for the token that makes worker w the collector. It reports false
// when ctx is done, with w no longer idle and its duties passed on.
func (d *dispatcher) park(ctx context.Context, w int) bool {
	select {
	case <-d.workers[w].token:
		return true
	case <-ctx.Done():
	}
	if idle := d.roles.And(^(uint64(1) << w)); idle&(1<<w) == 0 {
		// Somebody has chosen this worker all the same: the token is here or
		// about to be sent.
		<-d.workers[w].token
		d.roles.And(^collecting)
		d.passOn(w)
	}
	return false
}

// wait lets work pile up, or until ctx is done.
func (d *dispatcher) wait(ctx context.Context, w int) {
	timer := d.workers[w].timer
	timer.Reset(d.linger.now())
	select {
	case <-timer.C:
	case <-ctx.Done():
		timer.Stop()
	}
}

// passOn wakes another worker if there is work. It is called by a collector
// that leaves some, after it has cleared the collecting bit.
func (d *dispatcher) passOn(w int) {
	if d.ready() {
		d.wake(w)
	}
}

// worthwhile reports whether a sweep now is better than lingering: half of buf
// is there already, or nobody lingers.
func (d *dispatcher) worthwhile(buf []ref) bool {
	return d.linger.longest <= 0 || 2*d.waiting() >= len(buf)
}

// sweep takes what waits, and wakes the next worker if it leaves work behind.
//
// It begins with worker w's own ring and goes from one to the next until buf is
// full or it has seen the end of each. If more waits than fits, it first takes
// from each of the others its part, but at least one. So nothing waits for ever
// in the ring of a worker that is stuck, and what comes out together was pushed
// together: when thousands are held, those that came first go first.
func (d *dispatcher) sweep(w int, buf []ref) int {
	n := 0
	if waiting := d.waiting(); waiting > len(buf) {
		for from := d.after(w); from != w && n < len(buf); from = d.after(from) {
			part := max(1, len(buf)*d.rings[from].len()/waiting)
			n += d.rings[from].popInto(buf[n:min(n+part, len(buf))])
		}
	}
	from := w
	for range d.rings {
		if n += d.rings[from].popInto(buf[n:]); n == len(buf) {
			d.passOn(w)
			break
		}
		from = d.after(from)
	}
	d.linger.took(n)
	return n
}

// after is the ring after a ring.
func (d *dispatcher) after(w int) int {
	if w++; w < len(d.rings) {
		return w
	}
	return 0
}

// ready reports whether a sweep would have found a ref.
func (d *dispatcher) ready() bool {
	for _, r := range d.rings {
		if r.ready() {
			return true
		}
	}
	return false
}

// waiting returns about how many refs are in the rings.
func (d *dispatcher) waiting() int {
	n := 0
	for _, r := range d.rings {
		n += r.len()
	}
	return n
}

// idle returns how many workers are parked.
func (d *dispatcher) idle() int {
	return bits.OnesCount64(d.roles.Load() &^ collecting)
}
