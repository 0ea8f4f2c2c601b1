package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/gomodule/redigo/redis"
)

// summary is what was paid at each processor in a window of time.
type summary struct {
	totals [processors]struct {
		requests int64
		amount   cents
	}
}

// appendJSON appends the answer to GET /payments-summary.
func (s *summary) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	for p := range processorID(processors) {
		if p > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(dst, p.String()...)
		dst = append(dst, `":{"totalRequests":`...)
		dst = strconv.AppendInt(dst, s.totals[p].requests, 10)
		dst = append(dst, `,"totalAmount":`...)
		dst = s.totals[p].amount.appendDecimal(dst)
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func (s *summary) add(p processorID, requests int64, amount cents) error {
	total := &s.totals[p]
	if amount > math.MaxInt64-total.amount {
		return errors.New("the sum is beyond what 64 bits hold")
	}
	total.requests += requests
	total.amount += amount
	return nil
}

// neverSwept is the swept minute of a store that has all its slices.
const neverSwept = math.MinInt64

// summary adds up what was requested from..to, both inclusive to the microsecond, in one atomic picture of the
// store. Before the swept minutes it is exact to the second: an edge within a second counts as the nearer end of
// that second, so that windows that adjoin stay free of gaps and overlaps. It is refused while one of the given journals may hold a
// payment that was paid and that the store does not know of.
func (s *redisStore) summary(ctx context.Context, from, to micros, journals []string) (summary, error) {
	var sum summary
	err := s.queried(func() (err error) {
		sum, err = s.summaryOnce(ctx, from, to, journals)
		return err
	})
	if err != nil {
		return summary{}, fmt.Errorf("cannot add up the payments: %w", err)
	}
	return sum, nil
}

// sweptError says that the slices a summary was built on are being dropped.
type sweptError struct{ minute int64 }

func (e sweptError) Error() string {
	return "slices are gone before minute " + strconv.FormatInt(e.minute, 10)
}

func (s *redisStore) summaryOnce(ctx context.Context, from, to micros, journals []string) (summary, error) {
	t, mark := s.token(), s.mark.Load()
	plan := planSummary(from, to, s.swept.Load())
	plan.journals = journals
	var replies []any
	err := s.withConn(ctx, s.query, func(conn redis.Conn, run string) error {
		if t == "" || t != s.token() || t.run() != run {
			return errNoLife
		}
		var err error
		replies, err = plan.read(ctx, conn, mark)
		return err
	})
	if err != nil {
		return summary{}, err
	}
	if err := s.checkView(t, mark, plan.swept, replies); err != nil {
		return summary{}, err
	}
	if len(journals) > 0 {
		if err := checkHeard(journals, replies[len(replies)-planTail:]); err != nil {
			return summary{}, err
		}
	}
	return plan.sum(replies[planHead:])
}

// checkView compares the first three replies (life, mark, swept) with what the plan was built on.
func (s *redisStore) checkView(t lifeToken, mark uint64, swept int64, replies []any) error {
	state, err := redis.String(replies[0], nil)
	if err != nil && !errors.Is(err, redis.ErrNil) {
		return err
	}
	if state != string(t)+":"+stateReady {
		if state != string(t)+":"+stateReplaying {
			s.forgetLife(t)
		}
		return errNoLife
	}
	there, err := redis.Uint64(replies[1], nil)
	if err != nil && !errors.Is(err, redis.ErrNil) {
		return fmt.Errorf("cannot read the purge mark: %w", err)
	}
	if there != mark {
		s.mark.Store(there)
		s.swept.Store(neverSwept)
		return purgedError{there}
	}
	minute, err := redis.Int64(replies[2], nil)
	if errors.Is(err, redis.ErrNil) {
		minute = neverSwept
	} else if err != nil {
		return fmt.Errorf("cannot read the swept minute: %w", err)
	}
	if minute != swept {
		s.swept.Store(minute)
		return sweptError{minute}
	}
	return nil
}

// bucketRange is the buckets first..last of one layer that lie whole in a window.
type bucketRange struct {
	level       bucketLevel
	first, last int64
}

// sliceRange is the part of a window that is less than whole seconds, both ends inclusive.
type sliceRange struct{ from, to micros }

// summaryPlan is the least that has to be read for a window: at most one run of days, two runs each of hours,
// minutes and seconds, and two runs of slices.
type summaryPlan struct {
	swept    int64
	journals []string // none may hold what the store does not know of
	buckets  []bucketRange
	slices   []sliceRange
}

// planHead is how many replies precede those of the plan itself.
const planHead = 3

// planTail is how many follow them where there are journals to ask about.
const planTail = 2

// planSummary cuts a window into whole days, hours, minutes and seconds, and the slices of the rest.
func planSummary(from, to micros, swept int64) summaryPlan {
	// Open edges lie a day within the range of the type, so that no sum below overflows.
	const edge = (math.MaxInt64/dayLength - 1) * dayLength
	from, end := max(from, -edge), min(to, edge-1)+1
	plan := summaryPlan{swept: swept}
	if swept != neverSwept {
		from, end = roundSwept(from, swept), roundSwept(end, swept)
	}
	if from < end {
		plan.cover(from, end, bucketLevelCount-1)
	}
	return plan
}

// roundSwept moves an edge before the swept minute to the nearest second.
func roundSwept(edge micros, swept int64) micros {
	if floorDiv(edge, minuteLength) >= micros(swept) {
		return edge
	}
	return floorDiv(edge+secondLength/2, secondLength) * secondLength
}

// cover plans from..end, without end, with buckets of the given layer and the finer ones.
func (p *summaryPlan) cover(from, end micros, layer int) {
	if from >= end {
		return
	}
	if layer < 0 {
		p.slices = append(p.slices, sliceRange{from, end - 1})
		return
	}
	level := bucketLevels()[layer]
	first, past := ceilDiv(from, level.unit), floorDiv(end, level.unit)
	if first >= past {
		p.cover(from, end, layer-1)
		return
	}
	p.buckets = append(p.buckets, bucketRange{level, int64(first), int64(past) - 1})
	p.cover(from, first*level.unit, layer-1)
	p.cover(past*level.unit, end, layer-1)
}

// hashes calls f for each hash that the range lies in, with the part of it that is there.
func (r bucketRange) hashes(f func(part bucketRange)) {
	if r.level.parent == 0 {
		f(r)
		return
	}
	per := int64(r.level.parent / r.level.unit)
	for first := r.first; first <= r.last; {
		last := min(r.last, (floorDiv(first, per)+1)*per-1)
		f(bucketRange{r.level, first, last})
		first = last + 1
	}
}

// read asks for everything in one transaction. redigo returns the error of a command in it as one of the
// replies; those surface when the reply is used.
func (p *summaryPlan) read(ctx context.Context, conn redis.Conn, mark uint64) ([]any, error) {
	var err error
	send := func(command string, args ...any) {
		if err == nil {
			err = conn.Send(command, args...)
		}
	}
	send("MULTI")
	send("GET", keyLife)
	send("GET", keyMark)
	send("HGET", appendSweptKey(nil, mark), "to")
	commands := planHead
	for id := range processorID(processors) {
		for _, buckets := range p.buckets {
			buckets.hashes(func(part bucketRange) {
				send("HGETALL", part.level.appendKey(nil, mark, id, part.first))
				commands++
			})
		}
		for _, part := range p.slices {
			for slice := floorDiv(part.from, sliceLength); slice <= floorDiv(part.to, sliceLength); slice++ {
				send("ZRANGEBYSCORE", appendSliceKey(nil, mark, id, int64(slice)), int64(part.from), int64(part.to))
				commands++
			}
		}
	}
	if len(p.journals) > 0 {
		send("TIME")
		send("HMGET", redis.Args{keyHeard}.AddFlat(p.journals)...)
		commands += planTail
	}
	if err != nil {
		return nil, err
	}
	replies, err := redis.Values(redis.DoContext(conn, ctx, "EXEC"))
	if err != nil {
		return nil, err
	}
	if len(replies) != commands {
		return nil, fmt.Errorf("%d replies to %d commands", len(replies), commands)
	}
	return replies, nil
}

// sum adds up the replies, which come in the order in which read asked.
func (p *summaryPlan) sum(replies []any) (summary, error) {
	var sum summary
	var err error
	next := func() [][]byte {
		var texts [][]byte
		if err == nil {
			texts, err = redis.ByteSlices(replies[0], nil)
		}
		replies = replies[1:]
		return texts
	}
	for id := range processorID(processors) {
		for _, buckets := range p.buckets {
			buckets.hashes(func(part bucketRange) {
				fields := next()
				if err == nil {
					err = sum.addBuckets(id, part, fields)
				}
			})
		}
		for _, part := range p.slices {
			for slice := floorDiv(part.from, sliceLength); slice <= floorDiv(part.to, sliceLength); slice++ {
				members := next()
				if err == nil {
					err = sum.addMembers(id, members)
				}
			}
		}
	}
	return sum, err
}

// addBuckets adds those of a hash's fields ("12n" requests, "12c" cents) that are in the range.
func (s *summary) addBuckets(id processorID, part bucketRange, fields [][]byte) error {
	first, last := part.level.field(part.first), part.level.field(part.last)
	for ; len(fields) >= 2; fields = fields[2:] {
		name := fields[0]
		n, err := strconv.ParseInt(string(name[:max(0, len(name)-1)]), 10, 64)
		if err != nil {
			return fmt.Errorf("cannot read the bucket %q: %w", name, err)
		}
		if n < first || n > last {
			continue
		}
		value, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			return fmt.Errorf("cannot read the bucket %q: %w", name, err)
		}
		if bytes.HasSuffix(name, []byte("n")) {
			err = s.add(id, value, 0)
		} else {
			err = s.add(id, 0, cents(value))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addMembers adds the payments of a slice: a member is the payment's name and its cents.
func (s *summary) addMembers(id processorID, members [][]byte) error {
	for _, member := range members {
		if len(member) <= fieldLength {
			return fmt.Errorf("cannot read the member %q", member)
		}
		amount, err := strconv.ParseInt(string(member[fieldLength:]), 10, 64)
		if err != nil {
			return fmt.Errorf("cannot read the member %q: %w", member, err)
		}
		if err := s.add(id, 1, cents(amount)); err != nil {
			return err
		}
	}
	return nil
}
