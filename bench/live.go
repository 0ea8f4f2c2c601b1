package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// A screen shows how the storm goes: on a terminal a few lines that are drawn again and again below what has been
// said, elsewhere a line every few seconds.
type screen struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	shown    []string // the lines that are drawn now, to be drawn over
	last     time.Time
	events   []event // in the order in which they were said
}

// An event is something that was done to galo on purpose.
type event struct {
	at   time.Duration // since the storm began
	text string
}

const (
	drawEvery = 500 * time.Millisecond
	lineEvery = 5 * time.Second
	barWidth  = 30
)

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	return &screen{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// say writes a line that stays.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.shown
	s.clear()
	fmt.Fprintf(s.out, format+"\n", args...)
	s.put(lines)
}

// happened says what was done to galo, and when in the storm, and keeps it for a report.
func (s *screen) happened(at time.Duration, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.say("%5.1f s  %s", at.Seconds(), text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event{at, text})
}

// draw puts lines in the place of those that were drawn before. Where nothing can be drawn over, brief is written
// now and then instead.
func (s *screen) draw(lines []string, brief string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal {
		s.clear()
		s.put(lines)
		return
	}
	if now := time.Now(); now.Sub(s.last) >= lineEvery {
		s.last = now
		fmt.Fprintln(s.out, brief)
	}
}

// done leaves what is drawn where it is; what comes next comes below.
func (s *screen) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = nil
}

func (s *screen) clear() {
	if len(s.shown) > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", len(s.shown)) // up so many lines, erase from there
	}
	s.shown = nil
}

func (s *screen) put(lines []string) {
	for _, line := range lines {
		fmt.Fprintf(s.out, "\x1b[?7l%s\x1b[?7h\n", line) // no wrapping, or the count of lines would be wrong
	}
	s.shown = lines
}

// show draws until the context is done.
func (r *stormRun) show(ctx context.Context) {
	defer r.opts.screen.done()
	each(ctx, drawEvery, func() {
		lines, brief := r.picture(ctx)
		r.opts.screen.draw(lines, brief)
	})
}

// each calls f again and again, with so much time between two beginnings, until the context is done.
func each(ctx context.Context, every time.Duration, f func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// picture is the storm at this moment.
func (r *stormRun) picture(ctx context.Context) (lines []string, brief string) {
	var paid [processors]total
	var count [processors]counted
	for p, a := range r.admins {
		// An admin side that does not answer shows as nothing for a moment; what matters is checked elsewhere.
		paid[p], _, _ = a.summary(ctx, always)
		count[p], _ = a.counters(ctx)
		count[p] = count[p].since(r.before[p])
	}
	l := r.load
	gone := min(max(time.Since(r.start), 0), r.storm.length)
	full := int(float64(barWidth) * float64(gone) / float64(r.storm.length))
	accepted := l.accepted.Load()
	waiting := max(0, accepted-paid[onDefault].requests-paid[onFallback].requests)
	q := l.latency.quantiles()
	c := r.check.sofar()
	tooSoon := count[onDefault].TooSoon + count[onFallback].TooSoon
	phase := fmt.Sprintf("%.1f of %.0f s", gone.Seconds(), r.storm.length.Seconds())
	if gone == r.storm.length {
		phase = "draining"
	}
	lines = []string{
		fmt.Sprintf("%-11s %s%s %s", r.storm.name, strings.Repeat("█", full), strings.Repeat("░", barWidth-full), phase),
		fmt.Sprintf("%-11s %v", "processors", r.storm.at(gone)),
		fmt.Sprintf("%-11s %d sent, %d accepted, %d not accepted, %d without an answer, %d further tries", "payments",
			l.attempted.Load(), accepted, l.refused.Load(), l.unanswered.Load(), l.retried.Load()),
		fmt.Sprintf("%-11s %d at default, %d at fallback, %d waiting", "paid", paid[onDefault].requests, paid[onFallback].requests, waiting),
		fmt.Sprintf("%-11s p50 %s, p99 %s, highest %s", "latency", ms(q.P50), ms(q.P99), ms(q.Max)),
		fmt.Sprintf("%-11s %d agreed, %d disagreed, %d unavailable; %d health calls, %d too close together", "summaries",
			c.Agreed, c.Disagreed, c.Unavailable, count[onDefault].Healths+count[onFallback].Healths, tooSoon),
	}
	brief = fmt.Sprintf("%5.1f s  accepted %d of %d, paid %d + %d, waiting %d, p50 %s, p99 %s, summaries %d agreed %d disagreed",
		time.Since(r.start).Seconds(), accepted, l.attempted.Load(), paid[onDefault].requests, paid[onFallback].requests,
		waiting, ms(q.P50), ms(q.P99), c.Agreed, c.Disagreed)
	return lines, brief
}
