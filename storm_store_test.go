package main

import (
	"context"
	"sync/atomic"
	"time"
)

// storeWork is how long a round trip to the store takes.
const storeWork = time.Millisecond

// stormStore is the store that all instances of a storm share. No payment is posted twice in a storm, and no instance dies, so
// whoever claims wins.
type stormStore struct {
	oneLife
	run   *stormRun
	polls [processors]time.Time // when the key goes that keeps others from asking for health
}

func newStormStore(r *stormRun) *stormStore {
	s := &stormStore{run: r}
	s.living.Store(lifeToken("run.1"))
	return s
}

func (s *stormStore) claim(_ context.Context, _ lifeToken, _ bool, in []claim, out []claimAnswer) error {
	time.Sleep(storeWork)
	clear(out[:len(in)])
	return nil
}

func (s *stormStore) settle(_ context.Context, _ lifeToken, _ uint64, in []settlement, _ []journalProgress) ([]paymentID, error) {
	time.Sleep(storeWork)
	s.run.mu.Lock()
	defer s.run.mu.Unlock()
	for _, one := range in {
		p := &s.run.payments[paymentNumber(one.id)]
		p.settled = one.state == recordPaid && p.writes == 1 && one.processor == p.processor && one.requestedAt == p.requestedAt
	}
	return nil, nil
}

func (s *stormStore) poll(_ context.Context, p processorID, _ string) (bool, error) {
	time.Sleep(storeWork)
	s.run.mu.Lock()
	defer s.run.mu.Unlock()
	now := time.Now()
	if now.Before(s.polls[p]) {
		return false, nil
	}
	s.polls[p] = now.Add(healthWindow)
	return true, nil
}

func (s *stormStore) pollDone(_ context.Context, p processorID, _ string) error {
	time.Sleep(storeWork)
	s.run.mu.Lock()
	defer s.run.mu.Unlock()
	s.polls[p] = time.Now().Add(healthWindow)
	return nil
}

// stormBus is one instance's way to the others.
type stormBus struct {
	run      *stormRun
	instance string
	hear     atomic.Pointer[func(healthReport)]
	find     func(finding)
}

// busWork is how long a message travels.
const busWork = time.Millisecond

func (b *stormBus) onHealth(hear func(healthReport)) { b.hear.Store(&hear) }

func (b *stormBus) publishHealth(r healthReport) {
	b.toOthers(func(other *stormBus) { (*other.hear.Load())(r) })
}

func (b *stormBus) publishFinding(f finding) {
	f.instance = b.instance
	b.toOthers(func(other *stormBus) { other.find(f) })
}

// toOthers brings something to every other instance, unless there is no NATS in this storm.
func (b *stormBus) toOthers(hand func(*stormBus)) {
	if !b.run.storm.nats || len(b.run.instances) < 2 {
		return
	}
	time.AfterFunc(busWork, func() {
		for _, in := range b.run.instances {
			if in.bus != b {
				hand(in.bus)
			}
		}
	})
}
