package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// All is well by then, or never: galo needs seconds, on a host that does a hundred other things perhaps a minute.
	drainFaultsWithin = 3 * time.Minute
	quietFor          = 2 * time.Second // nothing moves any more: what hung in a connection has come
	edgesAsked        = 200             // windows with edges on, and a microsecond beside, payments
	recordsAsked      = 6000            // of those paid since the last check, and of all before
	olderAsked        = 1000
	recordReaders     = 4 // at once, per instance
	checkSalt         = 0x636865636b
)

// check waits until everything is paid, and then looks at everything that has to hold.
func (r *faultRun) check(ctx context.Context, round int, last bool) error {
	began := time.Now()
	paid, drained, err := r.drain(ctx)
	if err != nil {
		return err
	}
	r.verdict.drained(time.Since(began))
	r.judge(ctx, paid)
	if !drained || !r.verdict.clean() {
		return nil // what a galo that is not done says of its payments is no finding of its own
	}
	rng := rand.New(rand.NewPCG(r.settings.seed, checkSalt+uint64(round)))
	if r.mid != nil {
		err = r.bounded(ctx, paid, r.mid)
	} else {
		err = r.compare(ctx, paid, rng, last)
	}
	if err != nil {
		return err
	}
	for p := range paid {
		r.seen[p] = len(paid[p])
	}
	r.countHealth()
	r.screen.say("%s all %d payments are accounted for, %.1f s after the load; %d windows and %d records asked up to now", r.clock(),
		len(r.payments), time.Since(began).Seconds(), r.verdict.Windows, r.verdict.Records)
	return nil
}

// drain waits until both instances say that nothing is pending, everything that was accepted is paid, and nothing moves any more.
func (r *faultRun) drain(ctx context.Context) (paid [processors][]written, drained bool, err error) {
	shots, ends := asJudged(r.payments)
	var quietSince time.Time
	lastSum, why, last := -1, "", ""
	for until := time.Now().Add(drainFaultsWithin); ctx.Err() == nil && time.Now().Before(until); sleepCoarse(ctx, time.Now().Add(drainEvery)) {
		sum := 0
		for p := range paid {
			paid[p] = r.rig.processors[p].ledger.all()
			sum += len(paid[p])
		}
		pending, err := r.pending(ctx)
		switch {
		case err != nil:
			why = err.Error()
		case pending > 0:
			why = fmt.Sprintf("%d payments are still pending", pending)
		case sum != lastSum:
			why = "payments still land"
		default:
			why = ""
		}
		lastSum = sum
		if why != "" {
			quietSince, last = time.Time{}, why
			continue
		}
		if quietSince.IsZero() {
			quietSince = time.Now()
		}
		if time.Since(quietSince) < quietFor {
			continue
		}
		// The journal of an instance that is gone may have no owner for a moment: what is in it is nobody's pending payment.
		if lost := judge(shots, ends, paid).lost; len(lost) > 0 {
			last = fmt.Sprintf("%d payments are not paid, such as %v", len(lost), sample(lost))
			quietSince = time.Time{}
			continue
		}
		return paid, true, nil
	}
	if ctx.Err() != nil {
		return paid, false, fmt.Errorf("cannot finish the run: %w", context.Cause(ctx))
	}
	r.verdict.broken(holdsPending, fmt.Sprintf("not done within %v: %s", drainFaultsWithin, last))
	return paid, false, nil
}

