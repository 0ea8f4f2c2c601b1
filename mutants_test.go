//go:build mutants

package main

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var mutantBinaries = flag.String("mutant-binaries", "", "a folder in which to leave a galo of every mutant, for go run ./bench faults -galo")

// TestMutantsAreCaught builds galo broken in each of the ways of the table, and wants what has to catch that to fail. The code
// itself stays as it is: the compiler is given another text for one file.
func TestMutantsAreCaught(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			dir := t.TempDir()
			changed := filepath.Join(dir, m.file)
			if err := os.WriteFile(changed, []byte(m.mutated(t)), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay := filepath.Join(dir, "overlay.json")
			text, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, m.file): changed}})
			if err == nil {
				err = os.WriteFile(overlay, text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if *mutantBinaries != "" {
				out, err := exec.Command("go", "build", "-overlay", overlay, "-o", filepath.Join(*mutantBinaries, fileName(m.name)), ".").CombinedOutput()
				if err != nil {
					t.Fatalf("cannot build it: %v\n%s", err, out)
				}
			}
			if m.model {
				wantCaught(t, "-overlay", overlay, "-tags", "smallsegments", "-run", "^TestProtocolHoldsUnderRandomSchedules$", "-schedules", "3000")
			}
			if m.tests != "" {
				wantCaught(t, "-overlay", overlay, "-run", "^("+m.tests+")$")
			}
		})
	}
}

// wantCaught wants a run of tests to fail, in a test and not before.
func wantCaught(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"test", "-count", "1", "-failfast", "-timeout", "10m"}, append(args, ".")...)
	out, err := exec.Command("go", args...).CombinedOutput()
	said := string(out)
	switch {
	case err == nil:
		t.Errorf("nothing noticed it: go %s\n%s", strings.Join(args, " "), said)
	case strings.Contains(said, "[build failed]") || strings.Contains(said, "[setup failed]") || !strings.Contains(said, "FAIL"):
		t.Errorf("no test has failed: go %s: %v\n%s", strings.Join(args, " "), err, said)
	case strings.Contains(said, "no tests to run") || strings.Contains(said, "--- SKIP"):
		t.Errorf("the tests were not run: go %s\n%s", strings.Join(args, " "), said)
	default:
		t.Logf("caught: %s", firstWords(said))
	}
}

var failure = regexp.MustCompile(`(?m)^\s+\S+_test\.go:\d+: .*$|^panic: .*$|^--- FAIL: .*$`)

func firstWords(said string) string {
	found := failure.FindAllString(said, 3)
	return strings.Join(found, "\n")
}

func fileName(name string) string {
	return "galo-" + strings.ReplaceAll(strings.ReplaceAll(name, ",", ""), " ", "-")
}
