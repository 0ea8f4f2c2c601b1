package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// turnedDoor serves over real sockets, and its rounds of watch are turned by the test: no time passes otherwise.
type turnedDoor struct {
	t      *testing.T
	door   *steadfastListener
	limits connLimits
	addr   string
	begun  atomic.Int64 // requests, all in all
}

// newTurnedDoor has the limits of the stack: ten rounds for a request and for an answer, ninety between them.
func newTurnedDoor(t *testing.T, wrap func(fasthttp.RequestHandler) fasthttp.RequestHandler) *turnedDoor {
	t.Helper()
	s, _, _ := wholeServer(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h, door := s.routes(), newSteadfastListener(ln, quietLog())
	if wrap != nil {
		h.Handler = wrap(h.Handler)
	}
	d := &turnedDoor{t: t, door: door, limits: clientLimits(), addr: ln.Addr().String()}
	h.ConnState = func(conn net.Conn, at fasthttp.ConnState) {
		served(conn, at)
		if at == fasthttp.StateActive {
			d.begun.Add(1)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(door) }()
	t.Cleanup(func() {
		door.cut()
		if err := errors.Join(h.Shutdown(), <-ended); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *turnedDoor) rounds(n int) {
	for range n {
		d.door.look(d.limits)
	}
}

// dial opens a connection that the server has accepted; it is the only one.
func (d *turnedDoor) dial() *turnedClient {
	d.t.Helper()
	eventually(d.t, "the one before is forgotten", func() bool { return len(d.kinds()) == 0 })
	conn := dialHostile(d.t, d.addr)
	d.becomes(connBusy)
	return &turnedClient{conn, bufio.NewReader(conn)}
}

func (d *turnedDoor) kinds() (kinds []connState) {
	d.door.mu.Lock()
	defer d.door.mu.Unlock()
	for c := range d.door.open {
		kinds = append(kinds, connState(c.state.Load()).kind())
	}
	return kinds
}

// becomes waits until the only connection is at something.
func (d *turnedDoor) becomes(kind connState) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("the connection is at %d", kind), func() bool {
		kinds := d.kinds()
		return len(kinds) == 1 && kinds[0] == kind
	})
}

// begins waits until the server has begun with so many requests that are sent.
func (d *turnedDoor) begins(requests int64, send func()) {
	d.t.Helper()
	want := d.begun.Load() + requests
	send()
	eventually(d.t, "the request begins", func() bool { return d.begun.Load() == want })
}

// turnedClient reads one answer after the other.
type turnedClient struct {
	net.Conn
	answers *bufio.Reader
}

// status is that of the next answer, 0 at the end of the connection.
func (c *turnedClient) status() (int, error) {
	res, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// asks sends a whole request and reads its answer, after which the connection is idle.
func (d *turnedDoor) asks(c *turnedClient) {
	d.t.Helper()
	io.WriteString(c, getNothing)
	d.answered(c, 404)
	d.becomes(connIdle)
}

func (d *turnedDoor) answered(c *turnedClient, want int) {
	d.t.Helper()
	if got, err := c.status(); got != want || err != nil {
		d.t.Fatalf("answered %d, %v, want %d", got, err, want)
	}
}

// ends wants these answers on a connection, and its end.
func (d *turnedDoor) ends(c *turnedClient, want ...int) {
	d.t.Helper()
	for _, status := range want {
		d.answered(c, status)
	}
	if got, err := c.status(); got != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		d.t.Errorf("ended with %d, %v", got, err)
	}
}

const getNothing = "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"

// TestIdleConnectionIsClosedInTime: not before its time, however often it has been idle, and without a word.
func TestIdleConnectionIsClosedInTime(t *testing.T) {
	d := newTurnedDoor(t, nil)
	conn := d.dial()
	for range 20 {
		d.asks(conn)
		d.rounds(90)
		d.becomes(connIdle)
	}
	d.asks(conn)
	d.rounds(92)
	d.ends(conn)
}

// TestConnectionWithoutARequestIsClosedInTime: its first one has to come as soon as if it had begun.
func TestConnectionWithoutARequestIsClosedInTime(t *testing.T) {
	d := newTurnedDoor(t, nil)
	conn := d.dial()
	d.rounds(10)
	d.asks(conn)
	conn.Close()
	conn = d.dial()
	d.rounds(12)
	d.ends(conn, 400)
}

// TestHalfARequestIsAnsweredInTime: wherever it stops, and whatever went before it on its connection.
func TestHalfARequestIsAnsweredInTime(t *testing.T) {
	d := newTurnedDoor(t, nil)
	const post, host = "POST /payments HTTP/1.1\r\n", "Host: x\r\n"
	for name, half := range map[string]string{
		"one byte": "P", "line": post[:10], "headers": post + host, "body": post + host + "Content-Length: 71\r\n\r\n{",
		"no body": post + host + "Content-Length: 71\r\n\r\n", "chunks": post + host + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			conn := d.dial()
			d.begins(1, func() { io.WriteString(conn, half) })
			d.rounds(10)
			d.becomes(connBusy)
			d.rounds(2)
			d.ends(conn, 400)

			conn = d.dial() // after another request
			d.asks(conn)
			d.rounds(50)
			d.begins(1, func() { io.WriteString(conn, half) })
			d.rounds(10)
			d.becomes(connBusy)
			d.rounds(2)
			d.ends(conn, 400)

			conn = d.dial() // behind another request, in the same bytes
			d.asks(conn)
			d.begins(2, func() { io.WriteString(conn, getNothing+half) })
			d.rounds(10)
			d.becomes(connBusy)
			d.rounds(2)
			d.ends(conn, 404, 400)
		})
	}
	d.t = t
	conn := d.dial()
	d.asks(conn)
	io.WriteString(conn, post+host+"Expect: 100-continue\r\nContent-Length: 71\r\n\r\n")
	d.answered(conn, 100)
	d.becomes(connBusy)
	d.rounds(12)
	d.ends(conn, 400)
}

