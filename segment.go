package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A segment is one file of a journal: a header page and 65,536 slots (see segmentsize.go), mapped shared.
const (
	segmentSlots  = 1 << segmentSlotsLog2
	segmentHeader = 4096
	segmentBytes  = segmentHeader + segmentSlots*slotSize
	segmentSuffix = ".segment"
	slotsInPage   = 4096 / slotSize // a larger page is touched more than once

	formatVersion = 1
	// newestVersion is the highest version that is believed to be one, and not a damaged 1.
	newestVersion = 255
)

// newerVersion says that a version can be that of a newer galo. It is a damaged 1 all the same where the checksum beside it fits 1.
func newerVersion(version uint32) bool { return version > formatVersion && version <= newestVersion }

var segmentMagic = [8]byte{'g', 'a', 'l', 'o', 's', 'e', 'g', '\n'}

// segmentHead is the header page. All but the two numbers at its end is written before the file gets its name.
type segmentHead struct {
	magic   [8]byte
	version uint32
	sum     uint32 // over the version (this format's, whatever the word says), journal, number and boot
	journal journalID
	number  uint64
	boot    [16]byte // the host's boot id when the segment was made: see doubtful slots in recover.go. 0 after a repair
	// finalSince is when the segment was retired, since all of its slots had become final; 0 before. A segment that carries it
	// needs no scan at start.
	finalSince checked[int64]
	// purged is 1 when a purge has forgotten everything in a segment that was retired already.
	purged checked[uint64]
}

type segment struct {
	number uint64
	path   string
	file   *os.File
	data   []byte // the mapping; empty after unmap
	head   *segmentHead
	slots  []slot
	ids    idIndex // nil in a segment that is only looked through
	// holesBelow is the sequence below which a slot that was never published never will be: set once, by recovery.
	holesBelow uint64
	dirty      atomic.Bool  // set after every store, by soil, and taken back before a sync
	datasync   func() error // the file's; tests have it fail
	syncing    sync.Mutex   // held in toDisk
	finals     atomic.Int64 // slots that are final, or holes that nobody will ever publish; retired when it reaches segmentSlots
}

var (
	errNewerFormat = errors.New("written by a newer galo")
	errDamaged     = errors.New("damaged")
)

func (h *segmentHead) checksum() uint32 {
	var b [4 + 8 + 8 + 16]byte
	binary.LittleEndian.PutUint32(b[0:], formatVersion)
	copy(b[4:], h.journal[:])
	binary.LittleEndian.PutUint64(b[12:], h.number)
	copy(b[20:], h.boot[:])
	return crc32.Checksum(b[:], castagnoli)
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%012d%s", number, segmentSuffix))
}

// touchAtOnce is how many pages of a new segment are touched in one go. Each takes some 3 µs, and all 1,024 of them would keep the only P of an
// instance of the stack from its clients for 3 to 4 ms.
const touchAtOnce = 32

// createSegment makes the file, really allocated (a store into a hole on a full disk would kill the process), with its
// pages touched, and gives it its name last. durable: all that is on the disk before it returns. rest is called again and again in between; nil:
// nobody waits.
func createSegment(dir string, j journalID, number uint64, boot [16]byte, durable bool, rest func()) (*segment, error) {
	path := segmentPath(dir, number)
	made := path + ".new"
	file, err := os.OpenFile(made, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot make a segment: %w", err)
	}
	discard := func(err error) (*segment, error) {
		file.Close()
		os.Remove(made)
		return nil, fmt.Errorf("cannot make a segment: %w", err)
	}
	if err := allocate(file, segmentBytes); err != nil {
		return discard(err)
	}
	seg, err := mapSegment(file, path, number)
	if err != nil {
		return discard(err)
	}
	seg.ids = newIDIndex()
	for i := 0; i < segmentSlots; i += slotsInPage {
		seg.slots[i].word.Store(0) // a write to every page now spares an append the fault
		if rest != nil && i/slotsInPage%touchAtOnce == touchAtOnce-1 {
			rest()
		}
	}
	h := seg.head
	h.magic, h.version, h.journal, h.number, h.boot = segmentMagic, formatVersion, j, number, boot
	h.sum = h.checksum()
	publish := func() error {
		if durable {
			if err := file.Sync(); err != nil {
				return err
			}
		}
		if err := os.Rename(made, path); err != nil || !durable {
			return err
		}
		return syncDir(dir)
	}
	if err := publish(); err != nil {
		seg.unmap()
		return discard(err)
	}
	return seg, nil
}

