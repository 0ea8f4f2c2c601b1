package main

import (
	"bytes"
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestFlightsDoNotWaitForEachOther: however many are out, each starts at once; of their goroutines some stay for the next ones, and none
// outlives its context.
func TestFlightsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights
		var out atomic.Int64
		ctx, end := context.WithCancel(t.Context())
		running := func() int64 { // of all goroutines: a test before this one may have left some that end meanwhile
			stacks := make([]byte, 4<<20)
			return int64(bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("(*flights).run(")))
		}
		for _, n := range []int64{1, 3 * maxBack, maxBack} {
			land := make(chan struct{})
			for range n {
				f.start(flight{ctx: ctx, fly: func(flight) {
					out.Add(1)
					<-land
					out.Add(-1)
				}})
			}
			synctest.Wait()
			if got := out.Load(); got != n {
				t.Errorf("%d of %d are out", got, n)
			}
			close(land)
			synctest.Wait()
			if kept := running(); out.Load() != 0 || kept > maxBack || kept != f.back.Load() {
				t.Errorf("%d are out, and %d goroutines kept, %d of them known", out.Load(), kept, f.back.Load())
			}
		}
		if f.back.Load() != maxBack {
			t.Errorf("%d are kept for the next ones", f.back.Load())
		}
		end()
		f.wait()
	})
}
