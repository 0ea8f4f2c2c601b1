package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// crashCase is one crash: a way that leads to a point, and the how manieth time there is the last.
type crashCase struct {
	point string
	times int
	way   crashWay
	// adopted: run it again with nobody coming back under the dead one's name, so that another instance has to finish.
	adopted bool
	// embedded: run it again with the embedded store.
	embedded bool
	// purged: the crash is in the middle of a purge, see recoversFromAPurge.
	purged bool
}

// crashWay brings an instance that is armed with a crash to its end.
type crashWay func(w *processWorld, armed string)

// few is how many payments a way has: enough for crashes between them, and quickly looked through.
const few = 8

func crashCases() []crashCase {
	return []crashCase{
		{point: "a request was read", times: 6, way: lingering, adopted: true, embedded: true},
		{point: "room is reserved", times: 3, way: plain},
		{point: "the fixed part is written", times: 3, way: plain, adopted: true},
		{point: "the slot is published", times: 3, way: plain, adopted: true, embedded: true},
		{point: "the slot is in the index", times: 3, way: plain},
		{point: "the slot is in the ring", times: 3, way: plain},

		{point: "taken from the ring", times: 3, way: plain},
		{point: "the claim's reply is unread", times: 1, way: plain, adopted: true},
		{point: "the claim's reply is unread", times: 3, way: plain},
		{point: "claimed", times: 3, way: plain},
		{point: "leaving is stored", times: 3, way: plain, adopted: true, embedded: true},
		{point: "the life was looked at", times: 3, way: plain},
		{point: "sent is stored", times: 3, way: plain, adopted: true, embedded: true},
		{point: "the answer is awaited", times: 1, way: plain, adopted: true, embedded: true},
		{point: "the answer is awaited", times: 3, way: landingLate, adopted: true},
		{point: "the answer is read", times: 3, way: plain, adopted: true},
		{point: "paid is stored", times: 3, way: plain, adopted: true, embedded: true},
		{point: "a refusal is unstored", times: 2, way: refusedFirst, adopted: true},
		{point: "accepted again is stored", times: 2, way: refusedFirst},
		{point: "unknown is unstored", times: 2, way: unknownFirst, adopted: true},
		{point: "pinned is stored", times: 2, way: unknownFirst, adopted: true, embedded: true},
		{point: "invalid is unstored", times: 1, way: invalid},
		{point: "invalid is stored", times: 1, way: invalid, embedded: true},

		{point: "a look-up goes out", times: 1, way: unknownFirst},
		{point: "a look-up has found it", times: 1, way: unknownFirst, adopted: true},
		{point: "a look-up's paid is stored", times: 1, way: unknownFirst},
		{point: "a look-up's paid is stored", times: 1, way: foreign, adopted: true, embedded: true},
		{point: "foreign values are half stored", times: 1, way: foreign},
		{point: "foreign values are stored", times: 1, way: foreign, adopted: true},
		{point: "a pinned one is about to be sent", times: 1, way: unknownFirst},
		{point: "sent again is stored", times: 1, way: unknownFirst},
		{point: "sent again is answered", times: 1, way: unknownFirst, adopted: true},

		{point: "settled in Redis only", times: 1, way: plain, adopted: true, embedded: true},
		{point: "half a batch is stored as final", times: 3, way: oneBatch, adopted: true, embedded: true},
		{point: "rejected in Redis only", times: 1, way: invalid},
		{point: "half a batch is stored as final", times: 2, way: invalid},

		{point: "the claim is lost", times: 2, way: sameAtAnother},
		{point: "elsewhere is stored", times: 2, way: sameAtAnother, adopted: true},
		{point: "a duplicate is unstored", times: 2, way: sameAtAnother},
		{point: "a duplicate is stored", times: 2, way: sameAtAnother},
		{point: "a conflict is not noted yet", times: 1, way: otherAmountAtAnother},
		{point: "a conflict is noted", times: 2, way: otherAmountAtAnother, adopted: true},
		{point: "a conflict is stored", times: 2, way: otherAmountAtAnother},

		{point: "a journal has no name yet", times: 1, way: plain},
		{point: "a journal has its name", times: 1, way: plain, adopted: true},
		{point: "a segment is allocated", times: 2, way: plain},
		{point: "a segment is allocated", times: 3, way: segments},
		{point: "a segment has no name yet", times: 3, way: segments},
		{point: "a segment has its name", times: 3, way: segments, adopted: true},
		{point: "a segment is in the table", times: 3, way: segments},
		{point: "a segment is marked as done", times: 1, way: segments, adopted: true, embedded: true},
		{point: "a segment is about to be unmapped", times: 1, way: segments},
		{point: "a segment is removed", times: 1, way: shortRetention},

		{point: "a journal is locked", times: 1, way: afterACrashAt("sent is stored")},
		{point: "a journal is locked", times: 2, way: adoptingAfterACrashAt("sent is stored")},
		{point: "a leaving one is accepted again", times: 1, way: afterACrashAt("leaving is stored"), embedded: true},
		{point: "a sent one is pinned", times: 1, way: afterACrashAt("sent is stored"), adopted: true, embedded: true},
		{point: "a journal is read", times: 1, way: afterACrashAt("paid is stored")},
		{point: "a journal is read", times: 2, way: adoptingAfterACrashAt("paid is stored")},
		{point: "everything is taken up", times: 1, way: afterACrashAt("sent is stored")},
		{point: "everything is taken up", times: 2, way: adoptingAfterACrashAt("the slot is published")},
		{point: "a life is begun", times: 1, way: intoAnEmptyStore},
		{point: "half a journal is replayed", times: 2, way: intoAnEmptyStore, adopted: true, embedded: true},
		{point: "a journal is replayed", times: 1, way: intoAnEmptyStore, embedded: true},
		{point: "a journal has not reported", times: 1, way: intoAnEmptyStore, adopted: true},
		{point: "a journal has reported", times: 1, way: intoAnEmptyStore},

		{point: "a purge is wanted", times: 1, way: purging, purged: true},
		{point: "a retired segment is purged", times: 1, way: purging, purged: true, adopted: true, embedded: true},
		{point: "half a segment is purged", times: 10, way: purging, purged: true, adopted: true, embedded: true},
		{point: "a journal is purged", times: 1, way: purging, purged: true, adopted: true},
		{point: "a journal has the mark", times: 1, way: purging, purged: true, embedded: true},
		{point: "Redis is about to be purged", times: 1, way: purging, purged: true, adopted: true},
		{point: "Redis is purged", times: 1, way: purging, purged: true, adopted: true, embedded: true},
		{point: "a purge is announced", times: 1, way: purging, purged: true},
	}
}

