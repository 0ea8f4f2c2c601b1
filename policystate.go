package main

import "time"

// processorState is what is known of one processor: whether it refuses, how fast it answers, and how much may be out there.
//
// Attempts are numbered in the order in which they go out. How fast a processor is, an answer says for the moment at which its attempt went
// out, so the youngest attempt that was answered has the last word; what went out after it is unanswered, and what went out before it is old
// news, however late it comes. Whether a processor refuses, it decides at the end of its delay, so there the latest answer has the last word.
type processorState struct {
	open       bool          // the last that was heard of it is not a refusal
	answer     time.Duration // how long an answer takes by the last word, smoothed
	goodAt     time.Time     // the last answer in good time, or reading that promises one
	healthAt   time.Time     // the last health reading
	unknowns   int           // in a row
	inFlight   int
	sent       uint64                  // number of the last attempt
	spoken     uint64                  // of the one with the last word, or the last one before a reading that was believed
	spokenAt   time.Time               // when that one went out
	returned   int                     // of those since then: given back without an answer
	wentOut    [attemptsKept]time.Time // by number
	proven     int                     // so many were unanswered when one went out that was answered in good time
	provenAt   time.Time               // when that was found, or last halved
	probes     int64
	probesOut  int // of those after probesFrom
	probesFrom uint64
	heardAt    time.Time     // when another instance told of a probe of its own that found nothing new
	probedAt   time.Time     // when the last one went out
	probeGap   time.Duration // grows while probes are refused
	refusal    time.Duration // how long the last refusal took
	stood      standing      // as it was told last, see changed
	closedAt   time.Time
	openedAt   time.Time // after it was closed
	leftAt     time.Time // when it was last in good standing
	changes    int64
}

const (
	attemptsKept = 2048 // more than are ever unanswered
	// A send that takes longer than 1.5 s may be missing from a summary that is asked for in the meantime; the rest is margin
	// for queueing on both sides.
	goodAnswer = 1480 * time.Millisecond
	// Two attempts that went out so close to each other say the same of a processor.
	aboutThen = 50 * time.Millisecond
	// So many may be unanswered at first; more once more were and did no harm, which is half forgotten after provenLife.
	firstWindow = 16
	provenLife  = 2 * time.Second
	// So many unknown outcomes in a row close a processor: lost answers alone, up to one in two, hardly ever do.
	unknownsToClose = 12
)

// goOut numbers an attempt, and says how many are unanswered ahead of it.
func (s *processorState) goOut(now time.Time) (number uint64, ahead int) {
	ahead = s.unanswered()
	s.inFlight++
	s.sent++
	s.wentOut[s.sent%attemptsKept] = now
	return s.sent, ahead
}

// unanswered is how many attempts are out that went out after the one with the last word.
func (s *processorState) unanswered() int {
	return max(0, min(int(s.sent-s.spoken)-s.returned, s.inFlight))
}

// expected is the answer time to reckon with: by the last word, and no less than the oldest unanswered attempt has been out.
func (s *processorState) expected(now time.Time) time.Duration {
	if s.unanswered() == 0 {
		return s.answer
	}
	return max(s.answer, now.Sub(s.oldestUnanswered()))
}

// oldestUnanswered is when the first of the unanswered attempts went out, if there are any.
func (s *processorState) oldestUnanswered() time.Time { return s.wentOut[(s.spoken+1)%attemptsKept] }

// speak gives an attempt that was answered the last word, if none has it that went out later. It is false for old news: the attempt went out
// well before the one that has the last word.
func (s *processorState) speak(number uint64, wentOut time.Time) (news bool) {
	if number > s.spoken {
		s.spoken, s.spokenAt, s.returned = number, wentOut, 0
		return true
	}
	return s.spokenAt.Sub(wentOut) <= max(aboutThen, s.answer/4)
}

// learn moves the answer time towards an observed one: quickly up, slowly down.
func (s *processorState) learn(took time.Duration) {
	if took > s.answer {
		s.answer += (took - s.answer) / 2
	} else {
		s.answer += (took - s.answer) / 8
	}
}

// believe takes what others say of the answer time for the last word: what is out counts as answered.
func (s *processorState) believe(answer time.Duration, now time.Time) {
	s.answer = answer
	s.spoken, s.spokenAt, s.returned = s.sent, now, 0
}

