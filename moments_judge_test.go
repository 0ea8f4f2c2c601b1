package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// A payment is near a moment if it was due so long before it or after it.
const (
	nearBefore, nearAfter = 10 * time.Millisecond, 20 * time.Millisecond
	// What is drawn around a moment.
	binsBefore, binsAfter, momentBin = 50 * time.Millisecond, 100 * time.Millisecond, 5 * time.Millisecond
	drainBefore, drainBin            = time.Second, 50 * time.Millisecond
	chanceDraws                      = 200
)

// momentRow is what clients noticed of one kind of moment in one run.
type momentRow struct {
	name       string
	run        *momentsRun
	moments    []time.Duration
	before     time.Duration      // the first bin's beginning
	bin        time.Duration      // how long each is
	bins       [][2]time.Duration // p50 and p99 of what was due in each, from the first on
	near       int                // payments near a moment
	nearest    [2]time.Duration   // their p50 and p99
	highest    time.Duration      // of these
	far        time.Duration      // p99 of payments that were near no moment of any kind
	chance     [2]time.Duration   // p99 near as many moments, as far from each other, at other times: the 5th and the 95th percentile of draws
	isTheDrain bool
}

// judgeMoments has a row for each kind in each run.
func judgeMoments(runs []*momentsRun) (rows []momentRow) {
	calm := runs[0].calm()
	for _, r := range runs {
		far := quantiles(r.calm())[1]
		for k := range momentKinds {
			row := momentRow{name: k.String(), run: r, moments: r.moments[k], before: binsBefore, bin: momentBin, far: far}
			row.bins = superpose(r.posts, row.moments, binsBefore, binsAfter, momentBin)
			row.sees(nearMoments(r.posts, row.moments))
			row.chance = r.byChance(row.moments)
			if k == momentWrite && r.durability == durableDisk { // each 202 waits for one: there is nothing far from all of them
				row.name, row.far, row.chance = "sync", quantiles(calm)[1], [2]time.Duration{}
			}
			rows = append(rows, row)
		}
		row := momentRow{name: "drain", run: r, before: drainBefore, bin: drainBin, far: far, isTheDrain: true}
		var during []time.Duration
		for _, d := range r.drains {
			row.moments = append(row.moments, d.back)
			during = append(during, tookOf(dueIn(r.posts, d.back, d.done))...)
		}
		row.bins = superpose(r.posts, row.moments, drainBefore, drainShown, drainBin)
		row.sees(during)
		rows = append(rows, row)
	}
	return rows
}

func (row *momentRow) sees(took []time.Duration) {
	row.near, row.nearest = len(took), quantiles(took)
	if len(took) > 0 {
		row.highest = slices.Max(took)
	}
}

// dueIn are the payments that were due from a time until before another one.
func dueIn(posts []clientPost, from, to time.Duration) []clientPost {
	at := func(t time.Duration) int {
		i, _ := slices.BinarySearchFunc(posts, t, func(p clientPost, t time.Duration) int { return int(p.due - t) })
		return i
	}
	return posts[at(from):max(at(from), at(to))]
}

func tookOf(posts []clientPost) (took []time.Duration) {
	for _, p := range posts {
		took = append(took, p.took)
	}
	return took
}

// superpose lays the payments around all moments on top of each other, in bins by when each was due, and returns the p50 and p99 of each bin.
func superpose(posts []clientPost, moments []time.Duration, before, after, bin time.Duration) (bins [][2]time.Duration) {
	took := make([][]time.Duration, (before+after)/bin)
	for _, m := range moments {
		for _, p := range dueIn(posts, m-before, m+after) {
			i := (p.due - m + before) / bin
			took[i] = append(took[i], p.took)
		}
	}
	for _, one := range took {
		bins = append(bins, quantiles(one))
	}
	return bins
}

// nearMoments is how long the payments took that were due near some moment, each once.
func nearMoments(posts []clientPost, moments []time.Duration) (took []time.Duration) {
	from := time.Duration(0)
	for _, m := range slices.Sorted(slices.Values(moments)) {
		took = append(took, tookOf(dueIn(posts, max(from, m-nearBefore), m+nearAfter))...)
		from = max(from, m+nearAfter)
	}
	return took
}

// calm is how long payments took that were near no moment of any kind. A sync that every one of them waits for is none.
func (r *momentsRun) calm() (took []time.Duration) {
	var all []time.Duration
	for k, moments := range r.moments {
		if momentKind(k) != momentWrite || r.durability != durableDisk {
			all = append(all, moments...)
		}
	}
	from := r.steady[0]
	for _, m := range append(slices.Sorted(slices.Values(all)), r.steady[1]+nearBefore) {
		took = append(took, tookOf(dueIn(r.posts, from, m-nearBefore))...)
		from = m + nearAfter
	}
	return took
}

