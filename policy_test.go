package main

import (
	"context"
	"sync"
	"sync/atomic"
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

// noProbes is as if as many probes of a processor were out as may be.
func noProbes(p *policy, id processorID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state[id].probesOut = probesAtOnce
}

// pays sends so many payments to a processor, one after the other, and has each answered after so long.
func pays(t *testing.T, p *policy, id processorID, n int, took time.Duration) {
	t.Helper()
	for range n {
		pm, ok := p.acquireAt(id)
		if !ok {
			t.Fatal("no permit")
		}
		time.Sleep(took)
		p.observe(pm, outcomePaid, took)
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

func TestPolicyWaitsForNothingWhereFeesAreEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(time.Hour, [processors]ppm{50_000, 50_000}, 10, newClock(), quietLog())
		defer p.stop()
		refuseOne(p, onDefault)
		noProbes(p, onDefault)
		var a asker
		go a.ask(t.Context(), p)
		time.Sleep(time.Second)
		synctest.Wait()
		if g := a.granted(); len(g) != 1 || g[0].processor != onFallback {
			t.Errorf("%+v", g)
		}
	})
}

// TestPaceIsAboveTheArrivals: whatever its timer says, or what waits would never be fewer.
func TestPaceIsAboveTheArrivals(t *testing.T) {
	const arrivals = 1000
	for _, late := range []time.Duration{0, (paceInTime + paceLate) / 2, time.Second} {
		now := time.Now()
		var c pace
		c.start(now, 0)
		for range 10 {
			now = now.Add(paceStep)
			c.judge(now, late, arrivals)
		}
		if c.perSecond < 2*arrivals {
			t.Errorf("with a timer that is %s late it is %.0f a second, and %d arrive", late, c.perSecond, arrivals)
		}
	}
}

func TestGapBetweenProbesStopsGrowing(t *testing.T) {
	s := processorState{probeGap: firstProbeGap}
	for range 1000 {
		if s.heardProbe(time.Now()); s.probeGap <= 0 || s.probeGap > lastDearGap {
			t.Fatalf("it is %s", s.probeGap)
		}
	}
}

func TestPolicyHoldsForItsPatienceThenGoesToTheDearer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(10*time.Second, 10)
		defer p.stop()
		refuseOne(p, onDefault)
		noProbes(p, onDefault)
		var a asker
		for range 3 {
			go a.ask(t.Context(), p)
		}
		time.Sleep(9999 * time.Millisecond)
		synctest.Wait()
		if g := a.granted(); len(g) != 0 {
			t.Fatalf("before patience ended: %+v", g)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		g := a.granted()
		if len(g) != 3 {
			t.Fatalf("%d went", len(g))
		}
		for _, one := range g {
			if one.processor != onFallback || one.after != 10*time.Second {
				t.Errorf("%s after %s", one.processor, one.after)
			}
		}
	})
}

// TestProbesOfARefusingProcessorBecomeSeldom: the first follows at once, and after those that are refused come longer and longer gaps, up to that
// at which few of the payments are probes.
func TestProbesOfARefusingProcessorBecomeSeldom(t *testing.T) {
	for perSecond, last := range map[int]time.Duration{5: longestLastGap, 50: probesPart * time.Second / 50, 1000: shortestLastGap} {
		synctest.Test(t, func(t *testing.T) {
			p := testPolicy(5*time.Second, 100)
			defer p.stop()
			arrived := func() int64 {
				return int64(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds() * float64(perSecond))
			}
			p.arrivals = arrived
			refuseOne(p, onDefault)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var gaps []time.Duration
			for last := time.Now(); len(gaps) < 16; last = time.Now() {
				pm, ok := p.acquire(ctx, p.clock.now())
				if !ok || !pm.probe || pm.processor != onDefault {
					t.Fatalf("%+v", pm)
				}
				gaps = append(gaps, time.Since(last).Round(time.Millisecond))
				p.observe(pm, outcomeRefused, 0)
			}
			if gaps[0] != 0 || gaps[2] <= gaps[1] || gaps[15] < last || gaps[15] > last+time.Millisecond {
				t.Errorf("at %d payments a second: gaps %v, want %v in the end", perSecond, gaps, last)
			}
		})
	}
}

