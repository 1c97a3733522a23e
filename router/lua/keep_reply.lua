-- KEYS[1] a record, KEYS[2] bytes that its tenant keeps; ARGV[1] the holder's mark, ARGV[2] the record with the
-- reply, ARGV[3] the record without, ARGV[4] how long either is kept, ms, ARGV[5] the most a tenant keeps.
-- 1: kept. 2: kept without the reply, there is no room for it. 0: the record is somebody else's.
local there = redis.call('GET', KEYS[1])
if there == ARGV[2] or there == ARGV[3] then
  return 1
end
if there and there ~= ARGV[1] then
  return 0
end
local size = #ARGV[2]
local used = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if used + size > tonumber(ARGV[5]) then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  return 2
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('INCRBY', KEYS[2], size)
if redis.call('PTTL', KEYS[2]) < 0 then
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return 1
