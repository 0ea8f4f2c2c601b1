package main

import "sync"

// doubtSet is the sequences of a journal whose payments read accepted and may be out, or paid, all the same: accepted before the host
// went down, when a later state may not have reached the disk, or claimed late (see ledger.late). Until both processors have said that they do not know such a
// payment it is claimed in each new life of the store, as one that is out: or the same id could be paid through another slot.
type doubtSet struct {
	mu  sync.Mutex
	set map[uint64]struct{}
}

func (d *doubtSet) add(seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.set == nil {
		d.set = make(map[uint64]struct{})
	}
	d.set[seq] = struct{}{}
}

func (d *doubtSet) remove(seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.set, seq)
}

func (d *doubtSet) has(seq uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.set[seq]
	return ok
}
