package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// diskImage is what a disk holds of a journal's folder: the head, and of each segment all up to the last sequence handed out.
type diskImage struct {
	head     []byte
	segments map[uint64][]byte
}

// onDisk is the page cache's view of a journal at this moment: all that was stored so far.
func onDisk(t testing.TB, j *journal) diskImage {
	image := diskImage{segments: make(map[uint64][]byte)}
	var err error
	if image.head, err = os.ReadFile(filepath.Join(j.dir, headName)); err != nil {
		t.Error(err)
	}
	next := j.next.Load()
	numbers, err := segmentNumbers(j.dir)
	if err != nil {
		t.Error(err)
	}
	for _, number := range numbers {
		file, err := os.Open(segmentPath(j.dir, number))
		if errors.Is(err, os.ErrNotExist) {
			continue // nothing was ever in it: its time has come
		}
		if err != nil {
			t.Error(err)
			continue
		}
		first := number << segmentSlotsLog2
		b := make([]byte, segmentHeader+(min(max(next, first), first+segmentSlots)-first)*slotSize)
		if _, err := file.ReadAt(b, 0); err != nil {
			t.Error(err)
		}
		file.Close()
		image.segments[number] = b
	}
	return image
}

// tearing is how much of what was stored and not synced has reached the disk.
type tearing struct {
	name string
	unit int // bytes that reach the disk together; 0: nothing that was not synced does
}

// after is what a power loss leaves: all that was synced, and of what was stored later whatever chance has it.
func (tr tearing) after(synced, stored diskImage, random *rand.Rand) diskImage {
	left := diskImage{head: synced.head, segments: make(map[uint64][]byte)}
	for number, now := range stored.segments {
		old, made := synced.segments[number]
		if !made {
			old = now[:segmentHeader] // a segment is on the disk, with its name, before it is used
		}
		b := make([]byte, segmentBytes)
		copy(b, old)
		for at := segmentHeader; tr.unit > 0 && at < len(now); at += tr.unit {
			if random.IntN(2) == 0 {
				copy(b[at:at+tr.unit], now[at:at+tr.unit])
			}
		}
		left.segments[number] = b
	}
	return left
}

// write makes a folder of journals with this one in it, as the next run of the host finds it.
func (image diskImage) write(t testing.TB, dir, journal string) {
	t.Helper()
	folder := filepath.Join(dir, journal)
	if err := os.Mkdir(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, headName), image.head, 0o640); err != nil {
		t.Fatal(err)
	}
	for number, b := range image.segments {
		head := (*segmentHead)(unsafe.Pointer(&b[0]))
		if head.boot != ([16]byte{}) {
			head.boot[0]++
			head.sum = head.checksum()
		}
		if err := os.WriteFile(segmentPath(folder, number), b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// host is one run of a host, with an instance on it, from power on to power loss.
type host struct {
	t    testing.TB
	g    *testGalo
	mu   sync.RWMutex // held for reading by whoever does something in the outer world
	dead chan struct{}

	disk   sync.Mutex
	synced diskImage
}

// while does something in the outer world unless the power has gone.
func (h *host) while(do func()) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	select {
	case <-h.dead:
		return false
	default:
		do()
		return true
	}
}

// lateIn is how many attempts there are for one that lands late, perhaps after the power has gone at the host that sent it.
const lateIn = 20

// front is a processor as this host reaches it.
func (h *host) front(f *fakeProcessor, random func(int) int) string {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		arrived := h.while(func() {
			if r.Method != http.MethodPost || random(lateIn) != 0 {
				f.ServeHTTP(answer, r)
			}
		})
		if arrived && answer.Code == http.StatusOK && answer.Body.Len() == 0 && r.Method == http.MethodPost && len(answer.Result().Header) == 0 {
			select { // it has arrived, and is not written yet
			case <-h.dead:
			case <-time.After(20 * time.Millisecond):
			}
			f.ServeHTTP(answer, r)
		}
		if !arrived || answer.Code == lostAnswer {
			hijacked(rw)
			return
		}
		rw.WriteHeader(answer.Code)
		rw.Write(answer.Body.Bytes())
	}))
	h.t.Cleanup(server.Close)
	return server.URL
}

