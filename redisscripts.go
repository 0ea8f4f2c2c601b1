package main

import (
	"context"

	"github.com/gomodule/redigo/redis"
)

// storeScript is one Lua script. Redis runs it as one atomic step, but does not roll back what it wrote before
// an error: so every script reads all it needs first (a key of the wrong type stops it there) and only then
// writes. Its first write is one that Redis refuses when it is out of memory, so that this, too, leaves nothing
// half done.
type storeScript struct {
	source string
	script *redis.Script
}

func newStoreScript(source string) storeScript {
	// -1: the number of keys is the first argument, since it differs from batch to batch.
	return storeScript{source: source, script: redis.NewScript(-1, source)}
}

// run calls the script by its hash, and by its text when the server has lost it (a restart, SCRIPT FLUSH).
func (s storeScript) run(ctx context.Context, conn redis.Conn, args *scriptArgs) (any, error) {
	return s.script.DoContext(ctx, conn, args.list()...)
}

// storeScripts is every script the store uses.
type storeScripts struct {
	begin, report, leave, claim, settle, records, purge, poll, pollDone, sweep, swept, forget, bury, unlink, unreject, disown storeScript

	all []storeScript
}

func newStoreScripts() *storeScripts {
	var s storeScripts
	script := func(source string) storeScript {
		one := newStoreScript(source)
		s.all = append(s.all, one)
		return one
	}
	s.begin = script(luaBegin)
	s.report = script(luaLife + luaReport)
	s.leave = script(luaLife + luaLeave)
	s.claim = script(luaLife + luaGet + luaClaim)
	s.settle = script(luaLife + luaMark + luaSettle)
	s.records = script(luaLife + luaMark + luaGet + luaRecords)
	s.purge = script(luaLife + luaPurge)
	s.poll = script(luaLife + luaPoll)
	s.pollDone = script(luaLife + luaPollDone)
	s.sweep = script(luaLife + luaMark + luaSweep)
	s.swept = script(luaLife + luaMark + luaSwept)
	s.forget = script(luaLife + luaMark + luaForget)
	s.bury = script(luaLife + luaMark + luaBury)
	s.unlink = script(luaLife + luaMark + luaUnlink)
	s.unreject = script(luaLife + luaMark + luaUnreject)
	s.disown = script(luaLife + luaDisown)
	return &s
}

// load sends every script to a server in one round trip.
func (s *storeScripts) load(ctx context.Context, conn redis.Conn) error {
	last := len(s.all) - 1
	for _, one := range s.all[:last] {
		if err := conn.Send("SCRIPT", "LOAD", one.source); err != nil {
			return err
		}
	}
	_, err := redis.DoContext(conn, ctx, "SCRIPT", "LOAD", s.all[last].source)
	return err
}

// scriptArgs collects the keys and then the arguments of one call in a single buffer. It is made anew for every
// call: a call that was given up may still be read by redigo while it closes the connection.
type scriptArgs struct {
	text []byte
	ends []int
	keys int
}

// end closes the piece that was appended to text.
func (a *scriptArgs) end() { a.ends = append(a.ends, len(a.text)) }

func (a *scriptArgs) add(s string) {
	a.text = append(a.text, s...)
	a.end()
}

// keysEnd says that all pieces so far are keys and the rest are arguments.
func (a *scriptArgs) keysEnd() { a.keys = len(a.ends) }

func (a *scriptArgs) list() []any {
	text := string(a.text)
	out := make([]any, 0, 1+len(a.ends))
	out = append(out, a.keys)
	from := 0
	for _, end := range a.ends {
		switch piece := text[from:end]; piece {
		case "0": // These two are every third piece, and cost no memory as they stand here.
			out = append(out, "0")
		case "1":
			out = append(out, "1")
		default:
			out = append(out, piece)
		}
		from = end
	}
	return out
}

// luaLife opens every script but begin. KEYS[1] is the life, ARGV[1] the token, ARGV[2] the state that the life
// must have, or "any".
const luaLife = `
local life = redis.call('GET', KEYS[1]) or 'missing'
if life ~= ARGV[1] .. ':ready' and life ~= ARGV[1] .. ':replaying' then
  return redis.error_reply('NOLIFE the life is ' .. life)
end
local state = string.sub(life, #ARGV[1] + 2)
if ARGV[2] ~= 'any' and ARGV[2] ~= state then
  return redis.error_reply('LIFESTATE ' .. state)
end
`

// luaMark follows where settled history is touched. KEYS[2] is the purge mark, ARGV[3] the mark the caller's
// keys were built with.
const luaMark = `
local mark = redis.call('GET', KEYS[2]) or '0'
if mark ~= ARGV[3] then
  return redis.error_reply('PURGED ' .. mark)
end
`