// TestStoppedAtEveryStep kills galo at every step of a payment's way, exactly there, and lets it, or another instance, take up what
// it left. Every payment that was answered with 202 is then paid once, and all that is told of it is true.
func TestStoppedAtEveryStep(t *testing.T) {
	if raceEnabled {
		t.Skip("the processes that it kills are built without the race detector: run it without, too")
	}
	program := variantOf(t)
	redis, nats := startRedis(t), startNATS(t, -1)
	for _, c := range crashCases() {
		run := func(name, url, survivor string) {
			t.Run(fmt.Sprintf("%s, %s", c.point, name), func(t *testing.T) {
				if url != "" {
					do(t, rawConn(t, url), "FLUSHALL")
				}
				w := newProcessWorld(t, program, url)
				if url != "" {
					w.env["NATS_URL"] = nats.ClientURL()
				}
				c.way(w, fmt.Sprintf("%s:%d", c.point, c.times))
				if c.purged {
					w.recoversFromAPurge(survivor)
				} else {
					w.recovers(survivor)
				}
			})
		}
		run("started again", redis.url(), "one")
		if c.adopted {
			run("adopted", redis.url(), "another")
		}
		if c.embedded {
			run("embedded", "", "one")
		}
	}
}

// TestEveryCrashPointHasACrash, or the table of points would be longer than what is tested.
func TestEveryCrashPointHasACrash(t *testing.T) {
	used := make(map[string]bool)
	for _, c := range crashCases() {
		used[c.point] = true
	}
	for _, p := range crashPoints {
		if !used[p.name] {
			t.Errorf("nothing stops at %q", p.name)
		}
		delete(used, p.name)
	}
	for name := range used {
		t.Errorf("there is no point %q", name)
	}
}

