package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A figure is what the template draws: texts, and panels of shapes and texts one below the other, over one time axis. Lengths are in
// the units of its view box.
type figure struct {
	Width, Height   int
	Title, Subtitle string
	Texts           []caption
	Panels          []panel

	report *report
	end    time.Duration // of the time axis
	y      float64       // where the next panel begins
}

// A panel is one of the small multiples.
type panel struct {
	Name   string
	Shapes []shape
	Texts  []caption

	top, bottom float64   // of the plot
	besides     []float64 // heights that are taken at the right of it
}

// A shape is a path. What its class says is in the template's style.
type shape struct {
	Class, D, Tip string
	Opacity       string
}

type caption struct {
	Class, Anchor, Text string
	X, Y                coordinate
}

// A coordinate is written with one decimal: a finer one cannot be seen.
type coordinate float64

func (c coordinate) String() string {
	return strconv.FormatFloat(math.Round(float64(c)*10)/10, 'f', -1, 64)
}

const (
	figureWidth  = 1000
	plotLeft     = 92.0
	plotRight    = 872.0
	margin       = 12.0
	lineHeight   = 16.0
	letterWidth  = 6.4 // of small text, on average
	figureLetter = 12  // of a large figure
)

func newFigure(rep *report) *figure {
	f := &figure{Width: figureWidth, report: rep, y: 30}
	f.end = f.bucket(len(rep.accepted))
	f.head()
	f.beliefs()
	f.flow()
	f.waiting()
	f.answers(onDefault)
	f.answers(onFallback)
	f.clients()
	f.evidence()
	f.Height = int(math.Ceil(f.y))
	return f
}

// x is where a moment of the storm is drawn.
func (f *figure) x(at time.Duration) float64 {
	share := float64(at) / float64(f.end)
	return plotLeft + (plotRight-plotLeft)*min(max(share, 0), 1)
}

// begin makes a panel with its title; its plot has the height that is given.
func (f *figure) begin(name, title string, height float64) *panel {
	f.Panels = append(f.Panels, panel{Name: name, top: f.y + 26, bottom: f.y + 26 + height})
	p := &f.Panels[len(f.Panels)-1]
	p.say("panel", "", plotLeft, f.y+14, title)
	if f.end > f.report.lasted {
		p.box("shade", f.x(f.report.lasted), p.top, f.x(f.end), p.bottom)
	}
	return p
}

// finish draws what all panels have: the moments at which something changed, the time axis, and how to read it.
func (f *figure) finish(p *panel, how string) {
	for _, st := range f.report.storm.stages[1:] {
		if st.from < f.end {
			p.line("edge", f.x(st.from), p.top, f.x(st.from), p.bottom)
		}
	}
	for _, e := range f.report.events {
		p.line("event", f.x(e.at), p.top, f.x(e.at), p.bottom)
	}
	p.line("frame", plotLeft, p.bottom, plotRight, p.bottom)
	step := niceStep(f.end.Seconds(), 12)
	for s := 0.0; s <= f.end.Seconds(); s += step {
		x := f.x(time.Duration(s * float64(time.Second)))
		p.line("frame", x, p.bottom, x, p.bottom+3)
		p.say("small", "middle", x, p.bottom+14, number(s))
	}
	p.say("small", "", plotRight+18, p.bottom+14, "seconds")
	f.y = p.bottom + 31
	for _, line := range wrapped(how) {
		p.say("soft", "", plotLeft, f.y, line)
		f.y += lineHeight
	}
	f.y += 6
}

func (p *panel) say(class, anchor string, x, y float64, text string) {
	p.Texts = append(p.Texts, caption{Class: class, Anchor: anchor, X: coordinate(x), Y: coordinate(y), Text: text})
}

// beside writes at the right of the plot, at a height or the next free one below it.
func (p *panel) beside(class string, y float64, text string) {
	for i := 0; i < len(p.besides); i++ {
		if math.Abs(p.besides[i]-y) < lineHeight-2 {
			y, i = p.besides[i]+lineHeight-2, -1
		}
	}
	p.besides = append(p.besides, y)
	p.say(class, "", plotRight+8, y+4, text)
}

