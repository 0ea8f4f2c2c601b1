package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomodule/redigo/redis"
)

// conflictNote says that a payment's id came with a second amount, found out only after both had been accepted.
type conflictNote struct {
	id     paymentID
	amount cents // the one that is not paid
}

// appendConflictKey names the hash of conflict notes, field to cents. They are few, and go with a purge.
func appendConflictKey(dst []byte, mark uint64) []byte { return appendMarked(dst, mark, 'x') }

// noteConflicts keeps the first note of each id. It may be repeated.
func (s *redisStore) noteConflicts(ctx context.Context, notes []conflictNote) error {
	key := string(appendConflictKey(nil, s.mark.Load()))
	err := s.withConn(ctx, s.work, func(conn redis.Conn, _ string) error {
		for _, n := range notes {
			if err := conn.Send("HSETNX", key, string(appendField(nil, n.id)), int64(n.amount)); err != nil {
				return err
			}
		}
		replies, err := redis.Values(redis.DoContext(conn, ctx, ""))
		for _, reply := range replies {
			if refused, ok := reply.(redis.Error); ok && err == nil {
				err = refused
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot note conflicts: %w", err)
	}
	return nil
}

// conflictOf returns the amount under which an id came, too; 0 where it did not.
func (s *redisStore) conflictOf(ctx context.Context, id paymentID) (cents, error) {
	var amount int64
	err := s.withConn(ctx, s.query, func(conn redis.Conn, _ string) (err error) {
		key := string(appendConflictKey(nil, s.mark.Load()))
		amount, err = redis.Int64(redis.DoContext(conn, ctx, "HGET", key, string(appendField(nil, id))))
		return err
	})
	if err != nil && !errors.Is(err, redis.ErrNil) {
		return 0, fmt.Errorf("cannot read a conflict: %w", err)
	}
	return cents(amount), nil
}