// byChance moves all moments by the same time, at random and round the run's end, again and again.
func (r *momentsRun) byChance(moments []time.Duration) [2]time.Duration {
	random, length := rand.New(rand.NewPCG(3, 4)), r.steady[1]-r.steady[0]
	var all []time.Duration
	for range chanceDraws {
		by, moved := time.Duration(random.Int64N(int64(length))), make([]time.Duration, len(moments))
		for i, m := range moments {
			moved[i] = r.steady[0] + (m-r.steady[0]+by)%length
		}
		all = append(all, quantiles(nearMoments(r.posts, moved))[1])
	}
	slices.Sort(all)
	return [2]time.Duration{all[len(all)*5/100], all[len(all)*95/100]}
}

func momentsTable(rows []momentRow, runs []*momentsRun) string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DURABILITY\tkind\tmoments\tpayments near\tp50 near\tp99 near\tp99 far\tratio\tp99 near, by chance\thighest near")
	for _, row := range rows {
		chance := "-"
		if row.chance[1] > 0 {
			chance = fmt.Sprintf("%s to %s", milli(row.chance[0]), milli(row.chance[1]))
		}
		fmt.Fprintf(table, "%v\t%s\t%d\t%d\t%s\t%s\t%s\t%.2f\t%s\t%s\n", row.run.durability, row.name, len(row.moments), row.near,
			milli(row.nearest[0]), milli(row.nearest[1]), milli(row.far), ratio(row.nearest[1], row.far), chance, milli(row.highest))
	}
	table.Flush()
	for _, r := range runs {
		steady := quantiles(tookOf(dueIn(r.posts, r.steady[0], r.steady[1])))
		fmt.Fprintf(&text, "%v: all of %.0f s p50 %s, p99 %s; ", r.durability, (r.steady[1] - r.steady[0]).Seconds(), milli(steady[0]), milli(steady[1]))
		if len(r.syncs) > 0 {
			syncs := quantiles(slices.Clone(r.syncs))
			fmt.Fprintf(&text, "a sync takes p50 %s, p99 %s; ", milli(syncs[0]), milli(syncs[1]))
		}
		fmt.Fprintf(&text, "left out since the machine stood still: %d of %d; drains:", r.stalled, r.stalled+len(dueIn(r.posts, r.steady[0], r.steady[1])))
		for _, d := range r.drains {
			fmt.Fprintf(&text, " %.2f s with p99 %s", (d.done - d.back).Seconds(), milli(quantiles(tookOf(dueIn(r.posts, d.back, d.done)))[1]))
		}
		text.WriteString("\n")
	}
	return text.String()
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

func milli(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// TestWhatIsSlowAroundMomentsShowsThere: of payments every millisecond those that are due just after a moment are slow.
func TestWhatIsSlowAroundMomentsShowsThere(t *testing.T) {
	const slow, quick = 9 * ms, 1 * ms
	r := &momentsRun{steady: [2]time.Duration{0, 10 * sec}}
	for m := 200 * ms; m < 10*sec; m += 300 * ms {
		r.moments[momentSettle] = append(r.moments[momentSettle], m)
	}
	for due := time.Duration(0); due < 10*sec; due += ms {
		took := quick
		if due >= 200*ms && (due-200*ms)%(300*ms) < momentBin {
			took = slow
		}
		r.posts = append(r.posts, clientPost{due: due, took: took})
	}
	rows := judgeMoments([]*momentsRun{r})
	settle := rows[momentSettle]
	for i, bin := range settle.bins {
		want := quick
		if time.Duration(i)*momentBin == binsBefore {
			want = slow
		}
		if bin != [2]time.Duration{want, want} {
			t.Errorf("bin %d: %v, want %s", i, bin, want)
		}
	}
	if want := len(settle.moments) * int((nearBefore+nearAfter)/ms); settle.near != want || settle.nearest != [2]time.Duration{quick, slow} {
		t.Errorf("%d near, %v; want %d, and %s to %s", settle.near, settle.nearest, want, quick, slow)
	}
	if settle.far != quick || settle.highest != slow || settle.chance[0] != quick {
		t.Errorf("far %s, highest %s, by chance from %s", settle.far, settle.highest, settle.chance[0])
	}
	if err := wellFormed(drawMoments(rows, []*momentsRun{r})); err != nil {
		t.Errorf("the picture is not well formed: %v", err)
	}
}
