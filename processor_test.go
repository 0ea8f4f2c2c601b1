package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// patient is a time-out that no test should reach; hasty is one that a test waits for.
	patient = 10 * time.Second
	hasty   = 100 * time.Millisecond

	paidAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n" + `{"message":"ok"}`
)

var somePayment = struct {
	id          paymentID
	amount      cents
	requestedAt micros
}{paymentID{0x4a, 0x7b, 15: 0xff}, 1990, 1_752_582_896_000_000}

// rawServer answers with bytes, so that a test can say exactly what goes over the wire and when it ends.
type rawServer struct {
	t        *testing.T
	listener net.Listener
	wait     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	seen  []seenRequest
}

type seenRequest struct {
	method, target, host, body string
	header                     http.Header
}

// turn is what the server does about one request. It returns whether the connection stays open.
type turn func(conn *net.TCPConn, seen seenRequest) bool

func startRawServer(t *testing.T, answer turn) *rawServer {
	t.Helper()
	return startRawServerOn(t, "127.0.0.1:0", func(s *rawServer, conn *net.TCPConn) {
		r := bufio.NewReader(conn)
		for {
			seen, err := s.read(r)
			if err != nil || !answer(conn, seen) {
				return
			}
		}
	})
}

func startRawServerOn(t *testing.T, address string, serve func(*rawServer, *net.TCPConn)) *rawServer {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{t: t, listener: listener, conns: map[net.Conn]bool{}}
	s.wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[conn] = true
			s.mu.Unlock()
			s.wait.Go(func() {
				defer conn.Close()
				serve(s, conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		s.mu.Lock()
		for conn := range s.conns {
			conn.Close()
		}
		s.mu.Unlock()
		s.wait.Wait()
	})
	return s
}

func (s *rawServer) read(r *bufio.Reader) (seenRequest, error) {
	request, err := http.ReadRequest(r)
	if err != nil {
		return seenRequest{}, err
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return seenRequest{}, err
	}
	seen := seenRequest{request.Method, request.RequestURI, request.Host, string(body), request.Header}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, seen)
	return seen, nil
}

func (s *rawServer) url() string { return "http://" + s.listener.Addr().String() }

// posts says how many payments the server has read.
func (s *rawServer) posts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, seen := range s.seen {
		if seen.method == http.MethodPost {
			n++
		}
	}
	return n
}

func (s *rawServer) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// says answers with these bytes and leaves the connection open; saysAndCloses closes it.
func says(text string) turn {
	return func(conn *net.TCPConn, _ seenRequest) bool {
		_, err := io.WriteString(conn, text)
		return err == nil
	}
}

func saysAndCloses(text string) turn {
	return func(conn *net.TCPConn, _ seenRequest) bool {
		_, _ = io.WriteString(conn, text)
		return false
	}
}

// saysAndResets waits until the client has the bytes before it resets, since a reset drops what is under way.
func saysAndResets(text string) turn {
	return func(conn *net.TCPConn, _ seenRequest) bool {
		_, _ = io.WriteString(conn, text)
		awaitAcknowledged(conn)
		_ = conn.SetLinger(0)
		return false
	}
}

func status(line, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", line, len(body), body)
}

