package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketPair is the two ends of a connection over a unix socket.
func socketPair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- conn
	}()
	if theirs, err = net.Dial("unix", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	ours, ok := <-accepted
	if !ok {
		t.Fatal("not accepted")
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// news is what the runtime's epoll has to tell of a connection at present.
func news(t *testing.T, conn *quietConn) uint32 {
	t.Helper()
	var r registration
	var err error
	if failed := conn.raw.Control(func(fd uintptr) { r, err = registrationOf(int(fd)) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	return r.events
}

func TestQuietConnIsToldOfNoRoomUntilThereIsNone(t *testing.T) {
	ours, theirs := socketPair(t)
	conn, ok := quieten(ours).(*quietConn)
	if !ok {
		t.Fatal("the connection is as it was")
	}
	if got := news(t, conn); got&unix.EPOLLOUT != 0 || got&unix.EPOLLIN == 0 || got&unix.EPOLLET == 0 {
		t.Errorf("the epoll is asked for %x", got)
	}
	if n, err := conn.Write([]byte("little")); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	read := make([]byte, 6)
	if _, err := io.ReadFull(theirs, read); err != nil || string(read) != "little" {
		t.Fatalf("%q, %v", read, err)
	}
	if got := news(t, conn); got&unix.EPOLLOUT != 0 {
		t.Errorf("there was room, and the epoll is asked for %x", got)
	}

	for _, end := range []net.Conn{conn, theirs} { // what is never told of waits for ever
		if err := end.SetDeadline(time.Now().Add(patient)); err != nil {
			t.Fatal(err)
		}
	}
	much := bytes.Repeat([]byte("0123456789"), 1<<20)
	wrote := make(chan error, 1)
	go func() {
		n, err := conn.Write(much)
		if err == nil && n != len(much) {
			err = io.ErrShortWrite
		}
		wrote <- err
	}()
	got := make([]byte, len(much))
	if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, much) {
		t.Fatalf("what was read is not what was written: %v", err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if got := news(t, conn); got&unix.EPOLLOUT == 0 {
		t.Errorf("there was no room, and the epoll is asked for %x", got)
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, read[:1]); err != nil || read[0] != 'x' {
		t.Errorf("%q, %v", read[:1], err)
	}
}

// TestQuietConnGivesUpInTime: what the other side does not take is cut off by the deadline, as on any connection.
func TestQuietConnGivesUpInTime(t *testing.T) {
	ours, _ := socketPair(t)
	conn := quieten(ours)
	if err := conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	much := make([]byte, 10<<20)
	if n, err := conn.Write(much); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(much) {
		t.Errorf("%d written, %v", n, err)
	}
	if n, err := conn.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || n != 0 {
		t.Errorf("after the deadline: %d written, %v", n, err)
	}
}

func TestQuietConnSaysWhatFailed(t *testing.T) {
	ours, theirs := socketPair(t)
	conn := quieten(ours)
	theirs.Close()
	if n, err := conn.Write([]byte("x")); !errors.Is(err, unix.EPIPE) || n != 0 {
		t.Errorf("the other side has closed: %d written, %v", n, err)
	}
	conn.Close()
	if n, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) || n != 0 {
		t.Errorf("closed: %d written, %v", n, err)
	}
}

// TestQuietConnsAreFew: those beyond are as they were, and a closed one makes room, once.
func TestQuietConnsAreFew(t *testing.T) {
	before := quietConns.Load()
	quietConns.Store(mostQuiet - 1)
	defer quietConns.Store(before)
	one, _ := socketPair(t)
	other, _ := socketPair(t)
	quiet, ok := quieten(one).(*quietConn)
	if !ok {
		t.Fatal("there was room for one more")
	}
	if got := quieten(other); got != other {
		t.Errorf("there was no room for another one, and it is a %T", got)
	}
	quiet.Close()
	quiet.Close()
	if got := quietConns.Load(); got != mostQuiet-1 {
		t.Errorf("%d are left of %d", got, mostQuiet)
	}
	if _, ok := quieten(other).(*quietConn); !ok {
		t.Error("one was closed, and there is no room for another one")
	}
	other.Close()
}

func TestTCPIsNotQuietened(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := quieten(conn); got != conn {
		t.Errorf("it is a %T", got)
	}
}

func TestRegistrationIsReadFromFdinfo(t *testing.T) {
	const info = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1038\n" +
		"tfd:       16 events: 80002019 data: 3f9d4b22fe000004  pos:0 ino:27677 sdev:9\n" +
		"tfd:        6 events: 8000201d data:          117da38  pos:0 ino:40e sdev:10\n" +
		"tfd: 7 events: zz data: 1\ntfd: 8\n"
	for file, want := range map[int]registration{
		6:  {file: 6, events: 0x8000201d, data: 0x117da38},
		16: {file: 16, events: 0x80002019, data: 0x3f9d4b22fe000004},
	} {
		r := registration{file: file}
		if !r.find([]byte(info)) || r != want {
			t.Errorf("got %+v, want %+v", r, want)
		}
	}
	for _, file := range []int{1, 7, 8, 160} {
		r := registration{file: file}
		if r.find([]byte(info)) {
			t.Errorf("file %d was found: %+v", file, r)
		}
	}
}
