package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// cluster is what instances share, in virtual time: the gate's keys, the bus, and both processors, which
// write down when they were asked.
type cluster struct {
	mu     sync.Mutex
	random *rand.Rand
	keys   [processors]struct {
		owner string
		until time.Time
	}
	gateAway  bool
	gateSlow  time.Duration // for each way to the gate; 0: random up to 20 ms
	onTheWay  time.Duration // what a call may take to its processor at most
	busAway   bool
	answer    func(p processorID) (healthReading, time.Duration, error) // what, and after how long
	calls     [processors][]call
	instances map[*instance]bool
}

type call struct {
	at time.Time
	by string
}

// instance is one process of the cluster. A dead one can do nothing any more, in the middle of whatever.
type instance struct {
	name     string
	cluster  *cluster
	dead     atomic.Bool
	hear     func(healthReport)
	mu       sync.Mutex
	reported [processors][]time.Time
	stop     func()
}

var errDead = errors.New("dead")

func newCluster(seed uint64) *cluster {
	return &cluster{
		random:    rand.New(rand.NewPCG(seed, 1)),
		instances: map[*instance]bool{},
		onTheWay:  20 * time.Millisecond,
		answer: func(processorID) (healthReading, time.Duration, error) {
			return healthReading{minResponse: 7 * time.Millisecond}, time.Millisecond, nil
		},
	}
}

// upTo is a random time. The travel of a message is short of what the gate's key lives beyond the window.
func (c *cluster) upTo(most time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.random.Int64N(int64(most) + 1))
}

func (c *cluster) travel() {
	c.mu.Lock()
	slow := c.gateSlow
	c.mu.Unlock()
	if slow == 0 {
		slow = c.upTo(20 * time.Millisecond)
	}
	time.Sleep(slow)
}

// join starts an instance; stop ends it in an orderly way.
func (c *cluster) join(name string, role role, log *slog.Logger) *instance {
	i := &instance{name: name, cluster: c}
	var asked [processors]healthAsked
	for p := range processorID(processors) {
		asked[p] = askedBy{i, p}
	}
	w := newHealthWatch(role, name, i, asked, i, i.report, log)
	w.jitter = func() time.Duration { return c.upTo(autoJitter) }
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c.mu.Lock()
	c.instances[i] = true
	c.mu.Unlock()
	running.Go(func() { w.run(ctx) })
	i.stop = func() {
		cancel()
		running.Wait()
		c.mu.Lock()
		delete(c.instances, i)
		c.mu.Unlock()
	}
	return i
}

// kill is the end without order: nothing that the instance still does reaches anybody.
func (i *instance) kill() {
	i.dead.Store(true)
	i.stop()
}

// wipe is a new life of the store: nobody asks for a window.
func (c *cluster) wipe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.keys {
		c.keys[p].owner, c.keys[p].until = "nobody", time.Now().Add(healthWindow)
	}
}

func (i *instance) gate(ctx context.Context, act func(c *cluster)) error {
	c := i.cluster
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.travel()
	if i.dead.Load() {
		return errDead
	}
	c.mu.Lock()
	if c.gateAway {
		c.mu.Unlock()
		return errors.New("the gate is away")
	}
	act(c)
	c.mu.Unlock()
	c.travel()
	return nil
}

func (i *instance) poll(ctx context.Context, p processorID, name string) (won bool, err error) {
	err = i.gate(ctx, func(c *cluster) {
		if won = !time.Now().Before(c.keys[p].until); won {
			c.keys[p].owner, c.keys[p].until = name, time.Now().Add(healthWindow)
		}
	})
	return won, err
}

func (i *instance) pollDone(ctx context.Context, p processorID, name string) error {
	return i.gate(ctx, func(c *cluster) {
		if c.keys[p].owner == name && time.Now().Before(c.keys[p].until) {
			c.keys[p].until = time.Now().Add(healthWindow)
		}
	})
}

// askedBy is a processor as one instance reaches it.
type askedBy struct {
	by *instance
	p  processorID
}

