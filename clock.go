package main

import (
	"context"
	"time"
)

// clock tells the instants that galo measures waiting with. It starts at the wall clock's time and then follows the
// monotonic one, so that neither patience nor the order of acceptance suffers when the wall clock is stepped. What a
// processor is told (requestedAt) comes from the wall clock instead.
type clock struct {
	start time.Time // carries the monotonic reading
	base  micros
}

func newClock() *clock {
	now := time.Now()
	return &clock{start: now, base: micros(now.UnixMicro())}
}

func (c *clock) now() micros { return c.base + micros(time.Since(c.start).Microseconds()) }

// since is how long ago an instant of this clock was. One that lies ahead is from before a restart, and the wall clock was stepped
// back meanwhile: it counts as the start, so that nothing waits longer than if it had been accepted then.
func (c *clock) since(t micros) time.Duration {
	now := c.now()
	if t > now {
		t = c.base
	}
	return time.Duration(now-t) * time.Microsecond
}

// each calls f again and again, with so much time between two beginnings, until ctx ends.
func each(ctx context.Context, every time.Duration, f func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}
