package main

import (
	"context"
	"fmt"

	"github.com/gomodule/redigo/redis"
)

// claimScanStep is how many buckets of claims are read in one round trip: some thousand claims at most, see MAX_PENDING.
const claimScanStep = 32

// eachClaim visits every claim in the store, in the life t, once that is ready: then no claim is missing. It is for what
// happens rarely, since it reads them all; it holds Redis up no longer than one bucket takes.
func (s *redisStore) eachClaim(ctx context.Context, t lifeToken, visit func(record)) error {
	if t != s.token() || !s.ready() {
		return errNoLife
	}
	err := s.withConn(ctx, s.work, func(conn redis.Conn, run string) error {
		if t.run() != run {
			return errNoLife
		}
		for from := 0; from < claimBuckets; from += claimScanStep {
			if err := s.eachClaimIn(ctx, conn, from, from+claimScanStep, visit); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read the claims: %w", err)
	}
	if t != s.token() {
		return errNoLife
	}
	return nil
}

// eachClaimIn passes over what galo did not write.
func (s *redisStore) eachClaimIn(ctx context.Context, conn redis.Conn, from, to int, visit func(record)) error {
	for bucket := from; bucket < to; bucket++ {
		if err := conn.Send("HGETALL", fmt.Sprintf("%sc:%d", keyPrefix, bucket)); err != nil {
			return err
		}
	}
	replies, err := redis.Values(redis.DoContext(conn, ctx, ""))
	if err != nil {
		return err
	}
	for i, reply := range replies {
		pairs, err := redis.ByteSlices(reply, nil)
		if err != nil {
			s.opts.log.Error("store has claims that cannot be read", "bucket", from+i, "error", err)
		}
		for ; len(pairs) >= 2; pairs = pairs[2:] {
			id, named := parseField(pairs[0])
			rec, err := parseRecord(id, pairs[1])
			if !named || err != nil {
				s.opts.log.Error("store has a claim that cannot be read", "bucket", from+i, "field", string(pairs[0]))
				continue
			}
			visit(rec)
		}
	}
	return nil
}

// disown removes claims, in a life that is ready, as far as they are still what was found: a payment that somebody else has claimed
// or settled meanwhile is left alone. It may be repeated.
func (s *redisStore) disown(ctx context.Context, found []record) error {
	for start := 0; start < len(found); start += maxStoreBatch {
		step := found[start:min(start+maxStoreBatch, len(found))]
		t := s.token()
		if _, err := s.call(ctx, s.work, t, s.scripts.disown, disownArgs(t, step)); err != nil {
			return fmt.Errorf("cannot remove %d claims: %w", len(found)-start, err)
		}
	}
	return nil
}

func disownArgs(t lifeToken, found []record) *scriptArgs {
	args := &scriptArgs{}
	args.add(keyLife)
	for i := range found {
		args.text = appendClaimKey(args.text, found[i].id)
		args.end()
	}
	args.keysEnd()
	args.add(string(t))
	args.add(stateReady)
	for i := range found {
		rec := &found[i]
		args.text = appendField(args.text, rec.id)
		args.end()
		c := claim{id: rec.id, amount: rec.amount, acceptedAt: rec.acceptedAt, journal: rec.journal, seq: rec.seq}
		args.text = c.appendJSON(args.text)
		args.end()
	}
	return args
}

// luaDisown: KEYS life, then claim bucket of each payment; ARGV token, state, then field and claim of each payment.
const luaDisown = `
for i = 2, #KEYS do
  local field, claim = ARGV[2 * i - 1], ARGV[2 * i]
  if redis.call('HGET', KEYS[i], field) == claim then
    redis.call('HDEL', KEYS[i], field)
  end
end
return #KEYS - 1
`
