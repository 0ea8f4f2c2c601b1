package main

import (
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// addUp is the summary as anyone would do it by hand.
func addUp(all []settlement, from, to micros) summary {
	var sum summary
	seen := map[paymentID]bool{}
	for _, one := range all {
		if one.state == recordPaid && !seen[one.id] && from <= one.requestedAt && one.requestedAt <= to {
			seen[one.id] = true
			sum.totals[one.processor].requests++
			sum.totals[one.processor].amount += one.amount
		}
	}
	return sum
}

func TestSummaryAsClientsSeeIt(t *testing.T) {
	var sum summary
	sum.totals[onDefault].requests, sum.totals[onDefault].amount = 43236, 41542345_98
	sum.totals[onFallback].amount = 7
	const want = `{"default":{"totalRequests":43236,"totalAmount":41542345.98},"fallback":{"totalRequests":0,"totalAmount":0.07}}`
	if got := string(sum.appendJSON(nil)); got != want {
		t.Errorf("got %s", got)
	}
}

func TestBothEdgesAreInclusiveToTheMicrosecond(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		all := []settlement{paidOne(1, onDefault, noon, 100), paidOne(2, onFallback, noon+3, 200)}
		settleAll(t, s, token, all...)
		f := func(from, to micros, want int64) {
			t.Helper()
			got, err := s.summary(t.Context(), from, to, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got.totals[0].requests+got.totals[1].requests != want {
				t.Errorf("noon%+d..noon%+d: %+v", from-noon, to-noon, got)
			}
		}
		f(noon, noon, 1)
		f(noon, noon+3, 2)
		f(noon+1, noon+3, 1)
		f(noon+1, noon+2, 0)
		f(noon-dayLength, noon-1, 0)
		f(noon+4, noon+400*dayLength, 0)
		f(math.MinInt64, math.MaxInt64, 2)
		f(math.MinInt64, noon, 1)
		f(noon+1, math.MaxInt64, 1)
	})
}

func TestPlanReadsNoMoreThanItMust(t *testing.T) {
	midnight := floorDiv(noon, dayLength) * dayLength
	f := func(from, to micros, letters string, slices int) {
		t.Helper()
		plan := planSummary(from, to, neverSwept)
		var got strings.Builder
		for _, buckets := range plan.buckets {
			buckets.hashes(func(part bucketRange) { got.WriteByte(part.level.letter) })
		}
		n := 0
		for _, part := range plan.slices {
			n += int(floorDiv(part.to, sliceLength) - floorDiv(part.from, sliceLength) + 1)
		}
		if got.String() != letters || n != slices {
			t.Errorf("%d..%d: hashes %q, %d slices; want %q, %d", from, to, got.String(), n, letters, slices)
		}
	}
	f(midnight, midnight+dayLength-1, "d", 0)
	f(midnight, midnight+30*dayLength-1, "d", 0)
	f(math.MinInt64, math.MaxInt64, "d", 0)
	f(midnight, midnight+hourLength-1, "h", 0)
	f(midnight-hourLength, midnight+hourLength-1, "hh", 0)
	f(midnight, midnight+minuteLength-1, "m", 0)
	f(midnight, midnight+secondLength-1, "s", 0)
	f(midnight, midnight, "", 1)
	f(midnight, midnight+secondLength-2, "", 10)
	f(midnight+1, midnight+secondLength-1, "", 10)
	f(midnight+999_999, midnight+secondLength, "", 2)
	f(midnight+200_000, midnight+299_999, "", 1)
	f(midnight-1, midnight+dayLength, "d", 2)
	f(midnight-secondLength, midnight+dayLength+secondLength-1, "dss", 0)
	f(noon, noon-1, "", 0)
	// The most that a window can need: one hash of days, two each below, and the slices of two seconds.
	f(midnight+1, midnight+3*dayLength-2, "dhmshms", 20)
}

func TestSummaryNoticesWhatItsKeysWereNotBuiltFor(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		settleAll(t, s, token, paidOne(1, onDefault, noon, 100))
		conn := rawConn(t, url)
		do(t, conn, "SET", keyMark, 9)
		do(t, conn, "HSET", keyPrefix+"9:swept", "to", int64(noon/minuteLength)+5)
		if got, err := s.summary(t.Context(), noon, noon, nil); err != nil || got != (summary{}) {
			t.Fatalf("%+v, %v", got, err)
		}
		if s.mark.Load() != 9 || s.swept.Load() != int64(noon/minuteLength)+5 {
			t.Fatalf("mark %d, swept %d", s.mark.Load(), s.swept.Load())
		}
	})
}

