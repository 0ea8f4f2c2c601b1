// Command bench sends a storm of payments at galo and judges what comes of it.
//
// On its own it needs nothing but Go: it builds galo, starts it as a process of its own with the embedded store,
// starts two simulated payment processors, plays the storm, if asked to kills galo and loses some of the processors'
// answers on the way, and ends with a verdict. Its exit status is 0 only when nothing was lost, nothing was charged twice and
// no summary disagreed.
//
//	go run ./bench                               the public preview storm
//	go run ./bench -storm random -seed 7         another one
//	go run ./bench -storm drain                  both processors fail for 30 s, and what was held drains
//	go run ./bench -report storm.html            a picture of the storm, beside the verdict
//	go run ./bench -stack                        the compose stack under its limits
//	go run ./bench -stack -pairs 5               that stack and servers that do nothing, in turn; -against other settings, or a file of bench/variants
//	go run ./bench faults -seed 7 -for 90s       random faults on real processes
//	go run ./bench table -out table.md           every figure of the README, measured anew beside its baseline
//	go run ./bench -stack -highest 5ms           the highest rate at which the p99 stays below that, at both of them
//	go run ./bench split -for 15m                a better split of the CPU among the stack's containers, and one of the memory
//	go run ./bench switches                      context switches and system calls a payment, in each of the stack's containers
//	go run ./bench -stack -faults                the stack, its parts killed, restarted and replaced one after the other
//	go run ./bench processor -listen :8080       one simulated processor alone
//	go run ./bench nothing -listen :9999         a server that answers 202 and does nothing
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// One more than there are cores, since the goroutine that paces the load blocks its own in short sleeps.
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errNotClean):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

// errNotClean means that there is a verdict, it is printed, and it is a bad one.
var errNotClean = errors.New("verdict is not clean")

func run(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "processor":
			return runProcessor(ctx, args[1:], stderr)
		case "nothing":
			return runNothing(ctx, args[1:], stderr)
		case "faults":
			return runFaults(ctx, args[1:], newScreen(stdout), stderr)
		case "table":
			return runTable(ctx, args[1:], newScreen(stdout), stderr)
		case "split":
			return runSplit(ctx, args[1:], newScreen(stdout), stderr)
		case "switches":
			return runSwitches(ctx, args[1:], newScreen(stdout), stderr)
		}
	}
	s, err := parseSettings(args, stderr)
	if err != nil {
		return err
	}
	if s.stack {
		return runStack(ctx, s, newScreen(stdout))
	}
	return runBench(ctx, s, newScreen(stdout))
}

// runBench builds what a storm needs, plays it, and takes everything down again.
func runBench(ctx context.Context, s settings, screen *screen) (err error) {
	if s.cpuprofile != "" {
		stop, err := profileTo(s.cpuprofile)
		if err != nil {
			return err
		}
		defer stop()
	}
	st, err := newStorm(s.storm, s.seed, s.length(), s.rate)
	if err != nil {
		return err
	}
	admins, urls, closeProcessors, err := s.processors()
	if err != nil {
		return err
	}
	defer closeProcessors()
	opts := s.stormOptions(screen)

	bases := []string{s.target}
	var galo *fleet
	if s.target == "" {
		var dir string
		if dir, err = os.MkdirTemp("", "galo-bench-"); err != nil {
			return fmt.Errorf("cannot make a folder for galo: %w", err)
		}
		defer func() { s.leave(dir, err != nil, screen) }()
		if galo, err = s.startGalo(ctx, dir, urls, screen); err != nil {
			return err
		}
		defer func() {
			if galo != nil { // not taken down yet: the way out of an error
				err = errors.Join(err, galo.stop())
			}
		}()
		bases = galo.bases()
		if opts.recorder != nil {
			opts.recorder.watched = galo.watched()
		}
		if s.kills > 0 {
			opts.disturb = galo.killer(s.kills, s.seed, screen.happened)
		}
	}
	d, err := newDoor(bases...)
	if err != nil {
		return err
	}
	screen.say("storm %s, seed %d, %v: %d payments at %v", st.name, st.seed, st.length, len(st.shots()), bases)
	v, err := runStorm(ctx, d, st, admins, opts)
	if err != nil {
		return err
	}
	if galo != nil {
		if !v.clean() {
			galo.keepEvidence(ctx)
		}
		stopErr := galo.stop()
		v.Crashes = galo.crashReports()
		if stopErr != nil {
			v.Crashes = append(v.Crashes, stopErr.Error())
		}
		galo = nil
	}
	v.print(screen.out)
	if err := errors.Join(writeVerdict(s.json, v), writeReport(s.report, opts.recorder, v)); err != nil {
		return err
	}
	if !v.clean() {
		return errNotClean
	}
	return nil
}

