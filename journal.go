package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ref names one slot in this process: the journal's number here, and the slot's sequence in that journal.
type ref uint64

const refSequenceBits = 48

func makeRef(journal int, seq uint64) ref { return ref(uint64(journal)<<refSequenceBits | seq) }

func (r ref) journal() int { return int(r >> refSequenceBits) }
func (r ref) seq() uint64  { return uint64(r) & (1<<refSequenceBits - 1) }

// journalID is random, made with the journal, and names it for good, whoever owns it.
type journalID [8]byte

func (id journalID) String() string { return hex.EncodeToString(id[:]) }

// journal is a segmented, append-only log of slots in a folder of its own. One process owns it at a time (see folder.go).
//
// Intake appends: it takes a sequence below limit, writes the slot's fixed part, and publishes it by storing the word.
// Everybody else replaces words by CAS. A segment whose slots are all final is retired: out of the table, unmapped, kept on
// disk until it is older than RETENTION.
type journal struct {
	id     journalID
	name   string // of id, as claims have it
	number int    // in this process; the upper part of a ref
	dir    string
	head   *journalHead
	lock   *os.File // the head file, whose lock says that the journal is ours
	// folderLock is the journal's folder, locked as well, lest somebody take the journal for free when its head is lost. nil where
	// folders cannot be locked.
	folderLock *os.File

	boot    [16]byte
	durable bool
	seed    uint32 // of the slots' checksums
	log     *slog.Logger
	birth   func() error // makes the folder of a journal that has none yet; nil once it has. See folder.create
	rest    func()       // for whoever prepares, between the pages of a segment; nil at the start, when no client waits

	next  atomic.Uint64 // the next sequence to hand out; advanced by CAS, by intake
	_     [56]byte
	limit atomic.Uint64 // the first sequence without a segment; raised by keep. next never passes it
	_     [56]byte

	table   atomic.Pointer[segmentTable] // replaced whole, under mu
	readers guard                        // around every use of a slot that may have become final
	wanted  chan struct{}                // intake asks keep for a segment

	// searching is set by recovery when slots may have been lost without a trace, and taken back by the mender when it has looked
	// for their claims. Until then no empty slot counts as final, and no segment is retired.
	searching atomic.Bool

	mu      sync.Mutex // the table's writers and retired
	retired []retiredSegment

	doubts doubtSet

	// appendable is the sequence behind the last published slot of a journal that this process only finishes: whoever owns it
	// next may append from there, so no progress may be told beyond it. Set before anybody else knows the journal.
	appendable uint64

	// These are the settler's own.
	low        uint64    // every slot below is final
	replayedIn lifeToken // the life of Redis that holds all that is final here
	replayed   int       // how many payments that life was told of
}

// segmentTable holds the mapped segments by number; nil where one is retired.
type segmentTable struct {
	first uint64
	list  []*segment
}

func (t *segmentTable) at(number uint64) *segment {
	if number < t.first || number >= t.first+uint64(len(t.list)) {
		return nil
	}
	return t.list[number-t.first]
}

// end is the number after the last segment.
func (t *segmentTable) end() uint64 { return t.first + uint64(len(t.list)) }

// slotView is a slot as it was at one moment: a copy, good after the segment has gone.
type slotView struct {
	ref         ref
	word        word
	id          paymentID
	amount      cents // as accepted
	acceptedAt  micros
	requestedAt micros // meaningful once an attempt was made
	paidAmount  cents  // as booked by the processor
}

func (j *journal) view(r ref, s *slot, w word) slotView {
	return slotView{ref: r, word: w, id: s.id, amount: s.amount, acceptedAt: s.acceptedAt,
		requestedAt: s.requestedAt(w), paidAmount: s.paidAmount(w)}
}

