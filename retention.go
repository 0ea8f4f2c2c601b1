package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// slackShare is how much of RETENTION everything is kept beyond it. A repeat of an id that comes at the end of RETENTION is recognised by
// the record of the first payment when it is claimed, which is later: this is how much later that may be. A sixteenth takes little
// room, and at 24 hours it is longer than most outages.
const slackShare = 16

// keptFrom is the instant from which on everything is kept: segments that were settled since, and records that are newer.
func (l *ledger) keptFrom() micros {
	return nowMicros() - micros((l.retention + l.retention/slackShare).Microseconds())
}

// late says that the record of an earlier payment with the same id may be gone by now, though that was within RETENTION when this
// one was accepted: then the store cannot tell whether it is a repeat. Half of what is kept beyond RETENTION is left to clocks that differ
// or were stepped; what seems to have been accepted in the future counts as late, since nobody knows how long ago it was.
func (l *ledger) late(v slotView) bool {
	waited := l.clock.now() - v.acceptedAt
	return waited < 0 || waited > micros((l.retention/slackShare/2).Microseconds())
}

// ownerless says that the slot which a claim names has gone with its segment, by age: it was final, and nobody will ever free the
// claim. What was accepted lately is never taken for gone, nor is anything while our own journal is not where it was.
func (l *ledger) ownerless(c record) bool {
	if c.acceptedAt >= l.keptFrom() {
		return false
	}
	if _, err := os.Stat(l.active.dir); err != nil {
		return false
	}
	dir := filepath.Join(l.folder.path, c.journal+journalSuffix)
	_, err := os.Stat(segmentPath(dir, c.seq>>segmentSlotsLog2))
	return errors.Is(err, os.ErrNotExist)
}

type retiredSegment struct {
	number uint64
	since  micros // when everything in it was found to be final, which it may be long after it was accepted
	purged bool
}

// retire takes the segments in which everything is final out of the table and unmaps them.
func (j *journal) retire() error {
	if j.searching.Load() {
		return nil
	}
	for _, seg := range j.table.Load().list {
		if seg == nil || seg.finals.Load() < segmentSlots || seg.number >= j.next.Load()>>segmentSlotsLog2 {
			continue
		}
		if err := j.retireSegment(seg); err != nil {
			return err
		}
	}
	return nil
}

func (j *journal) retireSegment(seg *segment) error {
	j.mu.Lock()
	defer j.mu.Unlock() // a purge must find it in the table or among the retired
	if seg.finals.Load() < segmentSlots {
		return nil // something in it was queued again meanwhile
	}
	if j.durable { // or the head might outlive a word that it speaks for
		if err := seg.toDisk(); err != nil {
			return err
		}
	}
	since := nowMicros()
	if seg.empty() {
		since = 1 // nobody will ever ask for it: it goes at once
	}
	seg.head.finalSince.Store(int64(since))
	old := j.table.Load()
	t := &segmentTable{first: old.first, list: slices.Clone(old.list)}
	t.list[seg.number-t.first] = nil
	for len(t.list) > 0 && t.list[0] == nil {
		t.list, t.first = t.list[1:], t.first+1
	}
	j.table.Store(t)
	j.readers.drain()
	j.retired = append(j.retired, retiredSegment{number: seg.number, since: since})
	if err := seg.unmap(); err != nil {
		return fmt.Errorf("cannot unmap %s: %w", seg.path, err)
	}
	return nil
}

// drop removes the retired segments that are chosen.
func (j *journal) drop(chosen func(retiredSegment) bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var failed error
	j.retired = slices.DeleteFunc(j.retired, func(r retiredSegment) bool {
		if !chosen(r) {
			return false
		}
		if err := os.Remove(segmentPath(j.dir, r.number)); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = fmt.Errorf("cannot remove a segment: %w", err)
			return false
		}
		return true
	})
	return failed
}

// eachRetired visits the slots of the segments that are no longer mapped, from a sequence on. What was settled in a segment that a
// purge forgot is shown as purged. Slots that were damaged since they were settled are reported, here for the first time, and counted.
func (j *journal) eachRetired(from uint64, visit func(v slotView)) (damaged int, err error) {
	j.mu.Lock()
	retired := slices.Clone(j.retired)
	j.mu.Unlock()
	for _, r := range retired {
		if (r.number+1)<<segmentSlotsLog2 <= from {
			continue
		}
		seg, err := openSegment(j.dir, j.id, r.number)
		if errors.Is(err, os.ErrNotExist) {
			continue // its time has come meanwhile
		}
		if errors.Is(err, errDamaged) { // the next start repairs it; nothing may wait for that
			j.log.Error("settled payments cannot be replayed", "error", err)
			continue
		}
		if err != nil {
			return damaged, err
		}
		seg.bringIn()
		n := eachSlot(j, seg, from, func(v slotView) {
			if s := v.word.state(); r.purged && (s == slotSettled || s == slotRejected) {
				v.word = v.word.with(slotPurged)
			}
			visit(v)
		})
		if damaged += n; n > 0 {
			j.log.Error("settled payments are damaged: a store that lacks them is not given them back (galo journal verify names them)", "path", seg.path, "slots", n)
		}
		if err := seg.unmap(); err != nil {
			return damaged, fmt.Errorf("cannot unmap %s: %w", seg.path, err)
		}
	}
	return damaged, nil
}

// purge forgets what is settled, and remembers the mark. The settler calls it, between two batches, so that no settle is
// under way under the old mark.
func (j *journal) purge(mark uint64) error {
	if j.head.mark.Load() >= mark {
		return nil
	}
	j.head.purging.Store(mark) // what is begun is finished, whatever comes: see recover
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, r := range j.retired {
		if r.purged {
			continue
		}
		seg, err := openSegment(j.dir, j.id, r.number)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errDamaged) {
			return err
		}
		if err == nil {
			seg.head.purged.Store(1)
			if err := errors.Join(j.syncBeforeMark(seg), seg.unmap()); err != nil {
				return fmt.Errorf("cannot purge %s: %w", seg.path, err)
			}
		}
		j.retired[i].purged = true
	}
	for _, seg := range j.table.Load().list {
		if seg == nil {
			continue
		}
		seg.forget()
		if err := j.syncBeforeMark(seg); err != nil {
			return err
		}
	}
	j.head.mark.Store(mark)
	if j.durable && j.lock != nil {
		if err := unix.Fdatasync(int(j.lock.Fd())); err != nil {
			return fmt.Errorf("cannot sync the purge mark: %w", err)
		}
	}
	return nil
}

// forget makes what is settled or rejected read as purged.
func (s *segment) forget() {
	for i := range s.slots {
		s := &s.slots[i]
		if w := s.load(); w.state() == slotSettled || w.state() == slotRejected {
			s.word.CompareAndSwap(uint64(w), uint64(w.with(slotPurged)))
		}
	}
}

// syncBeforeMark: the purge mark must not reach the disk before what it speaks for, or settled history would come back.
func (j *journal) syncBeforeMark(seg *segment) error {
	if !j.durable {
		return nil
	}
	return seg.toDisk()
}