// startGalo builds galo unless it is given, and starts as many as were asked for.
func (s settings) startGalo(ctx context.Context, dir string, urls [processors]string, screen *screen) (*fleet, error) {
	binary := s.galo
	if binary == "" {
		screen.say("building galo")
		var err error
		if binary, err = buildGalo(ctx, dir); err != nil {
			return nil, err
		}
	}
	return startFleet(ctx, fleetOptions{
		binary: binary, dir: dir, instances: s.instances, redis: s.redis, nats: s.nats,
		patience: s.patience, urls: urls, fees: s.fees,
	}, screen.say)
}

// leave removes the folder with galo's journals and logs, unless it is asked for or may explain a failure.
func (s settings) leave(dir string, failed bool, screen *screen) {
	if s.keep || failed {
		screen.say("journals and logs are kept in %s", dir)
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		screen.say("cannot remove %s: %v", dir, err)
	}
}

// processors starts two of them in this process, or speaks to those that run elsewhere.
func (s settings) processors() (admins [processors]*adminClient, urls [processors]string, shut func(), err error) {
	var own []*processor
	shut = func() {
		for _, p := range own {
			p.close()
		}
	}
	for i, name := range processorNames {
		if s.admins[i] != "" {
			urls[i] = s.admins[i]
			admins[i] = newAdminClient(name, urls[i], s.token)
			continue
		}
		p, url, err := startProcessor(name, s.fees[i], s.token)
		if err != nil {
			shut()
			return admins, urls, nil, err
		}
		own = append(own, p)
		urls[i] = url
		admins[i] = newAdminClient(name, urls[i], s.token)
	}
	return admins, urls, shut, nil
}

// startProcessor runs one in this process, until it is closed.
func startProcessor(name string, share fee, token string) (p *processor, url string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("cannot start processor %s: %w", name, err)
	}
	p = newProcessor(name, share, token)
	go func() { // ends with p.close
		if err := p.serve(l); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}()
	return p, "http://" + l.Addr().String(), nil
}

// writeVerdict keeps a verdict for a program to read, if it is asked for.
func writeVerdict(path string, v any) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write verdict: %w", err)
	}
	return nil
}

// runProcessor is one simulated processor alone, for a container or a second terminal.
func runProcessor(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench processor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", ":8080", "address to serve on")
	share := flags.String("fee", "0.05", "share of each amount that is kept as fee")
	token := flags.String("token", defaultToken, "what the header "+tokenHeader+" of the admin side must say")
	name := flags.String("name", "default", "name in messages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	f, err := parseFee(*share)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("cannot start processor %s: %w", *name, err)
	}
	p := newProcessor(*name, f, *token)
	fmt.Fprintf(stderr, "processor %s, fee %v, on %s\n", *name, f, l.Addr())
	served := make(chan error, 1)
	go func() { served <- p.serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		p.close()
		return <-served
	}
}

// seedNow is a seed for a run that asked for none; it is printed, so that the run can be had again.
func seedNow() uint64 { return uint64(rand.Uint32()) }

// defaultDuration is for storms that have no length of their own.
const defaultDuration = 60 * time.Second
