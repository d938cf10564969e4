-- The protocol's server side, in a library that library.py names. Every key of a call belongs to
-- one source or, for a hop over several sources, to each of them in turn. Positions are
-- "<epoch>-<seq>", entry ids as well.
--   own     hash  run, name, epoch     who may write for the source
--                 freed                since when nobody has it, UNIX seconds
--                 generation           how many times its owner changed
--                 superseded           the last runs that it was taken from, with spaces between
--                 model                of a registry, and where its folder is, told by the owner
--   at      hash  t token, p position, s state, e last emitted, w wake mark, gone   by stage
--   count   hash  decoded, published, dropped:<reason>, ...
--   room    stream of length 1 that wakes a waiting decoder

local function parts(position)
  local epoch, seq = string.match(position, '^(%d+)%-(%d+)$')
  return tonumber(epoch), tonumber(seq)
end

local function before(a, b)
  local ea, sa = parts(a)
  local eb, sb = parts(b)
  return ea < eb or (ea == eb and sa < sb)
end

local function is_position(text)
  local epoch, seq = string.match(text or '', '^(%d+)%-(%d+)$')
  return epoch and #epoch < 20 and #seq < 20
end

local function is_whole(text)
  return text and #text < 16 and string.find(text, '^%d+$')
end

local function failed(reply)
  return type(reply) == 'table' and reply.err
end

local function wake(room, position)
  redis.call('XADD', room, 'MAXLEN', '1', '*', 'p', position)
end

-- A commit in args: token, prev, "last keep fields counts asides entries" (a position, numbers),
-- then fields*(name, value), counts*(name, delta), asides*(stage, id, reason, data),
-- entries*(id, kind, data). One word, read by one match: a match for each costs a tenth of a hop.
local SHAPE, MOST = '^((%d+)%-(%d+)) (%d+) (%d+) (%d+) (%d+) (%d+)$', 100

-- The commit at a, with where its parts begin and where the next one does; nil if it cannot be
-- written at all: somebody else's must not be found out in the middle.
local function commit_at(args, a, past)
  local shape = args[a + 2]
  if not shape or #shape > MOST then return end
  local last, epoch, seq, keep, fields, counts, asides, entries = string.match(shape, SHAPE)
  if not last or #epoch > 19 or #seq > 19 or #keep > 15 then return end
  local of = { token = args[a], prev = args[a + 1], last = last, keep = keep, fields = a + 3 }
  of.counts = of.fields + 2 * fields
  of.asides = of.counts + 2 * counts
  of.entries = of.asides + 4 * asides
  of.stop = of.entries + 3 * entries
  if of.stop > past then return end
  for i = of.counts + 1, of.asides - 1, 2 do
    if #args[i] > 15 or not string.find(args[i], '^%-?%d+$') then return end
  end
  for i = of.entries, of.stop - 1, 3 do
    local id = args[i]
    if id == '0-0' or (id ~= last and not is_position(id)) then return end
  end
  return of
end

-- One key in two roles would be of a wrong kind in the second, once the first was written.
local function are_others(keys)
  local seen = {}
  for _, key in ipairs(keys) do
    if seen[key] then return false end
    seen[key] = true
  end
  return true
end

-- The commits of each source; nil if the call is not one of ours.
local function commits_in(keys, args)
  if not is_whole(args[1]) or not are_others(keys) then return end
  local k, a, past, sources = 1, 2, #args + 1, {}
  for source = 1, tonumber(args[1]) do
    if not is_whole(args[a]) then return end
    local commits = {}
    k = k + 3 + 2 * args[a]
    if k - 1 > #keys then return end
    a = a + 1
    for c = 1, tonumber(args[a - 1]) do
      local commit = commit_at(args, a, past)
      if not commit then return end
      commits[c], a = commit, commit.stop
    end
    sources[source] = commits
  end
  return a == past and sources
end

