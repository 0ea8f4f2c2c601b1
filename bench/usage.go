package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A meter adds up what the containers of a stack use from its making on. It is read by one goroutine at a time.
type meter struct {
	engine  *engine
	began   time.Time
	metered []*meteredContainer
}

// meteredContainer may die and come back, and then the kernel counts from nothing again.
type meteredContainer struct {
	container
	use     containerUse
	last    reading
	history []usedBy // one after each reading, in order
}

// usedBy is what had been used at a moment.
type usedBy struct {
	at  time.Time
	use containerUse
}

// containerUse is what one container has used of what it may use.
type containerUse struct {
	Service          string  `json:"service"`
	CPUSeconds       float64 `json:"cpuSeconds"`
	CPULimit         float64 `json:"cpuLimit"` // CPUs
	Periods          int64   `json:"periods"`
	ThrottledPeriods int64   `json:"throttledPeriods"`
	ThrottledSeconds float64 `json:"throttledSeconds"`
	MemoryPeak       int64   `json:"memoryPeak"` // bytes
	MemoryLimit      int64   `json:"memoryLimit"`
}

// How often containers are read. To ask Docker for five of them takes so much that it shows in clients' p99.
const (
	// readOften bounds, with the second that a reading may take, what is not counted of a container that dies, and what is counted in the
	// wrong part of a storm.
	readOften = time.Second
	// readSeldom is for the highest use of memory, where the kernel does not keep it.
	readSeldom = 10 * time.Second
)

func newMeter(ctx context.Context, e *engine, all []container) (*meter, error) {
	m := &meter{engine: e}
	for _, c := range all {
		state, err := e.state(ctx, c)
		if err != nil {
			return nil, err
		}
		first, err := e.read(ctx, c)
		if err != nil {
			return nil, err
		}
		m.metered = append(m.metered, &meteredContainer{container: c, last: first, use: containerUse{
			Service: c.service, CPULimit: float64(state.HostConfig.NanoCpus) / 1e9, MemoryLimit: state.HostConfig.Memory,
			MemoryPeak: first.memory,
		}})
	}
	m.began = time.Now()
	slices.SortFunc(m.metered, func(a, b *meteredContainer) int { return cmp.Compare(a.service, b.service) })
	return m, nil
}

// start reads again and again until it is stopped, which may be said twice.
func (m *meter) start(ctx context.Context, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	reading.Go(func() { each(ctx, every, func() { m.read(ctx) }) })
	return func() {
		cancel()
		reading.Wait()
	}
}

// read takes one reading of each container, all at the same time, since some versions of Docker take a second for one.
// A container that is not there at the moment is read the next time.
func (m *meter) read(ctx context.Context) {
	var reads sync.WaitGroup
	for _, c := range m.metered {
		reads.Go(func() {
			if now, err := m.engine.read(ctx, c.container); err == nil {
				c.add(now)
			}
		})
	}
	reads.Wait()
}

func (c *meteredContainer) add(now reading) {
	if now.cpu == 0 {
		return // stopped: Docker answers with nothing
	}
	was := c.last
	if now.cpu < was.cpu {
		was = reading{}
	}
	c.use.CPUSeconds += (now.cpu - was.cpu).Seconds()
	c.use.Periods += now.periods - was.periods
	c.use.ThrottledPeriods += now.throttled - was.throttled
	c.use.ThrottledSeconds += (now.throttledTime - was.throttledTime).Seconds()
	c.use.MemoryPeak = max(c.use.MemoryPeak, now.memory)
	c.last = now
	c.history = append(c.history, usedBy{now.at, c.use})
}

// used is everything up to now, and over what time.
func (m *meter) used(ctx context.Context) ([]containerUse, time.Duration) {
	m.read(ctx)
	over := time.Since(m.began)
	var all []containerUse
	for _, c := range m.metered {
		all = append(all, c.use)
	}
	return all, over
}

// between is what was used from one moment to another, in proportion where they are between two readings. Of memory it says nothing.
func (m *meter) between(from, to time.Time) []containerUse {
	var all []containerUse
	for _, c := range m.metered {
		a, b := c.usedAt(from), c.usedAt(to)
		all = append(all, containerUse{
			Service: c.service, CPULimit: c.use.CPULimit, CPUSeconds: b.CPUSeconds - a.CPUSeconds, Periods: b.Periods - a.Periods,
			ThrottledPeriods: b.ThrottledPeriods - a.ThrottledPeriods, ThrottledSeconds: b.ThrottledSeconds - a.ThrottledSeconds,
		})
	}
	return all
}

func (c *meteredContainer) usedAt(t time.Time) containerUse {
	next, _ := slices.BinarySearchFunc(c.history, t, func(u usedBy, t time.Time) int { return u.at.Compare(t) })
	switch {
	case len(c.history) == 0:
		return c.use
	case next == 0:
		return c.history[0].use
	case next == len(c.history):
		return c.history[next-1].use
	}
	a, b := c.history[next-1], c.history[next]
	share := t.Sub(a.at).Seconds() / b.at.Sub(a.at).Seconds()
	part := func(a, b int64) int64 { return a + int64(share*float64(b-a)+0.5) }
	return containerUse{
		CPUSeconds:       a.use.CPUSeconds + share*(b.use.CPUSeconds-a.use.CPUSeconds),
		Periods:          part(a.use.Periods, b.use.Periods),
		ThrottledPeriods: part(a.use.ThrottledPeriods, b.use.ThrottledPeriods),
		ThrottledSeconds: a.use.ThrottledSeconds + share*(b.use.ThrottledSeconds-a.use.ThrottledSeconds),
	}
}

const megabyte = 1 << 20

// describe is a line for a person; the time is what the CPU's limit is held against.
func (u containerUse) describe(over time.Duration) string {
	return fmt.Sprintf("%-6s CPU %6.2f s of %6.2f s, throttled in %d of %d periods for %.2f s; memory at most %.1f of %.0f MB",
		u.Service, u.CPUSeconds, u.CPULimit*over.Seconds(), u.ThrottledPeriods, u.Periods, u.ThrottledSeconds,
		float64(u.MemoryPeak)/megabyte, float64(u.MemoryLimit)/megabyte)
}

// describePhase is the same about some seconds of a storm.
func (u containerUse) describePhase(seconds float64) string {
	return fmt.Sprintf("%-6s CPU %6.2f s of %6.2f s, throttled in %d of %d periods for %.2f s",
		u.Service, u.CPUSeconds, u.CPULimit*seconds, u.ThrottledPeriods, u.Periods, u.ThrottledSeconds)
}

// together adds containers up. The highest memory of each did not come at one moment: it is a bound.
func together(all []containerUse) containerUse {
	sum := containerUse{Service: "all"}
	for _, u := range all {
		sum.CPUSeconds += u.CPUSeconds
		sum.CPULimit += u.CPULimit
		sum.Periods += u.Periods
		sum.ThrottledPeriods += u.ThrottledPeriods
		sum.ThrottledSeconds += u.ThrottledSeconds
		sum.MemoryPeak += u.MemoryPeak
		sum.MemoryLimit += u.MemoryLimit
	}
	return sum
}
