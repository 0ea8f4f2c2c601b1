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

// highest looks for the highest rate at which clients' p99 stays below a bound, at servers that do nothing and at galo's stack.
func (r *stackRun) highest(ctx context.Context) (err error) {
	leave, err := r.startProcessors(ctx)
	defer func() { err = errors.Join(err, leave()) }()
	if err != nil {
		return err
	}
	nothing, err := r.highestOf(ctx, (*stackRun).nothing)
	if err != nil {
		return err
	}
	galo, err := r.highestOf(ctx, (*stackRun).stackSide)
	if err != nil {
		return err
	}
	r.printHighest(nothing, galo)
	return writeVerdict(r.settings.json, map[string][]attempt{againstNothing: nothing, "galo": galo})
}

// highestOf returns all attempts at one of the stacks.
func (r *stackRun) highestOf(ctx context.Context, play func(*stackRun, context.Context) (side, error)) (all []attempt, err error) {
	err = climb(r.settings.rate, func(factor float64) (bool, error) {
		for range highestTries {
			one := *r
			if one.storm, err = newStorm(r.settings.storm, r.settings.seed, r.settings.length(), factor); err != nil {
				return false, err
			}
			s, err := play(&one, ctx)
			clean := !errors.Is(err, errNotClean)
			if err != nil && clean {
				return false, err
			}
			a := attempt{Rate: float64(len(one.storm.shots())) / one.storm.length.Seconds(), Side: s}
			a.Held = clean && time.Duration(s.Latency.P99)*time.Microsecond < r.settings.highest
			r.screen.say("%.0f a second: p99 %s, held %t", a.Rate, ms(s.Latency.P99), a.Held)
			if all = append(all, a); a.Held {
				return true, nil
			}
		}
		return false, nil
	})
	return all, err
}

// climb doubles a rate until it is not held, or halves it until it is, and then comes closer from both sides.
func climb(start float64, holds func(factor float64) (bool, error)) error {
	held, over := 0.0, math.Inf(1)
	for over > held*highestWithin {
		factor := start
		switch {
		case held > 0 && !math.IsInf(over, 1):
			factor = math.Sqrt(held * over)
		case held > 0:
			factor = 2 * held
		case !math.IsInf(over, 1):
			factor = over / 2
		}
		if factor > start*highestFactor || factor < start/highestFactor {
			return nil
		}
		ok, err := holds(factor)
		if err != nil {
			return err
		}
		if ok {
			held = factor
		} else {
			over = factor
		}
	}
	return nil
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