// lostAnswer is a status that says to a front: the client gets nothing.
const lostAnswer = 599

// moody answers as processors do on a bad day.
func moody(random func(int) int) func(rw http.ResponseWriter, _ fakePayment, write func()) bool {
	return func(rw http.ResponseWriter, _ fakePayment, write func()) bool {
		switch random(10) {
		case 0:
			rw.WriteHeader(lostAnswer) // nothing was written
		case 1, 2:
			time.Sleep(10 * time.Millisecond) // so long it reads sent
			rw.WriteHeader(http.StatusInternalServerError)
		default:
			return false
		}
		return true
	}
}

// powerOn starts an instance on a host of its own.
func powerOn(t testing.TB, w *testWorld, d durability, random func(int) int) *host {
	t.Helper()
	h := &host{t: t, dead: make(chan struct{})}
	g, err := w.build("DURABILITY", d.String(), "PROCESSOR_DEFAULT_URL", h.front(w.def, random), "PROCESSOR_FALLBACK_URL", h.front(w.fall, random),
		"PATIENCE", "20ms", "STOP_TIMEOUT", "2s")
	if err != nil {
		t.Fatal(err)
	}
	h.synced = onDisk(t, g.ledger.active) // what was there before the power came
	if d == durableProcess {
		h.g = serve(t, g)
		var kernel sync.WaitGroup
		kernel.Go(func() { h.writeNowAndThen(t.Context(), random) })
		t.Cleanup(kernel.Wait)
		return h
	}
	sync := g.ledger.disk.sync
	g.ledger.disk.sync = func() error {
		select {
		case <-h.dead:
			return sync()
		default:
		}
		stored := onDisk(t, g.ledger.active) // the disk need not hold what is stored after the sync began
		err := sync()
		h.disk.Lock()
		defer h.disk.Unlock()
		if err == nil {
			h.synced = stored
		}
		return err
	}
	h.g = serve(t, g)
	return h
}

// writeNowAndThen is the kernel, where nobody asks it to write.
func (h *host) writeNowAndThen(ctx context.Context, random func(int) int) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.dead:
			return
		case <-time.After(time.Duration(random(100)) * time.Millisecond):
		}
		h.disk.Lock()
		h.synced = onDisk(h.t, h.g.ledger.active)
		h.disk.Unlock()
	}
}

// powerOff ends everything at once, and returns what the disk holds.
func (h *host) powerOff(tr tearing, random *rand.Rand) diskImage {
	h.mu.Lock()
	h.disk.Lock()
	left := tr.after(h.synced, onDisk(h.t, h.g.ledger.active), random)
	h.disk.Unlock()
	close(h.dead)
	h.mu.Unlock()
	h.g.store.close() // nothing of this host reaches the store any more
	stopped := make(chan struct{})
	h.g.once.Do(func() {
		go func() {
			defer close(stopped)
			h.g.galo.stop(time.Minute) // its parts end; what they still do reaches nobody
			h.g.cancel()
		}()
	})
	h.t.Cleanup(func() { <-stopped }) // before its folder is removed
	return left
}

// load has clients post ids from the queue until stop is closed or the power goes, each of them again until it has its 202.
func (h *host) load(ids <-chan paymentID, unanswered func(paymentID), answered func(paymentID), stop <-chan struct{}) (wait func()) {
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			client := &http.Client{Timeout: 10 * time.Second}
			for {
				var id paymentID
				select {
				case <-stop:
					return
				case <-h.dead:
					return
				case id = <-ids:
				}
				res, err := client.Post(h.g.url+"/payments", "application/json", strings.NewReader(fmt.Sprintf(`{"correlationId":%q,"amount":1.00}`, id)))
				status := 0
				if err == nil {
					status = res.StatusCode
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if status != http.StatusAccepted || !h.while(func() { answered(id) }) {
					unanswered(id)
				}
			}
		})
	}
	return clients.Wait
}

