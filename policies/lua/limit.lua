-- Requests/min and tokens/min by GCRA, and a concurrency slot that expires by itself: all granted, or none.
-- GCRA: each unit takes 60 s / limit, what was admitted lies that far ahead of now, and at most 60 s may. The
-- theoretical arrival time is kept as "<us of the last admission> <us ahead of it>": their sum would be about
-- 2^51 us, where doubles are too coarse to add fractions up.
-- KEYS: requests, tokens, slots (same hash tag). ARGV: slot id, slot ttl_ms, then three limits ("-": none),
-- requests_per_minute, tokens_per_minute, concurrency, then the tokens of this request.
-- Returns {granted 0|1, kind, retry after us, requests left, us to full, tokens left, us to full}.
-- kind is "" when granted; retry after is -1 where waiting cannot help; left is -1 without a limit.
local MINUTE_US = 60000000
local TOLERANCE_US = 1 -- fractions of a microsecond that rounding adds up must not refuse the last unit

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function bucket(key, limit, cost)
  if limit == '-' then return nil end
  local unit = MINUTE_US / tonumber(limit)
  local at, ahead = string.match(redis.call('GET', key) or '0 0', '(%S+) (%S+)')
  ahead = math.max(0, tonumber(ahead) - math.max(0, now - tonumber(at))) -- clocks may step back
  local wait = ahead + cost * unit - MINUTE_US
  if wait <= TOLERANCE_US then wait = 0 end
  if cost > tonumber(limit) then wait = -1 end
  return { key = key, unit = unit, ahead = ahead, cost = cost, wait = wait }
end

local requests = bucket(KEYS[1], ARGV[3], 1)
local tokens = bucket(KEYS[2], ARGV[4], tonumber(ARGV[6]))

local kind, retry = '', 0
local function refuse(name, wait)
  -- What never fits outranks every wait; else the longest wait counts.
  if wait ~= 0 and retry ~= -1 and (wait == -1 or wait > retry) then kind, retry = name, wait end
end
if ARGV[5] ~= '-' then
  local now_ms = math.floor(now / 1000)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now_ms))
  local taken = redis.call('ZSCORE', KEYS[3], ARGV[1]) -- a repeat keeps its slot
  if not taken and redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[5]) then
    refuse('concurrency', 1000000) -- nobody knows when a request ends
  end
end
if requests then refuse('requests', requests.wait) end
if tokens then refuse('tokens', tokens.wait) end

local granted = kind == ''
if granted and ARGV[5] ~= '-' then
  redis.call('ZADD', KEYS[3], string.format('%.0f', math.floor(now / 1000) + tonumber(ARGV[2])), ARGV[1])
  redis.call('PEXPIRE', KEYS[3], ARGV[2], 'GT')
  redis.call('PEXPIRE', KEYS[3], ARGV[2], 'NX')
end

local function state(known)
  if not known then return -1, 0 end
  if granted and known.cost > 0 then
    known.ahead = known.ahead + known.cost * known.unit
    local ttl_ms = math.ceil(known.ahead / 1000) + 1
    local value = string.format('%.0f %.9f', now, known.ahead)
    redis.call('SET', known.key, value, 'PX', string.format('%.0f', ttl_ms))
  end
  local left = math.floor((MINUTE_US - known.ahead + TOLERANCE_US) / known.unit)
  return math.max(0, left), math.ceil(known.ahead)
end
local requests_left, requests_reset = state(requests)
local tokens_left, tokens_reset = state(tokens)
return { granted and 1 or 0, kind, math.ceil(retry),
         requests_left, requests_reset, tokens_left, tokens_reset }
