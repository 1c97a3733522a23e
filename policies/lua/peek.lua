-- What is used and held now. KEYS: holds. ARGV: scope, window for each window asked about.
-- Returns used, held, ms to the edge for each, in one flat array.
local out = {}
for i = 1, #ARGV, 2 do
  local edge = edge_of(ARGV[i + 1])
  local known = budget(ARGV[i], ARGV[i + 1], edge)
  out[#out + 1] = known.used
  out[#out + 1] = known.held
  out[#out + 1] = edge * 1000 - now_ms
end
return out
