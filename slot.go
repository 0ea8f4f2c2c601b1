package main

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

// A slot is one accepted payment in the journal: one cache line of a mapped file.
//
// The fixed part (seq to acceptedAt, and the checksum over it) is written once, by the intake handler that reserved the
// slot, before the word is stored for the first time; that store publishes it. From then on only the word changes, always
// by one atomic operation, so that a crash leaves either the old or the new state and never a mixture.
type slot struct {
	word       atomic.Uint64 // a word; 0 until published. Orders everything else in the slot
	seq        uint64        // position in the journal; a slot that carries another one is damaged
	id         paymentID
	amount     cents
	acceptedAt micros // by the process clock, see clock.go
	// booked is what a processor's look-up gave, where it is not what we sent: see foreign. It is stored before the word
	// that carries the foreign flag, and read only where that flag is set.
	booked    atomic.Uint64
	sum       uint32        // checksum over seq, id, amount and acceptedAt, seeded with the journal's id
	bookedSum atomic.Uint32 // checksum over booked and seq
}

const slotSize = 64

// slotState is where a payment stands. The numbers are on disk: append only.
type slotState uint8

const (
	slotFree      slotState = iota // never published; not a payment
	slotAccepted                   // may be sent to either processor
	slotSent                       // an attempt is out, or its answer is unknown: pinned to its processor after a crash
	slotPaid                       // the processor has it; Redis may not
	slotSettled                    // final: in Redis
	slotPurged                     // final: was settled, then forgotten by a purge; never replayed
	slotInvalid                    // the processor will never take it; Redis does not know yet
	slotRejected                   // final: as slotInvalid, and in Redis
	slotElsewhere                  // another slot holds the claim on this id, and is not final yet
	slotDuplicate                  // final: the id was paid or rejected through another slot
	slotConflict                   // final: as slotDuplicate, but the amounts differ
	slotLeaving                    // as slotAccepted, with an attempt chosen that has certainly not gone out yet: see payer.send
	slotSetAside                   // final: was found damaged and could not be recovered; kept on disk as it was found
	slotStates                     // how many there are
)

var slotStateNames = [slotStates]string{"free", "accepted", "sent", "paid", "settled", "purged", "invalid", "rejected",
	"elsewhere", "duplicate", "conflict", "leaving", "set aside"}

func (s slotState) String() string {
	if s < slotStates {
		return slotStateNames[s]
	}
	return "damaged"
}

// final says that nothing will be done for the slot any more: it holds no room in the queue, and its segment may go.
func (s slotState) final() bool {
	switch s {
	case slotSettled, slotPurged, slotRejected, slotDuplicate, slotConflict, slotSetAside:
		return true
	case slotFree, slotAccepted, slotLeaving, slotSent, slotPaid, slotInvalid, slotElsewhere, slotStates:
		return false
	}
	return false
}

// loser says that the payment is another slot's.
func (s slotState) loser() bool { return s == slotDuplicate || s == slotConflict }

// word is the 64-bit state of a slot:
//
//	bits  0-3   state
//	bit   4     pinned: one attempt's outcome is unknown, so only this processor will ever be asked again
//	bit   5     foreign: amount and requestedAt are what the processor's look-up gave, see foreign
//	bit   6     processor
//	bits  7-11  attempts, stops at 31
//	bits 12-57  requestedAt as a signed offset from acceptedAt in microseconds (about 400 days each way)
//	bits 58-63  check bits over the rest
type word uint64

const (
	wordPinned      = 1 << 4
	wordForeign     = 1 << 5
	wordProcessor   = 1 << 6
	attemptsShift   = 7
	attemptsMask    = 31
	offsetShift     = 12
	offsetBits      = 46
	offsetMask      = (1<<offsetBits - 1) << offsetShift
	maxOffset       = 1<<(offsetBits-1) - 1
	checkShift      = 58
	wordPayloadMask = 1<<checkShift - 1
)

// checked fills in the check bits. They fold the payload into six bits, so that every flip of one bit is seen.
func (w word) checked() word {
	x := uint64(w) & wordPayloadMask
	x ^= x >> 30
	x ^= x>>6 ^ x>>12 ^ x>>18 ^ x>>24
	return word(uint64(w)&wordPayloadMask | x&63<<checkShift)
}

