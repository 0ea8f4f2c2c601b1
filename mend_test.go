package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// refusing is a processor that writes nothing; breaking one that answers nothing.
func refusing(rw http.ResponseWriter, _ fakePayment, _ func()) bool {
	rw.WriteHeader(http.StatusInternalServerError)
	return true
}

func breaking(rw http.ResponseWriter, _ fakePayment, _ func()) bool {
	hijacked(rw)
	return true
}

func (f *fakeProcessor) hush(silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = silent
}

// at is one of the two processors, and other the one that it is not.
func (w *testWorld) at(p processorID) *fakeProcessor {
	return [processors]*fakeProcessor{onDefault: w.def, onFallback: w.fall}[p]
}

func (w *testWorld) other(p processorID) *fakeProcessor { return w.at(p.other()) }

// damagedWorld has a Redis that outlives the instance.
func damagedWorld(t *testing.T) *testWorld {
	w := newTestWorld(t)
	w.env["REDIS_URL"] = startRedis(t).url()
	return w
}

// leave starts an instance, has it accept payments 0 to n-1 of 1.00, waits until each is as wanted and claimed or settled in the
// store, stops it, and returns its journal's folder.
func (w *testWorld) leave(t *testing.T, n int, wanted func(v slotView) bool, settings ...string) string {
	t.Helper()
	g := w.start(t, settings...)
	for i := range uint64(n) {
		g.accepted(nthID(i), "1.00")
	}
	eventually(t, "all are as wanted", func() bool {
		for i := range uint64(n) {
			if v, _ := g.ledger.read(makeRef(0, i)); !wanted(v) {
				return false
			}
		}
		return true
	})
	dir := g.ledger.active.dir
	g.stopAll()
	return dir
}

func isSettled(v slotView) bool { return v.word.state() == slotSettled }

func isPinnedAt(p processorID) func(v slotView) bool {
	return func(v slotView) bool {
		return v.word.state() == slotSent && v.word.pinned() && v.word.processor() == p
	}
}

// claimed leaves n payments that are claimed, were tried where that was possible, and have not been paid.
func (w *testWorld) claimed(t *testing.T, n int) string {
	t.Helper()
	w.def.behave(refusing)
	w.fall.behave(refusing)
	g := w.start(t, "WORKERS", "32", "LINGER", "100ms") // a worker that waits at the closed gate claims no more
	for i := range uint64(n) {
		g.accepted(nthID(i), "1.00")
	}
	eventually(t, "all are claimed", func() bool {
		claims := 0
		err := g.store.eachClaim(t.Context(), g.store.token(), func(record) { claims++ })
		return err == nil && claims == n
	})
	dir := g.ledger.active.dir
	g.stopAll()
	w.def.behave(nil)
	w.fall.behave(nil)
	return dir
}

// paidOnce waits until payments 0 to n-1 are all paid, and checks that none is paid twice and the summary agrees.
func (w *testWorld) paidOnce(t *testing.T, g *testGalo, n int) {
	t.Helper()
	eventually(t, "all are paid", func() bool { return w.def.count()+w.fall.count() >= n })
	eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	for i := range uint64(n) {
		id := nthID(i).String()
		_, atDefault := w.def.has(id)
		_, atFallback := w.fall.has(id)
		if atDefault == atFallback {
			t.Errorf("payment %d: at default %v, at fallback %v", i, atDefault, atFallback)
		}
		if s := g.state(nthID(i)); !strings.HasPrefix(s, "settled") {
			t.Errorf("payment %d is %s", i, s)
		}
	}
	want := w.booked()
	eventually(t, "the summary is "+want, func() bool { return g.summary("") == want })
}

func (g *testGalo) slotState(seq uint64) slotState {
	v, _ := g.ledger.read(makeRef(0, seq))
	return v.word.state()
}

