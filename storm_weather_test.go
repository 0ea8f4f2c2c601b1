package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"time"
)

// storm is everything that happens to a cluster from outside, decided before it begins.
type storm struct {
	name      string
	length    time.Duration
	rate      [2]float64 // payments a second, of the whole cluster, at the beginning and at the end; a straight line in between
	scattered bool       // payments come as independent clients send them; else evenly
	seed      uint64     // of the payments' instants
	instances int
	patience  time.Duration
	fees      [processors]ppm
	nats      bool // the instances hear each other
	weather   [processors]weather
	strange   weather // what the first instance meets at the default processor in place of the weather; nil: the same
	health    healthManner
}

// weather is how a processor is during a storm: the first spell begins at 0, the last one never ends.
type weather []spell

// spell holds from its moment to the next spell's.
type spell struct {
	from, delay time.Duration
	failing     bool
}

// healthManner is what a processor says when it is asked for its health.
type healthManner uint8

const (
	healthHonest healthManner = iota
	healthRosy                // always well: it fails and recovers between any two calls
	healthLying               // the opposite
	healthLate                // how it was five seconds ago
)

const forever = time.Duration(math.MaxInt64 / 4)

// at is the spell in force.
func (w weather) at(t time.Duration) spell {
	return w[max(0, sort.Search(len(w), func(i int) bool { return w[i].from > t })-1)]
}

// end is when a spell gives way to the next.
func (w weather) end(i int) time.Duration {
	if i+1 == len(w) {
		return forever
	}
	return w[i+1].from
}

// seenBy is the weather at a processor as one instance meets it.
func (s *storm) seenBy(instance int, p processorID) weather {
	if s.strange != nil && instance == 0 && p == onDefault {
		return s.strange
	}
	return s.weather[p]
}

func (s *storm) cheap() processorID {
	if s.fees[onFallback] < s.fees[onDefault] {
		return onFallback
	}
	return onDefault
}

// arrivals are the instants at which payments come in.
func (s *storm) arrivals() []time.Duration {
	rng := rand.New(rand.NewPCG(s.seed, 'a'))
	seconds := s.length.Seconds()
	slope := (s.rate[1] - s.rate[0]) / seconds
	var all []time.Duration
	for due := 0.0; ; {
		if s.scattered {
			due += rng.ExpFloat64()
		} else {
			due++
		}
		// Solves rate·t + slope/2·t² = due in the form that stays exact when the slope is nothing.
		under := s.rate[0]*s.rate[0] + 2*slope*due
		if under < 0 {
			return all
		}
		t := 2 * due / (s.rate[0] + math.Sqrt(under))
		if t >= seconds {
			return all
		}
		all = append(all, time.Duration(t*float64(time.Second)))
	}
}

// The bounds of random storms.
const (
	shortestStorm, longestStorm = 60 * time.Second, 300 * time.Second
	shortestSpell, longestSpell = 2 * time.Second, 60 * time.Second
	longestDelay                = 5 * time.Second
	slowestRate, fastestRate    = 1.0, 2000.0
	rampFrom, rampTo            = 10 * time.Millisecond, 3 * time.Second
	rampStep                    = 250 * time.Millisecond
)

// randomStorm draws a storm.
func randomStorm(seed uint64) storm {
	rng := rand.New(rand.NewPCG(seed, 's'))
	rate := between(rng, slowestRate, fastestRate)
	s := storm{
		name: fmt.Sprint(seed), seed: seed,
		length: shortestStorm + time.Duration(rng.Int64N(int64(longestStorm-shortestStorm))),
		rate:   [2]float64{rate, rate}, scattered: rng.IntN(2) == 0,
		instances: 1 + rng.IntN(4),
		patience:  []time.Duration{0, time.Second, 10 * time.Second, 60 * time.Second}[rng.IntN(4)],
		fees:      [][processors]ppm{{50_000, 150_000}, {50_000, 150_000}, {50_000, 55_000}, {120_000, 40_000}}[rng.IntN(4)],
		nats:      rng.IntN(4) > 0,
	}
	disturbed := [][processors]bool{{true, true}, {true, true}, {true, false}, {false, true}}[rng.IntN(4)]
	for p := range processorID(processors) {
		s.weather[p] = weather{{}}
		if disturbed[p] {
			s.weather[p] = randomWeather(rng, s.length, s.patience, p == s.cheap())
		}
	}
	return s
}

