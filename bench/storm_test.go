package main

import (
	"slices"
	"testing"
	"time"
)

// weatherAt is how the processors are in a second of a storm.
type weatherAt struct {
	second int
	want   string
}

func expectWeather(t *testing.T, s storm, all []weatherAt) {
	t.Helper()
	for _, c := range all {
		if got := s.at(time.Duration(c.second) * time.Second).String(); got != c.want {
			t.Errorf("second %d: %s, want %s", c.second, got, c.want)
		}
	}
}

func TestPreviewIsTheContractsTable(t *testing.T) {
	s := previewStorm(previewLength, 1)
	expectWeather(t, s, []weatherAt{
		{1, "default 0 ms, fallback 0 ms"},
		{9, "default 0 ms, fallback 0 ms"},
		{10, "default 100 ms, fallback 0 ms"},
		{20, "default 100 ms failing, fallback 0 ms"},
		{30, "default 2000 ms failing, fallback 1000 ms failing"},
		{40, "default 20 ms, fallback 20 ms"},
		{50, "default 0 ms, fallback 5000 ms"},
		{60, "default 0 ms, fallback 5000 ms"},
	})
}

func TestPreviewSendsAsManyAsItsClientsWould(t *testing.T) {
	shots := previewStorm(previewLength, 1).shots()
	if want := (1 + 550) / 2.0 * 60; float64(len(shots)) < want-2 || float64(len(shots)) > want+2 {
		t.Errorf("%d payments, want %v", len(shots), want)
	}
	perSecond := make([]int, 60)
	for _, s := range shots {
		perSecond[min(int(s.at/time.Second), 59)]++
		if s.amount != 1990 {
			t.Fatalf("amount %v", s.amount)
		}
	}
	for second, n := range perSecond { // one client at the beginning, 549/60 more every second
		clients := 1 + (float64(second)+0.5)*549/60
		if float64(n) < clients-1.5 || float64(n) > clients+1.5 {
			t.Errorf("second %d: %d payments, want %.1f", second, n, clients)
		}
	}
}

func TestPreviewScalesWithItsLength(t *testing.T) {
	s := previewStorm(6*time.Second, 2)
	if got := s.at(3 * time.Second).String(); got != "default 2000 ms failing, fallback 1000 ms failing" {
		t.Errorf("at 3 s of 6: %s", got)
	}
	if n := len(s.shots()); n < 3300 || n > 3310 {
		t.Errorf("%d payments, want a tenth of the preview's, twice", n)
	}
}

func TestDrainHoldsWhatComesInThirtySeconds(t *testing.T) {
	s := drainStorm(drainLength, 1)
	expectWeather(t, s, []weatherAt{
		{9, "default 0 ms, fallback 0 ms"},
		{10, "default 0 ms failing, fallback 0 ms failing"},
		{39, "default 0 ms failing, fallback 0 ms failing"},
		{40, "default 0 ms, fallback 0 ms"},
		{70, "default 0 ms, fallback 0 ms"},
	})
	held := 0
	for _, x := range s.shots() {
		if x.at >= s.outage.from && x.at < s.outage.to {
			held++
		}
	}
	if held < 14_995 || held > 15_005 {
		t.Errorf("%d payments come while both fail, want 15,000", held)
	}
}

func TestSchedulesAreInOrderAndTheirIDsAreNew(t *testing.T) {
	for _, name := range []string{"preview", "random", "steady", "drain"} {
		s, err := newStorm(name, 7, 20*time.Second, 1)
		if err != nil {
			t.Fatal(err)
		}
		shots := s.shots()
		if !slices.IsSortedFunc(shots, func(a, b shot) int { return int(a.at - b.at) }) {
			t.Errorf("%s: not in order", name)
		}
		seen := make(map[[16]byte]bool)
		for _, x := range shots {
			if x.id.Version() != 4 || x.id.Variant().String() != "RFC4122" || seen[x.id] {
				t.Fatalf("%s: id %v is not a new version 4", name, x.id)
			}
			seen[x.id] = true
			if x.at < 0 || x.at > s.length || x.amount < s.lowest || x.amount > s.highest {
				t.Fatalf("%s: shot %+v is outside of the storm", name, x)
			}
		}
	}
}

func TestRandomStormsStayWithinWhatTheContractCallsOrdinary(t *testing.T) {
	for seed := range uint64(300) {
		length := time.Duration(seed%120+2) * time.Second
		s := randomStorm(seed, length, 1)
		if s.stages[0].from != 0 || s.rate[0].at != 0 || s.rate[len(s.rate)-1].at != length {
			t.Fatalf("seed %d: does not cover its length: %+v", seed, s)
		}
		for i, st := range s.stages {
			if i > 0 && st.from <= s.stages[i-1].from {
				t.Fatalf("seed %d: stage %d begins before the one before", seed, i)
			}
			for p := range st.delay {
				if st.delay[p] < 0 || st.delay[p] > longestDelay {
					t.Fatalf("seed %d: delay %v", seed, st.delay[p])
				}
			}
		}
		for _, r := range s.rate {
			if r.perSecond < lowestRate*0.999 || r.perSecond > highestRate*1.001 {
				t.Fatalf("seed %d: rate %v", seed, r.perSecond)
			}
		}
		last := s.stages[len(s.stages)-1]
		if last.failing != [2]bool{} || last.delay[0] > calmDelay || last.delay[1] > calmDelay {
			t.Fatalf("seed %d: ends with %v", seed, last)
		}
	}
}

func TestOneSeedIsOneStorm(t *testing.T) {
	a, b := randomStorm(42, time.Minute, 1), randomStorm(42, time.Minute, 1)
	other := randomStorm(43, time.Minute, 1)
	moments := func(s storm) (m []time.Duration) {
		for _, x := range s.shots() {
			m = append(m, x.at)
		}
		return m
	}
	if !slices.Equal(a.stages, b.stages) || !slices.Equal(moments(a), moments(b)) {
		t.Error("the same seed gave another storm")
	}
	if slices.Equal(moments(a), moments(other)) {
		t.Error("another seed gave the same storm")
	}
	if a.shots()[0].id == b.shots()[0].id {
		t.Error("a second run would meet the ids of the first")
	}
}

func TestStormsThatCannotBeAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		length time.Duration
		rate   float64
	}{{"drizzle", time.Minute, 1}, {"preview", 0, 1}, {"preview", time.Minute, 0}} {
		if _, err := newStorm(c.name, 1, c.length, c.rate); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestMoneyIsReadToTheCent(t *testing.T) {
	good := map[string]cents{"19.90": 1990, "19.9": 1990, "19": 1900, "0.01": 1, "0": 0, "328877.40": 32887740}
	for text, want := range good {
		if got, err := parseCents(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "1.999", "-1", "1e3", "1.2.3", "x", "99999999999999999999"} {
		if got, err := parseCents(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
	if got := cents(1990).String() + " " + cents(5).String() + " " + cents(-105).String(); got != "19.90 0.05 -1.05" {
		t.Errorf("printed %s", got)
	}
	for text, want := range map[string]fee{"0.05": 500, "0.15": 1500, "0": 0, "1": 10000} {
		if got, err := parseFee(text); err != nil || got != want {
			t.Errorf("fee %s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1.1", "-0.1", "0.00001", "five"} {
		if got, err := parseFee(text); err == nil {
			t.Errorf("fee %q was read as %v", text, got)
		}
	}
}
