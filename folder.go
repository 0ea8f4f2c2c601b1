package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// folder is DATA_DIR: a folder of journals, each in a folder of its own, shared by every instance on the host.
//
//	<journal id>.journal/                its owner holds flock on the folder too, which says so where the head is lost
//	<journal id>.journal/head            identity, and the lock: its owner holds flock on it
//	<journal id>.journal/<number>.segment
type folder struct {
	path     string
	instance string
	durable  bool // files and names are on the disk before they are used: DURABILITY=disk
	boot     [16]byte
	log      *slog.Logger
}

const journalSuffix = ".journal"

var errOwned = errors.New("owned by another process")

func openFolder(path, instance string, durable bool, log *slog.Logger) (*folder, error) {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, fmt.Errorf("DATA_DIR=%q: cannot make the journals' folder: %w", path, err)
	}
	if err := unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("DATA_DIR=%q: cannot write to the journals' folder: %w", path, err)
	}
	f := &folder{path: path, instance: instance, durable: durable, boot: bootID(), log: log}
	return f, f.clearLeftovers()
}

// alone is an error when another process owns a journal in the folder: an embedded store belongs to one process, and each of two
// would wait for the other one's journals to report to it.
func (f *folder) alone() error {
	ids, err := f.journalIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		head, err := os.Open(filepath.Join(f.dir(id), headName))
		if err != nil {
			continue // whoever takes the journals deals with that
		}
		owned, err := someoneLocks(head)
		head.Close()
		if err == nil && owned {
			return fmt.Errorf("DATA_DIR=%q: another galo is running on it: with an empty REDIS_URL it has to have it to itself", f.path)
		}
	}
	return nil
}

// bootID is the kernel's name for this run of the host. Where there is none, every start counts as a new boot.
func bootID() (boot [16]byte) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil {
		if id, ok := parsePaymentID([]byte(strings.TrimSpace(string(text)))); ok {
			return id
		}
	}
	rand.Read(boot[:])
	return boot
}

