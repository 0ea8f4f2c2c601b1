package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// TestCheckThatRestsIsNotTraced: whatever else the runtime was asked for stays.
func TestCheckThatRestsIsNotTraced(t *testing.T) {
	for asked, want := range map[string]string{
		"schedtrace=1000000000":                    "",
		"gctrace=0,schedtrace=1000,madvdontneed=1": "gctrace=0,madvdontneed=1",
		"madvdontneed=1":                           "madvdontneed=1",
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestBeingAHealthCheck$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG="+asked, "GALO_TEST_HEALTHCHECK=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), fmt.Sprintf("GODEBUG is %q", want)) {
			t.Errorf("GODEBUG=%s: %v\n%s", asked, err, out)
		}
	}
}

func TestBeingAHealthCheck(t *testing.T) {
	if os.Getenv("GALO_TEST_HEALTHCHECK") == "" {
		t.Skip("started by TestCheckThatRestsIsNotTraced")
	}
	withoutTrace()
	t.Logf("GODEBUG is %q", os.Getenv("GODEBUG"))
}
