package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// A reached is one request from outside, byte by byte as a stranger may send it, and the status that has to come back.
type reached struct {
	raw  string
	want string // or several with blanks between: versions of nginx differ in what they call it
}

// whatIsReachable is all that an anonymous caller can reach through nginx, beside what it cannot: the paths of the admin side, those
// of other programs, and every way around the list that we know of.
func whatIsReachable() (all []reached) {
	ask := func(want, method string, paths ...string) {
		for _, path := range paths {
			all = append(all, reached{method + " " + path + " HTTP/1.1\r\nHost: galo\r\nConnection: close\r\n\r\n", want})
		}
	}
	id := freshID().String()
	// The contract's own.
	ask("200", "GET", "/payments-summary")
	ask("404", "GET", "/payments/"+id)
	ask("400", "GET", "/payments/no-uuid", "/payments-summary?from=yesterday")
	ask("405", "GET", "/payments", "/purge-payments")
	ask("405", "DELETE", "/payments", "/payments/"+id, "/payments-summary")
	ask("405", "TRACE", "/payments", "/metrics")
	ask("400", "POST", "/payments")
	ask("403", "POST", "/purge-payments")
	// Nothing else.
	ask("404", "GET", "/", "/index.html", "/metrics", "/healthz", "/readyz", "/debug/pprof", "/debug/pprof/", "/debug/pprof/heap",
		"/debug/pprof/cmdline", "/debug/vars", "/stub_status", "/nginx_status", "/.problem", "/favicon.ico", "/payments/", "/PAYMENTS")
	ask("404", "POST", "/metrics", "/debug/pprof/profile", "/purge", "/payments/", "/admin/purge-payments")
	ask("404", "GET", "//metrics", "/%6detrics", "/payments/../metrics", "/payments/..%2fmetrics", "/payments/%2e%2e/readyz",
		"/payments-summary/../debug/pprof/", "/payments/x/../../metrics", "/metrics;/payments", "/payments%20")
	ask("400 404", "GET", "/metrics%00/payments-summary")
	ask("404", "GET", "http://127.0.0.1:9990/metrics", "http://galo/debug/pprof/")
	all = append(all, reached{"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9990\r\nConnection: close\r\n\r\n", "404"},
		reached{"GET / HTTP/1.1\r\nHost: 127.0.0.1:9991\r\nConnection: close\r\n\r\n", "404"},
		reached{"GET /metrics HTTP/1.0\r\n\r\n", "404"})
	return append(all, whatIsRefused()...)
}

// whatIsRefused is what smuggles, lies about its size, or is hardly HTTP.
func whatIsRefused() []reached {
	const post = "POST /payments HTTP/1.1\r\nHost: galo\r\n"
	hidden := "GET /metrics HTTP/1.1\r\nHost: galo\r\n\r\n"
	return []reached{
		{post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400"},
		{post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{    }" + hidden, "400"},
		{post + "Content-Length: +5\r\n\r\n{   }" + hidden, "400"},
		{post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden, "400 501"},
		{post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + hidden, "400"},
		{post + "X: a\x00b\r\n\r\n", "400"},
		{post + "X: " + strings.Repeat("y", 40_000) + "\r\n\r\n", "400"},
		{post + "Content-Length: 4097\r\n\r\n" + strings.Repeat(" ", 4097), "413"},
		{post + "Content-Length: 1000000000\r\n\r\n", "413"},
		{post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1000\r\n"+strings.Repeat(" ", 4096)+"\r\n", 10), "413"},
		{"CONNECT 127.0.0.1:9990 HTTP/1.1\r\nHost: galo\r\n\r\n", "400 405"},
		{"post /payments HTTP/1.1\r\nHost: galo\r\n\r\n", "400"},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
		{"POST /payments HTTP/9.9\r\nHost: galo\r\n\r\n", "505"},
	}
}

// reach asks for all of it and says what was answered otherwise.
func reach(ctx context.Context, address string, patience time.Duration) (wrong []string) {
	for _, r := range whatIsReachable() {
		status, answer, err := askRaw(ctx, address, r.raw, patience)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("%.60q got no answer: %v", r.raw, err))
		case !slices.Contains(strings.Fields(r.want), status):
			wrong = append(wrong, fmt.Sprintf("%.60q was answered %s instead of %s", r.raw, status, r.want))
		case status != "200" && !bytes.Contains(answer, []byte("application/problem+json")):
			wrong = append(wrong, fmt.Sprintf("%.60q was answered %s without a problem", r.raw, status))
		case bytes.Contains(answer, []byte("galo_pending")) || bytes.Contains(answer, []byte("goroutine")):
			wrong = append(wrong, fmt.Sprintf("%.60q showed the admin side", r.raw))
		}
	}
	return wrong
}

// askRaw sends bytes and reads the first answer.
func askRaw(ctx context.Context, address, raw string, patience time.Duration) (status string, answer []byte, err error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", nil, err
	}
	_, _ = io.WriteString(conn, raw) // a server that has read enough answers and closes: what counts is its answer
	buffer := make([]byte, 16<<10)
	n, err := io.ReadAtLeast(conn, buffer, len("HTTP/1.1 404"))
	if err != nil {
		return "", nil, err
	}
	answer = buffer[:n]
	for n < len(buffer) { // the rest, as far as there is one
		more, err := conn.Read(buffer[n:])
		n += more
		answer = buffer[:n]
		if err != nil || bytes.Contains(answer, []byte("\r\n\r\n")) {
			break
		}
	}
	return string(answer[len("HTTP/1.1 "):len("HTTP/1.1 404")]), answer, nil
}

// A crowd is clients that keep their connections and ask for nothing, or for something a byte at a time.
const (
	idleCrowd = 1000
	slowCrowd = 200
	// Longer than nginx waits for a request.
	crowdStays = 12 * time.Second
)

// crowd comes, stays, and says how many of it were still there at the end though they had not asked for anything.
func crowd(ctx context.Context, address string) (left int, err error) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range idleCrowd + slowCrowd {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
		if err != nil {
			return 0, fmt.Errorf("cannot let a crowd in: %w", err)
		}
		conns = append(conns, conn)
	}
	until := time.Now().Add(crowdStays)
	var slow sync.WaitGroup
	for _, c := range conns[:slowCrowd] {
		slow.Go(func() {
			_, _ = io.WriteString(c, "POST /payments HTTP/1.1\r\nHost: galo\r\nX: ")
			for sleepLong(ctx, time.Second) && time.Now().Before(until) {
				_, _ = io.WriteString(c, "y")
			}
		})
	}
	slow.Wait()
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond)) // whoever was closed hears of it at once
		if _, err := c.Read(make([]byte, 1)); isTimeout(err) {
			left++
		}
	}
	return left, nil
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// sleepLong is for waits that need not be exact.
func sleepLong(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
