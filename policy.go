package main

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"
)

// policy decides which processor a payment goes to, or that it waits. It is the one place that knows how the processors
// are doing: it learns from the outcomes of our own attempts, from health readings, and from what other instances find.
//
// The rule: the cheaper processor while it is up and answers in good time; else wait for it, up to PATIENCE after acceptance;
// then the dearer one, if that is up and quick; then either of them, however slow; else go on waiting. Whoever waits longest
// goes first. A processor that refuses is closed to all but one payment at a time, the probe.
type policy struct {
	patience    time.Duration
	cheap, dear processorID
	clock       *clock
	backlog     func() int        // payments that wait before they even ask
	arrivals    func() int64      // payments accepted since the start
	publish     func(finding)     // tells the other instances what changed
	reopened    func(processorID) // tells the resolver; it must not call back
	log         *slog.Logger
	mu          sync.Mutex
	state       [processors]processorState
	waiting     waiters
	timer       *time.Timer // calls wake at the next moment at which waiting may end by itself
	rate        arrivalRate
	closed      bool // no permit is given any more

	timed func(processorID, standing, time.Duration) // tells the metrics of a change of standing, see changed
}

const (
	// A send that takes longer than 1.5 s may be missing from a summary that is asked for in the meantime; the rest is margin
	// for queueing on both sides.
	slowAnswer = 1200 * time.Millisecond
	// Probes: often just after the closing, less often later. A refused probe costs nothing.
	firstProbeGap = 100 * time.Millisecond
	lastProbeGap  = time.Second
	probeGrowth   = 3 // halves: the gap grows to 3/2
	// A health reading is news for so long, and so long an outcome of our own outweighs it.
	freshHealth = time.Second
	// So many unknown outcomes in a row close a processor: lost answers alone, up to one in two, hardly ever do.
	unknownsToClose = 12
	// What was held is let go at this rate, or at twice the arrival rate, whichever is more: a burst would spend the CPU
	// quota that intake lives on.
	drainPerSecond = 500
	// Pacing may catch up so much after a late timer.
	paceSlack = 10 * time.Millisecond
)

// permit is the right to have one attempt out at a processor.
type permit struct {
	processor processorID
	probe     bool
	held      *bool // false once it was given back; under the policy's mu
}

func newPolicy(patience time.Duration, fees [processors]ppm, limit int, c *clock, log *slog.Logger) *policy {
	p := &policy{patience: patience, clock: c, log: log, cheap: onDefault, dear: onFallback,
		backlog: func() int { return 0 }, arrivals: func() int64 { return 0 }, publish: func(finding) {}, reopened: func(processorID) {},
		timed: func(processorID, standing, time.Duration) {}}
	if fees[onFallback] < fees[onDefault] {
		p.cheap, p.dear = onFallback, onDefault
	}
	for i := range p.state {
		p.state[i] = processorState{open: true, limit: limit, probeGap: firstProbeGap}
	}
	p.timer = time.AfterFunc(time.Hour, p.wake)
	p.timer.Stop()
	return p
}

// acquire waits until the payment may go out and says where. It is false when ctx ends first.
func (p *policy) acquire(ctx context.Context, acceptedAt micros) (permit, bool) {
	p.mu.Lock()
	if len(p.waiting) == 0 && !p.closed {
		if pm, ok, _ := p.decide(time.Now(), acceptedAt); ok {
			p.mu.Unlock()
			return pm, true
		}
	}
	w := &waiter{acceptedAt: acceptedAt, granted: make(chan permit, 1)}
	heap.Push(&p.waiting, w)
	p.grant()
	p.mu.Unlock()

	select {
	case pm := <-w.granted:
		return pm, true
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.place >= 0 {
		heap.Remove(&p.waiting, w.place)
		return permit{}, false
	}
	return <-w.granted, true // granted in the same moment: it is ours to use
}

// acquireAt asks for a permit of one processor, without waiting: for a payment that is pinned there.
func (p *policy) acquireAt(id processorID) (permit, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, s := time.Now(), &p.state[id]
	switch {
	case p.closed || s.inFlight >= s.limit:
		return permit{}, false
	case s.open:
		return p.take(id, now, false), true
	case s.probeDue(now):
		return p.take(id, now, true), true
	}
	return permit{}, false
}

// decide is the rule. It takes the permit where it says yes; else it says when waiting may end by itself.
func (p *policy) decide(now time.Time, acceptedAt micros) (_ permit, ok bool, again time.Time) {
	waited := p.clock.since(acceptedAt)
	patient := waited < p.patience
	cheap, dear := &p.state[p.cheap], &p.state[p.dear]

	if cheap.usable() && cheap.paced(now) {
		return p.take(p.cheap, now, false), true, again
	}
	if !patient && dear.usable() && dear.paced(now) {
		return p.take(p.dear, now, false), true, again
	}
	if cheap.probeDue(now) {
		return p.take(p.cheap, now, true), true, again
	}
	if !patient && dear.probeDue(now) {
		return p.take(p.dear, now, true), true, again
	}
	if !patient {
		for _, id := range [...]processorID{p.cheap, p.dear} {
			if s := &p.state[id]; s.open && s.inFlight < s.limit && s.paced(now) && !p.state[1-id].usable() {
				return p.take(id, now, false), true, again
			}
		}
	}
	soonest := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	soonest(now.Add(lastProbeGap))
	if patient {
		soonest(now.Add(p.patience - waited))
	}
	for i := range p.state {
		s := &p.state[i]
		if !s.open && !s.probing && s.probeAt.After(now) {
			soonest(s.probeAt)
		}
		if s.open && s.pacing && s.nextAt.After(now) {
			soonest(s.nextAt)
		}
		if news := s.healthAt.Add(freshHealth); s.open && s.expected > slowAnswer && news.After(now) {
			soonest(news)
		}
	}
	return permit{}, false, again
}

func (p *policy) take(id processorID, now time.Time, probe bool) permit {
	s := &p.state[id]
	s.inFlight++
	if probe {
		s.probing = true
		s.probes++
	}
	if s.pacing {
		perSecond := max(drainPerSecond, 2*p.rate.perSecond(now, p.arrivals()))
		s.nextAt = later(s.nextAt, now.Add(-paceSlack)).Add(time.Second / time.Duration(perSecond))
		if len(p.waiting) <= 1 && p.backlog() == 0 {
			s.pacing = false
		}
	}
	held := true
	return permit{processor: id, probe: probe, held: &held}
}

// grant serves the waiters, the oldest first, as far as the rule allows. What the oldest may not, no younger one may.
func (p *policy) grant() {
	for len(p.waiting) > 0 && !p.closed {
		pm, ok, again := p.decide(time.Now(), p.waiting[0].acceptedAt)
		if !ok {
			p.timer.Reset(time.Until(again))
			return
		}
		heap.Pop(&p.waiting).(*waiter).granted <- pm
	}
}

func (p *policy) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grant()
}

