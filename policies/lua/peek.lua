-- What is used and held now. KEYS: holds. ARGV: scope, window for each window asked about.
-- Returns ms to the edge, then used and held of each unit, for each, in one flat array.
local out = {}
for i = 1, #ARGV, 2 do
  local edge = edge_of(ARGV[i + 1])
  local known = budget(ARGV[i], ARGV[i + 1], edge)
  out[#out + 1] = edge * 1000 - now_ms
  for unit = 1, #UNITS do
    out[#out + 1] = known.used[unit]
    out[#out + 1] = known.held[unit]
  end
end
return out
