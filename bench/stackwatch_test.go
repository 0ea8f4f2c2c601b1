package main

import (
	"bufio"
	"strings"
	"testing"
)

// TestFeedTellsWhatWasSaidLast: each telling ends with an empty line; one that is not whole says nothing, nor does an old one.
func TestFeedTellsWhatWasSaidLast(t *testing.T) {
	var f metricsFeed
	if _, err := f.metrics(t.Context()); err == nil {
		t.Error("something is known, though nothing was said")
	}
	f.read(bufio.NewScanner(strings.NewReader("galo_held 1\n\ngalo_held 2\ngalo_pending 3\n\ngalo_held 4\n")))
	told := f.latest.Load()
	if told == nil || len(told.metrics) != 2 || told.metrics["galo_held"] != 2 {
		t.Fatalf("told %+v", told)
	}
	told.at = told.at.Add(-2 * feedFresh)
	if m, err := f.metrics(t.Context()); err == nil {
		t.Errorf("what was said long ago counts as known: %v", m)
	}
}
