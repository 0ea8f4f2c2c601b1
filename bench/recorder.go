package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A recorder looks, while a storm runs, at what nobody could know afterwards, and makes a report of it at the end.
type recorder struct {
	watched []watched
	samples []sighting // of run; read when it has returned
	report  report
}

// A watched instance tells its metrics.
type watched struct {
	name    string
	metrics func(ctx context.Context) (map[string]float64, error)
}

// A sighting is one look. What could not be seen is zero.
type sighting struct {
	at       time.Duration
	waiting  int64                  // accepted and not paid yet
	answered [processors]quantiles  // since the last sample that asked for it
	believed [][processors]estimate // by instance
}

// An estimate is what an instance takes a processor for.
type estimate struct {
	belief   belief
	expected time.Duration // the answer time that it reckons with
}

type belief uint8

const (
	beliefUnknown belief = iota // the instance did not say
	beliefOpen
	beliefSlow
	beliefClosed
)

const (
	sampleEvery  = 250 * time.Millisecond
	sampleWithin = time.Second
	// The answer times are asked for once a second, since each answer is about what came after the one before it.
	answersEvery = 4
)

// run samples until the context is done.
func (rec *recorder) run(ctx context.Context, r *stormRun) {
	n := 0
	each(ctx, sampleEvery, func() {
		n++
		s := rec.sample(ctx, r, n%answersEvery == 0)
		if s.at >= 0 && ctx.Err() == nil { // one that was cut short says nothing
			rec.samples = append(rec.samples, s)
		}
	})
}

// sample asks everybody at the same time: one that hangs delays no other.
func (rec *recorder) sample(ctx context.Context, r *stormRun, answers bool) sighting {
	ctx, cancel := context.WithTimeout(ctx, sampleWithin)
	defer cancel()
	s := sighting{at: time.Since(r.start), believed: make([][processors]estimate, len(rec.watched))}
	var paid [processors]total
	var asked sync.WaitGroup
	for p, a := range r.admins {
		asked.Go(func() {
			paid[p], _, _ = a.summary(ctx, always)
			if answers {
				s.answered[p], _ = a.answerTimes(ctx)
			}
		})
	}
	for i, w := range rec.watched {
		asked.Go(func() {
			if m, err := w.metrics(ctx); err == nil {
				s.believed[i] = estimates(m)
			}
		})
	}
	asked.Wait()
	s.waiting = max(0, r.load.accepted.Load()-paid[onDefault].requests-paid[onFallback].requests)
	return s
}

// estimates reads them from an instance's metrics.
func estimates(m map[string]float64) (all [processors]estimate) {
	for p, name := range processorNames {
		of := func(what string) (float64, bool) {
			v, there := m[fmt.Sprintf("galo_processor_%s{processor=%q}", what, name)]
			return v, there
		}
		open, there := of("open")
		slow, _ := of("slow")
		expected, _ := of("expected_seconds")
		switch {
		case !there:
			continue
		case open == 0:
			all[p].belief = beliefClosed
		case slow == 1:
			all[p].belief = beliefSlow
		default:
			all[p].belief = beliefOpen
		}
		all[p].expected = time.Duration(expected * float64(time.Second))
	}
	return all
}

// keep makes the report of a storm that is over.
func (rec *recorder) keep(r *stormRun, lasted time.Duration, paid [processors][]written) {
	rep := report{
		storm: r.storm, lasted: lasted, samples: rec.samples, looks: r.check.looks, events: r.opts.screen.events,
	}
	for _, w := range rec.watched {
		rep.instances = append(rep.instances, w.name)
	}
	n := r.load.attempted.Load()
	rep.measure(r.start, r.load.shots[:n], r.load.ends[:n], paid)
	rec.report = rep
}

// fewestBuckets is how many a storm has at least, as long as none of them is shorter than a second.
const fewestBuckets = 120

// littleMore of a bucket, at the very end, is counted with the bucket before it.
const littleMore = 0.1

// measure fills in what follows from the payments themselves.
func (rep *report) measure(start time.Time, shots []shot, ends []shotEnd, paid [processors][]written) {
	rep.every = max(time.Second, (rep.lasted / fewestBuckets).Truncate(time.Second))
	until := rep.lasted
	for _, list := range paid {
		for _, w := range list {
			until = max(until, time.UnixMicro(w.requestedAt).Sub(start))
		}
	}
	n := max(1, int(math.Ceil(float64(until)/float64(rep.every)-littleMore)))
	bucket := func(at time.Duration) int { return min(max(0, int(at/rep.every)), n-1) }
	perSecond := 1 / rep.every.Seconds()

	rep.accepted, rep.refused, rep.latency = make([]float64, n), make([]float64, n), make([]quantiles, n)
	took := make([][]time.Duration, n)
	for i, s := range shots {
		b := bucket(s.at)
		if ends[i].status == http.StatusAccepted {
			rep.accepted[b] += perSecond
		} else {
			rep.refused[b] += perSecond
		}
		if ends[i].status != 0 {
			took[b] = append(took[b], ends[i].took)
		}
	}
	for b, all := range took {
		slices.Sort(all)
		rep.latency[b] = quantilesOf(all)
	}
	for p, list := range paid {
		rep.paid[p] = make([]float64, n)
		for _, w := range list {
			rep.paid[p][bucket(time.UnixMicro(w.requestedAt).Sub(start))] += perSecond
		}
	}
}

// quantilesOf a sorted list, by nearest rank.
func quantilesOf(sorted []time.Duration) (q quantiles) {
	if len(sorted) == 0 {
		return q
	}
	rank := func(share float64) int64 {
		return sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)].Microseconds()
	}
	return quantiles{P50: rank(0.50), P99: rank(0.99), P999: rank(0.999), Max: rank(1)}
}

// watched are the instances of a fleet, asked at their admin side.
func (f *fleet) watched() (all []watched) {
	for _, in := range f.instances {
		all = append(all, watched{in.name, func(ctx context.Context) (map[string]float64, error) {
			text, err := in.ask(ctx, "/metrics")
			if err != nil {
				return nil, err
			}
			return readMetrics(string(text))
		}})
	}
	return all
}
