-- The end of an admission: its slots are freed, and its tokens counted as what they were. Repeats do nothing.
-- An end that comes before its admission (a timed-out command may run later) is remembered, so that this takes
-- nothing.
-- ARGV: id, tokens charged ("-": unknown, the estimate stands), then tokens_per_minute of each scope ("-": none).
local ENDED_TTL_MS = 60000

for key = 4, #KEYS, 3 do redis.call('ZREM', KEYS[key], ARGV[1]) end
local counted = redis.call('GET', KEYS[1])
if not counted then
  redis.call('SET', KEYS[1], 'ended', 'PX', ENDED_TTL_MS)
elseif counted ~= 'ended' then
  redis.call('DEL', KEYS[1])
  local scope = 0
  for was in string.gmatch(counted, '%S+') do
    scope = scope + 1
    local known = was ~= '-' and bucket(KEYS[3 * scope], ARGV[scope + 2]) or nil
    if known and ARGV[2] ~= '-' then
      local ahead = known.ahead + (tonumber(ARGV[2]) - tonumber(was)) * known.unit
      known.ahead = math.max(0, math.min(ahead, math.max(known.ahead, DEBT_US)))
      keep(known)
    end
  end
end
return 1
