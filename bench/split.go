package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// splitSettings is the command line of `bench split`.
type splitSettings struct {
	rate     float64
	duration time.Duration
	rounds   int
	step     float64
	within   time.Duration
	margin   float64
	out      string
	compose  string
}

const (
	// splitRate is a factor on the steady storm: 3,000 payments a second, at which a quarter of a CPU is not enough for nginx.
	splitRate     = 6
	splitDuration = 5 * time.Second
	splitRounds   = 3
	splitStep     = 0.05
	splitWithin   = 15 * time.Minute
	splitMargin   = 0.25
	// finestStep is one that two instances can share to the thousandth.
	finestStep = 0.01
)

func parseSplitSettings(args []string, stderr io.Writer) (splitSettings, error) {
	var s splitSettings
	f := flag.NewFlagSet("bench split", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Float64Var(&s.rate, "rate", splitRate, "factor on the 500 payments a second of the steady storm: so many that limits matter")
	f.DurationVar(&s.duration, "duration", splitDuration, "length of each storm")
	f.IntVar(&s.rounds, "rounds", splitRounds, "how often a split is tried in turn with the best one so far; a majority decides, and nothing is played that cannot change it")
	f.Float64Var(&s.step, "step", splitStep, "CPU that is moved from one part of the stack to another at once")
	f.DurationVar(&s.within, "for", splitWithin, "no further split is tried after so long")
	f.Float64Var(&s.margin, "margin", splitMargin, "what the proposed limits of memory are above the highest use")
	f.StringVar(&s.out, "out", "", "file for the tables in Markdown, beside the terminal")
	f.StringVar(&s.compose, "compose", "", "file for the split found, as a compose file that -against takes (default: a temporary one)")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	hundredths := s.step / finestStep
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("cannot understand %q: there are flags only", f.Arg(0))
	case s.rounds < 1:
		return s, fmt.Errorf("cannot try a split %d times: 1 or more are possible", s.rounds)
	case !(s.step >= finestStep) || math.Abs(hundredths-math.Round(hundredths)) > 1e-9:
		return s, fmt.Errorf("cannot move %v of a CPU: hundredths are possible, which the two instances share", s.step)
	case !(s.margin >= 0):
		return s, fmt.Errorf("cannot propose a margin of %v: 0 or more are possible", s.margin)
	}
	return s, nil
}

// A splitSearch goes from the split that the stack has to better ones, a move at a time.
type splitSearch struct {
	settings splitSettings
	run      *stackRun
	first    split
	now      split              // the best one so far
	used     map[string]float64 // under it, in its last trial
	seen     map[string]bool    // splits that were tried
	contests []contest
	peaks    map[string]int64 // the highest use of memory by service, of all trials
	limits   map[string]int64 // of memory by service
}

// runSplit searches for the split of the CPU among the containers with which the stack's clients fare best, and proposes one of the memory.
func runSplit(ctx context.Context, args []string, screen *screen, stderr io.Writer) (err error) {
	s, err := parseSplitSettings(args, stderr)
	if err != nil {
		return err
	}
	run, err := newSteadyRun(ctx, screen, s.rate, s.duration, "-untimed")
	if err != nil {
		return err
	}
	first, err := readSplit(filepath.Join(run.root, stackCompose))
	if err != nil {
		return err
	}
	leave, err := run.startProcessors(ctx)
	defer func() { err = errors.Join(err, leave()) }()
	if err != nil {
		return err
	}
	search := &splitSearch{settings: s, run: run, first: first, now: first, seen: map[string]bool{first.String(): true},
		peaks: make(map[string]int64), limits: make(map[string]int64)}
	err = search.descend(ctx)
	return errors.Join(err, search.write()) // what was tried before something failed is told, too
}

// descend tries the neighbours of the best split so far, one after the other, and goes to the first that is better; it ends where none is, or
// when the time is over. The split that the stack has is tried beside itself at the beginning: what differs there is chance, and means as little elsewhere.
func (s *splitSearch) descend(ctx context.Context) error {
	until := time.Now().Add(s.settings.within)
	if err := s.try(ctx, s.now, s.now, "beside itself: chance"); err != nil {
		return err
	}
	for time.Now().Before(until) {
		next, there := s.next()
		if !there {
			s.run.screen.say("no neighbour is better")
			break
		}
		if err := s.try(ctx, s.now, next, ""); err != nil {
			return err
		}
		if last := &s.contests[len(s.contests)-1]; last.won() {
			last.remark, s.now = "kept", next
		}
	}
	if s.now.String() == s.first.String() {
		return nil
	}
	return s.try(ctx, s.first, s.now, "what was found, beside the first")
}

