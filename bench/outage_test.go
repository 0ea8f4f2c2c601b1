package main

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// outageOf judges payments of one storm of ten seconds, both processors failing from its second to its fifth: when each was due, when it was
// sent, and where.
func outageOf(payments ...[3]float64) *outageReport {
	st := storm{length: 10 * time.Second, outage: stretch{2 * time.Second, 5 * time.Second}}
	start := time.Now().Truncate(time.Microsecond)
	var shots []shot
	var ends []shotEnd
	var paid [processors][]written
	for _, p := range payments {
		at := func(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
		s := shot{at: at(p[0]), id: freshID(), amount: 1}
		shots, ends = append(shots, s), append(ends, shotEnd{status: http.StatusAccepted, took: at(p[0] / 1000)})
		where := int(p[2])
		paid[where] = append(paid[where], written{s.id, 1, start.Add(at(p[1])).UnixMicro()})
	}
	return judgeOutage(st, start, shots, ends, paid)
}

func TestDrainEndsWhenNobodyWaitsLong(t *testing.T) {
	o := outageOf(
		[3]float64{1, 1.01, onDefault},
		[3]float64{1.9, 5.2, onDefault}, // came just before and was refused
		[3]float64{2.5, 5.5, onFallback},
		[3]float64{4.5, 6.0, onDefault}, // the last one that was held
		[3]float64{5.5, 7.0, onDefault}, // came after it, and waited behind it
		[3]float64{6.5, 6.6, onFallback},
		[3]float64{8, 8.01, onFallback},
	)
	if o.Held != 3 || o.DrainSeconds != 2 || o.Drained != 5 || o.AtFallback != 2 {
		t.Errorf("found %+v", o)
	}
	var got []string
	for _, ph := range o.Phases {
		got = append(got, fmt.Sprintf("%s %v %v: %d, %d", ph.Name, ph.From, ph.To, ph.Payments, ph.Latency.Max/microsPerMilli))
	}
	want := []string{"before 0 2: 2, 1", "outage 2 5: 2, 4", "drain 5 7: 2, 6", "after 7 10: 1, 8"}
	if !slices.Equal(got, want) {
		t.Errorf("phases %q, want %q", got, want)
	}
}

func TestDrainOfNothingTakesNoTime(t *testing.T) {
	if o := outageOf([3]float64{1, 1.01, onDefault}, [3]float64{6, 6.01, onDefault}); o.Held != 0 || o.DrainSeconds != 0 || o.Drained != 0 {
		t.Errorf("found %+v", o)
	}
}

func TestDrainThatOutlastsItsStormLeavesNothingAfterIt(t *testing.T) {
	o := outageOf([3]float64{4, 12, onDefault})
	if last := o.Phases[len(o.Phases)-1]; o.DrainSeconds != 7 || last.From != 12 || last.To != 12 {
		t.Errorf("found %+v", o)
	}
}

func TestUseBetweenReadingsIsInProportion(t *testing.T) {
	start := time.Now()
	c := &meteredContainer{container: container{service: "galo1"}, use: containerUse{CPULimit: 0.4}}
	for i := range 3 { // in each second half a second of CPU, 10 periods, 4 of them throttled for 0.2 s
		n := int64(i)
		c.history = append(c.history, usedBy{start.Add(time.Duration(i) * time.Second), containerUse{
			CPUSeconds: float64(i) / 2, Periods: 10 * n, ThrottledPeriods: 4 * n, ThrottledSeconds: float64(i) / 5}})
	}
	m := &meter{metered: []*meteredContainer{c}}
	for _, x := range []struct {
		from, to time.Duration
		want     string
	}{
		{500 * time.Millisecond, 1500 * time.Millisecond, "galo1  CPU   0.50 s of   0.40 s, throttled in 4 of 10 periods for 0.20 s"},
		{-time.Second, time.Minute, "galo1  CPU   1.00 s of   0.40 s, throttled in 8 of 20 periods for 0.40 s"},
		{time.Second, time.Second, "galo1  CPU   0.00 s of   0.40 s, throttled in 0 of 0 periods for 0.00 s"},
	} {
		if got := m.between(start.Add(x.from), start.Add(x.to))[0].describePhase(1); got != x.want {
			t.Errorf("from %v to %v: %s, want %s", x.from, x.to, got, x.want)
		}
	}
}

func TestOutageIsToldPhaseByPhase(t *testing.T) {
	o := outageOf([3]float64{1, 1.01, onDefault}, [3]float64{4, 6, onFallback})
	o.Phases[2].Containers = []containerUse{{Service: "nginx", CPULimit: 0.25}}
	var said bytes.Buffer
	(&verdict{Outage: o}).print(&said)
	for _, want := range []string{
		"\noutage         1 held when both processors were well again, nobody waited longer than 1s from 1.0 s after that; 100.00 % of the 1 sent",
		"\nbefore         0.0 to 2.0 s, 1 payments: p50 1.00 ms", "\ndrain          5.0 to 6.0 s", "\n               nginx  CPU",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &said)
		}
	}
}
