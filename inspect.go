package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file looks into journals from outside: it maps their files for reading, takes no lock and changes no byte, so that it
// works beside the processes that own them. A slot that its owner is working on has one atomic word, which is read once.

const setAsideSuffix = ".damaged"

// inspected is one journal as it was found, whoever owns it.
type inspected struct {
	id       journalID
	dir      string
	setAside bool // the whole journal: its head could not be read
	fault    string
	format   uint32
	newer    bool // written in a format that is not known here
	madeBy   string
	ownedBy  string // the instance that took it last; "" if that was never noted
	owned    bool   // somebody holds its lock now
	mark     uint64
	segments []inspectedSegment
	seed     uint32
}

type inspectedSegment struct {
	number   uint64
	path     string
	setAside bool
	bytes    int64
}

// seenSlot is a published slot as it was read. Of one with a fault only the sequence can be trusted.
type seenSlot struct {
	slotView
	seq    uint64
	offset int64 // in the segment's file
	fault  string
	purged bool // a purge has forgotten its whole segment
	aside  bool // its whole segment is set aside: nobody works it
}

// inspectFolder lists the journals in DATA_DIR with their segments; slots are read by each.
func inspectFolder(path string) ([]inspected, error) {
	if _, err := os.Stat(path); err != nil { // an empty folder is one thing, a wrong name another
		return nil, fmt.Errorf("DATA_DIR=%q: cannot look at the journals: %w", path, err)
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the journals: %w", err)
	}
	var list []inspected
	for _, e := range entries {
		name, aside := strings.CutSuffix(e.Name(), setAsideSuffix)
		name, is := strings.CutSuffix(name, journalSuffix)
		b, err := hex.DecodeString(name)
		j := inspected{dir: filepath.Join(path, e.Name()), setAside: aside}
		if !is || err != nil || len(b) != len(j.id) {
			continue
		}
		copy(j.id[:], b)
		j.seed = crc32.Checksum(j.id[:], castagnoli)
		if err := j.readHead(); err != nil {
			return nil, err
		}
		if j.segments, err = listSegments(j.dir); errors.Is(err, os.ErrNotExist) {
			continue // finished and removed meanwhile
		} else if err != nil {
			return nil, err
		}
		list = append(list, j)
	}
	return list, nil
}

// readHead reads the head file. What is wrong with it is noted as the journal's fault; the error is about reading.
func (j *inspected) readHead() error {
	file, err := os.Open(filepath.Join(j.dir, headName))
	if errors.Is(err, os.ErrNotExist) {
		j.fault = "has no head"
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open journal %s: %w", j.id, err)
	}
	defer file.Close()
	if j.owned, err = someoneLocks(file); err != nil {
		return err
	}
	page := make([]uint64, headBytes/8) // aligned as the struct wants it
	n, err := io.ReadFull(file, unsafe.Slice((*byte)(unsafe.Pointer(&page[0])), headBytes))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot read the head of journal %s: %w", j.id, err)
	}
	h := (*journalHead)(unsafe.Pointer(&page[0]))
	j.format, j.madeBy, j.ownedBy, j.mark = h.version, h.madeBy(), h.takenBy(), h.mark.Load()
	switch {
	case n < headBytes:
		j.fault = fmt.Sprintf("its head has %d bytes instead of %d", n, headBytes)
	case h.magic != headMagic:
		j.fault = "its head is not one of galo's"
	case h.newer():
		j.newer = true
		j.fault = fmt.Sprintf("has format %d, written by a newer galo: nothing in it was looked at", h.version)
	case h.version != formatVersion:
		j.fault = fmt.Sprintf("the version in its head is damaged: it reads %d", h.version)
	case h.id != j.id:
		j.fault = "its head names journal " + h.id.String()
	case !h.mark.intact(), !h.purging.intact(), !h.requeued.intact():
		j.fault = "a number in its head is damaged"
	}
	return nil
}

// someoneLocks says whether a process holds the lock on a head. To find out it asks for a shared lock, and lets go of it at once. A
// galo that starts in that very moment takes the journal for owned, makes a new one, and finishes this one some seconds later.
func someoneLocks(head *os.File) (bool, error) {
	err := unix.Flock(int(head.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err == nil {
		err = unix.Flock(int(head.Fd()), unix.LOCK_UN)
	}
	if err != nil {
		return false, fmt.Errorf("cannot look at the lock of %s: %w", head.Name(), err)
	}
	return false, nil
}

// listSegments lists a journal's segments, those set aside included, in order.
func listSegments(dir string) ([]inspectedSegment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list a journal: %w", err)
	}
	var list []inspectedSegment
	for _, e := range entries {
		name, aside := strings.CutSuffix(e.Name(), setAsideSuffix)
		name, is := strings.CutSuffix(name, segmentSuffix)
		number, err := strconv.ParseUint(name, 10, 64)
		if !is || err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list a journal: %w", err)
		}
		list = append(list, inspectedSegment{number: number, path: filepath.Join(dir, e.Name()), setAside: aside, bytes: info.Size()})
	}
	slices.SortFunc(list, func(a, b inspectedSegment) int { return int(a.number) - int(b.number) })
	return list, nil
}