func (a askedBy) health(timeout time.Duration) (healthReading, error) {
	c := a.by.cluster
	if a.by.dead.Load() {
		return healthReading{}, errDead
	}
	time.Sleep(c.upTo(c.onTheWay))
	if a.by.dead.Load() {
		return healthReading{}, errDead
	}
	c.mu.Lock()
	c.calls[a.p] = append(c.calls[a.p], call{time.Now(), a.by.name})
	reading, after, err := c.answer(a.p)
	c.mu.Unlock()
	time.Sleep(min(after, timeout))
	if after > timeout {
		return healthReading{}, errors.New("no answer in time")
	}
	return reading, err
}

func (i *instance) onHealth(hear func(healthReport)) { i.hear = hear }

func (i *instance) publishHealth(r healthReport) {
	c := i.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busAway || i.dead.Load() {
		return
	}
	for other := range c.instances {
		if other != i {
			go other.hear(r)
		}
	}
}

func (i *instance) report(p processorID, _ healthReading, at time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.reported[p] = append(i.reported[p], at)
}

func (i *instance) reports(p processorID) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.reported[p])
}

// seen returns the calls so far.
func (c *cluster) seen(p processorID) []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]call(nil), c.calls[p]...)
}

func (c *cluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// checkApart is the processors' own rule.
func (c *cluster) checkApart(t *testing.T) {
	t.Helper()
	for p := range processorID(processors) {
		calls := c.seen(p)
		for n := 1; n < len(calls); n++ {
			if gap := calls[n].at.Sub(calls[n-1].at); gap < 5*time.Second {
				t.Errorf("%s was asked by %s %v after %s", p, calls[n].by, gap, calls[n-1].by)
			}
		}
	}
}

func callsBy(calls []call) map[string]int {
	by := map[string]int{}
	for _, c := range calls {
		by[c.by]++
	}
	return by
}

var quiet = slog.New(slog.DiscardHandler)

func TestOnlyTheLeaderAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(1)
		follower := c.join("follower", roleFollower, quiet)
		leader := c.join("leader", roleLeader, quiet)
		time.Sleep(5 * time.Minute)
		leader.stop()
		follower.stop()
		for p := range processorID(processors) {
			calls := c.seen(p)
			// A window, and the ways there and back; not a retry more.
			if by := callsBy(calls); by["follower"] != 0 || by["leader"] < 56 {
				t.Errorf("%s was asked by %v", p, by)
			}
			if follower.reports(p) != len(calls) || leader.reports(p) != len(calls) {
				t.Errorf("of %d readings of %s the leader has %d, the follower %d",
					len(calls), p, leader.reports(p), follower.reports(p))
			}
		}
		c.checkApart(t)
	})
}

func TestFollowerTakesOverAndGivesBack(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(seed)
			follower := c.join("follower", roleFollower, quiet)
			leader := c.join("leader", roleLeader, quiet)
			time.Sleep(time.Minute + c.upTo(10*time.Second))
			if seed%2 == 0 {
				leader.kill()
			} else {
				leader.stop()
			}
			gone := [processors]int{len(c.seen(onDefault)), len(c.seen(onFallback))}
			time.Sleep(30 * time.Second)
			for p := range processorID(processors) {
				calls := c.seen(p)
				if len(calls) == gone[p] {
					t.Fatalf("nobody asks %s any more", p)
				}
				first := calls[gone[p]]
				if silence := first.at.Sub(calls[gone[p]-1].at); silence < 10*time.Second || silence > 16*time.Second {
					t.Errorf("%s took over %s after %v", first.by, p, silence)
				}
			}
			again := c.join("leader again", roleLeader, quiet)
			back := [processors]int{len(c.seen(onDefault)), len(c.seen(onFallback))}
			time.Sleep(time.Minute)
			for p := range processorID(processors) {
				if by := callsBy(c.seen(p)[back[p]:]); by["leader again"] < 10 || by["follower"] != 0 {
					t.Errorf("with the leader back %s was asked by %v", p, by)
				}
			}
			again.stop()
			follower.stop()
			c.checkApart(t)
		})
	}
}

