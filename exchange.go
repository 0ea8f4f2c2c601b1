package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// maxIdleConn is short, so that connections are rarely given up by the other side first: a request on
	// its way to a connection that the server just closes has an unknown outcome. Common servers wait from
	// 5 s (Node.js) to 130 s (Kestrel, which the processors run on).
	maxIdleConn = 4 * time.Second

	// dialTimeout lets a lost SYN be sent again once, which the kernel does after a second.
	dialTimeout = 1500 * time.Millisecond

	// maxAnswerBytes bounds a body; the processor's own have less than a hundred bytes.
	maxAnswerBytes = 64 << 10

	// maxInterim is how many 1xx answers may come before the real one.
	maxInterim = 5
)

// exchangeError says how an exchange failed, and whether the other side may have seen any of the request.
type exchangeError struct {
	sent  bool
	cause error
}

// errClosedAtOnce is what a port says behind which nobody lives, but which a proxy keeps open.
var errClosedAtOnce = errors.New("a new connection was closed at once")

// detail puts the usual causes into words that need no memory, since in an outage there is one a payment.
func (e *exchangeError) detail() string {
	switch {
	case errors.Is(e.cause, fasthttp.ErrNoFreeConns):
		return "no free connection"
	case !e.sent:
		return e.cause.Error()
	case errors.Is(e.cause, os.ErrDeadlineExceeded), errors.Is(e.cause, fasthttp.ErrTimeout):
		return "no answer in time"
	case errors.Is(e.cause, syscall.ECONNRESET), errors.Is(e.cause, syscall.EPIPE):
		return "connection reset"
	case errors.Is(e.cause, io.EOF), errors.Is(e.cause, io.ErrUnexpectedEOF):
		return "connection closed early"
	}
	return e.cause.Error()
}

// exchange writes one request once and reads one whole answer, which refers to the response's memory. It
// goes around HostClient.Do, and uses the client for its pool of connections only: so no setting and no
// release of the library can send a payment again, a redirect can't be followed, and it is known whether a
// failure came before the first byte. All of that is a certainty of this function, which has one send.
// The timeout counts from start, which is now.
func exchange(c *fasthttp.HostClient, request []byte, response *fasthttp.Response, start time.Time, timeout time.Duration) (wholeAnswer, *exchangeError) {
	deadline := start.Add(timeout)
	// The loop ends: each connection that has gone stale leaves the pool, and a new one is judged once.
	for left := timeout; left > 0; left = time.Until(deadline) {
		// Nothing is written in here, whatever the error: the pool is full, or dialling failed.
		pooled, err := c.AcquireConn(left, false)
		if err != nil {
			return wholeAnswer{}, &exchangeError{cause: err}
		}
		conn := pooled.Conn().(*processorConn)
		usable, failure := conn.send(request, deadline)
		if !usable {
			stale := conn.used
			c.CloseConn(pooled)
			if stale {
				continue
			}
			return wholeAnswer{}, &exchangeError{cause: errClosedAtOnce}
		}
		conn.used = true
		var answer wholeAnswer
		if failure == nil {
			answer, failure = receive(c, conn, response)
		}
		if failure != nil || response.ConnectionClose() || conn.spent {
			c.CloseConn(pooled)
		} else {
			c.ReleaseConn(pooled)
		}
		return answer, failure
	}
	return wholeAnswer{}, &exchangeError{cause: fasthttp.ErrTimeout}
}

// receive reads the answer to what was sent.
func receive(c *fasthttp.HostClient, conn *processorConn, response *fasthttp.Response) (wholeAnswer, *exchangeError) {
	reader := c.AcquireReader(conn)
	answer, err := readWhole(reader, response)
	// More than was announced: whatever follows must not be taken for the answer to the next request.
	conn.spent = reader.Buffered() > 0
	c.ReleaseReader(reader)
	if err != nil {
		return wholeAnswer{}, &exchangeError{sent: true, cause: err}
	}
	return answer, nil
}

