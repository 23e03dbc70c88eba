-- KEYS: of each limit the one with its level, and one with the level of what was really admitted. ARGV, of each limit: kind,
-- requests, per, interval, burst, want, used, since, returned, mark. `used` were admitted in the last `since` microseconds
-- by a slice taken before, `returned` of it were not; `mark` is the window they are of.
-- Returns of each limit: granted, remaining, reset, retry, valid, mark, over.
local out = {}

local lease = {}

function lease.bucket(key, shadow, rule)
  local at, most = full_at(key, rule), now + rule.burst * rule.interval
  at = math.max(now, at - rule.returned * rule.interval)
  local granted = math.max(0, math.min(rule.want, math.floor((most - at) / rule.interval)))
  at = at + granted * rule.interval
  if redis.call('EXISTS', key) == 1 and at <= now then redis.call('DEL', key) end
  keep_full_at(key, at)
  if rule.used > 0 then
    -- as if all of them had come at the first moment they can have come at; less than half a request is no proof
    local real = math.max(number(redis.call('GET', shadow), 0), now - rule.since) + rule.used * rule.interval
    local more = math.max(0, math.floor((real - most) / rule.interval + 0.5))
    rule.over = more
    keep_full_at(shadow, real - more * rule.interval)
  end
  return granted, (most - at) / rule.interval, at - now, at + rule.interval - most, -1, 0
end

-- What is not used before the window ends is lost with it: nothing is admitted beyond the limit.
function lease.fixed(key, shadow, rule)
  local window, count = fixed(key, rule)
  if rule.mark == window then count = math.max(0, count - rule.returned) end
  local ends = (window + 1) * rule.per - now
  local granted = math.max(0, math.min(rule.want, rule.requests - count))
  count = count + granted
  keep_fixed(key, rule, window, count)
  return granted, rule.requests - count, ends, ends, ends, window
end

for i = 1, #KEYS, 2 do
  local at = 1 + (i - 1) / 2 * 10
  local rule = {kind = ARGV[at], requests = tonumber(ARGV[at + 1]), per = tonumber(ARGV[at + 2]),
                interval = tonumber(ARGV[at + 3]), burst = tonumber(ARGV[at + 4]), want = tonumber(ARGV[at + 5]),
                used = tonumber(ARGV[at + 6]), since = tonumber(ARGV[at + 7]), returned = tonumber(ARGV[at + 8]),
                mark = tonumber(ARGV[at + 9]), over = 0}
  local granted, left, reset, retry, valid, mark = lease[rule.kind](KEYS[i], KEYS[i + 1], rule)
  out[#out + 1] = granted
  out[#out + 1] = math.max(0, math.floor(left))
  out[#out + 1] = math.max(0, math.ceil(reset))
  out[#out + 1] = granted > 0 and 0 or math.max(1, math.ceil(retry))
  out[#out + 1] = math.floor(valid)
  out[#out + 1] = mark
  out[#out + 1] = rule.over
end
return out
