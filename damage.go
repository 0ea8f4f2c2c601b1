package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What damage can do, and what becomes of it
//
// Every slot is checked by itself when its journal is taken up. One that is not what was once written waits: its word is
// replaced by one that no reader takes for a payment's state (see waiting), so that nothing is sent, settled or retired on its
// account; its 64 bytes go into damaged.log, as they were found. The mender then asks the shared store about it:
//
//   - the word is damaged, id and amount are not: the payment's final record ends it; without one it is doubtful, and is looked
//     up at both processors before anything is sent. It waits until both have answered, or the other one, where it says that an attempt was out;
//   - id and amount are not to be trusted: the claim that names this very slot has them. Settled payments have no claim any
//     more, so a slot without one was final or never claimed: it is set aside, counts as final, and is in damaged.log.
//
// A segment that was cut short is filled up again and never appended to, nor is any sequence used again that it may have held,
// since the store knows how far a journal is by sequence. Payments of the lost part that were claimed come back from their
// claims. What was accepted there and not claimed yet is lost, and all that can be done is to report how much it may be: that
// is a few milliseconds of payments while the store answers, and everything since it went away while it does not.
//
// A damaged header of a segment costs nothing but the knowledge that its payments are of this run of the host: they are doubtful.
// In a journal's head every number is checked by itself, and mended from what is left: see mendHead.

// damagedLog is where an operator finds slots as they were found: a line each, with time, sequence and the bytes in hex.
const damagedLog = "damaged.log"

// Words of slots that wait for the mender have the state of a slot that is free, which no valid word has. Nobody acts on them.
const damagedWord = word(1) << checkShift

// waiting is the word of a slot that waits. That an attempt was out is kept, so that the payment stays with its processor; what a look-up
// gave is never found on such a word, and nothing could be believed of it.
func (w word) waiting() word {
	if w.wasOut() || w.valid() && w.state() == slotSent && !w.foreign() {
		return w.pin().with(slotFree)
	}
	return damagedWord
}

// wasOut says that a waiting slot had an attempt out when its fixed part was found damaged.
func (w word) wasOut() bool {
	return w.state() == slotFree && w.pinned() && !w.foreign() && w == w.checked()
}

// wordSetAside is the word of a slot that was given up; everything else in it is as it was found.
var wordSetAside = word(0).with(slotSetAside)

// fixedIntact says that the part which is written once is what was written.
func (s *slot) fixedIntact(seq uint64, seed uint32) bool {
	return s.seq == seq && s.sum == s.checksum(seed)
}

// waitingSlot waits for the mender.
type waitingSlot struct {
	ref   ref
	known bool // id, amount and acceptedAt are intact; the word is damaged, or reads sent and is from before a power loss
}

// damageReport collects what a scan of one segment found, for few lines in the log.
type damageReport struct {
	count       int
	first, last uint64
	raw         strings.Builder
}

// damageLines bounds the lines that one segment's scan logs of its slots; damaged.log has them all.
const damageLines = 16

// scanDamaged deals with a slot that is not intact. It is false for one that was never published.
func (j *journal) scanDamaged(seg *segment, position int, f *found, report *damageReport) bool {
	s, seq := &seg.slots[position], seg.first()+uint64(position)
	w, known := s.load(), s.fixedIntact(seg.first()+uint64(position), j.seed)
	switch {
	case w == 0 && !known:
		return false // never published, or cut off: see journal.searching
	case w == wordSetAside:
		f.published++
		seg.finals.Add(1)
		return true
	case w != 0 && w != damagedWord:
		f.damaged++
		if report.count++; report.count == 1 {
			report.first = seq
		}
		report.last = seq
		bytes := unsafe.Slice((*byte)(unsafe.Pointer(s)), slotSize)
		fmt.Fprintf(&report.raw, "%s %d %s\n", time.Now().UTC().Format(time.RFC3339), seq, hex.EncodeToString(bytes))
		if report.count <= damageLines {
			j.log.Error("slot damaged", "sequence", seq, "word", fmt.Sprintf("%016x", uint64(w)), "id_intact", known, "id", s.id.String())
		}
	}
	// A word that was never stored, over a whole fixed part, waits as well: a kill between the two stores looks the same as a
	// word that was lost, and paying what nobody was told of is no harm, while losing it might be.
	if w == 0 || known && !w.wasOut() {
		s.word.Store(uint64(damagedWord))
	} else {
		s.word.Store(uint64(w.waiting()))
	}
	seg.soil()
	if known {
		seg.ids.insert(seg.slots, uint32(position), indexHash(&s.id))
	} else {
		j.searching.Store(true)
	}
	f.published++
	f.waiting = append(f.waiting, waitingSlot{ref: makeRef(j.number, seq), known: known})
	return true
}

