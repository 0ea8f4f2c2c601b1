package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"
)

// thinned is how many payments the small store of BenchmarkSummary has, and how many is the least that the large one has.
const thinned = 10_000

// summaryWindow is a window that is asked for; each edge lies at an odd microsecond, unless it is open.
type summaryWindow struct {
	name     string
	from, to micros
}

func summaryWindows() []summaryWindow {
	middle := noon + thirtyDays/2
	return []summaryWindow{
		{"everything", 0, 2 * noon},
		{"0.4s", middle, middle + 400_000},
		{"13.5s", middle, middle + 13_500_000},
		{"an-hour", middle, middle + hourLength},
		{"30-days", noon + 1, noon + thirtyDays - 1},
	}
}

// summaryCorpus is payments at an even pace over thirty days.
type summaryCorpus struct {
	payments int
	windows  []summaryWindow
}

func (c summaryCorpus) at(i int) micros { return noon + micros(i)*(thirtyDays/micros(c.payments)) }

// near says whether a payment belongs to what a window's edge is read from: all in the minute of the edge; of each processor the first one
// of each minute in the hour of the edge, and of each hour in its day. Where the days are read, the first one of each day is.
func (c summaryCorpus) near(i int) bool {
	at := c.at(i)
	same := func(other, unit micros) bool { return floorDiv(at, unit) == floorDiv(other, unit) }
	first := func(unit micros) bool { return i < processors || !same(c.at(i-processors), unit) }
	if first(dayLength) {
		return true
	}
	for _, w := range c.windows {
		for _, edge := range []micros{w.from, w.to} {
			if same(edge, minuteLength) || same(edge, hourLength) && first(minuteLength) || same(edge, dayLength) && first(hourLength) {
				return true
			}
		}
	}
	return false
}

// thin are the payments that are near, and as many of the others, evenly, as it takes.
func (c summaryCorpus) thin() iter.Seq[settlement] {
	near := 0
	for i := range c.payments {
		if c.near(i) {
			near++
		}
	}
	apart := max(1, c.payments/max(1, thinned-near))
	return func(yield func(settlement) bool) {
		for i := range c.payments {
			if (i%apart == 0 || c.near(i)) && !yield(paidOne(i, processorID(i%processors), c.at(i), 1990)) {
				return
			}
		}
	}
}

// summaryBench is one of the two stores, and how long it took to answer.
type summaryBench struct {
	store *redisStore
	token lifeToken
	next  int // the number of the next payment to settle under load
	took  []time.Duration
}

func startSummaryBench(b *testing.B, payments iter.Seq[settlement], first int) *summaryBench {
	url := startRedis(b, "--appendonly", "no").url()
	s, token := readyStore(b, url)
	fillStore(b, url, payments)
	return &summaryBench{store: s, token: token, next: first}
}

// ask asks for a window so many times, one after the other.
func (s *summaryBench) ask(b *testing.B, w summaryWindow, times int) {
	for range times {
		began := time.Now()
		if _, err := s.store.summary(b.Context(), w.from, w.to, nil); err != nil {
			b.Fatal(err)
		}
		s.took = append(s.took, time.Since(began))
	}
}

// load settles batches, the payments of the time after the thirty days, as fast as the store takes them, until it is stopped.
func (s *summaryBench) load(b *testing.B) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	var settling sync.WaitGroup
	settling.Go(func() {
		for ctx.Err() == nil {
			all := benchPayments(s.next, maxStoreBatch)
			for i := range all {
				all[i] = paidOne(s.next+i, all[i].processor, noon+thirtyDays+micros(s.next+i)*200, 1990)
			}
			s.next += len(all)
			if _, err := s.store.settle(b.Context(), s.token, 0, all, nil); err != nil {
				b.Error(err)
				return
			}
		}
	})
	return func() {
		cancel()
		settling.Wait()
	}
}

// report reports quantiles in microseconds, under names that begin with the store's.
func (s *summaryBench) report(b *testing.B, name string) {
	slices.Sort(s.took)
	for _, q := range []int{50, 99} {
		b.ReportMetric(float64(s.took[(len(s.took)-1)*q/100])/float64(time.Microsecond), fmt.Sprintf("%s-p%d-µs", name, q))
	}
	s.took = s.took[:0]
}

// BenchmarkSummary asks for windows of several shapes among many payments of thirty days (SUMMARY_PAYMENTS=10000000: so many), and among the
// ten thousand of them that leave the windows' edges as dense as they are: how many there are must not matter. Both stores are asked in turn,
// fifty times each in every round; under load while batches are settled there as fast as Redis takes them.
func BenchmarkSummary(b *testing.B) {
	const timesEach = 50
	corpus := summaryCorpus{max(thinned, sizeFrom(b, "SUMMARY_PAYMENTS", "200000")), summaryWindows()}
	few := startSummaryBench(b, corpus.thin(), corpus.payments)
	many := startSummaryBench(b, evenly(corpus.payments, corpus.at), corpus.payments)
	for _, load := range []string{"quiet", "load"} {
		for _, w := range corpus.windows {
			b.Run(load+"/"+w.name, func(b *testing.B) {
				for b.Loop() {
					for _, s := range []*summaryBench{few, many} {
						stop := func() {}
						if load == "load" {
							stop = s.load(b)
						}
						s.ask(b, w, timesEach)
						stop()
					}
				}
				few.report(b, "few")
				many.report(b, "many")
			})
		}
	}
}

// TestThinnedCorpusHasTheSameEdges: the small store of BenchmarkSummary has as many payments as it says, and for every window the
// replies have as many sums and members as the large one's, but for those of whole days.
func TestThinnedCorpusHasTheSameEdges(t *testing.T) {
	corpus := summaryCorpus{200_000, summaryWindows()}
	few := 0
	for range corpus.thin() {
		few++
	}
	if few < thinned*9/10 || few > thinned*11/10 {
		t.Errorf("%d payments, want about %d", few, thinned)
	}
	fields := func(payments iter.Seq[settlement], w summaryWindow) int {
		there := make(map[string]bool)
		for one := range payments {
			if one.requestedAt >= w.from && one.requestedAt <= w.to {
				for _, level := range bucketLevels() {
					there[fmt.Sprint(one.processor, level.letter, floorDiv(one.requestedAt, level.unit))] = true
				}
			}
		}
		n := 0
		for _, part := range planSummary(w.from, w.to, neverSwept).buckets {
			for number := part.first; number <= part.last && part.last-part.first < 1000; number++ {
				for id := range processorID(processors) {
					if there[fmt.Sprint(id, part.level.letter, number)] {
						n++
					}
				}
			}
		}
		return n
	}
	for _, w := range corpus.windows {
		if got, want := fields(corpus.thin(), w), fields(evenly(corpus.payments, corpus.at), w); got != want {
			t.Errorf("%s: %d buckets among few, %d among many", w.name, got, want)
		}
	}
}
