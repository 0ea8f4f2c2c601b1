package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// quietOn is a quiet connection, for as long as the test lasts.
func quietOn(t *testing.T, conn net.Conn) *quietConn {
	t.Helper()
	c, ok := quieten(conn).(*quietConn)
	if !ok {
		t.Fatal("the connection is as it was")
	}
	t.Cleanup(func() { c.Close() })
	return c
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
	conn := quietOn(t, ours)
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
	if err := ours.(*net.UnixConn).SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	much := bytes.Repeat([]byte("0123456789"), 1<<17)
	wrote := make(chan error, 1)
	go func() {
		n, err := conn.Write(much)
		if err == nil && n != len(much) {
			err = io.ErrShortWrite
		}
		wrote <- err
	}()
	eventually(t, "it waits for room", func() bool { return news(t, conn)&unix.EPOLLOUT != 0 })
	got := make([]byte, len(much))
	if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, much) {
		t.Fatalf("what was read is not what was written: %v", err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
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
	conn := quietOn(t, ours)
	much := make([]byte, 10<<20)
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Write(much); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(much) {
		t.Errorf("%d written, %v", n, err)
	}
	if n, err := conn.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || n != 0 {
		t.Errorf("after the deadline: %d written, %v", n, err)
	}
}

func TestQuietConnSaysWhatFailed(t *testing.T) {
	ours, theirs := socketPair(t)
	conn := quietOn(t, ours)
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
	first := quietOn(t, one)
	if got := quieten(other); got != other {
		t.Errorf("there was no room for another one, and it is a %T", got)
	}
	first.Close()
	first.Close()
	if got := quietConns.Load(); got != mostQuiet-1 {
		t.Errorf("%d are left of %d", got, mostQuiet)
	}
	quietOn(t, other)
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

// TestInstanceIsQuietOnItsSockets: a whole instance, with clients and Redis on sockets, as in the stack.
func TestInstanceIsQuietOnItsSockets(t *testing.T) {
	w := newTestWorld(t)
	store := filepath.Join(w.dir, "redis.sock")
	startRedis(t, "--unixsocket", store)
	for url, least := range map[string]int{"": 1, "unix:" + store: 2} { // the client's, and one to Redis at least
		p := w.startStoppable(t, "a"+strconv.Itoa(least), "REDIS_URL="+url, "LINGER=0s")
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.socket)
		}}}
		t.Cleanup(client.CloseIdleConnections)
		ask := func(method, path, body string) (int, string) {
			t.Helper()
			request, err := http.NewRequestWithContext(t.Context(), method, "http://galo"+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			text, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			return answer.StatusCode, string(text)
		}
		payment := `{"correlationId":"` + nthID(uint64(least)).String() + `","amount":1}`
		if status, _ := ask(http.MethodPost, "/payments", payment); status != http.StatusAccepted {
			t.Fatal(status)
		}
		eventually(t, "it is paid and settled", func() bool {
			_, sum := ask(http.MethodGet, "/payments-summary", "")
			return strings.HasPrefix(sum, `{"default":{"totalRequests":`) && !strings.HasPrefix(sum, `{"default":{"totalRequests":0,`)
		})
		if n := quietNow(t, p.cmd.Process.Pid); n < least {
			t.Errorf("%d connections are quiet, want %d", n, least)
		}
		attr, err := unix.SchedGetAttr(p.cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		if attr.Runtime != shortestSlice && attr.Runtime != 0 { // an older kernel shows none
			t.Errorf("its slices are of %d ns", attr.Runtime)
		}
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	}
}

// quietNow counts the files that a process's epolls look at for what can be read, and not for room.
func quietNow(t *testing.T, process int) (n int) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", process))
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue // it was closed meanwhile
		}
		n += strings.Count(string(text), fmt.Sprintf(" events: %x ", unix.EPOLLET&0xffffffff|unix.EPOLLRDHUP|unix.EPOLLIN|unix.EPOLLERR|unix.EPOLLHUP))
	}
	return n
}
