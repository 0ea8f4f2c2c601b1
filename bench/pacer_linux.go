package main

import (
	"syscall"
	"time"
)

// shortSleep is the last stretch before a shot. The runtime's own timers wake up to a millisecond late when nothing
// else runs, which would be measured as galo's; the kernel's are right to some 60 µs.
func shortSleep(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // cut short by a signal: the caller looks at the clock again
}
