-- KEYS[1] a tenant's likenesses, the newest last; ARGV[1] the new one, ARGV[2] how many are kept, ARGV[3] for how
-- long, ms. Scores are microseconds, no two the same: whoever has seen one asks for what is later.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] and tonumber(last[2]) >= now then
  now = tonumber(last[2]) + 1
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[2]) - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