func newTestProcessor(t *testing.T, url string, sendTimeout time.Duration) *processor {
	t.Helper()
	p, err := newProcessor(onDefault, url, 10, sendTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func (p *processor) paySome() payResult {
	return p.pay(somePayment.id, somePayment.amount, somePayment.requestedAt)
}

// eventually waits for a condition of another goroutine or of the kernel.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patient)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestOutcomes is the contract's table of outcomes, each row through the real client over a real socket.
// Whatever happens, the server sees the payment exactly once.
func TestOutcomes(t *testing.T) {
	const ok = `{"message":"payment processed successfully"}`
	interim := "HTTP/1.1 100 Continue\r\n\r\n"
	rows := []struct {
		name   string
		answer turn
		want   outcome
	}{
		{"200 with JSON", says(status("200 OK", ok)), outcomePaid},
		{"201 with JSON", says(status("201 Created", ok)), outcomePaid},
		{"200 with JSON, then closed", saysAndCloses(status("200 OK", ok)), outcomePaid},
		{"200 with an empty object", says(status("200 OK", "{}")), outcomePaid},
		{"200 in chunks", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n"), outcomePaid},
		{"200 of HTTP/1.0, ended by closing", saysAndCloses("HTTP/1.0 200 OK\r\n\r\n" + ok), outcomePaid},
		{"100 Continue, then 200", says(interim + status("200 OK", ok)), outcomePaid},
		{"103 Early Hints, then 200", says("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + status("200 OK", ok)), outcomePaid},
		{"100 Continue, then 500 empty", says(interim + status("500 Failing", "")), outcomeRefused},
		{"200 with strange letters in the header's names", says("HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh: 2\r\n\r\n{}"), outcomePaid},

		{"422", says(status("422 Unprocessable Entity", `{"message":"exists"}`)), outcomeTaken},
		{"422 empty", says(status("422 Unprocessable Entity", "")), outcomeTaken},

		{"500 empty", says(status("500 Internal Server Error", "")), outcomeRefused},
		{"500 empty, in chunks", says("HTTP/1.1 500 Failing\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), outcomeRefused},
		{"500 empty, closing", saysAndCloses("HTTP/1.1 500 Failing\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), outcomeRefused},
		{"429", says(status("429 Too Many Requests", "")), outcomeBusy},

		{"400", says(status("400 Bad Request", `{"message":"bad"}`)), outcomeInvalid},
		{"400 empty", says(status("400 Bad Request", "")), outcomeInvalid},

		{"401", says(status("401 Unauthorized", "")), outcomeMisconfigured},
		{"403", says(status("403 Forbidden", "")), outcomeMisconfigured},
		{"404", says(status("404 Not Found", "<html>")), outcomeMisconfigured},
		{"405", says(status("405 Method Not Allowed", "")), outcomeMisconfigured},
		{"408", says(status("408 Request Timeout", "")), outcomeMisconfigured},
		{"409", says(status("409 Conflict", "")), outcomeMisconfigured},
		{"413", says(status("413 Content Too Large", "")), outcomeMisconfigured},
		{"415", says(status("415 Unsupported Media Type", "")), outcomeMisconfigured},
		{"425", says(status("425 Too Early", "")), outcomeMisconfigured},
		{"499", says(status("499 Who Knows", "")), outcomeMisconfigured},

		{"200 with HTML", says(status("200 OK", "<html>welcome</html>")), outcomeUnknown},
		{"200 empty", says(status("200 OK", "")), outcomeUnknown},
		{"200 with a bare number", says(status("200 OK", " 12")), outcomeUnknown},
		{"200 with two JSON texts", says(status("200 OK", "{}{}")), outcomeUnknown},
		{"200 with JSON cut by its own length", says(status("200 OK", `{"message":`)), outcomeUnknown},
		{"204", says("HTTP/1.1 204 No Content\r\n\r\n"), outcomeUnknown},
		{"101", says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), outcomeUnknown},
		{"301 to elsewhere", says("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/payments\r\nContent-Length: 0\r\n\r\n"), outcomeUnknown},
		{"307 to itself", says("HTTP/1.1 307 Temporary Redirect\r\nLocation: /payments\r\nContent-Length: 0\r\n\r\n"), outcomeUnknown},
		{"304", says("HTTP/1.1 304 Not Modified\r\n\r\n"), outcomeUnknown},
		{"500 with a body", says(status("500 Internal Server Error", "duplicate key")), outcomeUnknown},
		{"500 with a chunk", says("HTTP/1.1 500 Failing\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"), outcomeUnknown},
		{"500 that may have lost its body", saysAndCloses("HTTP/1.1 500 Failing\r\n\r\n"), outcomeUnknown},
		{"501", says(status("501 Not Implemented", "")), outcomeUnknown},
		{"502", says(status("502 Bad Gateway", "")), outcomeUnknown},
		{"503", says(status("503 Service Unavailable", "")), outcomeUnknown},
		{"504", says(status("504 Gateway Timeout", "")), outcomeUnknown},
		{"599", says(status("599 Nothing", "")), outcomeUnknown},
		{"a status of 000, an empty line before it", says("\r\n" + status("000 Nothing", ok)), outcomeUnknown},
		{"a status of four digits", says(status("2000 OK", ok)), outcomeUnknown},
		{"HTTP/2 in words", says("HTTP/2 200\r\nContent-Length: 2\r\n\r\n{}"), outcomeUnknown},
		{"600", says(status("600 Nothing", ok)), outcomeUnknown},
		{"000", says(status("000 Nothing", ok)), outcomeUnknown},

		{"reset after the request", saysAndResets(""), outcomeUnknown},
		{"reset within the status line", saysAndResets("HTTP/1.1 20"), outcomeUnknown},
		{"reset within the head", saysAndResets("HTTP/1.1 200 OK\r\nContent-"), outcomeUnknown},
		{"reset within the body", saysAndResets("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"), outcomeUnknown},
		{"reset of an answer that ends by closing", saysAndResets("HTTP/1.1 200 OK\r\n\r\n{}"), outcomeUnknown},
		{"closed without a word", saysAndCloses(""), outcomeUnknown},
		{"closed within the head", saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"), outcomeUnknown},
		{"closed within the body", saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"), outcomeUnknown},
		{"closed within the body of a 400", saysAndCloses("HTTP/1.1 400 Bad\r\nContent-Length: 3\r\n\r\n{}"), outcomeUnknown},
		{"closed before the body of a 500", saysAndCloses("HTTP/1.1 500 Failing\r\nContent-Length: 3\r\n\r\n"), outcomeUnknown},
		{"closed after a 100", saysAndCloses(interim), outcomeUnknown},
		{"a 100 without end", saysAndCloses(strings.Repeat(interim, 50) + status("200 OK", ok)), outcomeUnknown},
		{"chunks without the last", saysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"), outcomeUnknown},
		{"chunks without the empty line", saysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"), outcomeUnknown},
		{"a chunk shorter than it says", saysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}\r\n0\r\n\r\n"), outcomeUnknown},
		{"a chunk of no length", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"), outcomeUnknown},
		{"two lengths", says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} "), outcomeUnknown},
		{"a negative length", says("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}"), outcomeUnknown},
		{"compressed", says("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"), outcomeUnknown},
		{"not HTTP", saysAndCloses("SSH-2.0-OpenSSH_9.6\r\n"), outcomeUnknown},
		{"an answer without a status", saysAndCloses("{\"message\":\"ok\"}\r\n\r\n"), outcomeUnknown},
		{"a body beyond the bound", says(status("200 OK", `"`+strings.Repeat("a", maxAnswerBytes)+`"`)), outcomeUnknown},
		{"a body beyond the bound, by closing", saysAndCloses("HTTP/1.0 200 OK\r\n\r\n\"" + strings.Repeat("a", maxAnswerBytes) + `"`), outcomeUnknown},
		{"a head beyond the bound", says("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 10_000) + "\r\nContent-Length: 2\r\n\r\n{}"), outcomeUnknown},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			server := startRawServer(t, row.answer)
			got := newTestProcessor(t, server.url(), patient).paySome()
			if got.outcome != row.want {
				t.Errorf("outcome is %s (%s), want %s", got.outcome, got.detail, row.want)
			}
			if (got.detail == "") != (got.outcome == outcomePaid) {
				t.Errorf("%s has the detail %q", got.outcome, got.detail)
			}
			if n := server.posts(); n != 1 {
				t.Errorf("the server saw the payment %d times", n)
			}
		})
	}
}

func TestHangingIsUnknownInTime(t *testing.T) {
	rows := map[string]string{
		"without a word":  "",
		"within the head": "HTTP/1.1 200 OK\r\nContent-",
		"within the body": "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{",
		"before the end":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
		"without closing": "HTTP/1.1 200 OK\r\n\r\n{}",
		"after a 100":     "HTTP/1.1 100 Continue\r\n\r\n",
	}
	for name, text := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRawServer(t, says(text))
			got := newTestProcessor(t, server.url(), hasty).paySome()
			if got.outcome != outcomeUnknown || got.detail != "no answer in time" {
				t.Errorf("outcome is %s (%s)", got.outcome, got.detail)
			}
			if got.took < hasty || got.took > patient/2 {
				t.Errorf("took %v with a time-out of %v", got.took, hasty)
			}
			if n := server.posts(); n != 1 {
				t.Errorf("the server saw the payment %d times", n)
			}
		})
	}
}

// TestDrippingDoesNotProlong: the deadline is for the whole exchange, not for each read.
func TestDrippingDoesNotProlong(t *testing.T) {
	server := startRawServer(t, func(conn *net.TCPConn, _ seenRequest) bool {
		drip := time.NewTicker(hasty / 5)
		defer drip.Stop()
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"); err != nil {
			return false
		}
		for range drip.C {
			if _, err := io.WriteString(conn, " "); err != nil {
				return false
			}
		}
		return false
	})
	got := newTestProcessor(t, server.url(), hasty).paySome()
	if got.outcome != outcomeUnknown || got.took > patient/2 {
		t.Errorf("outcome is %s (%s) after %v", got.outcome, got.detail, got.took)
	}
}

func TestNoConnectionIsRefused(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, url := range map[string]string{
		"connection refused": "http://" + closed.Addr().String(),
		"unknown host":       "http://no-such-host.invalid:8080",
		"no route":           "http://255.255.255.255:80",
	} {
		t.Run(name, func(t *testing.T) {
			got := newTestProcessor(t, url, patient).paySome()
			if got.outcome != outcomeRefused || !strings.HasPrefix(got.detail, "cannot connect: ") {
				t.Errorf("outcome is %s (%s)", got.outcome, got.detail)
			}
		})
	}
}

// TestFullListenQueueIsRefused: a connection that was never made took no payment with it.
func TestFullListenQueueIsRefused(t *testing.T) {
	address := fillListenQueue(t)
	p := newTestProcessor(t, "http://"+address, hasty)
	got := p.paySome()
	if got.outcome != outcomeRefused {
		t.Errorf("outcome is %s (%s) after %v", got.outcome, got.detail, got.took)
	}
}

// TestResetBeforeReading: bytes may have left, so it is unknown, although the server never read them.
func TestResetBeforeReading(t *testing.T) {
	server := startRawServerOn(t, "127.0.0.1:0", func(_ *rawServer, conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
	})
	got := newTestProcessor(t, server.url(), patient).paySome()
	if got.outcome != outcomeUnknown || got.detail != "connection reset" {
		t.Errorf("outcome is %s (%s)", got.outcome, got.detail)
	}
	if n := server.opened(); n != 1 {
		t.Errorf("%d connections were opened", n)
	}
}

// TestResetAtOnce: whether bytes had left is a matter of microseconds; both answers are right, one attempt
// is all there is, and none of them says more than is known.
func TestResetAtOnce(t *testing.T) {
	for range 50 {
		server := startRawServerOn(t, "127.0.0.1:0", func(_ *rawServer, conn *net.TCPConn) { _ = conn.SetLinger(0) })
		got := newTestProcessor(t, server.url(), patient).paySome()
		if got.outcome != outcomeUnknown && got.outcome != outcomeRefused {
			t.Errorf("outcome is %s (%s)", got.outcome, got.detail)
		}
		if n := server.opened(); n > 1 {
			t.Errorf("%d connections were opened", n)
		}
	}
}

// TestClosedBeforeWriting: a port that takes connections and drops them, as a proxy's does behind which nobody
// lives, is refusing; and it is not dialled again and again for one payment.
func TestClosedBeforeWriting(t *testing.T) {
	server := startRawServerOn(t, "127.0.0.1:0", func(*rawServer, *net.TCPConn) {})
	p := newTestProcessor(t, server.url(), patient)
	dial := p.pays.DialTimeout
	p.pays.DialTimeout = func(addr string, left time.Duration) (net.Conn, error) {
		conn, err := dial(addr, left)
		if err == nil {
			eventually(t, "the connection is dropped", func() bool { return !stillSilent(conn) })
		}
		return conn, err
	}
	if got := p.paySome(); got.outcome != outcomeRefused || got.detail != errClosedAtOnce.Error() {
		t.Errorf("outcome is %s (%s)", got.outcome, got.detail)
	}
	if n := server.opened(); n != 1 {
		t.Errorf("%d connections were opened", n)
	}
}

// TestWriteThatTookNothing: the kernel took not a byte, so nothing was sent. Under TLS that can't be known.
func TestWriteThatTookNothing(t *testing.T) {
	for secure, want := range map[bool]outcome{false: outcomeRefused, true: outcomeUnknown} {
		over := make(chan bool)
		server := startRawServerOn(t, "127.0.0.1:0", func(*rawServer, *net.TCPConn) { <-over })
		p := newTestProcessor(t, server.url(), patient)
		p.pays.DialTimeout = func(addr string, _ time.Duration) (net.Conn, error) {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return nil, err
			}
			tcp := conn.(*net.TCPConn)
			if err := tcp.CloseWrite(); err != nil {
				return nil, err
			}
			return newProcessorConn(tcp, tcp, secure)
		}
		if got := p.paySome(); got.outcome != want {
			t.Errorf("secure: %v: outcome is %s (%s)", secure, got.outcome, got.detail)
		}
		close(over)
	}
}

func TestNoFreeConnectionIsRefused(t *testing.T) {
	reached, release := make(chan bool), make(chan bool)
	server := startRawServer(t, func(conn *net.TCPConn, seen seenRequest) bool {
		if seen.method == http.MethodPost {
			reached <- true
			<-release
		}
		_, err := io.WriteString(conn, paidAnswer)
		return err == nil
	})
	p, err := newProcessor(onDefault, server.url(), 1, patient)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	first := make(chan payResult)
	go func() { first <- p.paySome() }()
	<-reached
	if got := p.paySome(); got.outcome != outcomeRefused || got.detail != "no free connection" {
		t.Errorf("outcome is %s (%s)", got.outcome, got.detail)
	}
	// A look-up has connections of its own: it gets through while the payment hangs.
	if got := p.lookUp(somePayment.id); got.detail != "an answer about another payment" {
		t.Errorf("look-up is %s (%s)", got.kind, got.detail)
	}
	release <- true
	if got := <-first; got.outcome != outcomePaid {
		t.Errorf("outcome is %s (%s)", got.outcome, got.detail)
	}
	if n := server.posts(); n != 1 {
		t.Errorf("the server saw %d payments", n)
	}
}

// TestClosedWhileIdle: a connection that the server closed while it was idle is noticed before a byte is
// written to it, and replaced.
func TestClosedWhileIdle(t *testing.T) {
	server := startRawServer(t, saysAndCloses(paidAnswer))
	p := newTestProcessor(t, server.url(), patient)
	for n := 1; n <= 3; n++ {
		if got := p.paySome(); got.outcome != outcomePaid {
			t.Fatalf("payment %d: %s (%s)", n, got.outcome, got.detail)
		}
		awaitIdleEvent(t, p)
		if server.posts() != n || server.opened() != n {
			t.Fatalf("after %d payments the server saw %d over %d connections", n, server.posts(), server.opened())
		}
	}
}

// TestClosedOnArrival: when a request crosses the server's close, it is unknown, and not sent again.
func TestClosedOnArrival(t *testing.T) {
	server := startRawServerOn(t, "127.0.0.1:0", func(s *rawServer, conn *net.TCPConn) {
		r := bufio.NewReader(conn)
		if _, err := s.read(r); err == nil {
			_, _ = io.WriteString(conn, paidAnswer)
			_, _ = r.ReadByte()
		}
	})
	p := newTestProcessor(t, server.url(), patient)
	if got := p.paySome(); got.outcome != outcomePaid {
		t.Fatalf("first: %s (%s)", got.outcome, got.detail)
	}
	if got := p.paySome(); got.outcome != outcomeUnknown {
		t.Errorf("second: %s (%s)", got.outcome, got.detail)
	}
	if n := server.opened(); n != 1 {
		t.Errorf("%d connections were opened", n)
	}
}

// TestUnaskedAnswerIsNotBelieved: what a server says without having been asked must not be taken for the
// answer to the payment that uses the connection next. Here it would be a 200 for a payment that failed.
func TestUnaskedAnswerIsNotBelieved(t *testing.T) {
	for name, later := range map[string]bool{"at once": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			first := true
			server := startRawServer(t, func(conn *net.TCPConn, _ seenRequest) bool {
				if !first {
					_, err := io.WriteString(conn, status("500 Failing", ""))
					return err == nil
				}
				first = false
				text := paidAnswer + paidAnswer
				if later {
					_, _ = io.WriteString(conn, paidAnswer)
					awaitAcknowledged(conn)
					text = paidAnswer
				}
				_, err := io.WriteString(conn, text)
				return err == nil
			})
			p := newTestProcessor(t, server.url(), patient)
			if got := p.paySome(); got.outcome != outcomePaid {
				t.Fatalf("first: %s (%s)", got.outcome, got.detail)
			}
			if later {
				awaitIdleEvent(t, p)
			}
			if got := p.paySome(); got.outcome != outcomeRefused {
				t.Errorf("second: %s (%s)", got.outcome, got.detail)
			}
			if n := server.opened(); n != 2 {
				t.Errorf("%d connections were opened", n)
			}
		})
	}
}

// TestConnectionsAreUsedAgain guards the point of the pool, which the checks above could defeat.
func TestConnectionsAreUsedAgain(t *testing.T) {
	for name, text := range map[string]string{
		"200": paidAnswer, "500": status("500 Failing", ""), "429": status("429 Busy", ""), "204": "HTTP/1.1 204 No Content\r\n\r\n",
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			server := startRawServer(t, says(text))
			p := newTestProcessor(t, server.url(), patient)
			for range 20 {
				p.paySome()
			}
			if n := server.opened(); n != 1 || server.posts() != 20 {
				t.Errorf("%d payments over %d connections", server.posts(), n)
			}
		})
	}
}

func TestRequestOnTheWire(t *testing.T) {
	for _, path := range []string{"", "/", "/prefix", "/a/b%20c/"} {
		for _, amount := range []cents{1, 1990, 999_999_999_999} {
			server := startRawServer(t, says(paidAnswer))
			p := newTestProcessor(t, server.url()+path, patient)
			if got := p.pay(somePayment.id, amount, somePayment.requestedAt); got.outcome != outcomePaid {
				t.Fatalf("%s (%s)", got.outcome, got.detail)
			}
			seen := server.seen[0]
			want := `{"correlationId":"4a7b0000-0000-0000-0000-0000000000ff","amount":` +
				string(amount.appendDecimal(nil)) + `,"requestedAt":"2025-07-15T12:34:56.000000Z"}`
			if seen.body != want {
				t.Errorf("body is %s, want %s", seen.body, want)
			}
			if seen.target != strings.TrimSuffix(path, "/")+"/payments" || seen.method != "POST" {
				t.Errorf("%s %s under %q", seen.method, seen.target, path)
			}
			if seen.host != server.listener.Addr().String() || seen.header.Get("Content-Type") != "application/json" {
				t.Errorf("host %q, header %v", seen.host, seen.header)
			}
		}
	}
}

func TestBaseURLs(t *testing.T) {
	good := map[string]baseURL{
		"http://payment-processor-default:8080": {addr: "payment-processor-default:8080", host: "payment-processor-default:8080", name: "payment-processor-default"},
		"http://a":                              {addr: "a:80", host: "a", name: "a"},
		"https://a/":                            {addr: "a:443", host: "a", name: "a", secure: true},
		"http://[::1]:8080/x/":                  {addr: "[::1]:8080", host: "[::1]:8080", name: "::1", path: "/x"},
		"http://[::1]":                          {addr: "[::1]:80", host: "[::1]", name: "::1"},
		"http://[fe80::1%25eth0]:81":            {addr: "[fe80::1%eth0]:81", host: "[fe80::1]:81", name: "fe80::1"},
	}
	for text, want := range good {
		if got, err := parseBaseURL(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a:80", "//a", "ftp://a", "http://", "http://:80", "http://a:0", "http://a:65536",
		"http://a:x", "http://u@a", "http://a?x=1", "http://a?", "http://a#b", "http://a,b", "http://a b", "http://a\r\nX: y"} {
		if _, err := newProcessor(onDefault, text, 1, time.Second); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestOverIPv6(t *testing.T) {
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skipf("needs a loopback with IPv6 (sysctl net.ipv6.conf.lo.disable_ipv6=0): %v", err)
	} else {
		l.Close()
	}
	server := startRawServerOn(t, "[::1]:0", func(s *rawServer, conn *net.TCPConn) {
		if _, err := s.read(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, paidAnswer)
		}
	})
	if got := newTestProcessor(t, server.url(), patient).paySome(); got.outcome != outcomePaid {
		t.Errorf("%s (%s)", got.outcome, got.detail)
	}
}

// TestTLS: a handshake that fails is a failure before the first byte of the request. The certificate of the
// test's server is known to nobody, so the handshake has to fail.
func TestTLS(t *testing.T) {
	served := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	got := newTestProcessor(t, server.URL, patient).paySome()
	if got.outcome != outcomeRefused || !strings.HasPrefix(got.detail, "cannot shake hands: ") || served != 0 {
		t.Errorf("%s (%s), served %d", got.outcome, got.detail, served)
	}

	plain := startRawServerOn(t, "127.0.0.1:0", func(_ *rawServer, conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	got = newTestProcessor(t, "https://"+plain.listener.Addr().String(), hasty).paySome()
	if got.outcome != outcomeRefused {
		t.Errorf("a handshake without an answer: %s (%s)", got.outcome, got.detail)
	}
}

// TestOverTLS pays over a real TLS connection, twice over the same one: session tickets that lie unread on
// an idle connection must not make it look stale.
func TestOverTLS(t *testing.T) {
	opened := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{}")
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened++
		}
	}
	server.StartTLS()
	defer server.Close()
	p := newTestProcessor(t, server.URL, patient)
	p.trust(server)
	for range 3 {
		if got := p.paySome(); got.outcome != outcomePaid {
			t.Errorf("%s (%s)", got.outcome, got.detail)
		}
	}
	if opened != 1 {
		t.Errorf("%d connections were opened", opened)
	}
}

// trust gives the pool connections whose handshake trusts the test's certificate.
func (p *processor) trust(server *httptest.Server) {
	p.pays.DialTimeout = func(addr string, _ time.Duration) (net.Conn, error) {
		tcp, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		shaken := tls.Client(tcp, &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
		if err := shaken.Handshake(); err != nil {
			return nil, err
		}
		return newProcessorConn(shaken, tcp.(*net.TCPConn), true)
	}
}

// TestDoubledAnswerOverTLSIsNotTheNextOnes: whether it came with the first or behind it, and was read from the socket or not.
func TestDoubledAnswerOverTLSIsNotTheNextOnes(t *testing.T) {
	for _, behind := range []time.Duration{0, 20 * time.Millisecond} {
		var asked atomic.Int32
		doubled := make(chan struct{})
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) > 1 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { conn.Close() })
			for i := range 2 {
				time.Sleep(time.Duration(i) * behind)
				if _, err := io.WriteString(conn, status("200 OK", "{}")); err != nil {
					t.Error(err)
				}
			}
			close(doubled)
		}))
		defer server.Close()
		p := newTestProcessor(t, server.URL, patient)
		p.trust(server)
		if got := p.paySome(); got.outcome != outcomePaid {
			t.Fatalf("the first: %s (%s)", got.outcome, got.detail)
		}
		<-doubled
		time.Sleep(10 * time.Millisecond) // until it has arrived
		if got := p.paySome(); got.outcome != outcomeRefused {
			t.Errorf("the second, refused by its processor, is %s (%s)", got.outcome, got.detail)
		}
	}
}

func TestLookUp(t *testing.T) {
	id := somePayment.id.String()
	answer := func(id, amount, requestedAt string) string {
		return status("200 OK", `{"correlationId":"`+id+`","amount":`+amount+`,"requestedAt":`+requestedAt+`}`)
	}
	const when, at = `"2025-07-15T12:34:56.000000Z"`, micros(1_752_582_896_000_000)
	found := func(c cents, t micros) lookUpResult {
		return lookUpResult{kind: lookUpFound, amount: c, requestedAt: t}
	}
	none := lookUpResult{kind: lookUpNoAnswer}
	rows := []struct {
		name   string
		answer turn
		want   lookUpResult
	}{
		{"found", says(answer(id, "19.90", when)), found(1990, at)},
		{"upper-case id", says(answer(strings.ToUpper(id), "19.90", when)), found(1990, at)},
		{"one decimal", says(answer(id, "19.9", when)), found(1990, at)},
		{"zeros", says(answer(id, "19.9000", when)), found(1990, at)},
		{"exponent", says(answer(id, "1.99e1", when)), found(1990, at)},
		{"no zone", says(answer(id, "20", `"2025-07-15T12:34:56.1234567"`)), found(2000, at+123_456)},
		{"no fraction", says(answer(id, "20", `"2025-07-15T12:34:56"`)), found(2000, at)},
		{"404", says(status("404 Not Found", "")), lookUpResult{kind: lookUpAbsent}},
		{"another id", says(answer("00000000-0000-0000-0000-000000000000", "19.90", when)), none},
		{"no id", says(status("200 OK", `{"amount":19.90,"requestedAt":`+when+`}`)), none},
		{"three decimals", says(answer(id, "19.901", when)), none},
		{"amount as a string", says(answer(id, `"19.90"`, when)), none},
		{"amount null", says(answer(id, "null", when)), none},
		{"amount zero", says(answer(id, "0", when)), none},
		{"requestedAt nonsense", says(answer(id, "19.90", `"yesterday"`)), none},
		{"requestedAt a number", says(answer(id, "19.90", `12`)), none},
		{"null", says(status("200 OK", "null")), none},
		{"HTML", says(status("200 OK", "<html>")), none},
		{"empty", says(status("200 OK", "")), none},
		{"201", says(strings.Replace(answer(id, "19.90", when), "200 OK", "201 OK", 1)), none},
		{"500", says(status("500 Failing", "")), none},
		{"429", says(status("429 Busy", "")), none},
		{"torn 404", saysAndCloses("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n"), none},
		{"closed", saysAndCloses(""), none},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			server := startRawServer(t, row.answer)
			got := newTestProcessor(t, server.url()+"/prefix", patient).lookUp(somePayment.id)
			if (got.detail == "") != (got.kind != lookUpNoAnswer) {
				t.Errorf("%s has the detail %q", got.kind, got.detail)
			}
			got.detail = ""
			if got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
			if seen := server.seen; len(seen) != 1 || seen[0].method != "GET" || seen[0].target != "/prefix/payments/"+id {
				t.Errorf("the server saw %+v", seen)
			}
		})
	}
}

