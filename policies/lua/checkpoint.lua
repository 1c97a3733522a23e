-- Renews an open lease and remembers what it has used; an expired one is charged what came since.
-- KEYS: holds, lease. ARGV: id, tokens used so far, ttl_ms.
-- Returns {ok, the most it was told} | {closed, state}.
local used = tonumber(ARGV[2])

local lease = load_lease(KEYS[2])
if lease.state == 'open' then
  local told = math.max(used, lease.checkpoint)
  redis.call('HSET', KEYS[2], 'checkpoint', whole(told))
  redis.call('ZADD', KEYS[1], whole(now_ms + tonumber(ARGV[3])), ARGV[1])
  return { 'ok', told }
end
if lease.state == 'expired' and used > lease.charged then
  move(lease.windows, used - lease.charged, 0)
  redis.call('HSET', KEYS[2], 'charged', whole(used))
end
return { 'closed', lease.state or 'unknown' }
