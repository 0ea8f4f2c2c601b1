package main

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// onlyOwners asserts that every journal in the folder is locked, by exactly one of the instances: nobody else can take it, and what
// they own adds up to what there is.
func (w *processWorld) onlyOwners(instances ...*galoProcess) {
	w.t.Helper()
	heads, err := filepath.Glob(filepath.Join(w.dir, "data", "*"+journalSuffix, headName))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, head := range heads {
		file, err := os.Open(head)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := lockFile(file); !errors.Is(err, errOwned) {
			w.t.Errorf("%s has no owner: %v", head, err)
		}
		file.Close()
	}
	owned := 0.0
	for _, p := range instances {
		owned += p.metric("galo_journals")
	}
	if int(owned) != len(heads) {
		w.t.Errorf("%v journals are owned, and there are %d", owned, len(heads))
	}
}

// sentOnce asserts that nothing was sent a second time: for payments whose answers were never lost.
func (w *processWorld) sentOnce() {
	w.t.Helper()
	for id := range w.promised {
		if n := w.def.attempts(id.String()) + w.fall.attempts(id.String()); n != 1 {
			w.t.Errorf("%s was sent %d times", id, n)
		}
	}
}

// newClusterOfProcesses is a world of instances on a Redis and a NATS of their own.
func newClusterOfProcesses(t *testing.T) (*processWorld, *redisServer) {
	t.Helper()
	redis := startRedis(t)
	w := newProcessWorld(t, variantOf(t), redis.url())
	w.env["NATS_URL"] = startNATS(t, -1).ClientURL()
	return w, redis
}

// TestInstanceGoneForGood: the other one finishes what it left, and when it is back it begins a journal of its own. One that is made
// anew under another name leaves nothing behind either.
func TestInstanceGoneForGood(t *testing.T) {
	w, _ := newClusterOfProcesses(t)
	w.env["PATIENCE"] = "1h"
	a, b := w.start("a"), w.start("b")
	a.postAll(0, 10)
	b.postAll(10, 20)
	w.finishes(a, b)
	gate := make(chan struct{}) // from now on payments wait at the processor, before it has written them
	var once sync.Once
	open := func() { once.Do(func() { close(gate) }) }
	t.Cleanup(open)
	refusing := func(rw http.ResponseWriter, _ fakePayment, _ func()) bool {
		select {
		case <-gate:
			return false
		default:
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		}
	}
	w.def.behave(refusing)
	w.fall.behave(refusing)
	a.postAll(20, 40)
	a.kill()
	eventually(t, "the other one takes its journal over", func() bool { return b.metric("galo_journals") == 2 })
	back := w.start("a")
	eventually(t, "it is back", func() bool { return back.metric("galo_journals") == 1 })
	w.onlyOwners(back, b)
	back.postAll(30, 50) // some of them are with the other one
	b.kill()
	anew := w.start("c")
	eventually(t, "its journals are taken over", func() bool { return back.metric("galo_journals")+anew.metric("galo_journals") == 4 })
	w.onlyOwners(back, anew)
	open()
	anew.postAll(50, 60)
	w.finishes(back, anew)
	w.onlyOwners(back, anew)
	w.audit(nil, back, anew)
}

// TestKilledAgainAndAgain kills both instances at random moments, also while they recover, with processors that are slow, fail and
// lose answers. Clients come back with the same ids.
func TestKilledAgainAndAgain(t *testing.T) {
	const kills, payments = 12, 300
	w, _ := newClusterOfProcesses(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var dice sync.Mutex
	throw := func(n int) int {
		dice.Lock()
		defer dice.Unlock()
		return random.IntN(n)
	}
	for _, f := range []*fakeProcessor{w.def, w.fall} {
		f.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
			switch throw(8) {
			case 0, 1, 2:
				rw.WriteHeader(http.StatusInternalServerError)
				return true
			case 3:
				hijacked(rw)
				return true
			case 4: // written, and nobody hears of it
				f.bookOnce(p)
				hijacked(rw)
				return true
			case 5: // slow: the instance may be dead by then
				<-time.After(time.Duration(throw(20)) * time.Millisecond)
			}
			return false
		})
	}
	var instances [2]*galoProcess
	for i, name := range []string{"a", "b"} {
		instances[i] = w.start(name)
	}
	posted := uint64(0)
	for range kills {
		victim := throw(2)
		dies := time.After(time.Duration(throw(60)) * time.Millisecond)
		for dying := false; !dying; {
			select {
			case <-dies:
				dying = true
			default:
				if p := instances[throw(2)]; posted < payments {
					p.tryPost(posted)
					posted++
				} else {
					p.tryPost(uint64(throw(payments)))
				}
			}
		}
		instances[victim].kill()
		instances[victim] = w.start(instances[victim].name)
	}
	w.def.behave(nil)
	w.fall.behave(nil)
	w.finishes(instances[:]...)
	w.onlyOwners(instances[:]...)
	w.audit(nil, instances[:]...)
}

// tryPost posts a payment if somebody is there.
func (p *galoProcess) tryPost(n uint64) {
	if status, _ := p.get("admin", "/healthz"); status == http.StatusOK {
		p.post(n, nthAmount(n))
	}
}

// TestNothingIsClaimedBeforeEveryJournalHasReported: an instance that hangs holds its journal. When Redis is wiped, nobody else knows
// what that instance has paid: until it reports, nothing is sent, and no summary is given.
func TestNothingIsClaimedBeforeEveryJournalHasReported(t *testing.T) {
	w, redis := newClusterOfProcesses(t)
	a, b := w.start("a"), w.start("b")
	b.postAll(0, 20)
	a.postAll(20, 40)
	w.finishes(a, b)
	b.stop()
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	a.postAll(0, 60) // the first of them are paid, and only the one that hangs knows it
	eventually(t, "it notices that Redis is new", func() bool { return a.metric("galo_store_ready") == 0 })
	for range 20 {
		if status, body := a.get("galo", "/payments-summary"); status != http.StatusServiceUnavailable {
			t.Fatalf("a summary before all have reported: %d %s", status, body)
		}
	}
	if n := w.def.count() + w.fall.count(); n != 40 {
		t.Errorf("%d were paid without anybody knowing what the other one has", n-40)
	}
	b.goOn()
	w.finishes(a, b)
	w.sentOnce()
	w.audit(nil, a, b)
}