func TestLookedUpCents(t *testing.T) {
	good := map[string]cents{"0.01": 1, "1": 100, "1e2": 10_000, "1E+2": 10_000, "100e-4": 1, "10000000000e-2": 10_000_000_000,
		"9999999999.99": 999_999_999_999, "0.010000000000000000000000000000": 1, "1.5": 150}
	for text, want := range good {
		if got, ok := lookedUpCents([]byte(text)); !ok || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "null", "true", "0", "0.00", "-1", "-0.01", "0.001", "0.011e0", "10000000000", "1e11", "1e31", "1e-3",
		"1e999999999999999999999", "99999999999999999999", `"1"`, "{}", "[]", "9223372036854775807", "92233720368547758.07"} {
		if got, ok := lookedUpCents([]byte(text)); ok {
			t.Errorf("%s was read as %d", text, got)
		}
	}
}

func TestHealth(t *testing.T) {
	rows := []struct {
		name, text string
		want       healthReading
		err        bool
	}{
		{"well", status("200 OK", `{"failing":false,"minResponseTime":0}`), healthReading{}, false},
		{"failing", status("200 OK", `{"failing":true,"minResponseTime":5000}`), healthReading{true, 5 * time.Second}, false},
		{"429", status("429 Too Many Requests", ""), healthReading{}, true},
		{"500", status("500 Failing", ""), healthReading{}, true},
		{"half", status("200 OK", `{"failing":true}`), healthReading{}, true},
		{"ill-typed", status("200 OK", `{"failing":"no","minResponseTime":1}`), healthReading{}, true},
		{"negative", status("200 OK", `{"failing":false,"minResponseTime":-1}`), healthReading{}, true},
		{"huge", status("200 OK", `{"failing":false,"minResponseTime":9223372036854775807}`), healthReading{}, true},
		{"HTML", status("200 OK", `<html>`), healthReading{}, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			server := startRawServer(t, says(row.text))
			got, err := newTestProcessor(t, server.url(), patient).health(patient)
			if got != row.want || (err != nil) != row.err {
				t.Errorf("got %+v, %v", got, err)
			}
			if errors.Is(err, errHealthTooSoon) != (row.name == "429") {
				t.Errorf("got %v", err)
			}
			if seen := server.seen; len(seen) != 1 || seen[0].target != "/payments/service-health" {
				t.Errorf("the server saw %+v", seen)
			}
		})
	}
	hanging := startRawServer(t, says(""))
	if _, err := newTestProcessor(t, hanging.url(), patient).health(hasty); err == nil {
		t.Error("a health call without an answer has a result")
	}
}

