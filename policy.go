package main

import (
	"container/heap"
	"context"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"
)

// policy decides which processor a payment goes to, or that it waits. It is the one place that knows how the processors
// are doing: it learns from the outcomes of our own attempts, from health readings, and from what other instances find.
//
// The rule, in the order in which it is applied (see decide):
//
//  1. The cheaper processor while it is up and answers in good time.
//  2. While it refuses, one payment every so often finds out whether it still does: a probe. A refusal costs nothing. While it is slow, a probe
//     is a payment whose patience is over: it may be out for long.
//  3. Otherwise a payment waits, until PATIENCE after it was accepted; and a moment longer if answers are under way that will make room, or if
//     the dearer one has just come back, and a probe finds out whether the cheaper one has, too.
//  4. After that it goes to the dearer one, if that is up and answers in good time, or is the probe that finds out.
//  5. If neither answers in good time it waits on, until the late answer of one that is up costs less than waiting has cost already.
//
// Whoever was accepted first goes first.
type policy struct {
	patience    time.Duration
	cheap, dear processorID
	limit       int // attempts at once at each processor, of all instances together
	clock       *clock
	peers       func() int        // how many instances there are, this one included
	backlog     func() int        // payments that wait before they even ask
	arrivals    func() int64      // payments accepted since the start
	publish     func(finding)     // tells the other instances what changed
	reopened    func(processorID) // tells the resolver; it must not call back
	log         *slog.Logger
	mu          sync.Mutex
	state       [processors]processorState
	waiting     waiters
	timer       *time.Timer // calls wake at the next moment at which waiting may end by itself
	wakeAt      time.Time   // when that is
	pace        pace
	rate        arrivalRate
	stagger     float64 // of probes, see prober
	closed      bool    // no permit is given any more

	timed func(processorID, standing, time.Duration) // tells the metrics of a change of standing, see changed
}

const (
	// Probes of a processor that refuses: one at once, then more and more seldom, until they are one payment in probesPart.
	firstProbeGap                   = 50 * time.Millisecond
	probeGrowth                     = 3 // halves: the gap grows to 3/2
	probesPart                      = 15
	shortestLastGap, longestLastGap = 100 * time.Millisecond, time.Second
	probesAtOnce                    = 6
	// While other instances probe, too, each does at least once in so many gaps.
	othersProbes = 4
	// Probes that may be out for long, while their payment could have been paid elsewhere, are fewer: of a processor that is slow, or takes longer
	// than this to refuse.
	quickRefusal              = 500 * time.Millisecond
	dearProbesPart            = 25
	firstDearGap, lastDearGap = 200 * time.Millisecond, 2500 * time.Millisecond
	// While there is patience a slow one is probed only when neither a probe nor health has said anything for so many payments, or so long.
	patientProbesPart = 80
	newsLife          = 2 * healthWindow
	// A reading weighs nothing against a good answer to what went out within this time before it.
	ownWord = time.Second
	// What another instance finds weighs nothing against a good answer of our own within this time, nor when it is older than findingLife.
	ownFinding  = 100 * time.Millisecond
	findingLife = 2 * time.Second
	// A payment whose patience is over still waits for answers of the cheaper processor that have been under way for less than this, if that is well;
	// and for as long after the dearer one has come back, since outages of both tend to end together.
	moment = 200 * time.Millisecond
	// A late answer of the dearer processor, which costs the most and may be missing from a summary, is taken so much later than one of the cheaper.
	dearLater = 20 * time.Second
)

// permit is the right to have one attempt out at a processor.
type permit struct {
	processor processorID
	probe     bool
	number    uint64 // of the attempt
	ahead     int    // attempts that were unanswered when it went out
	wentOut   time.Time
	held      *bool // false once it was given back; under the policy's mu
}