// append writes a payment and publishes it. It fails only when no segment is ready (disk full, or a burst beyond what the
// background can prepare): then nothing was written. duplicateOf is valid when the id was in the same segment already, which
// happens when two requests with one id race: the new slot is final then and takes no part in anything.
func (j *journal) append(id *paymentID, amount cents, acceptedAt micros, hash uint64) (r, duplicateOf ref, full bool) {
	var seq uint64
	for {
		seq = j.next.Load()
		if seq >= j.limit.Load() {
			j.wantSegment()
			return 0, 0, true
		}
		if j.next.CompareAndSwap(seq, seq+1) {
			break
		}
	}
	if seq%(segmentSlots/2) == 0 {
		j.wantSegment()
	}
	seg := j.table.Load().at(seq >> segmentSlotsLog2)
	position := uint32(seq & (segmentSlots - 1))
	s := &seg.slots[position]
	s.seq, s.id, s.amount, s.acceptedAt = seq, *id, amount, acceptedAt
	s.sum = s.checksum(j.seed)
	accepted := word(0).with(slotAccepted)
	s.word.Store(uint64(accepted)) // published: from here on a crash does not lose it
	seg.soil()

	r = makeRef(j.number, seq)
	if at, inserted := seg.ids.insert(seg.slots, position, hash); !inserted {
		s.word.Store(uint64(accepted.with(slotDuplicate)))
		seg.finals.Add(1)
		return r, makeRef(j.number, seg.first()+uint64(at)), false
	}
	return r, r, false
}

func (j *journal) wantSegment() {
	select {
	case j.wanted <- struct{}{}:
	default:
	}
}

// read copies a slot. It is false when the slot is gone with its segment: then it was final.
func (j *journal) read(seq uint64) (slotView, bool) {
	side := j.readers.enter()
	defer j.readers.leave(side)
	seg := j.table.Load().at(seq >> segmentSlotsLog2)
	if seg == nil {
		return slotView{}, false
	}
	s := &seg.slots[seq&(segmentSlots-1)]
	w := s.load()
	if w == 0 {
		return slotView{}, false
	}
	return j.view(makeRef(j.number, seq), s, w), true
}

// find looks an id up in the mapped segments, newest first, and copies its slot into v. Those that stand ready behind the one in use
// hold nothing yet.
func (j *journal) find(id *paymentID, hash uint64, v *slotView) bool {
	side := j.readers.enter()
	defer j.readers.leave(side)
	list, next := j.table.Load().list, j.next.Load()
	for i := len(list) - 1; i >= 0; i-- {
		seg := list[i]
		if seg == nil || seg.first() >= next {
			continue
		}
		if at, ok := seg.ids.find(seg.slots, id, hash); ok {
			s := &seg.slots[at]
			*v = j.view(makeRef(j.number, seg.first()+uint64(at)), s, s.load())
			return true
		}
	}
	return false
}

// transition replaces a slot's word if it is still the old one. What was booked elsewhere is stored before the word that shows it.
func (j *journal) transition(seq uint64, old, new word, booked uint64) bool {
	side := j.readers.enter()
	defer j.readers.leave(side)
	seg := j.table.Load().at(seq >> segmentSlotsLog2)
	if seg == nil {
		return false
	}
	s := &seg.slots[seq&(segmentSlots-1)]
	if new.foreign() && !old.foreign() {
		s.booked.Store(booked)
		s.bookedSum.Store(s.bookedChecksum(booked))
	}
	if !s.word.CompareAndSwap(uint64(old), uint64(new)) {
		return false
	}
	seg.soil()
	if new.state().final() && !old.state().final() {
		seg.finals.Add(1)
	}
	return true
}

// advanceLow moves low up over slots that are final and returns it. Only the settler calls it.
func (j *journal) advanceLow() uint64 {
	side := j.readers.enter()
	defer j.readers.leave(side)
	table, next := j.table.Load(), j.next.Load()
	searching := j.searching.Load()
	for j.low < next {
		number := j.low >> segmentSlotsLog2
		seg := table.at(number)
		if seg == nil {
			if searching && number >= table.first {
				break
			}
			j.low = (j.low>>segmentSlotsLog2 + 1) << segmentSlotsLog2
			continue
		}
		w := seg.slots[j.low&(segmentSlots-1)].load()
		if w == 0 && (searching || j.low >= seg.holesBelow) || w != 0 && !w.state().final() {
			break
		}
		j.low++
	}
	return min(j.low, next, j.appendable)
}

