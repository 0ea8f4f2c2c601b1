package main

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"
)

// policyParts is what a policy is made of.
type policyParts struct {
	storm    storm
	instance int
	limit    int // sends at once to each processor, of all instances
	clock    *clock
	log      *slog.Logger
	bus      *stormBus
	backlog  func() int
	arrivals func() int64
}

// policyMaker makes the policy of one instance.
type policyMaker func(policyParts) stormPolicy

// makeGalo makes the policy that galo has.
func makeGalo(p policyParts) stormPolicy {
	made := newPolicy(p.storm.patience, p.storm.fees, p.limit, p.clock, p.log)
	made.backlog, made.arrivals, made.publish = p.backlog, p.arrivals, p.bus.publishFinding
	made.stagger = float64(p.instance) / float64(p.storm.instances)
	made.peers = func() int { return p.storm.instances }
	return made
}

// baseline is a policy as somebody would write it first. All of them pause after a refusal, as one who writes a worker's loop would
// have it do, hold their permit in the meantime, and serve who was accepted first. What differs is the choice.
type baseline struct {
	choice
	mu       sync.Mutex
	limit    int
	inFlight [processors]int
	waiting  waiters
	out      map[*bool]micros       // permits that are out, by what they share with nothing else, and whose they are
	refusals map[micros]refusedOnce // what the payment was refused last, by when it was accepted
	tick     *time.Timer
	stopped  bool
}

// choice is what a baseline decides and learns; it is called under the baseline's mu.
type choice interface {
	choose(last refusedOnce) (processorID, bool)
	goes(to processorID)
	outcome(at processorID, o outcome)
	reading(at processorID, r healthReading)
}

// refusedOnce is what a payment has met so far.
type refusedOnce struct {
	times int
	at    processorID
	when  time.Time
}

// retryPause is how long a baseline waits before it tries again what was just refused.
const retryPause = 100 * time.Millisecond

func newBaseline(p policyParts, c choice) *baseline {
	b := &baseline{choice: c, limit: p.limit / p.storm.instances, out: make(map[*bool]micros), refusals: make(map[micros]refusedOnce)}
	b.tick = time.AfterFunc(retryPause, b.wake)
	return b
}

// wake looks again at those that wait: what keeps them may have ended by itself.
func (b *baseline) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.grant(); !b.stopped {
		b.tick.Reset(retryPause)
	}
}

func (b *baseline) acquire(ctx context.Context, acceptedAt micros) (permit, bool) {
	b.mu.Lock()
	last := b.refusals[acceptedAt]
	if next, ok := b.choose(last); last.times > 0 && ok && (next == last.at || last.times%processors == 0) {
		b.mu.Unlock()
		pause(ctx, time.Until(last.when.Add(retryPause-time.Millisecond))) // it is back in line when permits are given back
		b.mu.Lock()
	}
	w := &waiter{acceptedAt: acceptedAt, granted: make(chan permit, 1)}
	heap.Push(&b.waiting, w)
	b.grant()
	b.mu.Unlock()
	select {
	case pm := <-w.granted:
		return pm, true
	case <-ctx.Done():
		return permit{}, false
	}
}

func (b *baseline) grant() {
	for len(b.waiting) > 0 && !b.stopped {
		oldest := b.waiting[0]
		at, ok := b.choose(b.refusals[oldest.acceptedAt])
		if !ok || b.inFlight[at] >= b.limit {
			return
		}
		heap.Pop(&b.waiting)
		oldest.granted <- b.take(at, oldest.acceptedAt)
	}
}

func (b *baseline) take(at processorID, acceptedAt micros) permit {
	b.goes(at)
	b.inFlight[at]++
	held := true
	b.out[&held] = acceptedAt
	return permit{processor: at, held: &held}
}

func (b *baseline) acquireAt(at processorID) (permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || b.inFlight[at] >= b.limit {
		return permit{}, false
	}
	return b.take(at, 0), true
}

