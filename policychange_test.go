package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// plainLines is a log in which each line is a message and its attributes, without the time.
func plainLines(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// TestEachChangeOfAProcessorIsOneLineThatSaysWhy: open, closed, slow and back again, with how long it took to find out and to recover.
func TestEachChangeOfAProcessorIsOneLineThatSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		p := newPolicy(time.Hour, [processors]ppm{50_000, 150_000}, 10, newClock(), plainLines(&said))
		defer p.stop()
		var timed []time.Duration
		p.timed = func(id processorID, is standing, took time.Duration) { timed = append(timed, took) }
		attempt := func(o outcome, took time.Duration) {
			pm, ok := p.acquireAt(onDefault)
			if !ok {
				t.Fatal("no permit")
			}
			time.Sleep(took)
			p.observe(pm, o, took)
		}
		attempt(outcomePaid, 10*time.Millisecond)
		time.Sleep(300 * time.Millisecond)
		attempt(outcomeRefused, 0)
		time.Sleep(time.Second)
		attempt(outcomeRefused, 0) // nothing new
		time.Sleep(time.Second)
		attempt(outcomePaid, 2*time.Second)
		attempt(outcomePaid, 20*time.Millisecond) // nothing new: once is not enough
		time.Sleep(2 * time.Second)
		p.health(onDefault, healthReading{minResponse: 5 * time.Millisecond}, time.Now())
		attempt(outcomePaid, 10*time.Millisecond)
		if _, ok := p.acquireAt(onDefault); !ok {
			t.Fatal("no permit")
		}
		time.Sleep(goodAnswer + time.Millisecond)
		p.look()
		p.heard(finding{processor: onDefault, instance: "other", at: nowMicros()})
		p.health(onFallback, healthReading{failing: true}, time.Now())

		want := []string{
			`level=WARN msg="processor closed" processor=default was=open why=refused expected=5ms last_good=300ms`,
			`level=WARN msg="processor slow" processor=default was=closed why=answered expected=2s`,
			`level=INFO msg="processor open" processor=default was=slow why=health expected=5ms away=6.02s waiting=0`,
			`level=WARN msg="processor slow" processor=default was=open why="no answer yet" expected=1.481s last_good=1.481s`,
			`level=WARN msg="processor closed" processor=default was=slow why="heard from other" expected=1.481s`,
			`level=WARN msg="processor closed" processor=fallback was=open why=health expected=0s`,
		}
		if got := strings.Split(strings.TrimSpace(said.String()), "\n"); !slices.Equal(got, want) {
			t.Errorf("said\n%s\nwant\n%s", said.String(), strings.Join(want, "\n"))
		}
		if want := []time.Duration{300 * time.Millisecond, 6020 * time.Millisecond, 1481 * time.Millisecond}; !slices.Equal(timed, want) {
			t.Errorf("timed %v, want %v", timed, want)
		}
		if n := p.figures(onDefault).changes; n != 5 {
			t.Errorf("counted %d changes", n)
		}
	})
}

// TestHeldPaymentsAreCountedWithThoseBehindThem: while nobody may go, what is in the rings waits, too.
func TestHeldPaymentsAreCountedWithThoseBehindThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 10)
		defer p.stop()
		p.backlog = func() int { return 40 }
		if p.held() != 0 || p.oldestHeld() != 0 {
			t.Errorf("%d held for %v, though everything may go", p.held(), p.oldestHeld())
		}
		refuseOne(p, onDefault)
		noProbes(p, onDefault)
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var a asker
		for range 2 {
			go a.ask(ctx, p)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if p.held() != 2+40 || p.oldestHeld() != 2*time.Second {
			t.Errorf("%d held, the oldest for %v", p.held(), p.oldestHeld())
		}
	})
}

// TestMetricsTimeAClosedProcessor: from the last good answer to its closing, and until it is open again.
func TestMetricsTimeAClosedProcessor(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t, "PATIENCE", "1h")
	shows := func(want ...string) {
		t.Helper()
		for _, line := range want {
			eventually(t, line, func() bool {
				var b bytes.Buffer
				g.metrics.write(&b)
				return strings.Contains(b.String(), line)
			})
		}
	}
	g.accepted(nthID(1), "1.00")
	g.becomes(nthID(1), "settled default")
	shows("galo_processor_changes_total{processor=\"default\"} 0\n", "galo_held 0\n", "galo_oldest_held_seconds 0\n")
	w.def.behave(func(rw http.ResponseWriter, _ fakePayment, _ func()) bool {
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	})
	g.accepted(nthID(2), "1.00")
	shows("galo_processor_detect_seconds_count{processor=\"default\"} 1\n", "galo_processor_open{processor=\"default\"} 0\n",
		"galo_processor_slow{processor=\"default\"} 0\n", "galo_held 1\n")
	eventually(t, "a probe", func() bool { return g.policy.figures(onDefault).probes > 0 })
	w.def.behave(nil)
	g.becomes(nthID(2), "settled default")
	shows("galo_processor_recover_seconds_count{processor=\"default\"} 1\n", "galo_processor_changes_total{processor=\"default\"} 2\n")
}
