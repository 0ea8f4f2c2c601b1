package main

import (
	"context"
	"sync/atomic"
	"time"
)

// stall is what summaries lack: payments that were paid and that Redis cannot be told of, here or at another instance. While there
// are any, a summary would be a partial number, and is refused.
type stall struct {
	clock *clock
	tell  func() // tells the other instances
	here  atomic.Bool
	// until is the instant up to which another instance's word holds. Written by whoever hears it.
	until atomic.Int64
}

const (
	// stallEvery is how often the others are told, and stallLife how long that holds: two of the messages may be lost.
	stallEvery = 300 * time.Millisecond
	stallLife  = time.Second
)

// heard is called when another instance says that it cannot settle.
func (s *stall) heard() { s.until.Store(int64(s.clock.now() + micros(stallLife.Microseconds()))) }

// lacking says whether summaries lack something.
func (s *stall) lacking() bool { return s.here.Load() || s.clock.now() < micros(s.until.Load()) }

// run tells the others until ctx ends.
func (s *stall) run(ctx context.Context) {
	tick := time.NewTicker(stallEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.here.Load() {
			s.tell()
		}
	}
}
