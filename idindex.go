package main

import (
	"encoding/binary"
	"sync/atomic"
)

// idIndex finds a segment's slots by payment id: open addressing, one 32-bit entry per slot at half load at most. Each
// segment has its own, so that an index never grows, never deletes and goes away whole together with its segment.
//
// An entry is 0, or the slot's position plus one (17 bits) under a fingerprint of the id (15 bits). It is put there by one
// CAS after the slot was published, so whoever finds an entry finds the slot's fixed part written.
type idIndex []atomic.Uint32

const (
	indexSize         = 2 * segmentSlots
	indexPositionBits = segmentSlotsLog2 + 1
	indexPositionMask = 1<<indexPositionBits - 1
)

func newIDIndex() idIndex { return make(idIndex, indexSize) }

// indexHash mixes all of the id: version 1 and 7 identifiers share long runs of their bytes.
func indexHash(id *paymentID) uint64 {
	h := binary.LittleEndian.Uint64(id[0:8])*0x9e3779b97f4a7c15 ^ binary.LittleEndian.Uint64(id[8:16])
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

// insert adds the slot at position unless its id is there; then it returns the position of the one that is.
func (x idIndex) insert(slots []slot, position uint32, hash uint64) (existing uint32, inserted bool) {
	entry := uint32(hash>>32)<<indexPositionBits | position + 1
	for i := hash & (indexSize - 1); ; i = (i + 1) & (indexSize - 1) {
		found := x[i].Load()
		if found == 0 {
			if x[i].CompareAndSwap(0, entry) {
				return position, true
			}
			found = x[i].Load() // somebody was quicker: look at what is there now
		}
		if found>>indexPositionBits == entry>>indexPositionBits {
			if at := found&indexPositionMask - 1; slots[at].id == slots[position].id {
				return at, at == position
			}
		}
	}
}

// find returns the position of the slot with this id.
func (x idIndex) find(slots []slot, id *paymentID, hash uint64) (uint32, bool) {
	want := uint32(hash>>32) << indexPositionBits
	for i := hash & (indexSize - 1); ; i = (i + 1) & (indexSize - 1) {
		found := x[i].Load()
		if found == 0 {
			return 0, false
		}
		if found&^indexPositionMask == want {
			if at := found&indexPositionMask - 1; slots[at].id == *id {
				return at, true
			}
		}
	}
}
