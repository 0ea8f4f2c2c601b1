package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// checkUntil runs a checker against a galo that counts so many payments too many at its nth summary, until it has looked often
// enough to know.
func checkUntil(t *testing.T, c *checker, tooMany func(n int64) int) checkCounts {
	t.Helper()
	for p := range c.admins {
		_, c.admins[p] = served(t)
	}
	var asked atomic.Int64
	galo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"default":{"totalRequests":%d,"totalAmount":0.00},"fallback":{"totalRequests":0,"totalAmount":0.00}}`, tooMany(asked.Add(1)))
	}))
	t.Cleanup(galo.Close)
	var err error
	if c.door, err = newDoor(galo.URL); err != nil {
		t.Fatal(err)
	}
	c.say = t.Logf
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(ctx, time.Now(), 20*time.Millisecond)
	}()
	for n := c.sofar(); n.Agreed == 0 && n.Disagreed == 0 && n.Passing == 0; n = c.sofar() { // the test's own time-out bounds it
		time.Sleep(time.Millisecond)
	}
	stop()
	<-ended
	return c.sofar()
}

func lateOnce(n int64) int {
	if n == 1 {
		return 1
	}
	return 0
}

func lateForAWhile(n int64) int {
	if n <= 3 {
		return 1
	}
	return 0
}

func alwaysWrong(int64) int { return 1 }

func TestDisagreementCountsEvenIfItIsOverAtTheNextLook(t *testing.T) {
	if n := checkUntil(t, &checker{}, lateOnce); n.Disagreed == 0 || n.Passing != 0 {
		t.Errorf("counted %+v", n)
	}
}

// TestUntimedForgivesOnlyWhatIsOverAtALaterLook: what is wrong for good is wrong on every machine.
func TestUntimedForgivesOnlyWhatIsOverAtALaterLook(t *testing.T) {
	for _, late := range []func(int64) int{lateOnce, lateForAWhile} {
		if n := checkUntil(t, &checker{untimed: time.Hour}, late); n.Disagreed != 0 || n.Passing != 1 {
			t.Errorf("counted %+v", n)
		}
	}
	if n := checkUntil(t, &checker{untimed: time.Millisecond}, alwaysWrong); n.Disagreed == 0 || n.Passing != 0 {
		t.Errorf("counted %+v", n)
	}
}

func TestUntimedIsOffUnlessItIsAskedFor(t *testing.T) {
	for _, args := range [][]string{nil, {"-untimed"}} {
		s, err := parseSettings(args, t.Output())
		if err != nil || (s.stormOptions(nil).untimed > 0) != (len(args) > 0) {
			t.Errorf("%v: %+v, %v", args, s, err)
		}
	}
}
