package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
)

// A storm is everything that happens to galo from outside, decided before it begins: what the two processors are
// like from one moment to the next, how many payments arrive and of what amount. Two runs of one seed meet the same
// weather; only the ids differ, so that a second run never meets its own payments of the first.
type storm struct {
	name   string
	seed   uint64
	length time.Duration
	stages []stage
	rate   []ratePoint
	// scattered arrivals come as independent clients do (exponential gaps); else they are evenly spaced.
	scattered bool
	// The amounts are drawn evenly from lowest to highest, both included.
	lowest, highest cents
	// outage is when neither processor takes anything, if the storm is about that: then its parts are judged one by one.
	outage stretch
}

// A stage holds from its moment to the next stage's. The arrays are indexed by processor.
type stage struct {
	from    time.Duration
	delay   [processors]time.Duration
	failing [processors]bool
}

// The rate runs in a straight line from each point to the next; two points at one moment are a step.
type ratePoint struct {
	at        time.Duration
	perSecond float64
}

// A shot is one payment a client is going to make.
type shot struct {
	at     time.Duration // when it is meant to be sent, since the storm began
	id     uuid.UUID
	amount cents
}

const (
	onDefault  = 0
	onFallback = 1
	processors = 2
)

var processorNames = [processors]string{"default", "fallback"}

const (
	previewLength  = 60 * time.Second
	previewClients = 550 // each posts, then waits a second: as many payments a second as there are clients
	previewAmount  = cents(1990)
	steadyRate     = 500 // payments a second, near the preview's highest
)

// previewStorm is the contest's public storm, stretched or squeezed to length.
func previewStorm(length time.Duration, rate float64) storm {
	ms := time.Millisecond
	table := []stage{
		{from: 0},
		{from: 10 * time.Second, delay: [2]time.Duration{100 * ms, 0}},
		{from: 20 * time.Second, delay: [2]time.Duration{100 * ms, 0}, failing: [2]bool{true, false}},
		{from: 30 * time.Second, delay: [2]time.Duration{2000 * ms, 1000 * ms}, failing: [2]bool{true, true}},
		{from: 40 * time.Second, delay: [2]time.Duration{20 * ms, 20 * ms}},
		{from: 50 * time.Second, delay: [2]time.Duration{0, 5000 * ms}},
	}
	for i := range table {
		table[i].from = time.Duration(float64(table[i].from) / float64(previewLength) * float64(length))
	}
	return storm{
		name: "preview", length: length, stages: table,
		rate:   []ratePoint{{0, 1 * rate}, {length, previewClients * rate}},
		lowest: previewAmount, highest: previewAmount,
	}
}

// steadyStorm is the same load all the time on two processors that work at once: for measuring, not for scoring.
func steadyStorm(length time.Duration, rate float64) storm {
	return storm{
		name: "steady", length: length, stages: []stage{{}},
		rate:   []ratePoint{{0, steadyRate * rate}, {length, steadyRate * rate}},
		lowest: previewAmount, highest: previewAmount,
	}
}

// The storm of a drain: all is well, then both processors fail, then all is well again and what was held is paid beside new payments.
const (
	drainLength              = 70 * time.Second
	drainCloses, drainReopen = 10 * time.Second, 40 * time.Second
)

// drainStorm is that, under an even load, stretched or squeezed to length.
func drainStorm(length time.Duration, rate float64) storm {
	s := steadyStorm(length, rate)
	at := func(t time.Duration) time.Duration {
		return time.Duration(float64(t) / float64(drainLength) * float64(length))
	}
	s.name, s.outage = "drain", stretch{at(drainCloses), at(drainReopen)}
	s.stages = []stage{{}, {from: s.outage.from, failing: [2]bool{true, true}}, {from: s.outage.to}}
	return s
}

const (
	shortestStage = 2 * time.Second
	longestStage  = 60 * time.Second
	longestDelay  = 5 * time.Second
	lowestRate    = 1.0
	highestRate   = 1000.0
	// The last part of a random storm has both processors at work, or nothing that waits could ever be paid.
	calmShare   = 0.2
	calmDelay   = 100 * time.Millisecond
	calmAtMost  = 20 * time.Second
	dearestSale = cents(50_000)
)

