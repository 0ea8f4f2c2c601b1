package main

import (
	"encoding/binary"
	"time"
)

// The limits of the real processor, as the contract has them.
const (
	servedAtOnce = 800
	queuedBehind = 500
	healthLimit  = 5 * time.Second
)

// nearlyFull leaves out the rest of 800 places that is over when instances share them.
const nearlyFull = servedAtOnce - 16

// processorWork is how long a processor without a delay takes: half of it at least, for each payment another time up to half as
// long again, so that hardly two answers come in the same instant.
const processorWork = time.Millisecond

// stormProcessor is a processor in virtual time. It does what bench's simulated one does, in the same order: finds room, waits its
// delay, fails or writes, and answers; whether anybody still waits for the answer is nothing to it.
type stormProcessor struct {
	run     *stormRun
	id      processorID
	serving int
	full    []interval // when hardly a place was free, by our own doing
	queue   []*queued  // in the order in which they came
	asked   time.Time  // the last call for its health that was let through
	counts  processorCounts
}

// processorCounts are of POSTs, but for tooSoon.
type processorCounts struct {
	posts, outsideOutages, busy, refused, tooSoon int
}

// queued is a request that waits for its turn.
type queued struct {
	turn      chan struct{}
	abandoned func() // what becomes of it when its client has given up meanwhile; nil while that waits
}

// stormLink is the way of one instance to one processor.
type stormLink struct {
	*stormProcessor
	instance    int
	sendTimeout time.Duration
}

// paymentNumber is the n that nthID made the id of.
func paymentNumber(id paymentID) int { return int(binary.BigEndian.Uint64(id[8:])) }

// work is the time that a payment takes besides the delay.
func work(n int) time.Duration {
	return processorWork/2 + time.Duration(uint64(n)*0x9e3779b97f4a7c15>>32)%processorWork
}

func (l stormLink) pay(id paymentID, _ cents, requestedAt micros) payResult {
	started, n := time.Now(), paymentNumber(id)
	o := l.serve(n, requestedAt)
	took := time.Since(started)
	if took > answerInTime {
		l.run.mu.Lock()
		l.run.payments[n].outlasted = true
		l.run.mu.Unlock()
	}
	return payResult{outcome: o, took: took}
}

func (l stormLink) serve(n int, requestedAt micros) outcome {
	p, r, asked := l.stormProcessor, l.run, time.Now()
	r.mu.Lock()
	p.counts.posts++
	r.tell(func(s *stormSecond) { s.posts[p.id]++ })
	if !r.bothFail(l.instance) {
		p.counts.outsideOutages++
	}
	if !p.enter() {
		switch p.queueUp(l.sendTimeout, func() { l.finishLater(l.delay(n), n, requestedAt) }) {
		case turnHere:
		case turnAway:
			p.counts.busy++
			r.mu.Unlock()
			return outcomeBusy
		case turnTooLate:
			r.mu.Unlock()
			return outcomeUnknown
		}
	}
	delay, left := l.delay(n), l.sendTimeout-time.Since(asked)
	r.mu.Unlock()
	if delay > left {
		l.finishLater(delay, n, requestedAt)
		time.Sleep(left)
		return outcomeUnknown
	}
	time.Sleep(delay)
	r.mu.Lock()
	defer r.mu.Unlock()
	return p.finish(l.instance, n, requestedAt)
}

// delay is how long a payment takes whose turn it is.
func (l stormLink) delay(n int) time.Duration {
	return l.run.storm.seenBy(l.instance, l.id).at(l.run.elapsed()).delay + work(n)
}

// finishLater finishes a payment whose client has given up.
func (l stormLink) finishLater(delay time.Duration, n int, requestedAt micros) {
	time.AfterFunc(delay, func() {
		l.run.mu.Lock()
		defer l.run.mu.Unlock()
		l.finish(l.instance, n, requestedAt)
	})
}

