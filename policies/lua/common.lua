-- Shared by the ledger's scripts, which are prepended with this file. All keys carry one hash tag, that of the
-- account: an organisation, or a tenant without one.
--   acr:{account}:holds                     zset: lease -> expiry (ms)             KEYS[1] of every script
--   acr:{account}:lease:<id>                hash: state reserved checkpoint charged windows
--   acr:{account}:budget:<scope>:<window>:<edge>   hash: used held of each unit    one window of one scope
-- A window is known by its edge, the second (UTC) at which it ends. Numbers are whole and below 2^53. An amount
-- is a table of three of them, in the order of UNITS, and travels as "tokens,gpu_ms,micro_usd".
local UNITS = { 'tokens', 'gpu_ms', 'micro_usd' }
local USED = { 'used', 'used_gpu_ms', 'used_micro_usd' }
local HELD = { 'held', 'held_gpu_ms', 'held_micro_usd' }
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

-- Amounts. A part that is missing is nil: as a limit it means none, as a number 0.
local function parts(text)
  local tokens, gpu_ms, micro_usd = string.match(text or '', '^([^,]*),?([^,]*),?([^,]*)$')
  return { tonumber(tokens), tonumber(gpu_ms), tonumber(micro_usd) }
end

local function amount(text)
  local found = parts(text)
  return { found[1] or 0, found[2] or 0, found[3] or 0 }
end

local function packed(sum) return string.format('%.0f,%.0f,%.0f', sum[1], sum[2], sum[3]) end

local NOTHING = { 0, 0, 0 }

local function each_unit(one, other, combine)
  return { combine(one[1], other[1]), combine(one[2], other[2]), combine(one[3], other[3]) }
end

local function plus(one, other) return each_unit(one, other, function(a, b) return a + b end) end
local function minus(one, other) return each_unit(one, other, function(a, b) return a - b end) end
local function larger(one, other) return each_unit(one, other, math.max) end
local function is_nothing(sum) return sum[1] == 0 and sum[2] == 0 and sum[3] == 0 end

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
    local row = redis.call('HMGET', key, USED[1], HELD[1], USED[2], HELD[2], USED[3], HELD[3])
    known = { key = key, window = window, edge = edge, exists = row[1] ~= false, used = {}, held = {} }
    for unit = 1, #UNITS do
      known.used[unit] = tonumber(row[2 * unit - 1] or 0)
      known.held[unit] = tonumber(row[2 * unit] or 0)
    end
    budgets[key] = known
  end
  return known
end

-- Adds to what a window has used and holds; what does not change is not written.
local function add(known, used, held)
  local fields = {}
  local function grow(numbers, names, by)
    for unit = 1, #UNITS do
      if by[unit] ~= 0 or (unit == 1 and not known.exists) then
        numbers[unit] = math.max(0, math.min(numbers[unit] + by[unit], MAX))
        fields[#fields + 1] = names[unit]
        fields[#fields + 1] = whole(numbers[unit])
      end
    end
  end
  grow(known.used, USED, used)
  grow(known.held, HELD, held)
  if #fields > 0 then redis.call('HSET', known.key, unpack(fields)) end
  if not known.exists then
    known.exists = true
    redis.call('EXPIREAT', known.key, whole(known.edge + KEEP_WINDOW_S[known.window]))
  end
end

-- A lease's windows are packed as "scope window edge limits ..."; a unit's limit is "-" where there is none.
local function each_window(windows) return string.gmatch(windows, '(%S+) (%S+) (%S+) (%S+)') end

-- Moves numbers in the windows of a lease. A window that is gone is over, and nobody counts it any more.
-- All are read before one is written: a script that meets a key of another type has changed nothing yet.
local function move(windows, used, held)
  for scope, window, edge in each_window(windows) do budget(scope, window, tonumber(edge)) end
  for scope, window, edge in each_window(windows) do
    local known = budget(scope, window, tonumber(edge))
    if known.exists then add(known, used, held) end
  end
end

-- Calls `visit(unit, left, scope, known)` for each limit of a lease, in the windows that `edge_for` picks.
local function each_limit(windows, edge_for, visit)
  for scope, window, edge, limits in each_window(windows) do
    local known, most = nil, parts(limits)
    for unit = 1, #UNITS do
      local limit = most[unit]
      if limit then
        known = known or budget(scope, window, edge_for(window, tonumber(edge)))
        visit(unit, math.max(0, limit - known.used[unit] - known.held[unit]), scope, known, limit)
      end
    end
  end
end

-- The least tokens that are left now in any limited window, -1 where none is limited.
local function least_left(windows)
  local least = -1
  each_limit(windows, edge_of, function(unit, left)
    if unit == 1 and (least < 0 or left < least) then least = left end
  end)
  return least
end

-- Where `more` does not fit: {denied, scope, window, unit, left, ms, least tokens, gpu_ms, micro_usd left}. The
-- window and unit are those that cover the smallest part of what is asked; the time runs to the edge of the last
-- window that is short; the least left is that of all windows, -1 where a unit has no limit.
local function shortage(windows, more)
  local short, share, latest, least = nil, 2, 0, { -1, -1, -1 }
  each_limit(windows, function(_, edge) return edge end, function(unit, left, scope, known, limit)
    if least[unit] < 0 or left < least[unit] then least[unit] = left end
    if more[unit] > 0 and known.used[unit] + known.held[unit] + more[unit] > limit then
      latest = math.max(latest, known.edge * 1000 - now_ms)
      if left / more[unit] < share then
        share = left / more[unit]
        short = { 'denied', scope, known.window, UNITS[unit], left }
      end
    end
  end)
  if not short then return nil end
  short[6] = latest
  for unit = 1, #UNITS do short[6 + unit] = least[unit] end
  return short
end

local function load_lease(key)
  local row = redis.call('HMGET', key, 'state', 'reserved', 'checkpoint', 'charged', 'windows')
  return { key = key, state = row[1], reserved = amount(row[2]), checkpoint = amount(row[3]),
           charged = amount(row[4]), windows = row[5] or '' }
end

-- Ends an open lease: its hold is freed, `charge` is used, and the record is kept a day for repeats.
local function close(lease, id, state, charge)
  move(lease.windows, charge, minus(NOTHING, lease.reserved))
  redis.call('HSET', lease.key, 'state', state, 'charged', packed(charge))
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
