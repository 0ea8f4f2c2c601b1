package main

import (
	"iter"
	"strings"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// thirtyDays is what "spread" means below: as long as a month of payments is kept.
const thirtyDays = 30 * dayLength

// evenly are so many paid payments that are the same time apart, of both processors in turn.
func evenly(payments int, at func(i int) micros) iter.Seq[settlement] {
	return func(yield func(settlement) bool) {
		for i := range payments {
			if !yield(paidOne(i, processorID(i%processors), at(i), 1990)) {
				return
			}
		}
	}
}

// BenchmarkMemory says how many bytes of Redis a settled payment takes, at two paces and so thin that hardly two share a second; MEMORY_PAYMENTS=1000000: among
// so many. Beside it, where they go: bytes a payment of each kind of key, as Redis reckons them (without the table of all keys).
func BenchmarkMemory(b *testing.B) {
	payments := sizeFrom(b, "MEMORY_PAYMENTS", "100000")
	for _, spread := range []struct {
		name string
		at   func(i int) micros
	}{
		{"500 a second", func(i int) micros { return noon + micros(i)*secondLength/500 }},
		{"5000 a second", func(i int) micros { return noon + micros(i)*secondLength/5000 }},
		{"30 days", func(i int) micros { return noon + micros(i)*(thirtyDays/micros(payments)) }},
	} {
		b.Run(spread.name, func(b *testing.B) {
			for b.Loop() {
				url := startRedis(b, "--appendonly", "no").url()
				_, _ = readyStore(b, url)
				conn := rawConn(b, url)
				before := infoNumber(b, conn, "memory", "used_memory")
				fillStore(b, url, evenly(payments, spread.at))
				b.ReportMetric(float64(infoNumber(b, conn, "memory", "used_memory")-before)/float64(payments), "B/payment")
				for kind, bytes := range memoryByKind(b, conn) {
					b.ReportMetric(bytes/float64(payments), kind+"-B/payment")
				}
			}
		})
	}
}

// memoryByKind adds up MEMORY USAGE of the keys of each kind: records, slices (the sorted sets), sums, and whatever else there is. Of
// each kind it looks at some thousand keys, and takes the rest for what those are on average.
func memoryByKind(b *testing.B, conn redis.Conn) map[string]float64 {
	const looked = 5000
	type tally struct{ keys, looked, bytes int64 }
	kinds := make(map[string]*tally)
	for cursor := "0"; ; {
		reply, err := redis.Values(conn.Do("SCAN", cursor, "COUNT", 1000))
		if err != nil {
			b.Fatal(err)
		}
		keys, err := redis.Strings(reply[1], nil)
		if err != nil {
			b.Fatal(err)
		}
		for _, key := range keys {
			kind := kindOfKey(key)
			if kinds[kind] == nil {
				kinds[kind] = &tally{}
			}
			t := kinds[kind]
			if t.keys++; t.looked < looked {
				t.looked++
				t.bytes += do(b, conn, "MEMORY", "USAGE", key, "SAMPLES", 0).(int64)
			}
		}
		if cursor = string(reply[0].([]byte)); cursor == "0" {
			break
		}
	}
	bytes := make(map[string]float64)
	for kind, t := range kinds {
		bytes[kind] = float64(t.bytes) / float64(t.looked) * float64(t.keys)
	}
	return bytes
}

// kindOfKey reads a key's name as redislayout.go makes it.
func kindOfKey(key string) string {
	if strings.HasPrefix(key, keyPrefix+"r:") {
		return "records"
	}
	if _, rest, marked := strings.Cut(strings.TrimPrefix(key, keyPrefix), ":"); marked && rest != "" {
		if rest[:1] == sliceLetter {
			return "slices"
		}
		for _, level := range bucketLevels() {
			if rest[0] == level.letter {
				return "sums"
			}
		}
	}
	return "other"
}
