-- Shared by the ledger's scripts, which are prepended with this file. All keys carry the tenant's hash tag:
--   acr:{tenant}:holds                     zset: lease -> expiry (ms)             KEYS[1] of every script
--   acr:{tenant}:lease:<id>                hash: state reserved checkpoint charged windows
--   acr:{tenant}:budget:<scope>:<window>:<edge>   hash: used held                 one window of one scope
-- A window is known by its edge, the second (UTC) at which it ends. Numbers are whole and below 2^53.
local MAX = 9007199254740991
local DAY_S = 86400
local OPEN_LEASE_TTL_S = 40 * DAY_S -- outlives every window that a lease can hold in
local KEEP_WINDOW_S = { minute = 7200, day = 2 * DAY_S, month = 2 * DAY_S } -- for late settlements
local SWEEP_AT_MOST = 500

local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now_ms = now_s * 1000 + math.floor(tonumber(time[2]) / 1000)
local prefix = string.sub(KEYS[1], 1, -6) -- without "holds"

local function whole(number) return string.format('%.0f', number) end

-- Day of the month of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
local function day_of_month(days)
  local doe = (days + 719468) % 146097
  local leaps = math.floor(doe / 1460) - math.floor(doe / 36524) + math.floor(doe / 146096)
  local yoe = math.floor((doe - leaps) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  return doy - math.floor((153 * math.floor((5 * doy + 2) / 153) + 2) / 5) + 1
end

local function edge_at(window, second)
  if window == 'minute' then return second - second % 60 + 60 end
  local days = math.floor(second / DAY_S)
  if window == 'day' then return (days + 1) * DAY_S end
  local next_month = days - day_of_month(days) + 32 -- the 1st plus 31 days lies in the next month
  return (next_month - day_of_month(next_month) + 1) * DAY_S
end

local edges = {}
local function edge_of(window)
  edges[window] = edges[window] or edge_at(window, now_s)
  return edges[window]
end

-- Budgets are read once a call and written through.
local budgets = {}
local function budget(scope, window, edge)
  local key = prefix .. 'budget:' .. scope .. ':' .. window .. ':' .. whole(edge)
  local known = budgets[key]
  if not known then
    local pair = redis.call('HMGET', key, 'used', 'held')
    known = { key = key, window = window, edge = edge, exists = pair[1] ~= false,
              used = tonumber(pair[1] or 0), held = tonumber(pair[2] or 0) }
    budgets[key] = known
  end
  return known
end

local function write(known, used, held)
  known.used = math.max(0, math.min(used, MAX))
  known.held = math.max(0, math.min(held, MAX))
  redis.call('HSET', known.key, 'used', whole(known.used), 'held', whole(known.held))
  if not known.exists then
    known.exists = true
    redis.call('EXPIREAT', known.key, whole(known.edge + KEEP_WINDOW_S[known.window]))
  end
end

local function left_in(known, limit) return math.max(0, limit - known.used - known.held) end

-- A lease's windows are packed as "scope window edge limit ..."; the limit is "-" where there is none.
local function each_window(packed) return string.gmatch(packed, '(%S+) (%S+) (%S+) (%S+)') end

-- Moves numbers in the windows of a lease. A window that is gone is over, and nobody counts it any more.
local function move(packed, used, held)
  for scope, window, edge in each_window(packed) do
    local known = budget(scope, window, tonumber(edge))
    if known.exists then write(known, known.used + used, known.held + held) end
  end
end

-- The least that is left now in any limited window, -1 where none is limited.
local function least_left(packed)
  local least = -1
  for scope, window, _, limit in each_window(packed) do
    if limit ~= '-' then
      local left = left_in(budget(scope, window, edge_of(window)), tonumber(limit))
      if least < 0 or left < least then least = left end
    end
  end
  return least
end

-- Where `tokens` more do not fit: {denied, scope, window, left, ms}. The window is that with the least left,
-- which a smaller request must fit; the time runs to the edge of the last window that is short.
local function shortage(packed, tokens)
  local short, latest = nil, 0
  for scope, window, edge, limit in each_window(packed) do
    if limit ~= '-' then
      local known = budget(scope, window, tonumber(edge))
      if known.used + known.held + tokens > tonumber(limit) then
        local left = left_in(known, tonumber(limit))
        latest = math.max(latest, known.edge * 1000 - now_ms)
        if not short or left < short[4] then short = { 'denied', scope, window, left } end
      end
    end
  end
  if short then short[5] = latest end
  return short
end

local function load_lease(key)
  local row = redis.call('HMGET', key, 'state', 'reserved', 'checkpoint', 'charged', 'windows')
  return { key = key, state = row[1], reserved = tonumber(row[2] or 0), checkpoint = tonumber(row[3] or 0),
           charged = tonumber(row[4] or 0), windows = row[5] or '' }
end

-- Ends an open lease: its hold is freed, `charge` is used, and the record is kept a day for repeats.
local function close(lease, id, state, charge)
  move(lease.windows, charge, -lease.reserved)
  redis.call('HSET', lease.key, 'state', state, 'charged', whole(charge))
  redis.call('EXPIRE', lease.key, DAY_S)
  redis.call('ZREM', KEYS[1], id)
end

-- Expired leases charge their checkpoint and free the rest, before anything else is looked at.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', whole(now_ms), 'LIMIT', 0, SWEEP_AT_MOST)) do
  local lease = load_lease(prefix .. 'lease:' .. id)
  if lease.state == 'open' then
    close(lease, id, 'expired', lease.checkpoint)
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
