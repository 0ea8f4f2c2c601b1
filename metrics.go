package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

// metrics counts what an operator asks about. Intake only touches plain atomics; everything with a lock in it is off its path.
type metrics struct {
	set *vm.Set

	again, conflicting, full, bad atomic.Int64 // answers at the door; what is accepted is what the ledger has appended

	attempts    [processors][outcomeUnknown + 1]*vm.Counter
	answerTime  [processors]*vm.Summary
	detected    [processors]*vm.Summary
	recovered   [processors]*vm.Summary
	lookUps     [processors][lookUpNoAnswer + 1]*vm.Counter
	paidCount   [processors]*vm.Counter
	untilPaid   *vm.Summary
	rejected    *vm.Counter
	purges      *vm.Counter
	conflicts   *vm.Counter
	storeErrors *vm.Counter
	summaries   *vm.Summary
	refusedAsk  *vm.Counter
	damaged     *vm.Counter
	setAside    *vm.Counter
}

func newMetrics() *metrics {
	set := vm.NewSet()
	m := &metrics{
		set:         set,
		untilPaid:   set.NewSummary("galo_accepted_to_settled_seconds"),
		rejected:    set.NewCounter("galo_payments_rejected_total"),
		purges:      set.NewCounter("galo_purges_total"),
		conflicts:   set.NewCounter("galo_late_conflicts_total"),
		storeErrors: set.NewCounter("galo_store_errors_total"),
		summaries:   set.NewSummary("galo_summary_seconds"),
		refusedAsk:  set.NewCounter("galo_queries_unavailable_total"),
		damaged:     set.NewCounter("galo_journal_damaged_slots_total"),
		setAside:    set.NewCounter("galo_journal_slots_set_aside_total"),
	}
	for id := range processorID(processors) {
		for o := range outcomeUnknown + 1 {
			m.attempts[id][o] = set.NewCounter(fmt.Sprintf(`galo_attempts_total{processor=%q,outcome=%q}`, id, o))
		}
		for k := range lookUpNoAnswer + 1 {
			m.lookUps[id][k] = set.NewCounter(fmt.Sprintf(`galo_lookups_total{processor=%q,answer=%q}`, id, k))
		}
		m.answerTime[id] = set.NewSummary(fmt.Sprintf(`galo_attempt_seconds{processor=%q}`, id))
		m.detected[id] = set.NewSummary(fmt.Sprintf(`galo_processor_detect_seconds{processor=%q}`, id))
		m.recovered[id] = set.NewSummary(fmt.Sprintf(`galo_processor_recover_seconds{processor=%q}`, id))
		m.paidCount[id] = set.NewCounter(fmt.Sprintf(`galo_payments_paid_total{processor=%q}`, id))
	}
	count := func(answer string, n *atomic.Int64) {
		set.NewGauge(fmt.Sprintf(`galo_payments_total{answer=%q}`, answer), func() float64 { return float64(n.Load()) })
	}
	set.NewGauge(fmt.Sprintf(`galo_info{version=%q}`, version), func() float64 { return 1 })
	count("repeated", &m.again)
	count("conflict", &m.conflicting)
	count("full", &m.full)
	count("bad", &m.bad)
	return m
}

// observe registers what is read from the parts whenever somebody looks.
func (m *metrics) observe(l *ledger, d *dispatcher, f *feeder, p *policy, r *resolver, s *settler, e *elsewhere, b *bus, lf *lifeWatch) {
	gauge := func(name string, value func() int) {
		m.set.NewGauge(name, func() float64 { return float64(value()) })
	}
	gauge(`galo_payments_total{answer="accepted"}`, func() int { return int(l.appended()) })
	gauge("galo_pending", func() int { return int(l.pending.Load()) })
	gauge("galo_pending_max", func() int { return int(l.maxPending) })
	gauge("galo_rings_waiting", d.waiting)
	gauge("galo_feeder_waiting", f.len)
	gauge("galo_workers_idle", d.idle)
	gauge("galo_held", p.held)
	m.set.NewGauge("galo_oldest_held_seconds", func() float64 { return p.oldestHeld().Seconds() })
	gauge("galo_pinned", r.pinned)
	gauge("galo_settle_queue", s.queue.len)
	gauge("galo_elsewhere", e.len)
	gauge("galo_journals", func() int { return len(*l.journals.Load()) })
	gauge(`galo_journal_segments{kind="mapped"}`, func() int { mapped, _ := l.segmentCounts(); return mapped })
	gauge(`galo_journal_segments{kind="retired"}`, func() int { _, retired := l.segmentCounts(); return retired })
	gauge("galo_journal_bytes", func() int { return int(l.bytes()) })
	m.set.NewGauge("galo_oldest_unsettled_seconds", func() float64 { return l.oldestUnsettled().Seconds() })
	gauge("galo_store_ready", func() int { return oneIf(lf.present() != "" && s.answering.Load()) })
	gauge("galo_bus_connected", func() int { return oneIf(b.connected()) })
	gauge("galo_bus_foreign_messages", func() int { return int(b.foreignMessages()) })
	gauge("galo_bus_dropped_messages", func() int { return int(b.droppedMessages()) })
	if l.disk != nil {
		gauge("galo_journal_syncs", func() int { return int(l.disk.done.Load()) })
	}
	for id := range processorID(processors) {
		gauge(fmt.Sprintf(`galo_pins{processor=%q}`, id), func() int { return r.pinnedAt(id) })
		of := func(name string, value func(processorFigures) float64) {
			m.set.NewGauge(fmt.Sprintf(`galo_processor_%s{processor=%q}`, name, id), func() float64 { return value(p.figures(id)) })
		}
		of("open", func(s processorFigures) float64 { return float64(oneIf(s.standing != standingClosed)) })
		of("slow", func(s processorFigures) float64 { return float64(oneIf(s.standing == standingSlow)) })
		of("in_flight", func(s processorFigures) float64 { return float64(s.inFlight) })
		of("expected_seconds", func(s processorFigures) float64 { return s.expected.Seconds() })
		of("probes_total", func(s processorFigures) float64 { return float64(s.probes) })
		of("changes_total", func(s processorFigures) float64 { return float64(s.changes) })
	}
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) attempt(id processorID, res payResult) {
	m.attempts[id][res.outcome].Inc()
	m.answerTime[id].Update(res.took.Seconds())
}

func (m *metrics) lookUp(id processorID, res lookUpResult) { m.lookUps[id][res.kind].Inc() }

// processorTimed counts how long it took to find out that a processor is in trouble, or how long it was out of use.
func (m *metrics) processorTimed(id processorID, is standing, took time.Duration) {
	if is == standingOpen {
		m.recovered[id].Update(took.Seconds())
	} else {
		m.detected[id].Update(took.Seconds())
	}
}

func (m *metrics) paid(id processorID, waited micros) {
	m.paidCount[id].Inc()
	m.untilPaid.Update((time.Duration(waited) * time.Microsecond).Seconds())
}

// write prints everything in Prometheus's text format: counters, gauges, and summaries with their quantiles of the last minutes.
func (m *metrics) write(w io.Writer) {
	m.set.WritePrometheus(w)
	vm.WriteProcessMetrics(w)
}
