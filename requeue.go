package main

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// This file brings a payment back that was final: rejected by its processor, and queued again by an operator.

// settlerOrder is something that has to be done while no settle is under way.
type settlerOrder struct {
	do   func(ctx context.Context) error
	done chan error
}

// order has the settler do something between two batches. Once the settler has taken the order it carries it out, even if ctx ends before
// that: so do has to do everything that belongs to it.
func (s *settler) order(ctx context.Context, do func(ctx context.Context) error) error {
	o := settlerOrder{do: do, done: make(chan error, 1)}
	select {
	case s.orders <- o:
	case <-ctx.Done():
		return fmt.Errorf("the store is slow, nothing was done: %w", ctx.Err())
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the store is slow, it may still be done: %w", ctx.Err())
	}
}

// requeue makes a rejected slot an accepted one. Redis comes first: its record is taken back and the slot's claim put in place, in one
// step. A crash before the journal follows leaves a slot that is still rejected, and the command repeated, or the next replay, heals
// that. It is the settler's own (see order). Without a store only the journal is changed.
func (s *settler) requeue(ctx context.Context, r ref) error {
	j := s.ledger.journal(r)
	if err := j.mapAgain(r.seq() >> segmentSlotsLog2); err != nil {
		return err
	}
	v, ok := s.ledger.read(r)
	if st := v.word.state(); !ok || st != slotRejected && st != slotInvalid {
		return &refusal{409, fmt.Sprintf("payment %s is %s by now, not rejected: nothing was done", v.id, st)}
	}
	if err := j.noteRequeue(r.seq()); err != nil {
		return err
	}
	if s.store != nil {
		if err := s.takeBack(ctx, s.ledger.claimOf(v)); err != nil {
			return err
		}
	}
	_, err := s.ledger.reopened(v)
	return err
}

// takeBack replaces the record of a rejected payment by its slot's claim.
func (s *settler) takeBack(ctx context.Context, c claim) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := errors.Join(s.followMark(), s.enter(ctx)); err != nil {
		return &refusal{503, fmt.Sprintf("the store is away: nothing was done (%v)", err)}
	}
	token := s.store.token()
	if s.known == "" || s.known != token {
		return &refusal{503, "the store does not hold everything yet: nothing was done; try again when every journal has been replayed (galo rebuild does it for those that nobody owns)"}
	}
	var answer [1]claimAnswer
	err := s.store.unreject(ctx, token, s.mark(), []claim{c})
	if err == nil {
		err = s.store.claim(ctx, token, false, []claim{c}, answer[:])
	}
	switch {
	case err != nil:
		return &refusal{503, fmt.Sprintf("the store failed: try again, that does no harm (%v)", err)}
	case answer[0].kind == claimFinal:
		return &refusal{409, fmt.Sprintf("payment %s is %s in the store, through another slot: nothing was done", c.id, answer[0].rec.state)}
	case answer[0].kind == claimUnreadable:
		return &refusal{409, fmt.Sprintf("what the store has of payment %s was not written by galo: nothing was done", c.id)}
	case answer[0].kind == claimHeld:
		return &refusal{409, fmt.Sprintf("payment %s is on its way through another slot (journal %s): nothing was done", c.id, answer[0].rec.journal)}
	}
	return nil
}

// reopened makes a slot that was final accepted again. It holds room in the queue again, even beyond what may be pending.
func (l *ledger) reopened(v slotView) (slotView, error) {
	w := v.word.with(slotAccepted)
	if err := l.journal(v.ref).reopen(v.ref.seq(), v.word, w); err != nil {
		return v, err
	}
	if v.word.state().final() {
		l.pending.Add(1)
	}
	v.word = w
	return v, nil
}

// reopen replaces the word of a slot, final until now, by one that is not. Its segment is mapped again if it was retired; under mu it cannot
// be retired meanwhile.
func (j *journal) reopen(seq uint64, old, new word) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.mapAgainLocked(seq >> segmentSlotsLog2); err != nil {
		return err
	}
	seg := j.table.Load().at(seq >> segmentSlotsLog2)
	if !seg.slots[seq&(segmentSlots-1)].word.CompareAndSwap(uint64(old), uint64(new)) {
		return &refusal{409, "the payment has changed meanwhile: nothing was done"}
	}
	if old.state().final() && !new.state().final() {
		seg.finals.Add(-1)
	}
	seg.soil()
	return nil
}

// mapAgain brings a retired segment back into the table.
func (j *journal) mapAgain(number uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mapAgainLocked(number)
}