// TestHandlerMayTakeItsTime: it is not the client's.
func TestHandlerMayTakeItsTime(t *testing.T) {
	var inside, release sync.WaitGroup
	wait := false
	d := newTurnedDoor(t, func(next fasthttp.RequestHandler) fasthttp.RequestHandler {
		return func(ctx *fasthttp.RequestCtx) {
			if wait {
				inside.Done()
				release.Wait()
			}
			next(ctx)
		}
	})
	conn := d.dial()
	d.asks(conn)
	for _, requests := range []int{1, 2} { // one alone, and one with another one behind it
		wait = true
		inside.Add(1)
		release.Add(1)
		io.WriteString(conn, getNothing)
		inside.Wait()
		wait = false
		if requests == 2 {
			io.WriteString(conn, getNothing)
		}
		d.rounds(1000)
		release.Done()
		for range requests {
			d.answered(conn, 404)
		}
		d.becomes(connIdle)
		d.rounds(90)
		d.asks(conn)
	}
}

// TestAnswerThatNobodyTakesIsGivenUp: not before it had its time, however long its handler took.
func TestAnswerThatNobodyTakesIsGivenUp(t *testing.T) {
	for name, before := range map[string]int{"at once": 0, "late": 9, "cut off": 15, "long after": 1000} {
		t.Run(name, func(t *testing.T) {
			one, two := net.Pipe() // a write takes until it is read
			defer two.Close()
			d := &turnedDoor{t: t, door: newSteadfastListener(nil, quietLog()), limits: clientLimits()}
			c := d.door.know(one)
			d.rounds(before) // of its handler
			ended := make(chan error, 1)
			begun := make(chan struct{})
			c.Conn = beginningConn{one, begun}
			go func() {
				_, err := c.Write([]byte("HTTP/1.1 202"))
				ended <- err
			}()
			<-begun
			d.rounds(10)
			select {
			case err := <-ended:
				t.Errorf("it was given up too early: %v", err)
			default:
			}
			d.rounds(12)
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// beginningConn tells when a write begins.
type beginningConn struct {
	net.Conn
	begun chan struct{}
}

func (c beginningConn) Write(p []byte) (int, error) {
	close(c.begun)
	return c.Conn.Write(p)
}

// TestWholeRequestsAreNeverCutOff: not even if watch looks all the time, and has no patience with half ones.
func TestWholeRequestsAreNeverCutOff(t *testing.T) {
	d := newTurnedDoor(t, nil)
	conn := d.dial()
	d.asks(conn)
	d.limits = connLimits{idle: 1 << 60, read: 1, write: 1 << 60}
	done := make(chan struct{})
	var turning sync.WaitGroup
	turning.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				d.rounds(1)
			}
		}
	})
	request := []byte(getNothing)
	for range 5000 {
		if _, err := conn.Write(request); err != nil {
			t.Error(err)
			break
		}
		if d.answered(conn, 404); t.Failed() {
			break
		}
	}
	close(done)
	turning.Wait()
}

// deadlineConn knows the read deadline that was set last.
type deadlineConn struct {
	net.Conn
	at time.Time
}

func (c *deadlineConn) SetDeadline(at time.Time) error      { return c.SetReadDeadline(at) }
func (c *deadlineConn) SetReadDeadline(at time.Time) error  { c.at = at; return nil }
func (c *deadlineConn) SetWriteDeadline(at time.Time) error { return nil }

// TestRequestThatComesAsItsConnectionIsCutOffIsServed: it was there in time, and may come in two parts.
func TestRequestThatComesAsItsConnectionIsCutOffIsServed(t *testing.T) {
	under := &deadlineConn{}
	l := newSteadfastListener(nil, quietLog())
	c := l.know(under)
	limits := clientLimits()
	look := func(n int) {
		for range n {
			l.look(limits)
		}
	}
	served(c, fasthttp.StateIdle)
	look(92)
	if under.at.IsZero() {
		t.Fatal("it was not cut off")
	}
	served(c, fasthttp.StateActive) // its bytes were read before
	if look(10); !under.at.IsZero() {
		t.Error("its next read would fail")
	}
	if look(2); under.at.IsZero() {
		t.Error("it is not watched any more")
	}
}
