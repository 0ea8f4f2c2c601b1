package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These name what the other processes of TestMoments are to work on.
const (
	asClientsOf = "GALO_TEST_AS_CLIENTS_OF" // a socket
	asKernelFor = "GALO_TEST_AS_KERNEL_FOR" // a folder of journals
)

const (
	momentsRate  = 500 // payments a second
	momentsConns = 64
)

// TestBeingTheClients posts payments at moments that were fixed beforehand, each by somebody who knows nothing of the others (so that the
// times between them are exponential), until its standard input ends. Then it says of each when it was due, in nanoseconds, how long it took
// from then, by how much it was sent late, and what was answered.
func TestBeingTheClients(t *testing.T) {
	socket := os.Getenv(asClientsOf)
	if socket == "" {
		t.Skip("TestMoments runs this as a process of its own")
	}
	type shot struct {
		n          uint64
		due        time.Time
		took, late time.Duration
		status     int
	}
	shots, done := make(chan shot, 1<<16), make(chan shot, 1<<16)
	var clients sync.WaitGroup
	for range momentsConns {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients.Go(func() {
			answers := bufio.NewReader(conn)
			for s := range shots {
				if _, err := conn.Write(appendPost(nil, s.n)); err == nil {
					if res, err := http.ReadResponse(answers, nil); err == nil {
						io.Copy(io.Discard, res.Body)
						s.status = res.StatusCode
					}
				}
				s.took = time.Since(s.due)
				done <- s
			}
		})
	}
	out := make(chan []shot)
	go func() {
		var all []shot
		for s := range done {
			all = append(all, s)
		}
		out <- all
	}()
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	runtime.LockOSThread() // short sleeps block a thread: always the same one
	random := rand.New(rand.NewPCG(1, 2))
	due := time.Now()
	for n := uint64(0); ; n++ {
		due = due.Add(time.Duration(random.ExpFloat64() * float64(time.Second) / momentsRate))
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			ts := unix.NsecToTimespec(int64(wait)) // the runtime's own timers are up to a millisecond late when nothing else runs
			_ = unix.Nanosleep(&ts, nil)           // cut short by a signal: the clock is looked at again
		}
		select {
		case <-ended:
			close(shots)
			clients.Wait()
			close(done)
			w := bufio.NewWriter(os.Stdout)
			for _, s := range <-out {
				fmt.Fprintln(w, s.due.UnixNano(), int64(s.took), int64(s.late), s.status)
			}
			w.Flush()
			os.Exit(0)
		case shots <- shot{n: n, due: due, late: time.Since(due)}:
		}
	}
}

// posts ends the clients and returns what each payment took. Every one has to be accepted.
func (a *actor) posts(t *testing.T, began time.Time) (all []clientPost) {
	t.Helper()
	a.stdin.Close()
	for a.lines.Scan() {
		var due, took, late, status int64
		if _, err := fmt.Sscan(a.lines.Text(), &due, &took, &late, &status); err != nil {
			t.Fatalf("clients say %q: %v", a.lines.Text(), err)
		}
		if status != http.StatusAccepted {
			t.Errorf("a payment was answered %d", status)
		}
		all = append(all, clientPost{time.Unix(0, due).Sub(began), time.Duration(took), time.Duration(late)})
	}
	slices.SortFunc(all, func(a, b clientPost) int { return int(a.due - b.due) })
	return all
}

// TestBeingTheKernel has the pages of the newest segments written to the disk again and again, as the kernel does every half minute or
// when many are dirty, until its standard input ends. Then it says when each time began, in nanoseconds.
func TestBeingTheKernel(t *testing.T) {
	dir := os.Getenv(asKernelFor)
	if dir == "" {
		t.Skip("TestMoments runs this as a process of its own")
	}
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	const newest, least, spread = 3, 300 * time.Millisecond, 600 * time.Millisecond
	var began []time.Time
	for {
		select {
		case <-ended:
			for _, at := range began {
				fmt.Println(at.UnixNano())
			}
			os.Exit(0)
		case <-time.After(least + rand.N(spread)):
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*", "*"+segmentSuffix)) // in order
		began = append(began, time.Now())
		for _, path := range files[max(0, len(files)-newest):] {
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.SyncFileRange(int(file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE); err != nil {
				t.Fatal(err)
			}
			file.Close()
		}
	}
}

// moments ends the kernel and returns when it began to write.
func (a *actor) moments(t *testing.T) (all []time.Time) {
	t.Helper()
	a.stdin.Close()
	for a.lines.Scan() {
		var at int64
		if _, err := fmt.Sscan(a.lines.Text(), &at); err != nil {
			t.Fatalf("the kernel says %q: %v", a.lines.Text(), err)
		}
		all = append(all, time.Unix(0, at))
	}
	return all
}
