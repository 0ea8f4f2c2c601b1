package main

import (
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"
)

// payAtBoth has n payments paid at each processor, and one rejected. The first one is number 1.
func (w *testWorld) payAtBoth(t *testing.T, g *testGalo, n uint64) {
	t.Helper()
	w.def.behave(nil)
	for i := range n {
		g.accepted(nthID(1+i), "1.00")
		g.becomes(nthID(1+i), "settled default")
	}
	w.def.behave(answering(http.StatusInternalServerError))
	for i := range n {
		g.accepted(nthID(101+i), "2.00")
	}
	eventually(t, "the rest is paid at the fallback", func() bool { return w.fall.count() == int(n) })
	w.fall.behave(answering(http.StatusBadRequest))
	g.accepted(nthID(201), "3.00")
	g.becomes(nthID(201), "rejected")
	eventually(t, "all is settled", func() bool { return g.ledger.pending.Load() == 0 })
	w.def.behave(nil)
	w.fall.behave(nil)
}

// summaryOf is what the store says, looked at from outside; "" while it is not ready.
func summaryOf(t *testing.T, url string) string {
	t.Helper()
	s := openStore(t, url)
	if _, err := s.beginLife(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	sum, err := s.summary(t.Context(), math.MinInt64, math.MaxInt64, nil)
	if err != nil {
		return ""
	}
	return string(sum.appendJSON(nil))
}

func TestRebuildFillsAnEmptyRedis(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	w.env["REDIS_URL"] = redis.url()
	g := w.start(t)
	w.payAtBoth(t, g, 10)
	first := nthID(1)
	v, _ := g.ledger.find(&first, indexHash(&first))
	g.stopAll()
	want := wantSummary(10, "10.00", 10, "20.00")
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	for n := range 2 {
		out, err := w.galoCommand(t, nil, "rebuild")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got := summaryOf(t, redis.url()); got != want {
			t.Errorf("after %d times the store holds %s, want %s\n%s", n+1, got, want, out)
		}
		reach := "reach back to " + string(v.acceptedAt.appendTime(nil))
		for _, said := range []string{reach, "the journals hold  " + want, "the store is ready " + want, "  10, 10.00", "one      21  "} {
			if !strings.Contains(out, said) {
				t.Errorf("it does not say %q:\n%s", said, out)
			}
		}
	}
	if g = w.start(t); g.summary("") != want {
		t.Errorf("a galo says %s", g.summary(""))
	}
	if s := g.state(nthID(201)); s != "rejected" {
		t.Errorf("the rejected payment is %s", s)
	}
}

// TestRebuildLeavesRunningInstancesTheirPart: it names them, and the store is ready when all have reported.
func TestRebuildLeavesRunningInstancesTheirPart(t *testing.T) {
	w, redis := newSharedWorld(t)
	a, b := w.startTwo(t)
	w.payAtBoth(t, a, 5)
	b.accepted(nthID(300), "7.00")
	b.becomes(nthID(300), "settled default")
	eventually(t, "it is journalled", func() bool { return b.ledger.pending.Load() == 0 })
	b.stopAll()
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	out, err := w.galoCommand(t, nil, "rebuild")
	if err != nil || !strings.Contains(out, "by its owner, instance a") {
		t.Errorf("%v\n%s", err, out)
	}
	want := wantSummary(6, "12.00", 5, "10.00")
	eventually(t, "the store holds all", func() bool { return summaryOf(t, redis.url()) == want })
	if got := a.summary(""); got != want {
		t.Errorf("summary %s, want %s", got, want)
	}
}

func TestRebuildFailsUnlessAllFreeJournalsAreReplayed(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	w.env["REDIS_URL"] = redis.url()
	if out, err := w.galoCommand(t, nil, "rebuild"); err == nil || !strings.Contains(err.Error(), "no journal") {
		t.Errorf("without a journal: %v\n%s", err, out)
	}
	g := w.start(t)
	w.payAtBoth(t, g, 2)
	g.stopAll()
	newer, _ := openTestLedger(t, w.dir)
	head := filepath.Join(newer.active.dir, headName)
	if err := newer.close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(head, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte{formatVersion + 1, 0, 0, 0, 9, 9, 9, 9}, int64(unsafe.Offsetof(journalHead{}.version))); err != nil {
		t.Fatal(err)
	}
	file.Close()
	do(t, rawConn(t, redis.url()), "FLUSHALL")
	out, err := w.galoCommand(t, nil, "rebuild")
	if err == nil || !strings.Contains(err.Error(), errNewerFormat.Error()) {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "not ready") || !strings.Contains(out, "2, 4.00") {
		t.Errorf("it says:\n%s", out)
	}
}

// whenSaid is an output that does something as soon as a text is written to it.
type whenSaid struct {
	strings.Builder
	text string
	do   func()
}

func (w *whenSaid) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.do()
	}
	return w.Builder.Write(b)
}

// TestRebuildMayTakeItsTime: what it has replayed is there, though to look at large journals takes longer than a journal is heard of. An
// instance that has fallen silent is none of its failures, and is named.
func TestRebuildMayTakeItsTime(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	w.env["REDIS_URL"] = redis.url()
	g := w.start(t)
	w.payAtBoth(t, g, 2)
	g.stopAll()
	conn := rawConn(t, redis.url())
	do(t, conn, "FLUSHALL")
	rebuild := func() string {
		t.Helper()
		out := whenSaid{text: "the journals hold", do: func() {
			for _, journal := range do(t, conn, "HKEYS", keyHeard).([]any) {
				do(t, conn, "HSET", keyHeard, journal, 1)
			}
		}}
		if err := w.galoCommandTo(&out, nil, "rebuild"); err != nil {
			t.Errorf("%v\n%s", err, &out)
		}
		return out.String()
	}
	if out := rebuild(); !strings.Contains(out, "the store is ready "+wantSummary(2, "2.00", 2, "4.00")) {
		t.Errorf("it says:\n%s", out)
	}
	other, _ := openTestLedger(t, w.dir)
	defer other.close()
	journal := other.active.id.String()
	s := openStore(t, redis.url())
	if _, err := s.beginLife(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.report(t.Context(), s.token(), journal, true, []string{journal}); err != nil {
		t.Fatal(err)
	}
	if out := rebuild(); !strings.Contains(out, "may lack") || !strings.Contains(out, journal) {
		t.Errorf("it says:\n%s", out)
	}
}

func TestRebuildNeedsARedis(t *testing.T) {
	w := newTestWorld(t)
	if out, err := w.galoCommand(t, nil, "rebuild"); err == nil || !strings.Contains(err.Error(), "REDIS_URL is empty") {
		t.Errorf("%v\n%s", err, out)
	}
}
