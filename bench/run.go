package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// stormOptions is how a storm is driven, apart from what the storm is.
type stormOptions struct {
	checkEvery time.Duration // 0: only in the contest's rhythm
	drain      time.Duration // how long the last payments may take
	settle     time.Duration // how long after that the summary may take to have them; 0: the contest's grace
	untimed    time.Duration // a disagreement while the storm runs that is over within this spoils nothing
	losePct    float64       // of the answers to written payments: half of them closed, half left hanging
	screen     *screen
	// disturb does harm while the storm runs and returns how often; nil does none. It ends with its context.
	disturb func(ctx context.Context, start time.Time, length time.Duration) int
	// untilDisturbed ends the storm when disturb returns, if its own end does not come first.
	untilDisturbed bool
	// firstTries lets no client try again: what the load balancer answers to the first try is judged.
	firstTries bool
	// fresh says that galo has no past, and need not be purged.
	fresh bool
	// recorder, unless it is nil, watches the storm for a report.
	recorder *recorder
	// drained, unless it is nil, is called when the storm is over and what came of it is paid: whatever galo does from then on, it does for
	// the bench's own questions.
	drained func()
}

const (
	beginAfter   = 200 * time.Millisecond // from the last preparation to the first shot
	readyEvery   = 50 * time.Millisecond
	answerWithin = 2 * time.Minute // the machine may be busy; it is no part of the verdict
	drainEvery   = 200 * time.Millisecond
)

// A stormRun is one storm on its way. Its parts end in the order in which runStorm stops them.
type stormRun struct {
	storm  storm
	opts   stormOptions
	door   *door
	admins [processors]*adminClient
	load   *load
	check  *checker
	before [processors]counted
	start  time.Time
	odd    atomic.Int64 // payments that were not accepted at their first try
}

// runStorm sends a storm at galo, wherever it and the processors run, and judges what came of it. An error means
// that there is no verdict: something the bench itself needs did not work.
func runStorm(ctx context.Context, d *door, s storm, admins [processors]*adminClient, opts stormOptions) (verdict, error) {
	r := &stormRun{
		storm: s, opts: opts, door: d, admins: admins, load: newLoad(d, s.shots()),
		check: &checker{door: d, admins: admins, say: opts.screen.say, faults: opts.losePct > 0 || opts.disturb != nil, untimed: opts.untimed},
	}
	if opts.firstTries {
		r.load.once, r.load.odd = true, r.sayOdd
	}
	if err := r.prepare(ctx); err != nil {
		return verdict{}, err
	}
	r.start = time.Now().Add(beginAfter)

	whileItRuns, stop := context.WithCancel(ctx)
	defer stop()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop() // before the wait, if a return comes early
	parts.Go(func() { r.check.run(whileItRuns, r.start, opts.checkEvery) })
	parts.Go(func() { r.show(whileItRuns) })
	if opts.recorder != nil {
		parts.Go(func() { opts.recorder.run(whileItRuns, r) })
	}

	storming, calm := context.WithCancel(ctx)
	defer calm()
	var stormParts sync.WaitGroup
	kills := 0
	var unturned error
	stormParts.Go(func() { unturned = r.turnStages(whileItRuns) })
	if opts.disturb != nil {
		stormParts.Go(func() {
			kills = opts.disturb(whileItRuns, r.start, s.length)
			if opts.untilDisturbed {
				calm()
			}
		})
	}
	r.load.run(storming, r.start)
	sleepUntil(storming, r.start.Add(s.length))
	stormParts.Wait()
	if ctx.Err() != nil {
		return verdict{}, fmt.Errorf("cannot finish storm: %w", context.Cause(ctx))
	}
	if unturned != nil {
		return verdict{}, unturned
	}

	lasted := min(time.Since(r.start), s.length)
	v := verdict{Storm: s.name, Seed: s.seed, Seconds: lasted.Seconds(), Kills: kills, Harmed: r.check.faults, Untimed: opts.untimed > 0}
	paid, err := r.drain(ctx, &v)
	if err != nil {
		return verdict{}, err
	}
	stop()
	parts.Wait()
	if opts.recorder != nil {
		opts.recorder.keep(r, lasted, paid)
	}
	if opts.drained != nil {
		opts.drained()
	}
	opts.screen.say("asking galo about what it has paid")
	v.Final = r.check.final(ctx, r.start.Add(-windowBack), paid, rand.New(rand.NewPCG(s.seed, 0x636865636b)))
	if err := r.sum(ctx, &v, paid); err != nil {
		return verdict{}, err
	}
	return v, nil
}

// prepare brings everything to a known beginning.
func (r *stormRun) prepare(ctx context.Context) error {
	first := r.storm.at(0)
	for p, a := range r.admins {
		if err := a.enter(ctx, first.delay[p], first.failing[p]); err != nil {
			return err
		}
		if err := a.lose(ctx, losses{Close: r.opts.losePct / 2, Hang: r.opts.losePct / 2}); err != nil {
			return err
		}
		if err := a.purge(ctx); err != nil {
			return err
		}
		var err error
		if r.before[p], err = a.counters(ctx); err != nil {
			return err
		}
	}
	if err := r.door.awaitAnswer(ctx, answerWithin); err != nil {
		return err
	}
	if r.opts.fresh {
		return nil
	}
	if err := r.door.purge(ctx); err != nil {
		// Only a galo with a past of its own needs it, and then the comparison shows that.
		r.opts.screen.say("%v", err)
	}
	return nil
}

// sayOdd says which payments were not accepted at their first try, the first few of them.
func (r *stormRun) sayOdd(due time.Time, status int, err error) {
	if r.odd.Add(1) > findingsSaid {
		return
	}
	what := fmt.Sprintf("status %d", status)
	if err != nil {
		what = err.Error()
	}
	r.opts.screen.say("%5.1f s  a payment was not accepted: %s", due.Sub(r.start).Seconds(), what)
}

