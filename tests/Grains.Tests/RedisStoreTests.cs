using FlashOrleans.Abstractions;
using FlashOrleans.Tests;
using StackExchange.Redis;

namespace FlashOrleans.Grains.Tests;

/// <summary>What only a store beyond a network has: connections that break, answers that are lost, passwords.</summary>
public sealed class RedisStoreTests : IDisposable
{
    private const int Patience = 1000;
    private readonly Guid _id = Guid.NewGuid();
    private RedisServer? _redis;

    public void Dispose() => _redis?.Dispose();

    private RedisServer Start(params string[] arguments) => _redis = RedisServer.Start(arguments);

    private static SessionKey Key(Guid id, long owner = 1) => new(id.ToByteArray(), owner);

    private static TurnRow Row(bool fresh) => new() { Epoch = 5, Package = "p", Model = "m", Now = 1000, Turn = Guid.NewGuid(), Over = false, Record = [1, 2, 3], New = fresh };

    private static TokenRun Run(int start, int count) => TokensWrite.Run(start, [.. Enumerable.Range(0, start + count)], []);

    private static SessionStore Open(string address, Action? committing = null, int patience = Patience)
    {
        var store = new SessionStore(new SessionStoreOptions { Path = address, PatienceMilliseconds = patience, Committing = committing });
        store.Open();
        return store;
    }

    [Fact]
    public void A_transaction_that_is_sent_twice_is_carried_out_once_and_one_that_comes_late_not_at_all()
    {
        string address = Start().Fresh();
        using SessionTables tables = SessionTables.Open(new SessionStoreOptions { Path = address });
        using var connection = ConnectionMultiplexer.Connect($"127.0.0.1:{_redis!.Port}");
        IDatabase redis = connection.GetDatabase();
        RedisKey[] keys = [RedisTables.Prefix, $"{RedisTables.Prefix}:writer:w"];
        RedisValue id = _id.ToString();
        RedisValue[] first = [1, 1, "insert", id, 7, 0, new byte[8], "", 5, "p", "m", 1000, Guid.NewGuid().ToString(), "0", "r", "append", id, 7, 2, new byte[4], "", "append", id, 8, 3, new byte[4], ""];
        for (int i = 0; i < 2; i++) Assert.Equal([1, 1, 0], (int[])redis.ScriptEvaluate(RedisScripts.Transact, keys, first)!);
        Assert.Equal(3, tables.Find(_id)!.Tokens);
        RedisValue[] second = [2, 1, "take", id, 8, 3];
        for (int i = 0; i < 2; i++) Assert.Equal(6, (int)redis.ScriptEvaluate(RedisScripts.Transact, keys, second)[0][0]);
        var late = Assert.Throws<RedisServerException>(() => redis.ScriptEvaluate(RedisScripts.Transact, keys, first));
        Assert.StartsWith("LATE", late.Message, StringComparison.Ordinal);
        RedisValue[] third = [3, 1, "delete", id, 8];
        for (int i = 0; i < 2; i++) Assert.Equal(1, (int)redis.ScriptEvaluate(RedisScripts.Transact, keys, third)[0]);
        Assert.Null(tables.Find(_id));
    }

