package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// This file is about the end of an instance: what is stopped in which order, and how long each step may take.

// stop ends everything in order, each step within its part of the time. What it does not finish is in the journal.
func (g *galo) stop(limit time.Duration) error {
	g.ready.stopping.Store(true)
	var failed error
	step := func(name string, part time.Duration, do func(time.Duration) error) {
		started := time.Now()
		err := do(part)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot stop %s: %w", name, err))
			return
		}
		g.log.Info("stopped", "part", name, "took", time.Since(started).Round(time.Millisecond))
	}
	step("accepting", limit/4, g.stopAccepting)
	step("sending", limit/2, func(d time.Duration) error {
		g.policy.stop()
		g.sending.end()
		return within(d, func() { g.sending.wait.Wait(); g.payer.flights.wait() })
	})
	step("settling", limit/8, func(d time.Duration) error {
		g.settling.end()
		return within(d, g.settling.wait.Wait)
	})
	step("the rest", limit/8, func(d time.Duration) error {
		g.standing.end()
		err := shutdown(g.admin.http, d)
		for _, door := range g.doors {
			door.Close() // as a rule it is; a server that began to serve after it was shut down would not end otherwise
		}
		return errors.Join(err, within(d, g.standing.wait.Wait))
	})
	if failed != nil {
		return failed // somebody may still hold a slot: the process's end unmaps the journals
	}
	return g.close()
}

// stopAccepting answers the requests that have begun. Clients that do not come to an end with theirs keep nobody: when most of the
// time is over they are cut off, and nothing of theirs was accepted.
func (g *galo) stopAccepting(limit time.Duration) error {
	cut := time.AfterFunc(limit*3/4, func() {
		if g.door == nil {
			return
		}
		if n := g.door.cut(); n > 0 {
			g.log.Warn("clients that did not end their requests were cut off", "connections", n)
		}
	})
	defer cut.Stop()
	return shutdown(g.server, limit)
}

// close gives back what the parts hold.
func (g *galo) close() error {
	g.bus.close()
	for _, c := range g.clients {
		c.close()
	}
	err := errors.Join(g.store.close(), g.ledger.close())
	if g.embedded != nil {
		g.embedded()
	}
	return err
}

// group is goroutines with one end.
type group struct {
	ctx  context.Context
	end  context.CancelFunc
	wait sync.WaitGroup
}

func (g *group) run(f func(context.Context)) { g.wait.Go(func() { f(g.ctx) }) }

var errTooSlow = errors.New("it took too long")

// within waits for f, but no longer than limit.
func within(limit time.Duration, f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return nil
	case <-time.After(limit):
		return errTooSlow
	}
}
