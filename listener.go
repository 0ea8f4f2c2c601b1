package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// steadfastListener goes on where another one would end: a machine or a process that has no room for one more connection now will
// have some later. It knows its connections, so that a stop can close those whose clients do not come to an end.
type steadfastListener struct {
	net.Listener
	log *slog.Logger

	mu     sync.Mutex
	open   map[*knownConn]struct{}
	closed chan struct{}
	once   sync.Once
	rounds atomic.Int64 // of watch, from 1; written by it alone. It orders nothing
}

// The wait after an error doubles from the shortest to the longest.
const (
	shortestRest = 5 * time.Millisecond
	longestRest  = time.Second
)

func newSteadfastListener(ln net.Listener, log *slog.Logger) *steadfastListener {
	return &steadfastListener{Listener: ln, log: log, open: make(map[*knownConn]struct{}), closed: make(chan struct{})}
}

// watchRounds is how many rounds of watch an answer may take to be taken.
const watchRounds = 10

// watch closes connections whose clients do not take their answers within limit, until ctx ends. A deadline for each answer would
// do the same, and costs a tenth of what a payment's whole intake does; this costs an answer two stores.
func (l *steadfastListener) watch(ctx context.Context, limit time.Duration) {
	tick := time.NewTicker(limit / watchRounds)
	defer tick.Stop()
	for {
		now := l.rounds.Add(1)
		l.mu.Lock()
		for c := range l.open {
			if since := c.writing.Load(); since != 0 && now-since > watchRounds {
				c.Conn.Close() // its server sees the error and ends
			}
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// passes says whether an error of accept is about the moment, not about the listener: no file left, no memory left, or a client
// that was gone before it was accepted.
func passes(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Accept waits for a connection, also through errors that pass.
func (l *steadfastListener) Accept() (net.Conn, error) {
	for rest := time.Duration(0); ; {
		conn, err := l.Listener.Accept()
		if err == nil {
			return l.know(conn), nil
		}
		if !passes(err) {
			return nil, err
		}
		if rest == 0 {
			l.log.Warn("cannot accept a connection now: it waits", "error", err)
		}
		rest = min(max(2*rest, shortestRest), longestRest)
		select {
		case <-l.closed:
			return nil, net.ErrClosed
		case <-time.After(rest):
		}
	}
}

// Close ends accepting. Connections stay.
func (l *steadfastListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// cut closes every connection there is, and says how many these were.
func (l *steadfastListener) cut() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Conn.Close() // its server sees the error and ends
	}
	return len(l.open)
}

func (l *steadfastListener) know(conn net.Conn) net.Conn {
	c := &knownConn{Conn: conn, of: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	return c
}

// knownConn is a connection that its listener knows until it is closed.
type knownConn struct {
	net.Conn
	of *steadfastListener
	// writing is the round of watch in which a write began that is not over; 0 while there is none. Written by whoever writes,
	// read by watch.
	writing atomic.Int64
}

// Write writes under the eyes of watch.
func (c *knownConn) Write(p []byte) (int, error) {
	c.writing.Store(max(c.of.rounds.Load(), 1))
	n, err := c.Conn.Write(p)
	c.writing.Store(0)
	return n, err
}

// Close closes the connection, and its listener forgets it.
func (c *knownConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
