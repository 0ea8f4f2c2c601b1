package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountOr mounts, or skips the test where that is not allowed.
func mountOr(t *testing.T, source, target, kind string, flags uintptr, options string) {
	t.Helper()
	err := unix.Mount(source, target, kind, flags, options)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skip("this test mounts a small file system, which only root may, and not in every container: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// smallDisk is a file system of its own, of so many bytes, that ends with the test.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	mountOr(t, "tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillUp leaves not a byte free, and returns how to make room again.
func fillUp(t *testing.T, dir string) (makeRoom func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	file, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	page := make([]byte, 4096)
	for err == nil {
		_, err = file.Write(page)
	}
	if !isFull(err) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	}
}

// TestFullDiskAnswers503AndGoesOnWhenThereIsRoom: over HTTP, on a file system that is really full.
func TestFullDiskAnswers503AndGoesOnWhenThereIsRoom(t *testing.T) {
	w := newTestWorld(t)
	w.dir = smallDisk(t, 4*segmentBytes)
	g := w.start(t)
	makeRoom := fillUp(t, w.dir)
	j := g.ledger.active
	const room = 20
	j.next.Store(j.limit.Load() - room) // as if all before had been used
	accepted := uint64(0)
	for ; ; accepted++ {
		status, body, header := g.do("POST", "/payments", fmt.Sprintf(`{"correlationId":%q,"amount":1.00}`, nthID(accepted)))
		if status == http.StatusServiceUnavailable && header.Get("Retry-After") != "" && header.Get("Content-Type") == problemType {
			break
		}
		if status != http.StatusAccepted || accepted > room {
			t.Fatalf("payment %d: %d %s", accepted, status, body)
		}
	}
	if accepted != room {
		t.Errorf("%d payments were accepted, and there is room for %d", accepted, room)
	}
	if g.ready.why() == "" {
		t.Error("ready without room")
	}
	w.paidOnce(t, g, room)
	if g.post(nthID(3), "1.00") != http.StatusAccepted {
		t.Error("a payment that is known was refused")
	}
	makeRoom()
	eventually(t, "it is accepted", func() bool { return g.post(nthID(room), "1.00") == http.StatusAccepted })
	w.paidOnce(t, g, room+1)
}

// TestFullDiskAtTheStartFinishesWhatIsThere: the instance's own journal is taken up on a disk without a byte of room.
func TestFullDiskAtTheStartFinishesWhatIsThere(t *testing.T) {
	w := damagedWorld(t)
	w.dir = smallDisk(t, 4*segmentBytes)
	dir := w.claimed(t, 5)
	if err := os.Remove(segmentPath(dir, 1)); err != nil { // the spare one: it cannot be made again
		t.Fatal(err)
	}
	fillUp(t, w.dir)
	g := w.start(t)
	w.paidOnce(t, g, 5)
	j := g.ledger.active
	j.next.Store(j.limit.Load())
	if status := g.post(nthID(9), "1.00"); status != http.StatusServiceUnavailable {
		t.Errorf("answered %d without room", status)
	}
}

// TestFullDiskAtTheStartOfANewInstance: there is no room for a journal of its own. It finishes those of others, refuses new
// payments, and accepts them when there is room.
func TestFullDiskAtTheStartOfANewInstance(t *testing.T) {
	w := damagedWorld(t)
	w.dir = smallDisk(t, 5*segmentBytes)
	w.claimed(t, 5)
	makeRoom := fillUp(t, w.dir)
	g := w.start(t, "INSTANCE", "another")
	if status := g.post(nthID(9), "1.00"); status != http.StatusServiceUnavailable {
		t.Errorf("answered %d without a journal", status)
	}
	if g.ready.why() == "" {
		t.Error("ready without a journal")
	}
	w.paidOnce(t, g, 5)
	if status, body, _ := g.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Errorf("purge: %d %s", status, body)
	}
	makeRoom()
	eventually(t, "it is accepted", func() bool { return g.post(nthID(9), "1.00") == http.StatusAccepted })
	g.becomes(nthID(9), "settled default")
	g.stopAll()

	g = w.start(t, "INSTANCE", "another")
	if s := g.state(nthID(9)); s != "settled default" {
		t.Errorf("after a restart it is %s", s)
	}
	if mark := g.ledger.active.head.mark.Load(); mark != 1 || g.ledger.active.head.madeBy() != "another" {
		t.Errorf("its journal has the mark %d and was made by %q", mark, g.ledger.active.head.madeBy())
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "*.new")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// coverReadOnly makes dir read-only for whoever opens something in it from now on.
func coverReadOnly(t *testing.T, dir string) (uncover func()) {
	t.Helper()
	mountOr(t, dir, dir, "", unix.MS_BIND, "")
	covered := true
	uncover = func() {
		if covered {
			covered = false
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(uncover)
	mountOr(t, "", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	return uncover
}

func TestJournalFolderThatBecomesReadOnlyRefusesAndGoesOn(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	uncover := coverReadOnly(t, w.dir)
	j := g.ledger.active
	g.accepted(nthID(0), "1.00")
	j.next.Store(j.limit.Load() - 1)
	g.accepted(nthID(1), "1.00") // what is mapped can be used
	if status := g.post(nthID(2), "1.00"); status != http.StatusServiceUnavailable {
		t.Errorf("answered %d", status)
	}
	w.paidOnce(t, g, 2)
	uncover()
	eventually(t, "it is accepted", func() bool { return g.post(nthID(2), "1.00") == http.StatusAccepted })
	w.paidOnce(t, g, 3)
}

func TestJournalFolderThatCannotBeUsedStopsTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(t *testing.T, dir, why string) {
		t.Helper()
		w := newTestWorld(t)
		w.dir = dir
		_, err := w.build()
		if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("DATA_DIR=%q: cannot ", dir)) || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "\n") {
			t.Errorf("started with %v, want one line that names DATA_DIR, its value and %q", err, why)
		}
	}
	t.Run("a file", func(t *testing.T) { refused(t, file, "not a directory") })
	t.Run("below a file", func(t *testing.T) { refused(t, filepath.Join(file, "data"), "not a directory") })
	t.Run("read-only", func(t *testing.T) {
		dir := t.TempDir()
		coverReadOnly(t, dir)
		refused(t, dir, "read-only file system")
	})
	t.Run("not there, in a read-only one", func(t *testing.T) {
		dir := t.TempDir()
		coverReadOnly(t, dir)
		refused(t, filepath.Join(dir, "data"), "read-only file system")
	})
	t.Run("somebody else's", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may write everywhere")
		}
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, "permission denied")
	})
}