// enter takes a place if one is free. The caller of this and of what follows holds run.mu.
func (p *stormProcessor) enter() bool {
	if p.serving == servedAtOnce {
		return false
	}
	p.serving++
	if p.serving == nearlyFull {
		p.full = append(p.full, interval{p.run.elapsed(), forever})
	}
	return true
}

// turnKind is what becomes of a request for which there was no place at once.
type turnKind uint8

const (
	turnHere    turnKind = iota // it has its place now
	turnAway                    // there was not even room to wait
	turnTooLate                 // its client has given up; it is served all the same
)

// queueUp waits for a place; meanwhile it gives run.mu back. When the turn of one comes that has given up, abandoned is called.
func (p *stormProcessor) queueUp(patience time.Duration, abandoned func()) turnKind {
	if len(p.queue) >= queuedBehind {
		return turnAway
	}
	q := &queued{turn: make(chan struct{})}
	p.queue = append(p.queue, q)
	p.run.mu.Unlock()
	select {
	case <-q.turn:
	case <-time.After(patience):
	}
	p.run.mu.Lock()
	select {
	case <-q.turn:
		return turnHere
	default:
		q.abandoned = abandoned
		return turnTooLate
	}
}

// leave gives a place to who waits longest.
func (p *stormProcessor) leave() {
	if len(p.queue) == 0 {
		if p.serving == nearlyFull {
			p.full[len(p.full)-1].to = p.run.elapsed()
		}
		p.serving--
		return
	}
	next := p.queue[0]
	p.queue = p.queue[1:]
	if next.abandoned != nil {
		next.abandoned()
	} else {
		close(next.turn)
	}
}

// finish does what the processor does with a payment when its delay is over.
func (p *stormProcessor) finish(instance, n int, requestedAt micros) outcome {
	r := p.run
	defer p.leave()
	if r.storm.seenBy(instance, p.id).at(r.elapsed()).failing {
		p.counts.refused++
		r.tell(func(s *stormSecond) { s.refused[p.id]++ })
		return outcomeRefused
	}
	one := &r.payments[n]
	if one.writes > 0 && one.processor == p.id {
		return outcomeTaken
	}
	if one.writes++; one.writes == 1 {
		r.written++
	}
	one.processor, one.requestedAt, one.writtenAt = p.id, requestedAt, r.elapsed()
	r.tell(func(s *stormSecond) { s.written[p.id]++ })
	return outcomePaid
}

func (l stormLink) lookUp(id paymentID) lookUpResult {
	p, r, n := l.stormProcessor, l.run, paymentNumber(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !p.enter() && p.queueUp(lookUpTimeout, p.leave) != turnHere {
		return lookUpResult{kind: lookUpNoAnswer}
	}
	defer p.leave()
	r.mu.Unlock()
	time.Sleep(work(n))
	r.mu.Lock()
	one := &r.payments[n]
	if one.writes == 0 || one.processor != p.id {
		return lookUpResult{kind: lookUpAbsent}
	}
	return lookUpResult{kind: lookUpFound, amount: stormAmount, requestedAt: one.requestedAt}
}

func (l stormLink) health(time.Duration) (healthReading, error) {
	time.Sleep(processorWork)
	p, r := l.stormProcessor, l.run
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); !p.asked.IsZero() && now.Sub(p.asked) < healthLimit {
		p.counts.tooSoon++
		return healthReading{}, errHealthTooSoon
	} else {
		p.asked = now
	}
	w, now := r.storm.seenBy(l.instance, p.id), r.elapsed()
	s := w.at(now)
	manner := r.storm.health
	if now >= r.storm.length {
		manner = healthHonest // or what is left might never be paid by one who believes it
	}
	switch manner {
	case healthHonest:
	case healthRosy:
		s = spell{}
	case healthLying:
		s.failing = !s.failing
		s.delay = longestDelay - min(s.delay, longestDelay)
	case healthLate:
		s = w.at(now - 5*time.Second)
	}
	return healthReading{failing: s.failing, minResponse: s.delay.Truncate(time.Millisecond)}, nil
}
