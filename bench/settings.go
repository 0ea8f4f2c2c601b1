package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"time"
)

// settings is the command line.
type settings struct {
	stack      bool
	compare    bool
	pairs      int
	against    string
	highest    time.Duration
	faults     bool
	storm      string
	seed       uint64
	duration   time.Duration
	rate       float64
	lose       float64
	kills      int
	patience   string
	instances  int
	redis      string
	nats       string
	galo       string
	target     string
	admins     [processors]string
	token      string
	fees       [processors]fee
	checkEvery time.Duration
	untimed    bool
	drain      time.Duration
	keep       bool
	json       string
	report     string
	cpuprofile string

	environment []string // of the stack, besides this process's own
	overrides   []string // compose files of the stack, besides its own
}

const defaultToken = "123" // the real processors' own

func parseSettings(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.storm, "storm", "preview", "preview, random, steady or drain")
	f.Uint64Var(&s.seed, "seed", 0, "what a random storm and all moments of chance follow from; 0 takes a new one")
	f.DurationVar(&s.duration, "duration", 0, "length of the storm (default 60s; drain 70s)")
	f.Float64Var(&s.rate, "rate", 1, "factor on how many payments arrive")
	f.Float64Var(&s.lose, "lose", 0, "percent of the processors' answers that are lost after the payment was written")
	f.IntVar(&s.kills, "kill", 0, "how often galo is killed with -9 and started again")
	f.StringVar(&s.patience, "patience", "", "PATIENCE of galo (default: galo's own)")
	f.IntVar(&s.instances, "instances", 1, "how many galos share the load; more than one need -redis")
	f.StringVar(&s.redis, "redis", "", "REDIS_URL of galo; empty is the store in its own process")
	f.StringVar(&s.nats, "nats", "", "NATS_URL of galo")
	f.StringVar(&s.galo, "galo", "", "a galo that is built already")
	f.StringVar(&s.target, "target", "", "URL of a galo that runs already; needs both admin URLs")
	f.StringVar(&s.admins[onDefault], "default-admin", "", "URL of a processor default that runs already")
	f.StringVar(&s.admins[onFallback], "fallback-admin", "", "URL of a processor fallback that runs already")
	f.StringVar(&s.token, "token", defaultToken, "token of the processors' admin side")
	f.BoolVar(&s.stack, "stack", false, "judge the compose stack under its limits (needs Docker with compose)")
	f.BoolVar(&s.faults, "faults", false, "with -stack: kill, restart and replace its parts one after the other under an even load")
	f.BoolVar(&s.compare, "compare", true, "with -stack: play the storm also at servers that do nothing")
	f.IntVar(&s.pairs, "pairs", 0, "with -stack: play the storm so often at a baseline and at galo in turn, and print medians and spreads")
	f.StringVar(&s.against, "against", againstNothing, "with -pairs: the baseline, servers that do nothing or the stack with other settings and compose files, as in LINGER=5ms,bench/variants/nginx-reuseport.yml")
	f.DurationVar(&s.highest, "highest", 0, "with -stack: look for the highest rate at which the p99 stays below this, at servers that do nothing and at galo")
	shares := [processors]*string{
		f.String("default-fee", "0.05", "fee of the default processor"),
		f.String("fallback-fee", "0.15", "fee of the fallback processor"),
	}
	f.DurationVar(&s.checkEvery, "check-every", time.Second, "how often the summary is compared while the storm runs; 0 is the contest's 10s, which -pairs and -highest have where nothing is said")
	f.BoolVar(&s.untimed, "untimed", false, "for a machine whose clock cannot be trusted: summaries that disagreed while it ran and were right at a later look are counted apart")
	f.DurationVar(&s.drain, "drain", 2*time.Minute, "how long the last payments may take after the storm")
	f.BoolVar(&s.keep, "keep", false, "keep galo's journals and logs")
	f.StringVar(&s.json, "json", "", "file for the verdict in JSON")
	f.StringVar(&s.report, "report", "", "file for a picture of the storm: HTML, or SVG if it ends in .svg")
	f.StringVar(&s.cpuprofile, "cpuprofile", "", "file for a profile of the bench itself")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("cannot understand %q: there are flags, and the words processor, nothing, faults, table, split and switches first", f.Arg(0))
	}
	if (s.pairs > 0 || s.highest > 0) && !given(f, "check-every") {
		s.checkEvery = 0 // servers that do nothing are not asked, and who asks takes time from the clients
	}
	for p, share := range shares {
		var err error
		if s.fees[p], err = parseFee(*share); err != nil {
			return s, err
		}
	}
	if s.seed == 0 {
		s.seed = seedNow()
	}
	return s, s.check()
}

