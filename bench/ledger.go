package main

import (
	"sync"

	"github.com/google/uuid"
)

// written is one payment as a processor has it.
type written struct {
	id          uuid.UUID
	amount      cents
	requestedAt int64 // microseconds since the Unix epoch
}

// A ledger is what one processor has written, in the order of writing.
type ledger struct {
	mu      sync.Mutex
	entries []written // only ever appended to: a slice read under the lock stays true without it
	byID    map[uuid.UUID]int
}

// write adds a payment unless its id is there already, and says whether it did.
func (l *ledger) write(w written) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.byID[w.id]; there {
		return false
	}
	if l.byID == nil {
		l.byID = make(map[uuid.UUID]int)
	}
	l.byID[w.id] = len(l.entries)
	l.entries = append(l.entries, w)
	return true
}

func (l *ledger) find(id uuid.UUID) (written, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, there := l.byID[id]
	if !there {
		return written{}, false
	}
	return l.entries[i], true
}

// all is every entry up to now. The caller must not change it.
func (l *ledger) all() []written {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries
}

func (l *ledger) purge() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.byID = nil, nil
}

// total is a number of payments and what they sum up to.
type total struct {
	requests int64
	amount   cents
}

// within adds up the entries requested from one instant to another, both included, as SQL's BETWEEN does.
func within(entries []written, from, to int64) total {
	var t total
	for i := range entries {
		if at := entries[i].requestedAt; at >= from && at <= to {
			t.requests++
			t.amount += entries[i].amount
		}
	}
	return t
}
