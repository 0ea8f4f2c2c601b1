package main

import (
	"net/http"
	"time"

	"github.com/google/uuid"
)

// A stretch is a part of a storm. The zero one is none.
type stretch struct{ from, to time.Duration }

// An outageReport says how clients and payments fared before, during and after an outage of both processors.
type outageReport struct {
	Held         int     `json:"held"`              // accepted payments that had not been paid when the processors were well again
	DrainSeconds float64 `json:"drainSeconds"`      // from then until nobody had to wait any more
	Drained      int     `json:"drained"`           // payments that were sent meanwhile
	AtFallback   int     `json:"drainedAtFallback"` // those of them that went to fallback, though both were well: the regret where that is the dearer one
	Phases       []phase `json:"phases"`

	start time.Time
}

// A phase is about the payments that were due in a part of a storm, and what the containers of a stack used in that time.
type phase struct {
	Name       string         `json:"name"`
	From       float64        `json:"from"` // seconds of the storm
	To         float64        `json:"to"`
	Payments   int            `json:"payments"`
	Latency    quantiles      `json:"latencyMicros"`
	SentLate   quantiles      `json:"sentLateMicros"` // the part of it that is the bench's own
	Containers []containerUse `json:"containers,omitempty"`
}

// longWait from a payment's moment until it is sent is far beyond what any takes that was not held.
const longWait = time.Second

// judgeOutage finds all that in what clients were answered and in what the processors have written.
func judgeOutage(st storm, start time.Time, shots []shot, ends []shotEnd, paid [processors][]written) *outageReport {
	due := make(map[uuid.UUID]time.Duration, len(shots))
	for i, s := range shots {
		if ends[i].status == http.StatusAccepted {
			due[s.id] = s.at
		}
	}
	o := &outageReport{start: start}
	sentAt := func(w written) time.Duration { return time.UnixMicro(w.requestedAt).Sub(start) }
	drained := st.outage.to
	for _, list := range paid {
		for _, w := range list {
			at, ok := due[w.id]
			sent := sentAt(w)
			if !ok || sent < st.outage.to {
				continue
			}
			if at < st.outage.to {
				o.Held++
			}
			if sent-at > longWait {
				drained = max(drained, sent)
			}
		}
	}
	for p, list := range paid {
		for _, w := range list {
			if sent := sentAt(w); sent >= st.outage.to && sent <= drained {
				o.Drained++
				if p == onFallback {
					o.AtFallback++
				}
			}
		}
	}
	o.DrainSeconds = (drained - st.outage.to).Seconds()
	end := max(st.length, drained)
	for _, part := range []struct {
		name string
		stretch
	}{{"before", stretch{0, st.outage.from}}, {"outage", st.outage}, {"drain", stretch{st.outage.to, drained}}, {"after", stretch{drained, end}}} {
		o.Phases = append(o.Phases, judgePhase(part.name, part.stretch, shots, ends))
	}
	return o
}

func judgePhase(name string, s stretch, shots []shot, ends []shotEnd) phase {
	latency, late, n := newTimes(), newTimes(), 0
	for i, shot := range shots {
		if shot.at >= s.from && shot.at < s.to && ends[i].status != 0 {
			latency.add(ends[i].took)
			late.add(ends[i].late)
			n++
		}
	}
	return phase{Name: name, From: s.from.Seconds(), To: s.to.Seconds(), Payments: n, Latency: latency.quantiles(), SentLate: late.quantiles()}
}

// meter adds what the containers used in each phase.
func (o *outageReport) meter(m *meter) {
	at := func(seconds float64) time.Time { return o.start.Add(time.Duration(seconds * float64(time.Second))) }
	for i := range o.Phases {
		ph := &o.Phases[i]
		ph.Containers = m.between(at(ph.From), at(ph.To))
	}
}

func (o *outageReport) print(line func(name, format string, args ...any)) {
	line("outage", "%d held when both processors were well again, nobody waited longer than %v from %.1f s after that; %.2f %% of the %d sent meanwhile went to %s",
		o.Held, longWait, o.DrainSeconds, 100*float64(o.AtFallback)/float64(max(o.Drained, 1)), o.Drained, processorNames[onFallback])
	for _, ph := range o.Phases {
		line(ph.Name, "%.1f to %.1f s, %d payments: p50 %s, p99 %s, highest %s; of which the bench itself was late: p50 %s, p99 %s",
			ph.From, ph.To, ph.Payments, ms(ph.Latency.P50), ms(ph.Latency.P99), ms(ph.Latency.Max), ms(ph.SentLate.P50), ms(ph.SentLate.P99))
		for _, u := range ph.Containers {
			line("", "%s", u.describePhase(ph.To-ph.From))
		}
	}
}
