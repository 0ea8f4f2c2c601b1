package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/gomodule/redigo/redis"
)

// heardLife is for how long a journal's word holds that the store has all it holds as paid. It is given at every heartbeat of its
// owner, so that two may be late, and is over before what was sent after it can fall into a window that ends 1.5 s ago. What was sent before
// it, and answered after it, may be missing for as long.
const heardLife = 1500 * time.Millisecond

// unheardError says that a journal may hold a payment that was paid and that the store does not know of: its owner is gone or cut off from
// the store, and nobody has taken it over yet.
type unheardError struct {
	journal string
	since   time.Duration
}

func (e unheardError) Error() string {
	return fmt.Sprintf("journal %s has not been heard of for %v", e.journal, e.since)
}

// checkHeard looks at what the store has last heard of each journal, and when, by the store's own clock (see luaReport). A journal that it
// has never heard of has never paid anything: that takes a life that is ready, and a life is ready when all journals have reported.
func checkHeard(journals []string, replies []any) error {
	clock, err := redis.Int64s(replies[0], nil) // seconds, and microseconds
	if err == nil && len(clock) != 2 {
		err = fmt.Errorf("%d numbers", len(clock))
	}
	if err != nil {
		return fmt.Errorf("cannot read the store's clock: %w", err)
	}
	words, err := redis.Strings(replies[1], nil)
	if err != nil {
		return fmt.Errorf("cannot read what was heard of the journals: %w", err)
	}
	for i, word := range words {
		if word == "" || word == heardLeft {
			continue
		}
		at, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return fmt.Errorf("cannot read what was heard of journal %s: %w", journals[i], err)
		}
		since := time.Duration(clock[0]*1000+clock[1]/1000-at) * time.Millisecond
		if since.Abs() > heardLife { // the store's clock may have been set back since
			return unheardError{journals[i], since}
		}
	}
	return nil
}

// journalsAtRest lists the journals of this process of which Redis has all that was paid, and all that will be until their owner has been
// heard of again.
func (l *ledger) journalsAtRest() []string {
	var names []string
	for _, j := range *l.journals.Load() {
		if j.atRest() {
			names = append(names, j.id.String())
		}
	}
	return names
}

// atRest says that nothing in the journal may be paid already, or be found paid at a processor: that takes no Redis.
func (j *journal) atRest() bool {
	side := j.readers.enter()
	defer j.readers.leave(side)
	for _, seg := range j.table.Load().list {
		if seg == nil {
			continue
		}
		for i := range seg.slots {
			switch w := seg.slots[i].load(); w.state() {
			case slotLeaving, slotSent, slotPaid:
				return false
			case slotFree: // damaged, if it was ever published
				if w != 0 {
					return false
				}
			case slotAccepted:
				if j.doubts.has(seg.first() + uint64(i)) {
					return false
				}
			case slotInvalid, slotSettled, slotPurged, slotRejected, slotElsewhere, slotDuplicate, slotConflict, slotSetAside, slotStates:
			}
		}
	}
	return true
}
