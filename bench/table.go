package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// tableSettings is the command line of `bench table`.
type tableSettings struct {
	brief bool
	count int
	only  []string
	stack bool
	out   string
	page  string
	raw   string
}

const defaultRounds = 5

func parseTableSettings(args []string, stderr io.Writer) (tableSettings, error) {
	var s tableSettings
	f := flag.NewFlagSet("bench table", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&s.brief, "brief", false, "every benchmark once and small, without the stack, and a table of what holds on every machine: an exact count may be wrong then, never a time")
	f.IntVar(&s.count, "count", defaultRounds, "how often each benchmark is run, in turn with what it is held against")
	only := f.String("only", "", "only these benchmarks, with commas between, as in Ring,Settle")
	f.BoolVar(&s.stack, "stack", true, "the stack, too, where Docker with compose is")
	f.StringVar(&s.out, "out", "", "file for the table in Markdown (default: the terminal)")
	f.StringVar(&s.page, "page", "", "file for the table as a page with a picture")
	f.StringVar(&s.raw, "raw", "", "file for all that the benchmarks printed, as benchstat reads it")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if *only != "" {
		s.only = strings.Split(*only, ",")
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("cannot understand %q: there are flags only", f.Arg(0))
	case s.count < 1:
		return s, fmt.Errorf("cannot run each benchmark %d times: 1 or more are possible", s.count)
	case s.brief && s.only != nil:
		return s, errors.New("cannot do -only a few -brief: it runs every benchmark there is")
	}
	for _, name := range s.only {
		if !slices.ContainsFunc(tableBenches(), func(b tableBench) bool { return b.name == name }) {
			return s, fmt.Errorf("cannot run only %q: there is no such benchmark in the table", name)
		}
	}
	return s, nil
}

// A tableRun is one making of the table.
type tableRun struct {
	settings tableSettings
	root     string // the module's folder
	dir      string // for what is built and measured on the way
	screen   *screen
	began    time.Time
	measured measured
	raw      bytes.Buffer
}

// runTable measures everything that the README claims, each thing beside what it is held against, and prints one table of it.
func runTable(ctx context.Context, args []string, screen *screen, stderr io.Writer) (err error) {
	s, err := parseTableSettings(args, stderr)
	if err != nil {
		return err
	}
	r := &tableRun{settings: s, screen: screen, began: time.Now(), measured: newMeasured()}
	if r.root, err = moduleRoot(ctx); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("", "galo-table-"); err != nil {
		return fmt.Errorf("cannot make a folder for the table: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	rows := tableRows()
	if s.brief {
		rows = countRows() // of the others the figures would be of too little work to say anything
	}
	if err := r.measure(ctx, rows); err != nil {
		return err
	}
	results := resultsOf(rows, r.measured)
	if s.only != nil {
		results = slices.DeleteFunc(results, func(res result) bool { return res.missing() })
	}
	if err := r.write(results); err != nil {
		return err
	}
	if slices.ContainsFunc(results, func(res result) bool { return res.broken() }) {
		return errNotClean
	}
	return nil
}

// measure runs what the rows need, and keeps what it printed.
func (r *tableRun) measure(ctx context.Context, rows []tableRow) error {
	if r.settings.brief {
		if err := r.everythingOnce(ctx); err != nil {
			return err
		}
	} else if err := r.inTurn(ctx, tableBenches()); err != nil {
		return err
	}
	if r.settings.only != nil {
		return nil
	}
	if err := r.counts(ctx, rows); err != nil || r.settings.brief || !r.settings.stack {
		return err
	}
	return r.stack(ctx)
}

// write puts the table where it is wanted.
func (r *tableRun) write(results []result) error {
	head := tableHead(r.settings.brief, r.measured.machine)
	text := markdown(results, head)
	if r.settings.out == "" {
		r.screen.say("%s", text)
	} else if err := os.WriteFile(r.settings.out, []byte(text), 0o644); err != nil {
		return fmt.Errorf("cannot write table: %w", err)
	}
	if r.settings.raw != "" {
		if err := os.WriteFile(r.settings.raw, r.raw.Bytes(), 0o644); err != nil {
			return fmt.Errorf("cannot write what the benchmarks printed: %w", err)
		}
	}
	return writeTablePage(r.settings.page, results, head)
}

// say tells how far the table is.
func (r *tableRun) say(format string, args ...any) {
	r.screen.say("%6.0f s  %s", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// inTurn builds the tests once and runs the benchmarks, each in turn with those that it is held against, and these backwards in every other
// round: a machine that is slow for a while is slow for both.
func (r *tableRun) inTurn(ctx context.Context, benches []tableBench) error {
	r.say("building the tests")
	program := filepath.Join(r.dir, "galo.test")
	if out, err := r.command(ctx, "go", "test", "-c", "-o", program, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the tests: %w\n%s", err, out)
	}
	for _, b := range benches {
		if r.settings.only != nil && !slices.Contains(r.settings.only, b.name) {
			continue
		}
		r.say("%s", b.shown())
		for round := range min(r.settings.count, b.atMost()) {
			turns := slices.Clone(b.turns)
			if round%2 == 1 {
				slices.Reverse(turns)
			}
			for _, turn := range turns {
				cmd := r.command(ctx, program, append([]string{"-test.run", "^$", "-test.bench", turn}, b.flags("-test.")...)...)
				cmd.Env = append(cmd.Environ(), b.env...)
				if err := r.keep(cmd); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// everythingOnce runs every benchmark of every package, small and once.
func (r *tableRun) everythingOnce(ctx context.Context) error {
	r.say("every benchmark once")
	cmd := r.command(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "1x", "./...")
	cmd.Env = append(cmd.Environ(), "RECOVER_PAYMENTS=100000", "INSTANCE_PAYMENTS=100000")
	return r.keep(cmd)
}

func (r *tableRun) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.root
	return cmd
}

// keep runs benchmarks, and keeps what they printed.
func (r *tableRun) keep(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	r.raw.Write(out)
	if err != nil {
		return fmt.Errorf("cannot run %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, out)
	}
	return r.measured.read(bytes.NewReader(out))
}

// counts runs the tests that the rows of exact counts rest on.
func (r *tableRun) counts(ctx context.Context, rows []tableRow) error {
	var names []string
	for _, row := range rows {
		names = append(names, row.tests...)
	}
	r.say("the tests that count exactly")
	cmd := r.command(ctx, "go", "test", "-json", "-count", "1", "-run", testPattern(names), ".")
	out, err := cmd.Output()
	if passed, bad := passedTests(bytes.NewReader(out)); bad == nil {
		r.measured.passed = passed
		return nil // a test that failed is a row that does not hold
	}
	return fmt.Errorf("cannot run the tests that count: %w\n%s", err, out)
}

// stack plays pairs of the stack and of servers that do nothing, where Docker is there.
func (r *tableRun) stack(ctx context.Context) error {
	if err := exec.CommandContext(ctx, "docker", "info").Run(); err != nil {
		r.say("docker is not here: the stack is not measured")
		return nil
	}
	r.say("%s", stackCommand)
	file := filepath.Join(r.dir, "pairs.json")
	s, err := parseSettings(append(strings.Fields(strings.TrimPrefix(stackCommand, "go run ./bench ")), "-json", file), io.Discard)
	if err != nil {
		return err
	}
	if err := runStack(ctx, s, r.screen); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read the stack's pairs: %w", err)
	}
	return r.measured.readPairs(text)
}
