package main

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// These tests run in virtual time: a minute of waiting costs nothing, and every instant is exact.

func testPolicy(patience time.Duration, limit int) *policy {
	return newPolicy(patience, [processors]ppm{50_000, 150_000}, limit, newClock(), quietLog())
}

// asker asks the policy for one payment after the other, and remembers where each went, and when.
type asker struct {
	mu   sync.Mutex
	went []askerGrant
}

type askerGrant struct {
	processor processorID
	after     time.Duration // since it was accepted
	pm        permit
}

func (a *asker) ask(ctx context.Context, p *policy) {
	accepted, started := p.clock.now(), time.Now()
	if pm, ok := p.acquire(ctx, accepted); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.went = append(a.went, askerGrant{pm.processor, time.Since(started), pm})
	}
}

func (a *asker) granted() []askerGrant {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]askerGrant(nil), a.went...)
}

func refuseOne(p *policy, id processorID) {
	if pm, ok := p.acquireAt(id); ok {
		p.observe(pm, outcomeRefused, time.Millisecond)
	}
}

func TestPolicyTakesTheCheaperOneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(10*time.Second, 10)
		defer p.stop()
		var a asker
		a.ask(t.Context(), p)
		if g := a.granted(); len(g) != 1 || g[0].processor != onDefault || g[0].after != 0 {
			t.Errorf("%+v", g)
		}
	})
}

func TestPolicyFollowsTheFees(t *testing.T) {
	p := newPolicy(time.Second, [processors]ppm{150_000, 50_000}, 1, newClock(), quietLog())
	defer p.stop()
	if pm, _ := p.acquire(t.Context(), p.clock.now()); pm.processor != onFallback {
		t.Errorf("went to %s, which is dearer", pm.processor)
	}
}

func TestPolicyHoldsForItsPatienceThenGoesToTheDearer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(10*time.Second, 10)
		defer p.stop()
		refuseOne(p, onDefault)
		var a asker
		go a.ask(t.Context(), p) // this one becomes the first probe, and stays out
		time.Sleep(time.Second)
		for range 3 {
			go a.ask(t.Context(), p)
		}
		time.Sleep(9999 * time.Millisecond)
		synctest.Wait()
		if g := a.granted(); len(g) != 1 || g[0].processor != onDefault || !g[0].pm.probe {
			t.Fatalf("before patience ended: %+v", g)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		g := a.granted()
		if len(g) != 4 {
			t.Fatalf("%d went", len(g))
		}
		for _, one := range g[1:] {
			if one.processor != onFallback || one.after != 10*time.Second {
				t.Errorf("%s after %s", one.processor, one.after)
			}
		}
	})
}

func TestPolicyProbesWithOnePaymentAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 100)
		defer p.stop()
		refuseOne(p, onDefault)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var a asker
		for range 20 {
			go a.ask(ctx, p)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(a.granted()); n != 1 {
			t.Fatalf("%d probes out at once", n)
		}
		var gaps []time.Duration
		for range 8 { // each probe is refused: the next one follows later and later
			probe := a.granted()[len(a.granted())-1]
			p.observe(probe.pm, outcomeRefused, 0)
			before, n := time.Now(), len(a.granted())
			for len(a.granted()) == n {
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			gaps = append(gaps, time.Since(before))
		}
		if gaps[0] > 2*firstProbeGap || gaps[len(gaps)-1] < lastProbeGap || gaps[len(gaps)-1] > lastProbeGap+10*time.Millisecond {
			t.Errorf("gaps %v", gaps)
		}
		last := a.granted()
		p.observe(last[len(last)-1].pm, outcomePaid, time.Millisecond)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(a.granted()); n != 20 {
			t.Errorf("%d went after the probe was answered, want all 20", n)
		}
	})
}

func TestPolicyServesWhoWaitedLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 1)
		defer p.stop()
		first, _ := p.acquire(t.Context(), p.clock.now())
		now := p.clock.now()
		order := make(chan micros, 3)
		for _, accepted := range []micros{now - 10, now - 30, now - 20} {
			go func() {
				if pm, ok := p.acquire(t.Context(), accepted); ok {
					order <- now - accepted
					p.release(pm)
				}
			}()
		}
		synctest.Wait()
		p.release(first)
		for _, want := range []micros{30, 20, 10} {
			if got := <-order; got != want {
				t.Errorf("served the one of %d µs ago, want %d", got, want)
			}
		}
	})
}

func TestPolicyAvoidsASlowProcessorWhileThereIsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(5*time.Second, 10)
		defer p.stop()
		for id := range processorID(processors) {
			p.health(id, healthReading{minResponse: 3 * time.Second}, time.Now())
		}
		var a asker
		go a.ask(t.Context(), p)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if g := a.granted(); len(g) != 1 || !g[0].pm.probe || g[0].after != freshHealth {
			t.Fatalf("one may look how slow it still is, once health is old: %+v", g)
		}
		go a.ask(t.Context(), p)
		time.Sleep(4999 * time.Millisecond)
		synctest.Wait()
		if n := len(a.granted()); n != 1 {
			t.Fatalf("%d went to a slow processor", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if g := a.granted(); len(g) != 2 || g[1].after != 5*time.Second {
			t.Fatalf("slow beats never: %+v", g)
		}
		p.health(onFallback, healthReading{minResponse: time.Millisecond}, time.Now())
		before := p.snapshot(onFallback).inFlight
		p.acquire(t.Context(), p.clock.now()-micros(time.Minute.Microseconds()))
		if s := p.snapshot(onFallback); s.inFlight != before+1 {
			t.Error("a quick dear one beats a slow cheap one, once patience is over")
		}
	})
}

