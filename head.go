package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	headName  = "head"
	headBytes = 4096

	// requeuedAny stands in a head from which nobody can tell what was queued again: it may have been any slot.
	requeuedAny = 1
)

var headMagic = [8]byte{'g', 'a', 'l', 'o', 'j', 'n', 'l', '\n'}

// journalHead is the content of a journal's head file, mapped while the journal is owned.
type journalHead struct {
	magic    [8]byte
	version  uint32
	sum      uint32 // over this format's version and id, to tell a damaged version from another one; 0 in a head from before there was one
	id       journalID
	instance [64]byte        // who made it; whoever starts under this name appends to it
	mark     checked[uint64] // the purge mark up to which settled history was forgotten here
	purging  checked[uint64] // the mark of a purge that was begun here; above mark: a crash came between
	// requeued is one more than the lowest sequence that an operator has ever queued again; 0 if none: see journal.reopen.
	requeued checked[uint64]
	owner    [64]byte // the instance that took the journal last, for people: its lock says whether it still has it
}

// identify writes what says of which format and which journal the head is.
func (h *journalHead) identify(id journalID) {
	h.magic, h.version, h.id = headMagic, formatVersion, id
	h.sum = h.checksum()
}

// restoredHead is a head file for a journal whose own was lost. It does not say who made the journal.
func restoredHead(id journalID, mark uint64) []byte {
	page := make([]byte, headBytes)
	head := (*journalHead)(unsafe.Pointer(&page[0]))
	head.identify(id)
	head.mark.Store(mark)
	head.purging.Store(mark)
	head.requeued.Store(requeuedAny)
	return page
}

func (h *journalHead) checksum() uint32 {
	b := binary.LittleEndian.AppendUint32(nil, formatVersion)
	return crc32.Checksum(append(b, h.id[:]...), castagnoli)
}

// newer says that a newer galo wrote the head.
func (h *journalHead) newer() bool {
	return h.magic == headMagic && newerVersion(h.version) && h.sum != h.checksum()
}

// fault is errNewerFormat or errDamaged for a head that cannot be used. What else may be damaged in it is mended: see mendHead.
func (h *journalHead) fault(id journalID) error {
	switch {
	case h.newer():
		return errNewerFormat
	case h.magic != headMagic, h.id != id, !h.mark.intact() && !h.purging.intact():
		return errDamaged
	}
	return nil
}

// mendHead writes anew what is damaged in a head that can be used.
func (j *journal) mendHead() {
	h := j.head
	if h.version != formatVersion {
		j.log.Error("version damaged in a journal's head, and written anew", "version", h.version)
		h.version = formatVersion
	}
	switch { // they differ only where a crash came between
	case !h.mark.intact():
		j.log.Error("purge mark damaged in a journal's head: the last one that was begun here takes its place", "mark", h.purging.Load())
		h.mark.Store(h.purging.Load())
	case !h.purging.intact():
		j.log.Error("mark of the last purge begun damaged in a journal's head: it is taken for finished", "mark", h.mark.Load())
		h.purging.Store(h.mark.Load())
	}
	if !h.requeued.intact() {
		j.log.Error("what was queued again is damaged in a journal's head: replays begin at the journal's first payment from now on")
		h.requeued.Store(requeuedAny)
	}
	h.sum = h.checksum()
}

// purgeMark is the mark as far as it can be believed. Of bytes that are no head one number may look intact by chance, hardly two.
func (h *journalHead) purgeMark() uint64 {
	switch both := h.mark.intact() && h.purging.intact(); {
	case h.magic != headMagic && !both:
		return 0
	case h.mark.intact():
		return h.mark.Load()
	}
	return h.purging.Load()
}

// madeBy says under which instance name a journal was made.
func (h *journalHead) madeBy() string {
	return strings.TrimRight(string(h.instance[:]), "\x00")
}

// takenBy says which instance took a journal last; "" for a journal from before that was noted.
func (h *journalHead) takenBy() string {
	return strings.TrimRight(string(h.owner[:]), "\x00")
}

// take notes who has the journal now.
func (h *journalHead) take(instance string) {
	clear(h.owner[:])
	copy(h.owner[:], instance)
}

func mapHead(file *os.File) (*journalHead, error) {
	data, err := unix.Mmap(int(file.Fd()), 0, headBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map: %w", err)
	}
	return (*journalHead)(unsafe.Pointer(&data[0])), nil
}

func (h *journalHead) unmap() error {
	return unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(h)), headBytes))
}
