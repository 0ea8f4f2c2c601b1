package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// holds is one thing that has to hold whatever happens.
type holds uint8

const (
	holdsLost holds = iota
	holdsTwice
	holdsAmount
	holdsInvited
	holdsAnswers
	holdsSums
	holdsRecords
	holdsHealth
	holdsPending
	holdsPurge
	holdsProcesses
	holdsCount
)

func (h holds) String() string {
	return [holdsCount]string{
		"every payment that got a 202 is paid",
		"none is paid twice, at one processor or at both",
		"none is paid with another amount",
		"none is paid that was refused, or never sent",
		"answers are 202, 409 where the amount differs, or 503",
		"sums agree: all, each second, random microseconds",
		"every record read by id agrees, through either instance",
		"a processor is asked for its health once in 5 s at most",
		"in the end nothing is pending",
		"what is purged stays gone",
		"no process ends by itself, none panics, all come back",
	}[h]
}

const findingsKept = 20 // of each

// A faultVerdict is everything that is said about a run. It is filled in by many goroutines, and read when they are gone.
type faultVerdict struct {
	Seed    uint64  `json:"seed"`
	Replay  string  `json:"replay"`
	Load    float64 `json:"loadSeconds"`
	Seconds float64 `json:"seconds"` // with checks

	Payments   int           `json:"payments"` // ids
	Posted     int64         `json:"posted"`   // with repeats of an id
	Accepted   int64         `json:"accepted"`
	Refused    int64         `json:"refused"`
	Unanswered int64         `json:"unanswered"`
	Retried    int64         `json:"retried"`
	Statuses   map[int]int64 `json:"statuses"`

	Faults    int            `json:"faults"`
	ByKind    map[string]int `json:"faultsByKind"`
	While     checkCounts    `json:"checksWhileFaults"` // counted only: what is wrong in the end counts
	Windows   int            `json:"windows"`
	Records   int            `json:"records"`
	Longest   float64        `json:"longestDrainSeconds"`
	StalledMs int64          `json:"benchStalledMilliseconds"`

	Processor [processors]counted `json:"processors"`
	Notes     []string            `json:"notes,omitempty"`
	Broken    map[string][]string `json:"broken,omitempty"`

	mu      sync.Mutex
	untimed bool
}

func newFaultVerdict(s faultSettings) *faultVerdict {
	return &faultVerdict{
		Seed: s.seed, Replay: s.replay(), Load: s.length.Seconds(), Statuses: make(map[int]int64), ByKind: make(map[string]int),
		Broken: make(map[string][]string), untimed: s.untimed,
	}
}

// broken notes that something does not hold.
func (v *faultVerdict) broken(what holds, finding string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if list := v.Broken[what.String()]; len(list) < findingsKept {
		v.Broken[what.String()] = append(list, finding)
	}
}

func (v *faultVerdict) clean() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.Broken) == 0
}

func (v *faultVerdict) befell(kind string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Faults++
	v.ByKind[kind]++
}

func (v *faultVerdict) drained(took time.Duration) { v.Longest = max(v.Longest, took.Seconds()) }

// addLoad adds one round's load; strange are the answers that no client may get, by status.
func (v *faultVerdict) addLoad(l *load, c checkCounts, strange map[int]int) {
	v.Posted += l.attempted.Load()
	v.Accepted += l.accepted.Load()
	v.Refused += l.refused.Load()
	v.Unanswered += l.unanswered.Load()
	v.Retried += l.retried.Load()
	for status := range l.statuses {
		if n := l.statuses[status].Load(); n > 0 {
			v.Statuses[status] += n
		}
	}
	v.While.Agreed += c.Agreed
	v.While.Disagreed += c.Disagreed
	v.While.Passing += c.Passing
	v.While.Unavailable += c.Unavailable
	v.While.Unasked += c.Unasked
	for status, n := range strange {
		v.broken(holdsAnswers, fmt.Sprintf("%d times %d", n, status))
	}
}

// asked adds what one instance said when everything was paid.
func (v *faultVerdict) asked(i int, f finalCounts) {
	v.Windows += f.Windows
	v.Records += f.Records
	if f.WindowsBad > 0 {
		v.broken(holdsSums, fmt.Sprintf("galo-%d: %d of %d windows disagree", i+1, f.WindowsBad, f.Windows))
	}
	if f.RecordsBad > 0 {
		v.broken(holdsRecords, fmt.Sprintf("galo-%d: %d of %d records disagree", i+1, f.RecordsBad, f.Records))
	}
	if f.Unanswered > 0 {
		v.broken(holdsSums, fmt.Sprintf("galo-%d: %d questions got no answer", i+1, f.Unanswered))
	}
}

// health looks at a processor's count of calls that came too soon. The wire and the processor run in this process: twice for as long
// as that was held up a call may have waited before it was counted.
func (v *faultVerdict) health(p int, c counted, stalled time.Duration) {
	v.mu.Lock()
	v.Processor[p], v.StalledMs = c, stalled.Milliseconds()
	v.mu.Unlock()
	if gap := time.Duration(c.Closest) * time.Microsecond; c.TooSoon > 0 && gap+2*stalled < healthWindow && !v.untimed {
		v.broken(holdsHealth, fmt.Sprintf("%s: %d calls came too soon, the closest %v after another", processorNames[p], c.TooSoon, gap))
	}
}

func (v *faultVerdict) print(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	word := "everything holds"
	if !v.clean() {
		word = "NOT EVERYTHING HOLDS"
	}
	line("verdict", "%s: seed %d, %.0f s of load, %.0f s with checks", word, v.Seed, v.Load, v.Seconds)
	line("payments", "%d ids, posted %d times: %d answered 202, %d otherwise%s, %d not at all; %d further tries",
		v.Payments, v.Posted, v.Accepted, v.Refused, (&verdict{Statuses: v.Statuses}).notAccepted(), v.Unanswered, v.Retried)
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(v.ByKind)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, v.ByKind[kind]))
	}
	line("faults", "%d: %s", v.Faults, strings.Join(kinds, ", "))
	line("sums meanwhile", "%d agreed, %d disagreed and agreed at the second look, %d only later, %d not to be had",
		v.While.Agreed, v.While.Passing, v.While.Disagreed, v.While.Unavailable)
	line("asked at last", "%d windows, %d records; the longest wait for the last payment was %.1f s", v.Windows, v.Records, v.Longest)
	for p, c := range v.Processor {
		line(processorNames[p], "%d posts (%d failed, %d answers lost, %d odd, %d repeated), %d look-ups, %d turned away; %d health calls, %d too soon, closest %v",
			c.Posts, c.Failed, c.Lost, c.Odd, c.Repeated, c.Lookups, c.Busy, c.Healths, c.TooSoon, time.Duration(c.Closest)*time.Microsecond)
	}
	line("the bench", "was held up by %d ms at most", v.StalledMs)
	for _, note := range v.Notes {
		line("note", "%s", note)
	}
	for h := range holdsCount {
		findings := v.Broken[h.String()]
		if len(findings) == 0 {
			line("holds", "%v", h)
			continue
		}
		line("BROKEN", "%v", h)
		for _, f := range findings {
			line("", "%s", f)
		}
	}
}
