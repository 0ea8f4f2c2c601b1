package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// requestConn is a connection on which one request comes after the other, each with an id of its own, and which counts the
// answers. Nothing of it allocates.
type requestConn struct {
	door     *steadfastListener
	request  []byte
	idAt     int
	left     int
	sent     int // of the present request
	answers  int
	accepted int
}

func newRequestConn() *requestConn {
	head := "POST /payments HTTP/1.1\r\nHost: galo\r\nContent-Type: application/json\r\nContent-Length: 70\r\n\r\n"
	body := `{"correlationId":"00000000-0000-4000-8000-000000000000","amount":19.90}`
	return &requestConn{door: newSteadfastListener(nil, quietLog()), request: []byte(head[:len(head)-6] + itoa(len(body)) + "\r\n\r\n" + body), idAt: len(head) + len(`{"correlationId":"`)}
}

func itoa(n int) string { return string([]byte{byte('0' + n/10), byte('0' + n%10)}) }

// next writes the next number into the id, as hex digits, from the last one on.
func (c *requestConn) next() {
	id := c.request[c.idAt : c.idAt+36]
	for i := len(id) - 1; ; i-- {
		switch id[i] {
		case '-':
			continue
		case 'f':
			id[i] = '0'
			continue
		case '9':
			id[i] = 'a'
		default:
			id[i]++
		}
		return
	}
}

func (c *requestConn) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.request[c.sent:])
	if c.sent += n; c.sent == len(c.request) {
		c.sent = 0
		c.left--
		c.next()
	}
	return n, nil
}

func (c *requestConn) Write(b []byte) (int, error) {
	c.answers++
	if bytes.HasPrefix(b, []byte("HTTP/1.1 202")) {
		c.accepted++
	}
	return len(b), nil
}

func (c *requestConn) Close() error                     { return nil }
func (c *requestConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *requestConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *requestConn) SetDeadline(time.Time) error      { return nil }
func (c *requestConn) SetReadDeadline(time.Time) error  { return nil }
func (c *requestConn) SetWriteDeadline(time.Time) error { return nil }

// serve runs n requests through a server, under the eyes of watch if its connections are.
func (c *requestConn) serve(t testing.TB, s *fasthttp.Server, n int) {
	c.left, c.sent = n, 0
	conn := net.Conn(c)
	if s.ConnState != nil {
		conn = c.door.know(c)
	}
	if err := s.ServeConn(conn); err != nil {
		t.Fatal(err)
	}
}

// intakeOnly is a server whose payments go to the journal and the rings, and no further.
func intakeOnly(t testing.TB, room int) (*fasthttp.Server, *ledger, *dispatcher) {
	l, _ := openTestLedger(t, t.TempDir())
	t.Cleanup(func() { l.close() })
	d := newDispatcher(4, room, time.Millisecond)
	s := &server{ledger: l, dispatcher: d, metrics: newMetrics(), lookUps: newLane(1, time.Second), queries: newLane(1, time.Second), log: quietLog()}
	return s.routes(), l, d
}

// TestIntakeAllocatesNothingFromBytesToBytes counts every allocation of the process while payments go from the bytes of the
// request to the bytes of the answer: HTTP, router, parser, index, journal, ring.
func TestIntakeAllocatesNothingFromBytesToBytes(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates; run without -race")
	}
	s, l, _ := intakeOnly(t, 1<<17)
	c := newRequestConn()
	const few, many = 1000, 21_000
	mallocs := func(n int) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c.serve(t, s, n)
		runtime.ReadMemStats(&after)
		return after.Mallocs - before.Mallocs
	}
	mallocs(few)
	// What a connection costs is in both; what is left is the price of the requests between.
	var least uint64 = 1 << 62
	for range 3 { // the runtime's own goroutines may allocate now and then
		base := mallocs(few)
		least = min(least, mallocs(many)-min(base, mallocs(few)))
	}
	if c.accepted != c.answers || c.accepted == 0 {
		t.Fatalf("%d of %d were accepted", c.accepted, c.answers)
	}
	if got := l.appended(); got != int64(c.accepted) {
		t.Errorf("%d slots for %d payments", got, c.accepted)
	}
	if least > (many-few)/1000 {
		t.Errorf("%d allocations for %d payments", least, many-few)
	}
}

