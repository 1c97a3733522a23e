-- Holds more for an open lease, in the windows it was made in: in all of them, or in none.
-- KEYS: holds, lease. ARGV: id, amount, name of the extension ("": none; a named one holds once).
-- Returns {ok, least tokens left or -1} | {denied, ...} as `shortage` has it | {closed, state}.
local more, part = amount(ARGV[2]), 'part:' .. ARGV[3]

local lease = load_lease(KEYS[2])
if lease.state ~= 'open' then return { 'closed', lease.state or 'unknown' } end
if part ~= 'part:' and redis.call('HEXISTS', KEYS[2], part) == 1 then
  return { 'ok', least_left(lease.windows) }
end
local short = shortage(lease.windows, more)
if short then return short end

move(lease.windows, NOTHING, more)
redis.call('HSET', KEYS[2], 'reserved', packed(plus(lease.reserved, more)), part, packed(more))
return { 'ok', least_left(lease.windows) }
