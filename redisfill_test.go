package main

import (
	"cmp"
	"iter"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// storeFiller brings settled payments into a store as luaSettle would leave them, by plain commands for which nobody waits: some
// millions of them take seconds and not minutes. TestFilledStoreIsAsIfSettled holds it to that.
type storeFiller struct {
	tb   testing.TB
	conn redis.Conn
	open [processors]struct {
		slice   openSlice
		buckets [bucketLevelCount]openBucket
	}
}

// openSlice is a sorted set that is being collected, openBucket a pair of sums. They are written once a payment of a later one comes.
type openSlice struct {
	number int64
	args   redis.Args // of ZADD; empty while there is none
}

type openBucket struct{ number, count, amount int64 }

// fillStore fills the store behind a url with payments that are paid, under purge mark 0, in the order of their requestedAt.
func fillStore(tb testing.TB, url string, payments iter.Seq[settlement]) {
	tb.Helper()
	f := &storeFiller{tb: tb, conn: rawConn(tb, url)}
	f.send("CLIENT", "REPLY", "OFF")
	for one := range payments {
		f.add(&one)
	}
	for id := range processorID(processors) {
		f.closeSlice(id)
		for level := range bucketLevelCount {
			f.closeBucket(id, level)
		}
	}
	f.send("CLIENT", "REPLY", "ON")
	if err := f.conn.Flush(); err != nil {
		tb.Fatal(err)
	}
	if answer, err := redis.String(f.conn.Receive()); err != nil || answer != "OK" { // all before it is done, and unanswered
		tb.Fatalf("the store was not filled: %q, %v", answer, err)
	}
}

func (f *storeFiller) send(command string, args ...any) {
	if err := f.conn.Send(command, args...); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *storeFiller) add(one *settlement) {
	f.send("HSET", appendRecordKey(nil, one.id), appendField(nil, one.id), one.appendJSON(nil, 0))
	open := &f.open[one.processor]
	if slice := int64(one.group().slice); len(open.slice.args) == 0 || slice != open.slice.number {
		f.closeSlice(one.processor)
		open.slice = openSlice{slice, append(open.slice.args[:0], appendSliceKey(nil, 0, one.processor, slice))}
	}
	member := strconv.AppendInt(appendField(nil, one.id), int64(one.amount), 10)
	open.slice.args = append(open.slice.args, int64(one.requestedAt), member)
	for i, level := range bucketLevels() {
		b := &open.buckets[i]
		if number := int64(floorDiv(one.requestedAt, level.unit)); number != b.number {
			f.closeBucket(one.processor, i)
			*b = openBucket{number: number}
		}
		b.count++
		b.amount += int64(one.amount)
	}
}

func (f *storeFiller) closeSlice(id processorID) {
	if args := f.open[id].slice.args; len(args) > 0 {
		f.send("ZADD", args...)
	}
}

func (f *storeFiller) closeBucket(id processorID, i int) {
	b, level := f.open[id].buckets[i], bucketLevels()[i]
	if b.count == 0 {
		return
	}
	field := strconv.FormatInt(level.field(b.number), 10)
	f.send("HSET", level.appendKey(nil, 0, id, b.number), field+"n", b.count, field+"c", b.amount)
}

// sizeFrom is a number of payments that the environment may give, in place of one that is quickly done with.
func sizeFrom(tb testing.TB, name, otherwise string) int {
	tb.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), otherwise))
	if err != nil || n < 1 {
		tb.Fatalf("cannot make %s=%q a number of payments", name, os.Getenv(name))
	}
	return n
}

// TestFilledStoreIsAsIfSettled: the same keys, the same content and the same encodings, for payments so dense that they share slices,
// and for some days' thin ones.
func TestFilledStoreIsAsIfSettled(t *testing.T) {
	const payments = 600
	for name, apart := range map[string]micros{"dense": 3_000, "thin": 3 * dayLength / payments} {
		t.Run(name, func(t *testing.T) {
			var all []settlement
			for i := range payments {
				all = append(all, paidOne(i, processorID(i/3%processors), noon+micros(i)*apart, cents(1000+i)))
			}
			look := func(fill func(url string)) (content string, encodings map[string]string) {
				url := startRedis(t).url()
				fill(url)
				conn := rawConn(t, url)
				encodings = make(map[string]string)
				keys, err := redis.Strings(conn.Do("KEYS", keyPrefix+"*:*"))
				if err != nil {
					t.Fatal(err)
				}
				for _, key := range keys {
					encodings[key] = string(do(t, conn, "OBJECT", "ENCODING", key).([]byte))
				}
				return dump(t, conn), encodings
			}
			settled, settledAs := look(func(url string) {
				s, token := readyStore(t, url)
				settleAll(t, s, token, all...)
			})
			filled, filledAs := look(func(url string) {
				_, _ = readyStore(t, url)
				fillStore(t, url, slices.Values(all))
			})
			if settled != filled {
				t.Errorf("filled:\n%.2000s\nsettled:\n%.2000s", filled, settled)
			}
			for key, as := range settledAs {
				if filledAs[key] != as {
					t.Errorf("%s is a %s, and not a %s", key, filledAs[key], as)
				}
			}
		})
	}
}
