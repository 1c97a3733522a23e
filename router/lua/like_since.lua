-- KEYS[1] a tenant's likenesses; ARGV[1] the score of the last one that was seen, ARGV[2] how long one counts, ms.
-- The time now and the oldest score that counts, microseconds (0: there is none); then what is later: member, score...
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[2]) * 1000))
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or '0'
local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'WITHSCORES')
table.insert(later, 1, oldest)
table.insert(later, 1, string.format('%.0f', now))
return later
