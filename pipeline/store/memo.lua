-- What a group of sources remembers: the server's side of memo.py. Joined to hop.lua, whose helpers
-- are used here, into one function library. Keys, in this order:
--   kept   hash  key -> STAMP bytes of when it was written (ms), then the value
--   used   zset  key, by when it was last used (ms)
--   bytes  of all of it, with what the server itself needs for an entry
local STAMP, ENTRY = 13, 256

local function milliseconds()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- Gives the bytes that become free.
local function forget(keys, key)
  local size = redis.call('HSTRLEN', keys[1], key)
  redis.call('HDEL', keys[1], key)
  redis.call('ZREM', keys[2], key)
  return size > 0 and size + #key + ENTRY or 0
end

-- ARGV ttl (ms), key. {age (ms), value}; nil if there is none, it is older than ttl, or it was
-- written later than it is now: then the clock was set back, and nobody knows its age.
local function recall(keys, args)
  if not are_others(keys) then return redis.error_reply('ERR one key in two roles') end
  local found = redis.call('HGET', keys[1], args[2])
  if not found then return false end
  local now = milliseconds()
  local stamp = tonumber(string.sub(found, 1, STAMP))
  local age = stamp and now - stamp
  if not age or age < 0 or age >= tonumber(args[1]) then
    redis.call('ZCARD', keys[2])
    redis.pcall('DECRBY', keys[3], forget(keys, args[2]))
    return false
  end
  redis.call('ZADD', keys[2], now, args[2])
  return { age, string.sub(found, STAMP + 1) }
end

-- ARGV ttl (ms), most bytes, then key, value of each. What was not used for longest goes, and what
-- nobody could get any more, old or of the future; not too much in one call. Answers the bytes that
-- are left.
local function keep(keys, args)
  if not (is_whole(args[1]) and is_whole(args[2]) and #args % 2 == 0 and are_others(keys)) then
    return redis.error_reply('ERR nothing to keep of ours')
  end
  local now, ttl, most = milliseconds(), tonumber(args[1]), tonumber(args[2])
  local bytes = tonumber(redis.call('GET', keys[3]) or '0') or 0
  redis.call('HLEN', keys[1])
  redis.call('ZCARD', keys[2])
  for i = 3, #args, 2 do
    local value = string.format('%013d', now) .. args[i + 1]
    bytes = bytes - forget(keys, args[i]) + #value + #args[i] + ENTRY
    redis.call('HSET', keys[1], args[i], value)
    redis.call('ZADD', keys[2], now, args[i])
  end
  for _ = 1, 1000 do
    local newest = redis.call('ZRANGE', keys[2], -1, -1, 'WITHSCORES')
    if not newest[1] or tonumber(newest[2]) <= now then break end
    bytes = bytes - forget(keys, newest[1])
  end
  for _ = 1, #args + 1000 do
    local oldest = redis.call('ZRANGE', keys[2], 0, 0, 'WITHSCORES')
    if not oldest[1] then bytes = 0 end
    if bytes <= most and (not oldest[1] or now - oldest[2] < ttl) then break end
    bytes = bytes - forget(keys, oldest[1])
  end
  redis.call('SET', keys[3], bytes)
  for i = 1, 3 do redis.call('PEXPIRE', keys[i], ttl) end
  return bytes
end

redis.register_function(PREFIX .. 'recall', recall)
redis.register_function(PREFIX .. 'keep', keep)
