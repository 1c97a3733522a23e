-- Replaces the published state, if it is still what the publisher saw; all of it or nothing.
-- KEYS: state, documents, history. ARGV: state seen ('' for none), state, entry of the history, entries kept,
-- version ('' for none), document, then the versions to forget.
-- Returns 1, or 0 where somebody else was faster.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], ARGV[5], ARGV[6]) end
for i = 7, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('LPUSH', KEYS[3], ARGV[3])
redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[4]) - 1)
redis.call('SET', KEYS[1], ARGV[2])
return 1
