package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gomodule/redigo/redis"
)

// purge raises the store's purge mark, which forgets all settled history at once, and returns the mark in force.
// What lies under lower marks is unlinked in the background.
func (s *redisStore) purge(ctx context.Context, t lifeToken, mark uint64) (uint64, error) {
	var args scriptArgs
	args.add(keyLife)
	args.add(keyMark)
	args.keysEnd()
	args.add(string(t))
	args.add(stateAny)
	args.text = strconv.AppendUint(args.text, mark, 10)
	args.end()
	inForce, err := redis.Uint64(s.call(ctx, s.work, t, s.scripts.purge, &args))
	if err != nil {
		return 0, fmt.Errorf("cannot purge the store: %w", err)
	}
	s.mark.Store(inForce)
	s.cleaner.wake()
	return inForce, nil
}

// historyCleaner unlinks what lies under purge marks that are no longer in force. It has one goroutine.
type historyCleaner struct {
	s      *redisStore
	due    chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newHistoryCleaner(s *redisStore) *historyCleaner {
	ctx, cancel := context.WithCancel(context.Background())
	c := &historyCleaner{s: s, due: make(chan struct{}, 1), cancel: cancel}
	c.done.Go(func() { c.run(ctx) })
	return c
}

func (c *historyCleaner) close() {
	c.cancel()
	c.done.Wait()
}

// wake makes the cleaner look for something to do. It never waits.
func (c *historyCleaner) wake() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

func (c *historyCleaner) run(ctx context.Context) {
	var cleaned uint64 // Everything below this mark is known to be gone.
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.due:
		}
		mark := c.s.mark.Load()
		if mark == cleaned {
			continue
		}
		if err := c.unlinkBelow(ctx, mark); err == nil {
			cleaned = mark
		} else if ctx.Err() == nil {
			// The next life or purge finds it again.
			c.s.opts.log.Warn("cannot unlink purged history", "mark", mark, "error", err)
		}
	}
}

// scanStep is how many keys one SCAN looks at, about 0.1 ms of the server's time.
const scanStep = 512

// buryStep is how many slices are buried at once: at 5,000 payments a second a slice has 500 members.
const buryStep = 8

// unlinkBelow goes through all keys in small steps and unlinks those of marks below the given one, as long as
// that mark is in force: a store that was wiped meanwhile may have history under a lower one.
func (c *historyCleaner) unlinkBelow(ctx context.Context, mark uint64) error {
	t := c.s.token()
	for cursor := "0"; ; {
		var found []string
		err := c.s.withConn(ctx, c.s.work, func(conn redis.Conn, _ string) error {
			reply, err := redis.Values(redis.DoContext(conn, ctx, "SCAN", cursor, "MATCH", keyPrefix+"[0-9]*", "COUNT", scanStep))
			if err == nil {
				_, err = redis.Scan(reply, &cursor, &found)
			}
			return err
		})
		if err != nil {
			return err
		}
		slicesBelow, others := keysBelow(found, mark)
		for old := range slices.Chunk(slicesBelow, buryStep) {
			if err := c.end(ctx, c.s.scripts.bury, t, mark, append([]string{keyLate}, old...)); err != nil {
				return err
			}
		}
		for old := range slices.Chunk(others, scanStep) {
			if err := c.end(ctx, c.s.scripts.unlink, t, mark, old); err != nil {
				return err
			}
		}
		if cursor == "0" {
			return nil
		}
	}
}

func (c *historyCleaner) end(ctx context.Context, script storeScript, t lifeToken, mark uint64, keys []string) error {
	var args scriptArgs
	args.add(keyLife)
	args.add(keyMark)
	for _, key := range keys {
		args.add(key)
	}
	args.keysEnd()
	args.addHead(t, stateAny, mark)
	_, err := c.s.call(ctx, c.s.work, t, script, &args)
	return err
}

// keysBelow picks the keys of lower marks: those of slices, which lead to records, and the others.
func keysBelow(keys []string, mark uint64) (slicesBelow, others []string) {
	for _, key := range keys {
		text, name, _ := strings.Cut(strings.TrimPrefix(key, keyPrefix), ":")
		if n, err := strconv.ParseUint(text, 10, 64); err != nil || n >= mark {
			continue
		}
		if strings.HasPrefix(name, sliceLetter) {
			slicesBelow = append(slicesBelow, key)
		} else {
			others = append(others, key)
		}
	}
	return slicesBelow, others
}
