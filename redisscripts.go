package main

import (
	"context"

	"github.com/gomodule/redigo/redis"
)

// storeScript is one Lua script. Redis runs it as one atomic step, but does not roll back what it wrote before
// an error: so every script reads all it needs first (a key of the wrong type stops it there) and only then
// writes. Its first write is one that Redis refuses when it is out of memory, so that this, too, leaves nothing
// half done; but see luaWhenFull.
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
	begin, report, beat, leave, claim, settle, records, purge, poll, pollDone, sweep, swept, forget, bury, unlink, unreject, disown storeScript

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
	s.report = script(luaLife + luaWhenFull + luaHeard + luaReport)
	s.beat = script(luaLife + luaMark + luaWhenFull + luaHeard + luaBeat)
	s.leave = script(luaLife + luaWhenFull + luaLeave)
	s.claim = script(luaLife + luaGet + luaClaim)
	s.settle = script(luaLife + luaMark + luaSettle)
	s.records = script(luaLife + luaMark + luaGet + luaRecords)
	s.purge = script(luaLife + luaWhenFull + luaPurge)
	s.poll = script(luaLife + luaPoll)
	s.pollDone = script(luaLife + luaPollDone)
	s.sweep = script(luaLife + luaMark + luaWhenFull + luaSweep)
	s.swept = script(luaLife + luaMark + luaWhenFull + luaSwept)
	s.forget = script(luaLife + luaMark + luaForget)
	s.bury = script(luaLife + luaMark + luaWhenFull + luaBury)
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
		case "0": // Most payments of a settle have one of these for their group, and they cost no memory as they stand here.
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

// luaWhenFull opens scripts that make room in the end, or that those need which do, and take hardly any themselves. A Redis that is out of memory
// refuses a script's first write, unless that cannot take any, and then no other. This one changes nothing: the life does not expire.
const luaWhenFull = `
redis.call('PERSIST', KEYS[1])
`

// luaBegin: KEYS life, mark, reports, progress, layout, poll keys...; ARGV run id, nonce, the caller's mark, the poll
// window in milliseconds, the caller's layout. A life that began in this run of the server goes on; any other one is over.
// A store of another layout, or with a life and no layout, is refused.
const luaBegin = `
local life = redis.call('GET', KEYS[1])
local layout = redis.call('GET', KEYS[5]) or life and 'of a version that did not say' or ARGV[5]
if layout ~= ARGV[5] then
  return redis.error_reply('LAYOUT ' .. layout)
end
local mark = redis.call('GET', KEYS[2]) or '0'
local progress = redis.call('HGETALL', KEYS[4])
` + luaWhenFull + `
local run = ARGV[1] .. '.'
if not life or string.sub(life, 1, #run) ~= run then
  life = run .. ARGV[2] .. ':replaying'
  redis.call('SET', KEYS[1], life)
  redis.call('SET', KEYS[5], layout)
  redis.call('DEL', KEYS[3])
  local now = redis.call('TIME')
  local till = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4])
  for i = 6, #KEYS do
    redis.call('SET', KEYS[i], till .. ' nobody', 'PX', ARGV[4])
  end
end
if tonumber(ARGV[3]) > tonumber(mark) then
  mark = ARGV[3]
  redis.call('SET', KEYS[2], mark)
end
return {life, mark, progress}
`

// luaHeard is what report and beat have in common. hear notes when a journal was heard of, if settled is "1". A journal that is not settled is one
// that was heard of, and long ago: whatever this store, or the copy that it was brought back from, has of it. count notes that a
// process is there, and answers how many have been within so many milliseconds.
const luaHeard = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function hear(key, journal, settled)
  if settled == '1' then
    redis.call('HSET', key, journal, string.format('%.0f', now))
  elseif not tonumber(redis.call('HGET', key, journal) or '') then
    redis.call('HSET', key, journal, '0')
  end
end
local function count(key, process, within)
  redis.call('ZADD', key, string.format('%.0f', now), process)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%.0f', now - within))
  redis.call('ZREMRANGEBYSCORE', key, string.format('(%.0f', now + within), '+inf')
  return redis.call('ZCARD', key)
end
`

// luaReport: KEYS life, reports, heard, here; ARGV token, state, "1" if all that the journal has as paid is settled, the journal that has
// replayed, the process, for how many milliseconds it counts, all journals there are. The reply is the state of the life and how many processes
// there are.
const luaReport = `
local all = true
for i = 7, #ARGV do
  if ARGV[i] ~= ARGV[4] and redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 0 then
    all = false
  end