// TestManyAtOnce: under load every payment arrives once, and gets the answer to itself and no other.
func TestManyAtOnce(t *testing.T) {
	const flights, each = 32, 100
	server := startRawServer(t, func(conn *net.TCPConn, seen seenRequest) bool {
		var body struct{ Amount json.Number }
		if err := json.Unmarshal([]byte(seen.body), &body); err != nil {
			t.Error(err)
		}
		// An odd number of cents fails.
		text := paidAnswer
		if strings.ContainsAny(body.Amount.String()[len(body.Amount)-1:], "13579") {
			text = status("500 Failing", "")
		}
		_, err := io.WriteString(conn, text)
		return err == nil
	})
	p, err := newProcessor(onFallback, server.url(), flights, patient)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	var wait sync.WaitGroup
	for f := range flights {
		wait.Go(func() {
			for i := range each {
				n := f*each + i
				id := paymentID{1: byte(n >> 8), 2: byte(n)}
				want := [2]outcome{outcomePaid, outcomeRefused}[n%2]
				if got := p.pay(id, cents(n+2), micros(n)); got.outcome != want {
					t.Errorf("%d: %s (%s), want %s", n, got.outcome, got.detail, want)
				}
			}
		})
	}
	wait.Wait()
	bodies := map[string]bool{}
	for _, seen := range server.seen {
		bodies[seen.body] = true
	}
	if len(server.seen) != flights*each || len(bodies) != flights*each {
		t.Errorf("the server saw %d requests, %d different", len(server.seen), len(bodies))
	}
}