// journalIDs lists the journals in the folder, whoever owns them.
func (f *folder) journalIDs() ([]journalID, error) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return nil, fmt.Errorf("cannot list the journals: %w", err)
	}
	var ids []journalID
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), journalSuffix)
		var id journalID
		if b, err := hex.DecodeString(name); ok && err == nil && len(b) == len(id) {
			copy(id[:], b)
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (f *folder) dir(id journalID) string { return filepath.Join(f.path, id.String()+journalSuffix) }

// create makes a new journal, owned. On a full disk it is a journal without a folder yet, which takes no payments: prepare
// makes its folder when there is room.
func (f *folder) create() (*journal, error) {
	var id journalID
	rand.Read(id[:])
	data, err := unix.Mmap(-1, 0, headBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("cannot map: %w", err)
	}
	head := (*journalHead)(unsafe.Pointer(&data[0]))
	head.identify(id)
	copy(head.instance[:], f.instance)
	j := newJournal(f, id, head, nil)
	j.birth = func() error { return f.bear(j, data) }
	if err := j.born(); isFull(err) {
		f.log.Error("payments will be refused", "error", err)
	} else if err != nil {
		return nil, errors.Join(err, head.unmap())
	}
	return j, nil
}

// bear makes a journal's folder, with its head, which lies in memory until then and in the file from then on, at the same
// address. The folder gets its name last, so that nobody finds half a journal.
func (f *folder) bear(j *journal, head []byte) error {
	j.mu.Lock() // no purge may write to the head meanwhile
	defer j.mu.Unlock()
	making := j.dir + newSuffix
	if err := os.RemoveAll(making); err != nil { // from an earlier try
		return fmt.Errorf("cannot make a journal: %w", err)
	}
	if err := os.Mkdir(making, 0o750); err != nil {
		return fmt.Errorf("cannot make a journal: %w", err)
	}
	dir, _ := lockFolder(making)
	file, err := os.OpenFile(filepath.Join(making, headName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	fail := func(err error) error {
		file.Close()
		dir.Close()
		os.RemoveAll(making)
		return fmt.Errorf("cannot make a journal: %w", err)
	}
	if err != nil {
		return fail(err)
	}
	if err := lockFile(file); err != nil {
		return fail(err)
	}
	if err := allocate(file, headBytes); err != nil {
		return fail(err)
	}
	if _, err := file.WriteAt(head, 0); err != nil {
		return fail(err)
	}
	if err := file.Sync(); err != nil { // whatever DURABILITY says: a journal without a head keeps all the others waiting
		return fail(err)
	}
	if _, err := unix.MmapPtr(int(file.Fd()), 0, unsafe.Pointer(&head[0]), headBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return fail(err)
	}
	if f.durable {
		if err := syncDir(making); err != nil {
			return fail(err)
		}
	}
	if err := os.Rename(making, j.dir); err != nil {
		return fail(err)
	}
	if f.durable {
		if err := syncDir(f.path); err != nil {
			f.log.Error("cannot sync the journals' folder", "error", err) // the segment's own sync will tell
		}
	}
	j.lock, j.folderLock = file, dir
	return nil
}

// claim takes a journal that nobody owns; errOwned if somebody does. Nothing in it was read yet.
func (f *folder) claim(id journalID) (*journal, error) {
	path := filepath.Join(f.dir(id), headName)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(f.dir(id)); err == nil {
			return nil, fmt.Errorf("cannot open journal %s: no head: %w", id, errDamaged)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open a journal: %w", err)
	}
	if err := lockFile(file); err != nil {
		file.Close()
		return nil, err
	}
	fail := func(err error) (*journal, error) {
		file.Close()
		return nil, fmt.Errorf("cannot open journal %s: %w", id, err)
	}
	// The owner may have removed the journal between open and lock: then this is the lock of a file without a name.
	held, err := file.Stat()
	if err != nil {
		return fail(err)
	}
	named, err := os.Stat(path)
	if err != nil {
		return fail(err)
	}
	if !os.SameFile(held, named) {
		return fail(os.ErrNotExist)
	}
	if held.Size() < headBytes {
		return fail(errDamaged)
	}
	head, err := mapHead(file)
	if err != nil {
		return fail(err)
	}
	if err := head.fault(id); err != nil {
		return fail(errors.Join(err, head.unmap()))
	}
	j := newJournal(f, id, head, file)
	if j.folderLock, err = lockFolder(j.dir); errors.Is(err, errOwned) { // this is another head than its owner's
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

// checkFormats looks at every journal that nobody owns, before any of them is touched. An error names a file of another format.
func (f *folder) checkFormats() error {
	ids, err := f.journalIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := f.checkFormat(id); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) checkFormat(id journalID) error {
	path := filepath.Join(f.dir(id), headName)
	found := formatOf[journalHead](path)
	numbers, _ := segmentNumbers(f.dir(id))
	for _, number := range numbers {
		if found == nil || errors.Is(found, os.ErrNotExist) {
			path = segmentPath(f.dir(id), number)
			found = formatOf[segmentHead](path)
		}
	}
	if found == nil || errors.Is(found, os.ErrNotExist) {
		return nil
	}
	if file, err := os.Open(filepath.Join(f.dir(id), headName)); err == nil {
		defer file.Close() // which gives the lock back
		if lockFile(file) != nil {
			return nil // its owner knows its format
		}
	}
	return fmt.Errorf("cannot open %s: %w", path, found)
}

// restore takes a journal whose head is damaged or lost: the folder's name says which journal it is, and its segments say the rest.
// Who made it is forgotten, so that it is finished and never appended to. mark is the highest purge mark that is known
// elsewhere. A journal without segments, or without any lock that could say that somebody owns it, is set aside: nil.
func (f *folder) restore(id journalID, mark uint64) (*journal, error) {
	dir, err := lockFolder(f.dir(id))
	if errors.Is(err, errOwned) {
		return nil, err
	}
	j, err := f.remakeHead(id, mark, err == nil)
	if j == nil {
		dir.Close()
		return nil, err
	}
	j.folderLock = dir
	return j, nil
}

// remakeHead is restore for a journal whose folder is locked. Where it could not be, there has to be a head to lock.
func (f *folder) remakeHead(id journalID, mark uint64, locked bool) (*journal, error) {
	numbers, err := segmentNumbers(f.dir(id))
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return nil, f.setAside(id)
	}
	for _, number := range numbers {
		if err := formatOf[segmentHead](segmentPath(f.dir(id), number)); err != nil {
			return nil, fmt.Errorf("cannot open segment %s: %w", segmentPath(f.dir(id), number), err)
		}
	}
	how := os.O_RDWR
	if locked {
		how |= os.O_CREATE
	}
	file, err := os.OpenFile(filepath.Join(f.dir(id), headName), how, 0o640)
	if errors.Is(err, os.ErrNotExist) {
		return nil, f.setAside(id)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open a journal: %w", err)
	}
	fail := func(err error) (*journal, error) {
		file.Close()
		return nil, fmt.Errorf("cannot restore the head of journal %s: %w", id, err)
	}
	if err := lockFile(file); err != nil {
		file.Close()
		return nil, err
	}
	if err := allocate(file, headBytes); err != nil {
		return fail(err)
	}
	if _, err := file.WriteAt(restoredHead(id, mark), 0); err != nil {
		return fail(err)
	}
	head, err := mapHead(file)
	if err != nil {
		return fail(err)
	}
	f.log.Error("journal's head made anew: it is finished, and not appended to", "journal", id.String(), "segments", len(numbers))
	return newJournal(f, id, head, file), nil
}

// setAside renames a journal that nobody can open, so that nobody waits for it.
func (f *folder) setAside(id journalID) error {
	err := os.Rename(f.dir(id), f.dir(id)+".damaged")
	if errors.Is(err, os.ErrNotExist) {
		return nil // another instance was quicker
	}
	if err != nil {
		return fmt.Errorf("cannot set a journal aside: %w", err)
	}
	return nil
}

// markOf reads the purge mark of a journal that anybody may own.
func (f *folder) markOf(id journalID) (uint64, error) {
	file, err := os.Open(filepath.Join(f.dir(id), headName))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var head journalHead
	if _, err := file.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(&head)), unsafe.Sizeof(head)), 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return head.purgeMark(), nil // where it is damaged the other journals and the store tell
}

// lockFile takes the lock without waiting. The kernel frees it with the process, however that ends.
func lockFile(file *os.File) error {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errOwned
	}
	if err != nil {
		return fmt.Errorf("cannot lock %s: %w", file.Name(), err)
	}
	return nil
}

// lockFolder takes the second lock on a journal, that on its folder. An error other than errOwned says that this file system locks no
// folders: then there is only the first.
func lockFolder(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := lockFile(dir); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}
