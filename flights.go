package main

import (
	"context"
	"sync"
	"sync/atomic"
)

// flights runs each flight in a goroutine of its own, which is kept for the next one when it is back: a new one would copy its stack
// twice before it has sent anything. Its zero value is ready for use.
type flights struct {
	once sync.Once
	next chan flight // nobody waits at it but who is back
	back atomic.Int64
	all  sync.WaitGroup
}

// flight is an attempt that was journalled as sent, until ctx ends or its outcome is known.
type flight struct {
	ctx   context.Context
	v     slotView
	pm    permit
	token lifeToken
	fly   func(flight)
}

// maxBack is how many goroutines wait for their next flight: as many as four workers send out at once, which is their usual number. What
// a slow processor needs beyond that would keep its stacks, of 8 KiB, for nothing.
const maxBack = 4 * claimBatch

// start begins a flight. It waits for nothing.
func (f *flights) start(one flight) {
	f.once.Do(func() { f.next = make(chan flight) })
	select {
	case f.next <- one:
	default:
		f.begin(one)
	}
}

// begin is apart from start, whose every flight would go to the heap for the sake of this closure.
func (f *flights) begin(one flight) { f.all.Go(func() { f.run(one) }) }

// run flies one after the other, until the context of the first one ends.
func (f *flights) run(one flight) {
	ended := one.ctx.Done()
	for {
		one.fly(one)
		if f.back.Add(1) > maxBack {
			f.back.Add(-1)
			return
		}
		select {
		case one = <-f.next:
			f.back.Add(-1)
		case <-ended:
			f.back.Add(-1)
			return
		}
	}
}

// wait returns when all are over. The contexts of all have ended, and nobody starts another one.
func (f *flights) wait() { f.all.Wait() }
