-- What both scripts of limits.py begin with. Times are microseconds since 2025, by the clock of the server; a number of
-- Lua holds them to a fraction of one. Every key ends: a limit nobody asks for is forgotten when it would be full.
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

local function number(text, otherwise)
  return text and tonumber(text) or otherwise
end

-- GCRA: the value is the time at which the bucket is full again. A clock that was set back must not lock a key.
local function full_at(key, rule)
  return math.min(math.max(number(redis.call('GET', key), now), now), now + rule.burst * rule.interval)
end

local function keep_full_at(key, at)
  if at > now then
    redis.call('SET', key, string.format('%.6f', at), 'PX', math.ceil((at - now) / 1000) + 1)
  end
end

-- Windows are counted from 2025 on, in UTC. The value of a fixed one is "window:count".
local function fixed(key, rule)
  local window, count = math.floor(now / rule.per), 0
  local last, counted = string.match(redis.call('GET', key) or '', '^(%d+):(%d+)$')
  if last and tonumber(last) == window then count = tonumber(counted) end
  return window, count
end

local function keep_fixed(key, rule, window, count)
  local left = math.ceil(((window + 1) * rule.per - now) / 1000) + 1
  redis.call('SET', key, string.format('%.0f:%.0f', window, count), 'PX', left)
end
