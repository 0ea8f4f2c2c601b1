package main

import (
	"sync/atomic"
	"time"
)

// guard lets readers hold on to memory that is about to be unmapped, without a lock: a reader enters, looks, and leaves; who
// wants to unmap takes the memory out of sight first and then waits in drain until every reader that may have seen it has left.
//
// Readers are counted in one of two counters, by the parity of the round. drain turns the round twice: a reader that loaded
// the round just before it turned may count itself late in the old counter, and is then caught by the second turn.
type guard struct {
	round atomic.Uint32
	_     [60]byte
	in    [2]struct {
		n atomic.Int64 // readers inside; written by every reader
		_ [56]byte
	}
}

// enter returns what leave wants back.
func (g *guard) enter() uint32 {
	side := g.round.Load() & 1
	g.in[side].n.Add(1)
	return side
}

func (g *guard) leave(side uint32) { g.in[side].n.Add(-1) }

// drain returns when every reader that entered before the call has left. Only one goroutine may be in it.
func (g *guard) drain() {
	const pause = 100 * time.Microsecond // readers stay for less than that
	for range 2 {
		old := g.round.Add(1) - 1
		for g.in[old&1].n.Load() != 0 {
			time.Sleep(pause)
		}
	}
}
