-- Charges what a lease has used and frees its hold, once. An expired lease has been charged its checkpoint:
-- then the difference is charged, to the windows of the reservation. Whoever does not know all that was spent
-- (exact is 0) charges no less than the checkpoint: the run that told it may be gone.
-- KEYS: holds, lease. ARGV: id, amount used, exact 0|1.
-- Returns {ok, least tokens left or -1} | {closed, state}.
local used = amount(ARGV[2])

local lease = load_lease(KEYS[2])
if ARGV[3] ~= '1' then used = larger(used, larger(lease.checkpoint, lease.charged)) end
if lease.state == 'open' then
  close(lease, ARGV[1], 'settled', used)
elseif lease.state == 'expired' then
  move(lease.windows, minus(used, lease.charged), NOTHING)
  redis.call('HSET', KEYS[2], 'state', 'settled', 'charged', packed(used))
  redis.call('EXPIRE', KEYS[2], DAY_S)
elseif lease.state ~= 'settled' then
  return { 'closed', lease.state or 'unknown' }
end
return { 'ok', least_left(lease.windows) }
