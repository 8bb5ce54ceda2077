using System.Globalization;
using System.Runtime.InteropServices;
using FlashOrleans.Abstractions;
using StackExchange.Redis;

namespace FlashOrleans.Grains;

/// <summary>
/// Sessions in Redis (docs/adr/0029): what is written waits for <see cref="Commit"/> and goes as one script, a round trip for as many tokens as there are. A transaction whose answer is missing is sent
/// again as long as patience lasts, and is carried out once; a Redis that was away longer is asked once at a time until it is back. Throws what the client throws for that and for what Redis
/// says, <see cref="SessionStoreException"/> for one that cannot be used. The connection is its own; its reading is done by threads of the client.
/// </summary>
internal sealed class RedisTables : SessionTables
{
    /// <summary>Of every key; the braces put them into one slot of a Redis Cluster.</summary>
    public const string Prefix = "flashorleans:{sessions}";
    public const int Version = 1;
    private const int AttemptMilliseconds = 5_000, PauseMilliseconds = 50;
    /// <summary>How long what Redis does not answer is sent again.</summary>
    public const int Patience = 10_000;
    private static readonly RedisKey s_version = $"{Prefix}:version", s_used = $"{Prefix}:used";
    private static readonly RedisKey[] s_prefix = [Prefix];
    private static readonly RedisValue[] s_row = ["model", "package", "length", "created", "used", "turn", "over"];
    private readonly ConnectionMultiplexer _connection;
    private readonly IDatabase _redis;
    private readonly ManualResetEventSlim _closing = new();
    /// <summary>The prefix, and where the number of the last transaction is.</summary>
    private readonly RedisKey[] _keys = [Prefix, $"{Prefix}:writer:{Guid.NewGuid()}"];
    private readonly List<RedisValue> _asked = [];
    private readonly List<Action<RedisResult>> _answered = [];
    private readonly int _patience;
    private long _transaction;
    private bool _away;

    private RedisTables(ConnectionMultiplexer connection, int patience)
    {
        (_connection, _patience) = (connection, patience);
        _redis = connection.GetDatabase();
    }

    /// <summary>Connects, and looks whether what is there is of a version that this build knows.</summary>
    public static RedisTables Open(RedisAddress address, int patienceMilliseconds = Patience)
    {
        ConnectionMultiplexer? connection = null;
        try
        {
            connection = ConnectionMultiplexer.Connect(address.Options(Math.Min(patienceMilliseconds, AttemptMilliseconds)));
            IDatabase redis = connection.GetDatabase();
            RedisValue version = redis.StringGet(s_version);
            if (version.IsNull) redis.StringSet(s_version, Version, when: When.NotExists);
            else if ((long)version > Version)
                throw new SessionStoreException($"sessions in {address} are of version {(long)version}, this build knows them up to {Version}: use a newer build, or another database with --sessions-db");
            return new RedisTables(connection, patienceMilliseconds);
        }
        catch (Exception e)
        {
            connection?.Dispose();
            if (e is RedisException or TimeoutException or InvalidCastException) throw new SessionStoreException($"sessions cannot be kept in {address}: {Line(e)}; see to that Redis, or choose another place with --sessions-db", e);
            throw;
        }
    }

    public override string Reason(Exception e) => Line(e);

    /// <summary>Of what was not answered nobody knows.</summary>
    public override bool Separable(Exception e) => !IsAway(e);

    /// <summary>What a commit means when power is lost is the server's to say (its append-only file): no transaction differs.</summary>
    public override void Begin(bool syncs)
    {
        Rollback();
        _asked.Add(++_transaction);
        _asked.Add(Version);
    }

    public override void Commit()
    {
        if (_answered.Count == 0) return;
        RedisValue[] asked = [.. _asked];
        RedisResult answers = Ask(redis => redis.ScriptEvaluate(RedisScripts.Transact, _keys, asked));
        for (int i = 0; i < _answered.Count; i++) _answered[i](answers[i]);
    }

    /// <summary>Nothing was sent before the commit.</summary>
    public override void Rollback()
    {
        _asked.Clear();
        _answered.Clear();
    }

    public override Task<StoredSession?> Take(SessionKey key, int leastEpoch)
    {
        Ask("take", key);
        _asked.Add(leastEpoch);
        return Answer(static answer => answer.Length < 0 ? null : new StoredSession((int)answer[0], (string)answer[1]!, (long)answer[2], (byte[])answer[3]!));
    }

    public override Task<bool> Write(SessionKey key, TurnRow row, TokenRun tokens)
    {
        Ask(row.New ? "insert" : "update", key, tokens);
        _asked.AddRange([row.Epoch, row.Package, row.Model, row.Now, row.Turn.ToString(), row.Over, row.Record]);
        return Answer(IsMine);
    }

    public override Task<bool> Append(SessionKey key, TokenRun tokens)
    {
        Ask("append", key, tokens);
        return Answer(IsMine);
    }

    public override Task<bool> Rewrite(SessionKey key, TokenRun tokens)
    {
        Ask("rewrite", key, tokens);
        return Answer(IsMine);
    }

    public override Task<bool> Delete(SessionKey key)
    {
        Ask("delete", key);
        return Answer(IsMine);
    }

    public override (int[] Tokens, int[] Lengths) Tokens(byte[] id)
    {
        RedisResult answer = Ask(redis => redis.ScriptEvaluate(RedisScripts.Tokens, s_prefix, [Name(id)]));
        int[] tokens = Numbers(answer[1]), lengths = Numbers(answer[2]);
        int length = (int)answer[0];
        if (tokens.Length != length || (lengths.Length != 0 && lengths.Length != length))
            throw new SessionStoreException($"session {new Guid(id)} is damaged: {tokens.Length} of {length} tokens are there; delete it");
        return (tokens, lengths);
    }

