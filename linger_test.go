package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestLingerIsUntilThereIsEnough: as long as it may take at most while little comes, and shorter while much does, from the second batch on.
func TestLingerIsUntilThereIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const longest = 60 * time.Millisecond
		l := newLinger(longest, 20)
		want := func(what string, want time.Duration) {
			t.Helper()
			if got := l.now(); got != want {
				t.Errorf("%s it lingers for %v, want %v", what, got, want)
			}
		}
		want("before anything came", longest)
		l.took(1)
		want("after the first one", longest)
		time.Sleep(longest)
		l.took(15)
		want("at 15 in the longest", longest)
		for range 3 {
			at := l.now()
			time.Sleep(at)
			l.took(int(at / time.Millisecond)) // one each millisecond
		}
		want("at one a millisecond", 20*time.Millisecond)
		time.Sleep(20 * time.Millisecond)
		l.took(0)
		want("after none was taken", 20*time.Millisecond)
		time.Sleep(time.Hour)
		l.took(1)
		want("after an hour with nothing", longest)
		l.took(64)
		want("after many at once", 0)
	})
}

func TestNobodyLingersWhereNobodyShall(t *testing.T) {
	l := newLinger(0, 20)
	l.took(3)
	if got := l.now(); got != 0 {
		t.Errorf("it lingers for %v", got)
	}
}