// given says that a flag is on the command line.
func given(f *flag.FlagSet, name string) bool {
	there := false
	f.Visit(func(one *flag.Flag) { there = there || one.Name == name })
	return there
}

// check finds combinations that can't work before anything is started.
func (s settings) check() error {
	switch {
	case s.instances < 1:
		return fmt.Errorf("cannot start %d instances: at least 1 is needed", s.instances)
	case s.instances > 1 && s.redis == "":
		return fmt.Errorf("cannot start %d instances without -redis: the embedded store belongs to one process", s.instances)
	case s.target != "" && (s.admins[onDefault] == "" || s.admins[onFallback] == ""):
		return fmt.Errorf("cannot judge -target without -default-admin and -fallback-admin: only the processors know what was paid")
	case s.lose < 0 || s.lose > 100:
		return fmt.Errorf("cannot lose %v%% of the answers: from 0 to 100 are possible", s.lose)
	case s.faults && !s.stack:
		return fmt.Errorf("cannot play -faults without -stack: its parts are containers")
	case s.pairs < 0:
		return fmt.Errorf("cannot play %d pairs: 0 or more are possible", s.pairs)
	case s.pairs > 0 && (!s.stack || s.faults || s.report != ""):
		return errors.New("cannot play -pairs without -stack, nor with -faults or -report: it compares stacks, and draws nothing")
	case s.highest < 0:
		return fmt.Errorf("cannot look for a p99 below %v: more than 0 is needed", s.highest)
	case s.highest > 0 && (!s.stack || s.faults || s.pairs > 0 || s.kills > 0 || s.report != ""):
		return errors.New("cannot look for the -highest rate without -stack, nor with -faults, -pairs, -kill or -report")
	case s.pairs == 0 && s.against != againstNothing:
		return errors.New("cannot play -against settings without -pairs")
	case s.kills < 0:
		return fmt.Errorf("cannot kill %d times: 0 or more are possible", s.kills)
	}
	_, err := s.varied()
	return err
}

func (s settings) length() time.Duration {
	switch {
	case s.duration != 0:
		return s.duration
	case s.storm == "drain":
		return drainLength
	}
	return defaultDuration
}

// untimedLooks is how long a disagreement may take to be over where the clock cannot be trusted: far longer than any stall,
// and what is wrong stays wrong for ever.
const untimedLooks = 30 * time.Second

// stormOptions is what the command line says about how a storm is driven.
func (s settings) stormOptions(screen *screen) stormOptions {
	o := stormOptions{checkEvery: s.checkEvery, drain: s.drain, losePct: s.lose, screen: screen}
	if s.report != "" {
		o.recorder = &recorder{}
	}
	if s.untimed {
		o.untimed = untimedLooks
	}
	return o
}

// profileTo writes a CPU profile of the bench itself, so that what it takes from galo can be known.
func profileTo(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("cannot write profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errJoinClose(f, err)
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: cannot write profile:", err)
		}
	}, nil
}

func errJoinClose(c io.Closer, err error) error {
	_ = c.Close() // the first error is the one that matters
	return fmt.Errorf("cannot write profile: %w", err)
}
