//go:build !linux

package main

import "time"

// shortSleep is the last stretch before a shot.
func shortSleep(d time.Duration) { time.Sleep(d) }
