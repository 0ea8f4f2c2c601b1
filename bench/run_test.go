package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// miniature is half a second of a storm: long enough for every part to have its turn.
func miniature() storm {
	s := previewStorm(500*time.Millisecond, 0.8)
	for i := range s.stages { // the fake forwards once and at once: it is no match for bad weather
		s.stages[i].failing, s.stages[i].delay = [2]bool{}, [2]time.Duration{}
	}
	s.outage = stretch{s.length / 2, s.length * 3 / 4}
	return s
}

// stormFake plays it and gives the verdict and what was said.
func stormFake(t *testing.T, f fault, rec *recorder) (verdict, string) {
	t.Helper()
	var admins [processors]*adminClient
	var urls [processors]string
	for p := range admins {
		_, admins[p] = served(t)
		urls[p] = admins[p].base
	}
	galo := newFakeGalo(t, urls, f)
	d, err := newDoor(galo.URL)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	drained := 0
	v, err := runStorm(t.Context(), d, miniature(), admins, stormOptions{
		checkEvery: 100 * time.Millisecond, drain: 300 * time.Millisecond, settle: 100 * time.Millisecond, screen: &screen{out: &said}, recorder: rec,
		drained: func() {
			if drained++; strings.Contains(said.String(), "asking galo") {
				t.Error("what a storm costs is counted when the bench asks its own questions")
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if drained != 1 {
		t.Errorf("it was drained %d times", drained)
	}
	v.print(&said)
	return v, said.String()
}

func TestStormAgainstAFakeGalo(t *testing.T) {
	for f, c := range map[fault]struct {
		clean bool
		found func(v verdict) bool
	}{
		noFault: {true, func(v verdict) bool {
			return v.Final.Windows == finalWindows+1 && v.Checks.Agreed > 0 && v.Refused == 0
		}},
		losesOne:            {false, func(v verdict) bool { return v.Lost == 1 && v.LagAtEnd >= 1 && v.LagAfterDrain == 1 }},
		paysOneTwice:        {false, func(v verdict) bool { return v.Twice == 1 }},
		countsOneTooMany:    {false, func(v verdict) bool { return v.Final.WindowsBad > 0 && v.Final.RecordsBad == 0 }},
		dropsOneAnswer:      {true, func(v verdict) bool { return v.Retried == 1 && v.Unanswered == 0 }},
		refusesOneAndPaysIt: {false, func(v verdict) bool { return v.Uninvited == 1 && v.Refused == 1 && v.Statuses[503] == 1 }},
		hasNoSummaryOnce:    {true, func(v verdict) bool { return v.Checks.Unavailable == 1 && v.Checks.Disagreed == 0 }},
	} {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			v, said := stormFake(t, f, nil)
			if v.Outage == nil || len(v.Outage.Phases) != 4 || v.Outage.Phases[0].Payments == 0 {
				t.Errorf("of its outage it says %+v", v.Outage)
			}
			if v.clean() != c.clean || !c.found(v) || v.Sent < 100 {
				t.Errorf("verdict %+v\n%s", v, said)
			}
		})
	}
}

func TestWindowThatDisagreesIsSaidWithBothNumbers(t *testing.T) {
	ours := [processors]total{{3, 5970}, {1, 1990}}
	theirs := [processors]total{{3, 5970}, {2, 3980}}
	want := "fallback: galo 1 for 19.90, processor 2 for 39.80"
	if got := differences(ours, theirs); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
}

func TestChecksCountWhatTheySaw(t *testing.T) {
	var c checker
	c.count(checkAgreed, true)
	c.count(checkDisagreed, false)
	c.count(checkDisagreed, true)
	c.count(checkUnavailable, false)
	c.count(checkUnasked, false)
	want := checkCounts{Agreed: 1, Disagreed: 2, Contest: 2, ContestBad: 1, Unavailable: 1, Unasked: 1}
	if got := c.sofar(); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

// closedPort is an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

func TestRefusedConnectionGoesToTheNextInstance(t *testing.T) {
	var served atomic.Int64
	alive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(alive.Close)
	d, err := newDoor(closedPort(t), alive.URL)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if status, err := d.post([]byte(`{}`)); status != http.StatusAccepted || err != nil {
			t.Fatalf("answered %d, %v", status, err)
		}
	}
	if served.Load() != 4 {
		t.Errorf("%d requests arrived, want 4", served.Load())
	}
}

func TestClientTriesAgainWithTheSameID(t *testing.T) {
	ids := make(chan string, 10)
	var tries atomic.Int64
	galo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		ids <- body.String()
		if tries.Add(1) < 3 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(galo.Close)
	d, err := newDoor(galo.URL)
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	l := newLoad(d, []shot{{id: id, amount: 1990}})
	l.run(t.Context(), time.Now())
	close(ids)
	for body := range ids {
		if want := fmt.Sprintf(`{"correlationId":"%s","amount":19.90}`, id); body != want {
			t.Errorf("sent %s, want %s", body, want)
		}
	}
	if l.retried.Load() != 2 || l.accepted.Load() != 1 || !l.ends[0].doubtful || l.ends[0].status != 202 {
		t.Errorf("%d further tries, %d accepted, ended %+v", l.retried.Load(), l.accepted.Load(), l.ends[0])
	}
	if l.firstTry.quantiles().Max != 0 || l.latency.quantiles().Max == 0 {
		t.Error("the latency of a repeated payment is in the wrong histogram")
	}
}

func TestLatencyIsMeasuredFromTheIntendedMoment(t *testing.T) {
	galo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
	t.Cleanup(galo.Close)
	d, err := newDoor(galo.URL)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoad(d, []shot{{id: freshID(), amount: 1}})
	const lateBy = time.Second
	l.run(t.Context(), time.Now().Add(-lateBy))
	if got := l.latency.quantiles().Max; got < lateBy.Microseconds() {
		t.Errorf("measured %d µs for a payment that was sent %v late", got, lateBy)
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-instances", "2"}, {"-instances", "0"}, {"-target", "http://localhost:9999"}, {"-lose", "101"},
		{"-kill", "-1"}, {"-faults"}, {"-default-fee", "2"}, {"storm"}, {"-pairs", "5"}, {"-stack", "-pairs", "-1"}, {"-stack", "-faults", "-pairs", "5"},
		{"-stack", "-against", "LINGER=5ms"}, {"-highest", "5ms"}, {"-stack", "-highest", "-5ms"}, {"-stack", "-highest", "5ms", "-pairs", "5"},
		{"-stack", "-pairs", "1", "-against", "variants/none.yml"}, {"-stack", "-pairs", "1", "-against", ""},
	} {
		if s, err := parseSettings(args, &bytes.Buffer{}); err == nil {
			t.Errorf("%v gave %+v", args, s)
		}
	}
	s, err := parseSettings(nil, &bytes.Buffer{})
	if err != nil || s.length() != time.Minute || s.kills != 0 || s.lose != 0 || s.seed == 0 {
		t.Errorf("defaults are %+v, %v", s, err)
	}
	if s.storm = "drain"; s.length() != drainLength {
		t.Errorf("a drain takes %v", s.length())
	}
}

func TestScreenDrawsOverItselfAndKeepsWhatWasSaid(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, terminal: true}
	s.draw([]string{"one", "two"}, "")
	s.say("kept")
	want := "\x1b[?7lone\x1b[?7h\n\x1b[?7ltwo\x1b[?7h\n" + "\x1b[2A\x1b[J" + "kept\n" + "\x1b[?7lone\x1b[?7h\n\x1b[?7ltwo\x1b[?7h\n"
	if out.String() != want {
		t.Errorf("wrote %q, want %q", out.String(), want)
	}
}

// TestPairsAreCheckedInTheContestsRhythm, unless another one is asked for.
func TestPairsAreCheckedInTheContestsRhythm(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"":                                    time.Second,
		"-check-every 0":                      0,
		"-stack -pairs 2":                     0,
		"-stack -highest 5ms":                 0,
		"-stack -pairs 2 -check-every 1s":     time.Second,
		"-stack -highest 5ms -check-every 3s": 3 * time.Second,
	} {
		s, err := parseSettings(strings.Fields(args), io.Discard)
		if err != nil || s.checkEvery != want {
			t.Errorf("%q: every %v, want %v (%v)", args, s.checkEvery, want, err)
		}
	}
}