// readWhole reads one answer to its end, after any informational ones. Every byte of an error, a missing
// end or a broken chunk is an error here.
func readWhole(r *bufio.Reader, response *fasthttp.Response) (wholeAnswer, error) {
	for interim := 0; ; interim++ {
		if err := checkFirstLine(r); err != nil {
			return wholeAnswer{}, err
		}
		if err := response.Header.Read(r); err != nil {
			return wholeAnswer{}, err
		}
		status := response.StatusCode()
		if status == fasthttp.StatusSwitchingProtocols {
			return wholeAnswer{}, errors.New("an answer in another protocol")
		}
		if status < 100 || status > 199 {
			break
		}
		if interim == maxInterim {
			return wholeAnswer{}, errors.New("more informational answers than any server sends")
		}
	}
	answer := wholeAnswer{status: response.StatusCode(), framed: true}
	if answer.status == fasthttp.StatusNoContent || answer.status == fasthttp.StatusNotModified {
		return answer, nil
	}
	const chunked, untilClose = -1, -2 // what the library means by these lengths
	length := response.Header.ContentLength()
	answer.framed = length != untilClose
	if err := response.ReadBody(r, maxAnswerBytes); err != nil {
		return wholeAnswer{}, err
	}
	if length == chunked {
		if err := response.Header.ReadTrailer(r); err != nil {
			return wholeAnswer{}, err
		}
	}
	answer.body = response.Body()
	return answer, nil
}

// checkFirstLine looks at "HTTP/1.1 200" before the library does, which is lenient in one way that would
// make a payment paid: it reports a status of 000 as 200. It also turns every failure before the first byte
// into an end of file, while a reset is seen as one here.
func checkFirstLine(r *bufio.Reader) error {
	const form = "HTTP/1.x "
	line, err := r.Peek(len(form) + 3)
	if err != nil {
		return err
	}
	if string(line[:7]) != form[:7] || line[8] != ' ' || line[9] < '1' || line[9] > '9' {
		return errors.New("an answer that is not HTTP")
	}
	return nil
}

// newClient returns a pool of connections. Its readers bound the head of an answer to 4 KiB.
func (b baseURL) newClient(maxConns int) *fasthttp.HostClient {
	return &fasthttp.HostClient{
		Addr:                b.addr,
		MaxConns:            maxConns,
		MaxIdleConnDuration: maxIdleConn,
		ReadBufferSize:      4 << 10,
		// The last one used is used next, so that what a burst has opened goes when the burst is over.
		ConnPoolStrategy: fasthttp.LIFO,
		DialTimeout:      b.dial,
		// exchange never comes to where these count. They stand here for whoever calls Do one day.
		MaxIdemponentCallAttempts: 1,
		RetryIfErr:                func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
	}
}

// dial connects, and for https shakes hands, so that every failure of either is one before the first byte
// of a request. The pool thinks of all its connections as plain.
func (b baseURL) dial(addr string, left time.Duration) (net.Conn, error) {
	timeout := min(dialTimeout, left)
	deadline := time.Now().Add(timeout)
	conn, err := (&net.Dialer{Timeout: timeout}).Dial("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot connect: %w", err)
	}
	plain, tcp := conn, conn.(*net.TCPConn)
	if b.secure {
		// The deadline is replaced by exchange's own before the first request.
		if err := tcp.SetDeadline(deadline); err != nil {
			tcp.Close()
			return nil, fmt.Errorf("cannot connect: %w", err)
		}
		shaken := tls.Client(tcp, &tls.Config{ServerName: b.name})
		if err := shaken.Handshake(); err != nil {
			tcp.Close()
			return nil, fmt.Errorf("cannot shake hands: %w", err)
		}
		plain = shaken
	}
	wrapped, err := newProcessorConn(plain, tcp, b.secure)
	if err != nil {
		tcp.Close()
		return nil, fmt.Errorf("cannot watch a connection: %w", err)
	}
	return wrapped, nil
}