func (w word) valid() bool {
	return w == w.checked() && w.state() < slotStates && w.state() != slotFree
}

func (w word) state() slotState { return slotState(w & 15) }
func (w word) pinned() bool     { return w&wordPinned != 0 }
func (w word) foreign() bool    { return w&wordForeign != 0 }
func (w word) attempts() int    { return int(w >> attemptsShift & attemptsMask) }

func (w word) processor() processorID {
	if w&wordProcessor != 0 {
		return onFallback
	}
	return onDefault
}

func (w word) offset() int64 {
	const up = 64 - offsetShift - offsetBits
	return int64(w<<up) >> (up + offsetShift)
}

// with returns the word in another state, everything else as it is.
func (w word) with(s slotState) word { return (w&^15 | word(s)).checked() }

// pin marks that an attempt's outcome is unknown. Only an operator's word takes the mark away again while the slot is sent.
func (w word) pin() word { return (w | wordPinned).checked() }

// unpin takes the mark away, on an operator's word that the attempt has not landed and never will.
func (w word) unpin() word { return (w &^ wordPinned).checked() }

// at returns the word with the processor and the requestedAt of a slot that was accepted at acceptedAt. What galo stamps
// itself always fits.
func (w word) at(p processorID, acceptedAt, requestedAt micros) word {
	offset := min(max(int64(requestedAt-acceptedAt), -maxOffset), maxOffset)
	w = w&^(offsetMask|wordProcessor) | word(offset)<<offsetShift&offsetMask
	if p == onFallback {
		w |= wordProcessor
	}
	return w.checked()
}

// foreign is an amount and a requestedAt that a processor has booked and that are not ours: it had the id already, maybe
// from years ago. The offset's lower 45 bits go into the word as ever, the upper ones with the amount (40 bits) into booked.
const (
	bookedAmountBits = 40
	bookedOffsetBits = offsetBits - 1
)

func (w word) foreignAt(p processorID, amount cents, acceptedAt, requestedAt micros) (_ word, booked uint64) {
	offset := int64(requestedAt - acceptedAt)
	low := offset & (1<<bookedOffsetBits - 1)
	w = w.at(p, acceptedAt, acceptedAt+micros(low)) | wordForeign
	return w.checked(), uint64(offset>>bookedOffsetBits)<<bookedAmountBits | uint64(amount)
}

// attempted counts one more attempt.
func (w word) attempted() word {
	if w.attempts() < attemptsMask {
		w += 1 << attemptsShift
	}
	return w.checked()
}

func (s *slot) load() word { return word(s.word.Load()) }

// requestedAt is the instant under which the payment was, or is being, sent.
func (s *slot) requestedAt(w word) micros {
	offset := w.offset()
	if w.foreign() {
		offset += int64(s.booked.Load()) >> bookedAmountBits << bookedOffsetBits
	}
	return s.acceptedAt + micros(offset)
}

// paidAmount is what the processor has booked.
func (s *slot) paidAmount(w word) cents {
	if w.foreign() {
		return cents(s.booked.Load() & (1<<bookedAmountBits - 1))
	}
	return s.amount
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the fixed part; seed is the journal's, so that a block of another journal is seen as damage. The bytes
// are taken where they lie: a copy would escape to the heap through crc32's function variable.
func (s *slot) checksum(seed uint32) uint32 {
	const length = unsafe.Offsetof(s.booked) - unsafe.Offsetof(s.seq)
	fixed := unsafe.Slice((*byte)(unsafe.Pointer(&s.seq)), length)
	return crc32.Update(seed, castagnoli, fixed)
}

// bookedChecksum covers a value of booked, bound to its slot. It is off the hot path.
func (s *slot) bookedChecksum(booked uint64) uint32 {
	b := binary.LittleEndian.AppendUint64(nil, booked)
	return crc32.Checksum(binary.LittleEndian.AppendUint64(b, s.seq), castagnoli)
}

// intact says that a published slot is what was once written.
func (s *slot) intact(w word, seq uint64, seed uint32) bool {
	if w.foreign() && s.bookedSum.Load() != s.bookedChecksum(s.booked.Load()) {
		return false
	}
	return w.valid() && s.seq == seq && s.sum == s.checksum(seed)
}