// segmentState is what a segment's own head says.
type segmentState struct {
	fault   string
	retired bool // everything in it is final
	purged  bool
	gone    bool // removed since it was listed
}

// look visits every published slot of a segment. A file that ends early, or that the disk does not give back, is a fault, and
// what could be read of it was visited.
func (j *inspected) look(seg inspectedSegment, visit func(s seenSlot)) (state segmentState, err error) {
	file, err := os.Open(seg.path)
	if errors.Is(err, os.ErrNotExist) {
		return segmentState{gone: true}, nil
	}
	if err != nil {
		return state, fmt.Errorf("cannot open a segment: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return state, fmt.Errorf("cannot open a segment: %w", err)
	}
	size := min(info.Size(), segmentBytes)
	if size < segmentHeader {
		return segmentState{fault: fmt.Sprintf("has %d bytes, not even its head", size)}, nil
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return state, fmt.Errorf("cannot map %s: %w", seg.path, err)
	}
	defer unix.Munmap(data)

	// A block that the disk does not give back is a fault of that address, here a panic and not the process's end.
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if at, ok := recover().(interface{ Addr() uintptr }); ok {
			state.fault = fmt.Sprintf("cannot be read at offset %d", at.Addr()-uintptr(unsafe.Pointer(&data[0])))
		}
	}()
	h := (*segmentHead)(unsafe.Pointer(&data[0]))
	state.retired, state.purged, state.fault = h.finalSince.Load() != 0, h.purged.Load() != 0, j.headFault(h, seg)
	if size < segmentBytes && state.fault == "" {
		state.fault = fmt.Sprintf("has %d bytes instead of %d", size, segmentBytes)
	}
	if h.newer() {
		return state, nil
	}
	slots := unsafe.Slice((*slot)(unsafe.Pointer(unsafe.SliceData(data[segmentHeader:]))), (size-segmentHeader)/slotSize)
	for i := range slots {
		s := &slots[i]
		w := s.load()
		if w == 0 {
			continue
		}
		seq := seg.number<<segmentSlotsLog2 + uint64(i)
		visit(seenSlot{seq: seq, offset: segmentHeader + int64(i)*slotSize, fault: slotFault(s, w, seq, j.seed),
			purged: state.purged, aside: seg.setAside || j.setAside,
			slotView: slotView{ref: makeRef(0, seq), word: w, id: s.id, amount: s.amount, acceptedAt: s.acceptedAt,
				requestedAt: s.requestedAt(w), paidAmount: s.paidAmount(w)}})
	}
	return state, nil
}

func (j *inspected) headFault(h *segmentHead, seg inspectedSegment) string {
	switch {
	case h.magic != segmentMagic:
		return "its head is not one of galo's"
	case h.newer():
		return fmt.Sprintf("has format %d, written by a newer galo: nothing in it was looked at", h.version)
	case h.sum != h.checksum():
		return "the checksum of its head does not fit"
	case h.version != formatVersion:
		return fmt.Sprintf("the version in its head is damaged: it reads %d", h.version)
	case h.journal != j.id:
		return "its head names journal " + h.journal.String()
	case h.number != seg.number:
		return fmt.Sprintf("its head has number %d", h.number)
	case !h.finalSince.intact(), !h.purged.intact():
		return "a number in its head is damaged"
	}
	return ""
}

// slotFault says in what way a published slot is not what was once written; "" if it is. It tells the parts of slot.intact apart.
func slotFault(s *slot, w word, seq uint64, seed uint32) string {
	switch {
	case w != w.checked():
		return fmt.Sprintf("the check bits of its state word %016x do not fit", uint64(w))
	case !w.valid():
		return fmt.Sprintf("its state word %016x has no state", uint64(w))
	case w.state() == slotSetAside:
		return "was found damaged before, and is set aside"
	case s.seq != seq:
		return fmt.Sprintf("it carries the sequence %d", s.seq)
	case s.sum != s.checksum(seed):
		return "the checksum over id, amount and acceptedAt does not fit"
	case !s.intact(w, seq, seed):
		return "the checksum over what the processor has booked does not fit"
	}
	return ""
}

// each visits the published slots of every segment, and tells what is wrong with segments.
func (j *inspected) each(visit func(seg inspectedSegment, s seenSlot), faulty func(seg inspectedSegment, state segmentState)) error {
	if j.newer {
		return nil
	}
	for _, seg := range j.segments {
		state, err := j.look(seg, func(s seenSlot) { visit(seg, s) })
		if err != nil {
			return err
		}
		faulty(seg, state)
	}
	return nil
}

// shownState is a slot's state as operators and GET /payments/{id} see it.
func (s *seenSlot) shownState() string {
	st := s.word.state()
	if s.aside {
		return slotSetAside.String()
	}
	if s.purged && (st == slotSettled || st == slotRejected) {
		return slotPurged.String()
	}
	if p, ok := unsettled(s.slotView); ok && st != slotInvalid {
		return p.state
	}
	return st.String()
}