func TestDamagedWordIsDecidedByItsRecord(t *testing.T) {
	w := damagedWorld(t)
	dir := w.leave(t, 5, isSettled)
	inSegment(t, dir, 0, func(s segmentFile) {
		s.slots[1].word.Store(s.slots[1].word.Load() ^ 1<<40)
		s.slots[2].word.Store(0xffff_ffff_ffff_ffff)
		s.slots[4].word.Store(0) // as if it had never been published
	})
	w.def.hush(true) // nobody needs to be asked
	g := w.start(t)
	w.paidOnce(t, g, 5)
	for _, seq := range []uint64{1, 2, 4} {
		v, _ := g.ledger.read(makeRef(0, seq))
		p, _ := w.def.has(nthID(seq).String())
		if at, _ := parseProcessorTime([]byte(p.RequestedAt)); v.word.state() != slotSettled || v.requestedAt != at || v.paidAmount != 100 {
			t.Errorf("slot %d is %s, %d at %d", seq, v.word.state(), v.paidAmount, v.requestedAt)
		}
	}
	if n := g.metrics.damaged.Get(); n != 2 {
		t.Errorf("%d damaged slots reported, want 2: one reads as never published", n)
	}
}

func TestDamagedWordWithoutARecordIsLookedUpBeforeItIsSent(t *testing.T) {
	w := damagedWorld(t)
	dir := w.claimed(t, 3)
	inSegment(t, dir, 0, func(s segmentFile) {
		for i := range 3 {
			s.slots[i].word.Store(0x1234_5678_9abc_def0)
		}
	})
	there := nthID(1).String()
	tried := w.def.attempts(there) + w.fall.attempts(there)
	w.fall.paid[there] = fakePayment{ID: there, Amount: "1.00", RequestedAt: "2026-01-02T03:04:05.000006Z"}
	w.fall.hush(true)
	g := w.start(t)
	eventually(t, "the fallback is asked", func() bool { return g.metrics.lookUps[onFallback][lookUpNoAnswer].Get() >= 3 })
	if w.def.count() != 0 {
		t.Error("sent while the fallback had not answered")
	}
	if s := g.state(nthID(0)); s != "accepted" {
		t.Errorf("meanwhile it is %s", s)
	}
	w.fall.hush(false)
	w.paidOnce(t, g, 3)
	if n := w.def.attempts(there) + w.fall.attempts(there); n != tried {
		t.Errorf("sent again %d times, and was paid before", n-tried)
	}
}

// TestDamagedSlotStaysInDoubtOverAStart: one processor has not answered yet whether it has the payment, when galo is started again.
func TestDamagedSlotStaysInDoubtOverAStart(t *testing.T) {
	for name, damage := range map[string]func(s *slot){
		"word":   func(s *slot) { s.word.Store(0x1234_5678_9abc_def0) },
		"amount": func(s *slot) { s.amount++ },
	} {
		t.Run(name, func(t *testing.T) {
			w := damagedWorld(t)
			dir := w.claimed(t, 1)
			id := nthID(0).String()
			w.fall.paid[id] = fakePayment{ID: id, Amount: "1.00", RequestedAt: "2026-01-02T03:04:05.000006Z"}
			w.fall.hush(true)
			tried := w.def.attempts(id)
			inSegment(t, dir, 0, func(s segmentFile) { damage(&s.slots[0]) })
			for range 2 {
				g := w.start(t)
				eventually(t, "the fallback is asked", func() bool {
					return g.metrics.lookUps[onFallback][lookUpNoAnswer].Get() > 0 || w.def.attempts(id) > tried
				})
				g.stopAll()
			}
			w.fall.hush(false)
			w.paidOnce(t, w.start(t), 1)
			if n := w.def.attempts(id); n != tried {
				t.Errorf("sent %d times while the fallback had not answered", n-tried)
			}
		})
	}
}

