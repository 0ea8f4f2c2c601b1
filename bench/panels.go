package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// head says what was played and what came of it, in a few numbers.
func (f *figure) head() {
	v := &f.report.verdict
	word, class := "clean", "title"
	if !v.clean() {
		word, class = "NOT CLEAN", "title bad"
	}
	var paid int64
	var fees cents
	for _, p := range v.Paid {
		paid, fees = paid+p.Requests, fees+p.Fee
	}
	f.Title = fmt.Sprintf("Storm %s, seed %d: %s", v.Storm, v.Seed, word)
	f.Subtitle = fmt.Sprintf("%s payments in %.0f s: %s accepted, %s paid, fees %s; kills: %d, crashes: %d.",
		number(float64(v.Sent)), v.Seconds, number(float64(v.Accepted)), number(float64(paid)), thousands(fees.String()), v.Kills, len(v.Crashes))
	say := func(class string, x, y float64, text string) {
		f.Texts = append(f.Texts, caption{Class: class, X: coordinate(x), Y: coordinate(y), Text: text})
	}
	say(class, margin, f.y, f.Title)
	say("soft", margin, f.y+20, f.Subtitle)
	x := margin
	for _, tile := range []struct {
		value, name string
		bad         bool
	}{
		{thousands(v.Net.String()), "net", false},
		{fmt.Sprintf("%.2f %%", 100*float64(v.Paid[onDefault].Requests)/float64(max(paid, 1))), "paid at default", false},
		{fmt.Sprintf("%d, %d", v.LagAtEnd, v.LagAfterDrain), fmt.Sprintf("unpaid at the end, %.1f s later", v.DrainSeconds), v.LagAfterDrain > 0},
		{fmt.Sprint(v.Lost), "lost", v.Lost > 0},
		{fmt.Sprint(v.Twice), "charged twice", v.Twice > 0},
		{fmt.Sprintf("%d", v.disagreements()), fmt.Sprintf("disagreements, of %d checks", v.Checks.Agreed+v.Checks.Disagreed+v.Final.Windows+v.Final.Records), v.disagreements() > 0},
		{ms(v.Latency.P99), "p99 of clients", false},
	} {
		figure := "figure"
		if tile.bad {
			figure = "figure bad"
		}
		say(figure, x, f.y+56, tile.value)
		say("small", x, f.y+73, tile.name)
		x += max(figureLetter*float64(len(tile.value)), letterWidth*float64(len(tile.name))) + 2*margin
	}
	f.y += 100
}

const (
	truthHeight  = 22.0
	beliefHeight = 11.0
	rowGap       = 4.0
	groupGap     = 12.0
)

// beliefs shows what each processor was like, and below it what each instance took it for.
func (f *figure) beliefs() {
	rows := float64(len(f.report.instances))
	group := truthHeight + rows*(beliefHeight+rowGap)
	p := f.begin("processors", "The processors, and what galo took them for", processors*group+(processors-1)*groupGap)
	y := p.top
	for id, name := range processorNames {
		p.say("t-"+name, "end", plotLeft-8, y+15, name)
		f.truth(p, id, y)
		y += truthHeight + rowGap
		for i, instance := range f.report.instances {
			p.say("small", "end", plotLeft-8, y+beliefHeight-2, instance)
			f.believed(p, id, i, y)
			y += beliefHeight + rowGap
		}
		y += groupGap - rowGap
	}
	how := "Tall rows: the truth, the darker the slower, hatched while failing. No instance's view was recorded."
	if rows > 0 {
		how = "Tall rows: the truth, the darker the slower, hatched while failing. Thin rows: galo's view; full is open, half high slow, a hatched line closed, nothing: it did not answer."
	}
	f.finish(p, how)
}

// truth is the stages of one processor.
func (f *figure) truth(p *panel, id int, y float64) {
	stages := f.report.storm.stages
	for i, st := range stages {
		left, right := f.x(st.from), plotRight
		if i+1 < len(stages) {
			right = f.x(stages[i+1].from)
		}
		if left >= plotRight {
			break
		}
		delay, failing := st.delay[id], st.failing[id]
		text := fmt.Sprintf("%s ms", number(float64(delay.Milliseconds())))
		if failing {
			text += ", failing"
		}
		tip := fmt.Sprintf("from %.1f s: %s", st.from.Seconds(), text)
		band := p.box("a-"+processorNames[id], left, y, right-1, y+truthHeight)
		band.Opacity, band.Tip = fmt.Sprintf("%.2f", 0.15+0.5*math.Sqrt(min(1, float64(delay)/float64(longestDelay)))), tip
		if failing {
			p.box("hatched", left, y, right-1, y+truthHeight).Tip = tip
		}
		if width := letterWidth * float64(len(text)); width+8 < right-left {
			if failing { // on a ground of its own, or the hatching runs through the letters
				p.box("paper", left+3, y+4, left+7+width, y+truthHeight-4).Opacity = ".85"
			}
			p.say("", "", left+5, y+15, text)
		}
	}
}

