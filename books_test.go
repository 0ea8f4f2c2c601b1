package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// books is what clients were told, beside what both processors have: at the end of every fault the two must agree.
type books struct {
	def, fall *fakeProcessor

	mu       sync.Mutex
	promised map[paymentID][]cents // answered with 202, and under which amounts
	doubtful map[paymentID][]cents // the connection broke before the answer
}

// lastPatience is the time-out for what real processes do, which share the machine with whatever else runs there.
const lastPatience = time.Minute

// inTheEnd waits for a condition, as eventually does, for as long as that.
func inTheEnd(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(lastPatience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// asking is how an instance is asked for a path.
type asking func(path string) (status int, body string)

func newBooks(def, fall *fakeProcessor) *books {
	return &books{def: def, fall: fall, promised: make(map[paymentID][]cents), doubtful: make(map[paymentID][]cents)}
}

func (b *books) promise(id paymentID, amount cents) { b.remember(b.promised, id, amount) }
func (b *books) doubt(id paymentID, amount cents)   { b.remember(b.doubtful, id, amount) }

func (b *books) remember(where map[paymentID][]cents, id paymentID, amount cents) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(where[id], amount) {
		where[id] = append(where[id], amount)
	}
}

// audit is what has to hold in the end, by the books of both processors: every promise is kept once, nothing is at both, and what the
// instances say of each payment, and of all together, is what the processors have. rejected is what no processor took.
func (b *books) audit(t *testing.T, rejected map[paymentID]bool, instances map[string]asking) {
	t.Helper()
	for id, amounts := range b.promised {
		def, atDef := b.def.has(id.String())
		fall, atFall := b.fall.has(id.String())
		if atDef && atFall {
			t.Errorf("%s was paid at both", id)
		}
		if paid := atDef || atFall; paid == rejected[id] {
			t.Errorf("%s was promised, is paid: %v, and rejected: %v", id, paid, rejected[id])
		}
		if rejected[id] {
			continue
		}
		got := def.Amount
		if atFall {
			got = fall.Amount
		}
		if !slices.ContainsFunc(amounts, func(c cents) bool { return string(c.appendDecimal(nil)) == got.String() }) && !b.foreign(id) {
			t.Errorf("%s was accepted with %v and paid with %s", id, amounts, got)
		}
	}
	for name, ask := range instances {
		b.auditRecords(t, name, ask, rejected)
		b.auditSummaries(t, name, ask)
	}
}

// foreign says that a processor had the payment before it was ever posted.
func (b *books) foreign(id paymentID) bool {
	p, _ := b.def.has(id.String())
	return p.RequestedAt == longAgo
}

const longAgo = "2025-01-02T03:04:05.000006Z"

// auditRecords reads every payment that a client has posted, by its id.
func (b *books) auditRecords(t *testing.T, name string, ask asking, rejected map[paymentID]bool) {
	t.Helper()
	for _, ids := range []map[paymentID][]cents{b.promised, b.doubtful} {
		for id := range ids {
			status, body := 0, ""
			inTheEnd(t, "the instances hear each other", func() bool {
				status, body = ask("/payments/" + id.String())
				return status != http.StatusServiceUnavailable
			})
			var got struct {
				Amount                        json.Number
				State, Processor, RequestedAt string
			}
			json.Unmarshal([]byte(body), &got)
			want, processor := b.bookedAt(id)
			_, promised := b.promised[id]
			switch {
			case processor != "":
				if got.State != "settled" || got.Processor != processor || got.Amount != want.Amount || got.RequestedAt != want.RequestedAt {
					t.Errorf("%s says %d %s; %s has %+v", name, status, body, processor, want)
				}
			case promised && rejected[id] || !promised && got.State == "rejected":
				if got.State != "rejected" {
					t.Errorf("%s says %d %s of one that was rejected", name, status, body)
				}
			case status != http.StatusNotFound:
				t.Errorf("%s says %d %s of one that nobody has", name, status, body)
			}
		}
	}
}

// bookedAt is what a processor has of a payment, and which.
func (b *books) bookedAt(id paymentID) (fakePayment, string) {
	if p, ok := b.def.has(id.String()); ok {
		return p, onDefault.String()
	}
	if p, ok := b.fall.has(id.String()); ok {
		return p, onFallback.String()
	}
	return fakePayment{}, ""
}

// auditSummaries compares windows with the processors' books: everything, and from each of some instants on.
func (b *books) auditSummaries(t *testing.T, name string, ask asking) {
	t.Helper()
	froms := []string{"0001-01-01T00:00:00Z"}
	for _, f := range []*fakeProcessor{b.def, b.fall} {
		f.mu.Lock()
		for _, one := range f.paid {
			if len(froms) < 5 {
				froms = append(froms, one.RequestedAt)
			}
		}
		f.mu.Unlock()
	}
	for _, from := range froms {
		defCount, defAmount := b.def.bookedSince(from)
		fallCount, fallAmount := b.fall.bookedSince(from)
		want := wantSummary(defCount, string(defAmount.appendDecimal(nil)), fallCount, string(fallAmount.appendDecimal(nil)))
		path := "/payments-summary?from=" + from
		got := ""
		inTheEnd(t, name+" gives a summary", func() bool {
			var status int
			status, got = ask(path)
			return status == http.StatusOK
		})
		if got != want {
			t.Errorf("%s says %s of %s; the processors have %s", name, got, path, want)
		}
	}
}

// bookedSince adds up what the processor has from an instant on. All of it is written by galo, in one form, which sorts as text.
func (f *fakeProcessor) bookedSince(from string) (n int, sum cents) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.paid {
		if p.RequestedAt >= from {
			n++
			sum += centsOf(p.Amount)
		}
	}
	return n, sum
}

// centsOf reads the decimal that galo writes: with two digits after the point.
func centsOf(n json.Number) cents {
	c, err := strconv.ParseInt(strings.Replace(n.String(), ".", "", 1), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("not an amount: %q", n))
	}
	return cents(c)
}

// bookOnce writes a payment as a processor does: once, whatever comes after.
func (f *fakeProcessor) bookOnce(p fakePayment) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, taken := f.paid[p.ID]; taken {
		return false
	}
	f.paid[p.ID] = p
	return true
}

// sum is the summary that the processors' books make, and sumFrom that of the payments from the n-th on.
func (b *books) sum() string { return b.sumFrom(0) }

func (b *books) sumFrom(n uint64) string {
	first := nthID(n).String()
	var counts [processors]int
	var sums [processors]cents
	for i, f := range []*fakeProcessor{b.def, b.fall} {
		f.mu.Lock()
		for id, p := range f.paid {
			if id >= first {
				counts[i]++
				sums[i] += centsOf(p.Amount)
			}
		}
		f.mu.Unlock()
	}
	return wantSummary(counts[0], string(sums[0].appendDecimal(nil)), counts[1], string(sums[1].appendDecimal(nil)))
}