// TestFewProbesHang: while none is answered they stand apart further and further, and then no more go.
func TestFewProbesHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 100)
		defer p.stop()
		refuseOne(p, onDefault)
		var a asker
		ctx, cancel := context.WithCancel(t.Context())
		for range 20 {
			go a.ask(ctx, p)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(a.granted()); n != probesAtOnce {
			t.Errorf("%d probes out at once, want %d", n, probesAtOnce)
		}
		cancel()
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
		for range 3 {
			go a.ask(t.Context(), p)
		}
		time.Sleep(4999 * time.Millisecond)
		synctest.Wait()
		if n := len(a.granted()); n != 0 {
			t.Fatalf("%d went to a slow processor", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		g := a.granted()
		if len(g) != 3 {
			t.Fatalf("%d went: slow beats never", len(g))
		}
		// One looks whether the cheaper one is slow still, and one the dearer; for the third, waiting costs as much as the answer by then.
		if !g[0].pm.probe || !g[1].pm.probe || g[0].processor == g[1].processor || g[0].after != 5*time.Second || g[1].after != 5*time.Second {
			t.Errorf("%+v", g[:2])
		}
		if g[2].processor != onDefault || g[2].after <= 5*time.Second || g[2].after > 8*time.Second {
			t.Errorf("%+v", g[2])
		}
		p.health(onFallback, healthReading{minResponse: time.Millisecond}, time.Now())
		if pm, _ := p.acquire(t.Context(), p.clock.now()-micros(time.Minute.Microseconds())); pm.processor != onFallback && !pm.probe {
			t.Error("a quick dear one beats a slow cheap one, once patience is over")
		}
	})
}

// TestFewLookAtASlowProcessorWhileThereIsPatience: where few payments come in, health alone says when it is quick again; where there are many, a few
// of them find out sooner.
func TestFewLookAtASlowProcessorWhileThereIsPatience(t *testing.T) {
	const slow, seconds = 3 * time.Second, 20
	for perSecond, atMost := range map[int]int{1: 0, 100: 100*seconds/patientProbesPart + 1} {
		synctest.Test(t, func(t *testing.T) {
			p := testPolicy(time.Minute, 100)
			defer p.stop()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var arrived, probes atomic.Int64
			p.arrivals = arrived.Load
			for n := range perSecond * seconds {
				if n%(int(healthWindow/time.Second)*perSecond) == 0 {
					p.health(onDefault, healthReading{minResponse: slow}, time.Now())
				}
				arrived.Add(1)
				go func() {
					if pm, ok := p.acquire(ctx, p.clock.now()); ok {
						probes.Add(1)
						time.Sleep(slow)
						p.observe(pm, outcomePaid, slow)
					}
				}()
				time.Sleep(time.Second / time.Duration(perSecond))
			}
			if n := int(probes.Load()); n > atMost || n < atMost/2 {
				t.Errorf("%d of %d payments looked, %d at most should", n, perSecond*seconds, atMost)
			}
			time.Sleep(slow) // whoever is out comes back
		})
	}
}

// TestTheYoungestAttemptHasTheLastWord: what went out while the processor was slow says nothing of it any more, once one that went out later was
// answered quickly, however late that comes.
func TestTheYoungestAttemptHasTheLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 100)
		defer p.stop()
		pays(t, p, onDefault, 10, 10*time.Millisecond)
		old, _ := p.acquireAt(onDefault)
		time.Sleep(time.Second)
		if e := p.figures(onDefault).expected; e != time.Second {
			t.Errorf("%v expected, while one has been out for a second", e)
		}
		pays(t, p, onDefault, 1, 10*time.Millisecond)
		if e := p.figures(onDefault).expected; e > 10*time.Millisecond {
			t.Errorf("%v expected after a quick answer", e)
		}
		time.Sleep(3 * time.Second)
		if f := p.figures(onDefault); f.standing != standingOpen {
			t.Errorf("%s, since an old attempt is out", f.standing)
		}
		p.observe(old, outcomePaid, 4010*time.Millisecond)
		if f := p.figures(onDefault); f.standing != standingOpen || f.expected > 10*time.Millisecond {
			t.Errorf("%+v after the answer to an old attempt", f)
		}
	})
}

// TestHangingSendsCloseTheGateForOthers: a processor that has become slow is not found out by hundreds.
func TestHangingSendsCloseTheGateForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 800)
		defer p.stop()
		p.health(onDefault, healthReading{}, time.Now())
		pays(t, p, onDefault, 10, 5*time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var a asker
		for range 200 {
			go a.ask(ctx, p)
		}
		time.Sleep(time.Minute / 10)
		synctest.Wait()
		if n := len(a.granted()); n != firstWindow {
			t.Errorf("%d went before one was answered, want %d", n, firstWindow)
		}
		if f := p.figures(onDefault); f.standing != standingSlow {
			t.Errorf("%+v", f)
		}
	})
}

