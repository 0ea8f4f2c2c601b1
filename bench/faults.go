package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// faultSettings is the command line of `bench faults`.
type faultSettings struct {
	seed   uint64
	length time.Duration // of the load; checks come on top
	rate   float64
	only   []string
	json   string
	keep   bool
	race   bool
	// untimed is for a machine whose clock cannot be trusted: health calls that come too soon are counted and not judged.
	untimed bool
	// overlay is a file as go build -overlay takes it: what galo's files are replaced by, so that a broken galo can be tried.
	overlay string
	// patience is galo's PATIENCE: short, so that both processors are paid at and a slip would be a second charge.
	patience time.Duration
	plan     bool
	fees     [processors]fee
}

const (
	defaultFaultsFor = 90 * time.Second
	longRun          = 10 * time.Minute // from then on faults are longer, too
	longestRound     = 3 * time.Minute
	fewestRounds     = 3
	purgeKind        = "purge"
	patienceSalt     = 0x70617469656e6365
)

func parseFaultSettings(args []string, stderr io.Writer) (faultSettings, error) {
	s := faultSettings{fees: [processors]fee{500, 1500}}
	f := flag.NewFlagSet("bench faults", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Uint64Var(&s.seed, "seed", 0, "what the faults and the load follow from; 0 takes a new one")
	f.DurationVar(&s.length, "for", 0, "how long payments come and faults are made (default 90s); the checks come on top")
	hours := f.Float64("hours", 0, "the same in hours")
	f.Float64Var(&s.rate, "rate", 150, "new payments a second")
	only := f.String("only", "", "kinds of faults to restrict the run to, with commas between: "+strings.Join(kindNames(), ", "))
	f.StringVar(&s.json, "json", "", "file for the verdict in JSON")
	f.BoolVar(&s.keep, "keep", false, "keep journals and logs")
	f.BoolVar(&s.untimed, "untimed", false, "count what a machine that stalls can do, health calls that come too soon, and do not judge it")
	f.StringVar(&s.overlay, "overlay", "", "build galo with these files replaced, as go build -overlay does: to see that a broken galo is found out")
	f.DurationVar(&s.patience, "patience", 0, "PATIENCE of galo (default: from 500ms to 5s, by the seed)")
	f.BoolVar(&s.race, "race", false, "build galo with the race detector")
	f.BoolVar(&s.plan, "plan", false, "print the faults of this seed and do nothing")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("cannot understand %q: there are flags only", f.Arg(0))
	case s.length != 0 && *hours != 0:
		return s, errors.New("cannot run both -for and -hours: they say the same thing")
	case *hours > 0:
		s.length = time.Duration(*hours * float64(time.Hour)).Round(time.Second)
	case s.length == 0:
		s.length = defaultFaultsFor
	}
	if s.length < 10*time.Second || s.rate <= 0 || s.rate > 5000 {
		return s, fmt.Errorf("cannot run for %v at %v a second: at least 10s, and up to 5000 are possible", s.length, s.rate)
	}
	if *only != "" {
		s.only = strings.Split(*only, ",")
		for _, name := range s.only {
			if !slices.Contains(kindNames(), name) {
				return s, fmt.Errorf("cannot make faults of the kind %q: there are %s", name, strings.Join(kindNames(), ", "))
			}
		}
	}
	if s.seed == 0 {
		s.seed = seedNow()
	}
	if s.patience == 0 {
		choice := []time.Duration{500 * milli, sec, 2 * sec, 5 * sec}
		s.patience = choice[rand.New(rand.NewPCG(s.seed, patienceSalt)).IntN(len(choice))]
	}
	return s, nil
}

func kindNames() []string {
	names := []string{purgeKind}
	for _, k := range faultKinds() {
		names = append(names, k.name)
	}
	return names
}

func (s faultSettings) allows(kind string) bool {
	return s.only == nil || slices.Contains(s.only, kind)
}

// kinds are those to deal from.
func (s faultSettings) kinds() []faultKind {
	return slices.DeleteFunc(faultKinds(), func(k faultKind) bool { return !s.allows(k.name) })
}

// replay is the command that makes the same faults again.
func (s faultSettings) replay() string {
	line := fmt.Sprintf("go run ./bench faults -seed %d -for %v -rate %v -patience %v", s.seed, s.length, s.rate, s.patience)
	if s.only != nil {
		line += " -only " + strings.Join(s.only, ",")
	}
	return line
}

