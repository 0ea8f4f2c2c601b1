package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

var patienceFile = flag.String("patience", "", "draw what PATIENCE saves and what it costs into this file, an SVG picture")

// The storms of the picture differ in what decides about patience: how long the cheaper processor is out, whether the other is out
// at the same time, and how far apart the fees are.
var (
	patienceStorms = []string{"preview", "52", "22", "12", "27"}
	patiences      = []time.Duration{0, 500 * ms, 1 * sec, 2 * sec, 5 * sec, 10 * sec, 20 * sec, 60 * sec}
)

// patienceCurve is one storm with one patience after the other.
type patienceCurve struct {
	storm  storm
	points []patiencePoint
}

type patiencePoint struct {
	patience time.Duration
	fees     float64 // as a share of the amounts
	stormFigures
}

// TestPatience plays the same storms with one patience after the other: go test -run 'TestPatience$' -patience bench/patience.svg -v .
// Without a file to draw into it takes one storm of few payments, and looks only whether patience saves fees.
func TestPatience(t *testing.T) {
	oneCPU(t)
	names, choices := []string{"55"}, []time.Duration{0, usualPatience(t)}
	if *patienceFile != "" {
		names, choices = patienceStorms, patiences
	}
	var curves []patienceCurve
	for _, name := range names {
		c := playPatiences(t, name, choices)
		if none, usual := c.with(t, 0), c.with(t, usualPatience(t)); none.fees <= usual.fees {
			t.Errorf("storm %s: without patience the fees are %s of the amounts, with the usual one %s", name, percent(none.fees), percent(usual.fees))
		}
		curves = append(curves, c)
	}
	t.Logf("\n%s", patienceTable(curves))
	picture := drawPatience(curves, usualPatience(t))
	if err := wellFormed(picture); err != nil {
		t.Errorf("the picture is not well formed: %v", err)
	}
	if *patienceFile != "" {
		if err := os.WriteFile(*patienceFile, picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// usualPatience is what galo has when nothing is set.
func usualPatience(t *testing.T) time.Duration {
	t.Helper()
	c, err := readConfig(func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return c.patience
}

func playPatiences(t *testing.T, name string, choices []time.Duration) patienceCurve {
	t.Helper()
	s, err := stormNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	c := patienceCurve{storm: s}
	for _, s.patience = range choices {
		r := weatherStorm(t, s, makeGalo, false)
		p := patiencePoint{s.patience, r.feesTaken(), r.figures()}
		if p.Wrong > 0 {
			t.Errorf("storm %s, patience %s: %d payments are lost, paid twice, or other than the store says", name, p.patience, p.Wrong)
		}
		c.points = append(c.points, p)
	}
	return c
}

// feesTaken is what the processors have kept, as a share of the amounts that were accepted.
func (r *stormRun) feesTaken() float64 {
	taken := 0.0
	for _, p := range r.payments {
		if !p.turnedAway {
			taken += float64(r.storm.fees[p.processor]) / 1e6
		}
	}
	return taken / float64(r.accepted)
}

func (c *patienceCurve) with(t *testing.T, patience time.Duration) patiencePoint {
	t.Helper()
	for _, p := range c.points {
		if p.patience == patience {
			return p
		}
	}
	t.Fatalf("storm %s was not played with a patience of %s", c.storm.name, patience)
	return patiencePoint{}
}

func patienceTable(curves []patienceCurve) string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "storm\tpatience\tfees\tp50\tp99\tturned away")
	for _, c := range curves {
		for _, p := range c.points {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\n",
				c.storm.name, p.patience, percent(p.fees), seconds(p.Wait[0].Seconds()), seconds(p.Wait[1].Seconds()), p.TurnedAway)
		}
	}
	table.Flush()
	return text.String()
}

// wellFormed is an error where a text is not XML.
func wellFormed(text []byte) error {
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
