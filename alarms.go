package main

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// alarms is a log handler for lines that are about single payments. A gateway that refuses everything would make one of each
// payment, and an operator needs a few: so many lines of one message pass in a second, and the next one that passes says how
// many did not.
type alarms struct {
	slog.Handler
	shared *alarmCounts
}

type alarmCounts struct {
	mu     sync.Mutex
	counts map[string]*alarmCount // by message, of which there are a handful
}

type alarmCount struct {
	since   time.Time
	passed  int
	dropped int
}

const (
	alarmsPerSpan = 10
	alarmSpan     = time.Second
)

// newAlarms returns a logger that passes on to log what is not too much.
func newAlarms(log *slog.Logger) *slog.Logger {
	return slog.New(alarms{log.Handler(), &alarmCounts{counts: make(map[string]*alarmCount)}})
}

// Handle passes a record on or counts it.
func (a alarms) Handle(ctx context.Context, r slog.Record) error {
	dropped, ok := a.shared.pass(r.Message)
	if !ok {
		return nil
	}
	if dropped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("not_shown_before", dropped))
	}
	return a.Handler.Handle(ctx, r)
}

// WithAttrs and WithGroup keep what is counted together.
func (a alarms) WithAttrs(attrs []slog.Attr) slog.Handler {
	return alarms{a.Handler.WithAttrs(attrs), a.shared}
}

func (a alarms) WithGroup(name string) slog.Handler {
	return alarms{a.Handler.WithGroup(name), a.shared}
}

func (c *alarmCounts) pass(message string) (dropped int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts[message]
	if n == nil {
		n = &alarmCount{}
		c.counts[message] = n
	}
	if now := time.Now(); now.Sub(n.since) >= alarmSpan {
		n.since, n.passed = now, 0
	}
	if n.passed == alarmsPerSpan {
		n.dropped++
		return 0, false
	}
	n.passed++
	dropped, n.dropped = n.dropped, 0
	return dropped, true
}
