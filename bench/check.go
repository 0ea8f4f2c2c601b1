package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// A checker asks galo and the processors the same question and compares the answers to the request and to the cent.
type checker struct {
	door   *door
	admins [processors]*adminClient
	say    func(format string, args ...any)
	// faults says that harm is done while the storm runs. Then a payment whose answer was lost lands under its old
	// instant, in windows that were asked for before, and between that moment and its settling somebody may look. Such a
	// disagreement is counted as passing if it is over at the second look; one in the contest's rhythm never is.
	faults bool
	// settled says that a record that is not settled by the time of the last look is wrong.
	settled bool
	// untimed is for a machine whose clock cannot be trusted: every disagreement that is over within it passes. 0: the clock counts.
	untimed time.Duration

	mu     sync.Mutex
	counts checkCounts
	looks  []look // those of run; read when it has returned
}

// A look is one comparison while the storm ran.
type look struct {
	at     time.Duration // since the storm began
	result checkResult
}

type checkCounts struct {
	Agreed      int `json:"agreed"`
	Disagreed   int `json:"disagreed"`
	Contest     int `json:"contest"`          // checks in the contest's own rhythm, among all
	ContestBad  int `json:"contestDisagreed"` // disagreements among those
	Passing     int `json:"passing"`          // under faults or untimed: over at a later look
	Unavailable int `json:"unavailable"`      // galo answered 503 or was not there: no disagreement, but not nothing
	Unasked     int `json:"unasked"`          // a processor did not answer its admin side
}

// The window and the rhythm of the contest's own check.
const (
	windowBack   = 15 * time.Second
	windowGrace  = 1500 * time.Millisecond
	contestEvery = 10 * time.Second
	secondLook   = 300 * time.Millisecond
)

type checkResult uint8

const (
	checkAgreed checkResult = iota
	checkDisagreed
	checkUnavailable
	checkUnasked
	checkPassing
)

func (r checkResult) String() string {
	return [...]string{"agreed", "disagreed", "unavailable", "unasked", "passing"}[r]
}

// run checks the moving window until the context is done.
func (c *checker) run(ctx context.Context, start time.Time, every time.Duration) {
	if every <= 0 {
		every = contestEvery
	}
	for n := 1; ; n++ {
		at := time.Duration(n) * every
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(start.Add(at))):
		}
		if time.Since(start) > at+every {
			continue // the last one took longer than the rhythm allows: no two at once
		}
		now := time.Now()
		w := window{now.Add(-windowBack).UnixMicro(), now.Add(-windowGrace).UnixMicro()}
		when := fmt.Sprintf("at %.1f s", now.Sub(start).Seconds())
		result, finding := c.once(ctx, w)
		if ctx.Err() != nil {
			return // cut short by the end: it says nothing
		}
		if finding != "" {
			c.say("check %s: %s", when, finding)
		}
		contest := at/contestEvery > (at-every)/contestEvery
		if result == checkDisagreed {
			// Whether it passes tells a late payment from a wrong sum.
			later := c.lookAgain(ctx, w)
			c.say("the same window asked again: %v", later)
			if later == checkAgreed && (c.untimed > 0 || c.faults && !contest) {
				result = checkPassing
			}
		}
		c.count(result, contest)
		c.looks = append(c.looks, look{now.Sub(start), result})
	}
}

// lookAgain asks for a window once more, a while later, and until there is an answer to compare. Where the clock cannot be
// trusted it asks until the answers agree, or for so long that they never will.
func (c *checker) lookAgain(ctx context.Context, w window) checkResult {
	const tries = 20
	result := checkUnavailable
	if c.untimed > 0 {
		ctx = context.WithoutCancel(ctx) // the end of the storm leaves no question open
	}
	for began, try := time.Now(), 1; ; try++ {
		sleepUntil(ctx, time.Now().Add(secondLook))
		result, _ = c.once(ctx, w)
		switch {
		case result == checkAgreed || ctx.Err() != nil:
			return result
		case time.Since(began) < c.untimed:
		case result == checkDisagreed || try >= tries:
			return result
		}
	}
}

func (c *checker) count(r checkResult, contest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if contest {
		c.counts.Contest++
	}
	switch r {
	case checkAgreed:
		c.counts.Agreed++
	case checkDisagreed:
		c.counts.Disagreed++
		if contest {
			c.counts.ContestBad++
		}
	case checkPassing:
		c.counts.Passing++
	case checkUnavailable:
		c.counts.Unavailable++
	case checkUnasked:
		c.counts.Unasked++
	}
}

func (c *checker) sofar() checkCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// once compares one window and says what there is to say about it. All three are asked at the same time, so that
// none is given a head start.
func (c *checker) once(ctx context.Context, w window) (result checkResult, finding string) {
	var ours, theirs [processors]total
	var ourErr error
	var theirErr [processors]error
	var asked sync.WaitGroup
	asked.Go(func() { ours, ourErr = c.door.summary(ctx, w) })
	for p, a := range c.admins {
		asked.Go(func() { theirs[p], _, theirErr[p] = a.summary(ctx, w) })
	}
	asked.Wait()
	switch err := errors.Join(theirErr[:]...); {
	case err != nil:
		return checkUnasked, err.Error()
	case errors.Is(ourErr, errUnavailable):
		return checkUnavailable, ""
	case ourErr != nil: // an answer that is no summary agrees with nothing
		return checkDisagreed, ourErr.Error()
	case ours != theirs:
		return checkDisagreed, "summary disagrees: " + differences(ours, theirs)
	}
	return checkAgreed, ""
}

