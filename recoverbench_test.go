package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fillJournal makes a folder with one journal of a process that is gone, in which so many payments wait.
func fillJournal(tb testing.TB, dir string, payments int) {
	tb.Helper()
	f, err := openFolder(dir, "test", false, quietLog())
	if err != nil {
		tb.Fatal(err)
	}
	l, _, err := openLedger(f, newClock(), payments, time.Hour, quietLog())
	if err != nil {
		tb.Fatal(err)
	}
	for n := range uint64(payments) {
		if n%(segmentSlots/2) == 0 {
			if err := l.active.prepare(); err != nil {
				tb.Fatal(err)
			}
		}
		accept(tb, l, n, nthAmount(n))
	}
	if err := errors.Join(l.active.sync(), l.close()); err != nil {
		tb.Fatal(err)
	}
}

// segmentsIn are the segments of a folder with one journal, and how many bytes they have together.
func segmentsIn(tb testing.TB, dir string) (paths []string, bytes int64) {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+journalSuffix, "*"+segmentSuffix))
	if err != nil || len(paths) == 0 {
		tb.Fatalf("%d segments, %v", len(paths), err)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			tb.Fatal(err)
		}
		bytes += info.Size()
	}
	return paths, bytes
}

// dropCaches has the kernel forget what it keeps of files, so that the next reader waits for the disk. They are written first: what is not
// on the disk cannot be forgotten.
func dropCaches(tb testing.TB, paths []string) {
	tb.Helper()
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		if err := errors.Join(file.Sync(), unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED), file.Close()); err != nil {
			tb.Fatal(err)
		}
	}
}

// readInOrder reads files as fast as plain reading goes.
func readInOrder(tb testing.TB, paths []string, buffer []byte) {
	tb.Helper()
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		for {
			if _, err = file.Read(buffer); err != nil {
				break
			}
		}
		if file.Close(); !errors.Is(err, io.EOF) {
			tb.Fatal(err)
		}
	}
}

// BenchmarkRecover is what a start takes until a journal's payments are known again (RECOVER_PAYMENTS, a million unless it says otherwise),
// beside reading the same files from the first byte to the last and doing nothing with them: with the files in memory (warm), as after
// kill -9, and on the disk alone (cold), as after the host went down. It has to run on a real file system.
func BenchmarkRecover(b *testing.B) {
	payments := sizeFrom(b, "RECOVER_PAYMENTS", "1000000")
	dir := b.TempDir()
	fillJournal(b, dir, payments)
	paths, bytes := segmentsIn(b, dir)
	buffer := make([]byte, 1<<20)
	for _, files := range []string{"warm", "cold"} {
		run := func(name string, do func(b *testing.B)) {
			b.Run(files+"/"+name, func(b *testing.B) {
				b.SetBytes(bytes)
				for b.Loop() {
					if files == "cold" {
						b.StopTimer()
						dropCaches(b, paths)
						b.StartTimer()
					}
					do(b)
				}
				b.ReportMetric(float64(payments)*float64(b.N)/b.Elapsed().Seconds(), "payments/s")
			})
		}
		run("recover", func(b *testing.B) {
			l, found := openTestLedger(b, dir)
			b.StopTimer()
			if len(found.accepted) != payments || found.damaged != 0 {
				b.Fatalf("%d of %d payments were recovered", len(found.accepted), payments)
			}
			if err := l.close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		})
		run("read", func(b *testing.B) { readInOrder(b, paths, buffer) })
	}
}
