-- Renews an open lease and remembers what it has used; an expired one is charged what came since.
-- KEYS: holds, lease. ARGV: id, amount used so far, ttl_ms.
-- Returns {ok, the most it was told of each unit} | {closed, state}.
local used = amount(ARGV[2])

local lease = load_lease(KEYS[2])
if lease.state == 'open' then
  local told = larger(used, lease.checkpoint)
  redis.call('HSET', KEYS[2], 'checkpoint', packed(told))
  redis.call('ZADD', KEYS[1], whole(now_ms + tonumber(ARGV[3])), ARGV[1])
  return { 'ok', told[1], told[2], told[3] }
end
if lease.state == 'expired' then
  local told = larger(used, lease.charged)
  local late = minus(told, lease.charged)
  if not is_nothing(late) then
    move(lease.windows, late, NOTHING)
    redis.call('HSET', KEYS[2], 'charged', packed(told))
  end
end
return { 'closed', lease.state or 'unknown' }
