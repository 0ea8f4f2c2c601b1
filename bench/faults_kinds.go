package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	milli = time.Millisecond
	sec   = time.Second
)

// evenly draws a time evenly.
func evenly(rng *rand.Rand, from, to time.Duration) time.Duration {
	return (from + time.Duration(rng.Int64N(int64(to-from)+1))).Round(milli)
}

// longer is the second of two times in long runs.
func longer(long bool, short, inLong time.Duration) time.Duration {
	if long {
		return inLong
	}
	return short
}

var (
	inFlight      = [][]thing{{theGalo1, theDefault, theFallback}, {theGalo2, theDefault, theFallback}}
	eachGalo      = [][]thing{{theGalo1}, {theGalo2}}
	eachProcessor = [][]thing{{theDefault}, {theFallback}}
)

// faultKinds are all of them, but for purges, which come between rounds.
func faultKinds() []faultKind {
	return append(append(galoKinds(), storeKinds()...), processorKinds()...)
}

// galoKinds befall the instances themselves, their NATS and their clock.
func galoKinds() []faultKind {
	return []faultKind{
		{"kill", eachGalo, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "killed, and started again at once", evenly(rng, 0, 100*milli), kill(on[0], nil)
		}},
		{"gone", eachGalo, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "killed, and gone for a while", evenly(rng, sec, longer(long, 10*sec, 15*sec)), kill(on[0], nil)
		}},
		{"kill-again", eachGalo, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			var alive []time.Duration
			for range 1 + rng.IntN(3) {
				alive = append(alive, evenly(rng, 0, 400*milli))
			}
			return fmt.Sprintf("killed, and again while it recovers, after %v", alive), evenly(rng, 0, 2*sec), kill(on[0], alive)
		}},
		{"kill-in-flight", inFlight, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			delay, refusing := evenly(rng, 500*milli, 2*sec), on[1+rng.IntN(processors)]
			return fmt.Sprintf("killed with attempts out that take %v, and back while %s refuses", delay, refusing), evenly(rng, sec, 4*sec),
				killInFlight(on, delay, refusing)
		}},
		{"rename", eachGalo, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "killed, and back under another name", evenly(rng, 0, 8*sec), func(r *rig, hold func()) error {
				in := r.instance(on[0])
				err := in.end(killSignal)
				hold()
				r.rename(in)
				return errors.Join(err, in.again(r.ctx))
			}
		}},
		{"term", eachGalo, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "stopped in order, and started again", evenly(rng, 0, 3*sec), func(r *rig, hold func()) error {
				in := r.instance(on[0])
				err := r.stopInOrder(in)
				hold()
				return errors.Join(err, in.again(r.ctx))
			}
		}},
		{"freeze", eachGalo, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "SIGSTOP", evenly(rng, 500*milli, 8*sec), func(r *rig, hold func()) error {
				err := r.instance(on[0]).pause()
				hold()
				return errors.Join(err, r.instance(on[0]).resume())
			}
		}},
		{"nats-kill", [][]thing{{theNATS}}, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "killed and started again", evenly(rng, 0, longer(long, 6*sec, 30*sec)), func(r *rig, hold func()) error {
				err := r.nats.end(killSignal)
				hold()
				return errors.Join(err, r.nats.again(r.ctx))
			}
		}},
		{"nats-away", [][]thing{{natsWire1}, {natsWire2}}, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return wireFault(rng, on[0], evenly(rng, sec, longer(long, 8*sec, 30*sec)), cutFlaws)
		}},
		{"clock", [][]thing{{theClock}}, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			step := evenly(rng, 30*sec, 10*time.Minute)
			if rng.IntN(2) == 0 {
				step = -step
			}
			return fmt.Sprintf("stepped by %v", step), evenly(rng, sec, longer(long, 10*sec, 60*sec)), func(r *rig, hold func()) error {
				err := r.clock.step(step)
				hold()
				return errors.Join(err, r.clock.step(0))
			}
		}},
	}
}

// kill ends an instance with -9 and starts it again after the hold; alive are the times that it then has before it is killed again.
func kill(on thing, alive []time.Duration) deed {
	return func(r *rig, hold func()) error {
		in := r.instance(on)
		err := in.end(killSignal)
		hold()
		for _, d := range alive {
			if e := in.start(); e != nil {
				return errors.Join(err, e)
			}
			sleepUntil(r.ctx, time.Now().Add(d))
			err = errors.Join(err, in.end(killSignal))
		}
		return errors.Join(err, in.again(r.ctx))
	}
}

// killInFlight kills an instance while both processors are slow, so that many of its attempts are out, of which nobody knows what
// comes. When they have landed, one of the two refuses until the hold is over, and the other one works: whatever forgets where a
// payment may be already brings it to the wrong one.
func killInFlight(on []thing, delay time.Duration, refusing thing) deed {
	return func(r *rig, hold func()) error {
		in := r.instance(on[0])
		err := befallAll(r, on[1:], behaviour{delay: delay})
		sleepUntil(r.ctx, time.Now().Add(delay*3/4))
		err = errors.Join(err, in.end(killSignal))
		sleepUntil(r.ctx, time.Now().Add(delay+100*milli)) // what was out has landed
		err = errors.Join(err, befallAll(r, on[1:], behaviour{}), r.behave(refusing, behaviour{failing: true}), in.again(r.ctx))
		hold()
		return errors.Join(err, r.behave(refusing, behaviour{}))
	}
}

// The flaws of a wire, by what they do to what goes over it.
var (
	// cutFlaws keep two sides from each other: nobody is reached, or what is sent is never heard of again.
	cutFlaws = []func(*rand.Rand) *flaw{
		func(*rand.Rand) *flaw { return nil },
		func(*rand.Rand) *flaw { return &flaw{"timeout", "upstream", map[string]int64{"timeout": 0}} },
	}
	// tearFlaws end connections in the middle of what goes over them.
	tearFlaws = []func(*rand.Rand) *flaw{
		func(rng *rand.Rand) *flaw {
			return &flaw{"limit_data", "upstream", map[string]int64{"bytes": 100 + rng.Int64N(60_000)}}
		},
		func(rng *rand.Rand) *flaw {
			return &flaw{"limit_data", "downstream", map[string]int64{"bytes": 20 + rng.Int64N(5_000)}}
		},
		func(rng *rand.Rand) *flaw {
			return &flaw{"reset_peer", "downstream", map[string]int64{"timeout": rng.Int64N(200)}}
		},
	}
	// answerFlaws tear answers only. What goes to a processor is not held up, or its count of health calls would be ours to blame.
	answerFlaws = []func(*rand.Rand) *flaw{
		func(rng *rand.Rand) *flaw {
			return &flaw{"limit_data", "downstream", map[string]int64{"bytes": 20 + rng.Int64N(1_000)}}
		},
		func(rng *rand.Rand) *flaw {
			return &flaw{"reset_peer", "downstream", map[string]int64{"timeout": 0}}
		},
	}
)

// wireFault cuts a wire, or gives it one of the flaws.
func wireFault(rng *rand.Rand, on thing, hold time.Duration, flaws []func(*rand.Rand) *flaw) (string, time.Duration, deed) {
	bad := flaws[rng.IntN(len(flaws))](rng)
	what := "nobody is reached"
	if bad != nil {
		what = bad.String()
	}
	return what, hold, func(r *rig, hold func()) error {
		w := r.wires[on]
		var err error
		if bad == nil {
			w.cut()
		} else {
			err = w.spoil(*bad)
		}
		hold()
		return errors.Join(err, w.mend())
	}
}
