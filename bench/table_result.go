package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A result is a row with what was measured for it.
type result struct {
	row      tableRow
	of, over []float64 // run by run
	figures  []float64 // that of each run: a ratio, or `of` itself
	passed   int       // of the row's tests, -1 where none ran
}

func resultsOf(rows []tableRow, m measured) []result {
	results := make([]result, 0, len(rows))
	for _, row := range rows {
		results = append(results, resultOf(row, m))
	}
	return results
}

func resultOf(row tableRow, m measured) result {
	r := result{row: row, of: m.values[row.of], passed: -1}
	if m.passed != nil && len(row.tests) > 0 {
		r.passed = 0
		for _, name := range row.tests {
			if m.passed[name] {
				r.passed++
			}
		}
	}
	if row.over.bench == "" {
		r.figures = r.of
		return r
	}
	r.over = m.values[row.over]
	for i := range min(len(r.of), len(r.over)) {
		ratio := r.of[i] / r.over[i]
		if row.faster {
			ratio = 1 / ratio
		}
		r.figures = append(r.figures, ratio)
	}
	return r
}

// missing says that nothing was measured.
func (r result) missing() bool {
	return len(r.row.tests) == 0 && len(r.figures) == 0 || len(r.row.tests) > 0 && r.passed < 0
}

// broken says that an exact count is not what it has to be: that is an error on any machine.
func (r result) broken() bool {
	return len(r.row.tests) > 0 && r.passed >= 0 && r.passed < len(r.row.tests)
}

// share is the median as a share of what the goal allows: up to 1 it is reached. It is false where there is no such number.
func (r result) share(figure float64) (float64, bool) {
	switch r.row.goal.kind {
	case atMost:
		if r.row.goal.limit == 0 {
			return 0, false
		}
		return figure / r.row.goal.limit, true
	case atLeast:
		return r.row.goal.limit / figure, true
	case noGoal:
	}
	return 0, false
}

// reached compares the median with the goal. What was not measured has missed nothing.
func (r result) reached() bool {
	if len(r.figures) == 0 {
		return !r.broken()
	}
	switch m := median(r.figures); r.row.goal.kind {
	case atMost:
		return m <= r.row.goal.limit
	case atLeast:
		return m >= r.row.goal.limit
	case noGoal:
	}
	return true
}

// ratio says that the figure is one, and not a value.
func (r result) ratio() bool { return r.row.over.bench != "" }

// figureUnit is what the figures are in: ratios, or the unit of the row's values.
func (r result) figureUnit() string {
	if r.ratio() {
		return "×"
	}
	return r.row.unit
}

// spreadUnit is that of the lowest and the highest: none, but where nanoseconds may become something else.
func (r result) spreadUnit() string {
	if r.figureUnit() == "ns" {
		return "ns"
	}
	return ""
}

// quantity writes a number with its unit; of many nanoseconds it makes fewer of a larger one.
func quantity(v float64, unit string) string {
	if unit == "ns" {
		switch {
		case v >= 1e6:
			v, unit = v/1e6, "ms"
		case v >= 1e4:
			v, unit = v/1e3, "µs"
		}
	}
	return strings.TrimSpace(short(v) + " " + unit)
}

// figure is what was measured, in words: the median, the lowest and the highest, and of a ratio what it is of.
func (r result) figure() string {
	switch {
	case r.missing():
		return "not measured"
	case r.broken():
		return "does not hold"
	case len(r.row.tests) > 0:
		return r.row.exact
	}
	text := quantity(median(r.figures), r.figureUnit())
	if len(r.figures) > 1 {
		lowest, highest := quantity(slices.Min(r.figures), r.spreadUnit()), quantity(slices.Max(r.figures), r.spreadUnit())
		text += fmt.Sprintf(" [%s to %s]", lowest, highest)
	}
	if r.ratio() {
		text += fmt.Sprintf(": %s over %s", quantity(median(r.of), r.row.unit), quantity(median(r.over), r.row.unit))
	}
	return text
}

// toReach is the goal in words, and whether it was reached, where figures say something.
func (r result) toReach() string {
	if len(r.row.tests) > 0 {
		return "exactly that"
	}
	word := ""
	switch r.row.goal.kind {
	case atMost:
		word = "at most "
	case atLeast:
		word = "at least "
	case noGoal:
		return ""
	}
	text := word + quantity(r.row.goal.limit, r.figureUnit())
	switch {
	case r.missing():
		return text
	case r.reached():
		return text + ": reached"
	}
	return text + ": missed"
}

// short writes a number with three digits that count, or all of those before the point.
func short(v float64) string {
	decimals := 0
	if v != 0 && math.Abs(v) < 100 {
		decimals = min(2, 2-int(math.Floor(math.Log10(math.Abs(v)))))
		decimals = max(decimals, 0)
	}
	text := thousands(strconv.FormatFloat(v, 'f', decimals, 64))
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return cmp.Or(text, "0")
}

// markdown is the table as text.
func markdown(results []result, head string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| what | command | figure | to reach |\n|---|---|---|---|\n", head)
	for _, r := range results {
		cell := func(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", cell(r.row.what), cell(r.row.command), cell(r.figure()), cell(r.toReach()))
	}
	return b.String()
}

// tableHead says what the figures are.
func tableHead(brief bool, machine string) string {
	if brief {
		return "What holds on every machine; every benchmark has run once. " + machine + "."
	}
	return "Medians [lowest to highest] of runs in turn; a ratio is that of the runs, not of the medians. " + machine + "."
}
