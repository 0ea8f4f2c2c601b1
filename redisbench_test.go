package main

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// benchPayments are paid ones at a pace of 5,000 a second, whose numbers begin at first.
func benchPayments(first, n int) []settlement {
	all := make([]settlement, n)
	for i := range all {
		all[i] = paidOne(first+i, processorID(i%processors), noon+micros(first+i)*200, 1990)
	}
	return all
}

// BenchmarkSettle shows what batches are worth, beside what else could be done: one payment a round trip, and
// one payment a script in a pipeline of them. The figure to compare is ns/payment; redis-ns/payment is the time
// in which Redis serves nobody else.
func BenchmarkSettle(b *testing.B) {
	s, token := readyStore(b, startRedis(b).url())
	conn := rawConn(b, s.opts.url)
	first := 0
	bench := func(name string, batch int, settle func(b *testing.B, in []settlement)) {
		b.Run(fmt.Sprintf("%s/%d", name, batch), func(b *testing.B) {
			do(b, conn, "CONFIG", "RESETSTAT")
			n := 0
			for b.Loop() {
				settle(b, benchPayments(first, batch))
				first += batch
				n += batch
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/payment")
			b.ReportMetric(1000*commandMicros(b, conn, "evalsha")/float64(n), "redis-ns/payment")
		})
	}
	oneScript := func(b *testing.B, in []settlement) { settleAll(b, s, token, in...) }
	for _, batch := range []int{1, 16, 64, 256} {
		bench("script", batch, oneScript)
	}
	bench("pipeline", 64, func(b *testing.B, in []settlement) {
		for i := range in {
			args, err := settleArgs(token, 0, in[i:i+1], nil)
			if err != nil {
				b.Fatal(err)
			}
			if err := s.scripts.settle.script.SendHash(conn, args.list()...); err != nil {
				b.Fatal(err)
			}
		}
		if err := conn.Flush(); err != nil {
			b.Fatal(err)
		}
		for range in {
			if _, err := conn.Receive(); err != nil {
				b.Fatal(err)
			}
		}
	})
	bench("roundtrips", 64, func(b *testing.B, in []settlement) {
		for i := range in {
			settleAll(b, s, token, in[i])
		}
	})
}

// BenchmarkClaim is the other half of a payment's way through the store.
func BenchmarkClaim(b *testing.B) {
	s, token := readyStore(b, startRedis(b).url())
	for _, batch := range []int{1, 64} {
		b.Run(strconv.Itoa(batch), func(b *testing.B) {
			in, out := make([]claim, batch), make([]claimAnswer, batch)
			n := 0
			for b.Loop() {
				for i := range in {
					in[i] = claimFor(paidOne(n%50_000, onDefault, noon, 1990), "j1", uint64(n%50_000))
					n++
				}
				if err := s.claim(b.Context(), token, false, in, out); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/payment")
		})
	}
}

// BenchmarkSettleEmbedded is the same work in the store of this process.
func BenchmarkSettleEmbedded(b *testing.B) {
	s, token := readyStore(b, startMini(b).url)
	first := 0
	for _, batch := range []int{64, 256} {
		b.Run(strconv.Itoa(batch), func(b *testing.B) {
			n := 0
			for b.Loop() {
				settleAll(b, s, token, benchPayments(first, batch)...)
				first += batch
				n += batch
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/payment")
		})
	}
}

func infoNumber(b *testing.B, conn redis.Conn, section, name string) int64 {
	b.Helper()
	info, err := redis.String(conn.Do("INFO", section))
	if err != nil {
		b.Fatal(err)
	}
	for lines := bufio.NewScanner(strings.NewReader(info)); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("INFO %s has no %s", section, name)
	return 0
}

// commandMicros is the time that Redis spent in a command since the last CONFIG RESETSTAT, in microseconds.
func commandMicros(b *testing.B, conn redis.Conn, command string) float64 {
	b.Helper()
	info, err := redis.String(conn.Do("INFO", "commandstats"))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, ok := strings.Cut(info, "cmdstat_"+command+":")
	if !ok {
		return 0
	}
	_, rest, _ = strings.Cut(rest, "usec=")
	text, _, _ := strings.Cut(rest, ",")
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}
