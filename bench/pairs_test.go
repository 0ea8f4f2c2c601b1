package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPairsArePrinted(t *testing.T) {
	one := func(p99 int64, galo, nginx float64) side {
		return side{Accepted: 50_000, Latency: quantiles{P99: p99}, Containers: []containerUse{
			{Service: "galo1", CPUSeconds: galo / 2}, {Service: "galo2", CPUSeconds: galo / 2}, {Service: "nginx", CPUSeconds: nginx}}}
	}
	all := []pair{
		{one(2000, 0, 5), one(3000, 8, 5)},
		{one(1000, 0, 6), one(1000, 7, 5)},
		{one(4000, 0, 4), one(8000, 9, 5)},
	}
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &stackRun{settings: settings{against: againstNothing}, screen: newScreen(out)}
	r.printPairs(all)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for l := range strings.Lines(string(text)) {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	for _, want := range []string{
		"p99, ms 2.00 [1.00 to 4.00] 3.00 [1.00 to 8.00] 1.50 [1.00 to 2.00]",
		"CPU s for 100,000 10.00 [8.00 to 12.00] 26.00 [24.00 to 28.00] 2.60 [2.00 to 3.50]",
		"of these galo 0.00 [0.00 to 0.00] 16.00 [14.00 to 18.00] -",
	} {
		found := false
		for _, l := range lines {
			found = found || l == want
		}
		if !found {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
}
