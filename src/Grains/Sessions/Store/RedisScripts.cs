namespace FlashOrleans.Grains;

/// <summary>
/// What <see cref="RedisTables"/> asks Redis for. A script is carried out as a whole or not at all, as long as it looks at everything before it changes anything, and Redis refuses what it refuses (memory that is
/// full, a replica) at the first change.
/// <code>
/// P:version            of this layout
/// P:SESSION:turn       hash: owner, epoch, length (of the history in tokens), package, model, created, used, turn, over, record
/// P:SESSION:ids        string: the history, little-endian 32-bit numbers; what is behind the length is no part of it
/// P:SESSION:lengths    string: the sequence length each was computed for; not there where positions are not rotated by it
/// P:used, P:over       sorted sets by last use: all sessions, and those whose last turn is over
/// P:writer:NAME        the number of a writer's last transaction, and what it was answered
/// </code>
/// P is <see cref="RedisTables.Prefix"/>; what it has in braces puts all keys into one slot of a Redis Cluster, so that a transaction may hold any sessions.
/// </summary>
internal static class RedisScripts
{
    /// <summary>
    /// One transaction. A transaction that was answered already is answered again and not carried out twice, so that it may be sent again when a connection broke; one that comes later than its
    /// successor is refused. Of every write comes whether the session was its owner's, of one that takes a session over what the session is.
    /// </summary>
    public const string Transact = """
        local p, writer, number = KEYS[1], KEYS[2], tonumber(ARGV[1])
        local words = { take = 4, delete = 3, append = 6, rewrite = 6, update = 13, insert = 13 }
        local function at(id, what) return p .. ':' .. id .. ':' .. what end

        local said
        local last = redis.call('GET', writer)
        if last then
            local known, answers = string.match(last, '^(%d+) (.*)$')
            if tonumber(known) > number then return redis.error_reply('LATE a later transaction was carried out') end
            if tonumber(known) == number then said = answers end
        end

        -- What will be, one after the other, before anything is changed.
        local does, before, now = {}, {}, {}
        local i, count = 3, 0
        while not said and i <= #ARGV do
            local kind, id, owner = ARGV[i], ARGV[i + 1], ARGV[i + 2]
            local s = now[id]
            if not s then
                local row = redis.call('HMGET', at(id, 'turn'), 'owner', 'length')
                s = { owner = row[1], length = tonumber(row[2] or 0) }
                now[id] = s
            end
            count = count + 1
            before[count] = s.length
            local mine = s.owner == owner
            if kind == 'take' then
                mine = s.owner and true
                if mine then s.owner = owner end
            elseif kind == 'delete' then
                if mine then s.owner, s.length = false, 0 end
            else
                if kind == 'insert' then mine = not s.owner end
                if mine then
                    local start = tonumber(ARGV[i + 3])
                    if start > s.length or (kind == 'append' and start ~= s.length) then
                        return redis.error_reply('PLACE session ' .. id .. ' has ' .. s.length .. ' tokens, and others were to be written from ' .. start .. ' on')
                    end
                    s.owner, s.length = owner, start + #ARGV[i + 4] / 4
                end
            end
            does[count] = mine and true or false
            i = i + words[kind]
        end

        local answers, marks = {}, {}
        i, count = 3, 0
        while i <= #ARGV do
            local kind, id, owner = ARGV[i], ARGV[i + 1], ARGV[i + 2]
            local row, ids, lengths = at(id, 'turn'), at(id, 'ids'), at(id, 'lengths')
            count = count + 1
            local mine = does[count]
            if said then mine = string.sub(said, count, count) == '1' end
            local answer = mine and 1 or 0
            if mine and not said then
                if kind == 'take' then
                    -- Where memory is full, too, or nobody could delete a session: after a command that takes none Redis lets a script go on.
                    redis.call('DEL', p .. ':nothing')
                    redis.call('HSET', row, 'owner', owner, 'epoch', math.max(redis.call('HGET', row, 'epoch') + 1, tonumber(ARGV[i + 3])))
                elseif kind == 'delete' then
                    redis.call('DEL', row, ids, lengths)
                    redis.call('ZREM', p .. ':used', id)
                    redis.call('ZREM', p .. ':over', id)
                else
                    local start, from = tonumber(ARGV[i + 3]), before[count]
                    local length = start + #ARGV[i + 4] / 4
                    redis.call('HSET', row, 'length', length)
                    if kind == 'insert' or kind == 'update' then
                        local used, over = ARGV[i + 9], ARGV[i + 11]
                        redis.call('HSET', row, 'owner', owner, 'epoch', ARGV[i + 6], 'package', ARGV[i + 7], 'model', ARGV[i + 8], 'used', used, 'turn', ARGV[i + 10], 'over', over, 'record', ARGV[i + 12])
                        redis.call('ZADD', p .. ':used', used, id)
                        if over == '1' then redis.call('ZADD', p .. ':over', used, id) else redis.call('ZREM', p .. ':over', id) end
                        if kind == 'insert' then
                            redis.call('HSET', row, 'created', used)
                            redis.call('SET', p .. ':version', ARGV[2], 'NX')
                        end
                    end
                    if start == 0 then
                        redis.call('DEL', ids, lengths)
                        from = 0
                    end
                    for name, run in pairs({ [ids] = ARGV[i + 4], [lengths] = ARGV[i + 5] }) do
                        if #run > 0 then redis.call('SETRANGE', name, start * 4, run) end
                        -- What was cut off is overwritten.
                        if from > length and redis.call('EXISTS', name) == 1 then redis.call('SETRANGE', name, length * 4, string.rep('\0', (from - length) * 4)) end
                    end
                end
            end
            if mine and kind == 'take' then answer = redis.call('HMGET', row, 'epoch', 'package', 'used', 'record') end
            answers[count], marks[count] = answer, mine and '1' or '0'
            i = i + words[kind]
        end
        if not said then redis.call('SET', writer, ARGV[1] .. ' ' .. table.concat(marks), 'EX', 3600) end
        return answers
        """;

