package main

import (
	"slices"
	"sort"
	"time"
)

// stormFigures are the measures of one storm under one policy. Shares are of the payments that were accepted. The fields are exported for
// their way from process to process.
type stormFigures struct {
	Payments, TurnedAway int
	Regret               float64          // paid the dear fee where the clairvoyant did not
	Reverse              float64          // the other way round
	Wait, Foreseen       [2]time.Duration // from acceptance to paid, p50 and p99; the clairvoyant's
	Waste                float64          // POSTs per payment
	WasteOutside         float64          // the same without POSTs that went out while both processors failed
	Risk                 float64          // written more than answerInTime after they were sent, where the clairvoyant could do otherwise in time
	Outlasted            float64          // had an attempt that was out for longer than answerInTime, however it ended
	Late                 float64          // waited beyond their patience, for longer than lateGrace, while a processor had room and would have answered in time
	Harmed               float64          // any of regret, risk and late
	Lag                  int              // accepted and not paid at the end of the storm; what is on its way as ever counts too
	Busy                 int              // 429s to payments
	TooSoon              int              // 429s to calls for health
	Wrong                int              // lost, paid twice, or other than the store says
}

// lateGrace is for finding out that a processor answers again: what is probed at last once a second may take that long.
const lateGrace = time.Second

// figures judges a storm after its end.
func (r *stormRun) figures() stormFigures {
	f := stormFigures{Payments: r.accepted, TurnedAway: r.turnedAway, Lag: r.lag}
	one := 1 / float64(max(1, f.Payments))
	seer, good := newClairvoyant(&r.storm), r.somewhereGood()
	var waits, foreseen []time.Duration
	for _, p := range r.payments {
		if p.turnedAway {
			continue
		}
		best := seer.pay(p.arrivedAt, int(p.instance))
		foreseen = append(foreseen, best.answered-p.arrivedAt)
		if p.outlasted {
			f.Outlasted += one
		}
		if p.writes != 1 || !p.settled {
			f.Wrong++
			continue
		}
		waits = append(waits, p.writtenAt-p.arrivedAt)
		harmed := false
		switch {
		case p.processor == best.processor:
		case best.processor == seer.cheap:
			f.Regret, harmed = f.Regret+one, true
			r.tellOf(p.arrivedAt, func(s *stormSecond) { s.regretted++ })
		default:
			f.Reverse += one
		}
		sent, patience := time.UnixMicro(int64(p.requestedAt)).Sub(r.started), p.arrivedAt+r.storm.patience
		if p.writtenAt-sent > answerInTime && best.patient {
			f.Risk, harmed = f.Risk+one, true
			r.tellOf(p.arrivedAt, func(s *stormSecond) { s.risked++ })
		}
		if g := good[p.instance]; best.patient && g.until(sent)-g.until(patience) > lateGrace {
			f.Late, harmed = f.Late+one, true
			r.tellOf(p.arrivedAt, func(s *stormSecond) { s.late++ })
		}
		if harmed {
			f.Harmed += one
		}
	}
	f.Wait, f.Foreseen = quantiles(waits), quantiles(foreseen)
	for _, p := range r.procs {
		f.Waste += one * float64(p.counts.posts)
		f.WasteOutside += one * float64(p.counts.outsideOutages)
		f.Busy += p.counts.busy
		f.TooSoon += p.counts.tooSoon
	}
	return f
}

// knownGood are the good times at which the processor does not fail.
func (w weather) knownGood() []interval {
	var known []interval
	for _, g := range w.goodTimes() {
		for i, s := range w {
			if one := (interval{max(g.from, s.from), min(g.to, w.end(i))}); !s.failing && one.from < one.to {
				known = append(known, one)
			}
		}
	}
	return known
}

// without cuts intervals out of others; both are in order, and apart from each other.
func without(spans, cuts []interval) []interval {
	var left []interval
	for _, s := range spans {
		for len(cuts) > 0 && cuts[0].to <= s.from {
			cuts = cuts[1:]
		}
		for _, c := range cuts {
			if c.from >= s.to {
				break
			}
			if s.from < c.from {
				left = append(left, interval{s.from, c.from})
			}
			s.from = max(s.from, c.to)
		}
		if s.from < s.to {
			left = append(left, s)
		}
	}
	return left
}

// quantiles are the 50th and the 99th percentile.
func quantiles(all []time.Duration) [2]time.Duration {
	if len(all) == 0 {
		return [2]time.Duration{}
	}
	slices.Sort(all)
	return [2]time.Duration{all[len(all)/2], all[len(all)*99/100]}
}

// goodSum says how much time up to some moment was good.
type goodSum struct {
	spans  []interval      // apart from each other
	before []time.Duration // good time before each
}

// somewhereGood is when some processor would answer well and in time, and has room, and does not fail meanwhile, so that one could know, by
// instance.
func (r *stormRun) somewhereGood() []goodSum {
	all := make([]goodSum, r.storm.instances)
	for n := range all {
		var good []interval
		for id, p := range r.procs {
			good = append(good, without(r.storm.seenBy(n, processorID(id)).knownGood(), p.full)...)
		}
		all[n] = sumOf(good)
	}
	return all
}

func sumOf(spans []interval) goodSum {
	slices.SortFunc(spans, func(a, b interval) int { return int(a.from - b.from) })
	var g goodSum
	for _, one := range spans {
		last := len(g.spans) - 1
		if last >= 0 && one.from <= g.spans[last].to {
			g.spans[last].to = max(g.spans[last].to, one.to)
			continue
		}
		sum := time.Duration(0)
		if last >= 0 {
			sum = g.before[last] + g.spans[last].to - g.spans[last].from
		}
		g.spans, g.before = append(g.spans, one), append(g.before, sum)
	}
	return g
}

func (g goodSum) until(t time.Duration) time.Duration {
	i := sort.Search(len(g.spans), func(i int) bool { return g.spans[i].from > t }) - 1
	if i < 0 {
		return 0
	}
	return g.before[i] + min(t, g.spans[i].to) - g.spans[i].from
}
