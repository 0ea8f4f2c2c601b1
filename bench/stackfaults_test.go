package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestFirstTriesAreJudged: where the load balancer is judged no client tries again, and every answer but 202 is found.
func TestFirstTriesAreJudged(t *testing.T) {
	var tries atomic.Int64
	galo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch tries.Add(1) {
		case 1:
			panic(http.ErrAbortHandler) // the connection is closed without an answer
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	t.Cleanup(galo.Close)
	d, err := newDoor(galo.URL)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoad(d, []shot{{id: freshID(), amount: 1}, {id: freshID(), amount: 1}, {id: freshID(), amount: 1}})
	var odd atomic.Int64
	l.once, l.odd = true, func(time.Time, int, error) { odd.Add(1) }
	l.run(t.Context(), time.Now())
	if tries.Load() != 3 || odd.Load() != 2 || l.refused.Load() != 1 || l.unanswered.Load() != 1 || l.accepted.Load() != 1 {
		t.Errorf("%d tries, %d odd ones, %d refused, %d unanswered, %d accepted", tries.Load(), odd.Load(), l.refused.Load(), l.unanswered.Load(), l.accepted.Load())
	}
}

// TestEveryKindOfUnservedClientSpoilsTheVerdict: what the faults are judged by.
func TestEveryKindOfUnservedClientSpoilsTheVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		v         verdict
		questions []error
		want      int
	}{
		"all served": {verdict{Accepted: 5}, nil, 0},
		"refused":    {verdict{Refused: 1, Statuses: map[int]int64{502: 1}}, nil, 1},
		"unanswered": {verdict{Unanswered: 1}, nil, 1},
		"a question": {verdict{}, []error{errors.New("502")}, 1},
	} {
		if got := unserved(&c.v, c.questions); len(got) != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestQuestionThatOnlyTheLoadBalancerAnswersIsNoted: galo's own 503 is an answer, 502 and silence are none.
func TestQuestionThatOnlyTheLoadBalancerAnswersIsNoted(t *testing.T) {
	for status, want := range map[int]int{http.StatusServiceUnavailable: 0, http.StatusBadGateway: 1, http.StatusGatewayTimeout: 1} {
		galo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		d, err := newDoor(galo.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.summary(t.Context(), always); !errors.Is(err, errUnavailable) {
			t.Errorf("%d: %v", status, err)
		}
		galo.Close()
		if len(d.unserved) != want {
			t.Errorf("%d: noted %v", status, d.unserved)
		}
		if _, err := d.summary(t.Context(), always); err == nil || len(d.unserved) != want+1 {
			t.Errorf("nobody there: noted %v", d.unserved)
		}
	}
}

func TestMetricsAreReadWithTheirLabels(t *testing.T) {
	m, err := readMetrics("# HELP x\ngalo_pending 3\ngalo_processor_open{processor=\"default\"} 1\n\n")
	if err != nil || m["galo_pending"] != 3 || m[`galo_processor_open{processor="default"}`] != 1 || len(m) != 2 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := readMetrics("galo_pending many\n"); err == nil {
		t.Error("read a number that is none")
	}
}

// TestRenamedInstanceKeepsItsSocketOnly: nginx finds it, and everything that named it before is another.
func TestRenamedInstanceKeepsItsSocketOnly(t *testing.T) {
	renamed := readCompose(t, "renamed.compose.yml").Services["galo2"]
	name := renamed.Environment["INSTANCE"]
	if name == nil || *name == "galo2" || renamed.Hostname == "galo2" || !strings.HasPrefix(*name, galoPrefix) {
		t.Errorf("renamed to %v, on host %q", name, renamed.Hostname)
	}
	if _, there := renamed.Environment["LISTEN"]; there {
		t.Error("it listens where nginx does not look")
	}
}
