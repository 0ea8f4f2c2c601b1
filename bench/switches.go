package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// switchesSettings is the command line of `bench switches`.
type switchesSettings struct {
	rate     float64
	duration time.Duration
	trace    time.Duration
	out      string
}

const (
	switchesDuration = 10 * time.Second
	traceDuration    = 5 * time.Second
	// warmUp has connections made and whatever a start has to do done before anything is counted.
	warmUp = 2 * time.Second
	// afterTrace has what piled up behind strace done before the next container's turn.
	afterTrace = time.Second
)

func parseSwitchesSettings(args []string, stderr io.Writer) (switchesSettings, error) {
	var s switchesSettings
	f := flag.NewFlagSet("bench switches", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Float64Var(&s.rate, "rate", 1, "factor on the 500 payments a second of the steady storm")
	f.DurationVar(&s.duration, "duration", switchesDuration, "how long context switches are counted")
	f.DurationVar(&s.trace, "trace", traceDuration, "how long the system calls of each container are counted; 0 does not")
	f.StringVar(&s.out, "out", "", "file for the table in Markdown, beside the terminal")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("cannot understand %q: there are flags only", f.Arg(0))
	case s.duration <= 0 || s.trace < 0:
		return s, fmt.Errorf("cannot count for %v and %v: more than nothing is needed", s.duration, s.trace)
	}
	return s, nil
}

// length is more than all the counting in a stack takes. The storm is ended when that is over.
func (s switchesSettings) length() time.Duration {
	const mostContainers = 5
	return warmUp + s.duration + mostContainers*(s.trace+afterTrace+attachedWithin)
}

// runSwitches counts context switches and system calls in each container of the stack, and of that of servers that do nothing, under the steady storm.
func runSwitches(ctx context.Context, args []string, screen *screen, stderr io.Writer) (err error) {
	s, err := parseSwitchesSettings(args, stderr)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("strace"); err != nil && s.trace > 0 {
		screen.say("strace is not here: system calls are not counted")
		s.trace = 0
	}
	run, err := newSteadyRun(ctx, screen, s.rate, s.length())
	if err != nil {
		return err
	}
	leave, err := run.startProcessors(ctx)
	defer func() { err = errors.Join(err, leave()) }()
	if err != nil {
		return err
	}
	var all []kernelUse
	for _, p := range []project{nothingProject(run.root), stackProject(run.root, run.settings)} {
		uses, err := run.kernelUses(ctx, p, s)
		if err != nil {
			return err
		}
		all = append(all, uses...)
	}
	var b strings.Builder
	printKernelUses(&b, all, s)
	screen.say("%s", b.String())
	if s.out != "" {
		if err := os.WriteFile(s.out, []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("cannot write table: %w", err)
		}
	}
	return nil
}

// kernelUses plays the storm at a stack and counts in the middle of it.
func (r *stackRun) kernelUses(ctx context.Context, p project, s switchesSettings) (all []kernelUse, err error) {
	for _, a := range r.admins() {
		if err := errors.Join(a.enter(ctx, 0, false), a.purge(ctx)); err != nil {
			return nil, err
		}
	}
	defer func() { err = errors.Join(err, p.down(ctx)) }()
	r.screen.say("building and starting %s", p.name)
	if err := p.up(ctx); err != nil {
		return nil, err
	}
	d, err := newDoor(stackAddress)
	if err != nil {
		return nil, err
	}
	if err := awaitAccepted(ctx, d); err != nil {
		return nil, err
	}
	pids, err := r.families(ctx, p)
	if err != nil {
		return nil, err
	}
	l := newLoad(d, r.storm.shots())
	storming, calm := context.WithCancel(ctx)
	var load sync.WaitGroup
	load.Go(func() { l.run(storming, time.Now().Add(beginAfter)) })
	defer load.Wait()
	defer calm()
	r.screen.say("storm %s: counting context switches for %v, then system calls for %v in each container", r.storm.name, s.duration, s.trace)
	sleepUntil(ctx, time.Now().Add(warmUp))
	if all, err = countSwitches(ctx, pids, s.duration, l); err != nil {
		return nil, err
	}
	for i := range all {
		all[i].stack = p.name
		if s.trace > 0 {
			if err := all[i].countCalls(ctx, pids[all[i].service], s.trace, l); err != nil {
				return nil, err
			}
		}
	}
	if lost := l.refused.Load() + l.unanswered.Load(); lost > 0 {
		r.screen.say("%d payments were not answered with 202", lost)
	}
	return all, nil
}

// countCalls counts a container's system calls while the load goes on.
func (u *kernelUse) countCalls(ctx context.Context, pids []int, during time.Duration, l *load) error {
	l.latency.sinceLast()
	counted, payments, err := traced(ctx, pids, during, l.accepted.Load)
	if err != nil {
		return err
	}
	if payments == 0 {
		return errors.New("cannot count system calls a payment: none was accepted")
	}
	u.tracedP99 = l.latency.sinceLast().P99
	u.calls = make(map[string]float64)
	for name, n := range counted {
		u.calls[name] = float64(n) / float64(payments)
	}
	sleepUntil(ctx, time.Now().Add(afterTrace))
	return nil
}

// families are the processes of each container, by service.
func (r *stackRun) families(ctx context.Context, p project) (map[string][]int, error) {
	all, err := r.engine.containers(ctx, p.name)
	if err != nil {
		return nil, err
	}
	pids := make(map[string][]int)
	for _, c := range all {
		state, err := r.engine.state(ctx, c)
		if err != nil {
			return nil, err
		}
		if pids[c.service], err = family(state.State.Pid); err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// countSwitches counts in all containers over the same time, in the order of their services.
func countSwitches(ctx context.Context, pids map[string][]int, during time.Duration, l *load) (all []kernelUse, err error) {
	read := func() (map[string]map[int]switches, error) {
		now := make(map[string]map[int]switches)
		for service, family := range pids {
			threads, err := readSwitches(family)
			if err != nil {
				return nil, err
			}
			now[service] = threads
		}
		return now, nil
	}
	from := l.accepted.Load()
	before, err := read()
	if err != nil {
		return nil, err
	}
	if !sleepUntil(ctx, time.Now().Add(during)) {
		return nil, fmt.Errorf("cannot count context switches: %w", context.Cause(ctx))
	}
	payments := l.accepted.Load() - from
	after, err := read()
	if err != nil {
		return nil, err
	}
	if payments == 0 {
		return nil, errors.New("cannot count context switches a payment: none was accepted")
	}
	for _, service := range slices.Sorted(maps.Keys(pids)) {
		sum := switchesSince(before[service], after[service])
		all = append(all, kernelUse{service: service, voluntary: float64(sum.voluntary) / float64(payments), involuntary: float64(sum.involuntary) / float64(payments)})
	}
	return all, nil
}
