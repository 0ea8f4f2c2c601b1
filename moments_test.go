package main

import (
	"context"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var momentsFile = flag.String("moments", "", "draw what clients notice of settles, syncs, segments, collections and drains into this file, an SVG picture")

const (
	momentsWarm   = 5 * time.Second // before anything counts
	momentsSteady = 45 * time.Second
	momentsDrains = 3
	momentsHeld   = 15_000 // payments that wait when both processors return
	drainShown    = 5 * time.Second
)

// momentKind is something that happens behind the backs of clients, again and again.
type momentKind uint8

const (
	momentSettle     momentKind = iota // a batch goes to Redis
	momentSegment                      // a segment begins to be made
	momentCollection                   // a garbage collection ends
	momentWrite                        // the journal begins to be written to the disk: by the kernel, or by a sync of galo's with DURABILITY=disk
	momentKinds
)

func (k momentKind) String() string {
	switch k {
	case momentSettle:
		return "settle"
	case momentSegment:
		return "segment"
	case momentCollection:
		return "collection"
	case momentWrite:
		return "write"
	case momentKinds:
	}
	return "unknown"
}

// clientPost is one payment of the clients: when it was due since the run's beginning, how long it took from then, and how much of that was over
// when the clients sent it.
type clientPost struct{ due, took, late time.Duration }

// drained is one outage's end: when both processors were back, when nobody waited any more, and how many waited from the first on, every 50 ms.
type drained struct {
	back, done time.Duration
	waiting    []int64
}

// momentsRun is what one instance and its clients have seen.
type momentsRun struct {
	durability durability
	steady     [2]time.Duration // from and to
	posts      []clientPost     // by due
	moments    [momentKinds][]time.Duration
	drains     []drained
	syncs      []time.Duration // how long each took
	stalled    int             // payments of the steady part that are left out: see leaveOutStalls

	began time.Time
	mu    sync.Mutex // of moments and syncs, while they are gathered
}

// TestMoments shows what clients notice of what an instance does beside taking their payments:
// go test -run 'TestMoments$' -moments bench/moments.svg -v .
// The instance is in this process alone, with what the stack gives it (one P, LINGER=60ms) but for GOGC, so that it collects often enough.
// Clients, processors, which answer at once, and Redis are processes of their own. It asserts nothing of times.
func TestMoments(t *testing.T) {
	if *momentsFile == "" {
		t.Skip("it takes three minutes: -moments FILE draws the picture")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const often = 20 // with the 400 of the stack none came in 15 s
	defer debug.SetGCPercent(debug.SetGCPercent(often))
	var runs []*momentsRun
	for _, d := range []durability{durableProcess, durableDisk} {
		runs = append(runs, watchMoments(t, d))
	}
	rows := judgeMoments(runs)
	t.Logf("\n%s", momentsTable(rows, runs))
	picture := drawMoments(rows, runs)
	if err := wellFormed(picture); err != nil {
		t.Errorf("the picture is not well formed: %v", err)
	}
	if err := os.WriteFile(*momentsFile, picture, 0o644); err != nil {
		t.Fatal(err)
	}
}

// watchMoments runs an instance under a steady load, in which settles, segments, collections and writes happen, and then through outages.
func watchMoments(t *testing.T, d durability) *momentsRun {
	t.Helper()
	urls, dir := quickProcessors(t), t.TempDir()
	w := &testWorld{dir: filepath.Join(dir, "data"), env: map[string]string{"REDIS_URL": startRedis(t).url(), "LINGER": "60ms", "DURABILITY": d.String(),
		"PROCESSOR_DEFAULT_URL": urls[onDefault], "PROCESSOR_FALLBACK_URL": urls[onFallback]}}
	g, err := w.buildFor(t)
	if err != nil {
		t.Fatal(err)
	}
	r := &momentsRun{durability: d, began: time.Now()}
	g.settler.store = momentStore{g.settler.store, r}
	if g.ledger.disk != nil {
		sync := g.ledger.disk.sync
		g.ledger.disk.sync = func() error {
			from := time.Now()
			err := sync()
			r.synced(from, time.Since(from))
			return err
		}
	}
	socket := filepath.Join(dir, "socket")
	if err := g.listen(config{listen: listenAddress{"unix", socket}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.start(ctx)
	clients := startActor(t, "TestBeingTheClients", asClientsOf+"="+socket, "GOGC=1000")
	time.Sleep(momentsWarm)
	r.beSteady(t, g, w.dir)
	for n := range momentsDrains {
		r.drain(t, g, urls, uint64(n))
	}
	r.posts = clients.posts(t, r.began)
	eventually(t, "all is settled", func() bool { return g.ledger.pending.Load() == 0 })
	if err := g.stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	r.keepSteady()
	r.leaveOutStalls()
	return r
}

// at is a moment as a time since the run's beginning. Those of other processes and of files come by the wall clock.
func (r *momentsRun) at(t time.Time) time.Duration { return t.Sub(r.began) }

func (r *momentsRun) synced(from time.Time, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moments[momentWrite] = append(r.moments[momentWrite], r.at(from))
	r.syncs = append(r.syncs, took)
}

// momentStore notes when settles begin.
type momentStore struct {
	settleStore
	run *momentsRun
}

func (s momentStore) settle(ctx context.Context, t lifeToken, mark uint64, in []settlement, progress []journalProgress) ([]paymentID, error) {
	s.run.mu.Lock()
	s.run.moments[momentSettle] = append(s.run.moments[momentSettle], s.run.at(time.Now()))
	s.run.mu.Unlock()
	return s.settleStore.settle(ctx, t, mark, in, progress)
}

// beSteady is the time in which moments are gathered.
func (r *momentsRun) beSteady(t *testing.T, g *galo, dir string) {
	ctx, cancel := context.WithTimeout(t.Context(), momentsSteady)
	defer cancel()
	r.steady[0] = r.at(time.Now())
	var kernel *actor
	if r.durability == durableProcess { // with the other one there is hardly anything left to be written
		kernel = startActor(t, "TestBeingTheKernel", asKernelFor+"="+dir)
	}
	useUpSlots(ctx, g.ledger)
	r.steady[1] = r.at(time.Now())
	if kernel != nil {
		for _, from := range kernel.moments(t) {
			r.moments[momentWrite] = append(r.moments[momentWrite], r.at(from))
		}
	}
	var collections debug.GCStats
	debug.ReadGCStats(&collections)
	for _, end := range collections.PauseEnd {
		r.moments[momentCollection] = append(r.moments[momentCollection], r.at(end))
	}
	r.moments[momentSegment] = r.segmentsMade(t, dir)
}

// keepSteady leaves the moments around which the whole picture is in the steady part.
func (r *momentsRun) keepSteady() {
	for k := range r.moments {
		slices.Sort(r.moments[k])
		r.moments[k] = slices.DeleteFunc(r.moments[k], func(at time.Duration) bool { return at < r.steady[0]+binsBefore || at > r.steady[1]-binsAfter })
	}
}

// leaveOutStalls drops what was due in the steady part around a payment that the clients, who do nothing but wait for its time, sent so late:
// then the machine was away for all.
func (r *momentsRun) leaveOutStalls() {
	const late, around = 5 * time.Millisecond, 250 * time.Millisecond
	kept, till := []clientPost(nil), time.Duration(0)
	for i, p := range r.posts {
		if p.due < r.steady[0] || p.due >= r.steady[1] {
			kept = append(kept, p)
			continue
		}
		for next := i; next < len(r.posts) && r.posts[next].due < p.due+around; next++ {
			if r.posts[next].late > late {
				till = max(till, r.posts[next].due+around)
			}
		}
		if p.due < till {
			r.stalled++
			continue
		}
		kept = append(kept, p)
	}
	r.posts = kept
}

// segmentsMade is when the files of segments came into being.
func (r *momentsRun) segmentsMade(t *testing.T, dir string) (made []time.Duration) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var info unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, file, 0, unix.STATX_BTIME, &info); err != nil {
			t.Fatal(err)
		}
		if info.Mask&unix.STATX_BTIME == 0 {
			t.Skip("this file system does not say when a file was made")
		}
		made = append(made, r.at(time.Unix(info.Btime.Sec, int64(info.Btime.Nsec))))
	}
	return made
}

// useUpSlots goes through a segment in two thirds of a second, as 65,536 payments would, until ctx ends: all but one of the slots are for one id, and final
// from the first on. So segments are made, retired and unmapped as they are in the life of an instance, only more often.
func useUpSlots(ctx context.Context, l *ledger) {
	const every, atOnce, most = 2 * time.Millisecond, 200, segmentSlots / 4
	j, id := l.active, nthID(1<<40)
	each(ctx, every, func() {
		if j.next.Load()+most > j.limit.Load() {
			return // or clients would be refused
		}
		for range atOnce {
			r, first, full := j.append(&id, 1, l.clock.now(), indexHash(&id))
			if full {
				return
			}
			l.outrun.Add(1) // it is no payment that has arrived
			if accepted := word(0).with(slotAccepted); r == first {
				j.transition(r.seq(), accepted, accepted.with(slotDuplicate), 0)
			}
		}
	})
}

// drain lets both processors fail until enough payments wait, and then return.
func (r *momentsRun) drain(t *testing.T, g *galo, urls [processors]string, nth uint64) {
	t.Helper()
	const every, atOnce = 10 * time.Millisecond, 32
	bothFail(t, urls, http.MethodPut)
	next := (nth + 2) << 40
	tick := time.NewTicker(every)
	defer tick.Stop()
	for g.ledger.pending.Load() < momentsHeld {
		<-tick.C
		var together sync.WaitGroup
		for range atOnce {
			id := nthID(next)
			next++
			together.Go(func() {
				if ref, what := g.ledger.accept(&id, 1990); what == acceptedNew {
					g.dispatcher.push(ref)
				}
			})
		}
		together.Wait()
	}
	const rest = time.Second // what it took to accept them is over
	time.Sleep(rest)
	bothFail(t, urls, http.MethodDelete)
	d := drained{back: r.at(time.Now())}
	for since := time.Duration(0); since < drainShown || d.done == 0; since += drainBin {
		time.Sleep(time.Until(r.began.Add(d.back + since)))
		waiting := g.ledger.pending.Load()
		d.waiting = append(d.waiting, waiting)
		const usual = 200 // are on their way at any time
		if d.done == 0 && waiting < usual {
			d.done = r.at(time.Now())
		}
	}
	r.drains = append(r.drains, d)
}

// bothFail tells both processors to refuse everything, with PUT, or to take it again, with DELETE.
func bothFail(t *testing.T, urls [processors]string, method string) {
	t.Helper()
	for _, url := range urls {
		req, err := http.NewRequestWithContext(t.Context(), method, url+"/failing", strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
}