// TestEqualsShareTheWindow: without roles, and even without a bus, the gate keeps the calls apart, and no
// window is lost between them.
func TestEqualsShareTheWindow(t *testing.T) {
	for _, busAway := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(3)
			c.busAway = busAway
			var all []*instance
			for n := range 4 {
				all = append(all, c.join(fmt.Sprint("auto ", n), roleAuto, quiet))
			}
			time.Sleep(5 * time.Minute)
			for _, i := range all {
				i.stop()
			}
			for p := range processorID(processors) {
				if calls := c.seen(p); len(calls) < 53 {
					t.Errorf("bus away: %v: %s was asked only %d times", busAway, p, len(calls))
				} else if by := callsBy(calls); len(by) < 2 {
					t.Errorf("bus away: %v: %s was asked by %v", busAway, p, by)
				}
			}
			c.checkApart(t)
		})
	}
}

// TestCallsAreFiveSecondsApart is the rule under everything that can happen: instances come, stop, and die
// in the middle of a call; the gate goes away, slows down, and is wiped; the bus goes away; calls fail and
// hang.
func TestCallsAreFiveSecondsApart(t *testing.T) {
	const storm = 10 * time.Minute
	seeds := uint64(300)
	if raceEnabled {
		seeds = 30 // the detector makes it ten times as slow
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(seed)
			c.answer = func(processorID) (healthReading, time.Duration, error) {
				switch c.random.IntN(6) {
				case 0:
					return healthReading{}, 3 * time.Millisecond, errors.New("reset")
				case 1:
					return healthReading{}, time.Minute, nil
				}
				return healthReading{}, time.Duration(c.random.Int64N(int64(100 * time.Millisecond))), nil
			}
			end := time.Now().Add(storm)
			var everything sync.WaitGroup
			for n, r := range []role{roleLeader, roleFollower, roleFollower, roleAuto}[:2+seed%3] {
				everything.Go(func() {
					for time.Now().Before(end) {
						i := c.join(fmt.Sprintf("%s %d", r, n), r, quiet)
						time.Sleep(c.upTo(40 * time.Second))
						if c.upTo(1) == 0 {
							i.stop()
						} else {
							i.kill()
						}
						time.Sleep(c.upTo(15 * time.Second))
					}
				})
			}
			everything.Go(func() {
				for time.Now().Before(end) {
					time.Sleep(c.upTo(20 * time.Second))
					switch c.upTo(4) {
					case 0:
						c.set(func() { c.gateAway = !c.gateAway })
					case 1:
						c.set(func() { c.busAway = !c.busAway })
					case 2:
						c.set(func() { c.gateSlow = 30*time.Millisecond - c.gateSlow })
					case 3:
						c.wipe()
					}
				}
			})
			everything.Wait()
			c.checkApart(t)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
			for p := range processorID(processors) {
				if len(c.seen(p)) < 3 {
					t.Errorf("seed %d: %s was asked %d times, which proves nothing", seed, p, len(c.seen(p)))
				}
			}
		})
	}
}

// TestSlowCallMovesTheWindow: the processor's window begins when a call arrives, which may be long after the
// gate was passed.
func TestSlowCallMovesTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(4)
		c.onTheWay = 1500 * time.Millisecond
		c.busAway = true // or the one that made the call would tell the others
		var all []*instance
		for n := range 4 {
			all = append(all, c.join(fmt.Sprint("leader ", n), roleLeader, quiet))
		}
		for n := range 80 {
			time.Sleep(c.upTo(15 * time.Second))
			// Orderly, perhaps in the middle of a call.
			all[n%4].stop()
			all[n%4] = c.join(fmt.Sprint("leader ", n+4), roleLeader, quiet)
		}
		for _, i := range all {
			i.stop()
		}
		if n := len(c.seen(onDefault)); n < 80 {
			t.Errorf("only %d calls", n)
		}
		c.checkApart(t)
	})
}

func TestWithoutTheGateNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		c := newCluster(5)
		c.gateAway = true
		leader := c.join("leader", roleLeader, log.logger())
		follower := c.join("follower", roleFollower, quiet)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(c.seen(onDefault)) + len(c.seen(onFallback)); n != 0 {
			t.Errorf("%d calls without the gate", n)
		}
		c.set(func() { c.gateAway = false })
		time.Sleep(time.Minute)
		leader.stop()
		follower.stop()
		if n := len(c.seen(onDefault)); n < 10 {
			t.Errorf("%d calls after the gate came back", n)
		}
		// A line each for "away" and "known again", of both processors.
		if n := strings.Count(log.String(), "\n"); n != 2*processors {
			t.Errorf("%d lines:\n%s", n, log.String())
		}
	})
}

func TestTooLateAfterWinningIsSkipped(t *testing.T) {
	for _, row := range []struct {
		slow time.Duration
		asks bool
	}{{healthSlack/2 - time.Millisecond, true}, {healthSlack/2 + time.Millisecond, false}} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(6)
			c.gateSlow = row.slow
			leader := c.join("leader", roleLeader, quiet)
			time.Sleep(time.Minute)
			leader.stop()
			if asked := len(c.seen(onDefault)) > 0; asked != row.asks {
				t.Errorf("with %v to and from the gate it was asked: %v", row.slow, asked)
			}
		})
	}
}

func TestTroubleIsOneLineAndNoMoreCalls(t *testing.T) {
	for name, trouble := range map[string]error{"429": errHealthTooSoon, "error": errors.New("reset")} {
		synctest.Test(t, func(t *testing.T) {
			var log lines
			c := newCluster(7)
			well := c.answer
			c.answer = func(p processorID) (healthReading, time.Duration, error) {
				if p == onFallback {
					return well(p)
				}
				return healthReading{}, time.Millisecond, trouble
			}
			leader := c.join("leader", roleLeader, log.logger())
			time.Sleep(time.Minute)
			if n := strings.Count(log.String(), "\n"); n != 1 {
				t.Errorf("%s: %d lines:\n%s", name, n, log.String())
			}
			if calls := len(c.seen(onDefault)); calls < 10 || calls > 12 || leader.reports(onDefault) != 0 {
				t.Errorf("%s: %d calls, %d readings", name, calls, leader.reports(onDefault))
			}
			c.set(func() { c.answer = well })
			time.Sleep(time.Minute)
			leader.stop()
			if n := strings.Count(log.String(), "\n"); n != 2 {
				t.Errorf("%s: %d lines:\n%s", name, n, log.String())
			}
			c.checkApart(t)
		})
	}
}

// TestHeardReadingCountsFromItsArrival: a sender whose clock is an hour off must not make it look old or new.
func TestHeardReadingCountsFromItsArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(8)
		follower := c.join("follower", roleFollower, quiet)
		for range 12 {
			time.Sleep(9 * time.Second)
			before := time.Now()
			follower.hear(healthReport{processor: onFallback, at: nowMicros() - 3_600_000_000})
			if at := follower.reported[onFallback]; !at[len(at)-1].Equal(before) {
				t.Errorf("a reading heard at %v counts from %v", before, at[len(at)-1])
			}
		}
		follower.stop()
		if by := callsBy(c.seen(onFallback)); len(by) != 0 {
			t.Errorf("fallback was asked by %v although its health was heard", by)
		}
		if by := callsBy(c.seen(onDefault)); by["follower"] < 8 {
			t.Errorf("default was asked by %v although nothing of it was heard", by)
		}
	})
}

// TestHealthWithoutABus: the bus of an instance that is alone is nil, and the watch can be given that.
func TestHealthWithoutABus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(9)
		i := &instance{name: "alone", cluster: c}
		var none *bus
		w := newHealthWatch(roleAuto, "alone", i, [processors]healthAsked{askedBy{i, onDefault}, askedBy{i, onFallback}}, none, i.report, quiet)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w.run(ctx)
		if i.reports(onDefault) < 10 || i.reports(onFallback) < 10 {
			t.Errorf("%d and %d readings", i.reports(onDefault), i.reports(onFallback))
		}
	})
}
