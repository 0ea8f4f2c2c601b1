package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// otherFormat makes a journal in which a file is of another version, and so has a checksum that fits no file of this one. A
// half-made segment lies beside it.
func otherFormat(t *testing.T, dir, file string, version uint32) {
	t.Helper()
	f, err := openFolder(dir, "other", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := openLedger(f, newClock(), 10, time.Hour, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, 1, 1)
	if head := l.active.head; file == "head" {
		head.version, head.sum = version, ^head.sum
	} else {
		head := l.active.table.Load().at(1).head
		head.version, head.sum = version, ^head.sum
	}
	if err := os.WriteFile(segmentPath(l.active.dir, 7)+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(segmentPath(l.active.dir, 0), segmentBytes-8); err != nil { // would be repaired
		t.Fatal(err)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
}

// wholeFolder is every byte of every file below dir.
func wholeFolder(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameFolder(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for path, content := range a {
		if b[path] != content {
			return false
		}
	}
	return true
}

// TestOtherFormatsAreRefusedUntouched: byte for byte, with all that a start would tidy up and repair.
func TestOtherFormatsAreRefusedUntouched(t *testing.T) {
	for _, file := range []string{"head", "segment"} {
		for _, version := range []uint32{formatVersion + 1, newestVersion} {
			t.Run(fmt.Sprint(file, version), func(t *testing.T) {
				dir := t.TempDir()
				own, _ := openTestLedger(t, dir) // a journal of this format comes first or second
				accept(t, own, 2, 1)
				if err := own.close(); err != nil {
					t.Fatal(err)
				}
				otherFormat(t, dir, file, version)
				before := wholeFolder(t, dir)
				w := newTestWorld(t)
				w.dir = dir
				_, err := w.build()
				if !errors.Is(err, errNewerFormat) || !strings.HasPrefix(err.Error(), "DATA_DIR=") || strings.Contains(err.Error(), "\n") {
					t.Errorf("started with %v", err)
				}
				if !sameFolder(before, wholeFolder(t, dir)) {
					t.Error("files were changed")
				}
			})
		}
	}
}

// TestOtherFormatIsPassedOverWhileServing: it came into the folder later.
func TestOtherFormatIsPassedOverWhileServing(t *testing.T) {
	for _, file := range []string{"head", "segment"} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			l, _ := openTestLedger(t, dir)
			defer l.close()
			elsewhere := t.TempDir()
			otherFormat(t, elsewhere, file, formatVersion+1)
			if err := os.CopyFS(dir, os.DirFS(elsewhere)); err != nil {
				t.Fatal(err)
			}
			names, _ := filepath.Glob(filepath.Join(elsewhere, "*"+journalSuffix))
			theirs := filepath.Join(dir, filepath.Base(names[0]))
			before := wholeFolder(t, theirs)
			orphans := make(map[journalID]bool)
			said := ""
			for look := range 4 {
				f, err := l.adoptOrphans(orphans)
				if f.published != 0 {
					t.Errorf("took %+v", f)
				}
				if look >= 2 && (!errors.Is(err, errNewerFormat) || err.Error() != said) {
					t.Errorf("look %d says %v, and %s before: it would be logged again", look, err, said)
				}
				said = fmt.Sprint(err)
			}
			if !sameFolder(before, wholeFolder(t, theirs)) {
				t.Error("files were changed")
			}
			accept(t, l, 5, 1)
		})
	}
}
