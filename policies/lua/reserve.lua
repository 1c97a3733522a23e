-- Holds tokens in every window of every scope, or in none.
-- KEYS: holds, lease. ARGV: id, tokens, ttl_ms, then scope, window, limit ("-": none) for each window.
-- Returns {ok, least left or -1} | {denied, scope, window, left, ms to the edge} | {closed, state}.
local id, tokens = ARGV[1], tonumber(ARGV[2])

local lease = load_lease(KEYS[2])
if lease.state == 'open' then return { 'ok', least_left(lease.windows) } end -- a repeat holds nothing more
if lease.state then return { 'closed', lease.state } end

local parts = {}
for i = 4, #ARGV, 3 do
  local scope, window, limit = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  parts[#parts + 1] = scope .. ' ' .. window .. ' ' .. whole(edge_of(window)) .. ' ' .. limit
end
local windows = table.concat(parts, ' ')

local short = shortage(windows, tokens)
if short then return short end

for scope, window, edge in each_window(windows) do
  local known = budget(scope, window, tonumber(edge))
  write(known, known.used, known.held + tokens)
end
redis.call('HSET', KEYS[2], 'state', 'open', 'reserved', whole(tokens), 'checkpoint', '0', 'charged', '0',
           'windows', windows)
redis.call('EXPIRE', KEYS[2], OPEN_LEASE_TTL_S)
redis.call('ZADD', KEYS[1], whole(now_ms + tonumber(ARGV[3])), id)
return { 'ok', least_left(windows) }
