package main

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// countedConn counts how often its user waits for the server: each of these is a round trip, however many commands it carries.
type countedConn struct {
	redis.ConnWithContext
	trips   *atomic.Int64
	pending int // commands that were sent and whose replies nobody has read
}

func (c *countedConn) Send(command string, args ...any) error {
	c.pending++
	return c.ConnWithContext.Send(command, args...)
}

func (c *countedConn) Do(command string, args ...any) (any, error) {
	c.count(command)
	return c.ConnWithContext.Do(command, args...)
}

func (c *countedConn) DoContext(ctx context.Context, command string, args ...any) (any, error) {
	c.count(command)
	return c.ConnWithContext.DoContext(ctx, command, args...)
}

// count passes over what the pool does with a connection that it gets back: nothing, where nothing is left to be read.
func (c *countedConn) count(command string) {
	if command != "" || c.pending > 0 {
		c.trips.Add(1)
	}
	c.pending = 0
}

// countTrips counts a store's round trips from here on, those that set a connection up excepted.
func countTrips(s *redisStore) *atomic.Int64 {
	var trips atomic.Int64
	for _, pool := range []*redis.Pool{s.work, s.query} {
		pool.DialContext = func(ctx context.Context) (redis.Conn, error) {
			dialled, err := s.dial(ctx)
			if err != nil {
				return nil, err
			}
			conn := dialled.(serverConn)
			conn.ConnWithContext = &countedConn{ConnWithContext: conn.ConnWithContext, trips: &trips}
			return conn, nil
		}
	}
	return &trips
}

// TestOneRoundTripEach: a batch of claims, a batch of settles, a look-up of many records, and a summary of any window are one round trip
// each, with the journals asked about and all.
func TestOneRoundTripEach(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openStore(t, url)
		trips := countTrips(s)
		token := makeReady(t, s)
		corpus := summaryCorpus{thinned, summaryWindows()}
		var batch []settlement
		for one := range corpus.thin() {
			if batch = append(batch, one); len(batch) == maxStoreBatch {
				break
			}
		}
		once := func(what string, call func() error) {
			t.Helper()
			trips.Store(0)
			if err := call(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if n := trips.Load(); n != 1 {
				t.Errorf("%s: %d round trips", what, n)
			}
		}
		for _, n := range []int{1, claimBatch, maxStoreBatch} {
			claims, answers := make([]claim, n), make([]claimAnswer, n)
			ids, found := make([]paymentID, n), make([]foundRecord, n)
			for i := range claims {
				claims[i], ids[i] = claimFor(batch[i], "j1", uint64(i)), batch[i].id
			}
			once("claims", func() error { return s.claim(t.Context(), token, false, claims, answers) })
			once("settles", func() error {
				_, err := s.settle(t.Context(), token, 0, batch[:n], []journalProgress{{"j1", uint64(n)}})
				return err
			})
			once("records", func() error { return s.records(t.Context(), ids, found) })
		}
		for _, w := range summaryWindows() {
			once("summary of "+w.name, func() error {
				_, err := s.summary(t.Context(), w.from, w.to, []string{"j1"})
				return err
			})
		}
	})
}