// luaBegin: KEYS life, mark, reports, progress, poll keys...; ARGV run id, nonce, the caller's mark, the poll
// window in milliseconds. A life that began in this run of the server goes on; any other one is over.
const luaBegin = `
local life = redis.call('GET', KEYS[1])
local mark = redis.call('GET', KEYS[2]) or '0'
local progress = redis.call('HGETALL', KEYS[4])
local run = ARGV[1] .. '.'
if not life or string.sub(life, 1, #run) ~= run then
  life = run .. ARGV[2] .. ':replaying'
  redis.call('SET', KEYS[1], life)
  redis.call('DEL', KEYS[3])
  local now = redis.call('TIME')
  local till = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4])
  for i = 5, #KEYS do
    redis.call('SET', KEYS[i], till .. ' nobody', 'PX', ARGV[4])
  end
end
if tonumber(ARGV[3]) > tonumber(mark) then
  mark = ARGV[3]
  redis.call('SET', KEYS[2], mark)
end
return {life, mark, progress}
`

// luaReport: KEYS life, reports, heard, here; ARGV token, state, "1" if all that the journal has as paid is settled, the journal that has
// replayed, the process, for how many milliseconds it counts, all journals there are. The reply is the state of the life and how many processes
// there are. A journal that is not settled is one that was heard of, and long ago: whatever this store, or the copy that
// it was brought back from, has of it.
const luaReport = `
local all = true
for i = 7, #ARGV do
  if ARGV[i] ~= ARGV[4] and redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 0 then
    all = false
  end
end
redis.call('SADD', KEYS[2], ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[3], ARGV[4], string.format('%.0f', now))
elseif not tonumber(redis.call('HGET', KEYS[3], ARGV[4]) or '') then
  redis.call('HSET', KEYS[3], ARGV[4], '0')
end
if all and state ~= 'ready' then
  state = 'ready'
  redis.call('SET', KEYS[1], ARGV[1] .. ':ready')
end
redis.call('ZADD', KEYS[4], string.format('%.0f', now), ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', string.format('(%.0f', now - ARGV[6]))
redis.call('ZREMRANGEBYSCORE', KEYS[4], string.format('(%.0f', now + ARGV[6]), '+inf')
return {state, redis.call('ZCARD', KEYS[4])}
`

// luaLeave: KEYS life, heard; ARGV token, state, journals.
const luaLeave = `
for i = 3, #ARGV do
  redis.call('HSET', KEYS[2], ARGV[i], '` + heardLeft + `')
end
return #ARGV - 2
`

// luaGet reads a field of a hash. If the key is no hash, it gives the error's text, which nobody takes for a record.
const luaGet = `
local function get(key, field)
  local got = redis.pcall('HGET', key, field)
  return type(got) == 'table' and got.err or got
end
`

// luaClaim: KEYS life, then record bucket and claim bucket of each payment; ARGV token, state, then field, claim, and "1" for a
// slot that has an attempt out, of each payment. Answers for each payment nil when the claim is new, else what was there. What
// a purge has hidden is there. A slot that has an attempt out takes the claim whoever has it: that is of an older copy.
const luaClaim = `
local answers, fresh, mine = {}, {}, {}
for i = 1, (#KEYS - 1) / 2 do
  local field, text, out = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  local there = get(KEYS[2 * i], field)
  local claimed = get(KEYS[2 * i + 1], field)
  answers[i] = there or claimed or mine[field] or false
  if not answers[i] or (out == '1' and not there) then
    mine[field] = text
    fresh[#fresh + 1] = i
  end
end
for _, i in ipairs(fresh) do
  redis.call('HSET', KEYS[2 * i + 1], ARGV[3 * i], ARGV[3 * i + 1])
end
return answers
`

// luaRecords: KEYS life, mark, then record bucket and claim bucket of each payment; ARGV token, state, mark, then the field
// of each payment. Answers what is known of each payment.
const luaRecords = `
local answers = {}
for i = 1, (#KEYS - 2) / 2 do
  local field = ARGV[i + 3]
  answers[i] = get(KEYS[2 * i + 1], field) or get(KEYS[2 * i + 2], field)
end
return answers
`

