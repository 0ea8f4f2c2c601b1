package main

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"
)

// resolver finds out what became of payments whose outcome is not known: those pinned to a processor, and those whose
// answer is overdue. It asks by look-up first; a pinned payment that the processor does not know is sent again, to the same
// processor, under the same requestedAt. It never sends anything anywhere else.
type resolver struct {
	ledger     *ledger
	policy     gate
	settler    *settler
	feeder     *feeder
	processors [processors]client
	// doubtGrace is how long an attempt of an earlier process may still be under way at a processor.
	doubtGrace time.Duration
	metrics    *metrics
	log        *slog.Logger

	mu       sync.Mutex
	pins     dueHeap[pin]
	out      map[*watched]struct{} // attempts that are out
	kicked   chan struct{}         // capacity 1: an attempt is out, or a pin is due earlier than thought
	doubts   dueHeap[doubt]
	lookUps  chan struct{} // a token for each look-up or repeated send that may run at once
	attempts sync.WaitGroup
}

// watched is one attempt that is out.
type watched struct {
	v     slotView
	pm    permit
	since time.Time
	next  time.Time // when it is to be looked up
	busy  bool      // a look-up runs
}

// pin is a pinned payment that waits for its next try.
type pin struct {
	ref   ref
	at    processorID
	tries int
	due   time.Time
	// sendFirst: it was looked up in vain before, so the next try is to send it. If it is there after all, that is answered by
	// a 422, which is looked up.
	sendFirst bool
}

// doubt is a payment that may be paid, or on its way, without a trace of it here, or with a wrong one.
type doubt struct {
	ref   ref
	out   bool      // its slot says where it was sent, but that may be neither the last word nor true
	since time.Time // when it was found
	due   time.Time
}

// open says that nobody has found out since.
func (d *doubt) open(w word) bool {
	if d.out {
		return w.wasOut() || w.state() == slotSent && w.pinned()
	}
	return w.state() == slotAccepted || w.state() == slotFree
}

const (
	// An attempt is looked up when it takes this much longer than expected, and again after as long.
	overdueAfter = 300 * time.Millisecond
	// However slow an answer is expected to be, it is looked up in time for a summary that asks for what was sent 1.5 s ago.
	overdueLatest = 900 * time.Millisecond
	watchEvery    = 50 * time.Millisecond
	// Pinned payments are tried again after 100 ms, 200 ms, ... 5 s.
	firstPinRetry = 100 * time.Millisecond
	lastPinRetry  = 5 * time.Second
	// resolverConcurrency bounds look-ups and repeated sends together, for both processors: they count in a processor's limits.
	resolverConcurrency = 200
	// A doubt is looked into again after this time where a processor did not answer.
	doubtRetry = time.Second
)

func newResolver(l *ledger, pol gate, s *settler, f *feeder, procs [processors]client, m *metrics, log *slog.Logger) *resolver {
	const doubtGrace = 10 * time.Second // SEND_TIMEOUT's default
	return &resolver{ledger: l, policy: pol, settler: s, feeder: f, processors: procs, metrics: m, log: log, doubtGrace: doubtGrace,
		out: make(map[*watched]struct{}), kicked: make(chan struct{}, 1), lookUps: make(chan struct{}, resolverConcurrency)}
}

// watch follows an attempt from now until unwatch.
func (r *resolver) watch(v slotView, pm permit) *watched {
	now := time.Now()
	patience := min(r.policy.expect(pm.processor)+overdueAfter, overdueLatest)
	if v.word.pinned() { // its requestedAt is long ago: from the moment that it lands, summaries lack it
		patience = r.policy.expect(pm.processor) + watchEvery
	}
	w := &watched{v: v, pm: pm, since: now, next: now.Add(patience)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out[w] = struct{}{}; len(r.out) == 1 {
		r.kick()
	}
	return w
}

func (r *resolver) unwatch(w *watched) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.out, w)
}

// pin takes a payment over whose outcome is unknown.
func (r *resolver) pin(v slotView) {
	r.schedule(pin{ref: v.ref, at: v.word.processor(), due: time.Now()})
}

// doubt takes payments over that may be paid without a trace of it: accepted before a power loss, damaged, or claimed so late that the trace
// may have been forgotten.
func (r *resolver) doubt(refs ...ref) {
	for _, one := range refs {
		r.ledger.journal(one).doubts.add(one.seq())
	}
	r.lookInto(false, refs)
}

