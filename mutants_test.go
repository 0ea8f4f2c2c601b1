//go:build mutants

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var mutantBinaries = flag.String("mutant-binaries", "", "a folder in which to leave a galo of every mutant, for go run ./bench faults -galo")

// TestMutantsAreCaught builds galo broken in each of the ways of the table, and wants what has to catch that to fail. The code
// itself stays as it is: the compiler is given another text for one file. Segments are small in all of them: see segmentsize_small.go.
func TestMutantsAreCaught(t *testing.T) {
	whole := buildTests(t, "")
	for _, m := range mutants { // what fails anyway has caught nothing
		if m.tests != "" {
			if out, err := runTests(whole, m.tests); err != nil {
				t.Fatalf("%s fails without a mutant:\n%s", m.tests, out)
			}
		}
	}
	if out, err := runModel(whole, 100); err != nil {
		t.Fatalf("the model fails without a mutant:\n%s", out)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			overlay := m.overlay(t)
			if *mutantBinaries != "" {
				mustRun(t, "go", "build", "-overlay", overlay, "-o", filepath.Join(*mutantBinaries, "galo-"+strings.Join(strings.Fields(m.name), "-")), ".")
			}
			broken := buildTests(t, overlay)
			if m.model {
				wantCaught(t)(runModel(broken, 3000))
			}
			if m.tests != "" {
				wantCaught(t)(runTests(broken, m.tests))
			}
		})
	}
}

// overlay writes down for the compiler which file to take another text for.
func (m *mutant) overlay(t *testing.T) string {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed, list := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, m.file): changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(changed, []byte(m.mutated(t)), 0o600), os.WriteFile(list, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return list
}

// buildTests makes the tests of galo, as an overlay has it.
func buildTests(t *testing.T, overlay string) string {
	t.Helper()
	made := filepath.Join(t.TempDir(), "galo.test")
	mustRun(t, "go", "test", "-c", "-overlay", overlay, "-tags", "smallsegments", "-ldflags", "-s -w", "-o", made, ".")
	return made
}

func mustRun(t *testing.T, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
}

func runModel(tests string, schedules int) ([]byte, error) {
	return exec.Command(tests, "-test.run", "^TestProtocolHoldsUnderRandomSchedules$", "-test.timeout", "10m", "-schedules", fmt.Sprint(schedules)).CombinedOutput()
}

func runTests(tests, pattern string) ([]byte, error) {
	return exec.Command(tests, "-test.run", "^("+pattern+")$", "-test.timeout", "5m", "-test.v").CombinedOutput()
}

// wantCaught wants a run of tests to have failed, in a test and for a reason.
func wantCaught(t *testing.T) func(out []byte, err error) {
	t.Helper()
	return func(out []byte, err error) {
		t.Helper()
		reasons := failure.FindAllString(string(out), 4)
		if err == nil || len(reasons) == 0 {
			t.Errorf("nothing has noticed it (%v):\n%s", err, out)
			return
		}
		t.Logf("caught:\n%s", strings.Join(reasons, "\n"))
	}
}

var failure = regexp.MustCompile(`(?m)^\s+\S+_test\.go:\d+: .*$|^panic: .*$|^--- FAIL: .*$`)
