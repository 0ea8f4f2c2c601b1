package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// print writes what was tried and what is proposed, in Markdown.
func (s *splitSearch) print(w io.Writer) {
	storm := s.run.storm
	fmt.Fprintf(w, "Splits of the CPU, each tried in turn with the best one before it: storm %s, %.0f payments a second, %s a trial. Medians. The first "+
		"of p99, p99.9 and throttled periods that differs by more than %.0f %% says which of two trials is better; a majority of at most %d rounds decides.\n\n",
		storm.name, storm.rate[0].perSecond, storm.length, alikeWithin*100, s.settings.rounds)
	head := []string{"tried", "instead of", "p99, ms", "instead of", "p99.9, ms", "instead of", "throttled periods", "instead of", "better in", ""}
	printRow(w, head)
	printRow(w, slices.Repeat([]string{"---"}, len(head)))
	for i := range s.contests {
		printRow(w, s.contests[i].cells())
	}
	s.printMemory(w)
}

func printRow(w io.Writer, cells []string) {
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

// cells are a contest's line of the table.
func (c *contest) cells() []string {
	cells := []string{c.tried.String(), c.now.String()}
	for _, f := range []struct {
		of       func(*trial) float64
		decimals int
	}{
		{func(t *trial) float64 { return float64(t.latency.P99) / microsPerMilli }, 2},
		{func(t *trial) float64 { return float64(t.latency.P999) / microsPerMilli }, 2},
		{func(t *trial) float64 { return float64(t.throttled) }, 0},
	} {
		for _, trials := range [][]trial{c.trieds, c.nows} {
			var all []float64
			for i := range trials {
				all = append(all, f.of(&trials[i]))
			}
			cells = append(cells, fmt.Sprintf("%.*f", f.decimals, median(all)))
		}
	}
	wins, by := c.wins()
	better := fmt.Sprintf("%d of %d", wins, len(c.trieds))
	if wins > 0 {
		better += " by " + strings.Join(slices.Sorted(maps.Keys(by)), ", ")
	}
	return append(cells, better, c.remark)
}

// printMemory writes the highest use of memory beside the limits, and limits that follow from it.
func (s *splitSearch) printMemory(w io.Writer) {
	most, highest := 0, int64(0)
	for service, limit := range s.limits {
		most += int(limit / megabyte)
		highest += s.peaks[service]
	}
	proposed, margin, ok := memoryLimits(s.peaks, most, s.settings.margin)
	fmt.Fprint(w, "\n| container | highest use, MB | limit, MB | proposed, MB |\n|---|---|---|---|\n")
	sum := 0
	for _, service := range slices.Sorted(maps.Keys(s.peaks)) {
		text := "-"
		if ok {
			text = fmt.Sprint(proposed[partOf(service)])
			sum += proposed[partOf(service)]
		}
		fmt.Fprintf(w, "| %s | %.1f | %d | %s |\n", service, float64(s.peaks[service])/megabyte, s.limits[service]/megabyte, text)
	}
	fmt.Fprintf(w, "| together | %.1f | %d | %d |\n\n", float64(highest)/megabyte, most, sum)
	if !ok {
		fmt.Fprintln(w, "No limits are proposed: the highest uses together are beyond the limits' sum.")
		return
	}
	fmt.Fprintf(w, "Proposed is the highest use and %.0f %%, %d MB less than the limits together. It counts the page cache, which the kernel takes back "+
		"when it has to, and is that of short storms: Redis holds more with every payment that is kept, up to its maxmemory and what a rewrite of its file needs.\n", margin*100, most-sum)
}
