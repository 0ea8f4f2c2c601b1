package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// storeFault is something that happens to Redis under load.
type storeFault struct {
	name string
	// half comes when half of the history is settled: for a fault that goes back to that moment.
	half func(s *storeScene)
	// strike begins the fault, and heal ends it.
	strike, heal func(s *storeScene)
	// away: in between nothing can be claimed. silent: and no summary can be given.
	away, silent bool
}

// storeScene is two instances on one Redis, which they reach through a proxy.
type storeScene struct {
	t     *testing.T
	w     *testWorld
	books *books
	redis *redisServer
	proxy *cutProxy
	a, b  *testGalo
	saved string // what half has put by
	size  int64
}

var storeFaults = []storeFault{
	{name: "killed and started again", away: true, silent: true,
		strike: func(s *storeScene) { s.redis.kill() }, heal: func(s *storeScene) { s.redis.start() }},
	{name: "started again without its last second", away: true, silent: true,
		half:   func(s *storeScene) { s.size = s.fileSize() },
		strike: func(s *storeScene) { s.redis.kill(); s.cutFile(s.size + 100) }, // in the middle of a command
		heal:   func(s *storeScene) { s.redis.start() }},
	{name: "started again from an older copy", away: true, silent: true,
		half:   func(s *storeScene) { s.saved = s.copyFiles() },
		strike: func(s *storeScene) { s.redis.kill(); s.restoreFiles(s.saved) },
		heal:   func(s *storeScene) { s.redis.start() }},
	{name: "started again with nothing", away: true, silent: true,
		strike: func(s *storeScene) { s.redis.kill(); s.restoreFiles(s.t.TempDir()) },
		heal:   func(s *storeScene) { s.redis.start() }},
	{name: "wiped", strike: func(s *storeScene) { do(s.t, rawConn(s.t, s.redis.url()), "FLUSHALL") }},
	{name: "hanging", away: true, silent: true,
		strike: func(s *storeScene) { s.signal(syscall.SIGSTOP) }, heal: func(s *storeScene) { s.signal(syscall.SIGCONT) }},
	{name: "out of memory", away: true,
		strike: func(s *storeScene) { do(s.t, rawConn(s.t, s.redis.url()), "CONFIG", "SET", "maxmemory", "1") },
		heal:   func(s *storeScene) { do(s.t, rawConn(s.t, s.redis.url()), "CONFIG", "SET", "maxmemory", "0") }},
	{name: "cut in the middle of a pipeline", // each connection carries its setup and then part of a batch
		strike: func(s *storeScene) { s.proxy.cutAfter(s.scriptBytes() + 1500) }, heal: func(s *storeScene) { s.proxy.heal() }},
}

// TestRedis plays every fault of Redis under load, with the same ids at both instances before it, during it and after it: intake goes
// on, nothing is sent that is not claimed, no summary is ever partial, and in the end everything is paid and counted once.
func TestRedis(t *testing.T) {
	for _, f := range storeFaults {
		t.Run(f.name, func(t *testing.T) { newStoreScene(t).play(f) })
	}
}

func newStoreScene(t *testing.T) *storeScene {
	w := newTestWorld(t)
	s := &storeScene{t: t, w: w, redis: startRedis(t), books: newBooks(w.def, w.fall)}
	s.proxy = newCutProxy(t, strings.TrimPrefix(s.redis.url(), "redis://"))
	w.env["REDIS_URL"] = "redis://" + s.proxy.addr()
	w.env["NATS_URL"] = startNATS(t, -1).ClientURL()
	s.a, s.b = w.startTwo(t)
	return s
}

func (s *storeScene) play(f storeFault) {
	const part = 40
	s.postAtBoth(0, part/2)
	s.settled()
	if f.half != nil {
		f.half(s)
	}
	s.postAtBoth(part/2, part)
	s.settled()
	watch := s.watchSummaries()
	f.strike(s)
	if f.silent {
		watch.await(s.t, &watch.refused)
	}
	before := s.attempts()
	s.postAtBoth(part/2, 2*part) // some of them paid already
	if f.away && s.attempts() != before {
		s.t.Errorf("%d attempts without a claim", s.attempts()-before)
	}
	if f.heal != nil {
		f.heal(s)
	}
	s.postAtBoth(0, 3*part)
	s.settled()
	watch.await(s.t, &watch.given)
	watch.stop()
	for n := range uint64(3 * part) {
		id := nthID(n).String()
		if n := s.w.def.attempts(id) + s.w.fall.attempts(id); n != 1 {
			s.t.Errorf("%s was sent %d times", id, n)
		}
	}
	s.books.audit(s.t, nil, map[string]asking{"a": s.a.get, "b": s.b.get})
}

