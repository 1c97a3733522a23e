-- Charges what a lease has used and frees its hold, once. An expired lease has been charged its checkpoint:
-- then the difference is charged, to the windows of the reservation.
-- KEYS: holds, lease. ARGV: id, tokens used.
-- Returns {ok, least left or -1} | {closed, state}.
local used = tonumber(ARGV[2])

local lease = load_lease(KEYS[2])
if lease.state == 'open' then
  close(lease, ARGV[1], 'settled', used)
elseif lease.state == 'expired' then
  move(lease.windows, used - lease.charged, 0)
  redis.call('HSET', KEYS[2], 'state', 'settled', 'charged', whole(used))
  redis.call('EXPIRE', KEYS[2], DAY_S)
elseif lease.state ~= 'settled' then
  return { 'closed', lease.state or 'unknown' }
end
return { 'ok', least_left(lease.windows) }
