-- KEYS: one per limit. ARGV: cost; then of each limit: kind, requests, per, interval, burst, debt, since.
-- All limits admit, or none is charged. `debt` is what was admitted without Redis since `since` microseconds: it is charged
-- whatever is decided. Returns {admitted, then of each limit: remaining, reset, retry, delay, over}.
local cost, admitted = tonumber(ARGV[1]), 1
local rules, out = {}, {}

-- Of a debt that reaches back beyond the window, the part that fell into it, as if it had come evenly.
local function owed(rule, passed)
  if rule.since > passed then rule.debt = math.floor(rule.debt * passed / rule.since) end
end

local decide = {}

function decide.bucket(key, rule)
  local at = full_at(key, rule)
  local most = now + rule.burst * rule.interval
  if rule.debt > 0 then
    local paid = math.max(number(redis.call('GET', key), 0), now - rule.since) + rule.debt * rule.interval
    rule.over = math.max(0, math.floor((paid - most) / rule.interval + 0.5))
    at = math.max(at, math.min(paid, most))
  end
  rule.at = at
  rule.new = at + cost * rule.interval
  return rule.new <= most, (most - rule.new) / rule.interval, at - now, rule.new - most
end

function decide.fixed(key, rule)
  local window, count = fixed(key, rule)
  local ends = (window + 1) * rule.per - now
  owed(rule, rule.per - ends)
  if rule.debt > 0 then
    rule.over = math.max(0, math.min(rule.debt, count + rule.debt - rule.requests))
    count = count + rule.debt
  end
  rule.window, rule.count = window, count
  return count + cost <= rule.requests, rule.requests - count - cost, ends, ends
end

function decide.sliding(key, rule)
  local window, before, count = sliding(key, rule)
  local passed = now / rule.per - window
  local used = before * (1 - passed) + count
  owed(rule, passed * rule.per)
  if rule.debt > 0 then
    rule.over = math.max(0, math.min(rule.debt, math.floor(used + rule.debt - rule.requests)))
    count, used = count + rule.debt, used + rule.debt
  end
  rule.window, rule.before, rule.count = window, before, count
  local retry
  if count + cost <= rule.requests then
    retry = before > 0 and (1 - (rule.requests - cost - count) / before - passed) * rule.per or 0
  else
    retry = (1 - passed + math.max(0, 1 - (rule.requests - cost) / count)) * rule.per
  end
  local reset = 0
  if count > 0 then reset = (2 - passed) * rule.per elseif before > 0 then reset = (1 - passed) * rule.per end
  return used + cost <= rule.requests, rule.requests - used - cost, reset, retry
end

function decide.log(key, rule)
  local count = log_count(key, rule)
  owed(rule, rule.per)
  if rule.debt > 0 then
    rule.over = math.max(0, math.min(rule.debt, count + rule.debt - rule.requests))
    rule.owed = math.min(rule.debt, rule.requests)
    count = count + rule.owed
  end
  rule.count = count
  local retry, last = 0, redis.call('LINDEX', key, -1)
  if count + cost > rule.requests then
    local which = redis.call('LINDEX', key, count + cost - rule.requests - 1)
    retry = number(which, now) + rule.per - now
  end
  local reset = (rule.debt > 0 and rule.per) or (last and tonumber(last) + rule.per - now) or 0
  return count + cost <= rule.requests, rule.requests - count - cost, reset, retry
end

local write = {}

function write.bucket(key, rule)
  keep_full_at(key, admitted == 1 and rule.new or rule.at)
  return admitted == 1 and rule.at - now or 0, admitted == 1 and cost * rule.interval or 0
end

function write.fixed(key, rule)
  if admitted == 1 then rule.count = rule.count + cost end
  keep_fixed(key, rule, rule.window, rule.count)
  return 0, 0
end

function write.sliding(key, rule)
  if admitted == 1 then rule.count = rule.count + cost end
  keep_sliding(key, rule, rule.window, rule.before, rule.count)
  return 0, (admitted == 1 and (2 - now / rule.per + rule.window) * rule.per) or 0
end

function write.log(key, rule)
  local new = (rule.owed or 0) + (admitted == 1 and cost or 0)
  log_add(key, rule, new)
  return 0, (admitted == 1 and rule.per) or 0
end

for i, key in ipairs(KEYS) do
  local at = 2 + (i - 1) * 7
  local rule = {kind = ARGV[at], requests = tonumber(ARGV[at + 1]), per = tonumber(ARGV[at + 2]),
                interval = tonumber(ARGV[at + 3]), burst = tonumber(ARGV[at + 4]),
                debt = tonumber(ARGV[at + 5]), since = tonumber(ARGV[at + 6]), over = 0}
  local fits
  fits, rule.left, rule.reset, rule.retry = decide[rule.kind](key, rule)
  rule.fits = fits
  if not fits then admitted = 0 end
  rules[i] = rule
end
for i, key in ipairs(KEYS) do
  local rule = rules[i]
  local delay, more = 0, 0
  if admitted == 1 or rule.debt > 0 then delay, more = write[rule.kind](key, rule) end
  if admitted == 0 then rule.left = rule.left + cost end
  if rule.kind == 'bucket' then rule.reset = rule.reset + more elseif more > 0 then rule.reset = more end
  out[#out + 1] = math.max(0, math.floor(rule.left))
  out[#out + 1] = math.max(0, math.ceil(rule.reset))
  out[#out + 1] = rule.fits and 0 or math.max(1, math.ceil(rule.retry))
  out[#out + 1] = math.max(0, math.ceil(delay))
  out[#out + 1] = rule.over
end
return {admitted, unpack(out)}