// recovers starts the survivor, and whoever else lives helps; then everything that was promised holds.
func (w *processWorld) recovers(survivor string) {
	w.t.Helper()
	instances := []*galoProcess{w.start(survivor)}
	for _, p := range w.running {
		if p != instances[0] && p.alive() {
			instances = append(instances, p)
		}
	}
	w.finishes(instances...)
	w.audit(w.rejected(), instances...)
}

// rejected is what a processor answered 400 to and nobody has.
func (w *processWorld) rejected() map[paymentID]bool {
	list := make(map[paymentID]bool)
	for id := range w.promised {
		if _, at := w.bookedAt(id); at == "" && w.refusesForEver(id) {
			list[id] = true
		}
	}
	return list
}

func (w *processWorld) refusesForEver(id paymentID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.invalid[id]
}

func plain(w *processWorld, armed string) {
	w.start("one", "GALO_CRASH", armed).meetsItsEnd()
}

// meetsItsEnd posts a few payments at once, and then one after the other until the process has died.
func (p *galoProcess) meetsItsEnd() {
	p.w.t.Helper()
	p.postAll(1, 1+few)
	n := uint64(1 + few)
	inTheEnd(p.w.t, p.name+" comes by the crash point", func() bool {
		if p.alive() {
			p.post(n, nthAmount(n))
			n++
		}
		return !p.alive()
	})
	p.dies()
}

// lingering has the payments wait in their rings while the next ones come in.
func lingering(w *processWorld, armed string) {
	p := w.start("one", "GALO_CRASH", armed, "LINGER", "100ms")
	p.postAll(1, 1+few)
	p.dies()
	if n := w.def.count() + w.fall.count(); n != 0 {
		w.t.Logf("%d were paid before the crash", n)
	}
}

// oneBatch has all payments answered at the same moment, so that they are settled together.
func oneBatch(w *processWorld, armed string) {
	p := w.start("one", "GALO_CRASH", armed, "LINGER", "100ms")
	p.postAll(1, 1+few)
	p.dies()
}

// firstAttempt answers the first attempt at each payment, at either processor, in a way of its own.
func (w *processWorld) firstAttempt(answer func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment)) {
	for _, f := range []*fakeProcessor{w.def, w.fall} {
		f.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
			if f.attempts(p.ID) > 1 {
				return false
			}
			answer(f, rw, p)
			return true
		})
	}
}

func refusedFirst(w *processWorld, armed string) {
	w.firstAttempt(func(_ *fakeProcessor, rw http.ResponseWriter, _ fakePayment) {
		rw.WriteHeader(http.StatusInternalServerError)
	})
	plain(w, armed)
}

// unknownFirst loses the first answer to each payment; every other one is written all the same.
func unknownFirst(w *processWorld, armed string) {
	w.firstAttempt(func(f *fakeProcessor, rw http.ResponseWriter, p fakePayment) {
		if p.ID[len(p.ID)-1]%2 == 0 {
			f.bookOnce(p)
		}
		hijacked(rw)
	})
	plain(w, armed)
}

