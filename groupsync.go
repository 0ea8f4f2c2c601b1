package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// groupSync lets many wait for one sync of the journals: whoever calls wait while a sync is under way is served by the next.
type groupSync struct {
	sync func() error
	log  *slog.Logger
	mu   sync.Mutex
	next chan struct{} // closed by the first sync that begins after it was read
	kick chan struct{}
	done atomic.Int64 // syncs so far
}

func newGroupSync(sync func() error, log *slog.Logger) *groupSync {
	return &groupSync{sync: sync, log: log, next: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// wait returns when a sync that began after the call has ended.
func (g *groupSync) wait() {
	g.mu.Lock()
	done := g.next
	g.mu.Unlock()
	select {
	case g.kick <- struct{}{}:
	default:
	}
	<-done
}

// run syncs on demand until ctx ends. A sync that fails is repeated: nobody is told that something is on the disk which is not.
func (g *groupSync) run(ctx context.Context) {
	const retry = 100 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.kick:
		}
		g.mu.Lock()
		served := g.next
		g.next = make(chan struct{})
		g.mu.Unlock()
		for err := g.sync(); err != nil; err = g.sync() {
			g.log.Error("cannot sync the journal", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retry):
			}
		}
		g.done.Add(1)
		close(served)
	}
}
