package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The picture has a column for each storm: when its processors answered well and in time, and below it, over patience, what the fees
// took and how long payments waited. Scales are the same in all columns. Lengths are in the units of its view box.
const (
	patienceWidth, patienceHeight = 1000.0, 642.0
	columnsLeft, columnsRight     = 60.0, 966.0
	columnGap                     = 36.0
	cheapStrip, dearStrip         = 132.0, 143.0 // their tops
	stripHeight                   = 9.0
	feesTop, feesBottom           = 230.0, 394.0
	waitTop, waitBottom           = 450.0, 594.0
	leftmostPatience              = 250 * time.Millisecond // where none is drawn: one doubling before the least there is
)

const patienceStyle = `<style>
.patience { --paper: #fdfdfb; --ink: #23262a; --soft: #5d646c; --grid: #e4e4df; --cheaper: #2468a8; --dearer: #e39a3b; --dearer-ink: #a8650b;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  .patience { --paper: #16181b; --ink: #e8e8e4; --soft: #a2a9b1; --grid: #2d3137; --cheaper: #5c9fe0; --dearer: #d98f35; --dearer-ink: #e5a04a; } }
.patience text { fill: var(--ink); } .paper { fill: var(--paper); }
.patience .title { font-size: 20px; font-weight: 600; } .patience .row { font-size: 13px; font-weight: 600; }
.patience .soft { fill: var(--soft); } .patience .small { font-size: 11px; fill: var(--soft); }
.patience .value { font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.patience .t-cheaper { font-size: 11px; fill: var(--cheaper); }
.grid { stroke: var(--grid); fill: none; } .frame { stroke: var(--soft); fill: none; } .usual { stroke: var(--soft); stroke-dasharray: 2 3; fill: none; }
.a-cheaper { fill: var(--cheaper); } .a-dearer { fill: var(--dearer); } .extra { fill: var(--dearer); opacity: .25; }
.l-cheaper, .l-dearer, .l-ink, .l-soft { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
.l-cheaper { stroke: var(--cheaper); } .l-dearer { stroke: var(--dearer-ink); } .l-ink { stroke: var(--ink); } .l-soft { stroke: var(--soft); }
.dots { stroke-width: 5; } .large { stroke-width: 8; }
</style>
`

// svgText is a picture that is being written.
type svgText struct{ strings.Builder }

type patiencePicture struct {
	svgText
	usual      time.Duration
	fees, wait plotScale
}

// plotScale places values between two heights, with a line of the grid at every step.
type plotScale struct{ low, high, step, bottom, top float64 }

func (s plotScale) y(v float64) float64 { return s.bottom - (v-s.low)/(s.high-s.low)*(s.bottom-s.top) }

// patienceColumn is where one storm is drawn.
type patienceColumn struct {
	*patiencePicture
	patienceCurve
	left, right float64
}

func drawPatience(curves []patienceCurve, usual time.Duration) []byte {
	p := &patiencePicture{usual: usual}
	lowest, dearest, longest := 1.0, 0.0, 0.0
	for _, c := range curves {
		lowest = min(lowest, c.cheapFee())
		for _, one := range c.points {
			dearest, longest = max(dearest, one.fees), max(longest, one.Wait[1].Seconds())
		}
	}
	const share, tenSeconds = 0.01, 10.0
	p.fees = plotScale{share * (math.Floor(lowest/share) - 1), share * math.Ceil(dearest/share), share, feesBottom, feesTop}
	p.wait = plotScale{0, tenSeconds * math.Ceil(longest/tenSeconds), tenSeconds, waitBottom, waitTop}

	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %v %v" role="img" aria-labelledby="name">`+"\n", patienceWidth, patienceHeight)
	fmt.Fprintf(p, "<title id=\"name\">What PATIENCE saves in fees and costs in waiting, in %d storms</title>\n%s<g class=\"patience\">\n", len(curves), patienceStyle)
	p.path("paper", "M0 0h%vv%vH0z", patienceWidth, patienceHeight)
	p.text("title", "", 12, 30, "What PATIENCE saves, and what it costs")
	p.text("soft", "", 12, 50, fmt.Sprintf("Bars: while the processor answered well and within %g s. Shaded: what the dearer one took on top of the cheaper one's fee.",
		answerInTime.Seconds()))
	p.text("small", "end", columnsLeft-8, cheapStrip+stripHeight-1, "cheaper")
	p.text("small", "end", columnsLeft-8, dearStrip+stripHeight-1, "dearer")
	p.text("row", "", columnsLeft, feesTop-24, "What the fees took, % of the amounts")
	p.text("row", "", columnsLeft, waitTop-14, "How long payments waited, from acceptance to paid")
	p.text("small", "", columnsLeft, waitBottom+34, "PATIENCE, in seconds")
	width := (columnsRight-columnsLeft+columnGap)/float64(len(curves)) - columnGap
	for n, c := range curves {
		left := columnsLeft + float64(n)*(width+columnGap)
		(&patienceColumn{p, c, left, left + width}).draw(n == 0)
	}
	p.WriteString("</g>\n</svg>\n")
	return []byte(p.String())
}

