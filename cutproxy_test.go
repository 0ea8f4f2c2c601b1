package main

import (
	"io"
	"net"
	"sync"
	"testing"
)

// cutProxy stands between an instance and a server, and cuts what goes through it.
type cutProxy struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	blocked bool
	limit   int64 // a connection ends after so many bytes to the server; 0: never
	conns   map[net.Conn]bool
	done    sync.WaitGroup
}

func newCutProxy(t testing.TB, target string) *cutProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &cutProxy{listener: ln, target: target, conns: make(map[net.Conn]bool)}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		ln.Close()
		p.block()
		p.done.Wait()
	})
	return p
}

func (p *cutProxy) addr() string { return p.listener.Addr().String() }

func (p *cutProxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.done.Go(func() { p.carry(conn) })
	}
}

func (p *cutProxy) carry(client net.Conn) {
	defer client.Close()
	limit, ok := p.enter(client)
	if !ok {
		return
	}
	defer p.leave(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if _, ok := p.enter(server); !ok {
		return
	}
	defer p.leave(server)
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(client, server)
		client.Close()
	})
	if limit > 0 {
		io.CopyN(server, client, limit) // and what was on its way is lost in the middle
	} else {
		io.Copy(server, client)
	}
	server.Close()
	back.Wait()
}

// enter makes a connection known; it is false while nothing goes through.
func (p *cutProxy) enter(conn net.Conn) (limit int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blocked {
		return 0, false
	}
	p.conns[conn] = true
	return p.limit, true
}

func (p *cutProxy) leave(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// block ends every connection and lets none through any more.
func (p *cutProxy) block() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked = true
	p.endAll()
}

// cutAfter ends every connection, and each new one after so many bytes.
func (p *cutProxy) cutAfter(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = bytes
	p.endAll()
}

func (p *cutProxy) endAll() {
	for conn := range p.conns {
		conn.Close()
	}
}

// heal lets everything through again.
func (p *cutProxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked, p.limit = false, 0
}