func (j *journal) mapAgainLocked(number uint64) error {
	if j.table.Load().at(number) != nil {
		return nil
	}
	at := slices.IndexFunc(j.retired, func(r retiredSegment) bool { return r.number == number })
	if at < 0 || j.retired[at].purged {
		return &refusal{409, "the payment's segment is gone, or was forgotten by a purge: nothing was done"}
	}
	seg, err := openSegment(j.dir, j.id, number)
	if err != nil {
		return err
	}
	seg.bringIn()
	seg.ids = newIDIndex()
	var losers []uint32
	for i := range seg.slots {
		s := &seg.slots[i]
		switch w := s.load(); {
		case w == 0 || !s.intact(w, seg.first()+uint64(i), j.seed):
		case w.state().loser():
			losers = append(losers, uint32(i))
		default:
			seg.ids.insert(seg.slots, uint32(i), indexHash(&s.id))
		}
	}
	seg.indexLosers(losers)
	seg.finals.Store(segmentSlots) // that is why it was retired
	seg.holesBelow = seg.first() + segmentSlots
	seg.head.finalSince.Store(0) // from here on a start scans it again
	seg.soil()
	j.putBack(seg)
	j.retired = slices.Delete(j.retired, at, at+1)
	return nil
}

// putBack enters a segment into the table wherever its number belongs. The caller holds mu.
func (j *journal) putBack(seg *segment) {
	old := j.table.Load()
	t := &segmentTable{first: min(old.first, seg.number)}
	if len(old.list) == 0 {
		t.first = seg.number
	}
	end := max(old.end(), seg.number+1)
	if len(old.list) == 0 {
		end = seg.number + 1
	}
	for n := t.first; n < end; n++ {
		t.list = append(t.list, old.at(n))
	}
	t.list[seg.number-t.first] = seg
	j.table.Store(t)
}

// noteRequeue remembers for good that the slot is, or may be, queued again: how far the store says to have everything of this journal no
// longer speaks for it.
func (j *journal) noteRequeue(seq uint64) error {
	from := j.head.requeued.Load()
	if from == 0 || seq+1 < from {
		from = seq + 1
	}
	j.head.requeued.Store(from) // whatever it was: a sync that failed before has left it unwritten, and the next one would not know
	if !j.durable {
		return nil
	}
	if err := unix.Fdatasync(int(j.lock.Fd())); err != nil {
		return fmt.Errorf("cannot sync the head of journal %s: %w", j.id, err)
	}
	return nil
}

// requeuedFrom is the lowest sequence that was ever queued again. A replay starts there at the latest; what is older than RETENTION
// is gone from it by itself.
func (j *journal) requeuedFrom() uint64 {
	if from := j.head.requeued.Load(); from != 0 {
		return from - 1
	}
	return math.MaxUint64
}

// maybeRequeued says that an unsettled slot may have been rejected before: then a store that was brought back from an older copy may
// still say so. How often it was sent does not tell: a slot that was damaged meanwhile does not know it any more.
func (j *journal) maybeRequeued(v slotView) bool {
	st := v.word.state()
	return (st == slotAccepted || st == slotLeaving || st == slotSent) && v.ref.seq() >= j.requeuedFrom()
}

// seize takes a pinned payment out of the resolver's hands: from then on no attempt of it is out, and none is made, until schedule gives
// it back. While one is out it waits for its outcome. It is false when there is nothing to seize any more, or ctx has ended.
func (r *resolver) seize(ctx context.Context, ref ref) (pin, bool) {
	const look = 20 * time.Millisecond // a pin whose try was in vain rests for 100 ms at least
	for ctx.Err() == nil {
		if p, ok := r.unschedule(ref); ok {
			return p, true
		}
		if v, ok := r.ledger.read(ref); !ok || v.word.state() != slotSent {
			return pin{}, false
		}
		pause(ctx, look)
	}
	return pin{}, false
}

// unschedule removes a payment's pin, if it is not being tried right now.
func (r *resolver) unschedule(ref ref) (pin, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.IndexFunc(r.pins, func(p pin) bool { return p.ref == ref })
	if at < 0 {
		return pin{}, false
	}
	return heap.Remove(&r.pins, at).(pin), true
}

// pinnedAt is how many payments are pinned to one processor and wait for their next try.
func (r *resolver) pinnedAt(id processorID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, p := range r.pins {
		n += oneIf(p.at == id)
	}
	return n
}