// draw draws the column. The first one has the words that hold for all.
func (c *patienceColumn) draw(first bool) {
	c.head()
	c.axes(first, c.fees, func(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) })
	c.axes(first, c.wait, func(v float64) string { return fmt.Sprintf("%.0f s", v) })

	cheap := c.fees.y(c.cheapFee())
	fees := func(p *patiencePoint) float64 { return c.fees.y(p.fees) }
	c.path("extra", "%sV%.1fH%.1fz", c.curve(fees), cheap, c.left)
	c.line("l-cheaper", cheap)
	c.text("t-cheaper", "", c.left, cheap+14, "cheaper fee")
	c.graph("l-dearer", fees)
	c.values(fees, func(p *patiencePoint) string { return fmt.Sprintf("%.2f", 100*p.fees) })

	p50 := func(p *patiencePoint) float64 { return c.wait.y(p.Wait[0].Seconds()) }
	p99 := func(p *patiencePoint) float64 { return c.wait.y(p.Wait[1].Seconds()) }
	c.graph("l-soft", p50)
	c.graph("l-ink", p99)
	c.values(p99, func(p *patiencePoint) string { return shortSeconds(p.Wait[1]) })
	if first {
		c.text("small", "middle", c.x(c.usual), c.fees.top-4, "default")
		early := &c.points[len(c.points)/4]
		c.text("value", "", c.x(early.patience), p99(early)-7, "p99")
		c.text("value", "", c.x(early.patience), p50(early)-7, "p50")
	}
}

// axes draws the grid of a scale, the patiences below it, and where the usual one is.
func (c *patienceColumn) axes(first bool, s plotScale, text func(float64) string) {
	for v := s.low; v < s.high+s.step/2; v += s.step {
		c.line("grid", s.y(v))
		if first {
			c.text("small", "end", c.left-8, s.y(v)+4, text(v))
		}
	}
	c.line("frame", s.bottom)
	c.path("usual", "M%.1f %vV%v", c.x(c.usual), s.top, s.bottom)
	for _, p := range c.points {
		c.path("frame", "M%.1f %vv3", c.x(p.patience), s.bottom)
		c.text("small", "middle", c.x(p.patience), s.bottom+15, secondsTick(p.patience))
	}
}

// head says what the storm is.
func (c *patienceColumn) head() {
	s := &c.storm
	name := "storm " + s.name
	if kindOf(s.name) != kindRandom {
		name = s.name
	}
	rate := fmt.Sprintf("%.0f", s.rate[0])
	if s.rate[1] != s.rate[0] {
		rate += fmt.Sprintf(" to %.0f", s.rate[1])
	}
	c.text("row", "", c.left, 82, name)
	c.text("soft", "", c.left, 99, fmt.Sprintf("fees %g %% and %g %%", 100*c.cheapFee(), 100*c.fee(1-s.cheap())))
	c.text("soft", "", c.left, 115, fmt.Sprintf("%.0f s, %s a second", s.length.Seconds(), rate))
	cheap, dear := s.weather[s.cheap()].wellTimes(), s.weather[1-s.cheap()].wellTimes()
	c.strip("a-cheaper", cheapStrip, cheap)
	c.strip("a-dearer", dearStrip, dear)
	out, both := s.without(cheap), s.without(slices.Concat(cheap, dear))
	c.text("small", "", c.left, dearStrip+26, fmt.Sprintf("cheaper out or slow %d ×,", len(out)))
	c.text("small", "", c.left, dearStrip+41, fmt.Sprintf("%.0f s at most; both: %.0f s at most", longestOf(out).Seconds(), longestOf(both).Seconds()))
}

