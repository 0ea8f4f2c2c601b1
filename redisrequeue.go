package main

import (
	"context"
	"fmt"
	"strconv"
)

// unreject takes back the rejected records of these slots and puts their claims in place, in any state of the life t: so that nobody else
// can claim the payment in between. A slot whose record is not there, is paid, or is another slot's, is passed over. It may be repeated.
func (s *redisStore) unreject(ctx context.Context, t lifeToken, mark uint64, in []claim) error {
	for start := 0; start < len(in); start += maxStoreBatch {
		step := in[start:min(start+maxStoreBatch, len(in))]
		if _, err := s.call(ctx, s.work, t, s.scripts.unreject, unrejectArgs(t, mark, step)); err != nil {
			return fmt.Errorf("cannot take back %d rejections: %w", len(in)-start, err)
		}
	}
	return nil
}

func unrejectArgs(t lifeToken, mark uint64, in []claim) *scriptArgs {
	args := &scriptArgs{}
	args.add(keyLife)
	args.add(keyMark)
	args.add(keyLate)
	args.add(keyClaims)
	for i := range in {
		args.addRecordKey(in[i].id)
	}
	args.keysEnd()
	args.addHead(t, stateAny, mark)
	for i := range in {
		args.addField(in[i].id)
		args.text = in[i].appendJSON(args.text)
		args.end()
		args.text = in[i].appendRejected(args.text)
		args.end()
	}
	return args
}

// appendRejected appends what follows the letter and the mark in the record that this very slot has when it is rejected: two slots
// with one id differ in acceptedAt.
func (c *claim) appendRejected(dst []byte) []byte {
	dst = strconv.AppendInt(dst, int64(c.amount), 10)
	dst = append(dst, ',')
	dst = strconv.AppendInt(dst, int64(c.acceptedAt), 10)
	return append(dst, ',')
}

// luaUnreject: KEYS life, mark, late, claims, then record bucket of each payment; ARGV token, state, mark, then field, claim and
// what the slot's own rejected record goes on with behind its letter and mark, of each payment. Answers how many were taken back.
const luaUnreject = `
local back = {}
redis.call('ZCARD', KEYS[3])
redis.call('HLEN', KEYS[4])
for i = 1, (#ARGV - 3) / 3 do
  local at, key = 3 * i + 1, i + 4
  local there = redis.call('HGET', KEYS[key], ARGV[at])
  local rejected = there and string.match(there, '^%["x%d*",(.*)$')
  if rejected and string.sub(rejected, 1, #ARGV[at + 2]) == ARGV[at + 2] then
    back[#back + 1] = {at, key}
  end
end
for _, b in ipairs(back) do
  redis.call('HSET', KEYS[4], ARGV[b[1]], ARGV[b[1] + 1])
  redis.call('HDEL', KEYS[b[2]], ARGV[b[1]])
  redis.call('ZREM', KEYS[3], ARGV[b[1]])
end
return #back
`
