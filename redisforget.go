package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gomodule/redigo/redis"
)

// forgetBefore drops what retention no longer needs: the slices before the minute that `before` is in, and the
// records of the payments in them; the sums of seconds and above stay. It finds them by walking down the sums,
// so that it never scans the keys, and goes on where an earlier call was cut off.
func (s *redisStore) forgetBefore(ctx context.Context, before micros) error {
	sweep := retentionSweep{s: s, ctx: ctx, t: s.token(), mark: s.mark.Load()}
	if err := sweep.run(before); err != nil {
		return fmt.Errorf("cannot forget old payments: %w", err)
	}
	return nil
}

// retentionSweep is one call of forgetBefore. It stops when the life or the mark changes.
type retentionSweep struct {
	s    *redisStore
	ctx  context.Context
	t    lifeToken
	mark uint64
	// The minutes from..to-1 are swept.
	from, to int64
}

func (w *retentionSweep) run(before micros) error {
	// The minute is told first: from then on nobody counts on the slices before it, nor adds to them.
	minute := int64(floorDiv(before, minuteLength))
	known, err := redis.Values(w.mutate(w.s.scripts.sweep, minute))
	if err != nil {
		return err
	}
	var to, done string
	if _, err := redis.Scan(known, &to, &done); err != nil {
		return err
	}
	if w.to, err = strconv.ParseInt(to, 10, 64); err != nil {
		return fmt.Errorf("cannot read the swept minute: %w", err)
	}
	w.from = neverSwept
	if done != "" {
		if w.from, err = strconv.ParseInt(done, 10, 64); err != nil {
			return fmt.Errorf("cannot read the minute swept before: %w", err)
		}
	}
	w.s.swept.Store(w.to)
	for p := range processorID(processors) {
		if err := w.walk(p, bucketLevelCount-1, 0); err != nil {
			return err
		}
	}
	if err := w.forgetLate(micros(w.to) * minuteLength); err != nil {
		return err
	}
	_, err = w.mutate(w.s.scripts.swept, w.to)
	return err
}

func (w *retentionSweep) mutate(script storeScript, minute int64) (any, error) {
	var args scriptArgs
	args.add(keyLife)
	args.add(keyMark)
	args.text = appendSweptKey(args.text, w.mark)
	args.end()
	args.keysEnd()
	args.addHead(w.t, stateReady, w.mark)
	args.addInt(minute)
	return w.s.call(w.ctx, w.s.work, w.t, script, &args)
}

// walk goes through the buckets of one hash of the layer (the hash that bucket n is in), and below them down to
// the seconds, as far as they are to be swept.
func (w *retentionSweep) walk(p processorID, layer int, n int64) error {
	level := bucketLevels()[layer]
	numbers, err := w.bucketsIn(level, p, n)
	if err != nil {
		return err
	}
	for _, number := range numbers {
		start := micros(number) * level.unit
		first, last := floorDiv(start, minuteLength), floorDiv(start+level.unit-1, minuteLength)
		if int64(last) < w.from || int64(first) >= w.to {
			continue
		}
		if layer == 0 {
			err = w.forgetSecond(p, start)
		} else {
			// The first bucket of the finer layer within this one leads to the hash of them all.
			err = w.walk(p, layer-1, int64(start/bucketLevels()[layer-1].unit))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucketsIn returns the numbers of the buckets in the hash that bucket n of the layer is in.
func (w *retentionSweep) bucketsIn(level bucketLevel, p processorID, n int64) ([]int64, error) {
	fields, err := redis.Strings(w.read("HKEYS", level.appendKey(nil, w.mark, p, n)))
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for _, field := range fields {
		text, ok := strings.CutSuffix(field, "n")
		if !ok {
			continue
		}
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue // galo did not write it
		}
		numbers = append(numbers, n-level.field(n)+number)
	}
	if level.parent == 0 {
		// Days are numbered by themselves, not within a hash.
		for i := range numbers {
			numbers[i] -= n - level.field(n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (w *retentionSweep) read(command string, args ...any) (any, error) {
	var reply any
	err := w.s.withConn(w.ctx, w.s.work, func(conn redis.Conn, _ string) (err error) {
		reply, err = redis.DoContext(conn, w.ctx, command, args...)
		return err
	})
	return reply, err
}

// forgetSecond drops the slices of the second that begins at start, and the records they lead to.
func (w *retentionSweep) forgetSecond(p processorID, start micros) error {
	for slice := start / sliceLength; slice < (start+secondLength)/sliceLength; slice++ {
		key := appendSliceKey(nil, w.mark, p, int64(slice))
		if err := w.forgetMembers(key, "+inf"); err != nil {
			return err
		}
	}
	return nil
}

// forgetLate drops the records that no slice leads to, and that were settled before.
func (w *retentionSweep) forgetLate(before micros) error {
	return w.forgetMembers([]byte(keyLate), "("+strconv.FormatInt(int64(before), 10))
}

// forgetMembers drops the members of a sorted set up to a score, each with its record, a batch at a time.
func (w *retentionSweep) forgetMembers(key []byte, limit string) error {
	for {
		members, err := redis.ByteSlices(w.read("ZRANGEBYSCORE", key, "-inf", limit, "LIMIT", 0, maxStoreBatch))
		if err != nil || len(members) == 0 {
			return err
		}
		var args scriptArgs
		args.add(keyLife)
		args.add(keyMark)
		args.text = append(args.text, key...)
		args.end()
		for _, member := range members {
			id, _ := parseField(member) // one that galo did not write leads to no record, and only leaves the set
			args.text = appendRecordKey(args.text, id)
			args.end()
		}
		args.keysEnd()
		args.addHead(w.t, stateReady, w.mark)
		for _, member := range members {
			args.text = append(args.text, member...)
			args.end()
		}
		if _, err := w.s.call(w.ctx, w.s.work, w.t, w.s.scripts.forget, &args); err != nil {
			return err
		}
	}
}
