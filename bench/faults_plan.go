package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A thing is what a fault befalls: at most one fault at a time befalls each.
type thing string

const (
	theRedis    thing = "redis"
	theNATS     thing = "nats"
	theClock    thing = "clock"
	theGalo1    thing = "galo-1"
	theGalo2    thing = "galo-2"
	redisWire1  thing = "galo-1's wire to redis"
	redisWire2  thing = "galo-2's wire to redis"
	natsWire1   thing = "galo-1's wire to nats"
	natsWire2   thing = "galo-2's wire to nats"
	theDefault  thing = "default"
	theFallback thing = "fallback"
	wireDefault thing = "wire to default"
	wireFallbck thing = "wire to fallback"
)

// A deed does the harm, calls hold for as long as the fault is to last, and takes the harm back. It must take it back whatever
// happens meanwhile.
type deed func(r *rig, hold func()) error

// A faultKind is one sort of fault.
type faultKind struct {
	name string
	on   [][]thing // one of these sets is befallen
	// plan draws what exactly is done to things, and for how long. Long runs have longer faults.
	plan func(rng *rand.Rand, things []thing, long bool) (what string, hold time.Duration, do deed)
}

// A plannedFault is decided before the load begins. Two runs of one seed have the same ones.
type plannedFault struct {
	number int
	at     time.Duration // since the round began
	hold   time.Duration
	kind   string
	things []thing
	what   string
	do     deed
}

func (f plannedFault) String() string {
	var names []string
	for _, t := range f.things {
		names = append(names, string(t))
	}
	return fmt.Sprintf("#%d %s, %s: %s, for %v", f.number, f.kind, strings.Join(names, " and "), f.what, f.hold.Round(time.Millisecond))
}

const (
	firstFault   = 1500 * time.Millisecond // there is something to lose by then
	lastFault    = 2 * time.Second         // before the end of a round: what comes later would be over at once
	meanGap      = 1300 * time.Millisecond // between the beginnings of two faults
	calmOneIn    = 6                       // so often a gap is a calm one
	calmGap      = 6 * time.Second
	planSalt     = 0x6661756c7473
	placeTries   = 8 // a fault whose things are all taken is tried a little later
	placeAgainIn = 700 * time.Millisecond
)

// planRound decides the faults of one round. Kinds are dealt like cards, so that each comes before any comes twice; the deck
// goes on from round to round.
func planRound(deck *faultDeck, first int, length time.Duration, long bool) []plannedFault {
	var plan []plannedFault
	free := make(map[thing]time.Duration) // from when on a thing is whole again
	rng := deck.rng
	for at := firstFault; at < length-lastFault; {
		kind := deck.deal()
		things := kind.on[rng.IntN(len(kind.on))]
		what, hold, do := kind.plan(rng, things, long)
		place := at
		for range placeTries {
			if !slices.ContainsFunc(things, func(t thing) bool { return free[t] > place }) {
				break
			}
			place += placeAgainIn
		}
		taken := slices.ContainsFunc(things, func(t thing) bool { return free[t] > place })
		if place < length-lastFault && !taken {
			hold = min(hold, length-lastFault/2-place)
			for _, t := range things {
				free[t] = place + hold + time.Second
			}
			plan = append(plan, plannedFault{first + len(plan), place, hold, kind.name, things, what, do})
		}
		gap := time.Duration(rng.ExpFloat64() * float64(meanGap))
		if rng.IntN(calmOneIn) == 0 {
			gap += calmGap
		}
		at += min(gap, 2*calmGap)
	}
	return plan
}

// A faultDeck deals kinds, all of them before any again.
type faultDeck struct {
	rng   *rand.Rand
	kinds []faultKind
	left  []faultKind
}

func newDeck(seed uint64, kinds []faultKind) *faultDeck {
	return &faultDeck{rng: rand.New(rand.NewPCG(seed, planSalt)), kinds: kinds}
}

func (d *faultDeck) deal() faultKind {
	if len(d.left) == 0 {
		d.left = slices.Clone(d.kinds)
		d.rng.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	kind := d.left[0]
	d.left = d.left[1:]
	return kind
}
