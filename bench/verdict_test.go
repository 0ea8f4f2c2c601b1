package main

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

// madeUp is three payments, all accepted, and where they were paid: everything as it should be.
func madeUp() (shots []shot, ends []shotEnd, paid [processors][]written) {
	for range 3 {
		shots = append(shots, shot{id: freshID(), amount: 1990})
		ends = append(ends, shotEnd{status: 202})
	}
	paid[onDefault] = []written{{id: shots[0].id, amount: 1990}, {id: shots[1].id, amount: 1990}}
	paid[onFallback] = []written{{id: shots[2].id, amount: 1990}}
	return shots, ends, paid
}

func only1(t *testing.T, what string, got []uuid.UUID, want uuid.UUID) {
	t.Helper()
	if len(got) != 1 || got[0] != want {
		t.Errorf("%s: %v, want %v alone", what, got, want)
	}
}

func TestVerdictOnACleanRun(t *testing.T) {
	f := judge(madeUp())
	if len(f.lost)+len(f.twice)+len(f.uninvited)+len(f.strange)+len(f.altered) != 0 {
		t.Errorf("found %+v", f)
	}
}

func TestAcceptedAndPaidNowhereIsLost(t *testing.T) {
	shots, ends, paid := madeUp()
	paid[onFallback] = nil
	only1(t, "lost", judge(shots, ends, paid).lost, shots[2].id)
}

func TestPaidAtBothIsChargedTwice(t *testing.T) {
	shots, ends, paid := madeUp()
	paid[onFallback] = append(paid[onFallback], written{id: shots[0].id, amount: 1990})
	only1(t, "twice", judge(shots, ends, paid).twice, shots[0].id)
}

func TestPaidTwiceAtOneProcessorIsChargedTwice(t *testing.T) {
	shots, ends, paid := madeUp()
	paid[onDefault] = append(paid[onDefault], paid[onDefault][0])
	only1(t, "twice", judge(shots, ends, paid).twice, shots[0].id)
}

func TestPaidThoughRefusedIsFoundUnlessAnAnswerWasLost(t *testing.T) {
	shots, ends, paid := madeUp()
	ends[1] = shotEnd{status: 503}
	only1(t, "uninvited", judge(shots, ends, paid).uninvited, shots[1].id)
	ends[1] = shotEnd{status: 503, doubtful: true} // an earlier try may have been accepted
	if f := judge(shots, ends, paid); len(f.uninvited) != 0 {
		t.Errorf("found %+v", f)
	}
	ends[1] = shotEnd{doubtful: true} // nobody knows, and both are well
	if f := judge(shots, ends, paid); len(f.uninvited) != 0 {
		t.Errorf("found %+v", f)
	}
}

func TestRefusedAndUnpaidIsNotLost(t *testing.T) {
	shots, ends, paid := madeUp()
	ends[2], paid[onFallback] = shotEnd{status: 503}, nil
	if f := judge(shots, ends, paid); len(f.lost) != 0 {
		t.Errorf("found %+v", f)
	}
}

func TestPaidAndNeverSentIsStrange(t *testing.T) {
	shots, ends, paid := madeUp()
	id := freshID()
	paid[onDefault] = append(paid[onDefault], written{id: id, amount: 1})
	only1(t, "strange", judge(shots, ends, paid).strange, id)
}

func TestAnotherAmountIsFound(t *testing.T) {
	shots, ends, paid := madeUp()
	paid[onDefault][1].amount = 1991
	only1(t, "altered", judge(shots, ends, paid).altered, shots[1].id)
}

func TestVerdictIsCleanOnlyWithoutAnyFinding(t *testing.T) {
	for name, spoil := range map[string]func(*verdict){
		"lost":                  func(v *verdict) { v.Lost = 1 },
		"charged twice":         func(v *verdict) { v.Twice = 1 },
		"paid though refused":   func(v *verdict) { v.Uninvited = 1 },
		"never sent":            func(v *verdict) { v.Strange = 1 },
		"another amount":        func(v *verdict) { v.Altered = 1 },
		"summary while running": func(v *verdict) { v.Checks.Disagreed = 1 },
		"summary afterwards":    func(v *verdict) { v.Final.WindowsBad = 1 },
		"record":                func(v *verdict) { v.Final.RecordsBad = 1 },
		"never answered":        func(v *verdict) { v.Final.Unanswered = 1 },
		"crash":                 func(v *verdict) { v.Crashes = []string{"galo-1 ended by itself"} },
		"nothing accepted":      func(v *verdict) { v.Accepted, v.Harmed = 0, true },
		"one turned away":       func(v *verdict) { v.Refused = 1 },
		"one never answered":    func(v *verdict) { v.Unanswered = 1 },
		"never a summary":       func(v *verdict) { v.Checks.Unavailable = 3 },
		"under another time":    func(v *verdict) { v.Misdated = 1 },
		"health limit":          func(v *verdict) { v.Processor[onFallback].TooSoon = 1 },
	} {
		v := verdict{Sent: 1, Accepted: 1}
		if !v.clean() {
			t.Fatal("a clean verdict is not clean")
		}
		spoil(&v)
		var text strings.Builder
		v.print(&text)
		if v.clean() || !strings.Contains(text.String(), "NOT CLEAN") {
			t.Errorf("%s: still clean", name)
		}
	}
	harmed := verdict{Sent: 3, Accepted: 1, Refused: 1, Unanswered: 1, Harmed: true, Untimed: true, Checks: checkCounts{Agreed: 1, Unavailable: 1}}
	harmed.Processor[onDefault].TooSoon = 1
	if !harmed.clean() {
		t.Error("what harm and a busy machine excuse is not clean")
	}
	withBreach := verdict{Sent: 1}
	withBreach.Processor[onDefault].TooSoon = 2
	var text strings.Builder
	if withBreach.print(&text); !strings.Contains(text.String(), "BROKEN: 2 calls") {
		t.Errorf("a broken health limit is not said:\n%s", text.String())
	}
}

func TestNetFollowsTheContest(t *testing.T) {
	for _, c := range []struct {
		name  string
		p99   int64
		wrong bool
		want  cents
	}{
		{"at eleven milliseconds nothing is added", 11_000, false, 95_000},
		{"slower costs nothing more", 300_000, false, 95_000},
		{"one millisecond adds a fifth", 1_000, false, 114_000},
		{"a disagreement takes 35 percent", 11_000, true, 61_750},
		{"both", 1_000, true, 80_750},
	} {
		if got := earnings(100_000, 5_000, c.p99, c.wrong); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
