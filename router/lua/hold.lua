-- KEYS[1] a record in flight; ARGV[1] its holder's mark, ARGV[2] how long from now it lasts, ms.
-- 1: held on, or held again where it had run out. 0: somebody else's, or answered.
local there = redis.call('GET', KEYS[1])
if there == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if not there then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
