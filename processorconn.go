package main

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processorConn is a connection that can tell whether the other side has given it up. One call has it at a
// time.
type processorConn struct {
	net.Conn
	secure bool
	// used says that there was a request on it before.
	used bool
	// spent says that the other side has sent more than the answers it owed.
	spent bool

	raw syscall.RawConn
	// These are bound once, so that a call costs no memory; what they work on is below.
	poll func(fd uintptr)
	ask  func(fd uintptr) bool

	polled  [1]unix.PollFd
	peeked  [1]byte
	request []byte // yet to be written by ask; nil once it has been tried
	written int    // of the request
	stale   bool   // ask has found that the other side has given the connection up
	failed  error  // of the write
}

func newProcessorConn(conn net.Conn, tcp *net.TCPConn, secure bool) (*processorConn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &processorConn{Conn: conn, raw: raw, secure: secure}
	c.poll, c.ask = c.pollNow, c.askOnce
	return c, nil
}

// send writes a request once, unless the other side has given the connection up: then usable is false, and nothing was written. It
// returns when the request is on its way, and in plain only when there is something to read as well, be it the end.
func (c *processorConn) send(request []byte, deadline time.Time) (usable bool, failure *exchangeError) {
	if c.secure && !c.usable() {
		return false, nil
	}
	if err := c.SetDeadline(deadline); err != nil {
		return true, &exchangeError{cause: err}
	}
	if c.secure {
		if _, err := c.Write(request); err != nil {
			// TLS counts what it has sealed, not what it has sent: a zero proves nothing there.
			return true, &exchangeError{sent: true, cause: err}
		}
		return true, nil
	}
	c.request, c.written, c.stale, c.failed = request, 0, false, nil
	err := c.raw.Read(c.ask)
	c.request = nil
	switch {
	case c.stale:
		return false, nil
	case c.failed != nil:
		err = c.failed
	case err == nil && c.written < len(request): // the kernel had no room for all of it
		n := 0
		n, err = c.Write(request[c.written:])
		c.written += n
	}
	if err != nil {
		return true, &exchangeError{sent: c.written > 0, cause: err}
	}
	return true, nil
}

// askOnce is called for a read, as soon as the runtime has forgotten all news of the connection. So whatever comes after the request
// is news, and nothing need be read in vain before waiting for it: a false waits, and when there is news it is called again.
func (c *processorConn) askOnce(fd uintptr) bool {
	request := c.request
	if request == nil {
		return true
	}
	c.request = nil
	if c.stale = !c.silent(fd); c.stale {
		return true
	}
	for {
		n, err := unix.Write(int(fd), request)
		if err == unix.EINTR {
			continue
		}
		c.written = max(n, 0)
		if err != nil && err != unix.EAGAIN {
			c.failed = err
		}
		return c.written < len(request)
	}
}

// silent asks the kernel, in a quarter of a microsecond, whether nothing at all has come while the connection was idle. An end or a
// reset means that the server has closed it, so that a request would be lost. Bytes that nobody asked for (a 408 before closing, the
// second half of a doubled answer) would be taken for the answer to this request.
func (c *processorConn) silent(fd uintptr) bool {
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&c.peeked[0])), uintptr(len(c.peeked)),
		unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return errno == unix.EAGAIN
}

// usable is silent for TLS. Before the first request there may be session tickets; with the first answer they have been read, so that
// whatever comes after one is what nobody asked for. A part of it may have been read with that answer, and wait inside.
func (c *processorConn) usable() bool {
	if err := c.raw.Control(c.poll); err != nil {
		return false
	}
	news := c.polled[0].Revents
	if !c.used {
		return news&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) == 0
	}
	if news != 0 || c.SetReadDeadline(overDeadline) != nil {
		return false
	}
	n, err := c.Read(c.peeked[:]) // from what was read: it is too late to read more
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// overDeadline is a deadline that has passed.
var overDeadline = time.Unix(1, 0)

func (c *processorConn) pollNow(fd uintptr) {
	c.polled[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	if _, err := unix.Poll(c.polled[:], 0); err != nil {
		c.polled[0].Revents = unix.POLLERR
	}
}
