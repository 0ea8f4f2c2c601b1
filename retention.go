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
		if seg.slots[i].load() != 0 {
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

// eachRetired visits the slots of the segments that are no longer mapped, from a sequence on, leaving out what a purge forgot
// and what was accepted before oldest.
func (j *journal) eachRetired(from uint64, oldest micros, visit func(v slotView)) error {
	j.mu.Lock()
	retired := slices.Clone(j.retired)
	j.mu.Unlock()
	for _, r := range retired {
		if r.purged || r.newest < oldest || (r.number+1)<<segmentSlotsLog2 <= from {
			continue
		}
		seg, err := openSegment(j.dir, j.id, r.number)
		if errors.Is(err, os.ErrNotExist) {
			continue // its time has come meanwhile
		}
		if err != nil {
			return err
		}
		eachSlot(j, seg, from, visit)
		if err := seg.unmap(); err != nil {
			return fmt.Errorf("cannot unmap %s: %w", seg.path, err)
		}
	}
	return nil
}

// purge forgets what is settled, and remembers the mark. The settler calls it, between two batches, so that no settle is
// under way under the old mark.
//
// now is stored first, before anybody can learn the new mark: who claims under that mark sees it.
func (j *journal) purge(mark uint64, now micros) error {
	if j.head.mark.Load() >= mark {
		return nil
	}
	j.head.purgedAt.Store(int64(now))
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, r := range j.retired {
		if r.purged {
			continue
		}
		seg, err := openSegment(j.dir, j.id, r.number)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err == nil {
			seg.head.purged.Store(1)
			if err := seg.unmap(); err != nil {
				return fmt.Errorf("cannot unmap %s: %w", seg.path, err)
			}
		}
		j.retired[i].purged = true
	}
	for _, seg := range j.table.Load().list {
		if seg == nil {
			continue
		}
		for i := range seg.slots {
			s := &seg.slots[i]
			if w := s.load(); w.state() == slotSettled || w.state() == slotRejected {
				s.word.CompareAndSwap(uint64(w), uint64(w.with(slotPurged)))
			}
		}
	}
	j.head.mark.Store(mark)
	return nil
}

// purgedAt is when settled history was last forgotten here.
func (j *journal) purgedAt() micros { return micros(j.head.purgedAt.Load()) }
