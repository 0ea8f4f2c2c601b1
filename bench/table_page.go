package main

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"slices"
)

//go:embed table.tmpl
var tableTemplate string

// A tablePage is the table as a page: a picture of how far each figure is from what it has to reach, and all rows below it.
type tablePage struct {
	Title, Head string
	Picture     *figure
	Rows        []pageRow
}

type pageRow struct{ What, Command, Figure, ToReach, Class string }

// writeTablePage draws the page into a file, if it is asked for.
func writeTablePage(path string, results []result, head string) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("cannot write the table's page: %w", err)
	}
	if err := errors.Join(drawTable(f, results, head), f.Close()); err != nil {
		return fmt.Errorf("cannot write the table's page: %w", err)
	}
	return nil
}

func drawTable(w io.Writer, results []result, head string) error {
	t, err := template.New("table").Parse(reportTemplate)
	if err == nil {
		t, err = t.Parse(tableTemplate)
	}
	if err != nil {
		return err
	}
	page := tablePage{Title: "What galo measures, and what it has to reach", Head: head, Picture: goalsFigure(results)}
	for _, r := range results {
		class := ""
		if !r.reached() {
			class = "bad"
		}
		page.Rows = append(page.Rows, pageRow{r.row.what, r.row.command, r.figure(), r.toReach(), class})
	}
	return t.ExecuteTemplate(w, "tablepage", page)
}

const (
	goalsLeft  = 560.0 // where the plot begins, right of what the rows say
	goalsRight = 900.0
	goalsRow   = 20.0
	goalsWidth = figureWidth
)

// goalsFigure draws every row that has a goal: its runs as strokes, and its median as a dot, on a scale on which 1 is what it has to reach.
func goalsFigure(results []result) *figure {
	var rows []result
	highest := 2.0
	for _, r := range results {
		if _, ok := r.share(1); !ok || r.missing() {
			continue
		}
		rows = append(rows, r)
		for _, v := range r.figures {
			share, _ := r.share(v)
			highest = max(highest, share)
		}
	}
	scale := goalScale{lowest: 0.05, highest: math.Pow(2, math.Ceil(math.Log2(highest)))}
	f := &figure{Width: goalsWidth, Title: "How far from what is to be reached", Subtitle: "left of the line is reached"}
	f.Texts = append(f.Texts, caption{Class: "title", X: margin, Y: 30, Text: f.Title})
	f.Panels = append(f.Panels, panel{Name: "goals", top: 70, bottom: 70 + goalsRow*float64(len(rows))})
	p := &f.Panels[0]
	scale.draw(p)
	for i, r := range rows {
		scale.row(p, r, p.top+goalsRow*(float64(i)+0.5))
	}
	f.Height = int(p.bottom) + 40
	return f
}

// A goalScale is logarithmic: half of what is allowed is as far from it as twice that.
type goalScale struct{ lowest, highest float64 }

func (s goalScale) x(share float64) float64 {
	at := math.Log(min(max(share, s.lowest), s.highest)/s.lowest) / math.Log(s.highest/s.lowest)
	return goalsLeft + (goalsRight-goalsLeft)*at
}

// draw draws the grid, and the line that is to be reached.
func (s goalScale) draw(p *panel) {
	p.box("shade", goalsLeft, p.top, s.x(1), p.bottom)
	for _, v := range []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20} {
		if v > s.highest {
			break
		}
		p.line("grid", s.x(v), p.top, s.x(v), p.bottom)
		p.say("small", "middle", s.x(v), p.bottom+14, short(v)+" ×")
	}
	p.line("l-ink", s.x(1), p.top-4, s.x(1), p.bottom+3)
	p.say("small", "end", s.x(1)-6, p.top-8, "reached")
	p.say("small", "", s.x(1)+6, p.top-8, "missed")
	p.say("small", "", goalsLeft, p.bottom+30, "share of what is allowed; the dot is the median, a stroke each run")
}

// row draws one figure.
func (s goalScale) row(p *panel, r result, y float64) {
	class, middle := "a-default", median(r.figures)
	if !r.reached() {
		class = "bad"
	}
	p.say("small", "end", goalsLeft-10, y+4, clipped(r.row.what))
	at := func(v float64) float64 {
		share, _ := r.share(v)
		return s.x(share)
	}
	p.line("l-soft", at(slices.Min(r.figures)), y, at(slices.Max(r.figures)), y)
	for _, v := range r.figures {
		p.line("l-soft", at(v), y-4, at(v), y+4)
	}
	dot := p.path(class, fmt.Sprintf("M%v %vm-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", coordinate(at(middle)), coordinate(y)))
	dot.Tip = r.row.what + ": " + r.figure() + ", " + r.toReach()
	p.say("small", "", goalsRight+8, y+4, quantity(middle, r.figureUnit()))
}

// clipped shortens what a row says to what fits left of the plot.
func clipped(text string) string {
	const letters = 92
	if all := []rune(text); len(all) > letters {
		return string(all[:letters-1]) + "…"
	}
	return text
}
