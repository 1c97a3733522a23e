-- Requests/min, tokens/min and a concurrency slot in every scope: all granted, or none. A repeat counts once.
-- ARGV: id, ttl_ms, tokens (an estimate), the least of them that must fit, then requests_per_minute,
-- tokens_per_minute and concurrency of each scope ("-": none). The estimate counts up to a scope's limit.
-- Returns {granted 0|1, kind, scope (from 1), retry after us}, then for each scope {requests left, us to full,
-- tokens left, us to full}. kind is "" when granted; retry after is -1 where waiting cannot help; left is -1
-- without a limit.
local id, ttl_ms, wanted, least = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now_ms = math.floor(now / 1000)
local known_already = redis.call('EXISTS', KEYS[1]) == 1

local kind, refused_by, retry = '', 0, 0
local function refuse(name, scope, wait)
  -- What never fits outranks every wait; else the longest wait counts.
  if wait ~= 0 and retry ~= -1 and (wait == -1 or wait > retry) then kind, refused_by, retry = name, scope, wait end
end

local function cost(known, units)
  known.cost = units
  local wait = known.ahead + units * known.unit - MINUTE_US
  if wait <= TOLERANCE_US then wait = 0 end
  if units > known.limit then wait = -1 end
  return wait
end

local scopes = {}
for scope = 1, (#ARGV - 4) / 3 do
  local key, arg = 3 * scope - 1, 3 * scope + 2
  local one = { requests = bucket(KEYS[key], ARGV[arg]), tokens = bucket(KEYS[key + 1], ARGV[arg + 1]),
                slots = KEYS[key + 2], concurrency = tonumber(ARGV[arg + 2]) }
  scopes[scope] = one
  if not known_already then
    if one.concurrency then
      redis.call('ZREMRANGEBYSCORE', one.slots, '-inf', whole(now_ms))
      if redis.call('ZCARD', one.slots) >= one.concurrency then
        refuse('concurrency', scope, 1000000) -- nobody knows when a request ends
      end
    end
    if one.requests then refuse('requests', scope, cost(one.requests, 1)) end
    if one.tokens then
      refuse('tokens', scope, cost(one.tokens, math.max(least, math.min(wanted, one.tokens.limit))))
    end
  end
end

if kind == '' and not known_already then
  local counted = {}
  for scope, one in ipairs(scopes) do
    counted[scope] = one.tokens and whole(one.tokens.cost) or '-'
    for _, known in pairs({ one.requests or nil, one.tokens or nil }) do
      known.ahead = known.ahead + known.cost * known.unit
      keep(known)
    end
    if one.concurrency then
      redis.call('ZADD', one.slots, whole(now_ms + ttl_ms), id)
      redis.call('PEXPIRE', one.slots, ttl_ms, 'GT')
      redis.call('PEXPIRE', one.slots, ttl_ms, 'NX')
    end
  end
  redis.call('SET', KEYS[1], table.concat(counted, ' '), 'PX', ttl_ms)
end

local out = { kind == '' and 1 or 0, kind, refused_by, math.ceil(retry) }
for _, one in ipairs(scopes) do
  for _, known in ipairs({ one.requests or false, one.tokens or false }) do
    out[#out + 1], out[#out + 2] = state(known)
  end
end
return out
