package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// storeKinds befall Redis and the way to it.
func storeKinds() []faultKind {
	redis := [][]thing{{theRedis}}
	wires := [][]thing{{redisWire1}, {redisWire2}}
	return []faultKind{
		{"redis-kill", redis, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "killed, and started again with its file", evenly(rng, 0, longer(long, 5*sec, 20*sec)), restartRedis(nil)
		}},
		{"redis-tail", redis, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			lost, torn := evenly(rng, 200*milli, sec), rng.Int64N(tornAtMost)
			return fmt.Sprintf("killed, and started again without its last %v and %d bytes", lost, torn), evenly(rng, 0, 3*sec), loseTail(lost, torn)
		}},
		{"redis-older", redis, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "killed, and started again from an older copy of its files", evenly(rng, 0, 3*sec), restartRedis((*redisServer).goBack)
		}},
		{"redis-wipe", redis, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "killed, and started again with nothing", evenly(rng, 0, 3*sec), restartRedis((*redisServer).forget)
		}},
		{"redis-flush", redis, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "FLUSHALL", 0, func(r *rig, hold func()) error {
				_, err := r.redis.do(r.ctx, "FLUSHALL")
				return err
			}
		}},
		{"redis-hang", redis, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "SIGSTOP", evenly(rng, sec, longer(long, 6*sec, 30*sec)), func(r *rig, hold func()) error {
				err := r.redis.pause()
				hold()
				return errors.Join(err, r.redis.resume())
			}
		}},
		{"redis-full", redis, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return "out of memory", evenly(rng, sec, longer(long, 6*sec, 20*sec)), func(r *rig, hold func()) error {
				_, err := r.redis.do(r.ctx, "CONFIG", "SET", "maxmemory", "1")
				hold()
				_, back := r.redis.do(r.ctx, "CONFIG", "SET", "maxmemory", "0")
				return errors.Join(err, back)
			}
		}},
		{"redis-torn", wires, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return wireFault(rng, on[0], evenly(rng, sec, longer(long, 6*sec, 20*sec)), tearFlaws)
		}},
		{"redis-away", wires, func(rng *rand.Rand, on []thing, long bool) (string, time.Duration, deed) {
			return wireFault(rng, on[0], evenly(rng, sec, longer(long, 8*sec, 30*sec)), cutFlaws)
		}},
	}
}

// restartRedis kills Redis and starts it again after the hold; meanwhile something may become of its files.
func restartRedis(become func(*redisServer) error) deed {
	return func(r *rig, hold func()) error {
		err := r.redis.end(killSignal)
		if become != nil {
			err = errors.Join(err, become(r.redis))
		}
		hold()
		return errors.Join(err, r.redis.again(r.ctx))
	}
}

// tornAtMost is more than one command has in the append-only file, and less than a transaction of a full batch.
const tornAtMost = 500 // bytes

// loseTail cuts off what Redis has written since the fault began, and a little more, so that the end is in the middle of a command
// or of a transaction, as with a power loss; Redis leaves out what is not whole.
func loseTail(lost time.Duration, torn int64) deed {
	return func(r *rig, hold func()) error {
		path, size, err := r.redis.lastIncrement()
		if err != nil {
			return err
		}
		sleepUntil(r.ctx, time.Now().Add(lost))
		return restartRedis(func(s *redisServer) error {
			if now, length, err := s.lastIncrement(); err != nil || now != path || length < size {
				return err // it has rewritten its file meanwhile: then there is no tail that belongs to it
			}
			if err := os.Truncate(path, max(0, size-torn)); err != nil {
				return fmt.Errorf("cannot cut the append-only file of Redis: %w", err)
			}
			return nil
		})(r, hold)
	}
}
