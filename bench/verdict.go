package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// findings are the payments that went wrong, judged from what was sent, what was answered and what was written.
type findings struct {
	lost      []uuid.UUID // answered with 202 and written nowhere
	twice     []uuid.UUID // written at both processors
	uninvited []uuid.UUID // written although every answer refused it: the client would pay again with a new id
	strange   []uuid.UUID // written and never sent
	altered   []uuid.UUID // written with another amount
}

// judge compares the payments that were sent with what the processors have written.
func judge(shots []shot, ends []shotEnd, paid [processors][]written) findings {
	var f findings
	type writing struct {
		times  int
		amount cents
	}
	there := make(map[uuid.UUID]writing, len(shots))
	for _, list := range paid {
		for _, w := range list {
			there[w.id] = writing{there[w.id].times + 1, w.amount}
		}
	}
	for i, s := range shots {
		w, end := there[s.id], ends[i]
		delete(there, s.id)
		accepted := end.status == http.StatusAccepted
		switch {
		case w.times == 0 && accepted:
			f.lost = append(f.lost, s.id)
		case w.times > 1:
			f.twice = append(f.twice, s.id)
		case w.times == 1 && !accepted && !end.doubtful:
			f.uninvited = append(f.uninvited, s.id)
		}
		if w.times > 0 && w.amount != s.amount {
			f.altered = append(f.altered, s.id)
		}
	}
	for id, w := range there {
		f.strange = append(f.strange, id)
		if w.times > 1 {
			f.twice = append(f.twice, id)
		}
	}
	return f
}