// turnStages makes the processors what the table says, each stage at its moment. Without one of them it was another storm.
func (r *stormRun) turnStages(ctx context.Context) error {
	for _, st := range r.storm.stages {
		if !sleepUntil(ctx, r.start.Add(st.from)) {
			return nil
		}
		for p, a := range r.admins {
			if err := a.enter(ctx, st.delay[p], st.failing[p]); err != nil && ctx.Err() == nil {
				return fmt.Errorf("cannot begin the stage at %v: %w", st.from, err)
			}
		}
		r.opts.screen.say("%5.1f s  %v", st.from.Seconds(), st)
	}
	return nil
}

// drain waits until everything that was accepted is paid, or until the time for it is over.
func (r *stormRun) drain(ctx context.Context, v *verdict) (paid [processors][]written, err error) {
	began := time.Now()
	for round := 0; ; round++ {
		for p, a := range r.admins {
			if paid[p], err = a.payments(ctx); err != nil {
				return paid, err
			}
		}
		v.LagAfterDrain = len(r.findings(paid).lost)
		v.DrainSeconds = time.Since(began).Seconds()
		if round == 0 {
			v.LagAtEnd = v.LagAfterDrain
		}
		if v.LagAfterDrain == 0 || time.Since(began) > r.opts.drain {
			break
		}
		if err := r.awaitPaid(ctx, began.Add(r.opts.drain)); err != nil {
			return paid, err
		}
	}
	// Payments whose client got no 202 may come in meanwhile: the lists are read once more.
	if !sleepUntil(ctx, time.Now().Add(cmp.Or(r.opts.settle, windowGrace))) {
		return paid, fmt.Errorf("cannot finish storm: %w", context.Cause(ctx))
	}
	for p, a := range r.admins {
		if paid[p], err = a.payments(ctx); err != nil {
			return paid, err
		}
	}
	return paid, nil
}

// awaitPaid waits until the numbers alone say that all may be paid; the lists are long, the numbers are not.
func (r *stormRun) awaitPaid(ctx context.Context, until time.Time) error {
	for {
		if !sleepUntil(ctx, time.Now().Add(drainEvery)) {
			return fmt.Errorf("cannot finish storm: %w", context.Cause(ctx))
		}
		var sum int64
		for _, a := range r.admins {
			t, _, err := a.summary(ctx, always)
			if err != nil {
				return err
			}
			sum += t.requests
		}
		if sum >= r.load.accepted.Load() || time.Now().After(until) {
			return nil
		}
	}
}

// always is a window around everything, in years that RFC 3339 can write.
var always = window{0, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()}

func (r *stormRun) findings(paid [processors][]written) findings {
	n := r.load.attempted.Load()
	return judge(r.load.shots[:n], r.load.ends[:n], paid)
}

// misdated is how many payments were written under a time at which none was on its way. Windows asked for would lack them on both sides, and agree.
func (r *stormRun) misdated(paid [processors][]written) (n int) {
	const slack = time.Second // a clock is read, and then the time is sent
	from, to := r.start.Add(-slack).UnixMicro(), time.Now().Add(slack).UnixMicro()
	for _, list := range paid {
		for _, w := range list {
			if w.requestedAt < from || w.requestedAt > to {
				n++
			}
		}
	}
	return n
}

// sum fills the verdict in from all parts.
func (r *stormRun) sum(ctx context.Context, v *verdict, paid [processors][]written) error {
	l := r.load
	v.Sent, v.Accepted, v.Refused = l.attempted.Load(), l.accepted.Load(), l.refused.Load()
	v.Unanswered, v.Retried = l.unanswered.Load(), l.retried.Load()
	v.Statuses = make(map[int]int64)
	for status := range l.statuses {
		if n := l.statuses[status].Load(); n > 0 {
			v.Statuses[status] = n
		}
	}
	f := r.findings(paid)
	v.Misdated = r.misdated(paid)
	v.Lost, v.Twice, v.Uninvited, v.Strange, v.Altered = len(f.lost), len(f.twice), len(f.uninvited), len(f.strange), len(f.altered)
	if v.Lost+v.Twice+v.Uninvited+v.Strange+v.Altered > 0 {
		r.opts.screen.say("some of them: lost %v, twice %v, paid though refused %v, never sent %v, another amount %v",
			sample(f.lost), sample(f.twice), sample(f.uninvited), sample(f.strange), sample(f.altered))
	}
	for _, id := range sample(f.lost) {
		// Whether galo still has it tells a payment that waits from one that is forgotten.
		if record, err := r.door.record(ctx, id); err != nil {
			r.opts.screen.say("lost %s: %v", id, err)
		} else {
			r.opts.screen.say("lost %s: galo has it as %+v", id, record)
		}
	}
	if r.storm.outage != (stretch{}) {
		v.Outage = judgeOutage(r.storm, r.start, l.shots[:v.Sent], l.ends[:v.Sent], paid)
	}
	v.Checks = r.check.sofar()
	v.Latency, v.FirstTry, v.SentLate = l.latency.quantiles(), l.firstTry.quantiles(), l.late.quantiles()
	for p, a := range r.admins {
		_, rate, err := a.summary(ctx, always)
		if err != nil {
			return err
		}
		t := within(paid[p], math.MinInt64, math.MaxInt64)
		v.Paid[p] = paidAt{Requests: t.requests, Amount: t.amount, Rate: rate}
		after, err := a.counters(ctx)
		if err != nil {
			return err
		}
		v.Processor[p] = after.since(r.before[p])
	}
	v.score()
	return nil
}
