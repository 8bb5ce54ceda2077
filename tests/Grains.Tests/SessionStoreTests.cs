using FlashOrleans.Abstractions;
using Microsoft.Data.Sqlite;

namespace FlashOrleans.Grains.Tests;

/// <summary>The store alone: rows, ownership, transactions, files that cannot be used.</summary>
public sealed class SessionStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-store-").FullName;
    private readonly Guid _id = Guid.NewGuid();

    private string Database => Path.Combine(_folder, "deeper", "sessions.db");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static SessionKey Key(Guid id, long owner = 1) => new(id.ToByteArray(), owner);

    private static TurnRow Row(bool fresh, bool over = false, long now = 1000) =>
        new() { Epoch = 5, Package = "p", Model = "m", Now = now, Turn = Guid.NewGuid(), Over = over, Record = [1, 2, 3], New = fresh };

    private static TokenRun Run(int start, int count, int first = 0, bool lengths = false)
    {
        int[] tokens = [.. Enumerable.Range(first, start + count)];
        return TokensWrite.Run(start, tokens, lengths ? tokens : []);
    }

    private SessionStore Open(SessionStoreOptions? options = null)
    {
        var store = new SessionStore(options ?? new SessionStoreOptions { Path = Database });
        store.Open();
        return store;
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_history_is_appended_to_cut_anywhere_and_read_as_one(bool rotates)
    {
        using SessionTables tables = SessionTables.Open(null);
        SessionKey key = Key(_id);
        Assert.True(tables.Write(key, Row(fresh: true), Run(0, 1000, lengths: rotates)));
        for (int i = 1000; i < 1010; i++) Assert.True(tables.Append(key, Run(i, 1, lengths: rotates)));
        Assert.Equal(Enumerable.Range(0, 1010), tables.Tokens(key.Id).Tokens);
        Assert.Equal(Enumerable.Range(0, rotates ? 1010 : 0), tables.Tokens(key.Id).Lengths);
        foreach (int cut in new[] { 1005, 1000, 700, 256, 1, 0 })
        {
            // From the cut on other tokens, and nothing of what was behind it.
            Assert.True(tables.Write(key, Row(fresh: false), Run(cut, 3, first: 50, lengths: rotates)));
            (int[] tokens, int[] lengths) = tables.Tokens(key.Id);
            Assert.Equal([.. Enumerable.Range(0, cut), .. Enumerable.Range(50 + cut, 3)], tokens);
            Assert.Equal(rotates ? tokens : [], lengths);
            Assert.True(tables.Write(key, Row(fresh: false), Run(cut, 1010 - cut, lengths: rotates)));
        }
        Assert.Equal(1010, tables.Find(_id)!.Tokens);
        Assert.True(tables.Delete(key));
        Assert.Null(tables.Find(_id));
        Assert.Empty(tables.Tokens(key.Id).Tokens);
    }

    [Fact]
    public void Taking_a_session_over_raises_its_epoch_and_stops_the_one_that_had_it()
    {
        using SessionTables tables = SessionTables.Open(null);
        SessionKey first = Key(_id, 1), second = Key(_id, 2);
        Assert.Null(tables.Take(first, 10));
        Assert.True(tables.Write(first, Row(fresh: true), Run(0, 3)));
        StoredSession taken = tables.Take(second, 3)!;
        Assert.Equal((6, "p", 1000L), (taken.Epoch, taken.Package, taken.Used));
        Assert.Equal([1, 2, 3], taken.Turn);
        Assert.Equal(100, tables.Take(second, 100)!.Epoch);
        Assert.False(tables.Append(first, Run(3, 1)));
        Assert.False(tables.Append(first, Run(3, 1000)));
        Assert.False(tables.Rewrite(first, Run(0, 1)));
        Assert.False(tables.Write(first, Row(fresh: false), Run(0, 1)));
        Assert.False(tables.Write(first, Row(fresh: true), Run(0, 1)));
        Assert.False(tables.Delete(first));
        Assert.Equal([0, 1, 2], tables.Tokens(first.Id).Tokens);
        Assert.True(tables.Append(second, Run(3, 1)));
    }

    [Fact]
    public async Task What_waits_goes_into_one_transaction_and_is_synced_only_where_a_turn_begins_or_ends()
    {
        using var gate = new ManualResetEventSlim();
        using SessionStore store = Open(new SessionStoreOptions { Path = Database, Committing = gate.Wait });
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

    [Fact]
    public async Task One_that_fails_fails_alone()
    {
        using var gate = new ManualResetEventSlim();
        using SessionStore store = Open(new SessionStoreOptions { Committing = gate.Wait });
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

    [Fact]
    public async Task A_full_disk_is_one_line_and_what_was_written_before_is_there()
    {
        using SessionStore store = Open(new SessionStoreOptions { Path = Database, MaxPages = 40 });
        int written = 0;
        var error = await Assert.ThrowsAsync<SessionStoreException>(async () =>
        {
            Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 0))));
            for (; ; written += 1000) Assert.True(await store.WriteAsync(tables => tables.Append(Key(_id), Run(written, 1000))));
        });
        Assert.Contains("the disk is full", error.Message, StringComparison.Ordinal);
        Assert.Equal(Enumerable.Range(0, written), (await store.ReadAsync(tables => tables.Tokens(Key(_id).Id))).Tokens);
        // Room again.
        Assert.True(await store.WriteAsync(tables => tables.Delete(Key(_id))));
        Assert.True(await store.WriteAsync(tables => tables.Write(Key(_id), Row(fresh: true), Run(0, 100))));
    }

    [Fact]
    public void A_newer_version_is_refused_and_an_older_one_brought_up()
    {
        using (SessionTables tables = SessionTables.Open(Database)) Assert.True(tables.Write(Key(_id), Row(fresh: true), Run(0, 10)));
        string[] next = [.. SessionTables.Versions, "alter table session add column note text"];
        // Statements of this build name no column that the next one adds, so they work there too.
        using (SessionTables tables = SessionTables.Open(Database, versions: next)) Assert.Equal(10, tables.Find(_id)!.Tokens);
        var error = Assert.Throws<SessionStoreException>(() => SessionTables.Open(Database));
        Assert.Equal($"sessions in {Database} are of version {next.Length}, this build knows them up to {next.Length - 1}: use a newer build, or another file with --sessions-db", error.Message);
    }

    [Fact]
    public void A_file_is_made_for_its_owner_alone_and_one_that_is_no_database_is_refused()
    {
        using (SessionTables tables = SessionTables.Open(Database)) Assert.True(tables.Write(Key(_id), Row(fresh: true), Run(0, 10)));
        if (!OperatingSystem.IsWindows()) Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Database));
        string other = Path.Combine(_folder, "story.txt");
        File.WriteAllText(other, string.Concat(Enumerable.Repeat("Once upon a time. ", 300)));
        var error = Assert.Throws<SessionStoreException>(() => SessionTables.Open(other));
        Assert.Contains("no database", error.Message, StringComparison.Ordinal);
        Assert.StartsWith("Once upon", File.ReadAllText(other), StringComparison.Ordinal);
    }

    [Fact]
    public void Sessions_are_listed_by_last_use_page_by_page_and_the_longest_unused_go_first()
    {
        using SessionTables tables = SessionTables.Open(null);
        Guid[] ids = [.. Enumerable.Range(0, 6).Select(_ => Guid.NewGuid())];
        for (int i = 0; i < ids.Length; i++) Assert.True(tables.Write(Key(ids[i]), Row(fresh: true, over: i != 0, now: 100 * i), Run(0, i)));
        Assert.Equal(ids.Reverse(), tables.List(10, null).Select(static s => s.Id));
        Assert.Equal([ids[3], ids[2]], tables.List(2, ids[4]).Select(static s => s.Id));
        Assert.Equal([ids[0], ids[1]], tables.Unused(before: 200, most: 10).Select(static s => s.Id));
        // The first has a turn that is not over.
        Assert.Equal([ids[1], ids[2]], tables.Excess(keep: 4, most: 10).Select(static s => s.Id));
        Assert.Empty(tables.Excess(keep: 6, most: 10));
    }

    [Fact]
    public async Task Two_processes_on_one_file_wait_for_each_other()
    {
        using SessionStore a = Open(), b = Open();
        Guid[] ids = [.. Enumerable.Range(0, 40).Select(_ => Guid.NewGuid())];
        await Task.WhenAll(ids.Select((id, i) => (i % 2 == 0 ? a : b).WriteAsync(tables => tables.Write(Key(id), Row(fresh: true), Run(0, 100)), syncs: i % 3 == 0)));
        Assert.Equal(40, (await a.ListAsync(100)).Count);
        Assert.Equal(40, (await b.ListAsync(100)).Count);
    }
}
