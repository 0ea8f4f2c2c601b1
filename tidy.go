package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// This file is about what leaves DATA_DIR: segments that are settled and old, or too many, and journals that are finished.

const (
	removedSuffix = ".removed"
	newSuffix     = ".new"
)

// tidy retires what is final, and removes what is too old, too much, or finished.
func (l *ledger) tidy() error {
	oldest := l.keptFrom()
	for _, j := range *l.journals.Load() {
		if err := j.retire(); err != nil {
			return err
		}
		if err := j.drop(func(r retiredSegment) bool { return r.since < oldest }); err != nil {
			return err
		}
	}
	if err := l.shrink(); err != nil {
		return err
	}
	for _, j := range *l.journals.Load() {
		if j == l.active || !j.finished() {
			continue
		}
		if err := l.dismiss(j); err != nil {
			return err
		}
	}
	return nil
}

// minimumAge is how long a retired segment stays, however much there is: a Redis that is killed comes back without its last second, and
// is told of it again from here.
const minimumAge = 5 * time.Minute

// shrink removes settled segments, those that were retired first before others, until our journals are within maxBytes, or all that is
// left is in use, or was until lately.
func (l *ledger) shrink() error {
	if l.maxBytes == 0 {
		return nil
	}
	young := nowMicros() - micros(minimumAge.Microseconds())
	for l.bytes() > l.maxBytes {
		var from *journal
		var oldest retiredSegment
		for _, j := range *l.journals.Load() {
			if r, ok := j.oldestRetired(); ok && r.since <= young && (from == nil || r.since < oldest.since) {
				from, oldest = j, r
			}
		}
		if from == nil {
			return nil
		}
		if err := from.drop(func(r retiredSegment) bool { return r.number == oldest.number }); err != nil {
			return err
		}
	}
	return nil
}

// bytes is what the segments of our journals take up on the disk.
func (l *ledger) bytes() int64 {
	mapped, retired := l.segmentCounts()
	return int64(mapped+retired) * segmentBytes
}

func (l *ledger) segmentCounts() (mapped, retired int) {
	for _, j := range *l.journals.Load() {
		m, r := j.segmentCounts()
		mapped, retired = mapped+m, retired+r
	}
	return mapped, retired
}

// segmentCounts is how many segments the journal has, mapped and retired.
func (j *journal) segmentCounts() (mapped, retired int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, seg := range j.table.Load().list {
		if seg != nil {
			mapped++
		}
	}
	return mapped, len(j.retired)
}

// oldestUnsettled is how long ago the payment was accepted that is unsettled for the longest; 0 if there is none. Each journal is read up to
// its first unsettled slot: those come in the order of acceptance, but for what raced.
func (l *ledger) oldestUnsettled() time.Duration {
	if l.pending.Load() == 0 {
		return 0
	}
	var oldest micros
	for _, j := range *l.journals.Load() {
		if at := j.firstUnsettled(); at != 0 {
			oldest = earlier(oldest, at)
		}
	}
	if oldest == 0 {
		return 0
	}
	return l.clock.since(oldest)
}

// firstUnsettled is the acceptedAt of the first slot that is not final; 0 if all are.
func (j *journal) firstUnsettled() micros {
	side := j.readers.enter()
	defer j.readers.leave(side)
	for _, seg := range j.table.Load().list {
		if seg == nil || seg.finals.Load() == segmentSlots {
			continue
		}
		for i := range seg.slots {
			if w := seg.slots[i].load(); w.valid() && !w.state().final() {
				return seg.slots[i].acceptedAt
			}
		}
	}
	return 0
}

// oldestRetired is the segment that was retired first.
func (j *journal) oldestRetired() (oldest retiredSegment, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.retired {
		if !ok || r.since < oldest.since {
			oldest, ok = r, true
		}
	}
	return oldest, ok
}

// finished says that nothing is left of a journal that is not appended to.
func (j *journal) finished() bool {
	mapped, retired := j.segmentCounts()
	return mapped+retired == 0
}

// dismiss removes a finished journal for good. Its lock is held until it is gone: whoever opened it meanwhile finds after locking that
// the name is no longer there (see folder.claim). Its number is never given to another one, so that an old ref finds nothing.
func (l *ledger) dismiss(j *journal) error {
	if j.head.mark.Load() > l.active.head.mark.Load() {
		return nil // it alone remembers this purge
	}
	gone := j.dir + removedSuffix
	if err := os.Rename(j.dir, gone); err != nil {
		return fmt.Errorf("cannot remove a finished journal: %w", err)
	}
	l.mu.Lock()
	kept := make([]*journal, 0, len(*l.journals.Load()))
	for _, other := range *l.journals.Load() {
		if other != j {
			kept = append(kept, other)
		}
	}
	l.journals.Store(&kept)
	l.mu.Unlock()
	j.log.Info("journal finished and removed", "made_by", j.head.madeBy())
	// The head stays mapped: somebody may hold the list as it was.
	return errors.Join(os.RemoveAll(gone), j.unlock())
}

// halfMadeAge is how long a journal without a name is left alone: somebody may be making it, which takes milliseconds.
const halfMadeAge = time.Minute

// clearLeftovers removes what a process did not live to finish: journals that were being removed, and journals that were being
// made and never held a payment.
func (f *folder) clearLeftovers() error {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return fmt.Errorf("cannot list the journals: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), journalSuffix+removedSuffix) || halfMade(e) {
			if err := os.RemoveAll(filepath.Join(f.path, e.Name())); err != nil {
				return fmt.Errorf("cannot remove what is left of a journal: %w", err)
			}
		}
	}
	return nil
}

func halfMade(e os.DirEntry) bool {
	if !strings.HasSuffix(e.Name(), journalSuffix+newSuffix) {
		return false
	}
	info, err := e.Info()
	return err == nil && time.Since(info.ModTime()) > halfMadeAge
}