// believed is what one instance took a processor for.
func (f *figure) believed(p *panel, id, instance int, y float64) {
	samples := f.report.samples
	for i := 0; i < len(samples); {
		was, from := samples[i].believed[instance][id].belief, samples[i].at
		for i++; i < len(samples) && samples[i].believed[instance][id].belief == was; i++ {
		}
		to := f.end
		if i < len(samples) {
			to = samples[i].at
		}
		left, right, class := f.x(from), f.x(to), "a-"+processorNames[id]
		if left >= plotRight {
			break
		}
		switch was {
		case beliefUnknown:
		case beliefOpen:
			p.box(class, left, y, right, y+beliefHeight)
		case beliefSlow:
			p.box(class, left, y+beliefHeight/2, right, y+beliefHeight)
		case beliefClosed:
			p.box("hatched", left, y+beliefHeight-5, right, y+beliefHeight)
		}
	}
}

// flow shows what came in and where it went.
func (f *figure) flow() {
	rep := f.report
	p := f.begin("flow", "Payments a second: accepted, and paid at each processor", 120)
	both, none := make([]float64, len(rep.accepted)), make([]float64, len(rep.accepted))
	for i := range both {
		both[i] = rep.paid[onDefault][i] + rep.paid[onFallback][i]
	}
	s := p.linear(max(slices.Max(both), slices.Max(rep.accepted), slices.Max(rep.refused)))
	p.path("a-default", f.between(s, none, rep.paid[onDefault])).Opacity = ".8"
	p.path("a-fallback", f.between(s, rep.paid[onDefault], both)).Opacity = ".8"
	p.path("l-ink", f.steps(s, rep.accepted))
	if slices.Max(rep.refused) > 0 {
		p.path("l-bad", f.steps(s, rep.refused))
		p.beside("bad", p.top+54, "— not accepted")
	}
	p.beside("", p.top+6, "— accepted")
	for id, name := range processorNames {
		p.beside("t-"+name, p.top+22+lineHeight*float64(id), fmt.Sprintf("■ %s %s", name, number(float64(rep.verdict.Paid[id].Requests))))
	}
	f.finish(p, "Where the line is above the areas, payments are held; where the areas are above the line, what was held is paid. Each payment counts when it was due and when it was sent.")
}

// waiting shows how many were accepted and not paid yet.
func (f *figure) waiting() {
	p := f.begin("waiting", "Waiting: accepted, and not paid yet", 70)
	points := []point{{0, 0}}
	most := points[0]
	for _, s := range f.report.samples {
		if s.at <= f.end {
			points = append(points, point{s.at, float64(s.waiting)})
		}
	}
	for _, w := range points {
		if w.value > most.value {
			most = w
		}
	}
	last := points[len(points)-1].at
	s := p.linear(most.value)
	p.path("a-ink", f.curve(s, append(points, point{last, 0}, point{0, 0}), f.end)+"z").Opacity = ".35"
	p.path("l-soft", f.curve(s, points, f.end))
	if most.value > 0 {
		x, y := f.x(most.at), s.y(most.value)
		p.path("l-ink", fmt.Sprintf("M%v %vm-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", coordinate(x), coordinate(y)))
		p.beside("", y, "at most "+number(most.value))
		p.beside("soft", y, fmt.Sprintf("at %.1f s", most.at.Seconds()))
	}
	f.finish(p, "What the policy holds while nothing cheap enough answers, and what is on its way. It should be back at nothing soon after a processor is.")
}

// answerTicks are the lines of the panels of answer times.
var answerTicks = []float64{0, 0.1, 0.5, 1, 2, 5, 10, 20}

// answers shows how long payments took at one processor, and what galo reckoned with.
func (f *figure) answers(id int) {
	name := processorNames[id]
	p := f.begin("answers-"+name, "Answer times of "+name, 80)
	longest := time.Second.Seconds()
	for _, s := range f.report.samples {
		for other := range processorNames {
			longest = max(longest, float64(s.answered[other].Max)/1e6)
		}
	}
	ticks := answerTicks
	if i := slices.IndexFunc(ticks, func(v float64) bool { return v >= longest*0.98 }); i >= 0 {
		ticks = ticks[:i+1]
	}
	s := scale{panel: p, top: ticks[len(ticks)-1], bend: math.Sqrt}
	s.grid(ticks, func(v float64) string { return number(v) + " s" })
	var middle, high []point
	for _, one := range f.report.samples {
		if q := one.answered[id]; q.Max > 0 && one.at <= f.end {
			middle = append(middle, point{one.at, float64(q.P50) / 1e6})
			high = append(high, point{one.at, float64(q.Max) / 1e6})
		}
	}
	gap := 2 * answersEvery * sampleEvery
	for i := range f.report.instances {
		p.path("l-soft dash", f.curve(s, f.expected(id, i), 2*sampleEvery+sampleWithin))
	}
	p.path("l-"+name, f.curve(s, high, gap)).Opacity = ".5"
	p.path("l-"+name, f.curve(s, middle, gap))
	if late := windowGrace.Seconds(); late <= s.top {
		p.line("l-bad dash", plotLeft, s.y(late), plotRight, s.y(late))
		p.beside("bad", s.y(late), number(late)+" s: too late")
	}
	p.beside("t-"+name, p.top+4, "— p50 (pale: max)")
	if len(f.report.instances) > 0 {
		p.beside("soft", p.bottom-4, "- - galo expects")
	}
	how := "Every second, refusals too, as the processor saw it. What takes longer than 1.5 s may be missing in a summary. The scale is a square root's, so that milliseconds show beside seconds."
	if id == onFallback {
		how = "The same, on the same scale."
	}
	f.finish(p, how)
}

