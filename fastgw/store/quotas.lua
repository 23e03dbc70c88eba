-- KEYS: what was used in a period, and what was granted beside the limit, a hash each, by subject. ARGV: subject, limit
-- (-1: none), cost, milliseconds that the counts stay. Returns {admitted, used, granted}; what is refused is not counted.
local used = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local granted = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local limit, cost = tonumber(ARGV[2]), tonumber(ARGV[3])
if limit >= 0 and used + cost > limit + granted then return {0, used, granted} end
used = redis.call('HINCRBY', KEYS[1], ARGV[1], cost)
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return {1, used, granted}
