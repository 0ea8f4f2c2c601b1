package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"
)

const (
	// highestWithin is how close two rates are, one that was held and one that was not, when the search between them ends.
	highestWithin = 1.1
	// highestTries is how often a rate is tried before it counts as not held: a machine has its moods.
	highestTries = 2
	// highestFactor bounds the search, in factors on the storm's own rate.
	highestFactor = 64
)

// An attempt is a storm at one rate.
type attempt struct {
	Rate float64 `json:"paymentsPerSecond"`
	Held bool    `json:"held"`
	Side side    `json:"side"`
}

// A seeker is one of the two stacks, while the highest rate is looked for at which clients' p99 stays below a bound.
type seeker struct {
	name  string
	play  func(*stackRun, context.Context) (side, error)
	climb climb
	tries int // so often the rate that is sought now was not held
	all   []attempt
}

// highest looks for that rate at servers that do nothing and at galo's stack. They try in turn, so that neither has the quieter hour for itself.
func (r *stackRun) highest(ctx context.Context) (err error) {
	leave, err := r.startProcessors(ctx)
	defer func() { err = errors.Join(err, leave()) }()
	if err != nil {
		return err
	}
	nothing := &seeker{name: againstNothing, play: (*stackRun).nothing, climb: newClimb(r.settings.rate)}
	galo := &seeker{name: "galo", play: (*stackRun).stackSide, climb: newClimb(r.settings.rate)}
	for seeking := true; seeking; {
		seeking = false
		for _, s := range []*seeker{nothing, galo} {
			factor, more := s.climb.next()
			if !more {
				continue
			}
			seeking = true
			if err := s.try(ctx, r, factor); err != nil {
				return err
			}
		}
	}
	r.printHighest(nothing.all, galo.all)
	return writeVerdict(r.settings.json, map[string][]attempt{nothing.name: nothing.all, galo.name: galo.all})
}

// try plays the storm once at a factor of its own rate.
func (s *seeker) try(ctx context.Context, r *stackRun, factor float64) (err error) {
	one := *r
	if one.storm, err = newStorm(r.settings.storm, r.settings.seed, r.settings.length(), factor); err != nil {
		return err
	}
	did, err := s.play(&one, ctx)
	clean := !errors.Is(err, errNotClean)
	if err != nil && clean {
		return err
	}
	sent := len(one.storm.shots())
	a := attempt{Rate: float64(sent) / one.storm.length.Seconds(), Side: did}
	a.Held = clean && did.Accepted == int64(sent) && time.Duration(did.Latency.P99)*time.Microsecond < r.settings.highest
	r.screen.say("%s, %.0f a second: p99 %s, held %t", s.name, a.Rate, ms(did.Latency.P99), a.Held)
	s.all = append(s.all, a)
	s.judge(factor, a.Held)
	return nil
}

// judge tells the climb: a rate is not held only when none of some tries held it.
func (s *seeker) judge(factor float64, held bool) {
	if s.tries++; held || s.tries == highestTries {
		s.climb.was(factor, held)
		s.tries = 0
	}
}

// A climb doubles a rate until it is not held, or halves it until it is, and then comes closer from both sides.
type climb struct{ start, held, over float64 }

func newClimb(start float64) climb { return climb{start: start, over: math.Inf(1)} }

// next is the factor to try, or that there is none any more: both sides are close, or it would be too far from where the climb began.
func (c *climb) next() (factor float64, more bool) {
	factor = c.start
	switch {
	case c.held > 0 && !math.IsInf(c.over, 1):
		factor = math.Sqrt(c.held * c.over)
	case c.held > 0:
		factor = 2 * c.held
	case !math.IsInf(c.over, 1):
		factor = c.over / 2
	}
	inReach := factor <= c.start*highestFactor && factor >= c.start/highestFactor
	return factor, inReach && c.over > c.held*highestWithin
}

func (c *climb) was(factor float64, held bool) {
	if held {
		c.held = factor
	} else {
		c.over = factor
	}
}

// best is the attempt at the highest rate that was held; nil if none was.
func best(all []attempt) *attempt {
	var found *attempt
	for i := range all {
		if a := &all[i]; a.Held && (found == nil || a.Rate > found.Rate) {
			found = a
		}
	}
	return found
}

func (r *stackRun) printHighest(nothing, galo []attempt) {
	fmt.Fprintf(r.screen.out, "storm %s, %v each: the highest rate with a p99 below %v, and all that were tried\n", r.storm.name, r.storm.length, r.settings.highest)
	table := tabwriter.NewWriter(r.screen.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\tpayments a second\theld\tp50\tp99\tp99.9\tCPU s for 100,000\tthrottled periods")
	printAttempts(table, againstNothing, nothing)
	printAttempts(table, "galo", galo)
	_ = table.Flush()
	if n, g := best(nothing), best(galo); n != nil && g != nil {
		fmt.Fprintf(r.screen.out, "galo %.0f a second, nothing %.0f: %.2f of that\n", g.Rate, n.Rate, g.Rate/n.Rate)
		for _, u := range g.Side.Containers {
			fmt.Fprintf(r.screen.out, "  %s\n", u.describe(r.storm.length))
		}
	}
}

func printAttempts(w io.Writer, name string, all []attempt) {
	for i := range all {
		a := &all[i]
		q, used := a.Side.Latency, together(a.Side.Containers)
		fmt.Fprintf(w, "%s\t%.0f\t%t\t%s\t%s\t%s\t%.1f\t%d\n", name, a.Rate, a.Held, ms(q.P50), ms(q.P99), ms(q.P999), a.Side.cpuPer100k(""), used.ThrottledPeriods)
	}
}