end
redis.call('SADD', KEYS[2], ARGV[4])
hear(KEYS[3], ARGV[4], ARGV[3])
if all and state ~= 'ready' then
  state = 'ready'
  redis.call('SET', KEYS[1], ARGV[1] .. ':ready')
end
return {state, count(KEYS[4], ARGV[5], ARGV[6])}
`

// luaBeat: KEYS life, mark, heard, here; ARGV token, state, mark, "1" if all that the journals have as paid is settled, the process, for how many
// milliseconds it counts, journals that have reported. The reply is how many processes there are.
const luaBeat = `
for i = 7, #ARGV do
  hear(KEYS[3], ARGV[i], ARGV[4])
end
return count(KEYS[4], ARGV[5], ARGV[6])
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

// luaClaim: KEYS life, claims, then record bucket of each payment; ARGV token, state, for each payment "1" if its slot has an attempt
// out or else "0", all in one string, then the field of each, then the claim of each. Answers for each payment nil when the claim is
// new, else what was there. What a purge has hidden is there. A slot that has an attempt out takes the claim whoever has it: that is
// of an older copy.
const luaClaim = `
local n = #KEYS - 2
local claimed = redis.call('HMGET', KEYS[2], unpack(ARGV, 4, n + 3))
local answers, mine, fresh = {}, {}, {}
for i = 1, n do
  local field = ARGV[i + 3]
  local there = get(KEYS[i + 2], field)
  answers[i] = there or claimed[i] or mine[field] or false
  if not answers[i] or (not there and string.sub(ARGV[3], i, i) == '1') then
    mine[field] = ARGV[n + i + 3]
    fresh[#fresh + 1] = field
    fresh[#fresh + 1] = mine[field]
  end
end
if #fresh > 0 then
  redis.call('HSET', KEYS[2], unpack(fresh))
end
return answers
`

// luaRecords: KEYS life, mark, claims, then record bucket of each payment; ARGV token, state, mark, then the field of each payment.
// Answers what is known of each payment.
const luaRecords = `
local answers = redis.call('HMGET', KEYS[3], unpack(ARGV, 4))
for i = 1, #KEYS - 3 do
  answers[i] = get(KEYS[i + 3], ARGV[i + 3]) or answers[i]
end
return answers
`

