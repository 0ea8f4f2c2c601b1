package main

import (
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
	rounds atomic.Uint64 // of watch; written by it alone. It orders nothing
}

// The wait after an error doubles from the shortest to the longest.
const (
	shortestRest = 5 * time.Millisecond
	longestRest  = time.Second
)

func newSteadfastListener(ln net.Listener, log *slog.Logger) *steadfastListener {
	return &steadfastListener{Listener: ln, log: log, open: make(map[*knownConn]struct{}), closed: make(chan struct{})}
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
			return l.know(quieten(conn)), nil
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

func (l *steadfastListener) know(conn net.Conn) *knownConn {
	c := &knownConn{Conn: conn, of: l}
	c.state.Store(uint64(l.now(connBusy))) // its first request has to come as soon as if it had begun
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	return c
}