// next is the first neighbour that was not tried yet.
func (s *splitSearch) next() (split, bool) {
	for _, n := range s.now.neighbours(int(math.Round(s.settings.step*wholeCPU)), s.used) {
		if !s.seen[n.String()] {
			return n, true
		}
	}
	return nil, false
}

// try plays the storm under two splits in turn. Both have the same stack, made for them: limits can be changed while it runs, and what a stack
// has kept of earlier trials is no part of this one.
func (s *splitSearch) try(ctx context.Context, now, tried split, remark string) (err error) {
	s.seen[tried.String()] = true
	s.run.screen.say("%v: %s", tried, cmp.Or(remark, "beside the best so far"))
	p := stackProject(s.run.root, s.run.settings)
	defer s.run.leaveStack(ctx, p, &err)
	d, err := s.run.startStack(ctx, p)
	if err != nil {
		return err
	}
	all, err := s.run.engine.containers(ctx, p.name)
	if err != nil {
		return err
	}
	if _, err := s.storm(ctx, d, steadyStorm(warmUp, s.settings.rate)); err != nil { // the first one at a new stack is often slower, whatever the split
		return err
	}
	c := contest{now: now, tried: tried, rounds: s.settings.rounds, remark: remark}
	for round := 0; round < c.rounds && !c.decided(); round++ {
		turns := []func() error{
			func() error { return s.play(ctx, d, all, now, &c.nows) },
			func() error { return s.play(ctx, d, all, tried, &c.trieds) },
		}
		if (round+len(s.contests))%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return err
			}
		}
	}
	s.used = c.nows[len(c.nows)-1].used
	if c.won() {
		s.used = c.trieds[len(c.trieds)-1].used
	}
	s.contests = append(s.contests, c)
	return nil
}

// play is one trial at the running stack.
func (s *splitSearch) play(ctx context.Context, d *door, all []container, under split, into *[]trial) error {
	for _, c := range all {
		if err := s.run.engine.limitCPU(ctx, c, float64(under[c.service])/wholeCPU); err != nil {
			return err
		}
	}
	m, err := newMeter(ctx, s.run.engine, all)
	if err != nil {
		return err
	}
	stop := m.start(ctx, readSeldom)
	v, err := s.storm(ctx, d, s.run.storm)
	stop()
	if err != nil {
		return err
	}
	uses, over := m.used(ctx)
	t := trial{clean: v.clean() && v.Accepted == v.Sent, latency: v.Latency, throttled: together(uses).ThrottledPeriods, used: make(map[string]float64)}
	for _, u := range uses {
		t.used[partOf(u.Service)] = u.CPUSeconds / (u.CPULimit * over.Seconds())
		s.peaks[u.Service] = max(s.peaks[u.Service], u.MemoryPeak)
		s.limits[u.Service] = u.MemoryLimit
	}
	s.run.screen.say("  %v: %s", under, t.describe())
	*into = append(*into, t)
	return nil
}

// storm plays one at the running stack without a word.
func (s *splitSearch) storm(ctx context.Context, d *door, st storm) (verdict, error) {
	return runStorm(ctx, d, st, s.run.admins(), s.run.settings.stormOptions(&screen{out: io.Discard}))
}

func (t *trial) describe() string {
	word := ""
	if !t.clean {
		word = ", NOT CLEAN"
	}
	return fmt.Sprintf("p99 %s, p99.9 %s, %d periods throttled%s", ms(t.latency.P99), ms(t.latency.P999), t.throttled, word)
}

// write puts the tables and the split where they are wanted.
func (s *splitSearch) write() error {
	if len(s.contests) == 0 {
		return nil
	}
	var b strings.Builder
	s.print(&b)
	s.run.screen.say("%s", b.String())
	if s.settings.out != "" {
		if err := os.WriteFile(s.settings.out, []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("cannot write table: %w", err)
		}
	}
	if s.now.String() == s.first.String() {
		s.run.screen.say("no better split than the stack's own was found")
		return nil
	}
	return s.writeSplit()
}

// writeSplit keeps the split that was found, for -against.
func (s *splitSearch) writeSplit() error {
	text, err := s.now.compose()
	if err != nil {
		return err
	}
	path := s.settings.compose
	if path == "" {
		path = filepath.Join(os.TempDir(), fmt.Sprintf("galo-split-%d.yml", time.Now().Unix()))
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("cannot write the split: %w", err)
	}
	s.run.screen.say("%v: %s", s.now, path)
	return nil
}
