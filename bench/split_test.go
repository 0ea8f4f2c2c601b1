package main

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func (s split) sum() (sum int) {
	for _, limit := range s {
		sum += limit
	}
	return sum
}

func TestSplitIsThatOfTheStack(t *testing.T) {
	s, err := readSplit(stackFile)
	if err != nil {
		t.Fatal(err)
	}
	want := split{"nginx": 400, "galo1": 350, "galo2": 350, "redis": 280, "nats": 120}
	if !maps.Equal(s, want) {
		t.Errorf("%v, want %v", s, want)
	}
	if got := s.String(); got != "galo 0.350, nats 0.120, nginx 0.400, redis 0.280" {
		t.Errorf("written %q", got)
	}
	text, err := s.compose()
	if err != nil {
		t.Fatal(err)
	}
	var f composeFile
	if err := yaml.Unmarshal(text, &f); err != nil || len(f.Services) != len(s) {
		t.Fatalf("%s: %v", text, err)
	}
	if limits := f.Services["galo2"].Deploy.Resources.Limits; limits.CPUs != "0.350" || limits.Memory != "" {
		t.Errorf("galo2 is limited to %+v", limits)
	}
}

// TestNeighboursKeepTheSum: every part gives to every other one, instances stay alike, and nothing gets so little that it cannot start.
func TestNeighboursKeepTheSum(t *testing.T) {
	s := split{"nginx": 250, "galo1": 400, "galo2": 400, "redis": 300, "nats": 90}
	seen := make(map[string]bool)
	for _, n := range s.neighbours(50, nil) {
		if n.sum() != s.sum() || n["galo1"] != n["galo2"] || len(n) != len(s) {
			t.Errorf("%v is no neighbour of %v", n, s)
		}
		for service, limit := range n {
			if limit < lowestLimit {
				t.Errorf("%s has %d thousandths", service, limit)
			}
		}
		seen[n.String()] = true
	}
	if seen[s.String()] || len(seen) != 4*3-3 { // NATS has nothing to give
		t.Errorf("%d neighbours: %v", len(seen), seen)
	}
}

func TestWhoNeedsItMostGetsItFirst(t *testing.T) {
	s := split{"nginx": 250, "galo1": 400, "galo2": 400, "redis": 300, "nats": 150}
	first := s.neighbours(50, map[string]float64{"nginx": 0.9, "galo": 0.6, "redis": 0.5, "nats": 0.1})[0]
	want := split{"nginx": 300, "galo1": 400, "galo2": 400, "redis": 300, "nats": 100}
	if !maps.Equal(first, want) {
		t.Errorf("%v comes first, want %v", first, want)
	}
}

func TestFirstFigureThatDiffersDecides(t *testing.T) {
	of := func(p99, p999, throttled int64) trial {
		return trial{clean: true, latency: quantiles{P99: p99, P999: p999}, throttled: throttled}
	}
	for _, c := range []struct {
		a, b   trial
		better int
		by     string
	}{
		{of(1000, 9000, 9), of(1100, 1000, 0), 1, "p99"},
		{of(1000, 9000, 9), of(1040, 8000, 0), -1, "p99.9"},
		{of(1000, 9000, 2), of(1040, 9100, 9), 1, "throttled"},
		{of(1000, 9000, 9), of(1000, 9000, 9), 0, "nothing"},
		{trial{}, of(1000, 9000, 9), -1, "verdict"},
		{trial{}, trial{}, 0, "nothing"},
	} {
		if better, by := c.a.against(&c.b); better != c.better || by != c.by {
			t.Errorf("%+v against %+v: %d by %s, want %d by %s", c.a, c.b, better, by, c.better, c.by)
		}
		if better, _ := c.b.against(&c.a); better != -c.better {
			t.Errorf("%+v against %+v: %d the other way round", c.a, c.b, better)
		}
	}
}

