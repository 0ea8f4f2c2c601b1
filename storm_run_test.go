package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A storm is played in virtual time by one to four instances, each made of galo's own parts on a real journal. What is simulated
// lies behind the seams at which galo meets the network: the processors, the store, and NATS.

// stormPolicy is what an instance needs of its policy; the baselines stand in for it here.
type stormPolicy interface {
	gate
	health(id processorID, r healthReading, now time.Time)
	heard(f finding)
	stop()
}

// stormRun is one storm as one policy lives through it.
type stormRun struct {
	storm     storm
	config    config // galo's defaults
	started   time.Time
	log       *slog.Logger
	instances []*stormInstance
	store     *stormStore

	mu         sync.Mutex // guards what follows, the processors and the store
	procs      [processors]*stormProcessor
	payments   []stormPayment // by number
	accepted   int
	turnedAway int
	written    int           // payments that some processor has
	lag        int           // when the storm ended
	seconds    []stormSecond // for the time line; nil without one
	notes      []stormNote
}

// stormPayment is what became of a payment.
type stormPayment struct {
	arrivedAt   time.Duration
	instance    uint8
	turnedAway  bool // 503
	outlasted   bool // an attempt was out for longer than answerInTime
	settled     bool // the store knows what the processor knows
	processor   processorID
	writes      uint8
	requestedAt micros
	writtenAt   time.Duration
}

// stormInstance is one galo.
type stormInstance struct {
	*payer
	policy stormPolicy
	bus    *stormBus
	health *healthWatch
	group  group
}

// stormAmount is what every payment of a storm is about.
const stormAmount = cents(1990)

// elapsed is how long the storm has been going on.
func (r *stormRun) elapsed() time.Duration { return time.Since(r.started) }

// bothFail says that no processor would take a payment of this instance now.
func (r *stormRun) bothFail(instance int) bool {
	now := r.elapsed()
	return r.storm.seenBy(instance, onDefault).at(now).failing && r.storm.seenBy(instance, onFallback).at(now).failing
}

// weatherStorm plays a storm to its end, until all that it has accepted is settled. tell asks for a time line.
func weatherStorm(t *testing.T, s storm, make policyMaker, tell bool) *stormRun {
	c, err := readConfig(func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	modelMetrics() // outside of the bubble: see TestMain
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "galo-storm-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	r := &stormRun{storm: s, config: c, log: slog.New(slog.DiscardHandler)}
	synctest.Test(t, func(t *testing.T) {
		r.started = time.Now()
		r.store = newStormStore(r)
		for id := range r.procs {
			r.procs[id] = &stormProcessor{run: r, id: processorID(id)}
		}
		if tell {
			r.seconds = slices.Repeat([]stormSecond{{}}, 1+int(s.length/time.Second))
			r.log = slog.New(&stormLog{run: r})
		}
		arrivals := s.arrivals()
		r.payments = newPayments(arrivals, s.instances)
		for n := range s.instances {
			r.start(t, dir, n, make)
		}
		for _, in := range r.instances {
			in.run(r)
		}
		r.pour()
		time.Sleep(s.length - r.elapsed())
		r.noteLag()
		r.drain()
		for _, in := range r.instances {
			in.end(t)
		}
		time.Sleep(longestDelay + c.sendTimeout) // what was given up lands
	})
	return r
}

func newPayments(arrivals []time.Duration, instances int) []stormPayment {
	all := make([]stormPayment, len(arrivals))
	for n, at := range arrivals {
		all[n] = stormPayment{arrivedAt: at, instance: uint8(n % instances)}
	}
	return all
}

// start makes an instance, as build does.
func (r *stormRun) start(t *testing.T, dir string, n int, make policyMaker) {
	name, c, log := fmt.Sprint("galo", n), r.config, r.log.With("instance", n)
	f, err := openFolder(dir, name, false, log)
	if err != nil {
		t.Fatal(err)
	}
	clock := newClock()
	l, _, err := openLedger(f, clock, c.maxPending, c.retention, log)
	if err != nil {
		t.Fatal(err)
	}
	m, life := modelMetrics(), newLifeWatch()
	in := &stormInstance{bus: &stormBus{run: r, instance: name}}
	var clients [processors]client
	var asked [processors]healthAsked
	for id, p := range r.procs {
		link := stormLink{p, n, c.sendTimeout}
		clients[id], asked[id] = link, link
	}
	set := newSettler(l, r.store, life, c.linger, m, log)
	d := newDispatcher(c.workers, c.maxPending, c.linger)
	fd := newFeeder(d, c.maxPending)
	in.policy = make(policyParts{r.storm, n, c.maxInFlight, clock, log, in.bus, d.waiting, l.appended})
	res := newResolver(l, in.policy, set, fd, clients, m, log)
	if p, ok := in.policy.(*policy); ok {
		p.reopened = res.retryNow
	}
	e := &elsewhere{ledger: l, feeder: fd, resolver: res, store: r.store, metrics: m, log: log}
	in.payer = &payer{ledger: l, dispatcher: d, feeder: fd, store: r.store, life: life, policy: in.policy, resolver: res, settler: set, elsewhere: e,
		processors: clients, metrics: m, log: log}
	in.bus.find = in.policy.heard
	in.health = newHealthWatch(roleAuto, name, r.store, asked, in.bus, in.policy.health, log)
	jitter := rand.New(rand.NewPCG(r.storm.seed, uint64(n)))
	var mu sync.Mutex // the watches of both processors draw from it
	in.health.jitter = func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(jitter.Int64N(int64(autoJitter)))
	}
	r.instances = append(r.instances, in)
}

// run sets an instance going, as galo's start does.
func (in *stormInstance) run(r *stormRun) {
	in.group.ctx, in.group.end = context.WithCancel(context.Background())
	drained, cancel := context.WithCancel(context.Background())
	cancel()
	in.group.run(in.ledger.keep)
	in.group.run(func(ctx context.Context) { in.settler.run(ctx, drained) })
	in.group.run(in.feeder.run)
	in.group.run(in.resolver.run)
	for n := range r.config.workers {
		in.group.run(newWorker(n, in.payer).run)
	}
	in.group.run(func(ctx context.Context) {
		if _, ok := in.life.await(ctx); ok {
			in.health.run(ctx)
		}
	})
}

func (in *stormInstance) end(t *testing.T) {
	in.policy.stop()
	in.group.end()
	in.group.wait.Wait()
	in.flights.wait()
	if err := in.ledger.close(); err != nil {
		t.Error(err)
	}
}

// pour posts the payments, each to its instance.
func (r *stormRun) pour() {
	for n := range r.payments {
		one := &r.payments[n]
		time.Sleep(one.arrivedAt - r.elapsed())
		id, in := nthID(uint64(n)), r.instances[one.instance]
		ref, what := in.ledger.accept(&id, stormAmount)
		r.mu.Lock()
		if what == acceptedNew {
			r.accepted++
			r.tell(func(s *stormSecond) { s.accepted++; s.held = r.accepted - r.written })
		} else {
			one.turnedAway = true
			r.turnedAway++
		}
		r.mu.Unlock()
		if what == acceptedNew {
			in.dispatcher.push(ref)
		}
	}
}

func (r *stormRun) noteLag() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lag = r.accepted - r.written
}

// drain waits until everything is settled, if that comes. Both processors are well by now.
func (r *stormRun) drain() {
	const limit = 2 * time.Hour
	for end := time.Now().Add(limit); r.pending() > 0 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
}

func (r *stormRun) pending() int64 {
	n := int64(0)
	for _, in := range r.instances {
		n += in.ledger.pending.Load()
	}
	return n
}
