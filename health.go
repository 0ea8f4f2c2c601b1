package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// healthWindow is how long after one call the next may be made: the processors allow one in five
	// seconds for the whole cluster, and two calls do not travel equally fast.
	healthWindow = 5100 * time.Millisecond

	// healthSilence is how long a follower waits without hearing anything before it takes over: one call
	// of the leader may fail.
	healthSilence = 10 * time.Second

	// healthTimeout is for one call, which the processor neither delays nor fails.
	healthTimeout = 2 * time.Second

	// healthSlack bounds the time from asking the gate to the call. The gate's key lives from somewhere in
	// between, and what it lives longer than the window must cover that.
	healthSlack = 50 * time.Millisecond

	// leaderRetry and followerRetry are for a gate that somebody else has passed. A leader whose key was
	// taken knows no more than that it will be free within a window.
	leaderRetry   = 200 * time.Millisecond
	followerRetry = time.Second

	// gateTimeout bounds one call of the gate; gateRetry follows one that failed.
	gateTimeout = time.Second
	gateRetry   = time.Second

	// autoJitter spreads instances of equal rank, so that not all of them ask in the same millisecond.
	autoJitter = 200 * time.Millisecond
)

// pollGate decides for the whole cluster who may ask a processor for its health, and when.
type pollGate interface {
	// poll reports whether this instance has won the window that begins now.
	poll(ctx context.Context, p processorID, instance string) (bool, error)
	// pollDone lets the window begin again, now that the call is over.
	pollDone(ctx context.Context, p processorID, instance string) error
}

// healthAsked is the side of a processor that health calls go to.
type healthAsked interface {
	health(timeout time.Duration) (healthReading, error)
}

// healthBus carries readings between instances.
type healthBus interface {
	publishHealth(healthReport)
	onHealth(func(healthReport))
}

// healthWatch keeps every instance informed of both processors' health with one call per window for the
// whole cluster. The gate alone keeps the calls apart; roles and silence only decide who tries when. So
// nothing that goes wrong here, and no bus that is away, can make two calls of one.
type healthWatch struct {
	role     role
	instance string
	gate     pollGate
	asked    [processors]healthAsked
	bus      healthBus
	report   func(p processorID, r healthReading, at time.Time)
	log      *slog.Logger
	jitter   func() time.Duration

	mu  sync.Mutex
	due [processors]time.Time // when to try next; by the monotonic clock

	said [processors]healthTrouble // what was logged last; each is its own goroutine's
}

// healthTrouble is why there is no reading.
type healthTrouble uint8

const (
	troubleNone healthTrouble = iota
	troubleGate
	troubleTooSoon
	troubleCall
)

// newHealthWatch builds the watch and listens to the bus. report is called from several goroutines with
// every reading, own or heard, and the time at which it was known here; it must not wait.
func newHealthWatch(role role, instance string, gate pollGate, asked [processors]healthAsked, bus healthBus,
	report func(p processorID, r healthReading, at time.Time), log *slog.Logger) *healthWatch {
	w := &healthWatch{
		role: role, instance: instance, gate: gate, asked: asked, bus: bus, report: report, log: log,
		jitter: func() time.Duration { return rand.N(autoJitter) },
	}
	bus.onHealth(w.heard)
	return w
}

// run polls until ctx ends, and returns when its last call is over: after healthTimeout and gateTimeout at
// the latest.
func (w *healthWatch) run(ctx context.Context) {
	w.begin(time.Now())
	var both sync.WaitGroup
	for p := range processorID(processors) {
		both.Go(func() { w.watch(ctx, p) })
	}
	both.Wait()
}

// begin lets a follower's silence start with it, and everybody else try at once.
func (w *healthWatch) begin(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.due {
		switch w.role {
		case roleFollower:
			w.due[p] = later(w.due[p], now.Add(healthSilence))
		case roleLeader:
			w.due[p] = later(w.due[p], now)
		case roleAuto:
			w.due[p] = later(w.due[p], now.Add(w.jitter()))
		}
	}
}

