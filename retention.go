package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

type retiredSegment struct {
	number uint64
	newest micros // the newest acceptedAt in it
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
	var newest micros
	for i := range seg.slots {
		switch w := seg.slots[i].load(); {
		case w == wordSetAside:
			newest = max(newest, nowMicros()) // when it was accepted is not known
		case w != 0:
			newest = max(newest, seg.slots[i].acceptedAt)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock() // a purge must find it in the table or among the retired
	if seg.finals.Load() < segmentSlots {
		return nil // something in it was queued again meanwhile
	}
	if j.durable { // or the head might outlive a word that it speaks for
		if err := unix.Fdatasync(int(seg.file.Fd())); err != nil {
			return fmt.Errorf("cannot sync %s: %w", seg.path, err)
		}
	}
	seg.head.newest.Store(int64(newest) + 1)
	old := j.table.Load()
	t := &segmentTable{first: old.first, list: slices.Clone(old.list)}
	t.list[seg.number-t.first] = nil
	for len(t.list) > 0 && t.list[0] == nil {
		t.list, t.first = t.list[1:], t.first+1
	}
	j.table.Store(t)
	j.readers.drain()
	j.retired = append(j.retired, retiredSegment{number: seg.number, newest: newest})
	if err := seg.unmap(); err != nil {
		return fmt.Errorf("cannot unmap %s: %w", seg.path, err)
	}
	return nil
}

// expire removes the retired segments in which nothing is newer than oldest.
func (j *journal) expire(oldest micros) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var failed error
	j.retired = slices.DeleteFunc(j.retired, func(r retiredSegment) bool {
		if r.newest >= oldest {
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

// eachRetired visits the slots of the segments that are no longer mapped, from a sequence on, leaving out what was accepted
// before oldest. What was settled in a segment that a purge forgot is shown as purged. Slots that were damaged since they were
// settled are reported, here for the first time, and counted.
func (j *journal) eachRetired(from uint64, oldest micros, visit func(v slotView)) (damaged int, err error) {
	j.mu.Lock()
	retired := slices.Clone(j.retired)
	j.mu.Unlock()
	for _, r := range retired {
		if r.newest < oldest || (r.number+1)<<segmentSlotsLog2 <= from {
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
	if err := unix.Fdatasync(int(seg.file.Fd())); err != nil {
		return fmt.Errorf("cannot sync %s: %w", seg.path, err)
	}
	return nil
}