// cross takes payments over that were sent to one processor, as their slots have it, and perhaps to the other one: their words are damaged,
// or from before a power loss, when a later one may not have reached the disk. Once the other one does not know them, they are pinned.
func (r *resolver) cross(refs ...ref) { r.lookInto(true, refs) }

func (r *resolver) lookInto(out bool, refs []ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, one := range refs {
		heap.Push(&r.doubts, doubt{ref: one, out: out, since: now, due: now})
	}
	r.kick()
}

func (r *resolver) schedule(p pin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if heap.Push(&r.pins, p); r.pins[0].ref == p.ref {
		r.kick()
	}
}

// retryNow makes everything that is pinned to a processor due at once, since that has been heard of again. All of it together: as
// each one lands, summaries lack it until it is settled, and many short gaps at once are one short gap.
func (r *resolver) retryNow(id processorID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for i := range r.pins {
		if p := &r.pins[i]; p.at == id && p.due.After(now) {
			p.due, p.sendFirst, p.tries = now, p.tries > 0, 0
		}
	}
	heap.Init(&r.pins)
	r.kick()
}

func (r *resolver) kick() {
	select {
	case r.kicked <- struct{}{}:
	default:
	}
}

// run works until ctx ends, and returns when its last try has.
func (r *resolver) run(ctx context.Context) {
	defer r.attempts.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.kicked:
		}
		if wait, ok := r.step(); ok {
			timer.Reset(wait)
		}
	}
}

// step starts what is due, and says when to look again.
func (r *resolver) step() (wait time.Duration, ok bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pins) > 0 && !r.pins[0].due.After(now) && r.begin() {
		p := heap.Pop(&r.pins).(pin)
		r.attempts.Go(func() { r.try(p); r.end() })
	}
	for len(r.doubts) > 0 && !r.doubts[0].due.After(now) && r.begin() {
		d := heap.Pop(&r.doubts).(doubt)
		r.attempts.Go(func() { r.settleDoubt(d); r.end() })
	}
	for w := range r.out {
		if !w.busy && now.After(w.next) && r.begin() {
			w.busy = true
			r.attempts.Go(func() { r.lookAfter(w); r.end() })
		}
	}
	switch {
	case len(r.out) > 0 || len(r.doubts) > 0: // every step looks at both
		return watchEvery, true
	case len(r.pins) > 0:
		return max(time.Until(r.pins[0].due), time.Millisecond), true
	}
	return 0, false
}

// begin takes a token for a look-up, without waiting.
func (r *resolver) begin() bool {
	select {
	case r.lookUps <- struct{}{}:
		return true
	default:
		return false
	}
}

func (r *resolver) end() { <-r.lookUps }