// TestTheWindowOpensInSteps: each round of answers lets about twice as many go out at once.
func TestTheWindowOpensInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 800)
		defer p.stop()
		p.pace.on = false
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var a asker
		for range 2000 {
			go a.ask(ctx, p)
		}
		synctest.Wait()
		answered := 0
		var rounds []int
		for range 6 {
			time.Sleep(100 * time.Millisecond)
			g := a.granted()
			rounds = append(rounds, len(g)-answered)
			for _, one := range g[answered:] {
				p.observe(one.pm, outcomePaid, 100*time.Millisecond)
			}
			answered = len(g)
			synctest.Wait()
		}
		for n := 1; n < len(rounds); n++ {
			if rounds[n] < rounds[n-1] || rounds[n] > 3*rounds[n-1]+firstWindow {
				t.Errorf("rounds of %v", rounds)
			}
		}
		if last := rounds[len(rounds)-1]; rounds[0] != firstWindow || last < 500 {
			t.Errorf("rounds of %v", rounds)
		}
	})
}

// TestHangingProbesDoNotStandInTheWayOfWhatHealthSays: as soon as it is said to be well another one goes out.
func TestHangingProbesDoNotStandInTheWayOfWhatHealthSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 10)
		defer p.stop()
		refuseOne(p, onDefault)
		noProbes(p, onDefault)
		var a asker
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 3 {
			go a.ask(ctx, p)
		}
		synctest.Wait()
		if n := len(a.granted()); n != 0 {
			t.Fatalf("%d went", n)
		}
		p.health(onDefault, healthReading{minResponse: time.Millisecond}, time.Now())
		synctest.Wait()
		if n := len(a.granted()); n != 1 {
			t.Errorf("%d went, want one that looks", n)
		}
	})
}

// TestOwnAnswersOutweighHealth: it lies, or is behind.
func TestOwnAnswersOutweighHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 10)
		defer p.stop()
		for _, r := range []healthReading{{failing: true}, {minResponse: 4 * time.Second}} {
			pays(t, p, onDefault, 1, time.Millisecond)
			p.health(onDefault, r, time.Now())
			if f := p.figures(onDefault); f.standing != standingOpen {
				t.Errorf("%+v: %s", r, f.standing)
			}
			time.Sleep(2 * ownWord)
			p.health(onDefault, r, time.Now())
			if f := p.figures(onDefault); f.standing == standingOpen {
				t.Errorf("%+v: open, though we know nothing better", r)
			}
			p.health(onDefault, healthReading{}, time.Now())
			pays(t, p, onDefault, 1, time.Millisecond)
		}
	})
}

// TestFindingsOfOthersAreHints: they weigh less than what we have just seen, and nothing when they are old.
func TestFindingsOfOthersAreHints(t *testing.T) {
	closed := finding{processor: onDefault, instance: "other"}
	slow := finding{processor: onDefault, instance: "other", open: true, answerTime: 2 * time.Second}
	for _, one := range []struct {
		name  string
		f     finding
		since time.Duration // the last answer of our own
		age   time.Duration
		want  standing
	}{
		{"closed", closed, time.Second, 0, standingClosed},
		{"closed, but not to us", closed, 10 * time.Millisecond, 0, standingOpen},
		{"closed long ago", closed, time.Second, 2 * findingLife, standingOpen},
		{"slow", slow, 3 * time.Second, 0, standingSlow},
		{"slow before our last answer", slow, time.Second, 0, standingOpen},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := testPolicy(time.Hour, 10)
			defer p.stop()
			pays(t, p, onDefault, 1, time.Millisecond)
			time.Sleep(one.since)
			one.f.at = nowMicros() - micros(one.age.Microseconds())
			p.heard(one.f)
			if f := p.figures(onDefault); f.standing != one.want {
				t.Errorf("%s: %s, want %s", one.name, f.standing, one.want)
			}
		})
	}
}