// TestPowerLossLosesNoAnsweredPaymentAndPaysNoneTwice: DURABILITY=disk keeps its promise, whatever part of what was not synced
// has reached the disk, with the store as it was and with one that is empty.
func TestPowerLossLosesNoAnsweredPaymentAndPaysNoneTwice(t *testing.T) {
	for _, tr := range []tearing{{"what was synced", 0}, {"any slots", slotSize}, {"any words", 8}} {
		for _, store := range []string{"the store as it was", "an empty store"} {
			t.Run(tr.name+", "+store, func(t *testing.T) {
				t.Parallel()
				w := newTestWorld(t)
				if store != "an empty store" {
					w.env["REDIS_URL"] = startRedis(t).url()
				}
				powerLosses(t, w, durableDisk, tr)
			})
		}
	}
}

// TestPowerLossPaysNoneTwice: with DURABILITY=process what did not reach the disk is lost, and what is there may be older than what was done.
// Nothing is charged twice for that, as long as Redis outlives it, nor missing in the summary.
func TestPowerLossPaysNoneTwice(t *testing.T) {
	for _, tr := range []tearing{{"what was synced", 0}, {"any slots", slotSize}} {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			w := damagedWorld(t)
			powerLosses(t, w, durableProcess, tr)
		})
	}
}

func powerLosses(t *testing.T, w *testWorld, d durability, tr tearing) {
	const losses, ids = 3, 120
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	w.def.behave(moody(chance))
	w.fall.behave(moody(chance))
	queue := make(chan paymentID, 2*ids)
	for n := range uint64(ids) {
		queue <- nthID(n)
	}
	answered := make(map[paymentID]bool)
	count := make(chan struct{}, ids)
	onAnswer := func(id paymentID) {
		mu.Lock()
		defer mu.Unlock()
		answered[id] = true
		count <- struct{}{}
	}
	left := ids
	for range losses {
		h := powerOn(t, w, d, chance)
		wait := h.load(queue, func(id paymentID) { queue <- id }, onAnswer, nil)
		for range 1 + chance(ids/losses/2) {
			<-count
			left--
		}
		if d == durableProcess { // what was refused is sent to the other processor meanwhile
			time.Sleep(time.Duration(chance(200)) * time.Millisecond)
		}
		journal := filepath.Base(h.g.ledger.active.dir)
		image := h.powerOff(tr, rand.New(rand.NewPCG(uint64(chance(1<<30)), seed)))
		wait()
		w.dir = t.TempDir()
		image.write(t, w.dir, journal)
	}
	w.def.behave(nil)
	w.fall.behave(nil)
	h := powerOn(t, w, d, func(int) int { return 1 })
	stop := make(chan struct{})
	wait := h.load(queue, func(id paymentID) { queue <- id }, onAnswer, stop)
	for range left {
		<-count
	}
	close(stop)
	wait()
	for paid, since := 0, time.Now(); d == durableDisk && paid < ids && time.Since(since) < patient; time.Sleep(time.Millisecond) { // as long as it goes on
		if now := w.def.count() + w.fall.count(); now > paid {
			paid, since = now, time.Now()
		}
	}
	if d == durableDisk {
		w.paidOnce(t, h.g, ids)
	} else {
		w.paidAtMostOnce(t, h.g, ids)
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}

// paidAtMostOnce waits until nothing is on its way, and checks that none of payments 0 to n-1 is paid twice and the summary agrees.
func (w *testWorld) paidAtMostOnce(t *testing.T, g *testGalo, n int) {
	t.Helper()
	eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	for i := range uint64(n) {
		id := nthID(i).String()
		_, atDefault := w.def.has(id)
		if _, atFallback := w.fall.has(id); atDefault && atFallback {
			t.Errorf("payment %d is paid at both", i)
		}
	}
	want := w.booked()
	eventually(t, "the summary is "+want, func() bool { return g.summary("") == want })
}

// booked is the summary that agrees with the processors, of payments of 1.00 each.
func (w *testWorld) booked() string {
	return wantSummary(w.def.count(), fmt.Sprintf("%d.00", w.def.count()), w.fall.count(), fmt.Sprintf("%d.00", w.fall.count()))
}