func TestDamagedPaymentComesBackFromItsClaim(t *testing.T) {
	for name, damage := range map[string]func(s segmentFile, i int){
		"amount":     func(s segmentFile, i int) { s.slots[i].amount ^= 1 << 3 },
		"id":         func(s segmentFile, i int) { s.slots[i].id[3] ^= 1 },
		"sequence":   func(s segmentFile, i int) { s.slots[i].seq++ },
		"checksum":   func(s segmentFile, i int) { s.slots[i].sum = 0 },
		"everything": func(s segmentFile, i int) { garble(s.slotBytes(i)) },
		"ones":       func(s segmentFile, i int) { copy(s.slotBytes(i), slices.Repeat([]byte{0xff}, slotSize)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := damagedWorld(t)
			dir := w.claimed(t, 6)
			inSegment(t, dir, 0, func(s segmentFile) {
				for _, i := range []int{0, 2, 5} {
					damage(s, i)
				}
			})
			g := w.start(t)
			w.paidOnce(t, g, 6)
			if n := g.metrics.damaged.Get(); n != 3 {
				t.Errorf("%d damaged slots reported, want 3", n)
			}
			for i := range uint64(6) {
				if g.post(nthID(i), "2.00") != http.StatusConflict {
					t.Errorf("payment %d is not recognised", i)
				}
			}
		})
	}
}

// TestDamagedPaymentThatWasOutStaysWithItsProcessor: its word is whole and says where it was sent; its amount is not.
func TestDamagedPaymentThatWasOutStaysWithItsProcessor(t *testing.T) {
	w := damagedWorld(t)
	w.def.behave(refusing)
	w.fall.behave(breaking)
	w.fall.hush(true)
	dir := w.leave(t, 4, isPinnedAt(onFallback), "PATIENCE", "1ms", "STOP_TIMEOUT", "2s")
	var requested []string
	inSegment(t, dir, 0, func(s segmentFile) {
		for i := range 3 {
			requested = append(requested, string(s.slots[i].requestedAt(s.slots[i].load()).appendTime(nil)))
			s.slots[i].amount++
		}
	})
	w.def.behave(nil)
	w.fall.behave(nil)
	// The third is at the default: its word said otherwise by chance.
	third := nthID(2).String()
	w.def.paid[third] = fakePayment{ID: third, Amount: "1.00", RequestedAt: "2026-01-02T03:04:05.000006Z"}
	w.def.hush(true)
	g := w.start(t)
	eventually(t, "the default is asked about all three", func() bool { return g.metrics.lookUps[onDefault][lookUpNoAnswer].Get() >= 3 })
	w.fall.hush(false)
	w.def.hush(false)
	w.paidOnce(t, g, 4)
	for i := range 2 {
		p, ok := w.fall.has(nthID(uint64(i)).String())
		if !ok || p.Amount != "1.00" || p.RequestedAt != requested[i] {
			t.Errorf("payment %d: %v %+v, want it at fallback with requestedAt %s", i, ok, p, requested[i])
		}
	}
}

// TestGarbageThatPassesForAWordIsNotBooked: of 64 random words one has check bits that fit. What such a word says of an amount or an
// instant is not what the payment is sent or counted with.
func TestGarbageThatPassesForAWordIsNotBooked(t *testing.T) {
	const year = micros(365 * 24 * time.Hour / time.Microsecond)
	for name, c := range map[string]struct {
		garbage word
		known   bool // the word alone is garbage
	}{
		"booked by a look-up":                   {word(slotSent) | wordForeign, false},
		"a year ahead":                          {word(slotSent).at(onDefault, 0, year), false},
		"a year ago":                            {word(slotSent).at(onFallback, 0, -year), false},
		"pinned":                                {word(slotFree) | wordForeign | wordPinned, false},
		"pinned, a year ago":                    {(word(slotFree) | wordPinned).at(onDefault, 0, -year), false},
		"pinned, the rest is whole":             {word(slotFree) | wordForeign | wordPinned, true},
		"pinned, a year ago, the rest is whole": {(word(slotFree) | wordPinned).at(onDefault, 0, -year), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := damagedWorld(t)
			dir := w.claimed(t, 3)
			inSegment(t, dir, 0, func(s segmentFile) {
				if !c.known {
					garble(s.slotBytes(1))
				}
				s.slots[1].word.Store(uint64(c.garbage.checked()))
			})
			started := time.Now()
			g := w.start(t)
			w.paidOnce(t, g, 3)
			p, ok := w.def.has(nthID(1).String())
			if !ok {
				p, _ = w.fall.has(nthID(1).String())
			}
			at, err := time.Parse(time.RFC3339, p.RequestedAt)
			if p.Amount != "1.00" || err != nil || at.Before(started.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute)) {
				t.Errorf("paid as %+v", p)
			}
		})
	}
}