// release gives a permit back without an outcome: nothing was sent, or the answer will not be waited for.
func (p *policy) release(pm permit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(pm)
	p.grant()
}

// free gives a permit back, whoever comes first.
func (p *policy) free(pm permit) {
	if !*pm.held {
		return
	}
	*pm.held = false
	s := &p.state[pm.processor]
	s.inFlight--
	if pm.probe {
		s.probing = false
	}
}

// observe learns from the outcome of an attempt and gives its permit back.
func (p *policy) observe(pm permit, o outcome, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(pm)
	s, now := &p.state[pm.processor], time.Now()
	s.outcomeAt = now
	switch o {
	case outcomePaid, outcomeTaken, outcomeInvalid:
		s.unknowns = 0
		if took <= slowAnswer {
			s.goodAt = now
		}
		if pm.probe {
			s.expected = took // what was known before is old
		} else {
			s.learn(took)
		}
		s.probeGap = firstProbeGap
		if !s.open {
			p.open(pm.processor, now, "answered")
		}
	case outcomeRefused, outcomeBusy, outcomeMisconfigured:
		if pm.probe {
			s.probeGap = min(s.probeGap*probeGrowth/2, lastProbeGap)
			s.probeAt = now.Add(s.probeGap)
		}
		if s.open {
			p.close(pm.processor, now, o.String())
		}
	case outcomeUnknown:
		s.unknowns++
		if pm.probe {
			s.probeAt = now.Add(s.probeGap)
		}
		if s.open && s.unknowns >= unknownsToClose {
			p.close(pm.processor, now, "unknown outcomes")
		}
	}
	p.changed(pm.processor, now, "answer time")
	p.grant()
}

// overdue is told of an attempt that has been out for longer than expected and still is. Unless others were answered
// meanwhile, the processor counts as slow from now on: the next payments need not find out one by one.
func (p *policy) overdue(id processorID, out time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := &p.state[id]; out > s.expected && time.Since(s.outcomeAt) > out/2 {
		s.expected = max(out, slowAnswer+time.Millisecond)
		p.changed(id, time.Now(), "no answer yet")
	}
}

// expect is the answer time to reckon with.
func (p *policy) expect(id processorID) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state[id].expected
}

// health learns from a reading. It is up to five seconds old in what it says, so a fresh outcome of our own outweighs it.
func (p *policy) health(id processorID, r healthReading, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.state[id]
	s.healthAt = now
	if now.Sub(s.outcomeAt) > freshHealth || r.minResponse > s.expected {
		s.expected = r.minResponse
	}
	if !r.failing && r.minResponse <= slowAnswer {
		s.goodAt = now
	}
	switch {
	case r.failing && s.open && now.Sub(s.outcomeAt) > freshHealth:
		p.close(id, now, "health")
	case !r.failing && !s.open:
		s.probing, s.probeAt = false, now // a slow probe may still be out: it does not stand in the way
	}
	p.changed(id, now, "health")
	p.grant()
}

// heard learns from another instance: a hint to look for ourselves, or to hold back.
func (p *policy) heard(f finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, now := &p.state[f.processor], time.Now()
	switch {
	case f.open && !s.open:
		s.probeAt = now
	case !f.open && s.open:
		p.shut(f.processor, now, "heard from "+f.instance)
	}
	p.grant()
}

func (p *policy) open(id processorID, now time.Time, why string) {
	s := &p.state[id]
	s.open, s.probing = true, false
	s.pacing, s.nextAt = true, now
	p.changed(id, now, why)
	p.publish(finding{processor: id, open: true, answerTime: s.expected, at: nowMicros()})
	p.reopened(id)
}

func (p *policy) close(id processorID, now time.Time, why string) {
	p.shut(id, now, why)
	p.publish(finding{processor: id, open: false, at: nowMicros()})
}

func (p *policy) shut(id processorID, now time.Time, why string) {
	s := &p.state[id]
	s.open, s.unknowns = false, 0
	s.probeGap = firstProbeGap
	s.probeAt = now.Add(s.probeGap)
	p.changed(id, now, why)
}

// stop ends the giving of permits; who waits is let go by its own context.
func (p *policy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.timer.Stop()
}

// snapshot is a copy of what is known of a processor.
func (p *policy) snapshot(id processorID) processorState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state[id]
}
