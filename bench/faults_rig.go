package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

const (
	killSignal = syscall.SIGKILL
	galoCount  = 2
)

// A rig is everything that runs while faults are made: two galos, Redis, NATS and two processors, with a wire of its own between
// each galo and each of the others.
type rig struct {
	ctx     context.Context // for what has to be finished even when the run is to end
	dir     string
	galo    *fleet
	servers *fleet
	redis   *redisServer
	nats    *instance
	clock   steppedClock
	wires   map[thing]*wire
	laid    *wires
	admins  [processors]*adminClient
	doors   [galoCount]*door // one for each galo
	both    *door
	ports   *ports
	say     func(format string, args ...any)

	// The processors run in this process, so that the load can ask them at no cost.
	processors [processors]*processor

	mu      sync.Mutex
	renamed int
	notes   []string // ends of galo that were not in order, though nobody is to blame for them
}

// buildRig builds and starts everything.
func buildRig(ctx context.Context, s faultSettings, dir string, say func(string, ...any)) (r *rig, err error) {
	p := newPorts()
	r = &rig{
		ctx: context.WithoutCancel(ctx), dir: dir, say: say, ports: p, laid: newWires(p), wires: make(map[thing]*wire),
		servers: &fleet{say: say, ports: p},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.clock, err = newSteppedClock(dir); err != nil {
		return nil, err
	}
	if r.redis, err = newRedis(r.servers, dir); err != nil {
		return nil, err
	}
	say("building galo and nats-server")
	var flags []string
	if s.race {
		flags = []string{"-race"}
	}
	binary, err := buildStepped(ctx, dir, s.overlay, flags...)
	if err != nil {
		return nil, err
	}
	if r.nats, err = newNATS(ctx, r.servers, dir); err != nil {
		return nil, err
	}
	for _, in := range r.servers.instances {
		if err := in.again(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.startProcessors(s); err != nil {
		return nil, err
	}
	if err := r.layWires(); err != nil {
		return nil, err
	}
	return r, r.startGalos(ctx, s, binary)
}

func (r *rig) startProcessors(s faultSettings) error {
	for i, on := range [processors]thing{wireDefault, wireFallbck} {
		p, url, err := startProcessor(processorNames[i], s.fees[i], defaultToken)
		if err != nil {
			return err
		}
		r.processors[i], r.admins[i] = p, newAdminClient(processorNames[i], url, defaultToken)
		if err := r.lay(on, strings.TrimPrefix(url, "http://")); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) layWires() error {
	for _, on := range []thing{redisWire1, redisWire2} {
		if err := r.lay(on, r.redis.addr); err != nil {
			return err
		}
	}
	for _, on := range []thing{natsWire1, natsWire2} {
		if err := r.lay(on, r.nats.addr); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) lay(on thing, to string) (err error) {
	r.wires[on], err = r.laid.lay(string(on), to)
	return err
}

func (r *rig) startGalos(ctx context.Context, s faultSettings, binary string) (err error) {
	var urls [processors]string
	for p, on := range [processors]thing{wireDefault, wireFallbck} {
		urls[p] = "http://" + r.wires[on].addr()
	}
	toRedis, toNATS := [galoCount]thing{redisWire1, redisWire2}, [galoCount]thing{natsWire1, natsWire2}
	roles := [galoCount]string{"leader", "follower"}
	r.galo, err = startFleet(ctx, fleetOptions{
		ports: r.ports, binary: binary, dir: r.dir, instances: galoCount, urls: urls, fees: s.fees, patience: s.patience.String(),
		own: func(i int) []string {
			return []string{
				"ROLE=" + roles[i], "REDIS_URL=redis://" + r.wires[toRedis[i]].addr(),
				"NATS_URL=nats://" + r.wires[toNATS[i]].addr(), clockVariable + "=" + r.clock.path,
			}
		},
	}, r.say)
	if err != nil {
		return err
	}
	for i, base := range r.galo.bases() {
		if r.doors[i], err = newDoor(base); err != nil {
			return err
		}
	}
	r.both, err = newDoor(r.galo.bases()...)
	return err
}

// close takes everything down, galo first, and hands over what galo had to say about it.
func (r *rig) close() error {
	var all []error
	if r.galo != nil {
		for _, in := range r.galo.instances {
			all = append(all, in.resume(), r.stopInOrder(in), in.log.Close())
		}
	}
	r.laid.close()
	for _, in := range r.servers.instances {
		all = append(all, in.end(killSignal), in.log.Close())
	}
	for _, p := range r.processors {
		if p != nil {
			p.close()
		}
	}
	return errors.Join(all...)
}

func (r *rig) instance(on thing) *instance {
	if on == theGalo1 {
		return r.galo.instances[0]
	}
	return r.galo.instances[1]
}

// stopInOrder ends a galo by the signal that means it. One that could not finish everything says so with status 1: what is left
// is in its journal, so that is no fault of its own while Redis or a processor are away.
func (r *rig) stopInOrder(in *instance) error {
	err := in.end(syscall.SIGTERM)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.notes = append(r.notes, in.name+" had not finished everything when its time to stop was over")
		return nil
	}
	return err
}

// rename gives an instance that is down another name, as a container that is made anew has.
func (r *rig) rename(in *instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.renamed++
	in.env = append(in.env, fmt.Sprintf("INSTANCE=%s-again-%d", in.name, r.renamed))
}

// paid says that some processor has a payment.
func (r *rig) paid(id uuid.UUID) bool {
	for _, p := range r.processors {
		if _, there := p.ledger.find(id); there {
			return true
		}
	}
	return false
}

// behave makes a processor what it is to be.
func (r *rig) behave(on thing, b behaviour) error {
	a := r.admins[onDefault]
	if on == theFallback {
		a = r.admins[onFallback]
	}
	return errors.Join(a.enter(r.ctx, b.delay, b.failing), a.lose(r.ctx, b.lost), a.oddly(r.ctx, b.odd))
}

// panics are lines in the logs that no galo may ever write.
func (r *rig) panics() []string {
	words := []string{"panic:", "panicked", "fatal error:", "WARNING: DATA RACE", "two slots have an attempt out"}
	var found []string
	for _, in := range r.galo.instances {
		text, err := os.ReadFile(in.log.Name())
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		for line := range strings.Lines(string(text)) {
			for _, word := range words {
				if strings.Contains(line, word) {
					found = append(found, in.name+": "+strings.TrimSpace(line))
				}
			}
		}
	}
	return found
}

// A stallWatch measures for how long this process was held up at most: by so much may the processors in it be wrong about when
// something came.
type stallWatch struct {
	mu      sync.Mutex
	longest time.Duration
}

func (s *stallWatch) run(ctx context.Context) {
	const every = 10 * time.Millisecond
	for last := time.Now(); ctx.Err() == nil; last = time.Now() {
		time.Sleep(every)
		s.mu.Lock()
		s.longest = max(s.longest, time.Since(last)-every)
		s.mu.Unlock()
	}
}

func (s *stallWatch) worst() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.longest
}
