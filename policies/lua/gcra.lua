-- Shared by the scripts of the rate limits, which are prepended with this file. GCRA: each unit takes 60 s / limit,
-- what was admitted lies that far ahead of now, and at most 60 s may. The theoretical arrival time is kept as
-- "<us of the last change> <us ahead of it>": their sum would be about 2^51 us, where doubles are too coarse to
-- add fractions up.
-- KEYS: the admission's record, then requests, tokens, slots of each scope; all carry the tenant's hash tag.
-- The record holds what the admission was counted as in each scope, "-" where that has no token limit; "ended"
-- where its end came first.
local MINUTE_US = 60000000
local TOLERANCE_US = 1 -- fractions of a microsecond that rounding adds up must not refuse the last unit
local DEBT_US = 3600000000 -- what was spent beyond the estimate is owed, an hour's worth at most

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function whole(number) return string.format('%.0f', number) end

local function bucket(key, limit)
  if limit == '-' then return nil end
  local at, ahead = string.match(redis.call('GET', key) or '0 0', '(%S+) (%S+)')
  ahead = math.max(0, tonumber(ahead) - math.max(0, now - tonumber(at))) -- clocks may step back
  return { key = key, limit = tonumber(limit), unit = MINUTE_US / tonumber(limit), ahead = ahead }
end

local function keep(known)
  if known.ahead <= 0 then
    redis.call('DEL', known.key)
  else
    local ttl_ms = math.ceil(known.ahead / 1000) + 1
    redis.call('SET', known.key, string.format('%.0f %.9f', now, known.ahead), 'PX', whole(ttl_ms))
  end
end

-- Units left, and us until the limit is whole again.
local function state(known)
  if not known then return -1, 0 end
  local left = math.floor((MINUTE_US - known.ahead + TOLERANCE_US) / known.unit)
  return math.max(0, left), math.ceil(known.ahead)
end