// eachIn visits the published slots of a mapped segment from a sequence on.
func (j *journal) eachIn(number, from uint64, visit func(v slotView)) {
	side := j.readers.enter()
	defer j.readers.leave(side)
	seg := j.table.Load().at(number)
	if seg == nil {
		return
	}
	eachSlot(j, seg, from, visit)
}

// eachSlot visits the published slots of a segment from a sequence on, and says how many of them are damaged.
func eachSlot(j *journal, seg *segment, from uint64, visit func(v slotView)) (damaged int) {
	for i := range seg.slots {
		seq := seg.first() + uint64(i)
		s := &seg.slots[i]
		switch w := s.load(); {
		case seq < from || w == 0 || w == wordSetAside:
		case s.intact(w, seq, j.seed), (w == damagedWord || w.wasOut()) && s.fixedIntact(seq, j.seed): // or waits for the mender
			visit(j.view(makeRef(j.number, seq), s, w))
		default:
			damaged++
		}
	}
	return damaged
}

// prepare makes segments until the one in use has a spare behind it.
func (j *journal) prepare() error {
	if err := j.born(); err != nil {
		return err
	}
	for {
		end := j.limit.Load() >> segmentSlotsLog2
		if end >= j.next.Load()>>segmentSlotsLog2+2 {
			return nil
		}
		seg, err := createSegment(j.dir, j.id, end, j.boot, j.durable, j.rest)
		if err != nil {
			return err
		}
		j.mu.Lock()
		j.addSegment(seg)
		j.mu.Unlock()
		j.limit.Store((end + 1) << segmentSlotsLog2)
	}
}

// restBetweenPages sleeps for a moment while a segment is made, so that the runtime looks for requests that have come in: a mere yield does
// not make it. Where what stands ready may be used up soon it does not.
func (j *journal) restBetweenPages() {
	const moment = time.Microsecond // the runtime makes a millisecond of it when there is nothing else to do
	if j.limit.Load()-j.next.Load() > segmentSlots/2 {
		time.Sleep(moment)
	}
}

// born makes the journal's folder if it has none yet. Only who prepares calls it.
func (j *journal) born() error {
	if j.birth == nil {
		return nil
	}
	if err := j.birth(); err != nil {
		return err
	}
	j.birth = nil
	return nil
}

// addSegment puts a segment behind the last one. The caller holds mu, or is the only one who knows the journal.
func (j *journal) addSegment(seg *segment) {
	old := j.table.Load()
	t := &segmentTable{first: old.first, list: slices.Clone(old.list)}
	if len(t.list) == 0 {
		t.first = seg.number
	}
	for t.end() < seg.number {
		t.list = append(t.list, nil)
	}
	t.list = append(t.list, seg)
	j.table.Store(t)
}

// sync writes to the disk what was stored in the mapped segments before the call.
func (j *journal) sync() error {
	side := j.readers.enter()
	defer j.readers.leave(side)
	for _, seg := range j.table.Load().list {
		if seg != nil && seg.dirty.Swap(false) {
			if err := seg.toDisk(); err != nil {
				return err
			}
		}
	}
	return nil
}

// close unmaps everything and gives the lock back. Nobody may use the journal any more.
func (j *journal) close() error {
	var failed error
	for _, seg := range j.table.Load().list {
		if seg != nil {
			failed = errors.Join(failed, seg.unmap())
		}
	}
	j.table.Store(&segmentTable{})
	failed = errors.Join(failed, j.head.unmap())
	return errors.Join(failed, j.unlock())
}

// unlock gives the journal back.
func (j *journal) unlock() error {
	var failed error
	for _, lock := range []*os.File{j.folderLock, j.lock} {
		if lock != nil {
			failed = errors.Join(failed, lock.Close())
		}
	}
	return failed
}

// segmentNumbers lists the segments in a journal's folder, in order.
func segmentNumbers(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list a journal: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		name, isSegment := strings.CutSuffix(e.Name(), segmentSuffix)
		if n, err := strconv.ParseUint(name, 10, 64); isSegment && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// removeHalfMade removes what a process that ended left of a segment that never got its name.
func removeHalfMade(dir string) {
	halves, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix+".new"))
	for _, path := range halves {
		os.Remove(path)
	}
}