// TestMajorityOfTheRoundsDecides: and nothing is played when it is certain.
func TestMajorityOfTheRoundsDecides(t *testing.T) {
	good, bad := trial{clean: true, latency: quantiles{P99: 1000}}, trial{clean: true, latency: quantiles{P99: 2000}}
	for _, c := range []struct {
		rounds       string // of each, whether what was tried was better
		of           int
		won, decided bool
	}{
		{"", 3, false, false}, {"+", 3, false, false}, {"++", 3, true, true}, {"+-", 3, false, false}, {"+-+", 3, true, true}, {"--", 3, false, true},
		{"==", 3, false, true}, {"+-", 2, false, true}, {"++", 2, true, true}, {"+", 1, true, true},
	} {
		game := contest{rounds: c.of}
		for _, round := range c.rounds {
			tried := map[rune]trial{'+': good, '-': bad, '=': bad}[round]
			now := map[rune]trial{'+': bad, '-': good, '=': bad}[round]
			game.trieds, game.nows = append(game.trieds, tried), append(game.nows, now)
		}
		if game.won() != c.won || game.decided() != c.decided {
			t.Errorf("%q of %d: won %t, decided %t", c.rounds, c.of, game.won(), game.decided())
		}
	}
}

func TestMemoryLimitsAreWithinTheirSum(t *testing.T) {
	peaks := map[string]int64{"galo1": 40 * megabyte, "galo2": 50*megabyte + 1, "nginx": 10 * megabyte}
	limits, margin, ok := memoryLimits(peaks, 200, 0.25)
	if want := map[string]int{"galo": 63, "nginx": 13}; !ok || margin != 0.25 || !maps.Equal(limits, want) {
		t.Errorf("%v with %v, %t", limits, margin, ok)
	}
	limits, margin, ok = memoryLimits(peaks, 120, 0.25)
	if sum := 2*limits["galo"] + limits["nginx"]; !ok || sum > 120 || margin <= 0 || margin >= 0.25 {
		t.Errorf("%v with %v, %t", limits, margin, ok)
	}
	if limits, _, ok = memoryLimits(peaks, 100, 0.25); ok {
		t.Errorf("%v though there is no room", limits)
	}
}

func TestLimitIsSetInBillionthsOfACPU(t *testing.T) {
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what is missing is seen below
		asked = r.Method + " " + r.URL.Path + " " + string(body)
		_, _ = io.WriteString(w, `{"Warnings":null}`)
	}))
	t.Cleanup(server.Close)
	e := &engine{http: server.Client(), base: server.URL}
	if err := e.limitCPU(t.Context(), container{id: "abc"}, 0.375); err != nil {
		t.Fatal(err)
	}
	if want := `POST /containers/abc/update {"NanoCpus":375000000}`; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
}

func TestSplitSettings(t *testing.T) {
	for _, bad := range []string{"-rounds 0", "-step 0", "-step 0.005", "-step 0.055", "-margin -1", "words"} {
		if _, err := parseSplitSettings(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if s, err := parseSplitSettings(strings.Fields("-step 0.07 -rounds 5"), io.Discard); err != nil || s.step != 0.07 || s.rounds != 5 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSplitsArePrinted(t *testing.T) {
	first, err := readSplit(stackFile)
	if err != nil {
		t.Fatal(err)
	}
	next, ok := first.moved(move{"redis", "nginx"}, 50)
	if !ok {
		t.Fatal("Redis has nothing to give")
	}
	one := func(p99 int64) trial {
		return trial{clean: true, latency: quantiles{P99: p99, P999: 2 * p99}, throttled: 3}
	}
	s := &splitSearch{
		settings: splitSettings{rounds: 3, margin: 0.25}, run: &stackRun{storm: steadyStorm(splitDuration, splitRate)}, first: first, now: next,
		contests: []contest{{now: first, tried: next, rounds: 3, nows: []trial{one(2000), one(3000)}, trieds: []trial{one(1000), one(1500)}, remark: "kept"}},
		peaks:    map[string]int64{"nginx": 8 * megabyte}, limits: map[string]int64{"nginx": 30 * megabyte},
	}
	var b strings.Builder
	s.print(&b)
	for _, want := range []string{
		"storm steady, 3000 payments a second, 5s a trial",
		"| galo 0.350, nats 0.120, nginx 0.450, redis 0.230 | galo 0.350, nats 0.120, nginx 0.400, redis 0.280 | 1.50 | 3.00 | 3.00 | 6.00 | 3 | 3 | 2 of 2 by p99 | kept |\n",
		"| nginx | 8.0 | 30 | 10 |\n", "20 MB less than the limits together",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
