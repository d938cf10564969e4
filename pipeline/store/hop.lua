-- The server side of the protocol. hop.py loads it as a function library, whose functions get the
-- prefix PREFIX. All keys of a call belong to one source; a hop over several sources has the keys
-- of one source after another. Positions and entry ids are "<epoch>-<seq>".
--   own     hash    run, name     the run that owns the source
--                   epoch         the last epoch that a decoder was given
--                   freed         UNIX seconds since which no run owns it
--                   generation    number of changes of the owner
--                   superseded    the last runs that it was taken from, separated by spaces
--                   since         version of the fleet's plan by which a slot owns it
--                   file          identity of a slot's file, which its successor must have, too
--                   model         the owner's model from a registry, and the place of its folder
--   at      hash    by stage: t token, p position, s state, e last emitted, w wake mark, gone
--   count   hash    decoded, published, dropped:<reason>, ...
--   room    stream  of length 1; an entry wakes the waiting decoder
--
-- A function first validates and reads everything, then writes: a script that fails halfway would
-- leave a source half written. `redis.pcall` returns an error where `redis.call` raises it.

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

-- A commit in args: token, prev, shape, then fields*(name, value), counts*(name, delta),
-- asides*(stage, id, reason, data), entries*(id, kind, data). The shape is "<last> <keep> <number
-- of fields> <of counts> <of asides> <of entries>". It is one argument for one pattern match,
-- because a match for each number costs 10 % of a hop.
local SHAPE = '^((%d+)%-(%d+)) (%d+) (%d+) (%d+) (%d+) (%d+)$'
local MAX_SHAPE = 100

-- Returns the commit at index a with the indices of its parts (`stop` is that of the next commit);
-- nil if it is malformed. past: the index after the last argument
local function commit_at(args, a, past)
  local shape = args[a + 2]
  if not shape or #shape > MAX_SHAPE then return end
  local last, epoch, seq, keep, fields, counts, asides, entries = string.match(shape, SHAPE)
  if not last or #epoch > 19 or #seq > 19 or #keep > 15 then return end
  local commit = { token = args[a], prev = args[a + 1], last = last, keep = keep, fields = a + 3 }
  commit.counts = commit.fields + 2 * fields
  commit.asides = commit.counts + 2 * counts
  commit.entries = commit.asides + 4 * asides
  commit.stop = commit.entries + 3 * entries
  if commit.stop > past then return end
  for i = commit.counts + 1, commit.asides - 1, 2 do
    if #args[i] > 15 or not string.find(args[i], '^%-?%d+$') then return end
  end
  for i = commit.entries, commit.stop - 1, 3 do
    local id = args[i]
    if id == '0-0' or (id ~= last and not is_position(id)) then return end
  end
  return commit
end

-- Returns whether all keys differ. A key in two roles would have the wrong type in the second role
-- after the write in the first.
local function are_distinct(keys)
  local seen = {}
  for _, key in ipairs(keys) do
    if seen[key] then return false end
    seen[key] = true
  end
  return true
end

-- Returns the commits of each source; nil if the call is malformed.
local function commits_in(keys, args)
  if not is_whole(args[1]) or not are_distinct(keys) then return end
  -- k and a are the indices of the next source's first key and argument.
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

-- Checks all commits of a source before anything is written, and notes their wake marks. Returns
-- the answer of a refusal, or nil. XLEN finds a key of the wrong type.
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

-- Labels come from a model, so the number of counters by label is bounded for each source.
local OBJECTS, LABELS, MAX_LABELS = 'objects:', 'labels', 100