// TestDamagedSlotWithoutAClaimIsSetAside: it was settled. Its bytes are kept for an operator, and its segment may go.
func TestDamagedSlotWithoutAClaimIsSetAside(t *testing.T) {
	w := damagedWorld(t)
	dir := w.leave(t, 4, isSettled)
	var found []byte
	inSegment(t, dir, 0, func(s segmentFile) {
		s.slots[1].amount = 77
		found = slices.Clone(s.slotBytes(1))
	})
	for range 2 {
		g := w.start(t)
		eventually(t, "it is set aside", func() bool { return g.slotState(1) == slotSetAside })
		eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
		if got, want := g.summary(""), wantSummary(4, "4.00", 0, "0.00"); got != want {
			t.Errorf("summary %s, want %s", got, want)
		}
		g.stopAll()
	}
	f, err := openFolder(w.dir, "one", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	l, again, err := openLedger(f, newClock(), 10, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if low := l.active.advanceLow(); low != 4 || again.damaged != 0 || again.unsettled() != 0 {
		t.Errorf("it holds up what comes after it: low %d, found %+v", low, again)
	}
	lines, err := os.ReadFile(filepath.Join(dir, damagedLog))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(lines)); len(got) != 3 || got[1] != "1" || got[2] != hex.EncodeToString(found) {
		t.Errorf("%s holds %q, want one line with %x", damagedLog, lines, found)
	}
}

// TestDamagedSlotsWaitForTheStore: they hold their room, and nothing of them is sent or given up before the store has told.
func TestDamagedSlotsWaitForTheStore(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t, "--appendfsync", "always") // or a claim may be forgotten when it is killed, and its slot counts as settled
	w.env["REDIS_URL"] = redis.url()
	dir := w.claimed(t, 3)
	inSegment(t, dir, 0, func(s segmentFile) {
		s.slots[0].amount++
		s.slots[1].word.Store(3)
	})
	redis.kill()
	for range 2 { // a start that learns nothing changes nothing
		g := w.start(t, "STOP_TIMEOUT", "2s")
		g.accepted(nthID(3), "1.00")
		if n := g.ledger.pending.Load(); n != 4 {
			t.Errorf("%d pending, want 4", n)
		}
		if g.slotState(0) != slotFree || g.slotState(1) != slotFree {
			t.Errorf("they are %s and %s", g.slotState(0), g.slotState(1))
		}
		g.stopAll()
	}
	redis.start()
	g := w.start(t)
	w.paidOnce(t, g, 4)
}

// TestCutSegmentComesBackFromItsClaims cuts a segment at every kind of place.
func TestCutSegmentComesBackFromItsClaims(t *testing.T) {
	for _, size := range []int64{0, 7, 100, segmentHeader - 1, segmentHeader, segmentHeader + 8, segmentHeader + 3*slotSize, segmentHeader + 3*slotSize + 20, segmentBytes - 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := damagedWorld(t)
			dir := w.claimed(t, 6)
			if err := os.Truncate(segmentPath(dir, 0), size); err != nil {
				t.Fatal(err)
			}
			g := w.start(t)
			w.paidOnce(t, g, 6)
			if v := accept(t, g.ledger, 100, 100); v.ref.seq() < segmentSlots {
				t.Errorf("sequence %d is used again", v.ref.seq())
			}
		})
	}
}

func TestLostPagesComeBackFromTheirClaims(t *testing.T) {
	for name, fill := range map[string]func(b []byte){"zeros": func(b []byte) { clear(b) }, "garbage": garble} {
		t.Run(name, func(t *testing.T) {
			w := damagedWorld(t)
			const n = 3 * segmentHeader / slotSize
			dir := w.claimed(t, n)
			inSegment(t, dir, 0, func(s segmentFile) { fill(s.bytes[segmentHeader : 2*segmentHeader]) })
			g := w.start(t)
			w.paidOnce(t, g, n)
		})
	}
}