// lookAfter asks for a payment while its answer is overdue: if it is there, it is settled without the answer.
func (r *resolver) lookAfter(w *watched) {
	r.policy.look()
	found := r.lookUp(w.v, w.pm.processor)
	if found {
		r.policy.release(w.pm)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Less and less often: the answer itself is on its way as a rule, and each look-up counts in the processor's limits.
	w.busy, w.next = found, time.Now().Add(max(overdueAfter, time.Since(w.since)/4))
}

// lookUp asks the processor for a payment and journals it as paid if it is there.
func (r *resolver) lookUp(v slotView, p processorID) bool { return r.heed(v, p, r.ask(v, p)) }

func (r *resolver) ask(v slotView, p processorID) lookUpResult {
	res := r.processors[p].lookUp(v.id)
	r.metrics.lookUp(p, res)
	return res
}

// heed journals a payment as paid if its look-up has found it.
func (r *resolver) heed(v slotView, p processorID, res lookUpResult) bool {
	if res.kind != lookUpFound {
		return false
	}
	v, ok := r.ledger.read(v.ref) // a second attempt, or a pin, may have changed the word since
	if !ok || v.word.state() != slotSent {
		return true
	}
	if res.amount != v.amount || res.requestedAt != v.requestedAt {
		r.log.Warn("processor has the payment under other values", "id", v.id.String(), "processor", p.String(),
			"amount", int64(res.amount), "ours", int64(v.amount), "requested_at", int64(res.requestedAt), "our_requested_at", int64(v.requestedAt))
	}
	if v, ok = r.ledger.paidAs(v, p, res.amount, res.requestedAt); ok {
		r.settler.addNow(v.ref)
	}
	return true
}

// try makes one more try for a pinned payment: look it up, else send it again, to the same processor only.
func (r *resolver) try(p pin) {
	v, ok := r.ledger.read(p.ref)
	if !ok || v.word.state() != slotSent {
		return
	}
	at := v.word.processor()
	if !p.sendFirst && r.lookUp(v, at) || r.sendAgain(v, at) {
		return
	}
	delay := lastPinRetry
	if p.tries < 6 {
		delay = min(firstPinRetry<<p.tries, lastPinRetry)
	}
	r.schedule(pin{ref: p.ref, at: at, tries: p.tries + 1, due: time.Now().Add(delay)})
}

// sendAgain repeats a pinned payment's attempt. It is true when that ended it. No refusal and no 4xx unpins or rejects it:
// the earlier attempt may still land.
func (r *resolver) sendAgain(v slotView, at processorID) bool {
	pm, ok := r.policy.acquireAt(at)
	if !ok {
		return false
	}
	v, ok = r.ledger.sent(v, at, v.requestedAt)
	if !ok {
		r.policy.release(pm)
		return true // settled meanwhile
	}
	r.ledger.sync(v.ref)
	watched := r.watch(v, pm)
	res := r.processors[at].pay(v.id, v.amount, v.requestedAt)
	r.unwatch(watched)
	r.policy.observe(pm, res.outcome, res.took)
	r.metrics.attempt(at, res)
	switch res.outcome {
	case outcomePaid:
		if v, ok := r.ledger.paid(v); ok {
			r.settler.addNow(v.ref)
		}
		return true
	case outcomeTaken:
		if r.lookUp(v, at) {
			return true
		}
		r.log.Error("processor says that it has a payment, but does not find it", "id", v.id.String(), "processor", at.String())
	case outcomeMisconfigured, outcomeInvalid:
		r.log.Error("processor refuses a payment that may be on its way", "id", v.id.String(), "processor", at.String(), "outcome", res.outcome.String(), "detail", res.detail)
	case outcomeRefused, outcomeBusy, outcomeUnknown:
	}
	return false
}

// settleDoubt asks both processors for a payment in doubt. One that reads accepted, or nothing at all, may be sent when both have answered that
// they do not know it; one that was out is pinned where it was when the other one has. But that counts only when no attempt from before can be
// under way any more: until then their word proves nothing.
func (r *resolver) settleDoubt(d doubt) {
	v, ok := r.ledger.read(d.ref)
	if !ok || !d.open(v.word) {
		return
	}
	asked := time.Now()
	var absent [processors]bool
	for id := range processorID(processors) {
		switch res := r.ask(v, id); res.kind {
		case lookUpFound:
			if v, ok := r.ledger.paidAs(v, id, res.amount, res.requestedAt); ok {
				r.settler.addNow(v.ref)
			}
			return
		case lookUpAbsent:
			absent[id] = true
		case lookUpNoAnswer:
		}
	}
	certain := d.since.Add(r.doubtGrace)
	both := absent[onDefault] && absent[onFallback]
	answered := both || d.out && absent[v.word.processor().other()]
	switch {
	case answered && !asked.Before(certain):
		r.endDoubt(d, v)
		return
	case both:
		d.due = certain
	default:
		d.due = time.Now().Add(doubtRetry)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	heap.Push(&r.doubts, d)
	r.kick()
}

// endDoubt sends a payment on its way again, of which the processors do not know.
func (r *resolver) endDoubt(d doubt, v slotView) {
	if d.out {
		if v, ok := r.ledger.become(v, slotSent); ok {
			r.pin(v)
		}
		return
	}
	if v, ok := r.ledger.cleared(v); ok {
		r.feeder.add(v.ref)
	}
}

// pinned is how many payments wait for their outcome to be found out.
func (r *resolver) pinned() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pins)
}

func (p pin) dueAt() time.Time   { return p.due }
func (d doubt) dueAt() time.Time { return d.due }

// dueHeap has at its front what is due first.
type dueHeap[T interface{ dueAt() time.Time }] []T

func (h dueHeap[T]) Len() int           { return len(h) }
func (h dueHeap[T]) Less(i, k int) bool { return h[i].dueAt().Before(h[k].dueAt()) }
func (h dueHeap[T]) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *dueHeap[T]) Push(x any)        { *h = append(*h, x.(T)) }
func (h *dueHeap[T]) Pop() any {
	old := *h
	one := old[len(old)-1]
	*h = old[:len(old)-1]
	return one
}
