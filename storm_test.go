package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

var (
	stormCount    = flag.Int("storms", stormsByDefault, "how many random storms are played, and a fifth as many that are made to deceive")
	stormName     = flag.String("storm", "", "play only this storm, and print its time line: a seed, a and a seed for one that is made to deceive, or preview")
	stormPolicies = flag.String("policies", "galo", "the policies to play them with, with commas in between, or all")
)

// stormsByDefault is what fits into a run of all tests. A storm takes some 10 µs for each payment, and has 1 to 600,000 of them.
const stormsByDefault = 8

// contender is a policy in the table.
type contender struct {
	name string
	make policyMaker
}

var contenders = []contender{
	{"galo", makeGalo},
	{"health only", makeHealthOnly},
	{"always the cheaper", makeAlwaysCheap},
	{"first that answers", makeFirstThatAnswers},
	{"circuit breaker", makeCircuitBreaker},
}

// TestStorms plays random storms and prints how galo's policy does in them beside the clairvoyant and, with -policies all, the
// baselines: go test -run 'TestStorms$' -storms 1000 -policies all -v .
//
// A storm follows from its name. What a policy makes of it does so nearly: goroutines that are ready in one virtual instant run in
// the same order from one time to the next as long as there is one processor for them, but a few choices are the runtime's (which
// of several ready channels, the order of a map, a preemption). They move a storm's shares by a thousandth or so, those of a storm with few payments by more.
func TestStorms(t *testing.T) {
	if *stormName != "" {
		tellStorm(t, *stormName)
		return
	}
	names := stormNames(*stormCount)
	if raceEnabled && *stormCount == stormsByDefault {
		names = []string{"2", "4", "7", "a1"} // it makes storms ten times as dear: these have few payments
	}
	results := playStorms(t, names)
	t.Logf("shares and times are means over storms, [in brackets] the worst storm's\n%s", stormTable(results))
	for policy, played := range results {
		t.Logf("%s: %s", policy, worstStorms(played))
		for _, one := range played {
			if one.Wrong > 0 {
				t.Errorf("%s, storm %s: %d payments are lost, paid twice, or other than the store says", policy, one.name, one.Wrong)
			}
		}
	}
	for _, kind := range []stormKind{kindRandom, kindDeceive} {
		if text := outdone(kind, results); text != "" {
			t.Log(text)
		}
	}
	for _, bound := range stormBounds {
		bound.check(t, results, *stormCount)
	}
}

// stormBound is what must hold of galo's policy over storms of a kind.
type stormBound struct {
	kind        stormKind
	name        string
	of          func(*stormFigures) float64
	mean, worst float64
}

// enoughStorms is how many random ones have a mean that says something.
const enoughStorms = 100

// stormBounds hold for a hundred storms and for a thousand. That the worst of a thousand is far from the mean is the luck of few payments a second, or an
// outage of one processor while the other cannot serve as many as come in.
var stormBounds = []stormBound{
	{kindRandom, "regret", func(f *stormFigures) float64 { return f.Regret }, 0.01, 0.20},
	{kindRandom, "calls per payment outside outages", func(f *stormFigures) float64 { return f.WasteOutside }, 1.05, 4},
	{kindRandom, "late", func(f *stormFigures) float64 { return f.Late }, 0.005, 0.20},
	{kindRandom, "at risk", func(f *stormFigures) float64 { return f.Risk }, 0.02, 0.35},
	{kindRandom, "429s", func(f *stormFigures) float64 { return float64(f.Busy + f.TooSoon) }, 0, 0},
	{kindDeceive, "429s", func(f *stormFigures) float64 { return float64(f.Busy + f.TooSoon) }, 0, 0},
	{kindDeceive, "harmed", func(f *stormFigures) float64 { return f.Harmed }, 0.05, 1},
	{kindPreview, "regret", func(f *stormFigures) float64 { return f.Regret }, 0.005, 0.005},
	{kindPreview, "at risk", func(f *stormFigures) float64 { return f.Risk }, 0.005, 0.005},
	{kindPreview, "late", func(f *stormFigures) float64 { return f.Late }, 0, 0},
}

