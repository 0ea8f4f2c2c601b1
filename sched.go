package main

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// shortestSlice is what the kernel allows at least, in nanoseconds.
const shortestSlice = 100_000

// askForShortSlices asks the kernel to give this process its turns at a core sooner and shorter. What galo does for a request takes a tenth
// of a millisecond, and whoever has the core when that request comes would keep it until his slice is over, which is a millisecond or more;
// the kernel lets a task that has asked for a shorter one go first (Linux 6.12 and later, sched_setattr(2); earlier ones take no
// notice). It costs nobody anything: a task's share of the time is what it was. bench/RESULTS.md says what it brings.
//
// All threads that there are get it, and those that they start inherit it. An error says that everything is as it was for one of them at least.
func askForShortSlices() error {
	done := make(map[string]bool)
	for more := true; more; { // a thread may have been started by one whose turn was yet to come
		list, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		more = false
		for _, one := range list {
			if done[one.Name()] {
				continue
			}
			id, err := strconv.Atoi(one.Name())
			if err != nil {
				return err
			}
			if err := shortenSlice(id); err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
				return err
			}
			done[one.Name()], more = true, true
		}
	}
	return nil
}

func shortenSlice(thread int) error {
	attr, err := unix.SchedGetAttr(thread, 0)
	if err != nil {
		return os.NewSyscallError("sched_getattr", err)
	}
	if attr.Policy != unix.SCHED_NORMAL { // somebody has decided otherwise, and another policy's runtime is no slice
		return nil
	}
	attr.Runtime = shortestSlice
	return os.NewSyscallError("sched_setattr", unix.SchedSetAttr(thread, attr, 0))
}
