package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// modelFolders are data folders that schedules use one after the other. To make a journal takes longer than to play a schedule
// (8 MB are allocated and touched), so the first journal of each instance is emptied and used again.
type modelFolders struct {
	t      *testing.T
	parent string
}

// newModelFolders makes them in memory where there is such a place.
func newModelFolders(t *testing.T) *modelFolders {
	parent, err := os.MkdirTemp("/dev/shm", "galo-model-")
	if err != nil {
		return &modelFolders{t, t.TempDir()}
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	return &modelFolders{t, parent}
}

// take returns the folder for so many instances.
func (f *modelFolders) take(instances int) string {
	return filepath.Join(f.parent, fmt.Sprint(instances))
}

// giveBack empties a folder that nobody uses any more.
func (f *modelFolders) giveBack(dir string) {
	kept := make(map[string]bool)
	folder := &folder{path: dir, log: quietLog()}
	ids, err := folder.journalIDs()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, id := range ids {
		j, err := folder.claim(id)
		if err != nil {
			f.t.Fatal(err)
		}
		name := j.head.madeBy()
		numbers, err := segmentNumbers(j.dir)
		if err == nil && (kept[name] || !slices.Equal(numbers, []uint64{0, 1})) {
			err = os.RemoveAll(j.dir)
		} else if err == nil {
			kept[name] = true
			err = emptyJournal(j, numbers)
		}
		if err != nil {
			f.t.Fatal(err)
		}
		j.close()
	}
}

// modelMostPosts is more than any journal gets in a schedule.
const modelMostPosts = 512

func emptyJournal(j *journal, numbers []uint64) error {
	j.head.mark.Store(0)
	j.head.purging.Store(0)
	for _, number := range numbers {
		seg, err := openSegment(j.dir, j.id, number)
		if err != nil {
			return err
		}
		seg.head.boot = firstBoot
		seg.head.sum = seg.head.checksum()
		seg.head.finalSince.Store(0)
		seg.head.purged.Store(0)
		for i := range min(segmentSlots, modelMostPosts) {
			clear(seg.data[segmentHeader+i*slotSize:][:slotSize])
		}
		if err := seg.unmap(); err != nil {
			return err
		}
	}
	return nil
}