// TestSummariesDoNotWaitBehindLookUps: a look-up waits for all its time where another instance does not answer.
func TestSummariesDoNotWaitBehindLookUps(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	s := &server{ledger: l, store: emptySummary{}, settler: &settler{}, metrics: newMetrics(), lookUps: newLane(0, time.Millisecond), queries: newLane(1, patient), log: quietLog()}
	handler := s.routes().Handler
	for path, want := range map[string]int{"/payments/" + nthID(1).String(): 503, "/payments-summary": 200} {
		var ctx fasthttp.RequestCtx
		ctx.Request.SetRequestURI(path)
		if handler(&ctx); ctx.Response.StatusCode() != want {
			t.Errorf("%s: %d, want %d", path, ctx.Response.StatusCode(), want)
		}
	}
}

// BenchmarkIntake is the way from the bytes of a request to the bytes of its answer, without a network, beside that of a
// handler that does nothing.
func BenchmarkIntake(b *testing.B) {
	run := func(b *testing.B, s *fasthttp.Server, between func()) {
		c := newRequestConn()
		c.serve(b, s, 100)
		b.ReportAllocs()
		b.ResetTimer()
		const chunk = segmentSlots / 4
		for left := b.N; left > 0; left -= chunk {
			c.serve(b, s, min(left, chunk))
			b.StopTimer()
			between()
			b.StartTimer()
		}
		if c.accepted != c.answers {
			b.Fatalf("%d of %d were accepted", c.accepted, c.answers)
		}
	}
	b.Run("galo", func(b *testing.B) {
		s, l, d := intakeOnly(b, 1<<17)
		refs := make([]ref, claimBatch)
		ctx := b.Context()
		run(b, s, func() { // what workers and the keeper would do meanwhile
			for d.waiting() > 0 {
				for _, r := range refs[:d.take(ctx, 0, refs)] {
					if v, ok := l.read(r); ok {
						l.become(v, slotDuplicate)
					}
				}
			}
			if err := l.active.prepare(); err != nil {
				b.Fatal(err)
			}
			if err := l.tidy(); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("nothing", func(b *testing.B) {
		run(b, &fasthttp.Server{NoDefaultDate: true, NoDefaultContentType: true, NoDefaultServerHeader: true,
			Handler: func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(fasthttp.StatusAccepted) }}, func() {})
	})
}

// loneConn is a requestConn whose requests come one at a time, long after everybody has gone to sleep.
type loneConn struct {
	*requestConn
	begun chan<- time.Time
}

func (c loneConn) Read(b []byte) (int, error) {
	const untilAllSleep = 200 * time.Microsecond
	if c.left > 0 {
		time.Sleep(untilAllSleep)
		c.begun <- time.Now()
	}
	return c.requestConn.Read(b)
}

// BenchmarkWake is the way of a lone payment from the bytes of its request to a worker that was parked, beside that of a time through a
// channel to a goroutine that waits at its other end: what lies between the two is galo, and the rest is Go and the kernel.
func BenchmarkWake(b *testing.B) {
	report := func(b *testing.B, took []time.Duration) {
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2]), "median-ns")
		b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
		b.ReportMetric(0, "ns/op") // most of it is sleep
	}
	b.Run("galo", func(b *testing.B) {
		_, l, _ := intakeOnly(b, 1<<17)
		d := newDispatcher(1, 1<<17, 0)
		s := (&server{ledger: l, dispatcher: d, metrics: newMetrics(), lookUps: newLane(1, time.Second), queries: newLane(1, time.Second), log: quietLog()}).routes()
		begun, took := make(chan time.Time, 1), make([]time.Duration, 0, b.N)
		ctx, cancel := context.WithCancel(b.Context())
		var worker sync.WaitGroup
		worker.Go(func() {
			refs := make([]ref, claimBatch)
			for n := d.take(ctx, 0, refs); n > 0; n = d.take(ctx, 0, refs) {
				for range n { // more than one only where the machine was held up
					took = append(took, time.Since(<-begun))
				}
			}
		})
		c := loneConn{newRequestConn(), begun}
		c.left = b.N
		if err := s.ServeConn(c.door.know(c)); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		cancel()
		worker.Wait()
		report(b, took)
	})
	b.Run("channel", func(b *testing.B) {
		begun, took := make(chan time.Time, 1), make([]time.Duration, 0, b.N)
		var worker sync.WaitGroup
		worker.Go(func() {
			for at := range begun {
				took = append(took, time.Since(at))
			}
		})
		c := loneConn{newRequestConn(), begun}
		c.left = b.N
		for answer := make([]byte, 4096); c.left > 0; {
			if _, err := c.Read(answer); err != nil {
				b.Fatal(err)
			}
		}
		close(begun)
		worker.Wait()
		report(b, took)
	})
}
