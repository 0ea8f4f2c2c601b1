package main

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// steppedWorld is a world of processes whose wall clock is stepped by hand.
func steppedWorld(t *testing.T) (w *processWorld, step func(time.Duration)) {
	w = newProcessWorld(t, variantOf(t), startRedis(t).url())
	file := filepath.Join(w.dir, "clock")
	w.env["GALO_CLOCK"] = file
	step = func(d time.Duration) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(d.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	return w, step
}

// TestClockStepsBackAndForward: under load, by minutes and back. Nothing is lost, and records and summaries are what the processors have.
func TestClockStepsBackAndForward(t *testing.T) {
	w, step := steppedWorld(t)
	p := w.start("one")
	n := uint64(0)
	for _, to := range []time.Duration{0, -7 * time.Minute, 11 * time.Minute, -time.Second, 0} {
		step(to)
		p.postAll(n, n+30)
		n += 30
	}
	w.finishes(p)
	w.audit(nil, p)
	for _, to := range []time.Duration{-9 * time.Minute, 13 * time.Minute} { // and across a start
		p.kill()
		step(to)
		p = w.start("one")
		p.postAll(n-5, n+10)
		n += 10
		w.finishes(p)
		w.audit(nil, p)
	}
	w.sentOnceOrLost()
}

// sentOnceOrLost: a kill may come between an attempt and its answer, which is then looked up; but nothing is at both.
func (w *processWorld) sentOnceOrLost() {
	w.t.Helper()
	for id := range w.promised {
		if w.def.attempts(id.String()) > 0 && w.fall.attempts(id.String()) > 0 {
			w.t.Errorf("%s was sent to both", id)
		}
	}
}

// TestPatienceDoesNotFollowTheWallClock: a step forward does not end it, and a step back does not make it longer.
func TestPatienceDoesNotFollowTheWallClock(t *testing.T) {
	w, step := steppedWorld(t)
	w.def.behave(refusing)
	p := w.start("one", "PATIENCE", "1h")
	p.postAll(0, 5)
	eventually(t, "they are tried", func() bool { return attemptsOf(w.def) > 0 })
	step(3 * time.Hour)
	p.postAll(5, 10)
	tries := attemptsOf(w.def)
	eventually(t, "they are tried again", func() bool { return attemptsOf(w.def) > tries })
	if n := attemptsOf(w.fall); n != 0 {
		t.Errorf("%d attempts at the dearer one: an hour has not passed", n)
	}
	p.kill()
	step(0)
	p = w.start("one", "PATIENCE", "200ms")
	p.postAll(10, 15)
	step(-5 * time.Hour)
	p.postAll(15, 20)
	w.goesToTheDearer(p, 20)
}

// goesToTheDearer waits until the dearer processor has all payments but those that were out when their process was killed: these are
// pinned, and wait for theirs.
func (w *processWorld) goesToTheDearer(p *galoProcess, all int) {
	w.t.Helper()
	eventually(w.t, "the dearer one has them", func() bool {
		n := w.fall.count()
		return n > 0 && n+int(p.metric("galo_pinned")) == all
	})
	w.def.behave(nil)
	more := uint64(all)
	eventually(w.t, "the cheaper one is open again", func() bool {
		p.postAll(more, more+1)
		more++
		return w.def.count() > 0
	})
	w.finishes(p)
	w.audit(nil, p)
}

// TestRestartAfterAStepBackWaitsNoLonger: what was accepted before lies in the future then. It has waited since the start at least.
func TestRestartAfterAStepBackWaitsNoLonger(t *testing.T) {
	w, step := steppedWorld(t)
	w.def.behave(refusing)
	p := w.start("one", "PATIENCE", "1h")
	p.postAll(0, 5)
	eventually(t, "the cheaper one has refused", func() bool { return attemptsOf(w.def) >= 2 })
	p.postAll(5, 10)
	p.kill()
	step(-2 * time.Hour)
	p = w.start("one", "PATIENCE", "300ms")
	w.goesToTheDearer(p, 10)
}

// TestWaitedTimeOfWhatLiesInTheFuture: an instant after now is from before a restart, and counts as the start's.
func TestWaitedTimeOfWhatLiesInTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		ahead := c.now() + micros(time.Hour.Microseconds())
		if d := c.since(ahead); d != 0 {
			t.Errorf("at the start it has waited %s", d)
		}
		time.Sleep(time.Minute)
		if d := c.since(ahead); d != time.Minute {
			t.Errorf("after a minute it has waited %s", d)
		}
		if d := c.since(c.now() - 5); d != 5*time.Microsecond {
			t.Errorf("one of now has waited %s", d)
		}
	})
}
