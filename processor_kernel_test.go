package main

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// awaitAcknowledged waits until the other side's kernel has everything that was written.
func awaitAcknowledged(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	for unsent := 1; unsent > 0; {
		if raw.Control(func(fd uintptr) { unsent, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }) != nil || err != nil {
			return
		}
	}
}

// awaitIdleEvent waits until the kernel has news of the one idle connection: its end, or bytes. If the
// connection is no longer idle, because the client has closed it, there is nothing to wait for.
func awaitIdleEvent(t *testing.T, p *processor) {
	t.Helper()
	eventually(t, "news of an idle connection", func() bool {
		if p.pays.IdleConnsCount() == 0 {
			return true
		}
		pooled, err := p.pays.AcquireConn(patient, false)
		if err != nil {
			t.Fatal(err)
		}
		defer p.pays.ReleaseConn(pooled)
		return !stillSilent(pooled.Conn())
	})
}

// fillListenQueue returns an address whose queue of connections is full: the kernel drops what comes.
func fillListenQueue(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: bound.(*syscall.SockaddrInet4).Port}).String()
	for range 8 {
		conn, err := net.DialTimeout("tcp", address, hasty)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue takes more than it should")
	return ""
}

// awaitHangUp waits, without reading, until the other side has closed the connection.
func awaitHangUp(raw syscall.RawConn) {
	for gone := false; !gone; {
		err := raw.Control(func(fd uintptr) {
			polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			n, _ := unix.Poll(polled, 10)
			gone = n > 0
		})
		if err != nil {
			return
		}
	}
}
