package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The picture has two rows for each run: a panel for each kind of moment, and below them the drain. All panels of a run have one scale of
// latency. Lengths are in the units of its view box.
const (
	momentsWidth             = 1000.0
	momentsLeft, momentsEdge = 56.0, 988.0
	momentsHead              = 76.0
	momentsGap               = 20.0
	momentHeight             = 116.0 // of a plot
	drainHeight              = 92.0
	aboveMoments, underPlot  = 62.0, 44.0
)

const momentsStyle = `<style>
.moments { --paper: #fdfdfb; --ink: #23262a; --soft: #5d646c; --grid: #e4e4df; --far: #2468a8; --waiting: #e39a3b; --waiting-ink: #a8650b;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  .moments { --paper: #16181b; --ink: #e8e8e4; --soft: #a2a9b1; --grid: #2d3137; --far: #5c9fe0; --waiting: #d98f35; --waiting-ink: #e5a04a; } }
.moments text { fill: var(--ink); } .paper { fill: var(--paper); }
.moments .title { font-size: 20px; font-weight: 600; } .moments .row { font-size: 13px; font-weight: 600; }
.moments .soft { fill: var(--soft); } .moments .small { font-size: 11px; fill: var(--soft); }
.moments .t-far { font-size: 11px; fill: var(--far); } .moments .t-waiting { font-size: 11px; fill: var(--waiting-ink); }
.grid { stroke: var(--grid); fill: none; } .frame { stroke: var(--soft); fill: none; } .moment { stroke: var(--soft); stroke-dasharray: 2 3; fill: none; }
.a-waiting { fill: var(--waiting); opacity: .3; }
.l-far, .l-ink, .l-soft { fill: none; stroke-width: 1.5; stroke-linejoin: round; stroke-linecap: round; }
.l-ink { stroke: var(--ink); } .l-soft { stroke: var(--soft); } .l-far { stroke: var(--far); stroke-dasharray: 5 4; }
</style>
`

var momentTitles = map[string]string{
	"settle":     "A batch goes to Redis",
	"segment":    "A segment is made",
	"collection": "A collection ends",
	"write":      "The kernel writes pages",
	"sync":       "A sync begins",
	"drain":      "Both processors are back, and what was held drains",
}

// momentPanel is where one row of the table is drawn.
type momentPanel struct {
	*svgText
	momentRow
	left, right float64
	scale       plotScale // of milliseconds
}

func drawMoments(rows []momentRow, runs []*momentsRun) []byte {
	p := &svgText{}
	height := momentsHead + float64(len(runs))*(2*(aboveMoments+underPlot)+momentHeight+drainHeight)
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %v %v" role="img" aria-labelledby="name">`+"\n", momentsWidth, height)
	fmt.Fprintf(p, "<title id=\"name\">Clients' latencies around what an instance does beside taking their payments</title>\n%s<g class=\"moments\">\n", momentsStyle)
	p.path("paper", "M0 0h%vv%vH0z", momentsWidth, height)
	p.text("title", "", 12, 30, "What clients notice of what happens behind the 202")
	p.text("soft", "", 12, 50, fmt.Sprintf("Latencies of payments that were due so long before or after, all moments of a kind on top of each other; %d payments a second, open-loop.", momentsRate))
	p.text("soft", "", 12, 66, "Line: p99 of each bin; grey: p50; dashed: p99 of the payments that are far from every moment.")
	top := momentsHead
	for _, r := range runs {
		of := slices.DeleteFunc(slices.Clone(rows), func(row momentRow) bool { return row.run != r })
		top = drawRun(p, of, r, top)
	}
	p.WriteString("</g>\n</svg>\n")
	return []byte(p.String())
}

// drawRun draws the panels of one run, and returns where the next ones begin.
func drawRun(p *svgText, rows []momentRow, r *momentsRun, top float64) float64 {
	p.text("row", "", 12, top+24, fmt.Sprintf("DURABILITY=%v", r.durability))
	width := (momentsEdge-momentsLeft+momentsGap)/float64(momentKinds) - momentsGap
	plot := top + aboveMoments
	for i, row := range rows {
		m := &momentPanel{svgText: p, momentRow: row, left: momentsLeft, right: momentsEdge}
		if row.isTheDrain {
			m.scale = latencyScale(rows[i:], plot, plot+drainHeight)
			m.waiting()
			m.draw(true, time.Second, "s")
			continue
		}
		m.left += float64(i) * (width + momentsGap)
		m.right = m.left + width
		m.scale = latencyScale(rows[:momentKinds], plot, plot+momentHeight)
		m.draw(i == 0, 50*time.Millisecond, "ms")
		if momentKind(i) == momentKinds-1 {
			plot += momentHeight + underPlot + aboveMoments
		}
	}
	return plot + drainHeight + underPlot
}

