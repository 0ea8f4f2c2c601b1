package main

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestThreadsHaveShortSlices: those that there are, and those that come. In a process of its own, for it lasts.
func TestThreadsHaveShortSlices(t *testing.T) {
	if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Runtime == 0 {
		t.Skipf("this kernel shows no slices (%v)", err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestBeingShortSliced$", "-test.v")
	cmd.Env = append(os.Environ(), "GALO_TEST_SLICES=1")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBeingShortSliced(t *testing.T) {
	if os.Getenv("GALO_TEST_SLICES") == "" {
		t.Skip("started by TestThreadsHaveShortSlices")
	}
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if before.Policy != unix.SCHED_NORMAL {
		t.Skipf("somebody has chosen policy %d for these tests", before.Policy)
	}
	if err := askForShortSlices(); err != nil {
		t.Fatal(err)
	}
	ready, leave := make(chan struct{}), make(chan struct{})
	const more = 5
	for range more {
		go func() {
			runtime.LockOSThread()
			ready <- struct{}{}
			<-leave
		}()
	}
	for range more {
		<-ready
	}
	defer close(leave)
	list, err := os.ReadDir("/proc/self/task")
	if err != nil || len(list) < more {
		t.Fatalf("%d threads: %v", len(list), err)
	}
	for _, one := range list {
		id, err := strconv.Atoi(one.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err != nil {
			t.Fatal(err)
		}
		if attr.Policy != before.Policy || attr.Nice != before.Nice || attr.Runtime != shortestSlice {
			t.Errorf("thread %d has %+v", id, *attr)
		}
	}
}