func (b *baseline) observe(pm permit, o outcome, _ time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	acceptedAt := b.out[pm.held]
	b.outcome(pm.processor, o)
	switch o {
	case outcomeRefused, outcomeBusy, outcomeMisconfigured:
		b.refusals[acceptedAt] = refusedOnce{b.refusals[acceptedAt].times + 1, pm.processor, time.Now()}
		time.AfterFunc(retryPause, func() { b.release(pm) })
	case outcomePaid, outcomeTaken, outcomeInvalid, outcomeUnknown:
		delete(b.refusals, acceptedAt)
		b.free(pm)
	}
}

func (b *baseline) release(pm permit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free(pm)
}

func (b *baseline) free(pm permit) {
	if *pm.held {
		*pm.held = false
		delete(b.out, pm.held)
		b.inFlight[pm.processor]--
		b.grant()
	}
}

func (b *baseline) health(at processorID, r healthReading, _ time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading(at, r)
	b.grant()
}

func (b *baseline) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	b.tick.Stop()
}

func (b *baseline) look()                               {}
func (b *baseline) heard(finding)                       {}
func (b *baseline) expect(at processorID) time.Duration { return answerInTime }

// alwaysCheap goes to the cheaper processor, come what may.
type alwaysCheap struct{ cheap processorID }

func makeAlwaysCheap(p policyParts) stormPolicy { return newBaseline(p, &alwaysCheap{p.storm.cheap()}) }

func (a *alwaysCheap) choose(refusedOnce) (processorID, bool) { return a.cheap, true }
func (a *alwaysCheap) goes(processorID)                       {}
func (a *alwaysCheap) outcome(processorID, outcome)           {}
func (a *alwaysCheap) reading(processorID, healthReading)     {}

// firstThatAnswers goes to the cheaper one, after a refusal to the other, and so on.
type firstThatAnswers struct{ alwaysCheap }

func makeFirstThatAnswers(p policyParts) stormPolicy {
	return newBaseline(p, &firstThatAnswers{alwaysCheap{p.storm.cheap()}})
}

func (f *firstThatAnswers) choose(last refusedOnce) (processorID, bool) {
	if last.times > 0 {
		return 1 - last.at, true
	}
	return f.cheap, true
}

// healthOnly believes what the processors last said of themselves: the cheaper one if that is well, else the other, else it waits.
type healthOnly struct {
	alwaysCheap
	said [processors]healthReading
}

func makeHealthOnly(p policyParts) stormPolicy {
	return newBaseline(p, &healthOnly{alwaysCheap: alwaysCheap{p.storm.cheap()}})
}

func (h *healthOnly) choose(refusedOnce) (processorID, bool) {
	for _, at := range [...]processorID{h.cheap, 1 - h.cheap} {
		if !h.said[at].failing && h.said[at].minResponse < answerInTime {
			return at, true
		}
	}
	return 0, false
}

func (h *healthOnly) reading(at processorID, r healthReading) { h.said[at] = r }

// circuitBreaker is one of the plain kind for each processor: some failures in a row open it for a while, then one payment may try.
type circuitBreaker struct {
	alwaysCheap
	failures [processors]int
	opened   [processors]time.Time // or the last try since
}

const (
	breakerFailures = 5
	breakerOpen     = 5 * time.Second
)

func makeCircuitBreaker(p policyParts) stormPolicy {
	return newBaseline(p, &circuitBreaker{alwaysCheap: alwaysCheap{p.storm.cheap()}})
}

func (c *circuitBreaker) choose(refusedOnce) (processorID, bool) {
	for _, at := range [...]processorID{c.cheap, 1 - c.cheap} {
		if c.failures[at] < breakerFailures || time.Since(c.opened[at]) >= breakerOpen {
			return at, true
		}
	}
	return 0, false
}

func (c *circuitBreaker) goes(to processorID) {
	if c.failures[to] >= breakerFailures {
		c.opened[to] = time.Now()
	}
}

func (c *circuitBreaker) outcome(at processorID, o outcome) {
	switch o {
	case outcomePaid, outcomeTaken, outcomeInvalid:
		c.failures[at] = 0
	case outcomeRefused, outcomeBusy, outcomeMisconfigured, outcomeUnknown:
		if c.failures[at]++; c.failures[at] == breakerFailures {
			c.opened[at] = time.Now()
		}
	}
}