// latencyScale is from nothing to a round number above all that is drawn.
func latencyScale(rows []momentRow, top, bottom float64) plotScale {
	highest := 0.0
	for _, row := range rows {
		highest = max(highest, inMillis(row.far))
		for _, bin := range row.bins {
			highest = max(highest, inMillis(bin[1]))
		}
	}
	const most = 5 // lines of the grid
	step := 0.1
	for _, times := range []float64{2, 2.5, 2, 2, 2.5, 2, 2, 2.5, 2, 2, 2.5} {
		if highest/step > most {
			step *= times
		}
	}
	return plotScale{0, step * max(1, math.Ceil(highest/step)), step, bottom, top}
}

func inMillis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// draw draws the panel; the first of a run has the words that hold for all. Times are in unit.
func (m *momentPanel) draw(first bool, tick time.Duration, unit string) {
	m.text("row", "", m.left, m.scale.top-22, momentTitles[m.name])
	m.text("small", "", m.left, m.scale.top-8, fmt.Sprintf("n = %d; p99 near %.2f ms, far %.2f", len(m.moments), inMillis(m.nearest[1]), inMillis(m.far)))
	for v := m.scale.low; v < m.scale.high+m.scale.step/2; v += m.scale.step {
		m.path("grid", "M%.1f %.1fH%.1f", m.left, m.scale.y(v), m.right)
		if first {
			m.text("small", "end", m.left-6, m.scale.y(v)+4, fmt.Sprintf("%.4g ms", v))
		}
	}
	m.path("frame", "M%.1f %.1fH%.1f", m.left, m.scale.bottom, m.right)
	after := time.Duration(len(m.bins))*m.bin - m.before
	per := time.Second
	if unit == "ms" {
		per = time.Millisecond
	}
	for at := -m.before; at <= after; at += tick {
		m.path("frame", "M%.1f %.1fv3", m.x(at), m.scale.bottom)
		text, anchor := fmt.Sprint(int64(at/per)), "middle"
		if at+tick > after {
			text, anchor = text+" "+unit, "end"
		}
		m.text("small", anchor, m.x(at), m.scale.bottom+15, text)
	}
	m.path("moment", "M%.1f %.1fV%.1f", m.x(0), m.scale.top, m.scale.bottom)
	m.path("l-far", "M%.1f %.1fH%.1f", m.left, m.scale.y(inMillis(m.far)), m.right)
	m.path("l-soft", "%s", m.curve(0))
	m.path("l-ink", "%s", m.curve(1))
}

// waiting shades how many payments waited around the returns, the most of them as high as the panel.
func (m *momentPanel) waiting() {
	drains := m.run.drains
	if len(drains) == 0 {
		return
	}
	shortest, most := math.MaxInt, int64(1)
	for _, d := range drains {
		shortest, most = min(shortest, len(d.waiting)), max(most, slices.Max(d.waiting))
	}
	var form strings.Builder
	fmt.Fprintf(&form, "M%.1f %.1f", m.x(0), m.scale.bottom)
	last := 0.0
	for i := range min(shortest, int(drainShown/drainBin)) {
		sum := int64(0)
		for _, d := range drains {
			sum += d.waiting[i]
		}
		last = m.x(time.Duration(i) * drainBin)
		fmt.Fprintf(&form, "L%.1f %.1f", last, m.scale.bottom-(m.scale.bottom-m.scale.top)*float64(sum)/float64(int64(len(drains))*most))
	}
	m.path("a-waiting", "%sL%.1f %.1fz", form.String(), last, m.scale.bottom)
	m.text("t-waiting", "end", m.right, m.scale.top-8, fmt.Sprintf("shaded: what is accepted and not settled yet, %d at most", most))
}

// x is where a time before or after the moment is drawn.
func (m *momentPanel) x(at time.Duration) float64 {
	return m.left + (m.right-m.left)*float64(at+m.before)/float64(time.Duration(len(m.bins))*m.bin)
}

// curve joins the p50, which is 0, or the p99 of all bins.
func (m *momentPanel) curve(which int) string {
	var d strings.Builder
	for i, bin := range m.bins {
		at := time.Duration(i)*m.bin + m.bin/2 - m.before
		fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], m.x(at), m.scale.y(inMillis(bin[which])))
	}
	return d.String()
}
