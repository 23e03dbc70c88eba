-- KEYS: one per limit. ARGV, of each limit: kind, requests, per, interval, burst, cost. What a service said afterwards that a
-- request cost is charged whether it is there or not: a bucket goes at most once its capacity below empty, a window to its
-- end, a log to as many as it holds. Returns of each limit: remaining, reset.
local charge = {}

function charge.bucket(key, rule)
  local at, most = full_at(key, rule), now + 2 * rule.burst * rule.interval
  at = math.min(at + rule.cost * rule.interval, most)
  keep_full_at(key, at)
  return (now + rule.burst * rule.interval - at) / rule.interval, at - now
end

function charge.fixed(key, rule)
  local window, count = fixed(key, rule)
  count = math.max(count, math.min(count + rule.cost, rule.requests))
  keep_fixed(key, rule, window, count)
  return rule.requests - count, (window + 1) * rule.per - now
end

function charge.sliding(key, rule)
  local window, before, count = sliding(key, rule)
  count = math.max(count, math.min(count + rule.cost, rule.requests))
  keep_sliding(key, rule, window, before, count)
  local passed = now / rule.per - window
  return rule.requests - count - before * (1 - passed), (2 - passed) * rule.per
end

function charge.log(key, rule)
  local count = log_count(key, rule)
  local new = math.max(0, math.min(rule.cost, rule.requests - count))
  log_add(key, rule, new)
  return rule.requests - count - new, rule.per
end

local out = {}
for i, key in ipairs(KEYS) do
  local at = 1 + (i - 1) * 6
  local rule = {requests = tonumber(ARGV[at + 1]), per = tonumber(ARGV[at + 2]), interval = tonumber(ARGV[at + 3]),
                burst = tonumber(ARGV[at + 4]), cost = tonumber(ARGV[at + 5])}
  local left, reset = charge[ARGV[at]](key, rule)
  out[#out + 1] = math.max(0, math.floor(left))
  out[#out + 1] = math.max(0, math.ceil(reset))
end
return out
