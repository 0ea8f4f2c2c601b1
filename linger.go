package main

import (
	"sync"
	"time"
)

// linger says how long to wait for more before a batch goes. As long as it may take at most, while little comes: so a batch has more in it, and
// whatever a batch costs by itself is shared by more. As long as it takes until there is enough, while much comes: a large batch goes out at
// once and comes back at once, and clients wait behind both (bench/RESULTS.md). Its methods may be called at the same time.
type linger struct {
	longest time.Duration // 0: never
	enough  int

	mu   sync.Mutex
	last time.Time     // when the last batch went
	gap  time.Duration // from one to the next in it, on the mean; not above longest
}

func newLinger(longest time.Duration, enough int) *linger {
	return &linger{longest: longest, enough: enough, gap: longest}
}

// now is how long to linger, as things are.
func (l *linger) now() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(l.longest, time.Duration(l.enough)*l.gap)
}

// took notes that a batch of n has gone.
func (l *linger) took(n int) {
	if l.longest <= 0 || n <= 0 {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gap = min(l.longest, now.Sub(l.last)/time.Duration(n))
	l.last = now
}