// differences says what galo and the processors said where they differ.
func differences(ours, theirs [processors]total) string {
	var parts []string
	for p := range ours {
		if ours[p] != theirs[p] {
			parts = append(parts, fmt.Sprintf("%s: galo %d for %v, processor %d for %v",
				processorNames[p], ours[p].requests, ours[p].amount, theirs[p].requests, theirs[p].amount))
		}
	}
	return strings.Join(parts, "; ")
}

// What is looked at once everything has been paid.
const (
	finalWindows = 100
	finalRecords = 200
	finalTries   = 120 // galo may be rebuilding: it is asked again, each time after a while
	finalPause   = 500 * time.Millisecond
	// After so many questions without an answer there is nobody to ask.
	enoughSilence = 3
)

type finalCounts struct {
	Windows       int `json:"windows"`
	WindowsBad    int `json:"windowsDisagreed"`
	Records       int `json:"records"`
	RecordsBad    int `json:"recordsDisagreed"`
	Unanswered    int `json:"unanswered"` // asked again and again and never answered: as bad as wrong
	firstFindings int
}

const findingsSaid = 10 // of each run, so that a broken galo does not bury its own verdict

func (f *finalCounts) say(c *checker, format string, args ...any) {
	if f.firstFindings++; f.firstFindings <= findingsSaid {
		c.say(format, args...)
	}
}

// failed counts a question that got no answer, or in bad one that got a wrong one, and says whether there was an error.
func (f *finalCounts) failed(c *checker, err error, bad *int) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, errUnavailable):
		f.Unanswered++
	default:
		*bad++
	}
	f.say(c, "%v", err)
	return true
}

// final compares the whole run, random windows whose edges lie on payments or a microsecond beside them, and the
// records of a random sample. What is right follows from the processors' own lists.
func (c *checker) final(ctx context.Context, since time.Time, paid [processors][]written, rng *rand.Rand) finalCounts {
	var f finalCounts
	var all []written
	for _, list := range paid {
		all = append(all, list...)
	}
	windows := []window{{since.UnixMicro(), time.Now().UnixMicro()}}
	if len(all) > 0 {
		for range finalWindows {
			edge := func() int64 { return all[rng.IntN(len(all))].requestedAt + rng.Int64N(3) - 1 }
			a, b := edge(), edge()
			windows = append(windows, window{min(a, b), max(a, b)})
		}
	}
	for _, w := range windows {
		if c.finalWindow(ctx, &f, w, paid); f.Unanswered == enoughSilence {
			return f
		}
	}
	for range min(finalRecords, len(all)) {
		n := rng.IntN(len(all))
		p := onDefault
		if n >= len(paid[onDefault]) {
			p = onFallback
		}
		if c.finalRecord(ctx, &f, p, all[n]); f.Unanswered == enoughSilence {
			return f
		}
	}
	return f
}

func (c *checker) finalWindow(ctx context.Context, f *finalCounts, w window, paid [processors][]written) {
	f.Windows++
	var ours, theirs [processors]total
	err := again(ctx, func() (err error) {
		ours, err = c.door.summary(ctx, w)
		return err
	})
	if f.failed(c, err, &f.WindowsBad) {
		return
	}
	for p := range paid {
		theirs[p] = within(paid[p], w.from, w.to)
	}
	if ours != theirs {
		f.WindowsBad++
		f.say(c, "summary of %s disagrees: %s", w.query(), differences(ours, theirs))
	}
}

func (c *checker) finalRecord(ctx context.Context, f *finalCounts, p int, w written) {
	f.Records++
	var r paymentRecord
	err := again(ctx, func() (err error) {
		r, err = c.door.record(ctx, w.id)
		return err
	})
	if f.failed(c, err, &f.RecordsBad) {
		return
	}
	amount, err := parseCents(r.Amount.String())
	same := err == nil && amount == w.amount && r.ID == w.id &&
		r.Processor == processorNames[p] && r.RequestedAt.UnixMicro() == w.requestedAt && (!c.settled || r.State == "settled")
	if !same {
		f.RecordsBad++
		f.say(c, "record of %s disagrees: galo %+v, processor %s %v at %s", w.id, r, processorNames[p],
			w.amount, time.UnixMicro(w.requestedAt).UTC().Format(zonedMicros))
	}
}

// again asks until there is an answer, right or wrong, or for so long that there will be none.
func again(ctx context.Context, ask func() error) error {
	for try := 1; ; try++ {
		err := ask()
		if !errors.Is(err, errUnavailable) || try == finalTries || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(finalPause):
		}
	}
}

// sample is the first few, for a line to be read.
func sample[T any](list []T) []T { return slices.Clip(list[:min(len(list), 3)]) }