// randomWeather is spell after spell for so long, and then well for ever.
func randomWeather(rng *rand.Rand, length, patience time.Duration, cheap bool) weather {
	var w weather
	for at := time.Duration(0); at < length; {
		end := at + time.Duration(between(rng, float64(shortestSpell), float64(longestSpell)))
		one := spell{from: at}
		switch n := rng.IntN(20); {
		case n < 6: // well
			one.delay = time.Duration(rng.Int64N(int64(50 * time.Millisecond)))
		case n < 10:
			one.delay = time.Duration(between(rng, float64(50*time.Millisecond), float64(1200*time.Millisecond)))
		case n < 13:
			one.delay = time.Duration(between(rng, float64(1200*time.Millisecond), float64(longestDelay)))
		case n < 17:
			one.failing = true
			one.delay = []time.Duration{0, 0, 100 * time.Millisecond, time.Duration(rng.Int64N(int64(longestDelay)))}[rng.IntN(4)]
		case n < 19 || !cheap || patience < time.Second:
			w = append(w, ramp(at, end)...)
			at = end
			continue
		default: // recovers just before the patience ends of those that came first
			one.failing = true
			end = at + patience - time.Duration(rng.Int64N(int64(500*time.Millisecond)))
		}
		w = append(w, one)
		at = end
	}
	return append(weather(slices.DeleteFunc(w, func(s spell) bool { return s.from >= length })), spell{from: length})
}

// ramp becomes slow bit by bit.
func ramp(from, to time.Duration) weather {
	var w weather
	for at := from; at < to; at += rampStep {
		w = append(w, spell{from: at, delay: rampFrom + time.Duration(float64(rampTo-rampFrom)*float64(at-from)/float64(to-from))})
	}
	return w
}

// adversarialStorm draws one of the storms that are made to deceive.
func adversarialStorm(seed uint64) storm {
	rng := rand.New(rand.NewPCG(seed, 'x'))
	s := randomStorm(seed + 1<<32)
	s.name = fmt.Sprintf("a%d", seed)
	switch seed % 5 {
	case 0: // every second another
		s.weather[onDefault] = flapping(s.length, time.Second, time.Second)
		if rng.IntN(2) == 0 {
			s.weather[onFallback] = flapping(s.length, 2*time.Second, time.Second)
		}
	case 1: // it fails between any two calls for its health, and is well at each
		gap := healthWindow - time.Duration(rng.Int64N(int64(4*time.Second)))
		s.weather[s.cheap()] = flapping(s.length, gap, healthWindow-gap)
		s.health = healthRosy
	case 2:
		s.health = healthLying
	case 3:
		s.health = healthLate
	case 4: // to the first instance alone
		s.instances = 2 + rng.IntN(3)
		s.weather[onDefault] = weather{{}}
		s.strange = randomWeather(rng, s.length, s.patience, s.cheap() == onDefault)
	}
	return s
}

// flapping fails for so long, is well for so long, and again.
func flapping(length, ill, well time.Duration) weather {
	var w weather
	for at := time.Duration(0); at < length; at += ill + well {
		w = append(w, spell{from: at, failing: true}, spell{from: at + ill})
	}
	return append(slices.DeleteFunc(w, func(s spell) bool { return s.from >= length }), spell{from: length})
}

// previewStorm is the contest's public one, to two instances.
func previewStorm() storm {
	const ms = time.Millisecond
	sec := func(n int) time.Duration { return time.Duration(n) * time.Second }
	return storm{
		name: "preview", length: sec(60), rate: [2]float64{1, 550}, seed: 1, instances: 2, patience: sec(10),
		fees: [processors]ppm{50_000, 150_000}, nats: true,
		weather: [processors]weather{
			{{}, {sec(10), 100 * ms, false}, {sec(20), 100 * ms, true}, {sec(30), 2000 * ms, true}, {sec(40), 20 * ms, false}, {from: sec(50)}},
			{{}, {sec(30), 1000 * ms, true}, {sec(40), 20 * ms, false}, {sec(50), 5000 * ms, false}, {from: sec(60)}},
		},
	}
}

// between draws so that every order of magnitude is as likely as the next.
func between(rng *rand.Rand, low, high float64) float64 {
	return low * math.Exp(rng.Float64()*math.Log(high/low))
}
