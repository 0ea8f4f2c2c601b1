package main

import "time"

// pace bounds how fast payments are let go that have waited: each costs CPU that intake lives on, too. It grows from step to step as long as
// its own timer comes in time, and shrinks when that is late: then the CPU is spent.
type pace struct {
	on        bool
	perSecond float64
	nextAt    time.Time // when the next one may go
	judgedAt  time.Time
	late      time.Duration // the latest that a timer was since then
	bound     bool          // it kept somebody since then
}

const (
	firstPace  = 500 // per second, and at least twice the rate of arrivals
	paceStep   = 100 * time.Millisecond
	paceGrowth = 1.5
	// A timer is a millisecond late at best where its thread slept. What comes later shows in what clients wait for.
	paceInTime, paceLate = 2 * time.Millisecond, 5 * time.Millisecond
	// So much may be caught up after a timer that came late, and so many at any pace: they all go at once, and clients wait behind them.
	paceSlack, paceSlackPayments = 2 * time.Millisecond, 5
)

func (c *pace) start(now time.Time, rate int64) {
	*c = pace{on: true, perSecond: slowestPace(rate), nextAt: now, judgedAt: now}
}

// slowestPace is above the rate of arrivals, or what waits would never be fewer.
func slowestPace(rate int64) float64 { return max(firstPace, 2*float64(rate)) }

// holds says that nobody may be let go yet.
func (c *pace) holds(now time.Time) bool {
	if !c.on || !now.Before(c.nextAt) {
		return false
	}
	c.bound = true
	return true
}

// spend counts one that was let go, while so many are left.
func (c *pace) spend(now time.Time, left int) {
	if left == 0 {
		c.on = false
	}
	each := time.Duration(float64(time.Second) / c.perSecond)
	c.nextAt = later(c.nextAt, now.Add(-max(paceSlack, paceSlackPayments*each))).Add(each)
}

// judge learns from how late a timer was, while so many payments arrive in a second.
func (c *pace) judge(now time.Time, late time.Duration, rate int64) {
	c.late = max(c.late, late)
	if !c.on || now.Sub(c.judgedAt) < paceStep {
		return
	}
	switch {
	case c.late < paceInTime && c.bound:
		c.perSecond *= paceGrowth
	case c.late > paceLate:
		c.perSecond /= 2
	}
	c.perSecond = max(c.perSecond, slowestPace(rate))
	c.judgedAt, c.late, c.bound = now, 0, false
}
