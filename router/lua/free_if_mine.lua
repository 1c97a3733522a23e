-- KEYS[1] a lease; ARGV[1] its holder's token. A lease that has passed to somebody else stays.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