func (b stormBound) check(t *testing.T, results map[string][]playedStorm, storms int) {
	played := ofKind(b.kind, results["galo"])
	for _, p := range played {
		if x := b.of(&p.stormFigures); x > b.worst {
			t.Errorf("storm %s: %s %.4f, at most %g may be", p.name, b.name, x, b.worst)
		}
	}
	if mean, _ := overStorms(played, b.of); len(played) > 0 && mean > b.mean && (storms >= enoughStorms || b.kind == kindPreview) {
		t.Errorf("%s over %d storms, %s: %.4f, at most %g may be", b.name, len(played), b.kind, mean, b.mean)
	}
}

// stormNames are so many random storms, a fifth as many that are made to deceive, and the preview.
func stormNames(count int) []string {
	var names []string
	for n := range count {
		names = append(names, strconv.Itoa(n+1))
	}
	for n := range (count + 4) / 5 {
		names = append(names, "a"+strconv.Itoa(n+1))
	}
	return append(names, previewStorm().name)
}

// stormKind is a part of the table.
type stormKind string

const (
	kindRandom  stormKind = "random"
	kindDeceive stormKind = "made to deceive"
	kindPreview stormKind = "preview"
)

func kindOf(name string) stormKind {
	switch {
	case name == previewStorm().name:
		return kindPreview
	case strings.HasPrefix(name, "a"):
		return kindDeceive
	}
	return kindRandom
}

func ofKind(kind stormKind, played []playedStorm) []playedStorm {
	return slices.DeleteFunc(slices.Clone(played), func(p playedStorm) bool { return kindOf(p.name) != kind })
}

// overStorms is the mean of a figure, and the highest.
func overStorms(played []playedStorm, of func(*stormFigures) float64) (mean, worst float64) {
	for _, p := range played {
		x := of(&p.stormFigures)
		mean += x / float64(len(played))
		worst = max(worst, x)
	}
	return mean, worst
}

// stormNamed makes the storm of a name.
func stormNamed(name string) (storm, error) {
	if name == "preview" {
		return previewStorm(), nil
	}
	number, deceives := strings.CutPrefix(name, "a")
	seed, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return storm{}, fmt.Errorf("no storm is called %q", name)
	}
	if deceives {
		return adversarialStorm(seed), nil
	}
	return randomStorm(seed), nil
}

func tellStorm(t *testing.T, name string) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s, err := stormNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	results := make(map[string][]playedStorm)
	for _, c := range chosenContenders(t) {
		r := weatherStorm(t, s, c.make, true)
		results[c.name] = []playedStorm{{name, r.figures()}}
		t.Logf("%s\n%s", c.name, r.timeLine())
	}
	t.Logf("\n%s", stormTable(results))
}

func chosenContenders(t *testing.T) []contender {
	if *stormPolicies == "all" {
		return contenders
	}
	var chosen []contender
	for name := range strings.SplitSeq(*stormPolicies, ",") {
		at := slices.IndexFunc(contenders, func(c contender) bool { return c.name == name })
		if at < 0 {
			t.Fatalf("no policy is called %q", name)
		}
		chosen = append(chosen, contenders[at])
	}
	return chosen
}

// playedStorm is what came of a storm.
type playedStorm struct {
	name string
	stormFigures
}

// playStorms plays each storm with each policy that is asked for, in as many processes as there are CPUs: within one, a storm has one
// CPU, so that it is the same the next time.
func playStorms(t *testing.T, names []string) map[string][]playedStorm {
	type job struct {
		policy string
		at     int
	}
	var jobs []job
	results := make(map[string][]playedStorm)
	for _, c := range chosenContenders(t) {
		results[c.name] = make([]playedStorm, len(names))
		for at := range names {
			jobs = append(jobs, job{c.name, at})
		}
	}
	next := make(chan job)
	var all sync.WaitGroup
	for range min(runtime.NumCPU(), len(jobs)) {
		p := startStormPlayer(t)
		all.Go(func() {
			defer p.end()
			for j := range next {
				results[j.policy][j.at] = playedStorm{names[j.at], p.play(j.policy, names[j.at])}
			}
		})
	}
	for _, j := range jobs {
		next <- j
	}
	close(next)
	all.Wait()
	return results
}