// TestAFindingThatAllIsWellIsLookedIntoByOne: a processor that refuses or is slow is probed at once, even by a payment that has patience.
func TestAFindingThatAllIsWellIsLookedIntoByOne(t *testing.T) {
	for _, trouble := range []healthReading{{failing: true}, {minResponse: 3 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			p := testPolicy(time.Hour, 10)
			defer p.stop()
			p.health(onDefault, trouble, time.Now())
			noProbes(p, onDefault)
			var a asker
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for range 3 {
				go a.ask(ctx, p)
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if n := len(a.granted()); n != 0 {
				t.Fatalf("%d went", n)
			}
			p.heard(finding{processor: onDefault, instance: "other", open: true, answerTime: time.Millisecond, at: nowMicros()})
			synctest.Wait()
			if g := a.granted(); len(g) != 1 || !g[0].pm.probe {
				t.Errorf("%+v", g)
			}
		})
	}
}

// TestInstancesThatHearEachOtherShareTheProbes: each has heard of the others', and keeps back for the most part; but it never relies on them alone.
func TestInstancesThatHearEachOtherShareTheProbes(t *testing.T) {
	probes := func(heard bool) (n int) {
		synctest.Test(t, func(t *testing.T) {
			p := testPolicy(time.Minute, 10)
			defer p.stop()
			p.peers = func() int { return 4 }
			refuseOne(p, onDefault)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for ctx.Err() == nil {
				go func() {
					if pm, ok := p.acquire(ctx, p.clock.now()); ok {
						n++
						p.observe(pm, outcomeRefused, 0)
					}
				}()
				time.Sleep(time.Second)
				synctest.Wait()
				if heard {
					p.heard(finding{processor: onDefault, instance: "other", probe: true, at: nowMicros()})
				}
			}
		})
		return n
	}
	if alone, among := probes(false), probes(true); among < 2 || among > alone/2 {
		t.Errorf("%d probes of one who hears nothing, %d of one who hears others", alone, among)
	}
}

// TestInstancesDoNotProbeInStep: they begin together, and after a while one does it for all.
func TestInstancesDoNotProbeInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const instances, length = 4, 60 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		var all []*policy
		var counted atomic.Int64
		for range instances {
			p := testPolicy(time.Second, 10)
			defer p.stop()
			p.peers = func() int { return instances }
			p.publish = func(f finding) {
				if f.probe {
					counted.Add(1)
				}
				time.AfterFunc(time.Millisecond, func() {
					for _, other := range all {
						if other != p {
							other.heard(f)
						}
					}
				})
			}
			all = append(all, p)
		}
		for n, p := range all {
			p.stagger = float64(n) / instances
			refuseOne(p, onDefault)
		}
		for ctx.Err() == nil {
			for _, p := range all {
				go func() {
					if pm, ok := p.acquire(ctx, p.clock.now()); ok && pm.processor == onDefault {
						p.observe(pm, outcomeRefused, time.Millisecond)
					} else if ok {
						p.observe(pm, outcomePaid, time.Millisecond)
					}
				}()
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		probes := int(counted.Load())
		if most := int(2*length/longestLastGap) + 40; probes < int(length/longestLastGap)/2 || probes > most {
			t.Errorf("%d probes in %s, at most %d are enough", probes, length, most)
		}
	})
}

// TestWhenTheDearerIsBackTheCheaperIsLookedAt: outages of both tend to end together.
func TestWhenTheDearerIsBackTheCheaperIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(0, 10)
		defer p.stop()
		refuseOne(p, onDefault)
		refuseOne(p, onFallback)
		for range 20 { // both are probed ever more seldom
			pm, _ := p.acquire(t.Context(), p.clock.now())
			p.observe(pm, outcomeRefused, 0)
		}
		pm, _ := p.acquire(t.Context(), p.clock.now())
		for pm.processor == onDefault {
			p.observe(pm, outcomeRefused, 0)
			pm, _ = p.acquire(t.Context(), p.clock.now())
		}
		p.observe(pm, outcomePaid, 0)
		if pm, _ := p.acquire(t.Context(), p.clock.now()); pm.processor != onDefault || !pm.probe {
			t.Errorf("%+v", pm)
		}
	})
}

