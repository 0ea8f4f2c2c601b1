package main

import (
	"strconv"
	"strings"
)

// A tableBench is benchmarks that are run together. Its turns are patterns of -bench that are run one after the other in every round, so
// that what is compared is measured at the same time.
type tableBench struct {
	name   string // of the benchmark, without Benchmark
	turns  []string
	time   string // -benchtime
	cpu    string // -cpu; empty: as many as there are
	env    []string
	rounds int // at most; 0: as many as were asked for. For what takes long to prepare, or is the same every time
	count  int // -count within one round, for what alternates by itself; 0: once
}

// stackCommand is what the rows of the stack come from.
const stackCommand = "go run ./bench -stack -storm steady -duration 20s -pairs 3"

// tableBenches are all benchmarks that rows are made of.
func tableBenches() []tableBench {
	turns := func(name string, subs ...string) []string {
		all := make([]string, len(subs))
		for i, sub := range subs {
			all[i] = "^Benchmark" + name + "$/" + sub
		}
		return all
	}
	return []tableBench{
		{name: "Intake", turns: turns("Intake", "^galo$", "^nothing$"), time: "300000x", cpu: "2"},
		{name: "Parse", turns: turns("Parse", "^plain$", "^go-json$"), time: "200000x"},
		{name: "Ring", turns: turns("Ring", ".*/^ring$", ".*/^channel$", ".*/^mutex$"), time: "300ms", cpu: "2"},
		{name: "Settle", turns: turns("Settle", "^script$/^(64|256)$", "^pipeline$/^64$", "^roundtrips$/^64$"), time: "150x"},
		{name: "Wake", turns: turns("Wake", "^galo$", "^channel$"), time: "3000x", cpu: "2"},
		{name: "Process", turns: turns("Process", "^galo$", "^posts$/^64$"), time: "30000x"},
		{name: "Pay", turns: []string{"^BenchmarkPay$"}, time: "20000x"},
		{name: "Durability", turns: turns("Durability", "^process$/clients=(1|64)$", "^disk$/clients=(1|64)$"), time: "500ms", rounds: 3},
		{name: "Start", turns: []string{"^BenchmarkStart$"}, time: "5x"},
		{name: "Recover", turns: turns("Recover", ".*/^recover$", ".*/^read$"), time: "10x"},
		{name: "Instance", turns: []string{"^BenchmarkInstance$"}, time: "1x", rounds: 3},
		{name: "Memory", turns: []string{"^BenchmarkMemory$"}, time: "1x", env: []string{"MEMORY_PAYMENTS=1000000"}, rounds: 1},
		{name: "Summary", turns: []string{"^BenchmarkSummary$"}, time: "20x", env: []string{"SUMMARY_PAYMENTS=10000000"}, rounds: 1, count: 3},
	}
}

// atMost is how many rounds it is run at most.
func (b tableBench) atMost() int {
	if b.rounds == 0 {
		return 1 << 10
	}
	return b.rounds
}

// flags are those of go test, or with a prefix those of a test that is built.
func (b tableBench) flags(prefix string) []string {
	all := []string{"-" + prefix + "benchtime", b.time}
	if b.cpu != "" {
		all = append(all, "-"+prefix+"cpu", b.cpu)
	}
	if b.count > 0 {
		all = append(all, "-"+prefix+"count", strconv.Itoa(b.count))
	}
	return all
}

// shown is the command that anybody may run for the same.
func (b tableBench) shown() string {
	words := append(append([]string{}, b.env...), "go", "test", "-run", "xxx", "-bench", b.name+"$")
	return strings.Join(append(append(words, b.flags("")...), "."), " ")
}
