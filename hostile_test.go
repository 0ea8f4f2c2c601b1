package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"
)

// knowsNothing is a store that has no payment.
type knowsNothing struct{ emptySummary }

func (knowsNothing) records(context.Context, []paymentID, []foundRecord) error { return nil }
func (knowsNothing) conflictOf(context.Context, paymentID) (cents, error)      { return 0, nil }

// wholeServer is a server with all its routes, whose payments go to the journal and the rings, and no further.
func wholeServer(t testing.TB) (*server, *ledger, *dispatcher) {
	l, _ := openTestLedger(t, t.TempDir())
	t.Cleanup(func() { l.close() })
	d := newDispatcher(4, 1<<17, time.Millisecond)
	var alone *bus
	return &server{ledger: l, dispatcher: d, finder: &finder{ledger: l, store: knowsNothing{}, bus: alone}, store: emptySummary{}, settler: &settler{},
		metrics: newMetrics(), lookUps: newLane(4, patient), queries: newLane(4, patient), log: quietLog()}, l, d
}

// serveHostile serves over real sockets, with limits that a test need not wait for.
func serveHostile(t *testing.T, s *server, change func(*fasthttp.Server, *connLimits)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h, door, limits := s.routes(), newSteadfastListener(ln, quietLog()), clientLimits()
	limits.write = time.Second
	if change != nil {
		change(h, &limits)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(door) }()
	go door.watch(t.Context(), limits)
	t.Cleanup(func() {
		door.cut()
		if err := errors.Join(h.Shutdown(), <-ended); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func dialHostile(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patient))
	return conn.(*net.TCPConn)
}

// exchange sends bytes, ends its side, and returns the statuses of all answers. whole is false if the connection was reset, as it
// is when a server closes one on which there was more to read: then answers may be missing.
func exchangeRaw(t testing.TB, address, raw string) (statuses []string, whole bool) {
	t.Helper()
	conn := dialHostile(t, address)
	defer conn.Close()
	_, sendErr := io.WriteString(conn, raw)
	conn.CloseWrite()
	answer, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%.80q: the connection hangs", raw)
	}
	return statusesOf(answer), err == nil && sendErr == nil
}

func statusesOf(answer []byte) (statuses []string) {
	for line := range bytes.SplitSeq(answer, []byte("\r\n")) {
		if status, ok := bytes.CutPrefix(line, []byte("HTTP/1.1 ")); ok && len(status) >= 3 {
			statuses = append(statuses, string(status[:3]))
		}
	}
	return statuses
}

