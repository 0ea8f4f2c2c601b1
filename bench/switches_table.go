package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// A kernelUse is what a container asks of the kernel for each payment that its stack accepts.
type kernelUse struct {
	stack, service         string
	voluntary, involuntary float64            // context switches
	calls                  map[string]float64 // system calls by name; nil where they were not counted
	tracedP99              int64              // microseconds that clients waited while these were counted; 0 is not known
}

// mostFrequent is how many system calls are named.
const mostFrequent = 5

// printKernelUses writes a table in Markdown: what a container does in galo's stack below what it does in the stack that does nothing.
func printKernelUses(w io.Writer, all []kernelUse, s switchesSettings) {
	fmt.Fprintf(w, "For each payment that the stack accepts, %.0f a second: context switches of all threads, counted for %v", steadyRate*s.rate, s.duration)
	if s.trace > 0 {
		fmt.Fprintf(w, "; system calls, counted for %v in one container after the other by strace, which slows it: the longer clients wait meanwhile, "+
			"the more is done at once, and by new connections", s.trace)
	}
	fmt.Fprint(w, ".\n\n")
	head := []string{"container", "stack", "voluntary switches", "involuntary", "system calls", "of these futex", "the most frequent", "clients' p99 meanwhile"}
	printRow(w, head)
	printRow(w, slices.Repeat([]string{"---"}, len(head)))
	all = append(slices.Clone(all), addedUp(all)...)
	slices.SortStableFunc(all, func(a, b kernelUse) int { return cmp.Compare(a.service, b.service) })
	for i := range all {
		printRow(w, all[i].cells())
	}
}

// addedUp are the containers of each stack together.
func addedUp(all []kernelUse) (sums []kernelUse) {
	for _, u := range all {
		at := slices.IndexFunc(sums, func(sum kernelUse) bool { return sum.stack == u.stack })
		if at < 0 {
			at = len(sums)
			sums = append(sums, kernelUse{stack: u.stack, service: "together"})
		}
		sum := &sums[at]
		sum.voluntary += u.voluntary
		sum.involuntary += u.involuntary
		for name, n := range u.calls {
			if sum.calls == nil {
				sum.calls = make(map[string]float64)
			}
			sum.calls[name] += n
		}
	}
	return sums
}

// cells are a container's line of the table.
func (u *kernelUse) cells() []string {
	cells := []string{u.service, u.stack, perPayment(u.voluntary), perPayment(u.involuntary)}
	if u.calls == nil {
		return append(cells, "", "", "", "")
	}
	names := slices.SortedFunc(maps.Keys(u.calls), func(a, b string) int {
		return cmp.Or(cmp.Compare(u.calls[b], u.calls[a]), cmp.Compare(a, b))
	})
	sum := 0.0
	var most []string
	for i, name := range names {
		sum += u.calls[name]
		if i < mostFrequent {
			most = append(most, name+" "+perPayment(u.calls[name]))
		}
	}
	cells = append(cells, perPayment(sum), perPayment(u.calls["futex"]), strings.Join(most, ", "))
	if u.tracedP99 == 0 {
		return append(cells, "")
	}
	return append(cells, ms(u.tracedP99))
}

func perPayment(n float64) string { return fmt.Sprintf("%.2f", n) }
