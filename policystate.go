package main

import "time"

// processorState is what is known of one processor.
type processorState struct {
	open      bool          // the last that was heard of it is not a refusal
	expected  time.Duration // answer time, from outcomes, or from health where that is fresher
	outcomeAt time.Time     // the last outcome of our own
	goodAt    time.Time     // the last answer in good time, or reading that promises one
	healthAt  time.Time     // the last health reading
	unknowns  int           // in a row
	inFlight  int
	limit     int
	probing   bool          // a probe is out
	probeAt   time.Time     // when the next one may go
	probeGap  time.Duration // grows while probes are refused
	pacing    bool          // payments that were held are let go at a measured rate
	nextAt    time.Time     // when pacing lets the next one go
	stood     standing      // as it was told last, see changed
	leftAt    time.Time     // when it stopped being open
	changes   int64
	probes    int64
}

func (s *processorState) usable() bool {
	return s.open && s.expected <= slowAnswer && s.inFlight < s.limit
}

func (s *processorState) paced(now time.Time) bool { return !s.pacing || !now.Before(s.nextAt) }

// probeDue says that one payment may find out how the processor is doing: while it refuses, or while it is slow and its last
// health reading is no news.
func (s *processorState) probeDue(now time.Time) bool {
	if s.probing || s.inFlight >= s.limit || now.Before(s.probeAt) {
		return false
	}
	if !s.open {
		return true
	}
	return s.expected > slowAnswer && now.Sub(s.healthAt) >= freshHealth
}

// learn moves the expected answer time towards an observed one: quickly up, slowly down.
func (s *processorState) learn(took time.Duration) {
	if took > s.expected {
		s.expected += (took - s.expected) / 2
	} else {
		s.expected += (took - s.expected) / 8
	}
}

// arrivalRate measures payments per second over spans of at least a second.
type arrivalRate struct {
	at    time.Time
	count int64
	rate  int64
}

func (r *arrivalRate) perSecond(now time.Time, count int64) int64 {
	if r.at.IsZero() {
		r.at, r.count = now, count
	}
	if span := now.Sub(r.at); span >= time.Second {
		r.rate = (count - r.count) * int64(time.Second) / int64(span)
		r.at, r.count = now, count
	}
	return r.rate
}

type waiter struct {
	acceptedAt micros
	granted    chan permit // capacity 1
	place      int         // in the heap; -1 when it is out
}

// waiters is a heap, the one that was accepted first on top.
type waiters []*waiter

func (h waiters) Len() int { return len(h) }

func (h waiters) Less(i, k int) bool { return h[i].acceptedAt < h[k].acceptedAt }

func (h waiters) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].place, h[k].place = i, k
}

func (h *waiters) Push(x any) {
	w := x.(*waiter)
	w.place = len(*h)
	*h = append(*h, w)
}

func (h *waiters) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.place = -1
	return w
}