func TestOutcomesHaveNames(t *testing.T) {
	names := map[string]bool{}
	for o := outcomePaid; o <= outcomeUnknown; o++ {
		names[o.String()] = true
	}
	if len(names) != int(outcomeUnknown)+1 || names[""] || strings.Contains(fmt.Sprint(names), "(") {
		t.Errorf("names are %v", names)
	}
}

// startQuietServer answers every read with the same bytes and takes no memory for it, so that what is
// counted is the client's.
func startQuietServer(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				request, answer := make([]byte, 4096), []byte(paidAnswer)
				for {
					n, err := conn.Read(request)
					if err != nil || !bytes.HasSuffix(request[:n], []byte("}")) {
						return
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

func BenchmarkPay(b *testing.B) {
	p, err := newProcessor(onDefault, startQuietServer(b), 1, patient)
	if err != nil {
		b.Fatal(err)
	}
	defer p.close()
	b.ReportAllocs()
	for b.Loop() {
		if got := p.paySome(); got.outcome != outcomePaid {
			b.Fatal(got)
		}
	}
}

func TestPayTakesNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates; run without -race to count")
	}
	p := newTestProcessor(t, startQuietServer(t), patient)
	if n := testing.AllocsPerRun(1000, func() { p.paySome() }); n != 0 {
		t.Errorf("a payment takes %v allocations", n)
	}
}

// stillSilent asks a plain connection to a processor what send asks it before it writes.
func stillSilent(conn net.Conn) (silent bool) {
	c := conn.(*processorConn)
	err := c.raw.Control(func(fd uintptr) { silent = c.silent(fd) })
	return err == nil && silent
}