// luaSettle: KEYS life, mark, swept, late, progress, then record bucket and claim bucket of each payment, then
// slice, second, minute, hour and day of each group (the payments of one processor in one slice).
// ARGV token, state, mark, number of progress pairs, number of payments, then journal and low of each pair, then
// per payment: field, record, its group (0: rejected, or hidden by a purge), cents, requestedAt, whether it was requested after it
// was accepted ("1") or before ("0"), settledAt; then per group its epoch minute and its field in each hash.
//
// A final record is left alone, except that a paid one replaces a rejected one: money that moved is counted,
// whatever the order in which it is told. What is no record that galo writes is replaced; the payment is counted unless its slice shows that
// it was. A payment older than the swept minutes is counted only when a claim
// shows that it was not settled before: without one it is a replay whose record has been forgotten.
//
// Sums are written as what they are then, not as what is added: a Redis that was killed in the middle of writing its append-only file may
// come back with the first half of a step in it, which it leaves out, and plays all the same when it is started once more.
//
// Answers the fields of those that were settled before, and hidden by a purge since.
const luaSettle = `
-- plus adds two whole numbers in decimal, of up to 18 digits: more than a number of Lua holds.
local function plus(a, b)
  local low = tonumber(string.sub(a, -9)) + tonumber(string.sub(b, -9))
  local high = (tonumber(string.sub(a, 1, -10)) or 0) + (tonumber(string.sub(b, 1, -10)) or 0)
  if low >= 1e9 then
    low, high = low - 1e9, high + 1
  end
  if high == 0 then
    return string.format('%.0f', low)
  end
  return string.format('%.0f%09.0f', high, low)
end
local pairsAt, paymentsAt = 5, 5 + 2 * ARGV[4]
local payments = tonumber(ARGV[5])
local groupsAt, groupKeysAt = paymentsAt + 7 * payments, 5 + 2 * payments
local swept = redis.call('HGET', KEYS[3], 'to')
swept = swept and tonumber(swept)
redis.call('ZCARD', KEYS[4])

local seen, writes, groups, touched, hidden = {}, {}, {}, {}, {}
for i = 0, payments - 1 do
  local at, key = paymentsAt + 7 * i, 5 + 2 * i
  local field, group = ARGV[at + 1], tonumber(ARGV[at + 3])
  local claimed = redis.call('HEXISTS', KEYS[key + 2], field) == 1
  local old = redis.call('HGET', KEYS[key + 1], field)
  local unreadable = old and not string.match(old, '^%["[dfx]%d*",%d+,%-?%d+,%-?%d+,?%-?%d*%]$')
  if unreadable then
    old = false
  end
  local rejected = old and string.sub(old, 1, 3) == '["x'
  local late = group > 0 and swept and tonumber(ARGV[groupsAt + 5 * (group - 1) + 1]) < swept
  if not seen[field] and (not old or (rejected and group > 0)) and (not late or claimed) then
    seen[field] = true
    writes[#writes + 1] = {at, key, claimed, group == 0 or late, rejected}
    local counted = unreadable and group > 0 and redis.call('ZSCORE', KEYS[groupKeysAt + 5 * (group - 1) + 1], field .. ARGV[at + 4])
    if group > 0 and (not late or ARGV[at + 6] == '1') and not counted then
      local g = groups[group]
      if not g then
        g = {0, 0, {KEYS[groupKeysAt + 5 * (group - 1) + 1]}}
        groups[group] = g
        touched[#touched + 1] = group
      end
      g[1] = g[1] + 1
      g[2] = g[2] + ARGV[at + 4]
      if not late then
        g[3][#g[3] + 1] = ARGV[at + 5]
        g[3][#g[3] + 1] = field .. ARGV[at + 4]
      end
    end
  elseif old then
    local under = string.match(old, '^%["%a(%d+)"') or '0'
    if under ~= ARGV[3] then
      hidden[#hidden + 1] = field
    end
  end
end

local sums, order = {}, {}
for _, group in ipairs(touched) do
  local g, at, key = groups[group], groupsAt + 5 * (group - 1), groupKeysAt + 5 * (group - 1)
  redis.call('ZCARD', KEYS[key + 1])
  for level = 2, 5 do
    local name = KEYS[key + level] .. ' ' .. ARGV[at + level]
    local sum = sums[name]
    if not sum then
      sum = {KEYS[key + level], ARGV[at + level], 0, 0}
      sums[name] = sum
      order[#order + 1] = sum
    end
    sum[3] = sum[3] + g[1]
    sum[4] = sum[4] + g[2]
  end
end
for _, sum in ipairs(order) do
  local there = redis.call('HMGET', sum[1], sum[2] .. 'n', sum[2] .. 'c')
  local count, amount = there[1] or '0', there[2] or '0'
  if string.find(count, '%D') or string.find(amount, '%D') or count == '' or amount == '' or tonumber(amount) + sum[4] >= 1e18 then
    return redis.error_reply('BADSUM ' .. sum[1] .. ' ' .. sum[2])
  end
  sum[3] = plus(count, string.format('%.0f', sum[3]))
  sum[4] = plus(amount, string.format('%.0f', sum[4]))
end
local progress = {}
for i = 0, ARGV[4] - 1 do
  local journal, low = ARGV[pairsAt + 2 * i + 1], ARGV[pairsAt + 2 * i + 2]
  local known = tonumber(redis.call('HGET', KEYS[5], journal) or '')
  if not known or known < tonumber(low) then
    progress[#progress + 1] = {journal, low}
  end
end

for _, w in ipairs(writes) do
  redis.call('HSET', KEYS[w[2] + 1], ARGV[w[1] + 1], ARGV[w[1] + 2])
  if w[3] then
    redis.call('HDEL', KEYS[w[2] + 2], ARGV[w[1] + 1])
  end
  if w[4] then
    redis.call('ZADD', KEYS[4], ARGV[w[1] + 7], ARGV[w[1] + 1])
  elseif w[5] then
    redis.call('ZREM', KEYS[4], ARGV[w[1] + 1])
  end
end
for _, group in ipairs(touched) do
  if #groups[group][3] > 1 then
    redis.call('ZADD', unpack(groups[group][3]))
  end
end
for _, sum in ipairs(order) do
  redis.call('HSET', sum[1], sum[2] .. 'n', sum[3], sum[2] .. 'c', sum[4])
end
for _, p in ipairs(progress) do
  redis.call('HSET', KEYS[5], p[1], p[2])
end
return hidden
`