    [Fact]
    public async Task A_transaction_of_which_one_write_has_no_place_changes_nothing_and_the_others_are_written_after_all()
    {
        using var gate = new ManualResetEventSlim();
        using SessionStore store = Open(Start().Fresh(), gate.Wait);
        Guid other = Guid.NewGuid();
        Task<bool> alone = store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 4)));
        Task<bool> good = store.WriteAsync(tables => tables.Write(Key(other), Row(fresh: true), Run(0, 4)));
        Task<bool> gap = store.WriteAsync(tables => tables.Append(Key(_id), Run(9, 1)));
        gate.Set();
        Assert.True(await alone);
        Assert.True(await good);
        var error = await Assert.ThrowsAsync<SessionStoreException>(() => gap);
        Assert.Contains("has 4 tokens, and others were to be written from 9 on", error.Message, StringComparison.Ordinal);
        Assert.Equal(4, (await store.FindAsync(_id))!.Tokens);
        Assert.Equal(4, (await store.FindAsync(other))!.Tokens);
    }

    [Fact]
    public async Task A_redis_that_dies_and_comes_back_is_waited_for()
    {
        RedisServer server = Start("--appendonly", "yes");
        using SessionStore store = Open(server.Fresh(), patience: 60_000);
        Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 4))));
        server.Kill();
        Task<bool> written = store.WriteAsync(tables => tables.Append(Key(_id), Run(4, 1)));
        Task<SessionInfo?> found = store.FindAsync(_id);
        server.Restart();
        Assert.True(await written);
        Assert.InRange((await found)!.Tokens, 4, 5);
        Assert.Equal(Enumerable.Range(0, 5), (await store.ReadAsync(tables => tables.Tokens(_id.ToByteArray()))).Tokens);
    }

    [Fact]
    public async Task A_redis_that_stays_away_fails_writes_and_reads_with_one_line_until_it_is_back()
    {
        RedisServer server = Start("--appendonly", "yes");
        string address = server.Fresh();
        using SessionStore store = Open(address);
        Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 4))));
        server.Kill();
        for (int i = 0; i < 2; i++)
        {
            var error = await Assert.ThrowsAsync<SessionStoreException>(() => store.WriteAsync(tables => tables.Append(Key(_id), Run(4, 1))));
            Assert.Equal($"sessions cannot be written to {address}: nothing answers there", error.Message);
            error = await Assert.ThrowsAsync<SessionStoreException>(() => store.FindAsync(_id));
            Assert.Equal($"sessions cannot be read from {address}: nothing answers there", error.Message);
        }
        var start = Assert.Throws<SessionStoreException>(() => Open(address));
        Assert.Equal($"sessions cannot be kept in {address}: nothing answers there; see to that Redis, or choose another place with --sessions-db", start.Message);
        server.Restart();
        Assert.True(await WhenBackAsync(() => store.WriteAsync(tables => tables.Append(Key(_id), Run(4, 1)))));
        // What reads has a connection of its own, which may be back later.
        Assert.Equal(Enumerable.Range(0, 5), (await WhenBackAsync(() => store.ReadAsync(tables => tables.Tokens(_id.ToByteArray())))).Tokens);
    }

    private static async Task<T> WhenBackAsync<T>(Func<Task<T>> ask)
    {
        T answer = default!;
        await Turns.UntilAsync(async () =>
        {
            try { answer = await ask(); }
            catch (SessionStoreException) { return false; }
            return true;
        }, static answered => answered, "a connection");
        return answer;
    }

    [Fact]
    public async Task A_redis_that_forgot_everything_leaves_nobody_owner()
    {
        RedisServer server = Start();
        using SessionStore store = Open(server.Fresh(), patience: 60_000);
        Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 4))));
        server.Kill();
        server.Restart();
        Assert.False(await store.WriteAsync(tables => tables.Append(Key(_id), Run(4, 1))));
        Assert.Null(await store.WriteAsync(tables => tables.Take(Key(_id, 2), 1)));
        Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id, 2), Row(fresh: true), Run(0, 4))));
    }

    [Fact]
    public void A_newer_version_is_refused()
    {
        RedisServer server = Start();
        string address = server.Fresh();
        SessionTables.Open(new SessionStoreOptions { Path = address }).Dispose();
        using (var connection = ConnectionMultiplexer.Connect($"127.0.0.1:{server.Port}")) connection.GetDatabase().StringSet($"{RedisTables.Prefix}:version", RedisTables.Version + 1);
        var error = Assert.Throws<SessionStoreException>(() => SessionTables.Open(new SessionStoreOptions { Path = address }));
        Assert.Equal($"sessions in {address} are of version 2, this build knows them up to 1: use a newer build, or another database with --sessions-db", error.Message);
    }

    [Fact]
    public void A_password_lets_in_and_is_in_no_message()
    {
        RedisServer server = Start("--requirepass", "open se@me");
        SessionTables.Open(new SessionStoreOptions { Path = server.Fresh("default:open%20se%40me@") }).Dispose();
        SessionTables.Open(new SessionStoreOptions { Path = server.Fresh(":open%20se%40me@") }).Dispose();
        foreach (string user in new[] { "ann:wrong-word@", ":wrong-word@", "" })
        {
            var options = new SessionStoreOptions { Path = server.Fresh(user) };
            var error = Assert.Throws<SessionStoreException>(() => SessionTables.Open(options));
            Assert.Equal($"sessions cannot be kept in {options.Place}: it refuses the user or the password; see to that Redis, or choose another place with --sessions-db", error.Message);
            Assert.DoesNotContain("wrong-word", $"{error} {options}", StringComparison.Ordinal);
            Assert.DoesNotContain("ann", options.Place, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task One_node_of_a_redis_cluster_serves_as_well()
    {
        RedisServer server = Start("--cluster-enabled", "yes", "--databases", "1");
        using (var connection = await ConnectionMultiplexer.ConnectAsync($"127.0.0.1:{server.Port},allowAdmin=true"))
        {
            await connection.GetDatabase().ExecuteAsync("CLUSTER", "ADDSLOTSRANGE", "0", "16383");
            await Turns.UntilAsync(async () => (string?)await connection.GetDatabase().ExecuteAsync("CLUSTER", "INFO"), static info => info!.Contains("cluster_state:ok", StringComparison.Ordinal), "a cluster");
        }
        using SessionStore store = Open(server.Fresh());
        Guid other = Guid.NewGuid();
        Task<bool>[] both = [store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 4))), store.WriteAsync(tables => tables.Write(Key(other), Row(fresh: true), Run(0, 4)))];
        Assert.All(await Task.WhenAll(both), Assert.True);
        Assert.Equal(2, (await store.ListAsync(10)).Count);
    }

    [Theory]
    [InlineData("redis://h", "redis://h:6379/0")]
    [InlineData("redis://h:1/2", "redis://h:1/2")]
    [InlineData("REDISS://ann:p%2Fw@h.example:1/", "rediss://h.example:1/0")]
    [InlineData("redis://[::1]:7", "redis://[::1]:7/0")]
    public void An_address_is_shown_without_user_and_password(string text, string shown)
    {
        Assert.True(RedisAddress.TryParse(text, out RedisAddress? address));
        Assert.Equal(shown, address.ToString());
        Assert.Equal(shown, new SessionStoreOptions { Path = text }.Place);
    }

    [Theory]
    [InlineData("redis://")]
    [InlineData("redis://h/x")]
    [InlineData("redis://h:port")]
    [InlineData("redis://u:p#w@h")]
    [InlineData("redis://u:12/w@h")]
    [InlineData("redis://h?a=b")]
    public void What_is_no_address_is_none_and_not_shown(string text)
    {
        Assert.True(RedisAddress.Is(text));
        Assert.False(RedisAddress.TryParse(text, out _));
        Assert.Equal("redis", new SessionStoreOptions { Path = text }.Place);
    }

    [Fact]
    public void A_file_is_no_address()
    {
        Assert.False(RedisAddress.Is("redis.db"));
        Assert.False(RedisAddress.Is(null));
        Assert.Equal("redis.db", new SessionStoreOptions { Path = "redis.db" }.Place);
    }
}