func newPolicy(patience time.Duration, fees [processors]ppm, limit int, c *clock, log *slog.Logger) *policy {
	p := &policy{patience: patience, limit: limit, clock: c, log: log, stagger: rand.Float64(), cheap: onDefault, dear: onFallback, peers: func() int { return 1 },
		backlog: func() int { return 0 }, arrivals: func() int64 { return 0 }, publish: func(finding) {}, reopened: func(processorID) {},
		timed: func(processorID, standing, time.Duration) {}}
	switch {
	case fees[onFallback] < fees[onDefault]:
		p.cheap, p.dear = onFallback, onDefault
	case fees[onFallback] == fees[onDefault]:
		p.patience = 0 // there is nothing to wait for
	}
	for i := range p.state {
		p.state[i] = processorState{open: true, probeGap: firstProbeGap}
	}
	p.pace.start(time.Now(), 0) // what a restart finds in the journal is let go at a measured rate, too
	p.timer = time.AfterFunc(time.Hour, p.wake)
	p.timer.Stop()
	return p
}

// acquire waits until the payment may go out and says where. It is false when ctx ends first.
func (p *policy) acquire(ctx context.Context, acceptedAt micros) (permit, bool) {
	p.mu.Lock()
	if len(p.waiting) == 0 && !p.pace.on && !p.closed {
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
	case p.closed || s.inFlight >= p.share():
		return permit{}, false
	case s.open:
		return p.take(id, now, false), true
	case s.probeDue(now, p.prober(p.perSecond(now), 0)):
		return p.take(id, now, true), true
	}
	return permit{}, false
}

func (p *policy) prober(rate int64, beyond time.Duration) prober {
	return prober{rate: rate, peers: int64(p.peers()), stagger: p.stagger, beyond: beyond}
}

// share is how many attempts this instance may have out at a processor.
func (p *policy) share() int { return max(1, p.limit/p.peers()) }

// look is told of an answer that is overdue, in case nobody asks for anything meanwhile.
func (p *policy) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.findSlow(time.Now())
	p.grant()
}

// findSlow notices that a processor has not answered for so long that it counts as slow.
func (p *policy) findSlow(now time.Time) {
	for id := range p.state {
		if p.changed(processorID(id), now, "no answer yet") {
			p.tell(processorID(id), now, false)
		}
	}
}

func (p *policy) perSecond(now time.Time) int64 { return p.rate.perSecond(now, p.arrivals()) }

// decide is the rule. It takes the permit where it says yes; else it says when waiting may end by itself.
func (p *policy) decide(now time.Time, acceptedAt micros) (_ permit, ok bool, again time.Time) {
	beyond := p.clock.since(acceptedAt) - p.patience // less than nothing while there is patience
	cheap, dear := &p.state[p.cheap], &p.state[p.dear]
	rate, share := p.perSecond(now), p.share()
	by := p.prober(rate, beyond)
	p.findSlow(now)
	room := func(s *processorState) bool { return s.inFlight < share && s.unanswered() < s.window(rate, now) }

	// 1.
	if cheap.good(now) && room(cheap) {
		return p.take(p.cheap, now, false), true, again
	}
	// 2.
	mayBeLate := cheap.open && beyond < 0 // while it has patience
	if cheap.probeDue(now, by) && cheap.inFlight < share && (!mayBeLate || cheap.probeHinted() || cheap.noNews(now, rate)) {
		return p.take(p.cheap, now, true), true, again
	}
	// 3.
	awaits := cheap.good(now) && cheap.inFlight < share && now.Sub(cheap.oldestUnanswered()) < moment || // answers will make room
		cheap.probesOut > 0 && now.Sub(dear.openedAt) < moment // or say that it is back, too
	if beyond >= 0 && !awaits {
		// 4.
		if dear.good(now) && room(dear) {
			return p.take(p.dear, now, false), true, again
		}
		if dear.probeDue(now, by) && dear.inFlight < share {
			return p.take(p.dear, now, true), true, again
		}
		// 5.
		if !cheap.good(now) && !dear.good(now) {
			if cheap.open && room(cheap) && beyond >= cheap.expected(now) {
				return p.take(p.cheap, now, false), true, again
			}
			if dear.open && room(dear) && beyond >= dear.expected(now)+dearLater {
				return p.take(p.dear, now, false), true, again
			}
		}
	}
	return permit{}, false, p.again(now, by)
}

