package main

import (
	"container/heap"
	"slices"
	"sort"
	"time"
)

// answerInTime is how long a send may take at most: one that takes longer may be missing from a summary.
const answerInTime = 1500 * time.Millisecond

// clairvoyant knows the storm before it begins, and pays each payment when it comes, in the order in which they come:
//
//   - A processor takes a payment at a moment at which a send would be answered in less than answerInTime, and well, and at which one
//     of the processor's places is free.
//   - A payment goes to the cheaper processor if that takes it before the payment's patience is over, counted from its acceptance;
//     else to the dearer one if that does; in both cases at the first such moment.
//   - If none does, it goes to whichever takes it first after that, to the cheaper one if both do.
//
// It does not look after those that come later: that a payment which has nowhere better to go may take a place that a later one
// could have had is as far from perfect as it is.
type clairvoyant struct {
	storm  *storm
	cheap  processorID
	good   [][processors][]interval // when a send would be answered well and in time, by instance
	places [processors]placeHeap
}

// interval is from the one moment up to the other.
type interval struct{ from, to time.Duration }

// foreseen is what the clairvoyant does with a payment.
type foreseen struct {
	processor processorID
	sent      time.Duration
	answered  time.Duration
	patient   bool // within the payment's patience
}

func newClairvoyant(s *storm) *clairvoyant {
	c := &clairvoyant{storm: s, cheap: s.cheap(), good: make([][processors][]interval, s.instances)}
	for n := range c.good {
		for p := range processorID(processors) {
			c.good[n][p] = s.seenBy(n, p).goodTimes()
		}
	}
	for p := range c.places {
		c.places[p] = make(placeHeap, servedAtOnce)
	}
	return c
}

// pay is for one payment after the other.
func (c *clairvoyant) pay(at time.Duration, instance int) foreseen {
	cheap, dear := c.earliest(c.cheap, at, instance), c.earliest(1-c.cheap, at, instance)
	patience := at + c.storm.patience
	f := foreseen{processor: c.cheap, sent: cheap, patient: min(cheap, dear) <= patience}
	if cheap > patience && dear < cheap {
		f.processor, f.sent = 1-c.cheap, dear
	}
	f.answered = f.sent + c.storm.seenBy(instance, f.processor).at(f.sent).delay + processorWork
	places := c.places[f.processor]
	places[0] = f.answered
	heap.Fix(&places, 0)
	return f
}

// earliest is the first moment from at on at which the processor takes a payment.
func (c *clairvoyant) earliest(p processorID, at time.Duration, instance int) time.Duration {
	at = max(at, c.places[p][0])
	good := c.good[instance][p]
	return max(at, good[sort.Search(len(good), func(i int) bool { return good[i].to > at })].from)
}

// shortestWindow leaves out what no sender can use, since none sends everything in one moment: where a failing processor gives way to a slow one,
// whatever reaches it in its last millisecond is answered well.
const shortestWindow = 10 * time.Millisecond

// goodTimes are the moments at which a send is answered in time and well: what decides is the delay at its arrival, and whether the
// processor fails when that is over. Windows that are shorter than shortestWindow are left out.
func (w weather) goodTimes() []interval {
	var good []interval
	for i, s := range w {
		took := s.delay + processorWork
		if took >= answerInTime {
			continue
		}
		for j := i; j < len(w) && w[j].from-took < w.end(i); j++ {
			if w[j].failing {
				continue
			}
			one := interval{max(s.from, w[j].from-took), min(w.end(i), w.end(j)-took)}
			switch last := len(good) - 1; {
			case one.from >= one.to:
			case last >= 0 && good[last].to == one.from:
				good[last].to = one.to
			default:
				good = append(good, one)
			}
		}
	}
	return slices.DeleteFunc(good, func(g interval) bool { return g.to-g.from < shortestWindow })
}

// placeHeap says when each of a processor's places is free again, the first on top.
type placeHeap []time.Duration

func (h placeHeap) Len() int           { return len(h) }
func (h placeHeap) Less(i, k int) bool { return h[i] < h[k] }
func (h placeHeap) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h placeHeap) Push(any)           {}
func (h placeHeap) Pop() any           { return nil }