// landingLate has what was out written only after its instance has died, and the first of it later still: when the next attempt is at
// work already, and has been refused. Whoever sends it elsewhere then pays twice.
func landingLate(w *processWorld, armed string) {
	died, first := make(chan struct{}), nthID(1).String()
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
		switch _, landed := w.def.has(p.ID); {
		case landed:
			return false
		case w.def.attempts(p.ID) > 1 && p.ID == first:
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		case w.def.attempts(p.ID) > 1:
			return false
		}
		<-died
		for deadline := time.Now().Add(patient); p.ID == first && w.def.attempts(p.ID) == 1 && time.Now().Before(deadline); {
			<-time.After(time.Millisecond)
		}
		w.def.bookOnce(p)
		return true
	})
	defer close(died)
	plain(w, armed)
}

func invalid(w *processWorld, armed string) {
	w.invalid = make(map[paymentID]bool)
	for n := uint64(1); n <= few; n += 2 {
		w.invalid[nthID(n)] = true
	}
	for _, f := range []*fakeProcessor{w.def, w.fall} {
		f.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
			id, _ := parsePaymentID([]byte(p.ID))
			if w.refusesForEver(id) {
				rw.WriteHeader(http.StatusBadRequest)
				return true
			}
			return false
		})
	}
	plain(w, armed)
	// One that was out when its instance died is pinned, and no 400 ends that: its processor has to take it.
	w.def.behave(nil)
	w.fall.behave(nil)
}

// foreign has the ids at the processor already, from long ago and with another amount.
func foreign(w *processWorld, armed string) {
	w.def.behave(func(_ http.ResponseWriter, p fakePayment, _ func()) bool {
		w.def.bookOnce(fakePayment{ID: p.ID, Amount: "7.77", RequestedAt: longAgo})
		return false
	})
	plain(w, armed)
}

func sameAtAnother(w *processWorld, armed string) {
	other := w.start("two")
	other.postAll(1, 1+few)
	inTheEnd(w.t, "the other one pays them", func() bool { return w.def.count()+w.fall.count() == few }) // or it might lose the claims
	plain(w, armed)
}

func otherAmountAtAnother(w *processWorld, armed string) {
	other := w.start("two")
	other.postAll(1, 1+few)
	w.finishes(other)
	p := w.start("one", "GALO_CRASH", armed)
	for n := uint64(1); n <= few; n++ {
		p.post(n, nthAmount(n)+1)
	}
	p.dies()
}

// segments fills some of them.
func segments(w *processWorld, armed string) {
	p := w.start("one", "GALO_CRASH", armed)
	p.postAll(1, 4*segmentsOf)
	p.dies()
}

// segmentsOf is how many slots a segment of the crash variant has.
const segmentsOf = 64

func shortRetention(w *processWorld, armed string) {
	p := w.start("one", "GALO_CRASH", armed, "RETENTION", "100ms")
	p.postAll(1, 4*segmentsOf)
	p.dies()
}

// afterACrashAt is a crash during the recovery from another one.
func afterACrashAt(first string) crashWay {
	return func(w *processWorld, armed string) {
		plain(w, first+":3")
		p := w.start("one", "GALO_CRASH", armed)
		p.postAll(1+few, 1+2*few)
		p.dies()
	}
}

// adoptingAfterACrashAt is a crash of the instance that takes over what another one left.
func adoptingAfterACrashAt(first string) crashWay {
	return func(w *processWorld, armed string) {
		plain(w, first+":3")
		p := w.start("two", "GALO_CRASH", armed)
		p.postAll(1+few, 1+2*few)
		p.dies()
	}
}

// intoAnEmptyStore starts with a history that the store knows nothing of any more.
func intoAnEmptyStore(w *processWorld, armed string) {
	p := w.start("one")
	p.postAll(1, 3*segmentsOf)
	w.finishes(p)
	p.kill()
	if url := w.env["REDIS_URL"]; url != "" {
		do(w.t, rawConn(w.t, url), "FLUSHALL")
	}
	p = w.start("one", "GALO_CRASH", armed)
	p.postAll(3*segmentsOf, 3*segmentsOf+few)
	p.dies()
}
