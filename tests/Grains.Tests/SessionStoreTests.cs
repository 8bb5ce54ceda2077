using FlashOrleans.Abstractions;
using FlashOrleans.Tests;

namespace FlashOrleans.Grains.Tests;

/// <summary>The store alone: rows, ownership, transactions, files that cannot be used. What holds for a file holds for Redis.</summary>
public sealed class SessionStoreTests(ITestOutputHelper output) : IDisposable
{
    private const string File = "file", Redis = "redis";
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-store-").FullName;
    private readonly Guid _id = Guid.NewGuid();
    private RedisServer? _redis;

    private string Database => Path.Combine(_folder, "deeper", "sessions.db");

    public void Dispose()
    {
        _redis?.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>Nothing is in it yet.</summary>
    private SessionStoreOptions In(string place, params string[] redis) => new() { Path = place == File ? Database : (_redis ??= RedisServer.Start(redis)).Fresh() };

    /// <summary>One transaction.</summary>
    private static T Do<T>(SessionTables tables, Func<SessionTables, Task<T>> write)
    {
        tables.Begin(syncs: false);
        Task<T> answer = write(tables);
        tables.Commit();
        return answer.Result;
    }

    private static SessionKey Key(Guid id, long owner = 1) => new(id.ToByteArray(), owner);

    private static TurnRow Row(bool fresh, bool over = false, long now = 1000) =>
        new() { Epoch = 5, Package = "p", Model = "m", Now = now, Turn = Guid.NewGuid(), Over = over, Record = [1, 2, 3], New = fresh };

    private static TokenRun Run(int start, int count, int first = 0, bool lengths = false)
    {
        int[] tokens = [.. Enumerable.Range(first, start + count)];
        return TokensWrite.Run(start, tokens, lengths ? tokens : []);
    }

    private static SessionStore Open(SessionStoreOptions options)
    {
        var store = new SessionStore(options);
        store.Open();
        return store;
    }

    [Theory]
    [InlineData(File, true)]
    [InlineData(File, false)]
    [InlineData(Redis, true)]
    [InlineData(Redis, false)]
    public void A_history_is_appended_to_cut_anywhere_and_read_as_one(string place, bool rotates)
    {
        using SessionTables tables = SessionTables.Open(In(place));
        SessionKey key = Key(_id);
        Assert.True(Do(tables, t => t.Write(key, Row(fresh: true), Run(0, 1000, lengths: rotates))));
        for (int i = 1000; i < 1010; i++) Assert.True(Do(tables, t => t.Append(key, Run(i, 1, lengths: rotates))));
        Assert.Equal(Enumerable.Range(0, 1010), tables.Tokens(key.Id).Tokens);
        Assert.Equal(Enumerable.Range(0, rotates ? 1010 : 0), tables.Tokens(key.Id).Lengths);
        foreach (int cut in new[] { 1005, 1000, 700, 256, 1, 0 })
        {
            // From the cut on other tokens, and nothing of what was behind it.
            Assert.True(Do(tables, t => t.Write(key, Row(fresh: false), Run(cut, 3, first: 50, lengths: rotates))));
            (int[] tokens, int[] lengths) = tables.Tokens(key.Id);
            Assert.Equal([.. Enumerable.Range(0, cut), .. Enumerable.Range(50 + cut, 3)], tokens);
            Assert.Equal(rotates ? tokens : [], lengths);
            Assert.True(Do(tables, t => t.Write(key, Row(fresh: false), Run(cut, 1010 - cut, lengths: rotates))));
        }
        Assert.Equal(1010, tables.Find(_id)!.Tokens);
        Assert.True(Do(tables, t => t.Delete(key)));
        Assert.Null(tables.Find(_id));
        Assert.Empty(tables.Tokens(key.Id).Tokens);
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public void Taking_a_session_over_raises_its_epoch_and_stops_the_one_that_had_it(string place)
    {
        using SessionTables tables = SessionTables.Open(In(place));
        SessionKey first = Key(_id, 1), second = Key(_id, 2);
        Assert.Null(Do(tables, t => t.Take(first, 10)));
        Assert.True(Do(tables, t => t.Write(first, Row(fresh: true), Run(0, 3))));
        StoredSession taken = Do(tables, t => t.Take(second, 3))!;
        Assert.Equal((6, "p", 1000L), (taken.Epoch, taken.Package, taken.Used));
        Assert.Equal([1, 2, 3], taken.Turn);
        Assert.Equal(100, Do(tables, t => t.Take(second, 100))!.Epoch);
        Assert.False(Do(tables, t => t.Append(first, Run(3, 1))));
        Assert.False(Do(tables, t => t.Append(first, Run(3, 1000))));
        Assert.False(Do(tables, t => t.Rewrite(first, Run(0, 1))));
        Assert.False(Do(tables, t => t.Write(first, Row(fresh: false), Run(0, 1))));
        Assert.False(Do(tables, t => t.Write(first, Row(fresh: true), Run(0, 1))));
        Assert.False(Do(tables, t => t.Delete(first)));
        Assert.Equal([0, 1, 2], tables.Tokens(first.Id).Tokens);
        Assert.True(Do(tables, t => t.Append(second, Run(3, 1))));
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task What_waits_goes_into_one_transaction_and_is_synced_only_where_a_turn_begins_or_ends(string place)
    {
        using var gate = new ManualResetEventSlim();
        using SessionStore store = Open(In(place) with { Committing = gate.Wait });
        Task<bool> first = store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 4)), syncs: true);
        // A hundred tokens of a hundred sessions come while the first commit is under way.
        Task<bool>[] tokens = [.. Enumerable.Range(0, 100).Select(i => store.WriteAsync(tables => tables.Append(Key(_id), Run(4 + i, 1))))];
        gate.Set();
        Assert.True(await first);
        Assert.All(await Task.WhenAll(tokens), Assert.True);
        (long commits, long syncs, long writes) = store.Counts;
        // Two, or three where the first was carried alone or with some of the others.
        Assert.InRange(commits, 1, 3);
        Assert.Equal((1, 101), (syncs, writes));
        Assert.Equal(104, (await store.FindAsync(_id))!.Tokens);
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task One_that_fails_fails_alone(string place)
    {
        using var gate = new ManualResetEventSlim();
        using SessionStore store = Open(In(place) with { Committing = gate.Wait });
        Task<bool> good = store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 4)));
        Task<bool> twice = store.WriteAsync(tables => tables.Append(Key(_id), Run(0, 1)));
        Task<bool> after = store.WriteAsync(tables => tables.Append(Key(_id), Run(4, 1)));
        gate.Set();
        Assert.True(await good);
        await Assert.ThrowsAsync<SessionStoreException>(() => twice);
        Assert.True(await after);
        (int[] tokens, _) = await store.ReadAsync(tables => tables.Tokens(Key(_id).Id));
        Assert.Equal([0, 1, 2, 3, 4], tokens);
    }

    [Theory]
    [InlineData(File, "the disk is full")]
    [InlineData(Redis, "its memory is full (maxmemory)")]
    public async Task A_full_disk_is_one_line_and_what_was_written_before_is_there(string place, string line)
    {
        using SessionStore store = Open(In(place, "--maxmemory", "4mb") with { MaxPages = 40 });
        int written = 0;
        var error = await Assert.ThrowsAsync<SessionStoreException>(async () =>
        {
            Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 0))));
            for (; ; written += 1000) Assert.True(await store.WriteAsync(tables => tables.Append(Key(_id), Run(written, 1000))));
        });
        Assert.Contains(line, error.Message, StringComparison.Ordinal);
        Assert.Equal(Enumerable.Range(0, written), (await store.ReadAsync(tables => tables.Tokens(Key(_id).Id))).Tokens);
        // Whoever deletes a session takes it over first. Then there is room again.
        Assert.NotNull(await store.WriteAsync(tables => tables.Take(Key(_id, 2), 1)));
        Assert.True(await store.WriteAsync(tables => tables.Delete(Key(_id, 2))));
        Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 100))));
    }

    [Fact]
    public void A_newer_version_is_refused_and_an_older_one_brought_up()
    {
        using (SessionTables tables = SqliteTables.Open(Database)) Assert.True(Do(tables, t => t.Write(Key(_id), Row(fresh: true), Run(0, 10))));
        string[] next = [.. SqliteTables.Versions, "alter table session add column note text"];
        // Statements of this build name no column that the next one adds, so they work there too.
        using (SessionTables tables = SqliteTables.Open(Database, versions: next)) Assert.Equal(10, tables.Find(_id)!.Tokens);
        var error = Assert.Throws<SessionStoreException>(() => SqliteTables.Open(Database));
        Assert.Equal($"sessions in {Database} are of version {next.Length}, this build knows them up to {next.Length - 1}: use a newer build, or another file with --sessions-db", error.Message);
    }

    [Fact]
    public void A_file_is_made_for_its_owner_alone_and_one_that_is_no_database_is_refused()
    {
        using (SessionTables tables = SqliteTables.Open(Database)) Assert.True(Do(tables, t => t.Write(Key(_id), Row(fresh: true), Run(0, 10))));
        if (!OperatingSystem.IsWindows()) Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, System.IO.File.GetUnixFileMode(Database));
        string other = Path.Combine(_folder, "story.txt");
        System.IO.File.WriteAllText(other, string.Concat(Enumerable.Repeat("Once upon a time. ", 300)));
        var error = Assert.Throws<SessionStoreException>(() => SqliteTables.Open(other));
        Assert.Contains("no database", error.Message, StringComparison.Ordinal);
        Assert.StartsWith("Once upon", System.IO.File.ReadAllText(other), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public void Sessions_are_listed_by_last_use_page_by_page_and_the_longest_unused_go_first(string place)
    {
        using SessionTables tables = SessionTables.Open(In(place));
        Guid[] ids = [.. Enumerable.Range(0, 6).Select(_ => Guid.NewGuid())];
        for (int i = 0; i < ids.Length; i++) Assert.True(Do(tables, t => t.Write(Key(ids[i]), Row(fresh: true, over: i != 0, now: 100 * i), Run(0, i))));
        Assert.Equal(ids.Reverse(), tables.List(10, null).Select(static s => s.Id));
        Assert.Equal([ids[3], ids[2]], tables.List(2, ids[4]).Select(static s => s.Id));
        Assert.Equal([ids[0], ids[1]], tables.Unused(before: 200, most: 10).Select(static s => s.Id));
        // The first has a turn that is not over.
        Assert.Equal([ids[1], ids[2]], tables.Excess(keep: 4, most: 10).Select(static s => s.Id));
        Assert.Empty(tables.Excess(keep: 6, most: 10));
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task Two_processes_on_one_database_wait_for_each_other(string place)
    {
        SessionStoreOptions shared = In(place);
        using SessionStore a = Open(shared), b = Open(shared);
        Guid[] ids = [.. Enumerable.Range(0, 40).Select(_ => Guid.NewGuid())];
        await Task.WhenAll(ids.Select((id, i) => (i % 2 == 0 ? a : b).WriteAsync(tables => tables.Write(Key(id), Row(fresh: true), Run(0, 100)), syncs: i % 3 == 0)));
        Assert.Equal(40, (await a.ListAsync(100)).Count);
        Assert.Equal(40, (await b.ListAsync(100)).Count);
    }

    /// <summary>STORE_TOKENS says how many tokens each writes; the output how many a second all did (docs/adr/0029).</summary>
    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task Sixteen_sessions_that_write_a_token_at_a_time_share_transactions(string place)
    {
        int count = int.TryParse(Environment.GetEnvironmentVariable("STORE_TOKENS"), out int asked) ? asked : 100;
        using SessionStore store = Open(In(place, "--appendonly", "yes"));
        Guid[] ids = [.. Enumerable.Range(0, 16).Select(_ => Guid.NewGuid())];
        foreach (Guid id in ids) Assert.True(await store.WriteAsync(tables => tables.Write(Key(id), Row(fresh: true), Run(0, 1)), syncs: true));
        (long commits, _, long writes) = store.Counts;
        long began = System.Diagnostics.Stopwatch.GetTimestamp();
        await Task.WhenAll(ids.Select(WriteAsync));
        double seconds = System.Diagnostics.Stopwatch.GetElapsedTime(began).TotalSeconds;
        Assert.Equal(16 * count, store.Counts.Writes - writes);
        output.WriteLine($"{place}: {16 * count / seconds:0} tokens/s, {(double)(store.Counts.Writes - writes) / (store.Counts.Commits - commits):0.0} in a transaction");
        foreach (Guid id in ids) Assert.Equal(count + 1, (await store.FindAsync(id))!.Tokens);

        async Task WriteAsync(Guid id)
        {
            for (int i = 1; i <= count; i++)
            {
                var token = new TokenRun(i, BitConverter.GetBytes(i), []);
                Assert.True(await store.WriteAsync(tables => tables.Append(Key(id), token)));
            }
        }
    }
}