// luaPurge: KEYS life, mark; ARGV token, state, mark. Answers the mark in force.
const luaPurge = `
local mark = redis.call('GET', KEYS[2]) or '0'
if tonumber(ARGV[3]) > tonumber(mark) then
  mark = ARGV[3]
  redis.call('SET', KEYS[2], mark)
end
return mark
`

// luaPoll: KEYS life, poll key; ARGV token, state, window in milliseconds, instance. The value says until when
// it holds, beside the expiry of the key: so it ends in a store whose expiries stand still, too.
const luaPoll = `
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local held = redis.call('GET', KEYS[2])
if held and tonumber(string.match(held, '^%d+')) > now then
  return 0
end
redis.call('SET', KEYS[2], string.format('%.0f', now + ARGV[3]) .. ' ' .. ARGV[4], 'PX', ARGV[3])
return 1
`

// luaPollDone: as luaPoll. The window begins again, when it is still the caller's.
const luaPollDone = `
local held = redis.call('GET', KEYS[2])
if not held or string.match(held, '^%d+ (.*)$') ~= ARGV[4] then
  return 0
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('SET', KEYS[2], string.format('%.0f', now + ARGV[3]) .. ' ' .. ARGV[4], 'PX', ARGV[3])
return 1
`

// luaSweep: KEYS life, mark, swept; ARGV token, state, mark, minute. From here on the slices before that minute
// count as gone. Answers the minute up to which everything is known to be gone, and the one in force.
const luaSweep = `
local known = redis.call('HMGET', KEYS[3], 'to', 'done')
if not known[1] or tonumber(known[1]) < tonumber(ARGV[4]) then
  known[1] = ARGV[4]
  redis.call('HSET', KEYS[3], 'to', ARGV[4])
end
return {known[1], known[2]}
`

// luaSwept: KEYS life, mark, swept; ARGV token, state, mark, minute. The sweep up to that minute is complete.
const luaSwept = `
local done = redis.call('HGET', KEYS[3], 'done')
if not done or tonumber(done) < tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[3], 'done', ARGV[4])
end
return 1
`

// luaBury: KEYS life, mark, late, slices of lower marks; ARGV token, state, mark. A slice leads retention to its records;
// before it is unlinked, late does so in its place.
const luaBury = `
for i = 4, #KEYS do
  local members = redis.call('ZRANGE', KEYS[i], 0, -1, 'WITHSCORES')
  for m = 1, #members, 2 do
    redis.call('ZADD', KEYS[3], members[m + 1], string.sub(members[m], 1, 22))
  end
  redis.call('UNLINK', KEYS[i])
end
return #KEYS - 3
`

// luaForget: KEYS life, mark, a sorted set (slice or late), record bucket of each member; ARGV token, state,
// mark, members, of which the first 22 characters are the payment's field.
const luaForget = `
for i = 4, #ARGV do
  redis.call('HDEL', KEYS[i], string.sub(ARGV[i], 1, 22))
  redis.call('ZREM', KEYS[3], ARGV[i])
end
return #ARGV - 3
`

// luaUnlink: KEYS life, mark, keys of lower marks; ARGV token, state, mark.
const luaUnlink = `
for i = 3, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return #KEYS - 2
`