    /// <summary>History and lengths of a session, and how many tokens it is said to have.</summary>
    public const string Tokens = """
        local length = tonumber(redis.call('HGET', KEYS[1] .. ':' .. ARGV[1] .. ':turn', 'length') or 0)
        if length == 0 then return { 0, '', '' } end
        return { length, redis.call('GETRANGE', KEYS[1] .. ':' .. ARGV[1] .. ':ids', 0, length * 4 - 1), redis.call('GETRANGE', KEYS[1] .. ':' .. ARGV[1] .. ':lengths', 0, length * 4 - 1) }
        """;

    /// <summary>So many, from behind a session on, if one is named.</summary>
    public const string List = """
        local first = 0
        if ARGV[2] then
            local rank = redis.call('ZREVRANK', KEYS[1] .. ':used', ARGV[2])
            if not rank then return {} end
            first = rank + 1
        end
        local all = {}
        for i, id in ipairs(redis.call('ZREVRANGE', KEYS[1] .. ':used', first, first + ARGV[1] - 1)) do
            all[i] = { id, unpack(redis.call('HMGET', KEYS[1] .. ':' .. id .. ':turn', 'model', 'package', 'length', 'created', 'used', 'turn', 'over')) }
        end
        return all
        """;

    /// <summary>What is more than so many, at most so many.</summary>
    public const string Excess = """
        local used, over = KEYS[1] .. ':used', KEYS[1] .. ':over'
        local most = math.min(tonumber(ARGV[2]), redis.call('ZCARD', used) - ARGV[1])
        if most <= 0 then return {} end
        local all = redis.call('ZRANGE', over, 0, most - 1, 'WITHSCORES')
        if #all < 2 * most then
            -- All whose turn is over, so the others are among as many of all.
            local has = {}
            for i = 1, #all, 2 do has[all[i]] = true end
            local next = redis.call('ZRANGE', used, 0, most - 1, 'WITHSCORES')
            for i = 1, #next, 2 do
                if not has[next[i]] and #all < 2 * most then
                    all[#all + 1] = next[i]
                    all[#all + 1] = next[i + 1]
                end
            end
        end
        return all
        """;
}