// tell writes what a segment's scan has found damaged.
func (j *journal) tell(seg *segment, report *damageReport) {
	if report.count == 0 {
		return
	}
	j.log.Error("segment has damaged slots: they are recovered from the store, or set aside", "path", seg.path, "slots", report.count,
		"first", report.first, "last", report.last, "bytes_in", filepath.Join(j.dir, damagedLog))
	file, err := os.OpenFile(filepath.Join(j.dir, damagedLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err == nil {
		if _, err = file.WriteString(report.raw.String()); err == nil {
			err = file.Sync()
		}
		file.Close()
	}
	if err != nil {
		j.log.Error("damaged slots cannot be kept", "error", err)
	}
}

// repairSegment opens a segment whose header is damaged or whose end is missing: it is made whole again, with a boot id that
// no host has, so that what reads accepted in it is doubtful and nothing is appended to it. Where only the version is damaged, as
// the checksum tells, everything else is believed. A file that is whole and belongs elsewhere is left to its owner: errDamaged.
func (j *journal) repairSegment(number uint64) (*segment, error) {
	path := segmentPath(j.dir, number)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a segment: %w", err)
	}
	refuse := func(err error) (*segment, error) {
		file.Close()
		return nil, fmt.Errorf("cannot repair segment %s: %w", path, err)
	}
	info, err := file.Stat()
	if err != nil {
		return refuse(err)
	}
	if missing := segmentBytes - info.Size(); missing > 0 {
		j.log.Error("segment was cut short: what was accepted in the lost part and not claimed yet is lost", "path", path,
			"bytes", info.Size(), "slots_at_most", min((missing+slotSize-1)/slotSize, segmentSlots))
		if err := allocate(file, segmentBytes); err != nil {
			return refuse(err)
		}
	}
	seg, err := mapSegment(file, path, number)
	if err != nil {
		return refuse(err)
	}
	h := seg.head
	intact := h.magic == segmentMagic && h.sum == h.checksum() // but for the version, perhaps
	switch {
	case intact && (h.journal != j.id || h.number != number):
		err := fmt.Errorf("cannot use segment %s: it is number %d of journal %s: %w", path, h.number, h.journal, errDamaged)
		return nil, errors.Join(err, seg.unmap())
	case intact && info.Size() >= segmentBytes:
		j.log.Error("segment repaired: only its version was damaged", "path", path, "version", h.version)
		h.version = formatVersion
		seg.soil()
		return seg, nil
	}
	j.log.Error("segment repaired", "path", path)
	purged := h.purged.Load()
	clear(seg.data[:segmentHeader])
	h.magic, h.version, h.journal, h.number = segmentMagic, formatVersion, j.id, number
	h.purged.Store(purged)
	h.sum = h.checksum()
	seg.soil()
	j.searching.Store(true)
	return seg, nil
}

// openOrRepair opens a segment at the start. It is nil when the file belongs elsewhere: then it is set aside under another name.
func (j *journal) openOrRepair(number uint64) (*segment, error) {
	seg, err := openSegment(j.dir, j.id, number)
	if !errors.Is(err, errDamaged) {
		return seg, err
	}
	j.log.Error("segment damaged", "error", err)
	if seg, err = j.repairSegment(number); !errors.Is(err, errDamaged) {
		return seg, err
	}
	j.log.Error("segment set aside", "error", err)
	path := segmentPath(j.dir, number)
	if err := os.Rename(path, path+".damaged"); err != nil {
		return nil, fmt.Errorf("cannot set a segment aside: %w", err)
	}
	j.searching.Store(true)
	return nil, nil
}

// believed says that what a retired segment's header says of it holds: everything in it is final. It was made in this run of the
// host, so the header cannot have outlived the words that it speaks for. After a power loss the words are read.
func (j *journal) believed(seg *segment) bool {
	if seg.head.finalSince.Load() == 0 {
		return false
	}
	if seg.head.boot == j.boot {
		return true
	}
	seg.bringIn()
	for i := range seg.slots {
		s := &seg.slots[i]
		if w := s.load(); w != 0 && w != wordSetAside && !(s.intact(w, seg.first()+uint64(i), j.seed) && w.state().final()) {
			j.log.Warn("segment counted as settled, but is not: its last changes did not reach the disk", "path", seg.path)
			seg.head.finalSince.Store(0)
			return false
		}
	}
	// It was read once in this run of the host: that is enough.
	seg.head.boot = j.boot
	seg.head.sum = seg.head.checksum()
	return true
}

// mendPurged writes anew what says whether a purge has forgotten a segment, where that is damaged. In a journal that was ever purged, a
// segment that was retired counts as purged then: what is forgotten by mistake is in the store all the same, until that is filled anew.
func (j *journal) mendPurged(seg *segment) {
	h := seg.head
	if h.purged.intact() {
		return
	}
	purged := h.finalSince.v.Load() != 0 && j.head.mark.Load() != 0
	j.log.Error("segment does not say any more whether a purge has forgotten it", "path", seg.path, "taken_for_forgotten", purged)
	h.purged.Store(uint64(oneIf(purged)))
}

// forgetInWords has the words of a segment that was scanned say what only its header said: it is no longer retired.
func (j *journal) forgetInWords(seg *segment) error {
	if seg.head.purged.Load() == 0 {
		return nil
	}
	seg.forget()
	if err := j.syncBeforeMark(seg); err != nil {
		return err
	}
	seg.head.purged.Store(0)
	seg.soil()
	return nil
}

// rebuild writes a slot anew from its claim: the fixed part first, and then the word that publishes it. Only the mender does
// this, to slots that wait or were never published and never will be.
func (j *journal) rebuild(seq uint64, c record, to word) bool {
	side := j.readers.enter()
	defer j.readers.leave(side)
	seg := j.table.Load().at(seq >> segmentSlotsLog2)
	if seg == nil {
		return false
	}
	position := uint32(seq & (segmentSlots - 1))
	s := &seg.slots[position]
	w := s.load()
	if w.valid() || w == 0 && seq >= seg.holesBelow {
		return false
	}
	s.seq, s.id, s.amount, s.acceptedAt = seq, c.id, c.amount, c.acceptedAt
	s.sum = s.checksum(j.seed)
	s.word.Store(uint64(to))
	seg.soil()
	seg.ids.insert(seg.slots, position, indexHash(&s.id))
	if w == 0 {
		seg.finals.Add(-1) // seal counted it
	}
	return true
}

// lost says that a sequence was handed out once and its slot is empty or missing. missing: its whole segment is.
func (j *journal) lost(seq uint64) (lost, missing bool) {
	number := seq >> segmentSlotsLog2
	side := j.readers.enter()
	table := j.table.Load()
	seg := table.at(number)
	if seg != nil {
		lost = seq < seg.holesBelow && seg.slots[seq&(segmentSlots-1)].load() == 0
	}
	j.readers.leave(side)
	if seg != nil || number < table.first || number >= table.end() {
		return lost, false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.retired {
		if r.number == number {
			return false, false
		}
	}
	return true, true
}

// replaceMissing makes an empty segment where one is missing in the middle. Nothing is ever appended to it.
func (j *journal) replaceMissing(number uint64) error {
	seg, err := createSegment(j.dir, j.id, number, [16]byte{}, j.durable, nil)
	if err != nil {
		return err
	}
	seg.holesBelow = seg.first() + segmentSlots
	seg.finals.Store(segmentSlots)
	j.mu.Lock()
	defer j.mu.Unlock()
	old := j.table.Load()
	t := &segmentTable{first: old.first, list: append([]*segment(nil), old.list...)}
	t.list[number-t.first] = seg
	j.table.Store(t)
	return nil
}

// lostRun is how many empty slots in a row count as a trace of loss: a sector of 512 bytes. Fewer are left by every kill, where
// handlers had taken a sequence and had not published it yet.
const lostRun = 8

// hasHoles says that slots below end may have been lost without a trace: many in a row are empty, or a segment is missing. After
// a power loss end is that of the last segment, since its last pages may not have reached the disk.
func (j *journal) hasHoles(end uint64) bool {
	for _, seg := range j.table.Load().list {
		if seg == nil {
			return true // expired, or lost
		}
		run := 0
		for i := range min(end, seg.first()+segmentSlots) - min(end, seg.first()) {
			if seg.slots[i].load() != 0 {
				run = 0
			} else if run++; run >= lostRun {
				return true
			}
		}
	}
	return false
}

// checked is a number below 2^52 with twelve check bits above it, so that it can be replaced by one store and damage is seen: all
// that damage can do to one byte. Where it is damaged it reads as 0. What each one orders is said where it stands.
type checked[T ~int64 | ~uint64] struct{ v atomic.Uint64 }

const checkedBits = 52

func checkedOf(x uint64) uint64 {
	x &= 1<<checkedBits - 1
	fold := x ^ x>>12 ^ x>>24 ^ x>>36 ^ x>>48<<4 // moved up: the number's last bits share a byte with the lowest check bits
	return x | fold<<checkedBits
}

func (c *checked[T]) Store(x T) { c.v.Store(checkedOf(uint64(x))) }

func (c *checked[T]) Load() T {
	x, _ := readChecked(c.v.Load())
	return T(x)
}

func (c *checked[T]) intact() bool {
	_, ok := readChecked(c.v.Load())
	return ok
}

func readChecked(stored uint64) (x uint64, intact bool) {
	if checkedOf(stored) != stored {
		return 0, false
	}
	return stored & (1<<checkedBits - 1), true
}

// isFull says that an error is about room on the disk: it may pass, unlike others.
func isFull(err error) bool {
	return err != nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT))
}
