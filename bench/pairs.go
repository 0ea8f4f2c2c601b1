package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// A side is how one of the two stacks of a pair did in the storm.
type side struct {
	Accepted   int64          `json:"accepted"`
	Latency    quantiles      `json:"latencyMicros"`
	Containers []containerUse `json:"containers"`
}

// A pair is the storm at the baseline and at galo's stack, one right after the other.
type pair struct {
	Baseline side `json:"baseline"`
	Galo     side `json:"galo"`
}

// pairs plays the storm at the baseline and at the stack as it is in turn, so often that a median says something: machines differ from hour to
// hour, and what runs beside. The one begins in every other pair, the other one in the rest.
func (r *stackRun) pairs(ctx context.Context) (err error) {
	leave, err := r.startProcessors(ctx)
	defer func() { err = errors.Join(err, leave()) }()
	if err != nil {
		return err
	}
	var all []pair
	for n := range r.settings.pairs {
		r.screen.say("pair %d of %d", n+1, r.settings.pairs)
		var p pair
		play := []func() error{
			func() (err error) { p.Baseline, err = r.baseline(ctx); return err },
			func() (err error) { p.Galo, err = r.stackSide(ctx); return err },
		}
		if n%2 == 1 {
			slices.Reverse(play)
		}
		for _, one := range play {
			if err := one(); err != nil {
				return err
			}
		}
		if sent := int64(len(r.storm.shots())); p.Baseline.Accepted < sent { // galo's stack would not be clean
			return fmt.Errorf("cannot compare: the baseline accepted %d of %d payments", p.Baseline.Accepted, sent)
		}
		all = append(all, p)
	}
	r.printPairs(all)
	return writeVerdict(r.settings.json, all)
}

const againstNothing = "nothing"

// baseline plays the storm at what galo's stack is held against: servers that do nothing, or the same stack with other settings.
func (r *stackRun) baseline(ctx context.Context) (_ side, err error) {
	if r.settings.against == againstNothing {
		return r.nothing(ctx)
	}
	other := *r
	if other.settings, err = r.settings.varied(); err != nil {
		return side{}, err
	}
	return other.stackSide(ctx)
}

// varied are the settings of the baseline: what -against names is NAME=value for the environment of docker compose, or else a compose file that
// has the last word.
func (s settings) varied() (settings, error) {
	if s.against == againstNothing {
		return s, nil
	}
	for _, one := range strings.Split(s.against, ",") {
		if strings.Contains(one, "=") {
			s.environment = append(slices.Clip(s.environment), one)
			continue
		}
		path, err := filepath.Abs(one) // compose runs in the module's folder
		if err == nil {
			_, err = os.ReadFile(path)
		}
		if err != nil {
			return s, fmt.Errorf("cannot play -against %q, which is neither NAME=value nor a compose file: %w", one, err)
		}
		s.overrides = append(slices.Clip(s.overrides), path)
	}
	return s, nil
}

// stackSide plays the storm at galo's stack. What is not clean is no figure.
func (r *stackRun) stackSide(ctx context.Context) (side, error) {
	var v stackVerdict
	if err := r.galo(ctx, &v); err != nil {
		return side{}, err
	}
	s := side{v.Accepted, v.Latency, v.Containers}
	if !v.clean() {
		v.print(r.screen.out)
		return s, errNotClean
	}
	return s, nil
}

// cpuPer100k is the CPU seconds for 100,000 payments of the containers whose service begins with a name.
func (s *side) cpuPer100k(service string) float64 {
	sum := 0.0
	for _, c := range s.Containers {
		if strings.HasPrefix(c.Service, service) {
			sum += c.CPUSeconds
		}
	}
	return sum * 100_000 / float64(max(1, s.Accepted))
}

// pairFigure is a line of the table: a figure of each side, and their ratio.
type pairFigure struct {
	name string
	of   func(*side) float64
}

func pairFigures() []pairFigure {
	milli := func(of func(quantiles) int64) func(*side) float64 {
		return func(s *side) float64 { return float64(of(s.Latency)) / microsPerMilli }
	}
	all := []pairFigure{
		{"p50, ms", milli(func(q quantiles) int64 { return q.P50 })},
		{"p99, ms", milli(func(q quantiles) int64 { return q.P99 })},
		{"p99.9, ms", milli(func(q quantiles) int64 { return q.P999 })},
		{"CPU s for 100,000", func(s *side) float64 { return s.cpuPer100k("") }},
	}
	for _, service := range []string{galoPrefix, "nginx", "redis", "nats"} {
		all = append(all, pairFigure{"of these " + service, func(s *side) float64 { return s.cpuPer100k(service) }})
	}
	return append(all, pairFigure{"throttled periods", func(s *side) float64 { return float64(together(s.Containers).ThrottledPeriods) }})
}

// printPairs prints medians, and the lowest and the highest in brackets. The median ratio is that of the pairs, not of the medians.
func (r *stackRun) printPairs(all []pair) {
	fmt.Fprintf(r.screen.out, "%d pairs of storm %s, %s, beside %s: medians [lowest to highest]\n", len(all), r.storm.name, r.storm.length, r.settings.against)
	table := tabwriter.NewWriter(r.screen.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\tbaseline\tgalo\tgalo over that\n")
	for _, f := range pairFigures() {
		f.print(table, all)
	}
	_ = table.Flush()
}

func (f pairFigure) print(w io.Writer, all []pair) {
	var baseline, galo, ratio []float64
	for i := range all {
		b, g := f.of(&all[i].Baseline), f.of(&all[i].Galo)
		baseline, galo = append(baseline, b), append(galo, g)
		if b > 0 {
			ratio = append(ratio, g/b)
		}
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.name, spread(baseline), spread(galo), spread(ratio))
}

// spread is a median and, in brackets, the lowest and the highest.
func spread(all []float64) string {
	if len(all) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f [%.2f to %.2f]", median(all), slices.Min(all), slices.Max(all))
}

func median[T cmp.Ordered](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