func (s faultSettings) rounds() (n int, each time.Duration) {
	n = max(fewestRounds, int((s.length+longestRound-1)/longestRound))
	return n, s.length / time.Duration(n)
}

// A plannedRound is everything that is decided about a round but its load.
type plannedRound struct {
	faults []plannedFault
	copy   bool // of Redis, when the round begins
	purge  purgePlan
}

// planRounds decides the whole run, before anything is started: what happens never depends on what has happened.
func (s faultSettings) planRounds() []plannedRound {
	n, each := s.rounds()
	deck := newDeck(s.seed, s.kinds())
	purges := rand.New(rand.NewPCG(s.seed, purgeSalt))
	var all []plannedRound
	number := 1
	for round := range n {
		// Copies get old, so that one may be from before a purge.
		p := plannedRound{purge: planPurge(purges, round, each), copy: round == 0 || purges.IntN(2) == 0}
		if len(deck.kinds) > 0 {
			p.faults = planRound(deck, number, each, s.length >= longRun)
		}
		if !s.allows(purgeKind) {
			p.purge = purgePlan{}
		}
		number += len(p.faults)
		all = append(all, p)
	}
	return all
}

// runFaults makes faults on real processes under load, and judges what came of the payments.
func runFaults(ctx context.Context, args []string, screen *screen, stderr io.Writer) (err error) {
	s, err := parseFaultSettings(args, stderr)
	if err != nil {
		return err
	}
	screen.say("seed %d: %s", s.seed, s.replay())
	plan := s.planRounds()
	if s.plan {
		for n, p := range plan {
			for _, f := range p.faults {
				screen.say("round %d, %5.1f s  %v", n+1, f.at.Seconds(), f)
			}
			screen.say("round %d, after it  %v", n+1, p.purge)
		}
		return nil
	}
	dir, err := os.MkdirTemp("", "galo-faults-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for galo: %w", err)
	}
	defer func() { settings{keep: s.keep}.leave(dir, err != nil, screen) }()
	run := &faultRun{settings: s, screen: screen, began: time.Now(), verdict: newFaultVerdict(s)}
	if run.rig, err = buildRig(ctx, s, dir, screen.say); err != nil {
		return err
	}
	failed := run.all(ctx, plan)
	v := run.finish(ctx)
	if failed != nil {
		return failed
	}
	v.print(screen.out)
	if err := writeVerdict(s.json, v); err != nil {
		return err
	}
	if !v.clean() {
		screen.say("to have it again: %s", s.replay())
		return errNotClean
	}
	return nil
}

// A faultRun is one run on its way.
type faultRun struct {
	settings faultSettings
	screen   *screen
	rig      *rig
	began    time.Time
	verdict  *faultVerdict
	stalls   stallWatch

	payments []posted
	mid      *midPurge       // of the present round, if there was one
	seen     [processors]int // so many of each processor's payments were there at the last check
	load     atomic.Pointer[load]
}

// all plays round after round. It stops at the first check that finds something, so that what there is to see is still there.
func (r *faultRun) all(ctx context.Context, plan []plannedRound) error {
	watched, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.stalls.run(watched) })
	watch.Go(func() { r.show(watched) })
	defer watch.Wait()
	defer stop()
	for n, p := range plan {
		if p.copy {
			if err := r.rig.redis.keepCopy(ctx); err != nil && n == 0 {
				return err
			} else if err != nil {
				r.screen.say("%s %v", r.clock(), err)
			}
		}
		r.round(ctx, n, p)
		if ctx.Err() != nil {
			return fmt.Errorf("cannot finish the run: %w", context.Cause(ctx))
		}
		r.screen.say("%s round %d of %d is over: everything is mended, and looked at when all is paid", r.clock(), n+1, len(plan))
		if err := r.check(ctx, n, n == len(plan)-1); err != nil {
			return err
		}
		if !r.verdict.clean() {
			return nil
		}
		if p.purge.on {
			if err := r.purge(ctx, p.purge); err != nil {
				return err
			}
			if !r.verdict.clean() {
				return nil
			}
		}
	}
	return nil
}

