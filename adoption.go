package main

import (
	"errors"
	"slices"
)

// This file is about how journals come to a ledger: those that carry its name, and those that nobody has any more.

// takeOwn takes the free journals that carry our name. There is more than one when we were killed and our journal was taken over
// for a while. One is appended to (see freshest), the others are only finished.
func (l *ledger) takeOwn() (found, error) {
	own, failed := l.claimAll(func(h *journalHead) bool { return h.madeBy() == l.folder.instance })
	var all found
	var mine []*journal
	var finds []found
	for _, j := range own {
		f, err := l.recover(j)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		mine, finds = append(mine, j), append(finds, f)
	}
	best := freshest(mine)
	for i, j := range mine {
		l.add(j, finds[i], j == best)
		all.join(finds[i])
	}
	return all, failed
}

// take reads a journal that was just claimed, in order to finish it.
func (l *ledger) take(j *journal) (found, error) {
	f, err := l.recover(j)
	if err == nil {
		l.add(j, f, false)
	}
	return f, err
}

// recover gives a journal that was just claimed its number, and reads what is in it. One that cannot be read is given back.
func (l *ledger) recover(j *journal) (found, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	numbered := slices.Clone(*l.numbered.Load())
	j.number = len(numbered)
	f, err := j.recover()
	if err != nil {
		return found{}, errors.Join(err, j.close())
	}
	numbered = append(numbered, j)
	l.numbered.Store(&numbered)
	return f, nil
}

// freshest is the journal to append to among those with our name: the one that changed last, of those in which a segment has room
// as long as there is one. nil if there is none.
func freshest(list []*journal) *journal {
	var best *journal
	var bestRoom bool
	var bestNewest micros
	for _, j := range list {
		room, newest := j.next.Load() < j.limit.Load(), j.newestChange()
		if best == nil || room && !bestRoom || room == bestRoom && newest > bestNewest {
			best, bestRoom, bestNewest = j, room, newest
		}
	}
	return best
}

// newestChange is about when a journal that was just recovered has last changed: when its newest payment was accepted, or its newest
// segment was retired; 0 if it is empty.
func (j *journal) newestChange() micros {
	var newest micros
	for _, r := range j.retired {
		newest = max(newest, r.since)
	}
	table := j.table.Load()
	for i := len(table.list) - 1; i >= 0; i-- {
		seg := table.list[i]
		if seg == nil {
			continue
		}
		for k := len(seg.slots) - 1; k >= 0; k-- {
			if s := &seg.slots[k]; s.load() != 0 && s.intact(s.load(), seg.first()+uint64(k), j.seed) {
				return max(newest, s.acceptedAt)
			}
		}
	}
	return newest
}
