package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// A series is what one benchmark reported in one unit, run after run.
type series struct {
	bench string // without GOMAXPROCS
	unit  string // as the benchmark printed it
}

// measured is all that was measured.
type measured struct {
	machine string // what it was measured on
	values  map[series][]float64
	passed  map[string]bool // which of the tests that count passed; one that did not run is not in it
}

func newMeasured() measured { return measured{values: make(map[series][]float64)} }

// read takes in what `go test -bench` printed.
func (m *measured) read(in io.Reader) error {
	lines := benchfmt.NewReader(in, "go test -bench")
	for lines.Scan() {
		switch rec := lines.Result().(type) {
		case *benchfmt.Result:
			for _, v := range rec.Values {
				s := series{benchName(rec.Name), v.Unit}
				value := v.Value
				if v.OrigUnit != "" { // the reader has made seconds of ns/op
					s.unit, value = v.OrigUnit, v.OrigValue
				}
				m.values[s] = append(m.values[s], value)
			}
			m.machine = fmt.Sprintf("%s, %d cores, %s/%s, %s", cmp.Or(rec.GetConfig("cpu"), "an unknown processor"), runtime.NumCPU(),
				rec.GetConfig("goos"), rec.GetConfig("goarch"), runtime.Version())
		case *benchfmt.SyntaxError:
			return fmt.Errorf("cannot read a benchmark's result: %w", rec)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read the benchmarks' results: %w", err)
	}
	return nil
}

// benchName is a benchmark's name without GOMAXPROCS.
func benchName(n benchfmt.Name) string {
	base, parts := n.Parts()
	name := string(base)
	for _, part := range parts {
		if part[0] != '-' {
			name += string(part)
		}
	}
	return name
}

// Pairs of the stack come in as series of two benchmarks, stackBench and nothingBench.
const (
	stackBench   = "stack"
	nothingBench = "nothing"
	unitP99      = "p99-ms"
	unitP999     = "p99.9-ms"
	unitCPU      = "CPU-s/100000"
)

// readPairs takes in what `bench -stack -pairs -json` wrote.
func (m *measured) readPairs(text []byte) error {
	var all []pair
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("cannot read the stack's pairs: %w", err)
	}
	for i := range all {
		for name, s := range map[string]*side{stackBench: &all[i].Galo, nothingBench: &all[i].Baseline} {
			for unit, value := range map[string]float64{unitP99: float64(s.Latency.P99) / microsPerMilli, unitP999: float64(s.Latency.P999) / microsPerMilli,
				unitCPU: s.cpuPer100k("")} {
				key := series{name, unit}
				m.values[key] = append(m.values[key], value)
			}
		}
	}
	return nil
}

// passedTests reads what `go test -json` wrote: which tests passed and which failed, without their parts.
func passedTests(in io.Reader) (map[string]bool, error) {
	passed := make(map[string]bool)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var event struct{ Action, Test string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("cannot read the tests' results: %w", err)
		}
		if event.Test != "" && !strings.Contains(event.Test, "/") && (event.Action == "pass" || event.Action == "fail") {
			passed[event.Test] = event.Action == "pass"
		}
	}
	return passed, nil
}

// testPattern is what -run has to say for exactly these tests.
func testPattern(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return "^(" + strings.Join(quoted, "|") + ")$"
}
