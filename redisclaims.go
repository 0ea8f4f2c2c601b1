package main

import (
	"context"
	"fmt"

	"github.com/gomodule/redigo/redis"
)

// claimScanStep is about how many claims are read in one round trip. There are some thousand at most, see MAX_PENDING.
const claimScanStep = 1000

// eachClaim visits every claim that is in the store all the while, some perhaps twice, in the life t, once that is ready: then no claim
// is missing. It is for what happens rarely, since it reads them all; it holds Redis up no longer than one step takes.
func (s *redisStore) eachClaim(ctx context.Context, t lifeToken, visit func(record)) error {
	if t != s.token() || !s.ready() {
		return errNoLife
	}
	err := s.withConn(ctx, s.work, func(conn redis.Conn, run string) error {
		if t.run() != run {
			return errNoLife
		}
		for cursor := "0"; ; {
			var pairs [][]byte
			reply, err := redis.Values(redis.DoContext(conn, ctx, "HSCAN", keyClaims, cursor, "COUNT", claimScanStep))
			if err == nil {
				_, err = redis.Scan(reply, &cursor, &pairs)
			}
			if err != nil {
				return err
			}
			s.visitClaims(pairs, visit)
			if cursor == "0" {
				return nil
			}
		}
	})
	if err != nil {
		return fmt.Errorf("cannot read the claims: %w", err)
	}
	if t != s.token() {
		return errNoLife
	}
	return nil
}

// visitClaims passes over what galo did not write.
func (s *redisStore) visitClaims(pairs [][]byte, visit func(record)) {
	for ; len(pairs) >= 2; pairs = pairs[2:] {
		id, named := parseField(pairs[0])
		rec, err := parseRecord(id, pairs[1])
		if !named || err != nil {
			s.opts.log.Error("store has a claim that cannot be read", "key", keyClaims, "field", string(pairs[0]))
			continue
		}
		visit(rec)
	}
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
	args.add(keyClaims)
	args.keysEnd()
	args.add(string(t))
	args.add(stateReady)
	for i := range found {
		rec := &found[i]
		args.addField(rec.id)
		c := claim{id: rec.id, amount: rec.amount, acceptedAt: rec.acceptedAt, journal: rec.journal, seq: rec.seq}
		args.text = c.appendJSON(args.text)
		args.end()
	}
	return args
}

// luaDisown: KEYS life, claims; ARGV token, state, then field and claim of each payment.
const luaDisown = `
for i = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[2], ARGV[i])
  end
end
return #ARGV
`
