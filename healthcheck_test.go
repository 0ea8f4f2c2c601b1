package main

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestFirstHealthCheckAsksAtOnceAndLaterOnesRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, rest := t.TempDir(), []string{"-rest", "30s"}
		ready := errors.New("not ready")
		check := func() (took time.Duration, err error) {
			began := time.Now()
			err = checkRested(t.Context(), rest, dir, func() error { return ready })
			return time.Since(began), err
		}
		if took, err := check(); err == nil || took != 0 {
			t.Fatalf("instance is not ready, and the check says %v after %v", err, took)
		}
		ready = nil
		if took, err := check(); err != nil || took != 0 {
			t.Fatalf("instance was never ready before, and the check says %v after %v", err, took)
		}
		if took, err := check(); err != nil || took != 30*time.Second {
			t.Fatalf("instance was ready, and the check says %v after %v", err, took)
		}
		ready = errors.New("not ready any more")
		if _, err := check(); !errors.Is(err, ready) {
			t.Fatalf("instance is not ready any more, and the check says %v", err)
		}
	})
}

// TestInstanceThatCannotBeMarkedIsReady: where there is no place for the mark, checks do not rest, and still say the truth.
func TestInstanceThatCannotBeMarkedIsReady(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "missing")
	for range 2 {
		if err := checkRested(t.Context(), []string{"-rest", "1h"}, nowhere, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHealthCheckWithoutRestNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		for range 3 {
			if err := checkRested(t.Context(), nil, t.TempDir(), func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Fatalf("it waited %v", took)
		}
	})
}