// again is when a payment that has waited so far beyond its patience may be let go although nothing happens meanwhile.
func (p *policy) again(now time.Time, by prober) time.Time {
	beyond := by.beyond
	soonest := now.Add(longestLastGap)
	at := func(t time.Time) {
		if t.After(now) && t.Before(soonest) {
			soonest = t
		}
	}
	at(now.Add(-beyond))
	at(p.state[p.dear].openedAt.Add(moment))
	at(now.Add(p.state[p.cheap].expected(now) - beyond))
	at(now.Add(p.state[p.dear].expected(now) + dearLater - beyond))
	for i := range p.state {
		s := &p.state[i]
		if !s.good(now) {
			at(s.nextProbe(now, by))
		} else if s.unanswered() > 0 {
			at(s.oldestUnanswered().Add(moment))
			at(s.oldestUnanswered().Add(goodAnswer + 1))
		}
	}
	return soonest
}

func (p *policy) take(id processorID, now time.Time, probe bool) permit {
	s := &p.state[id]
	held := true
	pm := permit{processor: id, probe: probe, wentOut: now, held: &held}
	pm.number, pm.ahead = s.goOut(now)
	if probe {
		s.probes++
		s.probesOut++
		s.probedAt = now
		s.probeGap = max(s.probeGap, firstProbeGap)
	}
	return pm
}

// grant serves the waiters, the oldest first, as far as the rule and the pace allow. What the oldest may not, no younger one may.
func (p *policy) grant() {
	for len(p.waiting) > 0 && !p.closed {
		now := time.Now()
		if p.pace.holds(now) {
			p.wakeUp(p.pace.nextAt)
			return
		}
		pm, ok, again := p.decide(now, p.waiting[0].acceptedAt)
		if !ok {
			p.wakeUp(again)
			return
		}
		heap.Pop(&p.waiting).(*waiter).granted <- pm
		p.pace.spend(now, len(p.waiting)+p.backlog())
	}
}

func (p *policy) wakeUp(at time.Time) {
	p.wakeAt = at
	p.timer.Reset(time.Until(at))
}

// wake is called by the timer. Its goroutine goes ahead of all others, and those that intake has woken stand at the end of the queue: it lines
// up behind them before it judges how late it is.
func (p *policy) wake() {
	p.mu.Lock()
	due := p.wakeAt
	p.mu.Unlock()
	runtime.Gosched()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.pace.judge(now, now.Sub(due), p.perSecond(now))
	p.grant()
}

// release gives a permit back without an outcome: nothing was sent, or the answer will not be waited for.
func (p *policy) release(pm permit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := &p.state[pm.processor]; p.free(pm) && pm.number > s.spoken {
		s.returned++
	}
	p.grant()
}

// free gives a permit back, whoever comes first.
func (p *policy) free(pm permit) (first bool) {
	if !*pm.held {
		return false
	}
	*pm.held = false
	s := &p.state[pm.processor]
	s.inFlight--
	if pm.probe && pm.number > s.probesFrom {
		s.probesOut--
	}
	return true
}

