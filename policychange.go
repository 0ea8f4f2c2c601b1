package main

import (
	"context"
	"log/slog"
	"time"
)

// standing is what the policy takes a processor for.
type standing uint8

const (
	standingOpen   standing = iota // it answers in good time
	standingSlow                   // it answers, but so late that payments wait for something better while they have patience
	standingClosed                 // it refuses: nothing but probes goes there
)

func (s standing) String() string { return [...]string{"open", "slow", "closed"}[s] }

func (s *processorState) standing(now time.Time) standing {
	switch {
	case !s.open:
		return standingClosed
	case !s.good(now):
		return standingSlow
	}
	return standingOpen
}

// changed is called wherever the standing of a processor may have changed, under the policy's mu. If it has, one line of the log
// says so and why, and the change is timed: leaving open, since the last sign that all was well (the time to detect); being open
// again, since it was left (the time to recover).
func (p *policy) changed(id processorID, now time.Time, why string) bool {
	s := &p.state[id]
	was, is := s.stood, s.standing(now)
	if is == was {
		return false
	}
	s.stood = is
	s.changes++
	level, words := slog.LevelWarn, []any{"processor", id.String(), "was", was.String(), "why", why, "expected", s.expected(now)}
	switch {
	case is == standingOpen:
		away := now.Sub(s.leftAt)
		level, words = slog.LevelInfo, append(words, "away", away, "waiting", p.heldNow())
		p.timed(id, is, away)
		if !p.pace.on {
			p.pace.start(now, p.perSecond(now))
		}
	case was == standingOpen:
		s.leftAt = now
		if !s.goodAt.IsZero() {
			last := now.Sub(s.goodAt)
			words = append(words, "last_good", last)
			p.timed(id, is, last)
		}
	}
	p.log.Log(context.Background(), level, "processor "+is.String(), words...)
	return true
}

// held is how many payments wait for the policy.
func (p *policy) held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return 0 // what is in the rings is on its way
	}
	return p.heldNow()
}

// heldNow is for whoever has mu: those that have asked, and those that queue behind them.
func (p *policy) heldNow() int { return len(p.waiting) + p.backlog() }

// oldestHeld is how long ago the payment was accepted that waits for the policy longest.
func (p *policy) oldestHeld() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return 0
	}
	return p.clock.since(p.waiting[0].acceptedAt)
}
