package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// bytesConn is a connection on which these bytes arrive, and then the end.
type bytesConn struct {
	in  io.Reader
	out bytes.Buffer
}

func (c *bytesConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *bytesConn) Write(b []byte) (int, error)      { return c.out.Write(b) }
func (c *bytesConn) Close() error                     { return nil }
func (c *bytesConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *bytesConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *bytesConn) SetDeadline(time.Time) error      { return nil }
func (c *bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (c *bytesConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzWire sends any bytes to the server: it comes to an end, no handler panics, and there are as many 202s as payments that the
// parser let in.
func FuzzWire(f *testing.F) {
	body := `{"correlationId":"` + nthID(1).String() + `","amount":19.90}`
	for _, raw := range []string{
		"POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 71\r\n\r\n" + body,
		"POST /payments HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n47\r\n" + body + "\r\n0\r\n\r\n",
		"POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 71\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /payments HTTP/1.0\r\nContent-Length: 71\r\nConnection: keep-alive\r\n\r\n" + body + "GET / HTTP/1.1\r\n\r\n",
		"GET /payments-summary?from=2025-01-01T00:00:00Z HTTP/1.1\r\nHost: x\r\n\r\nGET /payments/" + nthID(1).String() + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /purge-payments HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://a:b@c/%zz?%00#x HTTP/1.1\r\nHost:\r\n\r\n", "\r\n\r\n\x00", "POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
	} {
		f.Add([]byte(raw))
	}
	s, l, d := wholeServer(f)
	h := s.routes()
	l.maxPending = 1 << 16
	refs := make([]ref, claimBatch)
	f.Fuzz(func(t *testing.T, raw []byte) {
		letIn := func() int64 { return s.ledger.appended() + s.metrics.again.Load() }
		before := letIn()
		conn := &bytesConn{in: bytes.NewReader(raw)}
		_ = h.ServeConn(conn) // its error is about the connection
		answers := conn.out.Bytes()
		accepted := int64(0)
		for _, status := range statusesOf(answers) {
			switch status {
			case "202":
				accepted++
			case "500":
				t.Errorf("%q made a handler panic: %q", raw, answers)
			}
		}
		if n := letIn() - before; n != accepted {
			t.Errorf("%q: %d payments let in, %d answered 202: %q", raw, n, accepted, answers)
		}
		if accepted > 0 && !strings.Contains(string(raw), "POST") {
			t.Errorf("%q was accepted", raw)
		}
		for d.waiting() > 0 { // what workers would do
			for _, r := range refs[:d.take(context.Background(), 0, refs)] {
				if v, ok := l.read(r); ok {
					l.become(v, slotDuplicate)
				}
			}
		}
		if err := l.active.prepare(); err != nil {
			t.Fatal(err)
		}
	})
}