func (p *panel) path(class, d string) *shape {
	p.Shapes = append(p.Shapes, shape{Class: class, D: d})
	return &p.Shapes[len(p.Shapes)-1]
}

func (p *panel) line(class string, x1, y1, x2, y2 float64) *shape {
	return p.path(class, fmt.Sprintf("M%v %vL%v %v", coordinate(x1), coordinate(y1), coordinate(x2), coordinate(y2)))
}

func (p *panel) box(class string, left, top, right, bottom float64) *shape {
	return p.path(class, fmt.Sprintf("M%v %vH%vV%vH%vz", coordinate(left), coordinate(top), coordinate(right), coordinate(bottom), coordinate(left)))
}

// A scale places values in a panel, the lowest at its bottom.
type scale struct {
	panel       *panel
	lowest, top float64
	bend        func(float64) float64 // what makes it linear
}

func (s scale) y(v float64) float64 {
	low, high := s.bend(s.lowest), s.bend(s.top)
	share := (s.bend(min(max(v, s.lowest), s.top)) - low) / (high - low)
	return s.panel.bottom - share*(s.panel.bottom-s.panel.top)
}

// grid draws thin lines at values, each with its text at the left.
func (s scale) grid(values []float64, text func(float64) string) {
	for _, v := range values {
		s.panel.line("grid", plotLeft, s.y(v), plotRight, s.y(v))
		s.panel.say("small", "end", plotLeft-8, s.y(v)+4, text(v))
	}
}

// linear is a scale from nothing to a round number not below the highest value, with its grid.
func (p *panel) linear(highest float64) scale {
	step := niceStep(max(highest, 1), 4)
	s := scale{panel: p, top: step * math.Ceil(max(highest, 1)/step), bend: func(v float64) float64 { return v }}
	var values []float64
	for v := 0.0; v <= s.top; v += step {
		values = append(values, v)
	}
	s.grid(values, number)
	return s
}

// niceStep is a round step of which at most so many fit.
func niceStep(length float64, most int) float64 {
	for unit := 1.0; ; unit *= 10 {
		for _, times := range []float64{1, 2, 5} {
			if length/(unit*times) <= float64(most) {
				return unit * times
			}
		}
	}
}

// number writes one with its thousands apart.
func number(v float64) string { return thousands(strconv.FormatFloat(v, 'f', -1, 64)) }

// thousands sets apart those of a decimal.
func thousands(text string) string {
	whole, fraction, point := strings.Cut(text, ".")
	for at := len(whole) - 3; at > 0 && whole[at-1] != '-'; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if point {
		whole += "." + fraction
	}
	return whole
}

// wrapped cuts a text into lines that fit below a plot.
func wrapped(text string) (lines []string) {
	const longest = 125
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > longest {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// A point is a value at a moment.
type point struct {
	at    time.Duration
	value float64
}

// curve joins points by straight lines, and breaks where there is a gap of more than so long.
func (f *figure) curve(s scale, points []point, gap time.Duration) string {
	var d []byte
	for i, p := range points {
		form := "L%v %v"
		if i == 0 || p.at-points[i-1].at > gap {
			form = "M%v %vh0" // a dot, if it stays alone
		}
		d = fmt.Appendf(d, form, coordinate(f.x(p.at)), coordinate(s.y(p.value)))
	}
	return string(d)
}

// steps draws one value a bucket, as a line.
func (f *figure) steps(s scale, values []float64) string {
	d := []byte("M")
	for i, v := range values {
		d = fmt.Appendf(d, "%v %vH%v", coordinate(f.x(f.bucket(i))), coordinate(s.y(v)), coordinate(f.x(f.bucket(i+1))))
		if i < len(values)-1 {
			d = append(d, 'L')
		}
	}
	return string(d)
}

// between is the area from one row of buckets to another.
func (f *figure) between(s scale, low, high []float64) string {
	d := []byte(f.steps(s, high))
	for i, v := range slices.Backward(low) {
		d = fmt.Appendf(d, "L%v %vH%v", coordinate(f.x(f.bucket(i+1))), coordinate(s.y(v)), coordinate(f.x(f.bucket(i))))
	}
	return string(append(d, 'z'))
}

// bucket is where one begins.
func (f *figure) bucket(i int) time.Duration { return time.Duration(i) * f.report.every }
