-- Frees a hold of which nothing was spent. An unknown lease is remembered as released, so that a reserve
-- which was sent before and runs later (a timed-out command does) holds nothing.
-- KEYS: holds, lease. ARGV: id.
-- Returns {ok} | {closed, state}; the state is "spent" if there is something to settle.
local lease = load_lease(KEYS[2])
if lease.state == 'open' then
  if not is_nothing(lease.checkpoint) then return { 'closed', 'spent' } end
  close(lease, ARGV[1], 'released', NOTHING)
elseif not is_nothing(lease.charged) then
  return { 'closed', lease.state == 'expired' and 'spent' or lease.state }
elseif lease.state ~= 'settled' then
  redis.call('HSET', KEYS[2], 'state', 'released')
  redis.call('EXPIRE', KEYS[2], DAY_S)
end
return { 'ok' }
