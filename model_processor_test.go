package main

import (
	"fmt"
	"time"
)

// modelProcessor is a processor of the model. It waits its delay, fails or writes, and answers; whether anybody still waits for the
// answer, or is still alive, is nothing to it. Everything is under the world's mu.
type modelProcessor struct {
	w        *world
	id       processorID
	mood     mood
	blind    bool // look-ups get no answer
	written  map[paymentID]*modelAttempt
	attempts map[paymentID][]*modelAttempt
	running  int
}

// modelAttempt is one POST. It stands until the instance that sent it has been told that nothing was written.
type modelAttempt struct {
	id          paymentID
	amount      cents
	requestedAt micros
	by          *modelInstance
	slot        string // which one, in whichever journal
	clean       bool   // its sender, alive, was told that nothing was and will be written
	answer      chan outcome
}

// fate is what becomes of one attempt.
type fate uint8

const (
	fateGood      fate = iota // written, and answered
	fateFailing               // 500 with an empty body, after the delay
	fateUnheard               // never got there: refused before a byte was written
	fateBusy                  // 429
	fateForbidden             // another 4xx
	fateInvalid               // 400
	fateLost                  // written; the answer is lost
	fateTorn                  // the connection breaks at once; written later all the same
	fateVanished              // the connection breaks; never written
	fateSlow                  // written after the client has given up
	fateTaken                 // 422, although it is not there
	fates
)

// mood is how likely each fate is, in parts of their sum.
type mood [fates]int

var (
	moodGood      = mood{fateGood: 1}
	moodFlaky     = mood{10, 2, 1, 1, 1, 1, 2, 2, 1, 2, 1}
	moodFailing   = mood{fateFailing: 18, fateLost: 1, fateVanished: 1}
	moodAway      = mood{fateUnheard: 1}
	moodForgetful = mood{fateGood: 1, fateLost: 1}
	moodSlow      = mood{fateGood: 1, fateSlow: 2}
	moodStrict    = mood{fateGood: 2, fateInvalid: 1, fateTorn: 1}
	moodProxy     = mood{fateForbidden: 2, fateVanished: 1, fateTorn: 1}
	moods         = []mood{moodGood, moodFlaky, moodFlaky, moodFailing, moodAway, moodForgetful, moodSlow, moodStrict, moodProxy}
)

func (m *mood) pick(w *world) fate {
	sum := 0
	for _, part := range m {
		sum += part
	}
	n := w.rng.IntN(sum)
	for f, part := range m {
		if n -= part; n < 0 {
			return fate(f)
		}
	}
	return fateGood
}

const (
	modelSendTimeout  = 2 * time.Second
	modelLongestWrite = 6 * time.Second
)

// processorLink is the way of one instance to one processor.
type processorLink struct {
	in *modelInstance
	at processorID
}

func (l processorLink) pay(id paymentID, amount cents, requestedAt micros) payResult {
	w, started := l.in.w, time.Now()
	result := func(o outcome) payResult { return payResult{outcome: o, took: time.Since(started)} }
	l.in.step("before a send")
	w.mu.Lock()
	if l.in.dead {
		w.mu.Unlock()
		return result(outcomeUnknown)
	}
	a := w.procs[l.at].arrive(l.in, id, amount, requestedAt)
	w.mu.Unlock()

	o := outcomeUnknown
	select {
	case o = <-a.answer:
	case <-time.After(modelSendTimeout):
	}
	l.in.step("after a send")
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.in.dead {
		return result(outcomeUnknown) // told to nobody
	}
	switch o {
	case outcomeRefused, outcomeBusy, outcomeMisconfigured, outcomeInvalid:
		a.clean = true
		w.invalid[id] = w.invalid[id] || o == outcomeInvalid
	case outcomePaid, outcomeTaken, outcomeUnknown:
	}
	w.note("%s hears of %s at %s: %s", l.in, short(id), l.at, o)
	return result(o)
}

func (l processorLink) lookUp(id paymentID) lookUpResult {
	w := l.in.w
	l.in.step("before a look-up")
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.procs[l.at]
	if l.in.dead || p.blind && w.rng.IntN(3) > 0 {
		return lookUpResult{kind: lookUpNoAnswer}
	}
	a, ok := p.written[id]
	if !ok {
		return lookUpResult{kind: lookUpAbsent}
	}
	w.note("%s looks %s up at %s: it is there", l.in, short(id), l.at)
	return lookUpResult{kind: lookUpFound, amount: a.amount, requestedAt: a.requestedAt}
}

// arrive is the moment at which an attempt goes out: everything that has to hold for a send is checked here.
func (p *modelProcessor) arrive(in *modelInstance, id paymentID, amount cents, requestedAt micros) *modelAttempt {
	w := p.w
	a := &modelAttempt{id: id, amount: amount, requestedAt: requestedAt, by: in, answer: make(chan outcome, 1)}
	w.checkSend(p, a)
	p.attempts[id] = append(p.attempts[id], a)
	f := p.mood.pick(w)
	delay := time.Duration(w.rng.IntN(4)) * time.Millisecond
	if f == fateSlow || (f == fateTorn || f == fateFailing) && w.rng.IntN(2) == 0 {
		delay = time.Duration(w.rng.Int64N(int64(modelLongestWrite)))
	}
	w.note("%s sends %s to %s at %d, %s after %s", in, short(id), p.id, requestedAt, f, delay)
	p.running++
	time.AfterFunc(delay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		p.running--
		p.finish(a, f)
	})
	if f == fateTorn || f == fateVanished {
		a.answer <- outcomeUnknown
	}
	return a
}

// finish does what the processor does with a request once its delay is over.
func (p *modelProcessor) finish(a *modelAttempt, f fate) {
	write := func() outcome {
		if _, there := p.written[a.id]; there {
			return outcomeTaken
		}
		p.written[a.id] = a
		p.w.note("%s writes %s", p.id, short(a.id))
		if other := p.w.procs[1-p.id]; other.written[a.id] != nil {
			p.w.fail("%s is paid twice: at %s too", short(a.id), p.id)
		}
		return outcomePaid
	}
	switch f {
	case fateGood, fateSlow:
		a.answer <- write()
	case fateFailing:
		a.answer <- outcomeRefused
	case fateUnheard:
		a.answer <- outcomeRefused
	case fateBusy:
		a.answer <- outcomeBusy
	case fateForbidden:
		a.answer <- outcomeMisconfigured
	case fateInvalid:
		a.answer <- outcomeInvalid
	case fateLost:
		write()
		a.answer <- outcomeUnknown
	case fateTorn:
		write()
	case fateVanished:
	case fateTaken:
		a.answer <- outcomeTaken
	case fates:
	}
}

func (f fate) String() string {
	return [...]string{"good", "failing", "unheard", "busy", "forbidden", "invalid", "answer lost", "torn, lands later", "vanishes", "slow", "422 for nothing"}[f]
}

func short(id paymentID) string { return fmt.Sprintf("p%d", id[15]) }