// TestDamagedHeaderLosesNothing: of a segment, of the journal, and of both at once.
func TestDamagedHeaderLosesNothing(t *testing.T) {
	segment := filepath.Base(segmentPath("", 0))
	for name, damage := range map[string]func(dir string) error{
		"segment":  func(dir string) error { return spoil(filepath.Join(dir, segment), 0, segmentHeader) },
		"magic":    func(dir string) error { return spoil(filepath.Join(dir, segment), 0, 8) },
		"checksum": func(dir string) error { return spoil(filepath.Join(dir, segment), 12, 4) },
		"final since": func(dir string) error {
			return spoil(filepath.Join(dir, segment), int(unsafe.Offsetof(segmentHead{}.finalSince)), 8)
		},
		"head, segment and slots": func(dir string) error {
			return errors.Join(spoil(filepath.Join(dir, segment), 0, segmentHeader+3*slotSize), spoil(filepath.Join(dir, headName), 0, headBytes))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := damagedWorld(t)
			if err := damage(w.claimed(t, 5)); err != nil {
				t.Fatal(err)
			}
			g := w.start(t)
			w.paidOnce(t, g, 5)
			if g.settler.mark() != 0 {
				t.Errorf("the purge mark is %d", g.settler.mark())
			}
		})
	}
}

// TestDamagedSlotKeepsItsIDInANewLife: the id of a payment that was paid, or is out, comes in at another instance while its slot is
// damaged, Redis is wiped, and the processor that would have to be asked about it says nothing. It is paid once.
func TestDamagedSlotKeepsItsIDInANewLife(t *testing.T) {
	id := nthID(0)
	for name, c := range map[string]struct {
		at     processorID // where it was sent
		before func(w *testWorld)
		is     func(v slotView) bool
		damage func(s *slot)
	}{
		"paid, its word is damaged": {onDefault, func(*testWorld) {}, isSettled, func(s *slot) { s.word.Store(s.word.Load() ^ 1<<40) }},
		"out, its amount is damaged": {onFallback, func(w *testWorld) {
			w.def.behave(refusing)
			w.fall.behave(breaking)
			w.fall.hush(true)
		}, isPinnedAt(onFallback), func(s *slot) { s.amount++ }},
	} {
		t.Run(name, func(t *testing.T) {
			w, redis := newSharedWorld(t)
			c.before(w)
			dir := w.leave(t, 1, c.is, "INSTANCE", "a", "PATIENCE", "0s", "STOP_TIMEOUT", "2s")
			inSegment(t, dir, 0, func(s segmentFile) { c.damage(&s.slots[0]) })
			w.def.hush(true)
			wipe := func() { do(t, rawConn(t, redis.url()), "FLUSHALL") }
			if c.at == onDefault { // else the claim is needed first
				wipe()
			}
			a := w.start(t, "INSTANCE", "a", "PATIENCE", "0s")
			eventually(t, "the default is asked", func() bool { return a.metrics.lookUps[onDefault][lookUpNoAnswer].Get() > 0 })
			if c.at == onFallback {
				old := a.life.present()
				wipe()
				eventually(t, "a new life is ready", func() bool { return a.life.present() != "" && a.life.present() != old })
			}
			b := w.start(t, "INSTANCE", "b", "PATIENCE", "0s")
			other := w.other(c.at)
			other.behave(nil)
			w.at(c.at).behave(refusing)
			b.accepted(id, "1.00")
			eventually(t, "b knows that the payment is another slot's", func() bool { return b.elsewhere.len() == 1 || other.attempts(id.String()) > 0 })
			w.def.hush(false)
			w.at(c.at).behave(nil)
			w.fall.hush(false)
			eventually(t, "nothing is pending", func() bool { return a.ledger.pending.Load()+b.ledger.pending.Load() == 0 })
			if _, there := w.at(c.at).has(id.String()); !there || other.count() != 0 {
				t.Errorf("it is at %s: %v, and %d are at the other one", c.at, there, other.count())
			}
		})
	}
}
