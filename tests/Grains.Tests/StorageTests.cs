using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Tests;
using Microsoft.Extensions.DependencyInjection;
using Orleans.Storage;

namespace FlashOrleans.Grains.Tests;

/// <summary>Sessions and what is stored of them: written before shown, one writer at a time, continued after a restart.</summary>
public sealed class StorageTests : IDisposable
{
    private const string File = "file", Redis = "redis";
    private readonly TestModel _model = new();
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-sessions-").FullName;

    private RedisServer? _redis;
    private string? _address;

    private string Database => Path.Combine(_folder, "sessions.db");

    public void Dispose()
    {
        _model.Dispose();
        _redis?.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>The same one for all silos of a test.</summary>
    private SessionStoreOptions In(string place) => new() { Path = place == File ? Database : _address ??= (_redis = RedisServer.Start("--appendonly", "yes")).Fresh() };

    private Task<GrainCluster> StartAsync(string place) => StartAsync(In(place));

    private Task<GrainCluster> StartAsync(SessionStoreOptions? sessions = null) =>
        GrainCluster.StartAsync(_model.Folder, options: (_, host) => host with { Sessions = sessions ?? new SessionStoreOptions { Path = Database } });

    private static SessionStore StoreOf(GrainCluster cluster) => cluster.Cluster.Silos[0].ServiceProvider.GetRequiredService<SessionStore>();

    private static SessionKey Key(Guid session, long owner) => new(session.ToByteArray(), owner);

    /// <summary>What another silo on the same database does when it believes ours dead.</summary>
    private async Task TakeElsewhereAsync(string place, Guid session, Func<SessionTables, SessionKey, Task<bool>>? then = null)
    {
        using var other = new SessionStore(In(place));
        other.Open();
        SessionKey key = Key(session, 42);
        Assert.NotNull(await other.WriteAsync(tables => tables.Take(key, 1)));
        if (then is not null) Assert.True(await other.WriteAsync(tables => then(tables, key)));
    }

    [Fact]
    public async Task A_token_is_shown_when_it_is_written_and_the_next_step_does_not_wait_for_that()
    {
        var gate = new StoreGate();
        await using GrainCluster cluster = await StartAsync(new SessionStoreOptions { Committing = gate.Pass });
        // Before the cluster, which waits for its store.
        using StoreGate opened = gate;
        FlashSession session = cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 40);
        // Being taken over is a write as well.
        await session.GetReportAsync();
        gate.Close();
        Task<TurnAccepted> starting = session.StartAsync(turn);
        await gate.Arrived();
        Assert.False(starting.IsCompleted);
        gate.LetOne();
        await starting;
        await gate.Arrived();
        // The first token waits to be written, and steps go on until as many chunks wait as may.
        IAsyncEnumerator<TokenChunk> reader = session.ReadAsync(turn.TurnId).GetAsyncEnumerator();
        Task<bool> first = reader.MoveNextAsync().AsTask();
        SessionReport held = await Turns.UntilAsync(session.GetReportAsync, static r => r is { Unread: 16, Readers: 1 }, "tokens ahead of the store");
        Assert.Equal((16, 16), (held.Steps, held.Generated));
        Assert.False(first.IsCompleted);
        gate.LetOne();
        Assert.True(await first);
        Assert.Equal(0, reader.Current.Index);
        List<int> tokens = [reader.Current.TokenId];
        // The other fifteen were one write.
        await gate.Arrived();
        Task<bool> second = reader.MoveNextAsync().AsTask();
        await session.GetReportAsync();
        Assert.False(second.IsCompleted);
        gate.Open();
        for (bool more = await second; more; more = await reader.MoveNextAsync()) tokens.Add(reader.Current.TokenId);
        await reader.DisposeAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 40), tokens);
    }

    [Fact]
    public async Task The_last_chunk_is_shown_when_the_end_of_its_turn_is_written()
    {
        var gate = new StoreGate();
        await using GrainCluster cluster = await StartAsync(new SessionStoreOptions { Committing = gate.Pass });
        // Before the cluster, which waits for its store.
        using StoreGate opened = gate;
        FlashSession session = cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 1);
        // Being taken over is a write as well.
        await session.GetReportAsync();
        gate.Close();
        Task<TurnAccepted> starting = session.StartAsync(turn);
        await gate.Arrived();
        gate.LetOne();
        await starting;
        Task<List<TokenChunk>> reading = session.ReadAsync(turn.TurnId).AllAsync();
        await gate.Arrived();
        Assert.False((await session.GetReportAsync()).Running);
        Assert.False(reading.IsCompleted);
        gate.Open();
        Assert.Equal(FinishReason.Length, Assert.Single(await reading).Finish);
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task A_restart_in_the_middle_of_an_answer_continues_it_with_the_same_tokens(string place)
    {
        SamplingFacts sampling = new(0.8f, 9);
        int[] alone = _model.TokensAlone(_model.Prompt(1, 40), 120, sampling);
        TurnRequest turn = Turns.Of(_model.Prompt(1, 40), 120, sampling);
        Guid id;
        List<TokenChunk> chunks = [];
        await using (GrainCluster first = await StartAsync(place))
        {
            FlashSession session = first.Client.OpenSession();
            id = session.Id;
            await foreach (TokenChunk chunk in session.SendAsync(turn))
            {
                chunks.Add(chunk);
                if (chunks.Count == 25) break;
            }
            // Nobody says goodbye.
            await first.Cluster.KillSiloAsync(first.Cluster.Silos[0]);
        }
        await using GrainCluster second = await StartAsync(place);
        FlashSession again = second.Client.OpenSession(id);
        await foreach (TokenChunk chunk in again.ResumeAsync(turn, chunks.Count)) chunks.Add(chunk);
        Assert.Equal(alone, chunks.Tokens());
        Assert.Equal(Enumerable.Range(0, 120), chunks.Select(static c => c.Index));
        Assert.Equal(FinishReason.Length, chunks[^1].Finish);
        // It is the same turn: it did not run twice, and the next one goes on behind it.
        Assert.True((await again.StartAsync(turn)).Attached);
        int[] history = [.. _model.Prompt(1, 40), .. alone];
        Assert.Equal(history, await again.GetTokensAsync());
        List<TokenChunk> next = await again.SendAsync(Turns.Of([7], 5)).AllAsync();
        Assert.Equal(_model.TokensAlone([.. _model.Prompt(1, 40), .. alone, 7], 5), next.Tokens());
    }

    [Fact]
    public async Task A_redis_that_dies_and_comes_back_in_the_middle_of_an_answer_is_not_seen_in_it()
    {
        await using GrainCluster cluster = await StartAsync(In(Redis) with { PatienceMilliseconds = 60_000 });
        FlashSession session = cluster.Client.OpenSession();
        List<TokenChunk> chunks = [];
        await foreach (TokenChunk chunk in session.SendAsync(Turns.Of(_model.Prompt(1), 120)))
        {
            chunks.Add(chunk);
            if (chunks.Count != 20) continue;
            _redis!.Kill();
            _redis.Restart();
        }
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 120), chunks.Tokens());
        Assert.Equal(FinishReason.Length, chunks[^1].Finish);
        int[] history = [.. _model.Prompt(1), .. chunks.Tokens()];
        Assert.Equal(history, (await StoreOf(cluster).ReadAsync(tables => tables.Tokens(session.Id.ToByteArray()))).Tokens);
    }

    [Fact]
    public async Task A_session_goes_on_in_another_silo_that_shares_nothing_but_redis()
    {
        SessionStoreOptions shared = In(Redis);
        await using GrainCluster cluster = await GrainCluster.StartAsync(_model.Folder, silos: 2, options: (_, host) => host with { Sessions = shared });
        FlashSession session = cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 80);
        List<TokenChunk> chunks = [];
        await foreach (TokenChunk chunk in session.SendAsync(turn))
        {
            chunks.Add(chunk);
            if (chunks.Count == 20) break;
        }
        ISessionGrain grain = cluster.Grains.GetGrain<ISessionGrain>(session.Id);
        await cluster.Cluster.KillSiloAsync(cluster.Cluster.Silos.Single(silo => cluster.IsOn(silo, grain)));
        await foreach (TokenChunk chunk in session.ResumeAsync(turn, chunks.Count)) chunks.Add(chunk);
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 80), chunks.Tokens());
        Assert.Equal(Enumerable.Range(0, 80), chunks.Select(static c => c.Index));
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task A_turn_that_was_over_before_a_restart_is_shown_again_and_not_run(string place)
    {
        TurnRequest turn = Turns.Of(_model.Prompt(1), 8);
        Guid id;
        List<TokenChunk> shown;
        await using (GrainCluster first = await StartAsync(place))
        {
            FlashSession session = first.Client.OpenSession();
            id = session.Id;
            shown = await session.SendAsync(turn).AllAsync();
        }
        await using GrainCluster second = await StartAsync(place);
        FlashSession again = second.Client.OpenSession(id);
        List<TokenChunk> replayed = await again.SendAsync(turn).AllAsync();
        Assert.Equal(shown.Tokens(), replayed.Tokens());
        Assert.Equal((FinishReason.Length, 8), (replayed[^1].Finish, replayed[^1].Usage!.GeneratedTokens));
        Assert.Equal(0, (await again.GetReportAsync()).Steps);
    }

    [Fact]
    public async Task A_turn_whose_last_token_was_written_and_whose_end_was_not_ends_after_a_restart()
    {
        int[] alone = _model.TokensAlone(_model.Prompt(1), 6);
        TurnRequest turn = Turns.Of(_model.Prompt(1), 6);
        Guid id;
        await using (GrainCluster first = await StartAsync())
        {
            FlashSession session = first.Client.OpenSession();
            id = session.Id;
            await session.SendAsync(turn with { MaxTokens = 3 }).AllAsync();
        }
        using (var connection = new Microsoft.Data.Sqlite.SqliteConnection($"Data Source={Database};Pooling=False"))
        {
            // As a kill between the two leaves it: the record of the start, all tokens behind it.
            await using GrainCluster maker = await GrainCluster.StartAsync(_model.Folder);
            var records = maker.Cluster.Silos[0].ServiceProvider.GetRequiredService<Orleans.Serialization.Serializer<TurnRecord>>();
            connection.Open();
            using var command = connection.CreateCommand();
            command.CommandText = "update session set over = 0, turn = $turn";
            command.Parameters.AddWithValue("$turn", records.SerializeToArray(new TurnRecord { Request = turn with { MaxTokens = 3, Tokens = null }, Seed = 1, PromptTokens = 5 }));
            Assert.Equal(1, command.ExecuteNonQuery());
        }
        await using GrainCluster second = await StartAsync();
        List<TokenChunk> chunks = await second.Client.OpenSession(id).ResumeAsync(turn, 0).AllAsync();
        Assert.Equal(alone[..3], chunks.Tokens());
        Assert.Equal(FinishReason.Length, chunks[^1].Finish);
        Assert.True((await StoreOf(second).FindAsync(id))!.Over);
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task An_activation_that_lost_its_session_while_idle_says_so_and_the_next_one_goes_on_from_there(string place)
    {
        await using GrainCluster cluster = await StartAsync(place);
        FlashSession session = cluster.Client.OpenSession();
        await session.SendAsync(Turns.Of(_model.Prompt(1), 5)).AllAsync();
        int[] theirs = [.. _model.Prompt(2)];
        await TakeElsewhereAsync(place, session.Id, (tables, key) => tables.Rewrite(key, TokensWrite.Run(0, theirs, [])));
        ISessionGrain grain = cluster.Grains.GetGrain<ISessionGrain>(session.Id);
        var error = await Assert.ThrowsAsync<InconsistentStateException>(() => grain.StartTurn(Turns.Of([7], 5)));
        Assert.Contains("continued elsewhere", error.Message, StringComparison.Ordinal);
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of([7], 5)).AllAsync();
        Assert.Equal(_model.TokensAlone([.. theirs, 7], 5), chunks.Tokens());
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task An_activation_that_lost_its_session_in_mid_answer_leaves_and_its_reader_goes_on_with_the_winner(string place)
    {
        await using GrainCluster cluster = await StartAsync(place);
        FlashSession session = cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 80);
        List<TokenChunk> chunks = [];
        int epoch = 0;
        await foreach (TokenChunk chunk in session.SendAsync(turn))
        {
            chunks.Add(chunk);
            if (chunks.Count != 20) continue;
            epoch = (await session.GetReportAsync()).Epoch;
            await TakeElsewhereAsync(place, session.Id);
        }
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 80), chunks.Tokens());
        Assert.Equal(Enumerable.Range(0, 80), chunks.Select(static c => c.Index));
        // The activation that ended it came after the one that was robbed.
        Assert.True((await session.GetReportAsync()).Epoch >= epoch + 2);
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task A_session_that_somebody_else_deleted_starts_anew(string place)
    {
        await using GrainCluster cluster = await StartAsync(place);
        FlashSession session = cluster.Client.OpenSession();
        await session.SendAsync(Turns.Of(_model.Prompt(1), 5)).AllAsync();
        await TakeElsewhereAsync(place, session.Id, static (tables, key) => tables.Delete(key));
        List<TokenChunk> second = await session.SendAsync(Turns.Of(_model.Prompt(2), 5)).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(2), 5), second.Tokens());
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task A_store_that_fails_ends_the_turn_with_one_line_and_keeps_what_was_written(string place)
    {
        var gate = new StoreGate();
        await using GrainCluster cluster = await StartAsync(In(place) with { Committing = gate.Pass });
        // Before the cluster, which waits for its store.
        using StoreGate opened = gate;
        FlashSession session = cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 200);
        List<TokenChunk> chunks = [];
        await foreach (TokenChunk chunk in session.SendAsync(turn))
        {
            chunks.Add(chunk);
            if (chunks.Count == 20) gate.Fail = true;
        }
        Assert.Equal(FinishReason.Failed, chunks[^1].Finish);
        Assert.Contains("sessions cannot be written", chunks[^1].Error, StringComparison.Ordinal);
        int[] said = chunks.Tokens();
        Assert.InRange(said.Length, 20, 199);
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), said.Length), said);
        int[] history = [.. _model.Prompt(1), .. said];
        Assert.Equal(history, await session.GetTokensAsync());
        var refused = await Assert.ThrowsAsync<SessionStoreException>(() => session.StartAsync(Turns.Of([7], 5)));
        Assert.Contains("sessions cannot be written", refused.Message, StringComparison.Ordinal);

        gate.Fail = false;
        List<TokenChunk> next = await session.SendAsync(Turns.Of([7], 5)).AllAsync();
        Assert.Equal(_model.TokensAlone([.. history, 7], 5), next.Tokens());
    }

    [Theory]
    [InlineData(File)]
    [InlineData(Redis)]
    public async Task A_session_that_is_not_to_be_kept_leaves_no_row_and_one_that_is_kept_stays_so(string place)
    {
        await using GrainCluster cluster = await StartAsync(place);
        FlashSession session = cluster.Client.OpenSession();
        int[] first = (await session.SendAsync(Turns.Of(_model.Prompt(1), 5) with { Keep = false }).AllAsync()).Tokens();
        Assert.Empty(await StoreOf(cluster).ListAsync(10));
        int[] second = (await session.SendAsync(Turns.Of([7], 5)).AllAsync()).Tokens();
        SessionInfo kept = Assert.Single(await StoreOf(cluster).ListAsync(10));
        Assert.Equal((session.Id, TestModel.Name, 16, true), (kept.Id, kept.Model, kept.Tokens, kept.Over));
        await session.SendAsync(Turns.Of([8], 5) with { Keep = false }).AllAsync();
        await cluster.Cluster.DeactivateAsync(cluster.Grains.GetGrain<ISessionGrain>(session.Id));
        int[] history = [.. _model.Prompt(1), .. first, 7, .. second, 8];
        Assert.Equal(history, (await session.GetTokensAsync())[..17]);
        await session.CloseAsync();
        Assert.Empty(await StoreOf(cluster).ListAsync(10));
    }

    /// <summary>Commits wait in front of it, or fail.</summary>
    private sealed class StoreGate : IDisposable
    {
        private readonly SemaphoreSlim _arrived = new(0), _permits = new(0);
        private volatile bool _closed;

        public bool Fail { get; set; }

        public void Pass()
        {
            if (Fail) throw new IOException("no space left");
            if (!_closed) return;
            _arrived.Release();
            _permits.Wait();
        }

        public void Close() => _closed = true;

        /// <summary>Completes when a commit waits.</summary>
        public async Task Arrived() => Assert.True(await _arrived.WaitAsync(TimeSpan.FromMinutes(1)), "nothing was written");

        public void LetOne() => _permits.Release();

        public void Open()
        {
            _closed = false;
            _permits.Release(1000);
        }

        public void Dispose()
        {
            Open();
            _arrived.Dispose();
        }
    }
}