// newer says that a newer galo wrote the segment.
func (h *segmentHead) newer() bool {
	return h.magic == segmentMagic && newerVersion(h.version) && h.sum != h.checksum()
}

// fault is errNewerFormat or errDamaged for a header that cannot be used as it is.
func (h *segmentHead) fault(j journalID, number uint64) error {
	switch {
	case h.newer():
		return errNewerFormat
	case h.magic != segmentMagic, h.version != formatVersion, h.sum != h.checksum(), h.journal != j, h.number != number:
		return errDamaged
	}
	return nil
}

// formatOf looks at a journal's head or at a segment without touching it. errNewerFormat tells of another format; whatever else may
// be wrong with it is not its business.
func formatOf[T any, H interface {
	*T
	newer() bool
}](path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	var head T
	if _, err := file.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(&head)), unsafe.Sizeof(head)), 0); err == nil && H(&head).newer() {
		return errNewerFormat
	}
	return nil // or too short
}

// openSegment maps a segment that exists. errNewerFormat and errDamaged tell what is wrong with it; then it was not touched.
func openSegment(dir string, j journalID, number uint64) (*segment, error) {
	path := segmentPath(dir, number)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a segment: %w", err)
	}
	refuse := func(err error) (*segment, error) {
		file.Close()
		return nil, fmt.Errorf("cannot open segment %s: %w", path, err)
	}
	info, err := file.Stat()
	if err != nil {
		return refuse(err)
	}
	if info.Size() < segmentBytes {
		return refuse(errDamaged)
	}
	seg, err := mapSegment(file, path, number)
	if err != nil {
		return refuse(err)
	}
	if err := seg.head.fault(j, number); err != nil {
		seg.unmap()
		return refuse(err)
	}
	return seg, nil
}

// allocate gives the file its size with blocks behind every byte of it.
func allocate(file *os.File, size int64) error {
	err := unix.Fallocate(int(file.Fd()), 0, 0, size)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	// A file system that cannot allocate is made to by writing what is not there yet.
	info, err := file.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for at := info.Size(); at < size; at += int64(len(zeros)) {
		if _, err := file.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}

func mapSegment(file *os.File, path string, number uint64) (*segment, error) {
	data, err := unix.Mmap(int(file.Fd()), 0, segmentBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map: %w", err)
	}
	return &segment{
		number: number, path: path, file: file, data: data,
		datasync: func() error { return unix.Fdatasync(int(file.Fd())) },
		head:     (*segmentHead)(unsafe.Pointer(&data[0])),
		slots:    unsafe.Slice((*slot)(unsafe.Pointer(&data[segmentHeader])), segmentSlots),
	}, nil
}

// bringIn has all of a segment that was opened read into memory, for whoever reads all of it. Of most segments that a start opens it
// wants the header only.
func (s *segment) bringIn() {
	_ = unix.Madvise(s.data, unix.MADV_POPULATE_READ) // a kernel before 5.14 cannot: then each page is read when it is needed
}

// unmap ends the mapping and closes the file. Nobody may hold a pointer into the segment any more.
func (s *segment) unmap() error {
	err := unix.Munmap(s.data)
	s.data, s.slots, s.head = nil, nil, nil
	return errors.Join(err, s.file.Close())
}

// empty says that no slot was ever published.
func (s *segment) empty() bool {
	for i := range s.slots {
		if s.slots[i].load() != 0 {
			return false
		}
	}
	return true
}

// first is the sequence of the segment's first slot.
func (s *segment) first() uint64 { return s.number << segmentSlotsLog2 }

// soil marks the segment, after an atomic store into it, for the next sync. If the mark is there, that sync has yet to take it back, and
// writes to the disk after that: so it need not be set anew, which would cost every store as much as the store itself.
func (s *segment) soil() {
	if !s.dirty.Load() {
		s.dirty.Store(true)
	}
}

// toDisk writes to the disk what was stored before the call. The kernel takes pages that it could not write for clean, and tells of it once: if
// they were left so, the next call would succeed and prove nothing. So after an error all of them are stored into again; one call at a time, or
// another one would be told that all is well in between.
func (s *segment) toDisk() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	err := s.datasync()
	if err == nil {
		return nil
	}
	s.soilAll()
	return fmt.Errorf("cannot sync %s: %w", s.path, err)
}

// soilAll has the next sync write every page, also those that the kernel takes for clean.
func (s *segment) soilAll() {
	s.head.finalSince.v.Add(0)
	for i := 0; i < len(s.slots); i += slotsInPage {
		s.slots[i].word.Add(0)
	}
	s.soil()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