// observe learns from the outcome of an attempt and gives its permit back.
func (p *policy) observe(pm permit, o outcome, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(pm)
	s, now := &p.state[pm.processor], time.Now()
	news := s.speak(pm.number, pm.wentOut)
	switch o {
	case outcomePaid, outcomeTaken, outcomeInvalid:
		s.unknowns = 0
		if took <= goodAnswer {
			s.goodAt = now
			s.prove(pm.ahead, now)
		}
		switch {
		case pm.probe && news:
			s.answer = took // what was known before is old
		case news:
			s.learn(took)
		}
		if !s.open && (pm.probe || now.Sub(s.closedAt) > aboutThen) { // else it may have crossed the refusal on its way
			p.open(pm.processor, now, "answered")
		}
	case outcomeRefused, outcomeBusy, outcomeMisconfigured:
		s.refusal = took
		switch {
		case s.open:
			p.close(pm.processor, now, o.String())
		case pm.probe:
			s.probeGap = s.nextGap()
			p.tell(pm.processor, now, true)
		}
	case outcomeUnknown:
		if news && took > s.answer {
			s.learn(took)
		}
		if s.unknowns++; s.open && s.unknowns >= unknownsToClose {
			p.close(pm.processor, now, "unknown outcomes")
		}
	}
	if changed := p.changed(pm.processor, now, "answer time"); changed || pm.probe && s.open && !s.good(now) {
		p.tell(pm.processor, now, !changed)
	}
	p.grant()
}

// expect is the answer time to reckon with.
func (p *policy) expect(id processorID) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state[id].expected(time.Now())
}

// health learns from a reading. It is fresh when it comes, so it replaces what is known, unless our own payments say that all is well.
func (p *policy) health(id processorID, r healthReading, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.state[id]
	s.healthAt = now
	if !s.good(now) || now.Sub(s.spokenAt) > ownWord {
		s.believe(r.minResponse, now)
		if !r.failing && r.minResponse <= goodAnswer {
			s.goodAt = now
		}
		switch {
		case r.failing && s.open:
			p.close(id, now, "health")
		case !r.failing && !s.open:
			s.probeSoon()
		}
		p.changed(id, now, "health")
	}
	p.grant()
}

// heard learns from another instance: a hint to look for ourselves. With it comes no more than one payment's way to and fro.
func (p *policy) heard(f finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, now := &p.state[f.processor], time.Now()
	if time.Duration(nowMicros()-f.at)*time.Microsecond > findingLife {
		return
	}
	why := "heard from " + f.instance
	switch {
	case f.probe:
		if f.open == s.open && !s.good(now) {
			s.heardProbe(now)
		}
	case !f.open:
		if s.open && now.Sub(s.goodAt) > ownFinding {
			p.shut(f.processor, now, why)
		}
	case f.answerTime > goodAnswer:
		if s.good(now) && now.Sub(s.spokenAt) > f.answerTime {
			s.believe(f.answerTime, now)
			p.changed(f.processor, now, why)
		}
	case !s.good(now):
		s.probeSoon()
	}
	p.grant()
}

func (p *policy) open(id processorID, now time.Time, why string) {
	s := &p.state[id]
	s.open, s.openedAt = true, now
	p.changed(id, now, why)
	if cheap := &p.state[p.cheap]; id == p.dear && !cheap.open {
		cheap.probeSoon()
	}
	p.tell(id, now, false)
	p.reopened(id)
}

func (p *policy) close(id processorID, now time.Time, why string) {
	p.shut(id, now, why)
	p.tell(id, now, false)
}

// tell tells the other instances how a processor is.
func (p *policy) tell(id processorID, now time.Time, probe bool) {
	s := &p.state[id]
	p.publish(finding{processor: id, open: s.open, probe: probe, answerTime: s.expected(now), at: nowMicros()})
}

func (p *policy) shut(id processorID, now time.Time, why string) {
	s := &p.state[id]
	s.open, s.unknowns, s.closedAt = false, 0, now
	s.probeSoon()
	p.changed(id, now, why)
}

// stop ends the giving of permits; who waits is let go by its own context.
func (p *policy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.timer.Stop()
}

// processorFigures are what is told of a processor.
type processorFigures struct {
	standing standing
	inFlight int
	expected time.Duration
	probes   int64
	changes  int64
}

func (p *policy) figures(id processorID) processorFigures {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, now := &p.state[id], time.Now()
	return processorFigures{s.standing(now), s.inFlight, s.expected(now), s.probes, s.changes}
}
