package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// processorKinds befall the processors and the way to them.
func processorKinds() []faultKind {
	wires := [][]thing{{wireDefault}, {wireFallbck}}
	failing := func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
		delay := evenly(rng, 0, 300*milli)
		return fmt.Sprintf("failing after %v", delay), evenly(rng, 2*sec, longer(long, 10*sec, 60*sec)), befall(on, behaviour{delay: delay, failing: true})
	}
	odd := func(kinds ...oddKind) func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
		return func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			o := oddity{kinds[rng.IntN(len(kinds))], []float64{10, 50, 100}[rng.IntN(3)]}
			return fmt.Sprintf("%s for %v %% of the requests", o.Kind, o.Share), evenly(rng, 2*sec, 10*sec), befall(on, behaviour{odd: o})
		}
	}
	return []faultKind{
		{"slow", eachProcessor, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			delay := evenly(rng, 50*milli, 5*sec)
			return fmt.Sprintf("answers after %v", delay), evenly(rng, 2*sec, longer(long, 10*sec, 30*sec)), befall(on, behaviour{delay: delay})
		}},
		{"failing", eachProcessor, failing},
		{"both-failing", [][]thing{{theDefault, theFallback}}, failing},
		{"lost-answers", eachProcessor, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			share := []float64{1, 5, 50}[rng.IntN(3)]
			closed := share * float64(rng.IntN(3)) / 2
			delay := evenly(rng, 0, 200*milli)
			return fmt.Sprintf("loses %v %% of its answers after %v, half of them or all or none without closing", share, delay),
				evenly(rng, 2*sec, longer(long, 10*sec, 30*sec)),
				befall(on, behaviour{delay: delay, lost: losses{Close: closed, Hang: share - closed}})
		}},
		{"torn", eachProcessor, odd(oddTorn)},
		{"error", eachProcessor, odd(oddError)},
		{"gateway", eachProcessor, odd(oddForbidden, oddForeign, oddGateway)},
		{"busy", eachProcessor, odd(oddBusy)},
		{"refusing", wires, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return wireFault(rng, on[0], evenly(rng, sec, longer(long, 8*sec, 30*sec)), cutFlaws[:1])
		}},
		{"answers-cut", wires, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return wireFault(rng, on[0], evenly(rng, sec, longer(long, 6*sec, 20*sec)), answerFlaws)
		}},
	}
}

// behaviour is what a processor is like; the zero value is one that works.
type behaviour struct {
	delay   time.Duration
	failing bool
	lost    losses
	odd     oddity
}

// befall makes processors so, and well again after the hold.
func befall(on []thing, b behaviour) deed {
	return func(r *rig, hold func()) error {
		err := befallAll(r, on, b)
		hold()
		return errors.Join(err, befallAll(r, on, behaviour{}))
	}
}

func befallAll(r *rig, on []thing, b behaviour) error {
	var all []error
	for _, t := range on {
		all = append(all, r.behave(t, b))
	}
	return errors.Join(all...)
}