func TestDamagedSumsAreAnErrorNotANumber(t *testing.T) {
	midnight := floorDiv(noon, dayLength) * dayLength
	day := string(bucketLevels()[3].appendKey(nil, 0, onFallback, int64(midnight/dayLength)))
	slice := string(appendSliceKey(nil, 0, onFallback, int64((midnight-1)/sliceLength)))
	for name, damage := range map[string][]any{
		"type":   {"SET", day, "x"},
		"field":  {"HSET", day, "x", "1"},
		"value":  {"HSET", day, "20284n", "1.5"},
		"beyond": {"HSET", day, "20284c", "9223372036854775807", "20285c", "1"},
		"member": {"ZADD", slice, int64(midnight) - 1, "short"},
		"cents":  {"ZADD", slice, int64(midnight) - 1, "0123456789012345678901x"},
		"life":   {"HSET", keyLife, "x", "1"},
		"mark":   {"SET", keyMark, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			server := startMini(t)
			s, _ := readyStore(t, server.url)
			conn := rawConn(t, server.url)
			if name == "life" {
				do(t, conn, "DEL", keyLife)
			}
			do(t, conn, damage[0].(string), damage[1:]...)
			got, err := s.summary(t.Context(), midnight-1, midnight+2*dayLength, nil)
			if _, ok := errors.AsType[purgedError](err); err == nil || ok || got != (summary{}) {
				t.Fatalf("%+v, %v", got, err)
			}
		})
	}
}

// anInstant draws instants that lie on edges or beside them, or share a second with many others.
func anInstant() *rapid.Generator[micros] {
	bases := []micros{0, floorDiv(noon, dayLength) * dayLength, floorDiv(noon, hourLength) * hourLength, noon}
	units := []micros{sliceLength, secondLength, minuteLength, hourLength, dayLength}
	return rapid.Custom(func(t *rapid.T) micros {
		at := rapid.SampledFrom(bases).Draw(t, "base")
		at += rapid.SampledFrom(units).Draw(t, "unit") * micros(rapid.IntRange(-2, 2).Draw(t, "units"))
		if rapid.Bool().Draw(t, "anywhere") {
			return at + micros(rapid.Int64Range(0, int64(secondLength)).Draw(t, "within"))
		}
		return at + micros(rapid.IntRange(-1, 1).Draw(t, "beside"))
	})
}

func anEdge(paid []settlement, open micros) *rapid.Generator[micros] {
	return rapid.Custom(func(t *rapid.T) micros {
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind == 0:
			return open
		case kind < 5 && len(paid) > 0:
			return rapid.SampledFrom(paid).Draw(t, "payment").requestedAt + micros(rapid.IntRange(-1, 1).Draw(t, "beside"))
		default:
			return anInstant().Draw(t, "instant")
		}
	})
}

func TestSummaryAgreesWithAddingByHand(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openStore(t, url)
		conn := rawConn(t, url)
		rapid.Check(t, func(rt *rapid.T) {
			do(t, conn, "FLUSHALL")
			token := makeReady(t, s)
			var all []settlement
			for i := range rapid.IntRange(0, 60).Draw(rt, "payments") {
				if rapid.IntRange(0, 9).Draw(rt, "rejected") == 0 {
					all = append(all, rejectedOne(i, anInstant().Draw(rt, "at")))
					continue
				}
				p := processorID(rapid.IntRange(0, processors-1).Draw(rt, "processor"))
				amount := cents(rapid.Int64Range(1, 999_999_999_999).Draw(rt, "cents"))
				all = append(all, paidOne(i, p, anInstant().Draw(rt, "at"), amount))
			}
			// Every payment is settled at least once, in any order, some of them again and again.
			told := rapid.Permutation(all).Draw(rt, "order")
			if len(all) > 0 {
				told = append(told, rapid.SliceOfN(rapid.SampledFrom(all), 0, 20).Draw(rt, "again")...)
			}
			for len(told) > 0 {
				n := rapid.IntRange(1, len(told)).Draw(rt, "batch")
				settleAll(t, s, token, told[:n]...)
				told = told[n:]
			}
			for range 12 {
				from, to := anEdge(all, math.MinInt64).Draw(rt, "from"), anEdge(all, math.MaxInt64).Draw(rt, "to")
				got, err := s.summary(t.Context(), from, to, nil)
				if want := addUp(all, from, to); err != nil || got != want {
					rt.Fatalf("%d..%d: got %+v, want %+v, %v", from, to, got, want, err)
				}
			}
		})
	})
}