    public override List<SessionInfo> List(int most, Guid? after)
    {
        if (most <= 0) return [];
        RedisResult answer = Ask(redis => redis.ScriptEvaluate(RedisScripts.List, s_prefix, after is { } id ? [most, id.ToString()] : [most]));
        List<SessionInfo> all = [];
        for (int i = 0; i < answer.Length; i++)
        {
            RedisValue[] row = (RedisValue[])answer[i]!;
            // One without its row was lost: Redis was let drop what it likes.
            if (!row[1].IsNull) all.Add(Info(Guid.Parse((string)row[0]!), row.AsSpan(1)));
        }
        return all;
    }

    public override byte[]? Record(byte[] id) => Ask(redis => redis.HashGet(Row(new Guid(id)), "record"));

    public override SessionInfo? Find(Guid id)
    {
        RedisValue[] row = Ask(redis => redis.HashGet(Row(id), s_row));
        return row[0].IsNull ? null : Info(id, row);
    }

    public override int Count() => (int)Ask(static redis => redis.SortedSetLength(s_used));

    public override List<(Guid Id, long Used)> Unused(long before, int most)
    {
        SortedSetEntry[] found = Ask(redis => redis.SortedSetRangeByScoreWithScores(s_used, stop: before, exclude: Exclude.Stop, take: most));
        return [.. found.Select(static e => (Guid.Parse((string)e.Element!), (long)e.Score))];
    }

    public override List<(Guid Id, long Used)> Excess(int keep, int most)
    {
        RedisValue[] found = (RedisValue[])Ask(redis => redis.ScriptEvaluate(RedisScripts.Excess, s_prefix, [keep, most]))!;
        List<(Guid, long)> all = [];
        for (int i = 0; i < found.Length; i += 2) all.Add((Guid.Parse((string)found[i]!), (long)found[i + 1]));
        return all;
    }

    public override void Dispose()
    {
        _connection.Dispose();
        _closing.Dispose();
    }

    private void Ask(string kind, SessionKey key) => _asked.AddRange([kind, Name(key.Id), key.Owner]);

    private void Ask(string kind, SessionKey key, TokenRun tokens)
    {
        Ask(kind, key);
        _asked.AddRange([tokens.Start, tokens.Ids, tokens.Lengths]);
    }

    private Task<T> Answer<T>(Func<RedisResult, T> read)
    {
        var answer = new TaskCompletionSource<T>();
        _answered.Add(said => answer.SetResult(read(said)));
        return answer.Task;
    }

    /// <summary>Until there is an answer, or patience ends.</summary>
    private T Ask<T>(Func<IDatabase, T> ask)
    {
        long began = Environment.TickCount64;
        while (true)
        {
            try
            {
                if (_away && !_connection.IsConnected) throw new TimeoutException("not connected");
                T answer = ask(_redis);
                _away = false;
                return answer;
            }
            catch (Exception e) when (IsAway(e))
            {
                if (_away || Environment.TickCount64 - began >= _patience)
                {
                    _away = true;
                    throw;
                }
                _closing.Wait(PauseMilliseconds);
            }
        }
    }

    /// <summary>It gave no answer, or one that says: not yet.</summary>
    private static bool IsAway(Exception e) => e is RedisConnectionException or TimeoutException || (e is RedisServerException server && server.Message.StartsWith("LOADING", StringComparison.Ordinal));

    private static string Line(Exception e)
    {
        string all = string.Join(' ', Causes(e).Select(static c => c.Message));
        if (all.Contains("WRONGPASS", StringComparison.Ordinal) || all.Contains("NOAUTH", StringComparison.Ordinal) || all.Contains("invalid password", StringComparison.Ordinal) || all.Contains("authentication failure", StringComparison.OrdinalIgnoreCase))
            return "it refuses the user or the password";
        return e switch
        {
            RedisServerException server when server.Message.StartsWith("OOM", StringComparison.Ordinal) => "its memory is full (maxmemory)",
            RedisServerException server when server.Message.StartsWith("LOADING", StringComparison.Ordinal) => "it is still reading its own files",
            RedisServerException server => $"it says \"{server.Message.ReplaceLineEndings(" ")}\"",
            RedisConnectionException or TimeoutException => "nothing answers there",
            _ => e.Message.ReplaceLineEndings(" "),
        };
    }

    private static IEnumerable<Exception> Causes(Exception e)
    {
        for (Exception? cause = e; cause is not null; cause = cause.InnerException) yield return cause;
    }

    private static bool IsMine(RedisResult answer) => (long)answer == 1;

    private static SessionInfo Info(Guid id, ReadOnlySpan<RedisValue> row) =>
        new(id, (string)row[0]!, (string)row[1]!, (int)row[2], DateTimeOffset.FromUnixTimeMilliseconds((long)row[3]), DateTimeOffset.FromUnixTimeMilliseconds((long)row[4]), Guid.Parse((string)row[5]!), (bool)row[6]);

    private static int[] Numbers(RedisResult bytes) => MemoryMarshal.Cast<byte, int>((byte[])bytes!).ToArray();

    private static string Name(byte[] id) => new Guid(id).ToString("D", CultureInfo.InvariantCulture);

    private static RedisKey Row(Guid id) => $"{Prefix}:{id}:turn";
}