func (w *healthWatch) watch(ctx context.Context, p processorID) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		// A reading that was heard meanwhile has moved the time.
		if w.untilDue(p) <= 0 {
			w.attempt(ctx, p)
		}
		timer.Reset(w.untilDue(p))
	}
}

// attempt tries to pass the gate, asks the processor if it did, and says when to try next.
func (w *healthWatch) attempt(ctx context.Context, p processorID) {
	asking := time.Now()
	gateCtx, cancel := context.WithTimeout(ctx, gateTimeout)
	won, err := w.gate.poll(gateCtx, p, w.instance)
	cancel()
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		// It may have been won: then nobody asks for a window, which is safe.
		w.say(p, troubleGate, err)
		w.nextIn(p, gateRetry)
		return
	case !won:
		w.nextIn(p, w.retry())
		return
	case time.Since(asking) > healthSlack:
		w.nextIn(p, healthWindow)
		return
	}
	reading, err := w.asked[p].health(healthTimeout)
	at := time.Now()
	w.closeWindow(ctx, p)
	if err != nil {
		trouble := troubleCall
		if errors.Is(err, errHealthTooSoon) {
			trouble = troubleTooSoon
		}
		w.say(p, trouble, err)
		w.nextIn(p, healthWindow)
		return
	}
	w.say(p, troubleNone, nil)
	w.nextIn(p, w.pace())
	w.report(p, reading, at)
	w.bus.publishHealth(healthReport{instance: w.instance, processor: p, reading: reading, at: nowMicros()})
}

// closeWindow lets the gate's key live for a whole window from now on: the call may have arrived at any
// moment up to its answer. It is done although the instance is stopping. If it fails, the key still lives
// from when it was won.
func (w *healthWatch) closeWindow(ctx context.Context, p processorID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gateTimeout)
	defer cancel()
	if err := w.gate.pollDone(ctx, p, w.instance); err != nil {
		w.log.Debug("cannot prolong a health window", "processor", p, "error", err)
	}
}

// heard takes a reading that another instance has published. Its age is counted from its arrival, since
// the sender's clock is not ours.
func (w *healthWatch) heard(r healthReport) {
	w.nextIn(r.processor, w.pace())
	w.report(r.processor, r.reading, time.Now())
}

// pace is how long this instance waits after a result before it tries for the next.
func (w *healthWatch) pace() time.Duration {
	switch w.role {
	case roleLeader:
		return healthWindow
	case roleAuto:
		return healthWindow + w.jitter()
	case roleFollower:
		return healthSilence
	}
	return healthSilence
}

// retry is how long it waits after somebody else was seen to have the window.
func (w *healthWatch) retry() time.Duration {
	switch w.role {
	case roleLeader:
		return leaderRetry
	case roleAuto:
		return leaderRetry + w.jitter()
	case roleFollower:
		return followerRetry
	}
	return followerRetry
}

// nextIn moves the next attempt to at least d from now. It never moves it nearer: a reading may be heard
// while an attempt of our own is under way.
func (w *healthWatch) nextIn(p processorID, d time.Duration) {
	next := time.Now().Add(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due[p] = later(w.due[p], next)
}

func (w *healthWatch) untilDue(p processorID) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Until(w.due[p])
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// say logs one line when the trouble with a processor's health changes.
func (w *healthWatch) say(p processorID, now healthTrouble, cause error) {
	if now == w.said[p] {
		return
	}
	w.said[p] = now
	switch now {
	case troubleNone:
		w.log.Info("health is known again", "processor", p)
	case troubleGate:
		w.log.Warn("nobody may be asked for health: the store is away", "processor", p, "cause", cause)
	case troubleTooSoon:
		w.log.Warn("somebody outside of this cluster asks for health too", "processor", p)
	case troubleCall:
		w.log.Warn("health is not known", "processor", p, "cause", cause)
	}
}
