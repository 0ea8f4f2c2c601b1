package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// The time line of one storm: how the processors were, what went where, what was held, and what the instances said.

// stormSecond is what happened in a second.
type stormSecond struct {
	accepted, held          int
	posts, refused, written [processors]int
	regretted, risked, late int // of those that were accepted in it, see stormFigures
}

// stormNote is a line of an instance's log.
type stormNote struct {
	at   time.Duration
	text string
}

// tell notes something for the time line, if there is to be one. The caller holds mu.
func (r *stormRun) tell(note func(*stormSecond)) {
	r.tellOf(r.elapsed(), note)
}

func (r *stormRun) tellOf(at time.Duration, note func(*stormSecond)) {
	if r.seconds != nil {
		note(&r.seconds[min(int(at/time.Second), len(r.seconds)-1)])
	}
}

// timeLine prints a line for each second, with the delays in milliseconds, and for whatever an instance logged. What happened after the end counts in the last second.
func (r *stormRun) timeLine() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\nsecond accepted   held |    default   sent refused   paid |   fallback   sent refused   paid | regret   risk   late\n", &r.storm)
	notes := r.notes
	for n, s := range r.seconds {
		at := time.Duration(n) * time.Second
		fmt.Fprintf(&text, "%6d %8d %6d", n, s.accepted, s.held)
		for p, w := range r.storm.weather {
			fmt.Fprintf(&text, " | %10s %6d %7d %6d", w.at(at), s.posts[p], s.refused[p], s.written[p])
		}
		fmt.Fprintf(&text, " | %6d %6d %6d\n", s.regretted, s.risked, s.late)
		for ; len(notes) > 0 && (notes[0].at < at+time.Second || n == len(r.seconds)-1); notes = notes[1:] {
			fmt.Fprintf(&text, "%10.3f s: %s\n", notes[0].at.Seconds(), notes[0].text)
		}
	}
	return text.String()
}

func (s spell) String() string {
	if s.failing {
		return fmt.Sprintf("fails %d", s.delay.Milliseconds())
	}
	return fmt.Sprint(s.delay.Milliseconds())
}

func (s *storm) String() string {
	text := fmt.Sprintf("storm %s: %s, %.0f to %.0f payments a second at %d instances, patience %s, fees %d and %d ppm, nats %t, health %s",
		s.name, s.length.Round(time.Second), s.rate[0], s.rate[1], s.instances, s.patience, s.fees[onDefault], s.fees[onFallback], s.nats, s.health)
	if s.strange != nil {
		text += "; to the first instance default is:"
		for _, one := range s.strange {
			text += fmt.Sprintf(" from %s %s;", one.from.Round(time.Millisecond), one)
		}
	}
	return text
}

func (h healthManner) String() string { return [...]string{"honest", "rosy", "lying", "late"}[h] }

// stormLog takes down what an instance says.
type stormLog struct {
	run   *stormRun
	attrs []slog.Attr
}

func (*stormLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (l *stormLog) WithGroup(string) slog.Handler              { return l }

func (l *stormLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &stormLog{l.run, append(l.attrs[:len(l.attrs):len(l.attrs)], attrs...)}
}

func (l *stormLog) Handle(_ context.Context, r slog.Record) error {
	r.AddAttrs(l.attrs...)
	l.run.mu.Lock()
	defer l.run.mu.Unlock()
	l.run.notes = append(l.run.notes, stormNote{l.run.elapsed(), said{r}.String()})
	return nil
}