-- Returns the counters to increment for a name, each with its growth.
local function growths(key, name, growth)
  if string.sub(name, 1, #OBJECTS) ~= OBJECTS or redis.pcall('HEXISTS', key, name) ~= 0 then
    return { { name, growth } }
  end
  if tonumber(redis.call('HGET', key, LABELS) or '0') >= MAX_LABELS then
    return { { OBJECTS .. 'other', growth } }
  end
  return { { name, growth }, { LABELS, '1' } }
end

-- Increments the counters of all commits. This is the first write of a source, because it may fail:
-- the key may have the wrong type, or a counter may not be a number. Then the counters that were
-- incremented are restored, and the answer of the refusal is returned.
local function count(key, args, commits)
  local done = {}
  for _, commit in ipairs(commits) do
    for i = commit.counts, commit.asides - 1, 2 do
      for _, growth in ipairs(growths(key, args[i], args[i + 1])) do
        local reply = redis.pcall('HINCRBY', key, growth[1], growth[2])
        if failed(reply) then
          for _, undo in ipairs(done) do
            local value = redis.call('HINCRBY', key, undo[1], -tonumber(undo[2]))
            if value == 0 then redis.call('HDEL', key, undo[1]) end
          end
          return { 'ERROR', reply.err }
        end
        done[#done + 1] = growth
      end
    end
  end
end

-- Appends the entry at index a. Returns 1 if the stream has an entry with this or a later id, which
-- a bug or foreign writer added, else 0.
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

-- Writes a commit that was checked. Returns the number of entries that the stream refused. A
-- decoder that waits for this stage is woken once the stage has reached the wake mark.
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
-- ARGV: number of sources, then for each: number of commits, commits*(a commit)
-- Answers for each source: {'OK', refused entries} | {'FENCED'} | {'MOVED', p} | {'GONE'} |
-- {'ERROR', text}. All commits of a source are written, or none.
local function hop(keys, args)
  local sources = commits_in(keys, args)
  if not sources then return redis.error_reply('ERR malformed hop') end
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

-- KEYS own, at; ARGV run. Gives a new token to a stage of a source that this run owns; all older
-- tokens are fenced. Answers {'OK', token, p, s, e} | {'FENCED'} | {'GONE'}.
local function attach(keys, args)
  local run = redis.call('HGET', keys[1], 'run')
  if not run then return { 'GONE' } end
  if run ~= args[1] then return { 'FENCED' } end
  local at = redis.call('HMGET', keys[2], 'p', 's', 'e')
  local p, s, e = at[1] or '0-0', at[2], at[3]
  local reached = keys[3] and redis.call('HGET', keys[3], 'p')
  -- The stage was not on the main path meanwhile, so its state is that of long ago.
  local is_passed = reached and before(p, reached)
  if is_passed then p, s, e = reached, false, false end
  local token = redis.call('HINCRBY', keys[2], 't', 1)
  redis.call('HSET', keys[2], 'p', p)
  if is_passed then redis.call('HDEL', keys[2], 's', 'e') end
  redis.call('HDEL', keys[2], 'gone')
  return { 'OK', tostring(token), p, s, e }
end

-- Number of former owners that a source remembers.
local SUPERSEDED = 16

-- Returns the list of former owners without one run and with another ('' for none).
local function superseded(listed, without, with)
  local runs = {}
  for run in string.gmatch(listed, '%S+') do
    if run ~= without and run ~= with then runs[#runs + 1] = run end
  end
  if with ~= '' then runs[#runs + 1] = with end
  return table.concat(runs, ' ', math.max(1, #runs - SUPERSEDED + 1))
end

-- Returns whether a run may not claim a source. version: of the fleet's plan that gives it the
-- source; 0: the run is no slot. A run that the source was taken from is refused even if no run
-- owns it: two runs that restart automatically would take it from each other for ever. A user gets
-- it back with `by hand`, and so does the newest instance of a slot. Between slots, the newer plan decides. With the same plan, a slot also
-- gets a source back that no run owns.
local function is_superseded(own, run, by_hand, version)
  local since = tonumber(own[4] or '0')
  if version > 0 and version ~= since then return version < since end
  if own[1] == run then return false end
  local known = string.find(' ' .. (own[3] or '') .. ' ', ' ' .. run .. ' ', 1, true)
  local is_free = version > 0 and (own[1] or '') == ''
  return known and not by_hand and not is_free
end

-- KEYS own, at of decode; ARGV run, name, take over, by hand ('1' or '0'), version of the plan,
-- identity of the file ('' for none). Makes a run the owner of a source. Answers {'OK', '1' if a
-- slot continues the file, else '0'} | {'OWNED', owner's name} | {'SUPERSEDED', owner's name}.
-- Another file, or the same one that no slot has read, begins at its start.
local function claim(keys, args)
  if not args[2] then return redis.error_reply('ERR claim needs a run and a name') end
  local own = redis.call('HMGET', keys[1], 'run', 'name', 'superseded', 'since', 'file')
  local owner, version = own[1] or '', tonumber(args[5] or '0')
  if is_superseded(own, args[1], args[4] == '1', version) then
    return { 'SUPERSEDED', own[2] or '' }
  end
  if owner ~= args[1] then
    if owner ~= '' and args[3] ~= '1' then return { 'OWNED', own[2] or '' } end
    redis.call('HINCRBY', keys[1], 'generation', 1)
    redis.call('HSET', keys[1], 'superseded', superseded(own[3] or '', args[1], owner))
  end
  redis.call('HSET', keys[1], 'run', args[1], 'name', args[2])
  local file = args[6] or ''
  local continues = file ~= '' and file == own[5]
  if version == 0 then
    redis.call('HDEL', keys[1], 'since', 'file')
  else
    redis.call('HSET', keys[1], 'since', args[5], 'file', file)
    if not continues then redis.call('HDEL', keys[2], 's', 'c') end
  end
  return { 'OK', continues and '1' or '0' }
end

-- KEYS own; ARGV run, removed ('1' or '0'). Ends this run's ownership; the last epoch stays. A
-- removed source forgets its former owners, so that any run may claim it again. The next slot needs
-- the model that was chosen for the source. Answers 0 if another run owns it.
local function release(keys, args)
  if redis.call('HGET', keys[1], 'run') ~= args[1] then return 0 end
  redis.call('HSET', keys[1], 'run', '', 'freed', redis.call('TIME')[1])
  if args[2] == '1' or redis.call('HEXISTS', keys[1], 'since') == 0 then
    redis.call('HDEL', keys[1], 'model')
  end
  if args[2] == '1' then
    redis.call('HSET', keys[1], 'name', '')
    redis.call('HDEL', keys[1], 'superseded')
  end
  return 1
end

-- KEYS own; ARGV run, model with its place ('' for none). Publishes the model of a source of this
-- run.
local function announce(keys, args)
  if redis.call('HGET', keys[1], 'run') ~= args[1] then return 0 end
  if args[2] == '' then
    redis.call('HDEL', keys[1], 'model')
  else
    redis.call('HSET', keys[1], 'model', args[2])
  end
  return 1
end

-- KEYS epochs; ARGV epoch. Raises the last epoch of all forgotten sources to at least this one.
local function raise(keys, args)
  local last = tonumber(redis.call('GET', keys[1]) or '0')
  if tonumber(args[1]) > last then redis.call('SET', keys[1], args[1]) end
  return 1
end

-- KEYS own; ARGV run, epoch. Makes the next epoch of a source of this run later than this one.
local function begin_after(keys, args)
  local own = redis.call('HMGET', keys[1], 'run', 'epoch')
  if own[1] ~= args[1] then return 0 end
  if tonumber(own[2] or '0') < tonumber(args[2]) then
    redis.call('HSET', keys[1], 'epoch', args[2])
  end
  return 1
end

-- KEYS own, all others of a source; ARGV freed, epoch. Deletes a source if no run has owned it
-- since the time `freed` and its last epoch is not later than `epoch`.
local function forget_source(keys, args)
  local own = redis.call('HMGET', keys[1], 'run', 'freed', 'epoch')
  if (own[1] or '') ~= '' or (own[2] or '') ~= args[1] then return 0 end
  if tonumber(own[3] or '0') > tonumber(args[2]) then return 0 end
  redis.call('UNLINK', unpack(keys))
  return 1
end

-- Returns the epoch of the last entry that a stream ever had; 0 if there is no stream.
local function last_epoch(stream)
  local about = redis.pcall('XINFO', 'STREAM', stream)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then return (parts(about[i + 1])) end
  end
  return 0
end

-- KEYS own, at of decode, output stream of decode, results; ARGV token, run, after ('' for a
-- camera). Gives the next epoch of a source: later than all that were given, and than those of all
-- frames in case the store lost the hash `own`. A file gets the last given epoch again if no frame
-- has it and it is later than `after`: its frames will be the same, and the token fences all other
-- decoders. Answers {'OK', epoch} | {'FENCED'} | {'GONE'}.
local function epoch(keys, args)
  if redis.call('HGET', keys[1], 'run') ~= args[2] then return { 'FENCED' } end
  local token = redis.call('HGET', keys[2], 't')
  if not token then return { 'GONE' } end
  if token ~= args[1] then return { 'FENCED' } end
  local given = tonumber(redis.call('HGET', keys[1], 'epoch') or '0')
  local committed = parts(redis.call('HGET', keys[2], 'p') or '') or 0
  local used = math.max(committed, last_epoch(keys[3]), last_epoch(keys[4]))
  local after = tonumber(args[3])
  local is_unused = after and given > after and given > used
  local epoch = is_unused and given or math.max(given, used) + 1
  redis.call('HSET', keys[1], 'epoch', string.format('%d', epoch))
  return { 'OK', epoch }
end

-- KEYS room, at of a reader; ARGV position. Wakes the decoder once the reader has reached the
-- position: at once, or by a wake mark that a hop of the reader sees. A reader that never attached
-- is at 0-0.
local function await(keys, args)
  local reader = redis.call('HMGET', keys[2], 'p', 'gone')
  local reached = reader[1] or '0-0'
  if reader[2] or not before(reached, args[1]) then
    wake(keys[1], reached)
  else
    redis.call('HSET', keys[2], 'w', args[1])
  end
  return 1
end

-- KEYS room, at. Marks a side stage as gone: no decoder waits for it, and trims ignore it. XLEN
-- fails before the first write if the room has the wrong type.
local function detach(keys, args)
  if not are_distinct(keys) then return redis.error_reply('ERR a key has two roles') end
  redis.call('XLEN', keys[1])
  redis.call('HSET', keys[2], 'gone', '1')
  redis.call('HDEL', keys[2], 'w')
  wake(keys[1], '0-0')
  return 1
end

-- KEYS stream, at of its reliable readers. Removes the entries before the least position of a
-- reader. The entry at that position stays, so that a follower of a source that has ended sees its
-- end.
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
