package main

import (
	"math"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// These tests hold the measuring ground itself to what is plain: storms made by hand, of which everybody can say what must come out.

const (
	ms  = time.Millisecond
	sec = time.Second
)

// calmStorm is one in which both processors are well; what is to be otherwise is for the test to change.
func calmStorm(length time.Duration, perSecond float64, patience time.Duration) storm {
	return storm{name: "by hand", length: length, rate: [2]float64{perSecond, perSecond}, instances: 2, patience: patience, nats: true,
		fees: [processors]ppm{50_000, 150_000}, weather: [processors]weather{{{}}, {{}}}}
}

// oneCPU lets a storm be the same whenever it is played.
func oneCPU(t *testing.T) {
	before := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

func playByHand(t *testing.T, s storm, make policyMaker) stormFigures {
	t.Helper()
	f := weatherStorm(t, s, make, false).figures()
	if f.Wrong != 0 || f.TurnedAway != 0 || f.Busy != 0 || f.TooSoon != 0 {
		t.Errorf("wrong %d, turned away %d, 429s %d and %d", f.Wrong, f.TurnedAway, f.Busy, f.TooSoon)
	}
	return f
}

func near(a, b, within float64) bool { return math.Abs(a-b) <= within }

func TestClairvoyant(t *testing.T) {
	fails := func(from, to time.Duration) weather { return weather{{}, {from, 0, true}, {from: to}} }
	slow := func(from, to, delay time.Duration) weather { return weather{{}, {from, delay, false}, {from: to}} }
	check := func(what string, def, fall weather, at, patience time.Duration, processor processorID, sent time.Duration, patient bool) {
		t.Helper()
		s := calmStorm(100*sec, 1, patience)
		s.weather = [processors]weather{def, fall}
		f := newClairvoyant(&s).pay(at, 0)
		if f.processor != processor || f.sent != sent || f.patient != patient {
			t.Errorf("%s: %s at %s, patient %t; want %s at %s, %t", what, f.processor, f.sent, f.patient, processor, sent, patient)
		}
	}
	well := weather{{}}
	check("both well", well, well, 5*sec, 0, onDefault, 5*sec, true)
	check("default fails beyond patience", fails(4*sec, 20*sec), well, 5*sec, 10*sec, onFallback, 5*sec, true)
	check("default is back in time", fails(4*sec, 14*sec), well, 5*sec, 10*sec, onDefault, 14*sec-processorWork, true)
	check("default is slow", slow(4*sec, 50*sec, 2*sec), well, 5*sec, 10*sec, onFallback, 5*sec, true)
	check("default is slow, but not too slow", slow(4*sec, 50*sec, 1498*ms), well, 5*sec, 10*sec, onDefault, 5*sec, true)
	check("both fail beyond patience, the dearer is back first", fails(4*sec, 30*sec), fails(4*sec, 29*sec), 5*sec, 10*sec, onFallback, 29*sec-processorWork, false)
	check("both fail beyond patience and are back at once", fails(4*sec, 30*sec), fails(4*sec, 30*sec), 5*sec, 10*sec, onDefault, 30*sec-processorWork, false)
	check("it fails at the end of the delay", weather{{0, 1 * sec, false}, {5 * sec, 0, true}, {from: 9 * sec}}, well, 4500*ms, 0, onFallback, 4500*ms, true)
	check("it fails only until the end of the delay", weather{{0, 1 * sec, true}, {from: 5 * sec}}, well, 4500*ms, 0, onDefault, 4500*ms, true)
	gap := weather{{0, 0, true}, {5 * sec, 2 * sec, false}, {from: 30 * sec}}
	check("there is but a moment between failing and slow", gap, well, 4500*ms, 10*sec, onFallback, 4500*ms, true)
	dearer := calmStorm(100*sec, 1, 0)
	dearer.fees = [processors]ppm{200_000, 150_000}
	if f := newClairvoyant(&dearer).pay(0, 0); f.processor != onFallback {
		t.Errorf("%s is the cheaper one", f.processor)
	}
}

func TestClairvoyantKeepsToThePlacesOfAProcessor(t *testing.T) {
	for patience, want := range map[time.Duration]foreseen{
		0:       {processor: onFallback, sent: 0, patient: true},
		5 * sec: {processor: onDefault, sent: sec + processorWork, patient: true},
	} {
		s := calmStorm(100*sec, 1, patience)
		s.weather[onDefault] = weather{{delay: sec}}
		c := newClairvoyant(&s)
		for range servedAtOnce {
			if f := c.pay(0, 0); f.processor != onDefault || f.sent != 0 {
				t.Fatalf("%+v: there are places", f)
			}
		}
		if f := c.pay(0, 0); f.processor != want.processor || f.sent != want.sent || f.patient != want.patient {
			t.Errorf("patience %s: %+v when all places are taken", patience, f)
		}
	}
}

func TestClairvoyantKnowsWhatAStrangeInstanceMeets(t *testing.T) {
	s := calmStorm(100*sec, 1, 0)
	s.strange = weather{{failing: true}, {from: 100 * sec}}
	c := newClairvoyant(&s)
	if strange, other := c.pay(0, 0), c.pay(0, 1); strange.processor != onFallback || other.processor != onDefault {
		t.Errorf("the first instance's goes to %s, the other's to %s", strange.processor, other.processor)
	}
}

// inStorm runs f in virtual time at the beginning of a storm in which nothing is posted.
func inStorm(t *testing.T, s storm, f func(r *stormRun)) {
	synctest.Test(t, func(t *testing.T) {
		r := &stormRun{storm: s, started: time.Now(), payments: make([]stormPayment, 5000)}
		for id := range r.procs {
			r.procs[id] = &stormProcessor{run: r, id: processorID(id)}
		}
		f(r)
		time.Sleep(time.Minute)
	})
}

func TestStormProcessorServesQueuesAndTurnsAway(t *testing.T) {
	s := calmStorm(100*sec, 1, 0)
	s.weather[onDefault] = weather{{delay: sec}}
	inStorm(t, s, func(r *stormRun) {
		answers := make(chan payResult, 5000)
		for n := range servedAtOnce + queuedBehind + 10 {
			go func() { answers <- stormLink{r.procs[onDefault], 0, 10 * sec}.pay(nthID(uint64(n)), stormAmount, 0) }()
		}
		count := func(after time.Duration) (paid, busy int) {
			time.Sleep(after)
			for range len(answers) {
				switch a := <-answers; a.outcome {
				case outcomePaid:
					paid++
				case outcomeBusy:
					busy++
				case outcomeRefused, outcomeUnknown, outcomeTaken, outcomeInvalid, outcomeMisconfigured:
					t.Errorf("%+v", a)
				}
			}
			return paid, busy
		}
		if paid, busy := count(100 * ms); paid != 0 || busy != 10 {
			t.Errorf("at once: %d paid, %d busy", paid, busy)
		}
		if paid, _ := count(sec); paid != servedAtOnce {
			t.Errorf("after a second: %d paid", paid)
		}
		if paid, _ := count(sec + 2*ms); paid != queuedBehind {
			t.Errorf("after two: %d paid", paid)
		}
		if c := r.procs[onDefault].counts; c.busy != 10 || c.posts != servedAtOnce+queuedBehind+10 {
			t.Errorf("%+v", c)
		}
	})
}

func TestStormProcessorWritesWhatItsClientGaveUp(t *testing.T) {
	s := calmStorm(100*sec, 1, 0)
	s.weather[onDefault] = weather{{delay: 3 * sec}}
	inStorm(t, s, func(r *stormRun) {
		link := stormLink{r.procs[onDefault], 0, 2 * sec}
		if a := link.pay(nthID(1), stormAmount, 7); a.outcome != outcomeUnknown || a.took != 2*sec {
			t.Errorf("%+v", a)
		}
		if found := link.lookUp(nthID(1)); found.kind != lookUpAbsent {
			t.Errorf("%+v before it is written", found)
		}
		time.Sleep(sec + 10*ms)
		if found := link.lookUp(nthID(1)); found.kind != lookUpFound || found.requestedAt != 7 || found.amount != stormAmount {
			t.Errorf("%+v", found)
		}
		if !r.payments[1].outlasted || r.payments[1].writes != 1 {
			t.Errorf("%+v", r.payments[1])
		}
		if a := link.pay(nthID(1), stormAmount, 7); a.outcome != outcomeUnknown {
			t.Errorf("again: %+v", a)
		}
	})
}

// TestStormProcessorServesInTurnThoseWhoGaveUp: the places of those who gave up in the queue are taken and given on as ever.
func TestStormProcessorServesInTurnThoseWhoGaveUp(t *testing.T) {
	s := calmStorm(100*sec, 1, 0)
	s.weather[onDefault] = weather{{delay: 4 * sec}, {from: 5 * sec}}
	inStorm(t, s, func(r *stormRun) {
		p := r.procs[onDefault]
		for n := range servedAtOnce + 100 {
			go stormLink{p, 0, 3 * sec}.pay(nthID(uint64(n)), stormAmount, 0)
		}
		time.Sleep(30 * sec)
		r.mu.Lock()
		defer r.mu.Unlock()
		if p.serving != 0 || len(p.queue) != 0 || r.written != servedAtOnce+100 {
			t.Errorf("%d served, %d queued, %d written", p.serving, len(p.queue), r.written)
		}
	})
}

func TestStormProcessorFailsAfterItsDelay(t *testing.T) {
	s := calmStorm(100*sec, 1, 0)
	s.weather[onDefault] = weather{{delay: sec}, {from: 500 * ms, failing: true}, {from: 10 * sec}}
	inStorm(t, s, func(r *stormRun) {
		link := stormLink{r.procs[onDefault], 0, 10 * sec}
		if a := link.pay(nthID(1), stormAmount, 0); a.outcome != outcomeRefused || a.took < sec {
			t.Errorf("%+v: it fails when the delay is over", a)
		}
		if a := link.pay(nthID(1), stormAmount, 0); a.outcome != outcomeRefused || a.took > 2*ms {
			t.Errorf("%+v: it fails without a delay", a)
		}
		time.Sleep(10 * sec)
		if a := link.pay(nthID(1), stormAmount, 0); a.outcome != outcomePaid {
			t.Errorf("%+v: it is well again", a)
		}
		if a := link.pay(nthID(1), stormAmount, 0); a.outcome != outcomeTaken {
			t.Errorf("%+v: it has that one", a)
		}
	})
}

func TestStormProcessorTellsItsHealthOnceInFiveSeconds(t *testing.T) {
	for manner, want := range map[healthManner]healthReading{
		healthHonest: {failing: true, minResponse: 200 * ms},
		healthRosy:   {},
		healthLying:  {failing: false, minResponse: longestDelay - 200*ms},
		healthLate:   {failing: false, minResponse: 100 * ms},
	} {
		s := calmStorm(100*sec, 1, 0)
		s.health = manner
		s.weather[onDefault] = weather{{delay: 100 * ms}, {3 * sec, 200 * ms, true}, {from: 90 * sec}}
		inStorm(t, s, func(r *stormRun) {
			link := stormLink{r.procs[onDefault], 0, 10 * sec}
			time.Sleep(5 * sec)
			if got, err := link.health(sec); err != nil || got != want {
				t.Errorf("%s: %+v, %v", manner, got, err)
			}
			time.Sleep(4990 * ms)
			if _, err := link.health(sec); err != errHealthTooSoon {
				t.Errorf("%s: %v", manner, err)
			}
			time.Sleep(8 * ms)
			if _, err := link.health(sec); err != nil {
				t.Errorf("%s: %v", manner, err)
			}
		})
	}
}

func TestStormWithBothWell(t *testing.T) {
	oneCPU(t)
	s := calmStorm(20*sec, 50, 10*sec)
	for _, c := range contenders {
		f := playByHand(t, s, c.make)
		if f.Payments < 990 || f.Regret+f.Reverse+f.Risk+f.Outlasted+f.Late != 0 || !near(f.Waste, 1, 1e-9) || !near(f.WasteOutside, 1, 1e-9) || f.Lag > 10 {
			t.Errorf("%s: %+v", c.name, f)
		}
		if f.Wait[0] < processorWork/2 || f.Wait[1] > 20*ms || f.Foreseen != [2]time.Duration{processorWork, processorWork} {
			t.Errorf("%s waits %s, the clairvoyant %s", c.name, f.Wait, f.Foreseen)
		}
	}
}

func TestStormInWhichTheCheaperOneIsGoneForLongerThanPatience(t *testing.T) {
	oneCPU(t)
	s := calmStorm(60*sec, 4, sec)
	s.weather[onDefault] = weather{{failing: true}, {from: 60 * sec}}
	r := weatherStorm(t, s, makeGalo, false)
	f := r.figures()
	// Those of the last second can be paid at default, which is back before their patience is over.
	last := 4 / float64(f.Payments)
	if f.Regret > last || f.Reverse > last || f.Late != 0 || f.Wrong != 0 || f.Wait[0] > 1500*ms || f.Foreseen[0] != processorWork {
		t.Errorf("%+v", f)
	}
	if c := r.procs[onFallback].counts; !near(float64(c.posts), float64(f.Payments), 0.03*float64(f.Payments)) {
		t.Errorf("%+v of %d went to fallback", c, f.Payments)
	}
	cheaper := playByHand(t, s, makeAlwaysCheap)
	if cheaper.Regret != 0 || !near(cheaper.Reverse, 1-last, 0.01) || !near(cheaper.Late, 1-2*last, 0.01) || cheaper.Waste < 5 || cheaper.Lag != f.Payments {
		t.Errorf("always the cheaper: %+v", cheaper)
	}
}

func TestStormInWhichTheCheaperOneIsBackInTime(t *testing.T) {
	oneCPU(t)
	s := calmStorm(60*sec, 50, 20*sec)
	s.weather[onDefault] = weather{{failing: true}, {from: 15 * sec}}
	if f := playByHand(t, s, makeGalo); f.Regret != 0 || f.Reverse != 0 || f.Late != 0 {
		t.Errorf("galo: %+v", f)
	}
	f := playByHand(t, s, makeFirstThatAnswers)
	if !near(f.Regret, 0.25, 0.01) || f.Reverse != 0 || !near(f.Waste, 1.25, 0.01) || f.WasteOutside != f.Waste {
		t.Errorf("first that answers: %+v", f)
	}
	if f := playByHand(t, s, makeHealthOnly); !near(f.Regret, 0.25, 0.1) || f.Waste > 1.5 {
		t.Errorf("health only: %+v", f)
	}
	// Open after five refusals, for five seconds; then one trial each time.
	if f := playByHand(t, s, makeCircuitBreaker); !near(f.Regret, 0.25, 0.1) || f.Waste > 1.02 || f.Waste < 1.003 {
		t.Errorf("circuit breaker: %+v", f)
	}
}

func TestStormInWhichTheCheaperOneIsSlow(t *testing.T) {
	oneCPU(t)
	s := calmStorm(60*sec, 20, sec)
	s.weather[onDefault] = weather{{delay: 2 * sec}, {from: 60 * sec}}
	if f := playByHand(t, s, makeAlwaysCheap); !near(f.Risk, 1, 0.03) || !near(f.Outlasted, 1, 0.03) || f.Wait[0] < 2*sec {
		t.Errorf("always the cheaper: %+v", f)
	}
	s.weather[onFallback] = weather{{delay: 2 * sec}, {from: 60 * sec}} // nobody could do otherwise
	if f := playByHand(t, s, makeAlwaysCheap); f.Risk > 0.03 || !near(f.Outlasted, 1, 0.03) {
		t.Errorf("both slow: %+v", f)
	}
}

func TestStormInWhichBothFail(t *testing.T) {
	oneCPU(t)
	s := calmStorm(60*sec, 5, sec)
	s.weather[onDefault] = weather{{}, {30 * sec, 0, true}, {from: 60 * sec}}
	s.weather[onFallback] = s.weather[onDefault]
	f := playByHand(t, s, makeFirstThatAnswers)
	if !near(float64(f.Lag), 150, 3) || f.WasteOutside > 1.01 || f.Waste < 2 || f.Late > 0.01 {
		t.Errorf("%+v", f)
	}
}

func TestStormToAStrangeInstance(t *testing.T) {
	oneCPU(t)
	s := calmStorm(60*sec, 20, 0)
	s.strange = weather{{failing: true}, {from: 60 * sec}}
	if f := playByHand(t, s, makeFirstThatAnswers); f.Regret != 0 || f.Reverse != 0 || !near(f.Waste, 1.5, 0.01) {
		t.Errorf("%+v", f)
	}
}

// TestStormWithoutNATSAsksForHealthOnceForAll: the key in the store keeps the instances apart; playByHand looks at the 429s.
func TestStormWithoutNATSAsksForHealthOnceForAll(t *testing.T) {
	oneCPU(t)
	s := calmStorm(60*sec, 5, sec)
	s.nats, s.instances = false, 4
	playByHand(t, s, makeGalo)
}

func TestStormBusReachesTheOthers(t *testing.T) {
	for _, nats := range []bool{true, false} {
		s := calmStorm(60*sec, 1, 0)
		s.nats = nats
		inStorm(t, s, func(r *stormRun) {
			heard := make(map[int]string)
			for n := range 3 {
				bus := &stormBus{run: r, instance: string(rune('a' + n)), find: func(f finding) { heard[n] = f.instance }}
				r.instances = append(r.instances, &stormInstance{bus: bus})
			}
			r.instances[1].bus.publishFinding(finding{})
			time.Sleep(sec)
			synctest.Wait()
			want := map[int]string{}
			if nats {
				want = map[int]string{0: "b", 2: "b"}
			}
			if !reflect.DeepEqual(heard, want) {
				t.Errorf("NATS %t: %v", nats, heard)
			}
		})
	}
}

func TestFiguresCountWhatIsWrong(t *testing.T) {
	s := calmStorm(60*sec, 1, sec)
	r := &stormRun{storm: s, started: time.UnixMicro(0), accepted: 4}
	for id := range r.procs {
		r.procs[id] = new(stormProcessor)
	}
	fine := stormPayment{writes: 1, settled: true}
	lost, twice, untold := fine, fine, fine
	lost.writes, twice.writes, untold.settled = 0, 2, false
	r.payments = []stormPayment{fine, lost, twice, untold, {turnedAway: true}}
	if f := r.figures(); f.Wrong != 3 {
		t.Errorf("%+v", f)
	}
}

func TestRandomStormsAreAsTheyShouldBe(t *testing.T) {
	for _, name := range append(stormNames(500), "preview") {
		s, err := stormNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := stormNamed(name)
		if !reflect.DeepEqual(s, again) || name != s.name {
			t.Fatalf("storm %s is another one the next time", name)
		}
		if s.length < 60*sec || s.length > 300*sec || s.rate[0] < 1 || s.rate[0] > 2000 || s.instances < 1 || s.instances > 4 {
			t.Errorf("storm %s: %s", name, &s)
		}
		for _, w := range append(slices.Clone(s.weather[:]), s.strange) {
			if w == nil {
				continue
			}
			if last := w[len(w)-1]; w[0].from != 0 || last.failing || last.delay != 0 || last.from > s.length {
				t.Errorf("storm %s begins and ends with %+v", name, w)
			}
			for i, one := range w {
				if i > 0 && one.from <= w[i-1].from || one.delay < 0 || one.delay > longestDelay {
					t.Errorf("storm %s, spell %d: %+v", name, i, one)
				}
			}
		}
	}
}

func TestArrivalsFollowTheRate(t *testing.T) {
	s := calmStorm(60*sec, 100, 0)
	even := s.arrivals()
	if len(even) != 5999 || even[0] != 10*ms {
		t.Errorf("%d, the first at %s", len(even), even[0])
	}
	s.scattered = true
	if n := len(s.arrivals()); !near(float64(n), 6000, 400) || !slices.IsSorted(s.arrivals()) {
		t.Errorf("%d scattered ones", n)
	}
	preview := previewStorm()
	if all := preview.arrivals(); !near(float64(len(all)), 551*30, 2) || !near(float64(all[len(all)/4]), float64(30*sec), float64(sec)) {
		t.Errorf("%d in the preview, a quarter by %s", len(all), all[len(all)/4])
	}
}

// TestStormIsNearlyTheSameTheNextTime: see TestStorms.
func TestStormIsNearlyTheSameTheNextTime(t *testing.T) {
	oneCPU(t)
	s, err := stormNamed("4")
	if err != nil {
		t.Fatal(err)
	}
	one, other := playByHand(t, s, makeGalo), playByHand(t, s, makeGalo)
	shares := func(f stormFigures) []float64 {
		return []float64{f.Regret, f.Reverse, f.Waste, f.WasteOutside, f.Risk, f.Outlasted, f.Late}
	}
	for i, a := range shares(one) {
		if b := shares(other)[i]; !near(a, b, 0.02) {
			t.Errorf("%+v, and then %+v", one, other)
		}
	}
	if one.Foreseen != other.Foreseen || one.Payments != other.Payments {
		t.Errorf("%+v, and then %+v", one, other)
	}
}

func TestWithoutCutsIntervals(t *testing.T) {
	spans := []interval{{0, 10}, {20, 30}, {40, 50}}
	for _, one := range []struct{ cuts, want []interval }{
		{nil, spans},
		{[]interval{{10, 20}}, spans},
		{[]interval{{2, 4}, {6, 25}}, []interval{{0, 2}, {4, 6}, {25, 30}, {40, 50}}},
		{[]interval{{0, 45}}, []interval{{45, 50}}},
		{[]interval{{29, forever}}, []interval{{0, 10}, {20, 29}}},
	} {
		if got := without(spans, one.cuts); !slices.Equal(got, one.want) {
			t.Errorf("without %v: %v, want %v", one.cuts, got, one.want)
		}
	}
}