-- Checks all commits of a source, and notes their wake marks; gives an answer if it is refused.
local function refusal(keys, k, commits)
  for c, commit in ipairs(commits) do
    local now = redis.pcall('HMGET', keys[k + 1 + 2 * c], 't', 'p', 'w')
    if now.err then return { 'ERROR', now.err } end
    if not now[1] then return { 'GONE' } end
    if now[1] ~= commit.token then return { 'FENCED' } end
    if now[2] ~= commit.prev then return { 'MOVED', now[2] } end
    local sound = commit.entries < commit.stop and redis.pcall('XLEN', keys[k + 2 + 2 * c])
    if sound and failed(sound) then return { 'ERROR', sound.err } end
    local asides = commit.asides < commit.entries and redis.pcall('XLEN', keys[k + 2])
    if asides and failed(asides) then return { 'ERROR', asides.err } end
    commit.mark = now[3] and is_position(now[3]) and now[3]
    local room = commit.mark and redis.pcall('XLEN', keys[k + 1])
    if room and failed(room) then return { 'ERROR', room.err } end
  end
end

-- A model names what it finds as it likes: labels that a source counts by are bounded.
local OBJECTS, LABELS, MOST_LABELS = 'objects:', 'labels', 100

-- The counters that are to grow by one name, each with its growth.
local function growths(key, name, growth)
  if string.sub(name, 1, #OBJECTS) ~= OBJECTS or redis.pcall('HEXISTS', key, name) ~= 0 then
    return { { name, growth } }
  end
  if tonumber(redis.call('HGET', key, LABELS) or '0') >= MOST_LABELS then
    return { { OBJECTS .. 'other', growth } }
  end
  return { { name, growth }, { LABELS, '1' } }
end

-- Counters of all commits first: should their key be of a wrong kind, nothing is written yet; and
-- should one of them not be a number, those before it are taken back.
local function count(key, args, commits)
  local done = {}
  for _, commit in ipairs(commits) do
    for i = commit.counts, commit.asides - 1, 2 do
      for _, one in ipairs(growths(key, args[i], args[i + 1])) do
        local grown = redis.pcall('HINCRBY', key, one[1], one[2])
        if failed(grown) then
          for _, back in ipairs(done) do
            local left = redis.call('HINCRBY', key, back[1], -tonumber(back[2]))
            if left == 0 then redis.call('HDEL', key, back[1]) end
          end
          return { 'ERROR', grown.err }
        end
        done[#done + 1] = one
      end
    end
  end
end

local function append(out, keep, args, a)
  local reply
  if keep == '0' then
    reply = redis.pcall('XADD', out, args[a], 'k', args[a + 1], 'd', args[a + 2])
  else
    reply = redis.pcall('XADD', out, 'MAXLEN', '~', keep, args[a], 'k', args[a + 1], 'd',
      args[a + 2])
  end
  if type(reply) == 'string' then return 0 end
  if not string.find(reply.err, 'equal or smaller', 1, true) then error(reply.err) end
  return 1
end

local function write(args, room, aside, at, out, commit)
  local refused = 0
  redis.call('HSET', at, 'p', commit.last, unpack(args, commit.fields, commit.counts - 1))
  for i = commit.asides, commit.entries - 1, 4 do
    redis.call('XADD', aside, 'MAXLEN', '~', '1000', '*', 'stage', args[i], 'id', args[i + 1],
      'reason', args[i + 2], 'd', args[i + 3])
  end
  for i = commit.entries, commit.stop - 1, 3 do
    refused = refused + append(out, commit.keep, args, i)
  end
  if commit.mark and not before(commit.last, commit.mark) then
    wake(room, commit.last)
    redis.call('HDEL', at, 'w')
  end
  return refused
end

-- KEYS for each source: count, room, aside, commits*(at, out)
-- ARGV: sources, then for each: commits, commits*(a commit)
-- Answers for each source: {'OK', refused entries} | {'FENCED'} | {'MOVED', p} | {'GONE'} |
-- {'ERROR', text}. A source is written whole or not at all.
local function hop(keys, args)
  local sources = commits_in(keys, args)
  if not sources then return redis.error_reply('ERR not a hop of ours') end
  local answers, k = {}, 1
  for source, commits in ipairs(sources) do
    local answer = refusal(keys, k, commits) or count(keys[k], args, commits)
    if not answer then
      answer = { 'OK', 0 }
      for c, commit in ipairs(commits) do
        local at, out = keys[k + 1 + 2 * c], keys[k + 2 + 2 * c]
        answer[2] = answer[2] + write(args, keys[k + 1], keys[k + 2], at, out, commit)
      end
    end
    k = k + 3 + 2 * #commits
    answers[source] = answer
  end
  return answers
end

-- KEYS own, at; ARGV run. A new token for a stage of a source that this run owns.
local function attach(keys, args)
  local run = redis.call('HGET', keys[1], 'run')
  if not run then return { 'GONE' } end
  if run ~= args[1] then return { 'FENCED' } end
  local token = redis.call('HINCRBY', keys[2], 't', 1)
  redis.call('HSETNX', keys[2], 'p', '0-0')
  redis.call('HDEL', keys[2], 'gone')
  local at = redis.call('HMGET', keys[2], 'p', 's', 'e')
  return { 'OK', tostring(token), at[1], at[2], at[3] }
end

-- Taken from so many runs since, a run is not known again: it is as good as new.
local SUPERSEDED = 16

-- The runs that a source was taken from, without one and with another.
local function superseded(listed, without, with)
  local runs = {}
  for run in string.gmatch(listed, '%S+') do
    if run ~= without and run ~= with then runs[#runs + 1] = run end
  end
  if with ~= '' then runs[#runs + 1] = with end
  return table.concat(runs, ' ', math.max(1, #runs - SUPERSEDED + 1))
end

-- KEYS own; ARGV run, name, take over, by hand ('1' or '0'). Ownership of a source. A run that it
-- was taken from is refused, also when nobody has it any more: two that restart by themselves
-- would take turns. Only somebody who says so by hand gives it back.
local function claim(keys, args)
  if not args[2] then return redis.error_reply('ERR a claim says run and name') end
  local own = redis.call('HMGET', keys[1], 'run', 'name', 'superseded')
  local owner, listed = own[1] or '', own[3] or ''
  if owner ~= args[1] then
    local known = string.find(' ' .. listed .. ' ', ' ' .. args[1] .. ' ', 1, true)
    if known and args[4] ~= '1' then return { 'SUPERSEDED', own[2] or '' } end
    if owner ~= '' and args[3] ~= '1' then return { 'OWNED', own[2] or '' } end
    redis.call('HINCRBY', keys[1], 'generation', 1)
    redis.call('HSET', keys[1], 'superseded', superseded(listed, args[1], owner))
  end
  redis.call('HSET', keys[1], 'run', args[1], 'name', args[2])
  return { 'OK' }
end

-- KEYS own; ARGV run, removed ('1' or '0'). The end of ownership, if it is this run's; the last
-- epoch stays. A source that was removed anybody may have again.
local function release(keys, args)
  if redis.call('HGET', keys[1], 'run') ~= args[1] then return 0 end
  redis.call('HSET', keys[1], 'run', '', 'freed', redis.call('TIME')[1])
  redis.call('HDEL', keys[1], 'model')
  if args[2] == '1' then
    redis.call('HSET', keys[1], 'name', '')
    redis.call('HDEL', keys[1], 'superseded')
  end
  return 1
end

-- KEYS own; ARGV run, model with its place ('' for none). Which model looks at a source of this run.
local function announce(keys, args)
  if redis.call('HGET', keys[1], 'run') ~= args[1] then return 0 end
  if args[2] == '' then
    redis.call('HDEL', keys[1], 'model')
  else
    redis.call('HSET', keys[1], 'model', args[2])
  end
  return 1
end

-- KEYS epochs; ARGV epoch. No source that was forgotten had a later one.
local function raise(keys, args)
  local most = tonumber(redis.call('GET', keys[1]) or '0')
  if tonumber(args[1]) > most then redis.call('SET', keys[1], args[1]) end
  return 1
end

-- KEYS own; ARGV run, epoch. A source of this run begins after that epoch.
local function begin_after(keys, args)
  local own = redis.call('HMGET', keys[1], 'run', 'epoch')
  if own[1] ~= args[1] then return 0 end
  if tonumber(own[2] or '0') < tonumber(args[2]) then
    redis.call('HSET', keys[1], 'epoch', args[2])
  end
  return 1
end

-- KEYS own, all others of a source; ARGV when it was let go, an epoch. All of a source goes that
-- nobody has had since, and that had no later epoch.
local function forget_source(keys, args)
  local own = redis.call('HMGET', keys[1], 'run', 'freed', 'epoch')
  if (own[1] or '') ~= '' or (own[2] or '') ~= args[1] then return 0 end
  if tonumber(own[3] or '0') > tonumber(args[2]) then return 0 end
  redis.call('UNLINK', unpack(keys))
  return 1
end

-- The epoch of the last entry that a stream ever had.
local function last_epoch(stream)
  local about = redis.pcall('XINFO', 'STREAM', stream)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then return (parts(about[i + 1])) end
  end
  return 0
end

-- KEYS own, at of decode, what decode writes, results; ARGV token, run, after ('' for a camera).
-- The next epoch of a source: after all that were given, and after all that frames have, should the
-- store know less than they. A file gets the last one that was given once more if no frame has it
-- and it is later than `after`: its frames are the same again, and no other decoder can use it.
local function epoch(keys, args)
  if redis.call('HGET', keys[1], 'run') ~= args[2] then return { 'FENCED' } end
  local token = redis.call('HGET', keys[2], 't')
  if not token then return { 'GONE' } end
  if token ~= args[1] then return { 'FENCED' } end
  local given = tonumber(redis.call('HGET', keys[1], 'epoch') or '0')
  local stands = parts(redis.call('HGET', keys[2], 'p') or '') or 0
  local used = math.max(stands, last_epoch(keys[3]), last_epoch(keys[4]))
  local after = tonumber(args[3])
  local is_unused = after and given > after and given > used
  local epoch = is_unused and given or math.max(given, used) + 1
  redis.call('HSET', keys[1], 'epoch', string.format('%d', epoch))
  return { 'OK', epoch }
end

-- KEYS room, at of a reader; ARGV position. Wakes the room's reader once the reader is there; one
-- that has not attached yet stands before everything.
local function await(keys, args)
  local reader = redis.call('HMGET', keys[2], 'p', 'gone')
  local stands = reader[1] or '0-0'
  if reader[2] or not before(stands, args[1]) then
    wake(keys[1], stands)
  else
    redis.call('HSET', keys[2], 'w', args[1])
  end
  return 1
end

-- KEYS room, at. A side stage is given up: nobody waits for it or keeps entries for it.
local function detach(keys, args)
  if not are_others(keys) then return redis.error_reply('ERR one key in two roles') end
  redis.call('XLEN', keys[1])
  redis.call('HSET', keys[2], 'gone', '1')
  redis.call('HDEL', keys[2], 'w')
  wake(keys[1], '0-0')
  return 1
end

-- KEYS stream, at of its reliable readers. Removes what all of them have read, but for the last of
-- it: so who follows the stream of a source that has ended sees its end.
local function trim(keys, args)
  local least
  for i = 2, #keys do
    local reader = redis.call('HMGET', keys[i], 'p', 'gone')
    if not reader[2] then
      local p = reader[1] or '0-0'
      if not least or before(p, least) then least = p end
    end
  end
  if not least then return 0 end
  return redis.call('XTRIM', keys[1], 'MINID', '~', least)
end

redis.register_function(PREFIX .. 'hop', hop)
redis.register_function(PREFIX .. 'attach', attach)
redis.register_function(PREFIX .. 'claim', claim)
redis.register_function(PREFIX .. 'release', release)
redis.register_function(PREFIX .. 'announce', announce)
redis.register_function(PREFIX .. 'epoch', epoch)
redis.register_function(PREFIX .. 'raise', raise)
redis.register_function(PREFIX .. 'begin_after', begin_after)
redis.register_function(PREFIX .. 'await', await)
redis.register_function(PREFIX .. 'detach', detach)
redis.register_function { function_name = PREFIX .. 'trim', callback = trim, flags = { 'allow-oom' } }
redis.register_function {
  function_name = PREFIX .. 'forget', callback = forget_source, flags = { 'allow-oom' }
}
