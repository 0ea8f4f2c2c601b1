package main

import (
	"errors"
	"testing"
)

// TestClimbEndsBetweenWhatIsHeldAndWhatIsNot wherever it starts, and close to the limit.
func TestClimbEndsBetweenWhatIsHeldAndWhatIsNot(t *testing.T) {
	for _, start := range []float64{0.5, 1, 4, 16} {
		const limit = 4.3
		held, over, tries := 0.0, 1000.0, 0
		err := climb(start, func(factor float64) (bool, error) {
			tries++
			if factor <= limit {
				held = max(held, factor)
			} else {
				over = min(over, factor)
			}
			return factor <= limit, nil
		})
		if err != nil || held > limit || over <= limit || over > held*highestWithin || tries > 10 {
			t.Errorf("from %v: held %v, over %v, after %d tries, %v", start, held, over, tries, err)
		}
	}
}

// TestClimbEndsWithoutALimit: everything is held, nothing is, or something else went wrong.
func TestClimbEndsWithoutALimit(t *testing.T) {
	for _, all := range []bool{true, false} {
		if err := climb(1, func(float64) (bool, error) { return all, nil }); err != nil {
			t.Error(err)
		}
	}
	broken := errors.New("broken")
	if err := climb(1, func(float64) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
