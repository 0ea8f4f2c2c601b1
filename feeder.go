package main

import (
	"context"
	"sync"
	"time"
)

// feeder brings refs to the dispatcher that do not come from intake: what a journal held at the start or when it was taken
// over, what was looked up first, and what has to be claimed anew. They may be more than the rings have room for (MAX_PENDING
// bounds only what is accepted), so they wait here, and nobody who hands one over waits at all.
type feeder struct {
	dispatcher *dispatcher
	room       int // how many refs may be in the rings
	mu         sync.Mutex
	refs       []ref
	kicked     chan struct{} // capacity 1
}

func newFeeder(d *dispatcher, room int) *feeder {
	return &feeder{dispatcher: d, room: room, kicked: make(chan struct{}, 1)}
}

func (f *feeder) add(refs ...ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs = append(f.refs, refs...)
	select {
	case f.kicked <- struct{}{}:
	default:
	}
}

// run feeds until ctx ends. The rings cannot overflow: intake pushes only while all that is pending, what waits here
// included, is below room, and nobody else pushes.
func (f *feeder) run(ctx context.Context) {
	const fullRetry = time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.kicked:
		}
		for r, ok := f.next(); ok; r, ok = f.next() {
			for f.dispatcher.waiting() >= f.room {
				if pause(ctx, fullRetry); ctx.Err() != nil {
					return
				}
			}
			f.dispatcher.push(r)
		}
	}
}

func (f *feeder) next() (ref, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.refs) == 0 {
		f.refs = nil
		return 0, false
	}
	r := f.refs[0]
	f.refs = f.refs[1:]
	return r, true
}

func (f *feeder) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.refs)
}