// pending is how many payments both instances together are not done with.
func (r *faultRun) pending(ctx context.Context) (sum int, err error) {
	for _, in := range r.rig.galo.instances {
		n, err := in.gauge(ctx, "galo_pending")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// gauge reads one number that the instance shows at its admin address.
func (in *instance) gauge(ctx context.Context, name string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+in.admin+"/metrics", nil)
	if err != nil {
		return 0, fmt.Errorf("cannot ask %s for %s: %w", in.name, name, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("cannot ask %s for %s: %w", in.name, name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, fmt.Errorf("cannot ask %s for %s: %w", in.name, name, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("cannot ask %s for %s: it does not show it", in.name, name)
}

// judge looks at what was sent, answered and written. A payment that galo calls rejected is lost: no processor here rejects one that is well made.
func (r *faultRun) judge(ctx context.Context, paid [processors][]written) {
	shots, ends := asJudged(r.payments)
	f := judge(shots, ends, paid)
	find := func(in holds, what string, ids []uuid.UUID) {
		if len(ids) > 0 {
			r.verdict.broken(in, fmt.Sprintf("%d %s, such as %v", len(ids), what, sample(ids)))
		}
	}
	find(holdsLost, "payments were accepted and are not paid", f.lost)
	for _, id := range sample(f.lost) {
		record, err := r.rig.both.record(ctx, id)
		r.screen.say("%s lost %s: galo says %+v (%v)", r.clock(), id, record, err)
	}
	find(holdsTwice, "payments are paid more than once", f.twice)
	find(holdsAmount, "payments are paid with another amount", f.altered)
	find(holdsInvited, "payments are paid though every answer refused them", f.uninvited)
	find(holdsInvited, "payments are paid that nobody sent", f.strange)
}

// compare asks both instances for sums and records of what was paid since the last purge.
func (r *faultRun) compare(ctx context.Context, paid [processors][]written, rng *rand.Rand, last bool) error {
	var counted, fresh [processors][]written // since the purge; of these, since the last check
	for p, list := range paid {
		counted[p] = inOrder(list[r.rig.admins[p].skip:])
		fresh[p] = inOrder(list[max(r.seen[p], r.rig.admins[p].skip):])
	}
	windows := []window{always}
	if last {
		windows = append(windows, eachSecond(counted)...)
	} else {
		windows = append(windows, eachSecond(fresh)...)
	}
	all := slices.Concat(counted[:]...)
	for range min(edgesAsked, len(all)) {
		edge := func() int64 { return all[rng.IntN(len(all))].requestedAt + rng.Int64N(3) - 1 }
		a, b := edge(), edge()
		windows = append(windows, window{min(a, b), max(a, b)})
	}
	records := draw(rng, fresh, recordsAsked)
	for p, list := range draw(rng, counted, olderAsked) {
		records[p] = append(records[p], list...)
	}
	for i, d := range r.rig.doors {
		if err := d.awaitAnswer(ctx, drainFaultsWithin); err != nil {
			r.verdict.broken(holdsSums, fmt.Sprintf("galo-%d: %v", i+1, err))
			return nil
		}
		r.ask(ctx, d, i, windows, records, counted)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("cannot finish the run: %w", context.Cause(ctx))
	}
	return nil
}

// ask puts all questions to one instance.
func (r *faultRun) ask(ctx context.Context, d *door, i int, windows []window, records, counted [processors][]written) {
	said := 0
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if said++; said <= findingsSaid {
			r.screen.say(r.clock()+" galo-%d: %s", i+1, fmt.Sprintf(format, args...))
		}
	}
	c := &checker{door: d, settled: true, say: say}
	var sums finalCounts
	for _, w := range windows {
		c.finalWindow(ctx, &sums, w, narrowed(counted, w))
		if sums.Unanswered >= enoughSilence {
			break
		}
	}
	var readers sync.WaitGroup
	var read [recordReaders]finalCounts
	for n := range recordReaders {
		readers.Go(func() {
			for p, list := range records {
				for k := n; k < len(list) && read[n].Unanswered < enoughSilence; k += recordReaders {
					c.finalRecord(ctx, &read[n], p, list[k])
				}
			}
		})
	}
	readers.Wait()
	if ctx.Err() != nil {
		return // cut short: it says nothing
	}
	r.verdict.asked(i, sums)
	for _, f := range read {
		r.verdict.asked(i, f)
	}
}

// eachSecond is a window for every second in which something was paid, and for those beside it.
func eachSecond(paid [processors][]written) (windows []window) {
	const second = 1_000_000
	seconds := make(map[int64]bool)
	for _, list := range paid {
		for _, w := range list {
			for s := w.requestedAt/second - 1; s <= w.requestedAt/second+1; s++ {
				seconds[s] = true
			}
		}
	}
	for s := range seconds {
		windows = append(windows, window{s * second, s*second + second - 1})
	}
	slices.SortFunc(windows, func(a, b window) int { return cmp.Compare(a.from, b.from) })
	return windows
}

// inOrder is a copy of a list in order of requestedAt.
func inOrder(list []written) []written {
	return slices.SortedFunc(slices.Values(list), func(a, b written) int { return cmp.Compare(a.requestedAt, b.requestedAt) })
}

// narrowed is the part of lists in order of requestedAt that lies in a window.
func narrowed(sorted [processors][]written, w window) (part [processors][]written) {
	for p, list := range sorted {
		from, _ := slices.BinarySearchFunc(list, w.from, func(e written, at int64) int { return cmp.Compare(e.requestedAt, at) })
		to, _ := slices.BinarySearchFunc(list, w.to+1, func(e written, at int64) int { return cmp.Compare(e.requestedAt, at) })
		part[p] = list[from:max(from, to)]
	}
	return part
}

// draw takes at most so many at random from both lists together.
func draw(rng *rand.Rand, from [processors][]written, atMost int) (drawn [processors][]written) {
	sum := 0
	for _, list := range from {
		sum += len(list)
	}
	for p, list := range from {
		for _, w := range list {
			if sum <= atMost || rng.IntN(sum) < atMost {
				drawn[p] = append(drawn[p], w)
			}
		}
	}
	return drawn
}

// countHealth reads what the processors have counted since the run began.
func (r *faultRun) countHealth() {
	for p := range r.rig.processors {
		r.verdict.health(p, r.rig.processors[p].counted(), r.stalls.worst())
	}
}