// luaSettle: KEYS life, mark, swept, late, progress, claims, then record bucket of each payment, then slice, second, minute, hour and
// day of each group (the payments of one processor in one slice).
// ARGV token, state, mark, number of progress pairs, number of payments, then journal and low of each pair, then the field of each
// payment, then per payment: record, its group (0: rejected, or hidden by a purge), cents, requestedAt; then per group its epoch minute
// and its field in each hash.
//
// A final record is left alone, except that a paid one replaces a rejected one: money that moved is counted,
// whatever the order in which it is told. What is no record that galo writes is replaced; the payment is counted unless its slice shows that
// it was. A payment older than the swept minutes is counted only when a claim
// shows that it was not settled before: without one it is a replay whose record has been forgotten.
//
// A call of Redis costs more than anything else here: so there are two for each payment, and some for all of them. Where a record's key
// is no hash, the others are settled nevertheless, and the error is the answer.
//
// Records and sums are written as what they are then, not as what is added (nor by HSETNX): a Redis that was killed in the middle of
// writing its append-only file may come back with the first half of a step in it, which it leaves out, and plays all the same when it is
// started once more.
//
// Answers the fields of those that were settled before, and hidden by a purge since.
const luaSettle = `
-- plus adds a number to one in decimal of up to 18 digits: more than a number of Lua holds.
local function plus(a, n)
  if #a < 16 then
    return string.format('%d', a + n)
  end
  local low, high = tonumber(string.sub(a, -9)) + n % 1e9, tonumber(string.sub(a, 1, -10)) + math.floor(n / 1e9)
  if low >= 1e9 then
    low, high = low - 1e9, high + 1
  end
  return string.format('%d%09d', high, low)
end
-- times reads when a final record's payment was accepted, and what lies between that and the last of its instants.
local function times(record)
  local accepted, first, last = string.match(record, '^%["%a%d*",%d+,(%-?%d+),(%-?%d+),?(%-?%d*)%]$')
  return accepted, first, last == '' and first or last
end
local payments = tonumber(ARGV[5])
local fieldsAt = 5 + 2 * ARGV[4]
local paymentsAt = fieldsAt + payments
local groupsAt, groupKeysAt = paymentsAt + 4 * payments, 6 + payments

-- Everything is read before the first write.
local swept = tonumber(redis.call('HGET', KEYS[3], 'to') or '')
local claimed = payments > 0 and redis.call('HMGET', KEYS[6], unpack(ARGV, fieldsAt + 1, paymentsAt)) or {}
local groups = {}
for g = 1, (#KEYS - groupKeysAt) / 5 do
  local at, key = groupsAt + 5 * (g - 1), groupKeysAt + 5 * (g - 1)
  groups[g] = {at = at, key = key, n = 0, cents = 0, members = {KEYS[key + 1]}, late = swept and tonumber(ARGV[at + 1]) < swept}
end
local writes, gone, late, timely, hidden, seen = {}, {}, {}, {}, {}, {}
local failed
for i = 1, payments do
  local field, at = ARGV[fieldsAt + i], paymentsAt + 4 * (i - 1)
  local record, group = ARGV[at + 1], groups[tonumber(ARGV[at + 2])]
  local forgotten = group and group.late and not claimed[i]
  local old = not seen[field] and redis.pcall('HGET', KEYS[6 + i], field)
  local new, spoilt, rejected = not old and not seen[field] and not forgotten, false, false
  if type(old) == 'table' then
    failed = failed or old
  elseif old then
    local under = string.match(old, '^%["[dfx](%d*)",%d+,%-?%d+,%-?%d+,?%-?%d*%]$')
    spoilt, rejected = not under, under and string.sub(old, 1, 3) == '["x'
    if not forgotten and (spoilt or (rejected and group)) then
      new = true
    elseif under and (under == '' and '0' or under) ~= ARGV[3] then
      hidden[#hidden + 1] = field
    end
  end
  if new then
    seen[field] = true
    writes[#writes + 1] = i
    if claimed[i] then
      gone[#gone + 1] = field
    end
    local counts = group and not (spoilt and redis.call('ZSCORE', group.members[1], field .. ARGV[at + 3]))
    if not group or group.late then
      local accepted, first, last = times(record)
      late[#late + 1] = string.format('%.0f', accepted + last)
      late[#late + 1] = field
      counts = counts and string.sub(first, 1, 1) ~= '-'
    elseif rejected then
      timely[#timely + 1] = field
    end
    if counts then
      group.n = group.n + 1
      group.cents = group.cents + ARGV[at + 3]
      if not group.late then
        group.members[#group.members + 1] = ARGV[at + 4]
        group.members[#group.members + 1] = field .. ARGV[at + 3]
      end
    end
  end
end
if #late + #timely > 0 then
  redis.call('ZCARD', KEYS[4])
end
local sums, order = {}, {}
for _, group in ipairs(groups) do
  if group.n > 0 then
    redis.call('ZCARD', group.members[1])
    for level = 2, 5 do
      local key, field = KEYS[group.key + level], ARGV[group.at + level]
      local name = key .. ' ' .. field
      local sum = sums[name]
      if not sum then
        sum = {key = key, field = field, added = 0, cents = 0}
        sums[name] = sum
        order[#order + 1] = sum
      end
      sum.added = sum.added + group.n
      sum.cents = sum.cents + group.cents
    end
  end
end
for _, sum in ipairs(order) do
  local there = redis.call('HMGET', sum.key, sum.field .. 'n', sum.field .. 'c')
  local count, amount = there[1] or '0', there[2] or '0'
  if string.find(count, '%D') or string.find(amount, '%D') or count == '' or amount == '' or tonumber(amount) + sum.cents >= 1e18 then
    return redis.error_reply('BADSUM ' .. sum.key .. ' ' .. sum.field)
  end
  sum.count, sum.amount = plus(count, sum.added), plus(amount, sum.cents)
end
local progress = {}
for i = 0, ARGV[4] - 1 do
  local journal, low = ARGV[5 + 2 * i + 1], ARGV[5 + 2 * i + 2]
  local known = tonumber(redis.call('HGET', KEYS[5], journal) or '')
  if not known or known < tonumber(low) then
    progress[#progress + 1] = journal
    progress[#progress + 1] = low
  end
end

for _, i in ipairs(writes) do
  redis.call('HSET', KEYS[6 + i], ARGV[fieldsAt + i], ARGV[paymentsAt + 4 * (i - 1) + 1])
end
if #gone > 0 then
  redis.call('HDEL', KEYS[6], unpack(gone))
end
if #late > 0 then
  redis.call('ZADD', KEYS[4], unpack(late))
end
if #timely > 0 then
  redis.call('ZREM', KEYS[4], unpack(timely))
end
for _, group in ipairs(groups) do
  if #group.members > 1 then
    redis.call('ZADD', unpack(group.members))
  end
end
for _, sum in ipairs(order) do
  redis.call('HSET', sum.key, sum.field .. 'n', sum.count, sum.field .. 'c', sum.amount)
end
if failed then
  return failed
end
if #progress > 0 then
  redis.call('HSET', KEYS[5], unpack(progress))
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
