package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// quietConn is a connection over a unix socket whose writer is not told each time that the other side has read. The runtime asks its epoll
// for such news of every connection, and a unix socket has some whenever its peer has read an answer: a thread is woken for each, and
// there is nobody to tell (bench/RESULTS.md says what that costs). So the news is not asked for until a write finds no room; from then
// on the connection is as any other. TCP has such news only when there was no room.
type quietConn struct {
	net.Conn
	raw   syscall.RawConn
	at    registration
	asked bool // for news of room. Written by whoever writes, and there is one at a time

	// once is bound when the connection is made, so that a write costs no memory; what it works on is below.
	once    func(fd uintptr) bool
	bytes   []byte
	written int
	failed  error
}

// littleEndian says how the two halves of an event's data lie in memory (see ask).
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// quietConns is how many connections are quiet at the moment, and mostQuiet how many may be. To find one's registration costs a look at all
// of them, and where connections are many they are not kept for long.
var quietConns atomic.Int32

const mostQuiet = 256

// quieten returns a quiet connection where the kernel and the runtime let us, and else the one it was given.
func quieten(conn net.Conn) net.Conn {
	socket, ok := conn.(*net.UnixConn)
	if !ok || !littleEndian {
		return conn
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return conn
	}
	if quietConns.Add(1) > mostQuiet {
		quietConns.Add(-1)
		return conn
	}
	c := &quietConn{Conn: conn, raw: raw}
	c.once = c.writeOnce
	failed := raw.Control(func(fd uintptr) {
		if c.at, err = registrationOf(int(fd)); err == nil {
			err = c.at.ask(c.at.events &^ unix.EPOLLOUT)
		}
	})
	if cmp.Or(failed, err) != nil {
		quietConns.Add(-1)
		return conn
	}
	return c
}

func (c *quietConn) Close() error {
	err := c.Conn.Close()
	if err == nil { // the first time
		quietConns.Add(-1)
	}
	return err
}

// Write writes. When there is no room, it waits for some, as long as the connection's deadline allows.
func (c *quietConn) Write(p []byte) (int, error) {
	if c.asked {
		return c.Conn.Write(p)
	}
	c.bytes, c.written, c.failed = p, 0, nil
	err := c.raw.Write(c.once)
	c.bytes = nil
	switch {
	case err != nil:
		return 0, err // closed, or too late
	case c.failed != nil:
		return 0, &net.OpError{Op: "write", Net: "unix", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("write", c.failed)}
	case c.written == len(p):
		return len(p), nil
	}
	c.asked = true
	failed := c.raw.Control(func(uintptr) { err = c.at.ask(c.at.events) })
	if err := cmp.Or(failed, err); err != nil {
		return c.written, fmt.Errorf("cannot wait for room to write: %w", err)
	}
	n, err := c.Conn.Write(p[c.written:])
	return c.written + n, err
}

// writeOnce writes what there is room for.
func (c *quietConn) writeOnce(fd uintptr) bool {
	for {
		n, err := unix.Write(int(fd), c.bytes)
		if err == unix.EINTR {
			continue
		}
		c.written = max(n, 0)
		if err != unix.EAGAIN {
			c.failed = err
		}
		return true
	}
}

// registration is what an epoll has noted of a file.
type registration struct {
	epoll, file int
	events      uint32
	data        uint64
}

// ask changes what news there shall be. Whatever there is to tell at this moment is told once more. The halves of the data lie as on a
// little-endian machine.
func (r registration) ask(events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(r.data)), Pad: int32(uint32(r.data >> 32))}
	return unix.EpollCtl(r.epoll, unix.EPOLL_CTL_MOD, r.file, &event)
}

// runtimeEpoll is the epoll in which a file was found at last; 0 if none was. The runtime has one for as long as it runs.
var runtimeEpoll atomic.Int32

// registrationOf looks, in what the kernel shows of this process, for the one epoll that has noted a file: the runtime's, since galo has no other.
func registrationOf(file int) (registration, error) {
	if known := int(runtimeEpoll.Load()); known != 0 {
		return registrationIn(known, file)
	}
	const fds, eventpoll = "/proc/self/fd", "anon_inode:[eventpoll]"
	list, err := os.ReadDir(fds)
	if err != nil {
		return registration{}, err
	}
	for _, one := range list {
		if link, err := os.Readlink(fds + "/" + one.Name()); err != nil || link != eventpoll {
			continue
		}
		epoll, err := strconv.Atoi(one.Name())
		if err != nil {
			return registration{}, err
		}
		if r, err := registrationIn(epoll, file); err == nil {
			runtimeEpoll.Store(int32(epoll))
			return r, nil
		}
	}
	return registration{}, fmt.Errorf("no epoll has noted file %d", file)
}

func registrationIn(epoll, file int) (registration, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", epoll))
	if err != nil {
		return registration{}, err
	}
	r := registration{epoll: epoll, file: file}
	if !r.find(info) {
		return registration{}, fmt.Errorf("epoll %d has not noted file %d", epoll, file)
	}
	return r, nil
}

// find reads what fdinfo shows of an epoll: a line for each file, as in "tfd: 9 events: 8000201d data: 7f51a4a0c001 pos:0 ino:2f sdev:8".
func (r *registration) find(info []byte) bool {
	for line := range bytes.Lines(info) {
		words := strings.Fields(string(line))
		if len(words) < 6 || words[0] != "tfd:" || words[1] != strconv.Itoa(r.file) || words[2] != "events:" || words[4] != "data:" {
			continue
		}
		events, err := strconv.ParseUint(words[3], 16, 32)
		if err != nil {
			return false
		}
		r.events = uint32(events)
		r.data, err = strconv.ParseUint(words[5], 16, 64)
		return err == nil
	}
	return false
}