// TestProbeThatWasSlowDoesNotCloseAQuickProcessor: it was sent while the processor was slow, which it is no more.
func TestProbeThatWasSlowDoesNotCloseAQuickProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 100)
		defer p.stop()
		refuseOne(p, onDefault)
		var a asker
		for range 5 {
			go a.ask(t.Context(), p)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		p.observe(a.granted()[0].pm, outcomePaid, 1900*time.Millisecond)
		synctest.Wait()
		g := a.granted()
		if len(g) != 2 || !g[1].pm.probe {
			t.Fatalf("%d went, want one more probe", len(g))
		}
		time.Sleep(20 * time.Millisecond)
		p.observe(g[1].pm, outcomePaid, 20*time.Millisecond)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if n := len(a.granted()); n != 5 {
			t.Errorf("%d went", n)
		}
	})
}

// TestHangingSendsCloseTheGateForOthers: a processor that has become slow is not found out by hundreds.
func TestHangingSendsCloseTheGateForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 100)
		defer p.stop()
		for range 10 {
			pm, _ := p.acquire(t.Context(), p.clock.now())
			p.observe(pm, outcomePaid, 5*time.Millisecond)
		}
		p.acquire(t.Context(), p.clock.now())
		time.Sleep(400 * time.Millisecond)
		p.overdue(onDefault, 400*time.Millisecond)
		var a asker
		for range 5 {
			go a.ask(t.Context(), p)
		}
		synctest.Wait()
		if g := a.granted(); len(g) != 1 || !g[0].pm.probe {
			t.Errorf("%d went, want only a probe", len(g))
		}
	})
}

func TestPolicyReopensOnHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 10)
		defer p.stop()
		refuseOne(p, onDefault)
		var a asker
		go a.ask(t.Context(), p)
		go a.ask(t.Context(), p)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := len(a.granted()); n != 1 {
			t.Fatalf("%d out, want the probe, which hangs", n)
		}
		p.health(onDefault, healthReading{minResponse: time.Millisecond}, time.Now())
		synctest.Wait()
		if n := len(a.granted()); n != 2 {
			t.Error("a hanging probe stands in the way of what health says")
		}
	})
}

func TestPolicyPacesWhatItHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 1000)
		defer p.stop()
		refuseOne(p, onDefault)
		var a asker
		for range 2 * drainPerSecond {
			go a.ask(t.Context(), p)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		p.observe(a.granted()[0].pm, outcomePaid, time.Millisecond)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(a.granted()); n < drainPerSecond*9/10 || n > drainPerSecond*11/10 {
			t.Errorf("%d went in the first second, want about %d", n, drainPerSecond)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(a.granted()); n != 2*drainPerSecond {
			t.Errorf("%d went in the end", n)
		}
	})
}

func TestPolicyBoundsWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 3)
		defer p.stop()
		var a asker
		for range 5 {
			go a.ask(t.Context(), p)
		}
		synctest.Wait()
		if n := len(a.granted()); n != 3 {
			t.Fatalf("%d in flight, want 3", n)
		}
		pm := a.granted()[0].pm
		p.release(pm)
		p.observe(pm, outcomePaid, time.Millisecond) // the same permit again: it was given back already
		synctest.Wait()
		if n := len(a.granted()); n != 4 {
			t.Errorf("%d went, want 4", n)
		}
	})
}

// TestPermitGivenBackByTwoAtOnce: a look-up and a late answer may both end an attempt.
func TestPermitGivenBackByTwoAtOnce(t *testing.T) {
	p := testPolicy(time.Hour, 1)
	defer p.stop()
	for range 2000 {
		pm, ok := p.acquire(t.Context(), p.clock.now())
		if !ok {
			t.Fatal("no permit left")
		}
		var both sync.WaitGroup
		both.Go(func() { p.release(pm) })
		both.Go(func() { p.observe(pm, outcomePaid, time.Millisecond) })
		both.Wait()
		if n := p.snapshot(onDefault).inFlight; n != 0 {
			t.Fatalf("%d in flight", n)
		}
	}
}

func TestPolicyLetsGoOfWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 1)
		defer p.stop()
		pm, _ := p.acquire(t.Context(), p.clock.now())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, ok := p.acquire(ctx, p.clock.now()); ok {
			t.Fatal("two permits of one")
		}
		if n := p.held(); n != 0 {
			t.Errorf("%d still wait", n)
		}
		p.release(pm)
		if _, ok := p.acquire(t.Context(), p.clock.now()); !ok {
			t.Error("no permit left")
		}
	})
}

func TestLostAnswersDoNotCloseAProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 10)
		defer p.stop()
		for n := range 200 {
			pm, ok := p.acquireAt(onDefault)
			if !ok {
				t.Fatalf("closed after %d", n)
			}
			o := outcomePaid
			if n%2 == 0 {
				o = outcomeUnknown
			}
			p.observe(pm, o, time.Millisecond)
		}
		for range unknownsToClose {
			pm, _ := p.acquireAt(onDefault)
			p.observe(pm, outcomeUnknown, time.Millisecond)
		}
		if p.snapshot(onDefault).open {
			t.Error("still open after nothing but unknown outcomes")
		}
	})
}
