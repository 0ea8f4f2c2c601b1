package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// A purgePlan is a purge between two rounds, when everything is paid: then it is exactly known what it makes forgotten.
type purgePlan struct {
	on   bool
	at   int  // the galo that is asked
	down bool // the other one is down meanwhile
	wipe bool // Redis is wiped right after it
	// mid is when in the round there is a purge before that one already, in the middle of load and faults; 0: none. Until the one
	// after the round, sums are known within bounds only.
	mid time.Duration
	// blind has that one come whether or not Redis is there; else it waits until there are sums to compare with.
	blind bool
}

const (
	purgeSalt   = 0x7075726765
	purgeOneIn  = 2
	midOneRound = 3 // in every third round, the third one first
	blindOneIn  = 3
)

// planPurge has one after the first round, so that short runs have one too, after every second one by lot, and one more in the
// middle of every third round.
func planPurge(rng *rand.Rand, round int, length time.Duration) purgePlan {
	p := purgePlan{at: rng.IntN(galoCount), down: rng.IntN(2) == 0, wipe: rng.IntN(2) == 0}
	p.on = rng.IntN(purgeOneIn) == 0 || round == 0
	if mid, blind := evenly(rng, length/4, length*3/4), rng.IntN(blindOneIn) == 0; round%midOneRound == midOneRound-1 {
		p.on, p.mid, p.blind = true, mid, blind
	}
	return p
}

func (p purgePlan) String() string {
	if !p.on {
		return "no purge"
	}
	words := []string{fmt.Sprintf("purge at galo-%d", p.at+1)}
	if p.down {
		words = append(words, "while the other one is down")
	}
	if p.wipe {
		words = append(words, "and Redis wiped after it")
	}
	if p.mid > 0 {
		words = append(words, fmt.Sprintf("and one in the middle of the round, at %.1f s, blind: %v", p.mid.Seconds(), p.blind))
	}
	return strings.Join(words, ", ")
}

// A midPurge is what is known of a purge in the middle of load: what was settled before it is forgotten, and what was paid after
// it is not.
type midPurge struct {
	settled [processors]total // by galo's own word, right before it
	written [processors]int   // so many payments each processor had when it was over
	// again says that the first try got no plain yes. Such a try may still be carried out later, and then there is no telling what
	// is not forgotten.
	again bool
}

// purgeAmid purges at its moment in a round. It is repeated until an instance takes it, which faults may put off; what is known
// of it is nil when the round ended first without anybody having been asked.
func (r *faultRun) purgeAmid(ctx context.Context, at time.Time, blind bool) *midPurge {
	if !sleepCoarse(ctx, at) {
		return nil
	}
	var m midPurge
	for wait := true; wait; {
		settled, err := r.rig.both.summary(ctx, always)
		if err == nil {
			m.settled = settled
		}
		wait = err != nil && !blind && sleepCoarse(ctx, time.Now().Add(drainEvery))
	}
	r.screen.say("%s begin purge in the middle of load, with %v settled", r.clock(), m.settled)
	r.verdict.befell(purgeKind)
	err := untilDone(r.rig.ctx, func() error {
		err := r.rig.both.purge(r.rig.ctx)
		m.again = m.again || err != nil
		return err
	})
	for p := range r.rig.processors {
		m.written[p] = len(r.rig.processors[p].ledger.all())
	}
	r.screen.say("%s end   purge in the middle of load", r.clock())
	if err != nil {
		r.verdict.broken(holdsPurge, err.Error())
	}
	return &m
}

// bounded compares sums with what they must at least and may at most be after a purge in the middle of load.
func (r *faultRun) bounded(ctx context.Context, paid [processors][]written, m *midPurge) error {
	var counted, after [processors][]written
	for p, list := range paid {
		counted[p] = inOrder(list[r.rig.admins[p].skip:])
		if !m.again {
			after[p] = inOrder(list[m.written[p]:])
		}
	}
	for i, d := range r.rig.doors {
		for n, w := range append([]window{always}, eachSecond(counted)...) {
			sums, err := r.lookLong(ctx, d, w)
			if ctx.Err() != nil {
				return fmt.Errorf("cannot finish the run: %w", context.Cause(ctx))
			}
			if err != nil {
				r.verdict.broken(holdsPurge, fmt.Sprintf("galo-%d: %v", i+1, err))
				return nil
			}
			least, most := narrowed(after, w), narrowed(counted, w)
			for p, sum := range sums {
				low, high := sumOf(least[p]), sumOf(most[p])
				if n == 0 {
					high.requests, high.amount = high.requests-m.settled[p].requests, high.amount-m.settled[p].amount
				}
				if sum.requests < low.requests || sum.amount < low.amount || sum.requests > high.requests || sum.amount > high.amount {
					r.verdict.broken(holdsPurge, fmt.Sprintf("galo-%d: in %s %s has %v after a purge in the middle of load: from %v to %v is possible",
						i+1, w.query(), processorNames[p], sum, low, high))
				}
			}
			r.verdict.Windows++
		}
	}
	return nil
}

// purge has galo forget, and then sees that every instance has.
func (r *faultRun) purge(ctx context.Context, p purgePlan) error {
	r.screen.say("%s %v", r.clock(), p)
	r.verdict.befell(purgeKind)
	other := r.rig.galo.instances[1-p.at]
	if p.down {
		if err := other.end(killSignal); err != nil {
			return err
		}
	}
	if err := untilDone(ctx, func() error { return r.rig.doors[p.at].purge(ctx) }); err != nil {
		r.verdict.broken(holdsPurge, err.Error())
		return nil
	}
	if p.wipe {
		if err := restartRedis((*redisServer).forget)(r.rig, func() {}); err != nil {
			return err
		}
	}
	if p.down {
		if err := other.again(ctx); err != nil {
			r.verdict.broken(holdsProcesses, err.Error())
			return nil
		}
	}
	for i, a := range r.rig.admins {
		a.skip = len(r.rig.processors[i].ledger.all())
	}
	return r.forgotten(ctx)
}

// untilDone repeats what may be repeated until it works, or for so long that it never will.
func untilDone(ctx context.Context, do func() error) error {
	for until := time.Now().Add(drainFaultsWithin); ; {
		err := do()
		if err == nil || time.Now().After(until) || ctx.Err() != nil {
			return err
		}
		sleepCoarse(ctx, time.Now().Add(finalPause))
	}
}

// forgotten asks both instances for everything, which must be nothing now.
func (r *faultRun) forgotten(ctx context.Context) error {
	for i, d := range r.rig.doors {
		if err := d.awaitAnswer(ctx, drainFaultsWithin); err != nil {
			r.verdict.broken(holdsPurge, err.Error())
			return nil
		}
		sums, err := r.lookLong(ctx, d, always)
		if err != nil {
			return err
		}
		if sums != ([processors]total{}) {
			r.verdict.broken(holdsPurge, fmt.Sprintf("after the purge galo-%d still says %v", i+1, sums))
		}
	}
	return nil
}

// lookLong reads a summary, and waits for it if it has to.
func (r *faultRun) lookLong(ctx context.Context, d *door, w window) (sums [processors]total, err error) {
	for until := time.Now().Add(drainFaultsWithin); ; {
		sums, err = d.summary(ctx, w)
		if !errors.Is(err, errUnavailable) || time.Now().After(until) || ctx.Err() != nil {
			return sums, err
		}
		sleepCoarse(ctx, time.Now().Add(drainEvery))
	}
}

// sumOf adds up everything in a list.
func sumOf(list []written) total { return within(list, math.MinInt64, math.MaxInt64) }
