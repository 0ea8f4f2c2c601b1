package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestOneIDAThousandTimesAtBothInstances posts one id all at once to both, before it is paid, while it is on its way, and afterwards:
// each gets its 202, and it is paid once. With another amount it is a 409 where that is known, and shown where it comes out late.
func TestOneIDAThousandTimesAtBothInstances(t *testing.T) {
	w, redis := newSharedWorld(t)
	proxy := &storeScene{t: t, w: w, redis: redis, books: newBooks(w.def, w.fall)}
	a, b := w.startTwo(t)
	proxy.a, proxy.b = a, b
	hearEachOther(t, a, b)
	arrived, gate := make(chan struct{}, 1), make(chan struct{})
	var once sync.Once
	open := func() { once.Do(func() { close(gate) }) }
	t.Cleanup(open)
	w.def.behave(func(http.ResponseWriter, fakePayment, func()) bool {
		arrived <- struct{}{}
		<-gate
		return false
	})
	id := nthID(1)
	thousand := func(when string) {
		t.Helper()
		const clients, posts = 50, 20
		var all sync.WaitGroup
		var other atomic.Int64
		for c := range clients {
			all.Go(func() {
				for range posts {
					if status := []*testGalo{a, b}[c%2].post(id, "7.00"); status != http.StatusAccepted {
						other.Store(int64(status))
					}
				}
			})
		}
		all.Wait()
		if status := other.Load(); status != 0 {
			t.Errorf("%s: answered %d", when, status)
		}
	}
	thousand("before it is paid")
	<-arrived
	thousand("while it is on its way")
	open()
	proxy.books.promise(id, 700)
	proxy.settled()
	thousand("after it is paid")
	proxy.settled()
	if n := attemptsOf(w.def) + attemptsOf(w.fall); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
	conflicts := 0
	for _, g := range []*testGalo{a, b} {
		switch status := g.post(id, "8.00"); status {
		case http.StatusConflict:
			conflicts++
		case http.StatusAccepted: // this one's slot was not the one that is paid, and says nothing of the amount
		default:
			t.Errorf("another amount was answered %d", status)
		}
	}
	if conflicts == 0 {
		t.Error("another amount was nobody's conflict")
	}
	proxy.settled()
	if n := attemptsOf(w.def) + attemptsOf(w.fall); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
	proxy.books.audit(t, nil, map[string]asking{"a": a.get, "b": b.get})
}

// TestManyIDsWithTwoAmountsAtOnce: each id comes to both instances at once, with an amount of its own at each. One of the two is paid,
// and both instances tell the same of it.
func TestManyIDsWithTwoAmountsAtOnce(t *testing.T) {
	w, redis := newSharedWorld(t)
	s := &storeScene{t: t, w: w, redis: redis, books: newBooks(w.def, w.fall)}
	s.a, s.b = w.startTwo(t)
	hearEachOther(t, s.a, s.b)
	const ids = 100
	var both sync.WaitGroup
	for i, g := range []*testGalo{s.a, s.b} {
		both.Go(func() {
			for n := range uint64(ids) {
				amount := nthAmount(n) + cents(i)
				if status := g.post(nthID(n), string(amount.appendDecimal(nil))); status == http.StatusAccepted {
					s.books.promise(nthID(n), amount)
				} else if status != http.StatusConflict {
					t.Errorf("answered %d", status)
				}
			}
		})
	}
	both.Wait()
	s.settled()
	for n := range uint64(ids) {
		id := nthID(n)
		if tries := w.def.attempts(id.String()) + w.fall.attempts(id.String()); tries != 1 {
			t.Errorf("%s was sent %d times", id, tries)
		}
		if len(s.books.promised[id]) < 2 {
			continue
		}
		paid, _ := s.books.bookedAt(id)
		want := fmt.Sprintf(`"conflict":{"amount":%s}`, (nthAmount(n) + nthAmount(n) + 1 - centsOf(paid.Amount)).appendDecimal(nil))
		for _, g := range []*testGalo{s.a, s.b} {
			eventually(t, "the conflict is shown", func() bool { _, body := g.get("/payments/" + id.String()); return strings.Contains(body, want) })
		}
	}
	s.books.audit(t, nil, map[string]asking{"a": s.a.get, "b": s.b.get})
}