// postAtBoth posts the same payments to both instances at the same time.
func (s *storeScene) postAtBoth(from, to uint64) {
	s.t.Helper()
	var both sync.WaitGroup
	for _, g := range []*testGalo{s.a, s.b} {
		both.Go(func() {
			for n := from; n < to; n++ {
				if status := g.post(nthID(n), string(nthAmount(n).appendDecimal(nil))); status != http.StatusAccepted {
					s.t.Errorf("payment %d was answered %d", n, status)
				}
				s.books.promise(nthID(n), nthAmount(n))
			}
		})
	}
	both.Wait()
}

func (s *storeScene) settled() {
	s.t.Helper()
	eventually(s.t, "nothing is pending at either instance", func() bool {
		return s.a.ledger.pending.Load() == 0 && s.b.ledger.pending.Load() == 0 && s.a.life.present() != "" && s.b.life.present() != ""
	})
}

// attempts is how many payments were sent to both processors together.
func (s *storeScene) attempts() int { return attemptsOf(s.w.def) + attemptsOf(s.w.fall) }

// get asks an instance for a path, whoever calls.
func (g *testGalo) get(path string) (int, string) {
	res, err := http.Get(g.url + path)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(b)
}

// summaryWatch asks both instances again and again for a window in which nothing happens any more.
type summaryWatch struct {
	given, refused atomic.Int64 // answers in a row, at both together
	end            chan struct{}
	done           sync.WaitGroup
}

func (s *storeScene) watchSummaries() *summaryWatch {
	watch := &summaryWatch{end: make(chan struct{})}
	path := "/payments-summary?to=" + string(nowMicros().appendTime(nil))
	want := s.books.sum()
	for _, g := range []*testGalo{s.a, s.b} {
		watch.done.Go(func() {
			for {
				select {
				case <-watch.end:
					return
				case <-time.After(2 * time.Millisecond):
				}
				switch status, body := g.get(path); status {
				case http.StatusOK:
					if body != want {
						s.t.Errorf("a summary is %s, want %s", body, want)
						return
					}
					watch.given.Add(1)
					watch.refused.Store(0)
				case http.StatusServiceUnavailable:
					watch.refused.Add(1)
					watch.given.Store(0)
				default:
					s.t.Errorf("a summary was answered %d", status)
					return
				}
			}
		})
	}
	return watch
}

// await waits until both instances have answered in the same way for a while.
func (w *summaryWatch) await(t *testing.T, same *atomic.Int64) {
	t.Helper()
	const often = 4
	eventually(t, "summaries are all given, or all refused", func() bool { return same.Load() >= often })
}

func (w *summaryWatch) stop() {
	close(w.end)
	w.done.Wait()
}

func (s *storeScene) signal(signal syscall.Signal) {
	if err := s.redis.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

// scriptBytes is what a connection sends before its first batch: the scripts, above all.
func (s *storeScene) scriptBytes() (n int64) {
	list := newStoreScripts()
	for _, one := range []storeScript{list.begin, list.report, list.claim, list.settle, list.records, list.purge, list.poll, list.pollDone,
		list.sweep, list.swept, list.forget, list.unlink} {
		n += int64(len(one.source)) + int64(len("*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$1000\r\n\r\n"))
	}
	return n
}

// files lists Redis's append-only files.
func (s *storeScene) files() []string {
	list, err := filepath.Glob(filepath.Join(s.redis.dir, "appendonlydir", "*"))
	if err != nil || len(list) == 0 {
		s.t.Fatalf("no append-only files: %v", err)
	}
	return list
}

func (s *storeScene) incremental() string {
	for _, f := range s.files() {
		if strings.HasSuffix(f, ".incr.aof") {
			return f
		}
	}
	s.t.Fatal("no incremental append-only file")
	return ""
}

func (s *storeScene) fileSize() int64 {
	info, err := os.Stat(s.incremental())
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Size()
}

func (s *storeScene) cutFile(size int64) {
	if now := s.fileSize(); now <= size {
		s.t.Fatalf("the append-only file has only %d bytes, and not %d", now, size)
	}
	if err := os.Truncate(s.incremental(), size); err != nil {
		s.t.Fatal(err)
	}
}

func (s *storeScene) copyFiles() string {
	dir := s.t.TempDir()
	for _, f := range s.files() {
		b, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return dir
}

// restoreFiles puts what is in dir in place of what Redis has; an empty dir leaves nothing.
func (s *storeScene) restoreFiles(dir string) {
	for _, f := range s.files() {
		if err := os.Remove(f); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(s.redis.dir, "appendonlydir"), os.DirFS(dir)); err != nil {
		s.t.Fatal(err)
	}
}
