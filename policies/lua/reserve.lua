-- Holds an amount in every window of every scope, or in none.
-- KEYS: holds, lease. ARGV: id, amount, ttl_ms, then scope, window, limits ("-": none) for each window.
-- Returns {ok, least tokens left or -1} | {denied, ...} as `shortage` has it | {closed, state}.
local id, more = ARGV[1], amount(ARGV[2])

local lease = load_lease(KEYS[2])
if lease.state == 'open' then return { 'ok', least_left(lease.windows) } end -- a repeat holds nothing more
if lease.state then return { 'closed', lease.state } end

local packs = {}
for i = 4, #ARGV, 3 do
  local scope, window, limits = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  packs[#packs + 1] = scope .. ' ' .. window .. ' ' .. whole(edge_of(window)) .. ' ' .. limits
end
local windows = table.concat(packs, ' ')

local short = shortage(windows, more)
if short then return short end

for scope, window, edge in each_window(windows) do
  add(budget(scope, window, tonumber(edge)), NOTHING, more)
end
redis.call('HSET', KEYS[2], 'state', 'open', 'reserved', packed(more), 'checkpoint', packed(NOTHING),
           'charged', packed(NOTHING), 'windows', windows)
redis.call('EXPIRE', KEYS[2], OPEN_LEASE_TTL_S)
redis.call('ZADD', KEYS[1], whole(now_ms + tonumber(ARGV[3])), id)
return { 'ok', least_left(windows) }