// TestNothingButAWholeRequestIsAccepted sends what smuggles, lies and repeats: a payment is accepted only where every reader of
// HTTP finds the same one request.
func TestNothingButAWholeRequestIsAccepted(t *testing.T) {
	s, l, _ := wholeServer(t)
	address := serveHostile(t, s, nil)
	n := uint64(0)
	body := func() string {
		n++
		return `{"correlationId":"` + nthID(n).String() + `","amount":19.90}`
	}
	size := fmt.Sprint(len(body()))
	// f wants these answers, and as many payments as there are 202 among them.
	f := func(raw, want string) {
		t.Helper()
		before := l.appended()
		statuses, whole := exchangeRaw(t, address, raw)
		got := strings.Join(statuses, " ")
		if got != want && (whole || !strings.HasPrefix(want, got)) {
			t.Errorf("%.100q was answered %q, want %q", raw, got, want)
		}
		if accepted := l.appended() - before; accepted != int64(strings.Count(want, "202")) {
			t.Errorf("%.100q: %d payments accepted", raw, accepted)
		}
	}
	const post, host, end = "POST /payments HTTP/1.1\r\n", "Host: x\r\n", "\r\n"
	length := "Content-Length: " + size + end
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

	// Two lengths, or one that is no length.
	f(post+host+length+"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+smuggled, "400")
	f(post+host+"Transfer-Encoding: chunked\r\n"+length+"\r\n0\r\n\r\n"+smuggled, "400")
	f(post+host+length+"Content-Length: 5\r\n\r\n"+body(), "400")
	f(post+host+length+length+end+body(), "400")
	f(post+host+"Content-Length: "+size+","+size+"\r\n\r\n"+body(), "400")
	f(post+host+"Content-Length: +"+size+"\r\n\r\n"+body(), "400")
	f(post+host+"Content-Length: 0x47\r\n\r\n"+body(), "400")
	f(post+host+"Content-Length: -1\r\n\r\n"+body(), "400")
	f(post+host+"Content-Length: 99999999999999999999\r\n\r\n"+body(), "400")
	f(post+host+"Content-Length : "+size+"\r\n\r\n"+body(), "400")
	f(post+host+"Transfer-Encoding: chunked, identity\r\n\r\n"+body(), "400")
	f(post+host+"Transfer-Encoding: xchunked\r\n\r\n"+body(), "400")
	f(post+host+"Transfer-Encoding:\x0bchunked\r\n\r\n47\r\n"+body()+"\r\n0\r\n\r\n", "400")
	f(post+host+"Transfer-Encoding : chunked\r\n\r\n47\r\n"+body()+"\r\n0\r\n\r\n", "400")
	f(post+host+"Transfer-Encoding: chunked\r\n\r\n47;x=\"\r\n\"\r\n"+body()+"\r\n0\r\n\r\n", "400")
	f(post+host+"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"+body()+"\r\n0\r\n\r\n", "400")
	f(post+host+"Transfer-Encoding: chunked\r\n\r\n-47\r\n"+body()+"\r\n0\r\n\r\n", "400")
	f(post+host+"Transfer-Encoding: chunked\r\n\r\n47\r\n"+body()+"\r\n0\r\n\r\n", "202")
	// Headers that are none.
	f(post+host+"X: a\x00b\r\n"+length+end+body(), "400")
	f(post+host+"X\x00: ab\r\n"+length+end+body(), "400")
	f(post+length+end+body(), "400") // no Host
	f(strings.ReplaceAll(post+host+length, "\r\n", "\n")+"\n"+body(), "400")
	// Other ways to ask.
	f("POST /payments\r\n\r\n", "400")
	f("GET /payments-summary\r\n", "400")
	f("post /payments HTTP/1.1\r\n"+host+length+end+body(), "405")
	f("POST /payments HTTP/1.0\r\n"+length+end+body(), "202")
	f("POST http://elsewhere/payments HTTP/1.1\r\n"+host+length+end+body(), "202")
	f("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400")
	f("OPTIONS * HTTP/1.1\r\n"+host+end, "405")
	f("CONNECT a:1 HTTP/1.1\r\n"+host+end, "404")
	for _, path := range []string{"/payments%00", "/pay%6dents", "/x/../payments", "//payments", "/payments/", "/PAYMENTS"} {
		f("POST "+path+" HTTP/1.1\r\n"+host+length+end+body(), "404")
	}
	// One after the other, the last one torn, or garbage.
	f(post+host+length+end+body()+post+host+length+end+body(), "202 202")
	f(post+host+length+end+body()+"garbage garbage\r\n\r\n\r\n"+post+host+length+end+body(), "202 400")
	f(post+host+length+end+body()+post+host+length+end+body()[:20], "202 400")
	f(post+host+"Content-Length: 20\r\n\r\n"+body(), "400") // a part is not JSON, and the rest is no request
	// More than there may be.
	f(post+host+length+"X: "+strings.Repeat("y", 5000)+"\r\n\r\n"+body(), "400")
	f("POST /"+strings.Repeat("y", 5000)+" HTTP/1.1\r\n"+host+end, "400")
	f(post+host+"Content-Length: 4097\r\n\r\n"+strings.Repeat(" ", 4097), "413")
	f(post+host+"Content-Length: 1000000000\r\n\r\n", "413")
	f(post+host+"Transfer-Encoding: chunked\r\n\r\n"+strings.Repeat("100\r\n"+strings.Repeat(" ", 256)+"\r\n", 1000), "413")
	f(post+host+"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n", "100 413")
	f(post+host+"Expect: 100-continue\r\n"+length+end+body(), "100 202")
}

// drip sends text a byte at a time until the other side has had enough, and says how far it came.
func drip(conn net.Conn, text string) int {
	for n := range len(text) {
		if _, err := io.WriteString(conn, text[n:n+1]); err != nil {
			return n
		}
		time.Sleep(5 * time.Millisecond)
	}
	return len(text)
}

// TestSlowClientsAreCutOff: the time is for a whole request, however steadily its bytes come in.
func TestSlowClientsAreCutOff(t *testing.T) {
	s, l, _ := wholeServer(t)
	address := serveHostile(t, s, func(_ *fasthttp.Server, limits *connLimits) { limits.read = 100 * time.Millisecond })
	const post = "POST /payments HTTP/1.1\r\nHost: x\r\n"
	for name, c := range map[string]struct{ atOnce, slowly string }{
		"headers": {"", post + strings.Repeat("A: b\r\n", 500)},
		"body":    {post + "Content-Length: 4000\r\n\r\n", strings.Repeat(" ", 4000)},
		"chunks":  {post + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\n \r\n", 600)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dialHostile(t, address)
			io.WriteString(conn, c.atOnce)
			if sent := drip(conn, c.slowly); sent == len(c.slowly) {
				t.Errorf("all %d bytes were taken", sent)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		if _, err := io.ReadAll(dialHostile(t, address)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection without a request is kept")
		}
	})
	t.Cleanup(func() {
		if n := l.appended(); n != 0 {
			t.Errorf("%d payments were accepted", n)
		}
	})
}

// TestClientsThatDoNotReadAreCutOff: their answers pile up, and hold nobody.
func TestClientsThatDoNotReadAreCutOff(t *testing.T) {
	s, _, _ := wholeServer(t)
	address := serveHostile(t, s, func(_ *fasthttp.Server, limits *connLimits) { limits.read = time.Second })
	conn := dialHostile(t, address)
	request := []byte(strings.Repeat("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 1000))
	for {
		if _, err := conn.Write(request); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection hangs")
		} else if err != nil {
			return
		}
	}
}

// TestThousandsOfIdleConnectionsLeaveRoomForARequest: each costs little, and a payment comes through.
func TestThousandsOfIdleConnectionsLeaveRoomForARequest(t *testing.T) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	const idle, mostBytes = 5000, 40 << 10
	if files.Cur < 2*idle+1000 { // both ends are in this process
		t.Skipf("this process may open %d files: too few for %d connections", files.Cur, idle)
	}
	s, l, _ := wholeServer(t)
	address := serveHostile(t, s, func(_ *fasthttp.Server, limits *connLimits) { limits.read = time.Hour })
	inUse := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before := inUse()
	for n := range uint64(idle) {
		conn := dialHostile(t, address)
		if n%2 == 0 { // half have asked once, half never
			if _, err := io.WriteString(conn, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAtLeast(conn, make([]byte, 4096), 20); err != nil {
				t.Fatal(err)
			}
		}
	}
	each := (inUse() - before) / idle
	t.Logf("%d bytes for each idle connection, both ends", each)
	if each > mostBytes && !raceEnabled {
		t.Errorf("%d bytes for each idle connection, want at most %d", each, mostBytes)
	}
	body := `{"correlationId":"` + nthID(1).String() + `","amount":1}`
	statuses, _ := exchangeRaw(t, address, fmt.Sprintf("POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	if len(statuses) != 1 || statuses[0] != "202" || l.appended() != 1 {
		t.Errorf("answered %v", statuses)
	}
}

// TestEveryLimitIsSet: the tests of the limits have shorter ones.
func TestEveryLimitIsSet(t *testing.T) {
	s, _, _ := wholeServer(t)
	h := s.routes()
	limits := clientLimits()
	if limits != (connLimits{idle: idleTimeout, read: readTimeout, write: writeTimeout}) || h.ConnState == nil || h.MaxRequestBodySize != maxBody ||
		h.Concurrency != maxConnections || maxConnections < 5000 {
		t.Errorf("%+v, body %d, connections %d", limits, h.MaxRequestBodySize, h.Concurrency)
	}
}

// TestConnectionsBeyondTheBoundAreRefused: and those who come later find room again.
func TestConnectionsBeyondTheBoundAreRefused(t *testing.T) {
	s, _, _ := wholeServer(t)
	const bound = 4
	address := serveHostile(t, s, func(h *fasthttp.Server, _ *connLimits) { h.Concurrency = bound })
	ask := func(conn net.Conn) (status string) {
		io.WriteString(conn, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
		answer := make([]byte, 512)
		n, _ := io.ReadAtLeast(conn, answer, 20)
		return strings.Join(statusesOf(answer[:n]), " ")
	}
	var held []*net.TCPConn
	for range bound {
		conn := dialHostile(t, address)
		if got := ask(conn); got != "404" {
			t.Fatalf("answered %s", got)
		}
		held = append(held, conn)
	}
	statuses, _ := exchangeRaw(t, address, "")
	if len(statuses) != 1 || statuses[0] != "503" {
		t.Errorf("one too many was answered %v", statuses)
	}
	held[0].Close()
	eventually(t, "there is room again", func() bool { return ask(dialHostile(t, address)) == "404" })
}

// scarceListener has no file left so often, and then one connection; after that it is broken.
type scarceListener struct {
	net.Listener
	scarce int
	conn   net.Conn
}

func (l *scarceListener) Accept() (net.Conn, error) {
	if l.scarce--; l.scarce >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	return nil, errors.New("broken")
}

func (l *scarceListener) Close() error { return nil }

// TestAcceptingGoesOnWhenNoFileIsLeft: a flood of connections must not end the server.
func TestAcceptingGoesOnWhenNoFileIsLeft(t *testing.T) {
	one, two := net.Pipe()
	defer two.Close()
	l := newSteadfastListener(&scarceListener{scarce: 4, conn: one}, quietLog())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if len(l.open) != 1 {
		t.Errorf("%d connections are known", len(l.open))
	}
	conn.Close()
	if n := l.cut(); n != 0 {
		t.Errorf("%d connections are known after their end", n)
	}
	if _, err := l.Accept(); err == nil || passes(err) {
		t.Errorf("a broken listener says %v", err)
	}
	l = newSteadfastListener(&scarceListener{scarce: 1 << 30}, quietLog())
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener says %v", err)
	}
}