// strip has a bar for each good time.
func (c *patienceColumn) strip(class string, top float64, good []interval) {
	at := func(t time.Duration) float64 {
		return c.left + (c.right-c.left)*float64(min(t, c.storm.length))/float64(c.storm.length)
	}
	c.line("grid", top+stripHeight/2)
	for _, g := range good {
		c.path(class, "M%.1f %vH%.1fv%vH%.1fz", at(g.from), top, at(g.to), stripHeight, at(g.from))
	}
}

// wellTimes are the good times that last: where a processor that fails becomes slow there is one of a millisecond, of use to nobody.
func (w weather) wellTimes() []interval {
	return slices.DeleteFunc(w.goodTimes(), func(g interval) bool { return g.to-g.from < lateGrace })
}

// without are the times of the storm that are not among these.
func (s *storm) without(good []interval) (out []interval) {
	from := time.Duration(0)
	for _, g := range append(sumOf(good).spans, interval{s.length, forever}) {
		if to := min(g.from, s.length); from < to {
			out = append(out, interval{from, to})
		}
		from = g.to
	}
	return out
}

func longestOf(all []interval) time.Duration {
	longest := time.Duration(0)
	for _, one := range all {
		longest = max(longest, one.to-one.from)
	}
	return longest
}

func (c *patienceCurve) fee(p processorID) float64 { return float64(c.storm.fees[p]) / 1e6 }
func (c *patienceCurve) cheapFee() float64         { return c.fee(c.storm.cheap()) }

// x is where a patience is drawn: from each to its double it is equally far.
func (c *patienceColumn) x(patience time.Duration) float64 {
	doublings := func(d time.Duration) float64 {
		return math.Log2(float64(max(d, leftmostPatience)) / float64(leftmostPatience))
	}
	return c.left + (c.right-c.left)*doublings(patience)/doublings(patiences[len(patiences)-1])
}

// graph is a line through the points, with a dot for each and a large one for the default.
func (c *patienceColumn) graph(class string, y func(*patiencePoint) float64) {
	c.path(class, "%s", c.curve(y))
	for i := range c.points {
		p, size := &c.points[i], " dots"
		if p.patience == c.usual {
			size = " large"
		}
		c.path(class+size, "M%.1f %.1fh0", c.x(p.patience), y(p))
	}
}

func (c *patienceColumn) curve(y func(*patiencePoint) float64) string {
	var d strings.Builder
	for i := range c.points {
		fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], c.x(c.points[i].patience), y(&c.points[i]))
	}
	return d.String()
}

// values writes how high the curve is at its ends and, on the side that it leaves free, at the default.
func (c *patienceColumn) values(y func(*patiencePoint) float64, text func(*patiencePoint) string) {
	for i := range c.points {
		p := &c.points[i]
		at, height := c.x(p.patience), y(p)
		switch {
		case i == 0:
			c.text("value", "", at, height-7, text(p))
		case i == len(c.points)-1:
			c.text("value", "", at+6, height+4, text(p))
		case p.patience == c.usual && height > y(&c.points[0]): // it falls
			c.text("value", "", at+4, height-6, text(p))
		case p.patience == c.usual:
			c.text("value", "end", at-4, height-6, text(p))
		}
	}
}

func (c *patienceColumn) line(class string, y float64) {
	c.path(class, "M%.1f %.1fH%.1f", c.left, y, c.right)
}

func (p *svgText) path(class, form string, args ...any) {
	fmt.Fprintf(p, "<path class=\"%s\" d=\"%s\"/>\n", class, fmt.Sprintf(form, args...))
}

func (p *svgText) text(class, anchor string, x, y float64, text string) {
	if anchor != "" {
		anchor = fmt.Sprintf(" text-anchor=%q", anchor)
	}
	fmt.Fprintf(p, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\"%s>%s</text>\n", class, x, y, anchor, text)
}

// secondsTick is short enough for an axis.
func secondsTick(d time.Duration) string {
	if d == 500*time.Millisecond {
		return "½"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
}

// shortSeconds has two digits.
func shortSeconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f", d.Seconds())
	}
	return fmt.Sprintf("%.0f", d.Seconds())
}
