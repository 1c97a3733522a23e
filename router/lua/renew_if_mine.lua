-- KEYS[1] a lease; ARGV[1] its holder's token, ARGV[2] how long from now it lasts, ms.
-- 1: it is the holder's still. 0: it ran out, and perhaps somebody else has it.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