// stormPlayer is a process that plays storms: a policy and a storm to a line in, figures to a line out.
type stormPlayer struct {
	t       *testing.T
	cmd     *exec.Cmd
	log     strings.Builder
	orders  io.WriteCloser
	answers *bufio.Scanner
}

const asStormPlayer = "GALO_TEST_AS_STORM_PLAYER"

func startStormPlayer(t *testing.T) *stormPlayer {
	t.Helper()
	p := &stormPlayer{t: t, cmd: exec.Command(os.Args[0], "-test.run=^TestBeingAStormPlayer$")}
	p.cmd.Env = append(os.Environ(), asStormPlayer+"=true", "GOMAXPROCS=1", "GOGC=400")
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.ExtraFiles = []*os.File{in}
	p.answers = bufio.NewScanner(out)
	if p.orders, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	return p
}

// play is figures of nothing once the process has failed; end says so.
func (p *stormPlayer) play(policy, storm string) (f stormFigures) {
	fmt.Fprintf(p.orders, "%s;%s\n", policy, storm)
	if p.answers.Scan() {
		if err := json.Unmarshal(p.answers.Bytes(), &f); err != nil {
			p.t.Errorf("storm %s with %s: %v", storm, policy, err)
		}
	}
	return f
}

func (p *stormPlayer) end() {
	p.orders.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("a process that plays storms: %v\n%s", err, p.log.String())
	}
}