// TestWhenTheDearerIsBackPaymentsWaitForTheProbeOfTheCheaper, but no longer than a moment.
func TestWhenTheDearerIsBackPaymentsWaitForTheProbeOfTheCheaper(t *testing.T) {
	for takes, want := range map[time.Duration]askerGrant{
		moment / 4: {processor: onDefault, after: moment / 4},
		2 * moment: {processor: onFallback, after: moment},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := testPolicy(0, 10)
			defer p.stop()
			refuseOne(p, onDefault)
			refuseOne(p, onFallback)
			pm, ok := p.acquireAt(onFallback)
			if !ok {
				t.Fatal("no probe")
			}
			p.observe(pm, outcomePaid, 0)
			pm, _ = p.acquire(t.Context(), p.clock.now())
			noProbes(p, onDefault) // no further ones
			var a asker
			go a.ask(t.Context(), p)
			time.Sleep(takes)
			synctest.Wait()
			p.observe(pm, outcomePaid, takes)
			synctest.Wait()
			if g := a.granted(); len(g) != 1 || g[0].processor != want.processor || g[0].after != want.after {
				t.Errorf("the probe takes %s: %+v", takes, g)
			}
		})
	}
}

// TestImpatientPaymentsWaitAMomentForTheCheaper: it is well, and only answers that are under way keep them.
func TestImpatientPaymentsWaitAMomentForTheCheaper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(0, 10)
		defer p.stop()
		p.limit = 800
		var a asker
		for range firstWindow + 2 {
			go a.ask(t.Context(), p)
		}
		time.Sleep(moment / 2)
		synctest.Wait()
		g := a.granted()
		if len(g) != firstWindow {
			t.Fatalf("%d went", len(g))
		}
		p.release(g[0].pm)
		synctest.Wait()
		time.Sleep(moment)
		synctest.Wait()
		g = a.granted()
		if len(g) != firstWindow+2 || g[firstWindow].processor != onDefault || g[firstWindow+1].processor != onFallback ||
			g[firstWindow+1].after != moment {
			t.Errorf("%+v", g[firstWindow:])
		}
	})
}

// TestASuccessThatCrossesTheRefusalDoesNotOpen: it was decided before.
func TestASuccessThatCrossesTheRefusalDoesNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 10)
		defer p.stop()
		first, _ := p.acquireAt(onDefault)
		refuseOne(p, onDefault)
		p.observe(first, outcomePaid, time.Millisecond)
		if f := p.figures(onDefault); f.standing != standingClosed {
			t.Errorf("%s", f.standing)
		}
	})
}

func TestPolicyPacesWhatItHeld(t *testing.T) {
	drainsAtAPace(t, func(_ *policy, held int, next func()) {
		for range held {
			go next()
		}
	})
}

// Workers ask for one payment after the other: then next to nobody waits for a permit while thousands wait to be asked for.
func TestPolicyPacesWhoeverAsksAgainAtOnce(t *testing.T) {
	drainsAtAPace(t, func(p *policy, held int, next func()) {
		var asked atomic.Int64
		p.backlog = func() int { return held - int(asked.Load()) }
		go func() {
			for range held {
				next()
				asked.Add(1)
			}
		}()
	})
}

// drainsAtAPace has payments ask while a processor refuses, in the way of ask: next asks for one, and returns once that may go.
func drainsAtAPace(t *testing.T, ask func(p *policy, held int, next func())) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(time.Hour, 1000)
		defer p.stop()
		refuseOne(p, onDefault)
		noProbes(p, onDefault)
		var went atomic.Int64
		const held = 2000
		ask(p, held, func() {
			pm, _ := p.acquire(t.Context(), p.clock.now())
			went.Add(1)
			time.AfterFunc(time.Millisecond, func() { p.observe(pm, outcomePaid, time.Millisecond) })
		})
		time.Sleep(time.Minute)
		p.health(onDefault, healthReading{minResponse: time.Millisecond}, time.Now())
		time.Sleep(paceStep)
		synctest.Wait()
		if n, most := went.Load(), int64(firstPace*paceStep.Seconds()*1.2)+10; n < 20 || n > most {
			t.Errorf("%d went in the first %s, want at most %d", n, paceStep, most)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := went.Load(); n != held {
			t.Errorf("%d went in the end: where CPU is to be had, pacing keeps nobody", n)
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

// TestInstancesShareWhatAProcessorServes: each has its part of the limit.
func TestInstancesShareWhatAProcessorServes(t *testing.T) {
	p := testPolicy(time.Hour, 12)
	defer p.stop()
	p.peers = func() int { return 4 }
	for n := range 4 {
		if _, ok := p.acquireAt(onDefault); ok != (n < 3) {
			t.Fatalf("permit %d: %t", n, ok)
		}
	}
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
		if n := p.figures(onDefault).inFlight; n != 0 {
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
		if p.figures(onDefault).standing != standingClosed {
			t.Error("still open after nothing but unknown outcomes")
		}
	})
}