// round makes one round's faults under load, and returns when the load is over and everything is mended.
func (r *faultRun) round(ctx context.Context, n int, p plannedRound) {
	_, length := r.settings.rounds()
	rng := rand.New(rand.NewPCG(r.settings.seed, loadSalt+uint64(n)))
	planned := planLoad(&r.payments, rng, length, r.settings.rate)
	l := newLoad(r.rig.both, planned.shots)
	l.due = func(i int) bool { return !planned.postings[i].other || r.rig.paid(planned.shots[i].id) }
	r.load.Store(l)
	start := time.Now().Add(beginAfter)

	whileItRuns, stop := context.WithDeadline(ctx, start.Add(length))
	defer stop()
	var parts sync.WaitGroup
	log := r.quietLog()
	defer func() { _ = log.Close() }() // it is for people only
	check := &checker{door: r.rig.both, admins: r.rig.admins, faults: true,
		say: func(format string, args ...any) { fmt.Fprintf(log, r.clock()+" "+format+"\n", args...) }}
	r.mid = nil
	if p.purge.mid > 0 {
		parts.Go(func() { r.mid = r.purgeAmid(whileItRuns, start.Add(p.purge.mid), p.purge.blind) })
	} else {
		parts.Go(func() { check.run(whileItRuns, start, checkFaultsEvery) })
	}
	r.befall(whileItRuns, &parts, start, p.faults)
	l.run(ctx, start)
	sleepUntil(ctx, start.Add(length))
	parts.Wait()
	r.verdict.addLoad(l, check.sofar(), planned.book(r.payments, l.ends))
}

const checkFaultsEvery = 2 * time.Second

// quietLog takes what the summaries looked like while faults were made: nothing that a person needs unless the run fails.
func (r *faultRun) quietLog() io.WriteCloser {
	f, err := os.OpenFile(filepath.Join(r.rig.dir, "checks.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nopCloser{io.Discard}
	}
	return f
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// befall starts a goroutine for each fault. Things are locked in their order in the fault, which is the same everywhere, so that a
// fault that takes longer to mend than planned holds up the next one on the same thing.
func (r *faultRun) befall(ctx context.Context, parts *sync.WaitGroup, start time.Time, faults []plannedFault) {
	locks := make(map[thing]*sync.Mutex)
	for _, f := range faults {
		for _, t := range f.things {
			if locks[t] == nil {
				locks[t] = new(sync.Mutex)
			}
		}
	}
	for _, f := range faults {
		parts.Go(func() {
			if !sleepCoarse(ctx, start.Add(f.at)) {
				return
			}
			for _, t := range f.things {
				locks[t].Lock()
				defer locks[t].Unlock()
			}
			if ctx.Err() != nil {
				return
			}
			r.screen.say("%s begin %v", r.clock(), f)
			err := f.do(r.rig, func() { sleepCoarse(ctx, time.Now().Add(f.hold)) })
			r.screen.say("%s end   #%d %s", r.clock(), f.number, f.kind)
			r.verdict.befell(f.kind)
			if err != nil {
				r.screen.say("%s #%d %s: %v", r.clock(), f.number, f.kind, err)
				r.verdict.broken(holdsProcesses, fmt.Sprintf("#%d %s: %v", f.number, f.kind, err))
			}
		})
	}
}

// sleepCoarse waits without the precision that load needs; no when the context is done first.
func sleepCoarse(ctx context.Context, until time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(until)):
		return true
	}
}

func (r *faultRun) clock() string { return fmt.Sprintf("%7.1f s ", time.Since(r.began).Seconds()) }

const showEvery = 10 * time.Second

// show says now and then how it goes.
func (r *faultRun) show(ctx context.Context) {
	for sleepCoarse(ctx, time.Now().Add(showEvery)) {
		l := r.load.Load()
		if l == nil {
			continue
		}
		var paid [processors]int
		for p := range paid {
			paid[p] = len(r.rig.processors[p].ledger.all())
		}
		r.screen.say("%s this round: %d posted, %d times 202, %d other answers, %d none; all: %d at default, %d at fallback", r.clock(),
			l.attempted.Load(), l.accepted.Load(), l.refused.Load(), l.unanswered.Load(), paid[onDefault], paid[onFallback])
	}
}

// finish stops everything and completes the verdict.
func (r *faultRun) finish(ctx context.Context) *faultVerdict {
	v := r.verdict
	if !v.clean() {
		r.rig.galo.keepEvidence(context.WithoutCancel(ctx))
	}
	r.countHealth()
	if err := r.rig.close(); err != nil {
		v.broken(holdsProcesses, err.Error())
	}
	for _, crash := range append(r.rig.galo.crashReports(), r.rig.servers.crashReports()...) {
		v.broken(holdsProcesses, crash)
	}
	for _, line := range r.rig.panics() {
		v.broken(holdsProcesses, line)
	}
	v.Notes = r.rig.notes
	v.Seconds = time.Since(r.began).Seconds()
	v.Payments = len(r.payments)
	return v
}
