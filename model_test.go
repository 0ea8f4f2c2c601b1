package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	modelSchedules = flag.Int("schedules", 300, "how many random schedules the model of the protocol plays")
	modelSeed      = flag.Uint64("seed", 0, "play only the model's schedule with this seed, and tell what happens in it")
)

// TestProtocolHoldsUnderRandomSchedules plays random schedules of payments, crashes and faults against the real parts of two or
// three instances in virtual time. What has to hold is in model_check_test.go: it is looked at at every send and every claim, and
// when everything has come to rest.
//
// A schedule (what is posted, what breaks, when, and what becomes of each attempt) follows from its seed; in which order
// goroutines run that are ready in the same virtual instant does not. So a seed that fails is one that can fail: play it with
// -seed N, and with -count to see how often.
func TestProtocolHoldsUnderRandomSchedules(t *testing.T) {
	folders := newModelFolders(t)
	if *modelSeed != 0 {
		playSchedule(t, folders, *modelSeed, true)
		return
	}
	for seed := uint64(1); seed <= uint64(*modelSchedules); seed++ {
		if !playSchedule(t, folders, seed, false) {
			t.Fatalf("seed %d fails; play it alone with: go test -run %s -seed %d .", seed, t.Name(), seed)
		}
	}
}

// world is all of one schedule.
type world struct {
	t       *testing.T
	dir     string
	boot    [16]byte
	metrics *metrics
	plan    *rand.Rand // the schedule's; only its goroutine draws from it
	names   []string

	mu      sync.Mutex // guards what follows, the store, the processors, and who is dead
	rng     *rand.Rand // what becomes of calls
	store   *modelStore
	procs   [processors]*modelProcessor
	all     []*modelInstance
	live    map[string]*modelInstance
	invalid map[paymentID]bool // a processor said, and was heard, that it will never take it

	posted map[paymentID]*posted // the schedule's own

	notes sync.Mutex
	trace []traceLine
	wrong []string
}

// firstBoot is the host's boot id at the start of every schedule.
var firstBoot = [16]byte{1}

// posted is what clients were told of an id.
type posted struct {
	answered bool           // with a 202 that was heard
	amounts  map[cents]bool // under which it may be paid: not those that were answered with 409
	fresh    []cents        // with which it became a payment of its own at some instance, for all that it knew
}

type traceLine struct {
	at     time.Time
	format string
	args   []any
}

func (w *world) note(format string, args ...any) {
	w.notes.Lock()
	defer w.notes.Unlock()
	w.trace = append(w.trace, traceLine{time.Now(), format, args})
}

func (w *world) fail(format string, args ...any) {
	w.note("WRONG: "+format, args...)
	w.notes.Lock()
	defer w.notes.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) story() string {
	w.notes.Lock()
	defer w.notes.Unlock()
	var b strings.Builder
	for _, line := range w.trace {
		fmt.Fprintf(&b, "%12s  %s\n", line.at.Sub(w.trace[0].at), fmt.Sprintf(line.format, line.args...))
	}
	return b.String()
}

var modelMetrics = sync.OnceValue(newMetrics)

// playSchedule is false when something did not hold.
func playSchedule(t *testing.T, folders *modelFolders, seed uint64, tell bool) bool {
	shared := modelMetrics() // outside of the bubble: see TestMain
	held := true
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, boot: firstBoot, metrics: shared, plan: rand.New(rand.NewPCG(seed, 1)), rng: rand.New(rand.NewPCG(seed, 2)),
			names: []string{"a", "b"}, live: make(map[string]*modelInstance), posted: make(map[paymentID]*posted), invalid: make(map[paymentID]bool)}
		w.store = newModelStore(w)
		for id := range w.procs {
			w.procs[id] = &modelProcessor{w: w, id: processorID(id), mood: moodGood, written: map[paymentID]*modelAttempt{}, attempts: map[paymentID][]*modelAttempt{}}
		}
		if w.plan.IntN(5) == 0 {
			w.names = append(w.names, "c")
		}
		w.note("schedule %d", seed)
		w.dir = folders.take(len(w.names))
		for _, name := range w.names {
			w.start(name, 0)
		}
		w.play()
		if w.rest() {
			w.mu.Lock()
			w.checkRest()
			w.mu.Unlock()
		}
		for _, in := range w.all {
			in.bury()
		}
		folders.giveBack(w.dir)
		time.Sleep(modelLongestWrite + 10*time.Second)
		held = len(w.wrong) == 0
		if tell {
			t.Logf("%s%s", w.story(), w.store.state)
		}
		for _, wrong := range w.wrong {
			t.Errorf("seed %d: %s", seed, wrong)
		}
	})
	return held
}

// rest lifts all faults, brings back who is missing (or leaves it to others), and waits until nothing is left to be done.
func (w *world) rest() bool {
	w.mu.Lock()
	w.note("faults are lifted")
	w.store.ails = ailsNothing
	clear(w.store.cut)
	for _, p := range w.procs {
		p.mood, p.blind = moodGood, false
	}
	for _, in := range w.live {
		in.fuse = 0
	}
	w.mu.Unlock()
	for _, name := range w.names {
		if w.instance(name) == nil && (len(w.live) == 0 || w.plan.IntN(3) > 0) {
			w.start(name, 0)
		}
	}
	const limit = 5 * time.Minute
	for started := time.Now(); time.Since(started) < limit; time.Sleep(500 * time.Millisecond) {
		if w.resting() {
			time.Sleep(modelSendTimeout + modelLongestWrite) // whatever is still on its way lands, and must change nothing
			if w.resting() {
				return true
			}
		}
	}
	w.fail("it does not come to rest")
	for _, in := range w.live {
		w.note("%s: pending %d, elsewhere %d, pinned %d, held %d, life %q", in, in.ledger.pending.Load(), in.elsewhere.len(), in.resolver.pinned(), in.policy.held(), in.life.present())
	}
	return false
}

func (w *world) resting() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.store.living() {
		return false
	}
	owned := 0
	for _, in := range w.live {
		if !in.idle() || in.life.present() != w.store.state.life {
			return false
		}
		owned += len(*in.ledger.journals.Load())
	}
	for _, p := range w.procs {
		if p.running > 0 {
			return false
		}
	}
	for _, in := range w.live {
		ids, err := in.ledger.folder.journalIDs()
		return err == nil && owned == len(ids)
	}
	return false
}

func (w *world) instance(name string) *modelInstance {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[name]
}