// expected is what one instance reckoned with.
func (f *figure) expected(id, instance int) (points []point) {
	for _, s := range f.report.samples {
		if e := s.believed[instance][id]; e.belief != beliefUnknown && s.at <= f.end {
			points = append(points, point{s.at, e.expected.Seconds()})
		}
	}
	return points
}

// bonusMillis is below what the contest rewards a p99.
const bonusMillis = float64(bonusBelow) / microsPerMilli

// clients shows how long the 202 took.
func (f *figure) clients() {
	p := f.begin("clients", "Clients: how long they waited for an answer", 90)
	var p50, p99 []point
	lowest, highest := 1.0, bonusMillis
	for i, q := range f.report.latency {
		if q.Max == 0 {
			continue
		}
		at := f.bucket(i) + f.report.every/2
		p50 = append(p50, point{at, float64(q.P50) / microsPerMilli})
		p99 = append(p99, point{at, float64(q.P99) / microsPerMilli})
		lowest, highest = min(lowest, float64(q.P50)/microsPerMilli), max(highest, float64(q.P99)/microsPerMilli)
	}
	s := scale{panel: p, lowest: math.Pow(10, math.Floor(math.Log10(lowest))), top: math.Pow(10, math.Ceil(math.Log10(highest))), bend: math.Log10}
	var ticks []float64
	for v := s.lowest; v <= s.top*1.01; v *= 10 {
		ticks = append(ticks, v)
	}
	s.grid(ticks, func(v float64) string { return fmt.Sprintf("%s ms", number(math.Round(v*1000)/1000)) })
	p.line("l-bad dash", plotLeft, s.y(bonusMillis), plotRight, s.y(bonusMillis))
	gap := 2 * f.report.every
	p.path("l-soft", f.curve(s, p50, gap))
	p.path("l-ink", f.curve(s, p99, gap))
	p.beside("bad", s.y(bonusMillis), number(bonusMillis)+" ms: bonus")
	if len(p99) > 0 {
		p.beside("", s.y(p99[len(p99)-1].value), "p99")
		p.beside("soft", s.y(p50[len(p50)-1].value), "p50")
	}
	f.finish(p, fmt.Sprintf("p50 and p99 of the payments due in each %s, from the moment each was due. The scale is logarithmic. Over the whole storm: p50 %s, p99 %s.",
		span(f.report.every), ms(f.report.verdict.Latency.P50), ms(f.report.verdict.Latency.P99)))
}

func span(d time.Duration) string {
	if d == time.Second {
		return "second"
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// eventsListed is how many are told in words.
const eventsListed = 20

// evidence shows every comparison of summaries, and what was done to galo.
func (f *figure) evidence() {
	p := f.begin("summaries", "Summaries compared with the processors while the storm ran", 20)
	for _, l := range f.report.looks {
		x, y := f.x(l.at), (p.top+p.bottom)/2
		class, d := "l-ink", fmt.Sprintf("M%v %vv8", coordinate(x), coordinate(y-4))
		switch l.result {
		case checkAgreed:
		case checkDisagreed:
			class, d = "l-bad", fmt.Sprintf("M%v %vl9 14m-9 0l9 -14", coordinate(x-4.5), coordinate(y-7))
		case checkPassing:
			class, d = "l-bad", fmt.Sprintf("M%v %vl9 -14", coordinate(x-4.5), coordinate(y+7))
		case checkUnavailable, checkUnasked:
			class, d = "l-ink", fmt.Sprintf("M%v %vm-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", coordinate(x), coordinate(y))
		}
		p.path(class, d).Tip = fmt.Sprintf("%.1f s: %v", l.at.Seconds(), l.result)
	}
	c := f.report.verdict.Checks
	class := ""
	if c.Disagreed > 0 {
		class = "bad"
	}
	p.beside(class, (p.top+p.bottom)/2, fmt.Sprintf("%d of %d disagreed", c.Disagreed, c.Agreed+c.Disagreed))
	f.finish(p, fmt.Sprintf("A stroke agreed to the request and the cent; a cross disagreed (%d), a slanted stroke was over at a second look (%d); a ring got no answer to compare, such as 503 (%d).",
		c.Disagreed, c.Passing, c.Unavailable+c.Unasked))
	for i, e := range f.report.events {
		if i == eventsListed {
			p.say("soft", "", plotLeft+54, f.y, fmt.Sprintf("and %d more", len(f.report.events)-eventsListed))
			f.y += lineHeight
			break
		}
		p.say("bad", "end", plotLeft+44, f.y, fmt.Sprintf("%.1f s", e.at.Seconds()))
		p.say("", "", plotLeft+54, f.y, e.text)
		f.y += lineHeight
	}
}
