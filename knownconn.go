package main

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// connLimits are how long a client may take. Each is kept in rounds of watch, to one less or two more.
type connLimits struct {
	idle  time.Duration // from an answer to the next request
	read  time.Duration // for a request to arrive whole, from its first byte on; for a connection's first one, from its opening on
	write time.Duration // for an answer to be taken, at least; read longer than that at most
}

// watchRounds is how many rounds of watch the shortest limit has.
const watchRounds = 10

func (m connLimits) round() time.Duration { return min(m.idle, m.read, m.write) / watchRounds }

// watch cuts off connections whose clients take longer than they may, until ctx ends. Deadlines would do the same, and each costs a
// look at the clock and a timer, three times a request: a quarter of what a payment's whole intake does. This costs two stores.
func (l *steadfastListener) watch(ctx context.Context, limits connLimits) {
	tick := time.NewTicker(limits.round())
	defer tick.Stop()
	for {
		l.look(limits)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look is one round of watch.
func (l *steadfastListener) look(limits connLimits) {
	now, round := l.rounds.Add(1), limits.round()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		s := connState(c.state.Load())
		took := time.Duration(now-s.since()) * round // or up to a round less
		switch s.kind() {
		case connIdle:
			c.cutIf(s, took > limits.idle)
		case connBusy:
			c.cutIf(s, took > limits.read)
		case connCut:
			if took > limits.read+limits.write {
				c.Conn.SetWriteDeadline(passedDeadline()) // a write that began before it was cut off
			}
		}
	}
}

// passedDeadline is over, whatever the clock says.
func passedDeadline() time.Time { return time.Unix(1, 0) }

// connState is what a connection is at, in its lowest two bits, and the round of watch in which that began.
type connState uint64

const (
	connIdle connState = iota // between an answer and a request
	connBusy                  // in a request, from its first byte to the end of its answer
	connCut                   // has taken too long, and reads no more; unless what was waited for has come all the same

	connKinds = 4
)

func (s connState) kind() connState { return s % connKinds }
func (s connState) since() uint64   { return uint64(s / connKinds) }

// now is a state that begins now.
func (l *steadfastListener) now(kind connState) connState {
	return connState(l.rounds.Load())*connKinds + kind
}

// knownConn is a connection that its listener knows until it is closed.
type knownConn struct {
	net.Conn
	of *steadfastListener
	// state is a connState. Written by the goroutine that serves the connection, and by watch when it cuts it off: by compare-and-swap,
	// under the listener's lock, under which deadlines are set and taken back, too.
	state atomic.Uint64
}

// cutIf lets reads fail, if it shall and the connection is still at what it was: its server answers half a request then, and ends.
// A handler that runs notices nothing, and neither does its client: see enter. The caller holds the listener's lock.
func (c *knownConn) cutIf(was connState, shall bool) {
	if shall && c.state.CompareAndSwap(uint64(was), uint64(was-was.kind()+connCut)) {
		c.Conn.SetReadDeadline(passedDeadline())
	}
}

// enter begins another state. A connection that was cut off goes on: what was waited for has come in the same moment, or it was the
// handler's time and not the client's.
func (c *knownConn) enter(kind connState) {
	if was := connState(c.state.Swap(uint64(c.of.now(kind)))); was.kind() == connCut {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.Conn.SetDeadline(time.Time{})
	}
}

// served is told by the server what it is at. Its word for a request that begins is due when its first byte is there, whether that
// came alone or behind another request.
func served(conn net.Conn, at fasthttp.ConnState) {
	c, ok := conn.(*knownConn)
	if !ok {
		return
	}
	switch at {
	case fasthttp.StateActive:
		if connState(c.state.Load()).kind() != connBusy { // as it is in a connection's first request
			c.enter(connBusy)
		}
	case fasthttp.StateIdle:
		c.enter(connIdle)
	case fasthttp.StateNew, fasthttp.StateClosed, fasthttp.StateHijacked:
	}
}

// Write writes. An answer that begins late has as long to be taken as any other.
func (c *knownConn) Write(p []byte) (int, error) {
	if connState(c.state.Load()).kind() == connCut {
		c.enter(connBusy)
	}
	return c.Conn.Write(p)
}

// Close closes the connection, and its listener forgets it.
func (c *knownConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
