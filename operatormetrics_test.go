package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestOldestUnsettledPaymentIsKnown: its age, whatever was settled before and after it.
func TestOldestUnsettledPaymentIsKnown(t *testing.T) {
	l, _ := openTestLedger(t, t.TempDir())
	defer l.close()
	if l.oldestUnsettled() != 0 || l.active.firstUnsettled() != 0 {
		t.Error("something is old in an empty journal")
	}
	first, second, third := accept(t, l, 1, 1), accept(t, l, 2, 1), accept(t, l, 3, 1)
	for _, c := range []struct {
		settled slotView
		want    micros
	}{{first, second.acceptedAt}, {third, second.acceptedAt}, {second, 0}} {
		must(t)(l.become(c.settled, slotSettled))
		if got := l.active.firstUnsettled(); got != c.want {
			t.Errorf("the oldest was accepted at %d, want %d", got, c.want)
		}
	}
	if l.oldestUnsettled() != 0 {
		t.Error("something is old, though all is settled")
	}
	accept(t, l, 4, 1)
	for l.oldestUnsettled() == 0 { // it grows from zero
	}
}

func TestMetricsTellWhatAnOperatorActsOn(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	w.pinned(t, g, nthID(1))
	for _, line := range []string{
		`galo_pins{processor="default"} 1`, `galo_pins{processor="fallback"} 0`, `galo_journal_segments{kind="mapped"} 2`,
		`galo_journal_segments{kind="retired"} 0`, `galo_journal_bytes 8396800`, `galo_bus_foreign_messages 0`, `galo_bus_dropped_messages 0`,
	} {
		eventually(t, line, func() bool { // a pin that is being tried is not counted
			var b bytes.Buffer
			g.metrics.write(&b)
			return strings.Contains(b.String(), line+"\n")
		})
	}
	if g.ledger.oldestUnsettled() == 0 {
		t.Error("nothing is unsettled")
	}
	w.def.behave(nil)
	g.becomes(nthID(1), "settled default")
}