// randomStorm draws a storm from a seed. The real scoring storm is not known, so anything the contract calls
// ordinary may come: short and long stages, delays up to five seconds, one or both failing, gentle ramps and steps.
func randomStorm(seed uint64, length time.Duration, rate float64) storm {
	rng := rand.New(rand.NewPCG(seed, 0x67616c6f))
	s := storm{
		name: "random", seed: seed, length: length, scattered: true,
		lowest: 1, highest: 1 + cents(rng.Int64N(int64(dearestSale))),
	}
	calmFrom := length - min(time.Duration(float64(length)*calmShare), calmAtMost)
	level := between(rng, lowestRate, highestRate) * rate
	for at := time.Duration(0); at < calmFrom; {
		end := at + time.Duration(between(rng, float64(shortestStage), float64(longestStage)))
		if end > calmFrom-shortestStage {
			end = calmFrom
		}
		s.stages = append(s.stages, randomStage(rng, at))
		next := between(rng, lowestRate, highestRate) * rate
		if rng.IntN(2) == 0 {
			level = next // a step: the whole stage has the new rate
		}
		s.rate = append(s.rate, ratePoint{at, level}, ratePoint{end, next})
		level, at = next, end
	}
	calm := stage{from: calmFrom}
	for p := range calm.delay {
		calm.delay[p] = time.Duration(rng.Int64N(int64(calmDelay))).Truncate(time.Millisecond)
	}
	s.stages = append(s.stages, calm)
	s.rate = append(s.rate, ratePoint{calmFrom, level}, ratePoint{length, between(rng, lowestRate, highestRate) * rate})
	return s
}

func randomStage(rng *rand.Rand, from time.Duration) stage {
	st := stage{from: from}
	for p := range st.delay {
		if rng.IntN(3) > 0 { // a third of the time there is no delay at all
			st.delay[p] = time.Duration(between(rng, float64(time.Millisecond), float64(longestDelay))).Truncate(time.Millisecond)
		}
	}
	switch rng.IntN(10) {
	case 0, 1, 2:
		st.failing[onDefault] = true
	case 3:
		st.failing[onFallback] = true
	case 4:
		st.failing = [2]bool{true, true}
	}
	return st
}

// between draws from low to high so that every order of magnitude is as likely as the next.
func between(rng *rand.Rand, low, high float64) float64 {
	return low * math.Exp(rng.Float64()*math.Log(high/low))
}

// shots is the whole schedule, fixed before the first is sent: a galo that answers slowly does not get fewer.
func (s storm) shots() []shot {
	rng := rand.New(rand.NewPCG(s.seed, 0x73686f74))
	gap := func() float64 {
		if s.scattered {
			return rng.ExpFloat64()
		}
		return 1
	}
	var out []shot
	need := gap() // how much of the area under the rate is left until the next shot
	for i := 1; i < len(s.rate); i++ {
		from, to := s.rate[i-1], s.rate[i]
		seconds := (to.at - from.at).Seconds()
		if seconds <= 0 {
			continue
		}
		area := (from.perSecond + to.perSecond) / 2 * seconds
		slope := (to.perSecond - from.perSecond) / seconds
		used := 0.0
		for used+need <= area {
			used += need
			// Solves rate·t + slope/2·t² = used in the form that stays exact when the slope is nothing.
			t := 2 * used / (from.perSecond + math.Sqrt(max(0, from.perSecond*from.perSecond+2*slope*used)))
			out = append(out, shot{
				at:     from.at + time.Duration(t*float64(time.Second)),
				id:     freshID(),
				amount: s.lowest + cents(rng.Int64N(int64(s.highest-s.lowest)+1)),
			})
			need = gap()
		}
		need -= area - used
	}
	return out
}

// freshID is a valid version 4 UUID from the runtime's own generator: the ids need to be new, not secret.
func freshID() uuid.UUID {
	var id uuid.UUID
	for i, word := range [2]uint64{rand.Uint64(), rand.Uint64()} {
		for b := range 8 {
			id[i*8+b] = byte(word >> (8 * b))
		}
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// at is the stage that holds at a moment of the storm.
func (s storm) at(t time.Duration) stage {
	now := s.stages[0]
	for _, st := range s.stages {
		if st.from <= t {
			now = st
		}
	}
	return now
}

func (st stage) String() string {
	var text [processors]string
	for p := range text {
		text[p] = fmt.Sprintf("%s %d ms", processorNames[p], st.delay[p].Milliseconds())
		if st.failing[p] {
			text[p] += " failing"
		}
	}
	return text[onDefault] + ", " + text[onFallback]
}

// newStorm builds the storm that a flag names.
func newStorm(name string, seed uint64, length time.Duration, rate float64) (storm, error) {
	switch {
	case length < time.Second:
		return storm{}, fmt.Errorf("cannot make a storm of %v: at least 1s is needed", length)
	case !(rate > 0):
		return storm{}, fmt.Errorf("cannot make a storm with rate %v: a factor above 0 is needed", rate)
	}
	var s storm
	switch name {
	case "preview":
		s = previewStorm(length, rate)
	case "random":
		s = randomStorm(seed, length, rate)
	case "steady":
		s = steadyStorm(length, rate)
	case "drain":
		s = drainStorm(length, rate)
	default:
		return storm{}, fmt.Errorf("cannot make a storm called %q: there are preview, random, steady and drain", name)
	}
	s.seed = seed
	return s, nil
}
