-- Holds more tokens for an open lease, in the windows it was made in: in all of them, or in none.
-- KEYS: holds, lease. ARGV: id, extra tokens, name of the extension ("": none; a named one holds once).
-- Returns {ok, least left or -1} | {denied, scope, window, left, ms to the edge} | {closed, state}.
local extra, part = tonumber(ARGV[2]), 'part:' .. ARGV[3]

local lease = load_lease(KEYS[2])
if lease.state ~= 'open' then return { 'closed', lease.state or 'unknown' } end
if part ~= 'part:' and redis.call('HEXISTS', KEYS[2], part) == 1 then
  return { 'ok', least_left(lease.windows) }
end
local short = shortage(lease.windows, extra)
if short then return short end

move(lease.windows, 0, extra)
redis.call('HSET', KEYS[2], 'reserved', whole(lease.reserved + extra), part, whole(extra))
return { 'ok', least_left(lease.windows) }
