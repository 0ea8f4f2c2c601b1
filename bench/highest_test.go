package main

import "testing"

// TestClimbEndsBetweenWhatIsHeldAndWhatIsNot wherever it starts, and close to the limit.
func TestClimbEndsBetweenWhatIsHeldAndWhatIsNot(t *testing.T) {
	for _, start := range []float64{0.5, 1, 4, 16} {
		const limit = 4.3
		c, tries := newClimb(start), 0
		for factor, more := c.next(); more; factor, more = c.next() {
			tries++
			c.was(factor, factor <= limit)
		}
		if c.held > limit || c.over <= limit || c.over > c.held*highestWithin || tries > 10 {
			t.Errorf("from %v: held %v, over %v, after %d tries", start, c.held, c.over, tries)
		}
	}
}

// TestClimbEndsWithoutALimit: everything is held, or nothing is.
func TestClimbEndsWithoutALimit(t *testing.T) {
	for _, all := range []bool{true, false} {
		c, tries := newClimb(1), 0
		for factor, more := c.next(); more && tries < 100; factor, more = c.next() {
			tries++
			c.was(factor, all)
		}
		if tries > 10 {
			t.Errorf("held %t: no end after %d tries", all, tries)
		}
	}
}

// TestOneBadMinuteIsNoVerdict: a rate is tried again before it counts as not held, and each rate has its tries.
func TestOneBadMinuteIsNoVerdict(t *testing.T) {
	s := seeker{climb: newClimb(1)}
	s.judge(1, false)
	if s.climb.over < 64 {
		t.Error("not held after one try")
	}
	s.judge(1, true)
	s.judge(2, false)
	if s.climb.held != 1 || s.climb.over < 64 {
		t.Errorf("%+v", s.climb)
	}
	s.judge(2, false)
	if s.climb.over != 2 {
		t.Errorf("%+v after two tries", s.climb)
	}
}