// prove notes that so many unanswered ahead of an attempt did no harm.
func (s *processorState) prove(ahead int, now time.Time) {
	s.forget(now)
	if ahead >= s.proven {
		s.proven, s.provenAt = ahead, now
	}
}

func (s *processorState) forget(now time.Time) {
	for ; s.proven > 0 && now.Sub(s.provenAt) >= provenLife; s.provenAt = s.provenAt.Add(provenLife) {
		s.proven /= 2
	}
}

// window is how many attempts may be unanswered: twice what the rate needs at this answer time by Little's law, or twice what was answered in
// good time before, so that either may grow. It is what is at risk when the processor turns slow, and it opens in steps after an outage.
func (s *processorState) window(rate int64, now time.Time) int {
	s.forget(now)
	return firstWindow + 2*max(int(rate*int64(s.answer)/int64(time.Second)), s.proven)
}

// good says that it answers in good time, as far as is known.
func (s *processorState) good(now time.Time) bool { return s.open && s.expected(now) <= goodAnswer }

// prober is the payment that would be the probe.
type prober struct {
	rate, peers int64         // payments a second at this instance, and how many instances there are
	stagger     float64       // from 0 to 1, for each instance another: so that they do not all probe at once
	beyond      time.Duration // how far it is beyond its patience
}

// probeDue says that one payment may find out how a processor is that does not answer in good time.
func (s *processorState) probeDue(now time.Time, by prober) bool {
	return !s.good(now) && (s.open || s.probesOut < probesAtOnce) && !now.Before(s.nextProbe(now, by))
}

// noNews says that neither health nor a probe has said for long how a slow processor is.
func (s *processorState) noNews(now time.Time, rate int64) bool {
	return now.Sub(later(s.healthAt, s.probedAt)) > min(newsLife, everyNth(patientProbesPart, rate))
}

// nextProbe is when the next probe may go at the earliest.
func (s *processorState) nextProbe(now time.Time, by prober) time.Time {
	if s.probeHinted() {
		return s.probedAt
	}
	gap := s.probeGapFor(now, by.rate, by.beyond)
	due := s.probedAt.Add(gap)
	if s.heardAt.After(s.probedAt) { // instances that hear each other share the probes; but none leaves them all to others
		last := s.probedAt.Add(othersProbes * gap)
		shared := s.probeGapFor(now, by.rate*by.peers, by.beyond)
		if due = s.heardAt.Add(shared + time.Duration(by.stagger*float64(shared))); due.After(last) {
			due = last
		}
	}
	return due
}

// probeGapFor is the gap between probes at a rate of payments, if one so far beyond its patience would be the next. A probe is dear if its
// answer may come late: because the processor is slow, or takes its time to refuse one whose patience is over.
func (s *processorState) probeGapFor(now time.Time, rate int64, beyond time.Duration) time.Duration {
	if s.open || s.refusal > quickRefusal && beyond >= -s.refusal {
		return min(max(firstDearGap, everyNth(dearProbesPart, rate)), lastDearGap)
	}
	gap := min(s.probeGap, max(shortestLastGap, everyNth(probesPart, rate)), max(longestLastGap, min(-beyond/8, lastDearGap)))
	if s.probesOut > 0 { // it takes its time even to refuse, and what a probe says is as old as that
		out := s.expected(now) - s.answer
		gap = max(gap, min(max(s.refusal/4, out/2), longestLastGap))
	}
	return gap
}

// probeSoon lets the next probe go at once, whatever is out.
func (s *processorState) probeSoon() {
	s.probeGap, s.probesOut, s.probesFrom, s.heardAt = 0, 0, s.sent, time.Time{}
}

// probeHinted says that there was cause to probe at once, and nobody has yet.
func (s *processorState) probeHinted() bool { return s.probeGap == 0 }

// heardProbe notes that another instance has probed, and nothing is new.
func (s *processorState) heardProbe(now time.Time) {
	s.heardAt = now
	s.probeGap = max(s.probeGap, firstProbeGap)
	s.probeGap = s.nextGap()
}

// nextGap is what the gap between probes grows to. It is never used beyond lastDearGap.
func (s *processorState) nextGap() time.Duration {
	return min(s.probeGap*probeGrowth/2, lastDearGap)
}

// everyNth is how far apart probes are if each nth payment is one.
func everyNth(n, perSecond int64) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(max(1, perSecond))
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
