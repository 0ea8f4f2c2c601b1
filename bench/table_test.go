package main

import (
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// printedRuns is what go test prints of two rounds, the second one backwards.
const printedRuns = `goos: linux
goarch: amd64
pkg: galo
cpu: Some Processor
BenchmarkIntake/galo-2         	  300000	      1600 ns/op	       0 B/op	       0 allocs/op
PASS
ok  	galo	1.2s
BenchmarkIntake/nothing-2      	  300000	      1000 ns/op	       0 B/op	       0 allocs/op
BenchmarkIntake/nothing-2      	  300000	       800 ns/op	       0 B/op	       0 allocs/op
BenchmarkIntake/galo-2         	  300000	      1200 ns/op	       0 B/op	       0 allocs/op
BenchmarkRing/1to1/ring-2      	 1000000	        20 ns/op
BenchmarkRing/1to1/channel-2   	 1000000	        24 ns/op
BenchmarkSettle/script/64      	     150	    750759 ns/op	     11731 ns/payment	      6456 redis-ns/payment
BenchmarkSettle/roundtrips/64-2	     150	  10328970 ns/op	    161390.5 ns/payment	     48541 redis-ns/payment
BenchmarkMemory/500_a_second-2 	       1	3551089558 ns/op	       115.7 B/payment	        70.80 records-B/payment
BenchmarkSummary/quiet/0.4s-2  	      20	  10874992 ns/op	        51.44 few-p50-µs	      1000 few-p99-µs	        49.25 many-p50-µs	      2000 many-p99-µs
`

func readRuns(t *testing.T, printed string) measured {
	t.Helper()
	m := newMeasured()
	if err := m.read(strings.NewReader(printed)); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRunsAreReadInTheirOwnUnits: by names without GOMAXPROCS, as they were printed, in the order of the runs.
func TestRunsAreReadInTheirOwnUnits(t *testing.T) {
	m := readRuns(t, printedRuns)
	for s, want := range map[series][]float64{
		{"Intake/galo", "ns/op"}:               {1600, 1200},
		{"Intake/nothing", "ns/op"}:            {1000, 800},
		{"Intake/galo", "allocs/op"}:           {0, 0},
		{"Settle/script/64", "ns/payment"}:     {11731},
		{"Settle/roundtrips/64", "ns/payment"}: {161390.5},
		{"Memory/500_a_second", "B/payment"}:   {115.7},
		{"Summary/quiet/0.4s", "many-p99-µs"}:  {2000},
	} {
		got := m.values[s]
		same := slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9*math.Abs(b)+1e-12 })
		if !same {
			t.Errorf("%v: %v, want %v", s, got, want)
		}
	}
	if !strings.HasPrefix(m.machine, "Some Processor, ") || !strings.Contains(m.machine, "linux/amd64") {
		t.Errorf("measured on %q", m.machine)
	}
}

func TestABrokenResultIsAnError(t *testing.T) {
	m := newMeasured()
	if err := m.read(strings.NewReader("BenchmarkIntake/galo-2 \t many \t 1600 ns/op\n")); err == nil {
		t.Error("read")
	}
}

// TestFiguresAreThoseOfTheRuns: a ratio is taken run by run, and how much faster something is is the other way round.
func TestFiguresAreThoseOfTheRuns(t *testing.T) {
	m := readRuns(t, printedRuns)
	m.passed = map[string]bool{"TestHolds": true, "TestFails": false}
	intake := tableRow{of: series{"Intake/galo", "ns/op"}, over: series{"Intake/nothing", "ns/op"}, unit: "ns", goal: most(1.55)}
	for _, c := range []struct {
		row             tableRow
		figure, toReach string
		broken          bool
	}{
		{intake, "1.6 × [1.5 to 1.6]: 1,600 ns over 1,000 ns", "at most 1.55 ×: missed", false},
		{tableRow{of: series{"Ring/1to1/ring", "ns/op"}, over: series{"Ring/1to1/channel", "ns/op"}, faster: true, unit: "ns", goal: least(1.2)},
			"1.2 ×: 20 ns over 24 ns", "at least 1.2 ×: reached", false},
		{tableRow{of: series{"Settle/script/64", "ns/payment"}, over: series{"Settle/roundtrips/64", "ns/payment"}, faster: true, unit: "ns"},
			"13.8 ×: 11.7 µs over 161 µs", "", false},
		{tableRow{of: series{"Memory/500_a_second", "B/payment"}, unit: "bytes", goal: most(200)}, "116 bytes", "at most 200 bytes: reached", false},
		{tableRow{of: series{"Intake/galo", "allocs/op"}, goal: most(0)}, "0 [0 to 0]", "at most 0: reached", false},
		{tableRow{of: series{"Process", "payments/s"}, goal: least(1)}, "not measured", "at least 1", false},
		{tableRow{tests: []string{"TestHolds"}, exact: "1 each"}, "1 each", "exactly that", false},
		{tableRow{tests: []string{"TestHolds", "TestFails"}, exact: "1 each"}, "does not hold", "exactly that", true},
		{tableRow{tests: []string{"TestGone"}, exact: "1 each"}, "does not hold", "exactly that", true},
	} {
		r := resultOf(c.row, m)
		if got := r.figure(); got != c.figure {
			t.Errorf("figure %q, want %q", got, c.figure)
		}
		if got := r.toReach(); got != c.toReach {
			t.Errorf("to reach %q, want %q", got, c.toReach)
		}
		if r.broken() != c.broken {
			t.Errorf("%s: broken is %v", c.figure, r.broken())
		}
	}
}

func TestNumbersAreShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.004: "0", 0.123: "0.12", 1.6: "1.6", 1.149: "1.15", 12.34: "12.3", 99.96: "100", 123.4: "123", 1234.5: "1,234", 1e6: "1,000,000"} {
		if got := short(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

// TestPairsOfTheStackAreRows: as bench -stack -pairs -json writes them.
func TestPairsOfTheStackAreRows(t *testing.T) {
	m := newMeasured()
	err := m.readPairs([]byte(`[{"baseline":{"accepted":50000,"latencyMicros":{"p99":500,"p999":3000},"containers":[{"service":"nginx","cpuSeconds":4}]},
		"galo":{"accepted":50000,"latencyMicros":{"p99":600,"p999":3300},"containers":[{"service":"galo1","cpuSeconds":6},{"service":"nginx","cpuSeconds":3}]}}]`))
	if err != nil {
		t.Fatal(err)
	}
	var figures []string
	for _, r := range resultsOf(stackRows(), m) {
		figures = append(figures, r.figure())
	}
	want := []string{"1.2 ×: 0.6 ms over 0.5 ms", "1.1 ×: 3.3 ms over 3 ms", "18 s"}
	if !slices.Equal(figures, want) {
		t.Errorf("%q, want %q", figures, want)
	}
}

func TestTestsThatCountAreRead(t *testing.T) {
	passed, err := passedTests(strings.NewReader(`{"Action":"start","Package":"galo"}
{"Action":"run","Package":"galo","Test":"TestHolds"}
{"Action":"fail","Package":"galo","Test":"TestHolds/part"}
{"Action":"pass","Package":"galo","Test":"TestHolds"}
{"Action":"fail","Package":"galo","Test":"TestFails"}
{"Action":"skip","Package":"galo","Test":"TestSkipped"}
{"Action":"fail","Package":"galo"}
`))
	if err != nil || len(passed) != 2 || !passed["TestHolds"] || passed["TestFails"] {
		t.Errorf("%v, %v", passed, err)
	}
	if _, err := passedTests(strings.NewReader("# galo\nno Go\n")); err == nil {
		t.Error("what is no result was read")
	}
	if got := testPattern([]string{"TestA", "TestB"}); got != "^(TestA|TestB)$" {
		t.Errorf("-run %s", got)
	}
}

// TestEveryRowHasItsBenchmark: a row without a command, or of a benchmark that is not run, would never be measured.
func TestEveryRowHasItsBenchmark(t *testing.T) {
	seen := make(map[string]bool)
	for _, row := range tableRows() {
		if row.command == "" || row.what == "" || seen[row.what] {
			t.Errorf("row %q has the command %q, seen %v", row.what, row.command, seen[row.what])
		}
		seen[row.what] = true
		if (len(row.tests) > 0) != (row.exact != "") || (len(row.tests) > 0) == (row.of.bench != "") {
			t.Errorf("row %q is neither measured nor counted, or both", row.what)
		}
	}
}

func TestTableIsMarkdown(t *testing.T) {
	m := readRuns(t, printedRuns)
	rows := []tableRow{{what: "a | b", command: "go test -run 'A|B' .", of: series{"Memory/500_a_second", "B/payment"}, unit: "bytes", goal: most(200)}}
	want := "Head.\n\n| what | command | figure | to reach |\n|---|---|---|---|\n" +
		"| a \\| b | `go test -run 'A\\|B' .` | 116 bytes | at most 200 bytes: reached |\n"
	if got := markdown(resultsOf(rows, m), "Head."); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// TestTablePageHasAllRows: well-formed as a picture, with a dot for each row that has a goal and was measured, and nothing from outside.
func TestTablePageHasAllRows(t *testing.T) {
	m := readRuns(t, printedRuns)
	m.passed = map[string]bool{"TestOneRoundTripEach": true}
	results := resultsOf(tableRows(), m)
	var b strings.Builder
	if err := drawTable(&b, results, "Measured on <some> machine."); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if n := strings.Count(page, "<tr><td>"); n != len(results) {
		t.Errorf("%d rows, want %d", n, len(results))
	}
	from, to := strings.Index(page, "<svg"), strings.Index(page, "</svg>")
	if from < 0 || to < 0 {
		t.Fatal("no picture")
	}
	elements, texts := structure(t, page[from:to]+"</svg>")
	dots := 0
	for _, e := range elements {
		if e == "path a-default" || e == "path bad" {
			dots++
		}
	}
	if dots != 5 { // intake, the ring over a channel, a script of 64, memory, a summary
		t.Errorf("%d dots, want 5", dots)
	}
	if !slices.ContainsFunc(texts, func(s string) bool { return strings.HasPrefix(s, "p99 of a summary of 0.4 s") }) {
		t.Errorf("no summary in %q", texts)
	}
	for _, bad := range []string{"<some>", "ZgotmplZ", "NaN", "Inf", "<script", "<link", "@import"} {
		if strings.Contains(page, bad) {
			t.Errorf("%q is in the page", bad)
		}
	}
	if err := drawTable(io.Discard, nil, ""); err != nil {
		t.Errorf("an empty table: %v", err)
	}
}

func TestTableSettings(t *testing.T) {
	for _, bad := range []string{"-count 0", "-only Nothing", "-brief -only Ring", "words"} {
		if _, err := parseTableSettings(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if s, err := parseTableSettings(strings.Fields("-only Ring,Settle -count 3"), io.Discard); err != nil || s.count != 3 || !slices.Equal(s.only, []string{"Ring", "Settle"}) {
		t.Errorf("%+v, %v", s, err)
	}
}
