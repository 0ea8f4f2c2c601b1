package main

import (
	"context"
	"errors"
	"fmt"
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
}

const (
	purgeSalt  = 0x7075726765
	purgeOneIn = 2
)

// planPurge has one after the first round, so that short runs have one too, and after every second one by lot.
func planPurge(rng *rand.Rand, round int) purgePlan {
	p := purgePlan{at: rng.IntN(galoCount), down: rng.IntN(2) == 0, wipe: rng.IntN(2) == 0}
	p.on = rng.IntN(purgeOneIn) == 0 || round == 0
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
	return strings.Join(words, ", ")
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
		sums, err := r.lookLong(ctx, d)
		if err != nil {
			return err
		}
		if sums != ([processors]total{}) {
			r.verdict.broken(holdsPurge, fmt.Sprintf("after the purge galo-%d still says %v", i+1, sums))
		}
	}
	return nil
}

// lookLong reads a summary of everything, and waits for it if it has to.
func (r *faultRun) lookLong(ctx context.Context, d *door) (sums [processors]total, err error) {
	for until := time.Now().Add(drainFaultsWithin); ; {
		sums, err = d.summary(ctx, always)
		if !errors.Is(err, errUnavailable) || time.Now().After(until) || ctx.Err() != nil {
			return sums, err
		}
		sleepCoarse(ctx, time.Now().Add(drainEvery))
	}
}