// A verdict is everything that is said about a run. Money is in cents, latencies are in microseconds.
type verdict struct {
	Storm   string  `json:"storm"`
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`

	Sent       int64         `json:"sent"`
	Accepted   int64         `json:"accepted"`
	Refused    int64         `json:"refused"`    // answered, but not with 202
	Unanswered int64         `json:"unanswered"` // never answered, after all tries
	Retried    int64         `json:"retried"`    // further tries
	Statuses   map[int]int64 `json:"statuses"`

	Lost      int `json:"lost"`
	Twice     int `json:"twice"`
	Uninvited int `json:"uninvited"`
	Strange   int `json:"strange"`
	Altered   int `json:"altered"`
	Misdated  int `json:"misdated"` // written with a requestedAt that was not while the storm ran

	Checks checkCounts `json:"checks"`
	Final  finalCounts `json:"final"`

	LagAtEnd      int     `json:"lagAtEnd"`      // accepted and unpaid when the last client was answered
	LagAfterDrain int     `json:"lagAfterDrain"` // and when the time to drain was over
	DrainSeconds  float64 `json:"drainSeconds"`

	Paid      [processors]paidAt  `json:"paid"`
	Processor [processors]counted `json:"processors"`
	Latency   quantiles           `json:"latencyMicros"`
	FirstTry  quantiles           `json:"firstTryMicros"`
	SentLate  quantiles           `json:"sentLateMicros"`
	Net       cents               `json:"net"`
	NetCalm   cents               `json:"netFirstTry"` // as if nobody had had to try again

	Outage *outageReport `json:"outage,omitempty"` // nil unless the storm is about one

	Harmed  bool     `json:"harmed"`  // parts of it were killed, or answers were lost: it may turn clients away for a moment
	Untimed bool     `json:"untimed"` // the machine was too busy to hold anybody to a time
	Kills   int      `json:"kills"`
	Crashes []string `json:"crashes,omitempty"` // instances that ended though nobody killed them
}

type paidAt struct {
	Requests int64 `json:"requests"`
	Amount   cents `json:"amount"`
	Fee      cents `json:"fee"`
	Rate     fee   `json:"feeRate"` // hundredths of a percent
}

// disagreements are all answers that were wrong or, at the end, not to be had.
func (v *verdict) disagreements() int {
	return v.Checks.Disagreed + v.Final.WindowsBad + v.Final.RecordsBad + v.Final.Unanswered
}

// clean is what the exit status says. A galo that accepts nothing, or never gives a summary, does nothing wrong by the figures above: it is not
// clean for that. Where nothing was done to it, every payment is accepted and every summary given.
func (v *verdict) clean() bool {
	compared := v.Checks.Agreed > 0 || v.Checks.Unavailable+v.Checks.Unasked == 0
	served := v.Accepted > 0 && (v.Harmed || v.Refused+v.Unanswered == 0)
	return v.Lost == 0 && v.Twice == 0 && v.disagreements() == 0 &&
		v.Uninvited == 0 && v.Strange == 0 && v.Altered == 0 && v.Misdated == 0 && len(v.Crashes) == 0 && served && compared &&
		(v.Untimed || v.tooSoon() == 0)
}

// tooSoon is how many health calls came closer together than one a window.
func (v *verdict) tooSoon() (n uint64) {
	for _, c := range v.Processor {
		n += c.TooSoon
	}
	return n
}

// The contest's score, in integers: a millisecond of p99 below eleven is worth 2 %, one disagreement costs 35 %.
const (
	bonusBelow     = 11_000  // microseconds
	bonusPerMicro  = 20      // millionths
	wrongPenalty   = 350_000 // millionths
	wholeMillionth = 1_000_000
)

// earnings is what the contest would pay for this run.
func earnings(gross, fees cents, p99 int64, wrong bool) cents {
	factor := int64(wholeMillionth) + max(0, bonusBelow-p99)*bonusPerMicro
	if wrong {
		factor -= wrongPenalty
	}
	kept := int64(gross - fees)
	return cents(kept/wholeMillionth*factor + kept%wholeMillionth*factor/wholeMillionth)
}

// score fills in the money from what was paid.
func (v *verdict) score() {
	var gross, fees cents
	for p := range v.Paid {
		v.Paid[p].Fee = v.Paid[p].Rate.of(v.Paid[p].Amount)
		gross += v.Paid[p].Amount
		fees += v.Paid[p].Fee
	}
	wrong := v.disagreements() > 0
	v.Net = earnings(gross, fees, v.Latency.P99, wrong)
	v.NetCalm = earnings(gross, fees, v.FirstTry.P99, wrong)
}

func (v *verdict) print(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	word := "clean"
	if !v.clean() {
		word = "NOT CLEAN"
	}
	line("verdict", "%s: storm %s, seed %d, %.0f s, killed %d times", word, v.Storm, v.Seed, v.Seconds, v.Kills)
	line("payments", "%d sent, %d accepted, %d not accepted%s, %d without an answer, %d further tries",
		v.Sent, v.Accepted, v.Refused, v.notAccepted(), v.Unanswered, v.Retried)
	line("lost", "%d", v.Lost)
	line("charged twice", "%d", v.Twice)
	line("disagreements", "%d (while it ran %d of %d, in the contest's rhythm %d of %d; afterwards %d of %d windows, %d of %d records, %d without an answer)",
		v.disagreements(), v.Checks.Disagreed, v.Checks.Agreed+v.Checks.Disagreed, v.Checks.ContestBad, v.Checks.Contest,
		v.Final.WindowsBad, v.Final.Windows, v.Final.RecordsBad, v.Final.Records, v.Final.Unanswered)
	if n := v.Checks.Passing; n > 0 {
		line("", "%d more while it ran were over at a later look: a payment was late on a busy machine, or had just landed without an answer", n)
	}
	if n := v.Checks.Unavailable + v.Checks.Unasked; n > 0 {
		line("", "%d checks found no summary to compare (galo away or rebuilding: %d)", n, v.Checks.Unavailable)
	}
	if v.Uninvited+v.Strange+v.Altered+v.Misdated > 0 {
		line("foul", "%d paid though refused, %d paid and never sent, %d paid with another amount, %d under a time that was not during the storm",
			v.Uninvited, v.Strange, v.Altered, v.Misdated)
	}
	line("lag", "%d at the end of the storm, %d after %.1f s", v.LagAtEnd, v.LagAfterDrain, v.DrainSeconds)
	v.printMoney(line)
	line("latency", "p50 %s, p99 %s, p99.9 %s, highest %s", ms(v.Latency.P50), ms(v.Latency.P99), ms(v.Latency.P999), ms(v.Latency.Max))
	if v.Retried > 0 {
		line("", "p50 %s, p99 %s, p99.9 %s without those that had to try again: then net %v",
			ms(v.FirstTry.P50), ms(v.FirstTry.P99), ms(v.FirstTry.P999), v.NetCalm)
	}
	line("", "of which the bench itself was late: p50 %s, p99 %s", ms(v.SentLate.P50), ms(v.SentLate.P99))
	v.printProcessors(line)
	if v.Outage != nil {
		v.Outage.print(line)
	}
	for _, crash := range v.Crashes {
		line("crash", "%s", crash)
	}
}

func (v *verdict) printMoney(line func(name, format string, args ...any)) {
	var requests int64
	var gross, fees cents
	for _, p := range v.Paid {
		requests, gross, fees = requests+p.Requests, gross+p.Amount, fees+p.Fee
	}
	line("paid", "%d for %v, fees %v; at default %.2f %% of the payments", requests, gross, fees,
		100*float64(v.Paid[onDefault].Requests)/float64(max(requests, 1)))
	line("net", "%v", v.Net)
}

func (v *verdict) printProcessors(line func(name, format string, args ...any)) {
	for p, c := range v.Processor {
		line(processorNames[p], "%d posts (%d failed, %d lost, %d repeated, %d malformed), %d look-ups, %d turned away; %d health calls, %d too close together",
			c.Posts, c.Failed, c.Lost, c.Repeated, c.Malformed, c.Lookups, c.Busy, c.Healths, c.TooSoon)
	}
	if v.tooSoon() > 0 {
		line("health limit", "BROKEN: %d calls came closer than %v", v.tooSoon(), healthWindow)
	}
}

// notAccepted is the answers other than 202, by status, for a person: " (503: 12)", or nothing.
func (v *verdict) notAccepted() string {
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(v.Statuses)) {
		if status != http.StatusAccepted {
			parts = append(parts, fmt.Sprintf("%d: %d", status, v.Statuses[status]))
		}
	}
	if parts == nil {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func ms(micros int64) string { return fmt.Sprintf("%.2f ms", float64(micros)/microsPerMilli) }