// TestBeingAStormPlayer is the process of a stormPlayer, and nothing otherwise.
func TestBeingAStormPlayer(t *testing.T) {
	if os.Getenv(asStormPlayer) == "" {
		return
	}
	answers := json.NewEncoder(os.NewFile(3, "answers"))
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		policy, name, _ := strings.Cut(orders.Text(), ";")
		s, err := stormNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range contenders {
			if c.name == policy {
				if err := answers.Encode(weatherStorm(t, s, c.make, false).figures()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// measure is a column of the table.
type measure struct {
	name  string
	of    func(*stormFigures) float64
	show  func(float64) string
	worst bool // the worst storm's is shown too
}

var measures = []measure{
	{"regret", func(f *stormFigures) float64 { return f.Regret }, percent, true},
	{"reverse", func(f *stormFigures) float64 { return f.Reverse }, percent, false},
	{"p50", func(f *stormFigures) float64 { return f.Wait[0].Seconds() }, seconds, false},
	{"clairvoyant's", func(f *stormFigures) float64 { return f.Foreseen[0].Seconds() }, seconds, false},
	{"p99", func(f *stormFigures) float64 { return f.Wait[1].Seconds() }, seconds, false},
	{"clairvoyant's", func(f *stormFigures) float64 { return f.Foreseen[1].Seconds() }, seconds, false},
	{"waste", func(f *stormFigures) float64 { return f.Waste }, times, true},
	{"outside outages", func(f *stormFigures) float64 { return f.WasteOutside }, times, true},
	{"risk", func(f *stormFigures) float64 { return f.Risk }, percent, true},
	{"outlasted", func(f *stormFigures) float64 { return f.Outlasted }, percent, false},
	{"late", func(f *stormFigures) float64 { return f.Late }, percent, true},
	{"harmed", func(f *stormFigures) float64 { return f.Harmed }, percent, true},
	{"lag", func(f *stormFigures) float64 { return float64(f.Lag) }, number, true},
	{"429s", func(f *stormFigures) float64 { return float64(f.Busy) }, number, true},
	{"turned away", func(f *stormFigures) float64 { return float64(f.TurnedAway) }, number, false},
}

func percent(x float64) string { return fmt.Sprintf("%.2f %%", 100*x) }
func seconds(x float64) string { return fmt.Sprintf("%.3f s", x) }
func times(x float64) string   { return fmt.Sprintf("%.3f", x) }
func number(x float64) string  { return fmt.Sprintf("%.0f", x) }

// stormTable has a line for each policy, for one kind of storms after the other.
func stormTable(results map[string][]playedStorm) string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, kind := range []stormKind{kindRandom, kindDeceive, kindPreview} {
		of := func(c contender) []playedStorm { return ofKind(kind, results[c.name]) }
		at := slices.IndexFunc(contenders, func(c contender) bool { return len(of(c)) > 0 })
		if at < 0 {
			continue
		}
		fmt.Fprintf(table, "%d %s", len(of(contenders[at])), kind)
		for _, m := range measures {
			fmt.Fprintf(table, "\t%s", m.name)
		}
		fmt.Fprintln(table)
		for _, c := range contenders {
			if played := of(c); len(played) > 0 {
				fmt.Fprint(table, c.name)
				for _, m := range measures {
					fmt.Fprintf(table, "\t%s", m.over(played))
				}
				fmt.Fprintln(table)
			}
		}
	}
	table.Flush()
	return text.String()
}

// over is the mean of a measure over storms, with the worst.
func (m *measure) over(played []playedStorm) string {
	mean, worst := overStorms(played, m.of)
	text := m.show(mean)
	if m.worst {
		text += " [" + m.show(worst) + "]"
	}
	return text
}

// dearerCalls is how many calls more per payment another policy may need and still count as one that does the same.
const dearerCalls = 0.5

// outdone names the storms of a kind in which another policy of about as many calls harms fewer payments than galo: by half a percent, and by more
// than two payments, which is luck.
func outdone(kind stormKind, results map[string][]playedStorm) string {
	type by struct {
		storm, policy string
		less          float64
	}
	galo := ofKind(kind, results["galo"])
	others := make(map[string][]playedStorm)
	for _, c := range contenders {
		if played := ofKind(kind, results[c.name]); c.name != "galo" && len(played) > 0 {
			others[c.name] = played
		}
	}
	if len(galo) == 0 || len(others) == 0 {
		return ""
	}
	var all []by
	for i, g := range galo {
		one := by{storm: g.name}
		for _, c := range contenders {
			played, there := others[c.name]
			if !there {
				continue
			}
			if o := played[i]; o.WasteOutside <= g.WasteOutside+dearerCalls && g.Harmed-o.Harmed > one.less {
				one.policy, one.less = c.name, g.Harmed-o.Harmed
			}
		}
		if one.less > max(0.005, 2/float64(max(1, g.Payments))) {
			all = append(all, one)
		}
	}
	slices.SortStableFunc(all, func(a, b by) int { return cmp.Compare(b.less, a.less) })
	var text strings.Builder
	fmt.Fprintf(&text, "%s: in %d of %d storms a policy of at most %g calls more per payment harms fewer than galo:", kind, len(all), len(galo), dearerCalls)
	for _, one := range all {
		fmt.Fprintf(&text, " %s (%s, by %s)", one.storm, one.policy, percent(one.less))
	}
	return text.String()
}

// worstStorms names the storms that each measure is worst in, to be looked at one by one.
func worstStorms(played []playedStorm) string {
	const shown = 8
	var text strings.Builder
	fmt.Fprintln(&text, "the worst storms; go test -run 'TestStorms$' -storm NAME -v . shows what happened in one:")
	for _, m := range measures {
		if !m.worst {
			continue
		}
		worst := slices.SortedStableFunc(slices.Values(played), func(a, b playedStorm) int {
			return cmp.Compare(m.of(&b.stormFigures), m.of(&a.stormFigures))
		})
		fmt.Fprintf(&text, "%16s:", m.name)
		for _, p := range worst[:min(shown, len(worst))] {
			if x := m.of(&p.stormFigures); x > 0 {
				fmt.Fprintf(&text, " %s (%s)", p.name, m.show(x))
			}
		}
		fmt.Fprintln(&text)
	}
	return text.String()
}
