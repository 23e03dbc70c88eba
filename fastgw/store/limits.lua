-- What all scripts of limits.py begin with. Times are microseconds since 2025, by the clock of the server; a number of
-- Lua holds them to a fraction of one. Every key ends: a limit nobody asks for is forgotten when it would be full.
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

local function number(text, otherwise)
  return text and tonumber(text) or otherwise
end

-- GCRA: the value is the time at which the bucket is full again: what was charged afterwards can bring it as far below
-- empty as it holds. One that is later is of a clock that was set back, and must not lock the key.
local function full_at(key, rule)
  local at, all = number(redis.call('GET', key), now), rule.burst * rule.interval
  if at > now + 2 * all then at = now + all end
  return math.max(at, now)
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

-- A sliding window by two counters: the value is "window:before:count", and of those before counts what still reaches in.
local function sliding(key, rule)
  local window, before, count = math.floor(now / rule.per), 0, 0
  local last, b, c = string.match(redis.call('GET', key) or '', '^(%d+):(%d+):(%d+)$')
  if last and tonumber(last) == window then
    before, count = tonumber(b), tonumber(c)
  elseif last and tonumber(last) == window - 1 then
    before = tonumber(c)
  end
  return window, before, count
end

local function keep_sliding(key, rule, window, before, count)
  local left = math.ceil(((window + 2) * rule.per - now) / 1000) + 1
  redis.call('SET', key, string.format('%.0f:%.0f:%.0f', window, before, count), 'PX', left)
end

-- The times of all requests of the window, in a list.
local function log_count(key, rule)
  local first = redis.call('LINDEX', key, 0)
  while first and tonumber(first) <= now - rule.per do
    redis.call('LPOP', key)
    first = redis.call('LINDEX', key, 0)
  end
  return redis.call('LLEN', key)
end

local function log_add(key, rule, count)
  for _ = 1, count do redis.call('RPUSH', key, string.format('%.0f', now)) end
  if count > 0 then redis.call('PEXPIRE', key, math.ceil(rule.per / 1000) + 1) end
end
