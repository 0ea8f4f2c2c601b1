package main

import (
	"net/http"
)

// purgedHistory is how many payments are settled when a purge comes: some segments of them.
const purgedHistory = 3*segmentsOf + segmentsOf/2

// purging is a purge while some payments wait, since both processors refuse them.
func purging(w *processWorld, armed string) {
	last := nthID(purgedHistory).String()
	for _, f := range []*fakeProcessor{w.def, w.fall} {
		f.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
			if p.ID <= last {
				return false
			}
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		})
	}
	p := w.start("one", "GALO_CRASH", armed)
	p.postAll(1, 1+purgedHistory)
	w.finishes(p)
	p.postAll(1+purgedHistory, 1+purgedHistory+few)
	inTheEnd(w.t, "a purge ends the process", func() bool {
		p.call("POST", "galo", "/purge-payments", "")
		return !p.alive()
	})
	p.dies()
}

// recoversFromAPurge starts the survivor after a purge that nobody was told of. Then the settled history is hidden or it is not, but
// all of it, whatever becomes of Redis; what was waiting is paid and counted; and an id that was paid is never paid again.
func (w *processWorld) recoversFromAPurge(survivor string) {
	w.t.Helper()
	before, hidden := w.sum(), wantSummary(0, "0.00", 0, "0.00")
	p := w.start(survivor)
	var now string
	inTheEnd(w.t, "every journal has an owner", func() bool {
		now = w.wholeSummary(p)
		if now != before && now != hidden {
			w.t.Fatalf("the summary after a broken purge is %s: neither all (%s) nor nothing", now, before)
		}
		return p.metric("galo_pending") == few
	})
	w.def.behave(nil)
	w.fall.behave(nil)
	w.finishes(p)
	// A journal that was taken over is purged in Redis before anything of it is settled, so by now it is decided.
	want := w.sum()
	if w.wholeSummary(p) != want {
		want = w.sumFrom(purgedHistory + 1)
	}
	expect := func(p *galoProcess, when string) {
		if got := w.wholeSummary(p); got != want {
			w.t.Errorf("%s the summary is %s, want %s", when, got, want)
		}
	}
	expect(p, "when all is paid")
	if url := w.env["REDIS_URL"]; url != "" {
		do(w.t, rawConn(w.t, url), "FLUSHALL")
		expect(p, "when Redis was wiped")
	}
	p.kill()
	p = w.start(survivor)
	expect(p, "after one more start")
	for _, n := range []uint64{1, segmentsOf, purgedHistory, purgedHistory + 1} {
		if status := p.post(n, nthAmount(n)); status != http.StatusAccepted {
			w.t.Errorf("payment %d came again and was answered %d", n, status)
		}
	}
	w.finishes(p)
	expect(p, "when paid ids have come again")
	for id := range w.promised {
		if def, fall := w.def.attempts(id.String()), w.fall.attempts(id.String()); id.String() <= nthID(purgedHistory).String() && def+fall != 1 {
			w.t.Errorf("%s was sent %d + %d times", id, def, fall)
		}
	}
	if status, body := p.call("POST", "galo", "/purge-payments", ""); status != http.StatusOK {
		w.t.Errorf("another purge: %d %s", status, body)
	}
	want = hidden
	expect(p, "after another purge")
}

// wholeSummary is the sum of everything, as soon as it is told.
func (w *processWorld) wholeSummary(p *galoProcess) (body string) {
	w.t.Helper()
	inTheEnd(w.t, p.name+" gives a summary", func() bool {
		var status int
		status, body = p.get("galo", "/payments-summary")
		return status == http.StatusOK
	})
	return body
}
