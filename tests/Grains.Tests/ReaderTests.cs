using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using Microsoft.Extensions.Time.Testing;

namespace FlashOrleans.Grains.Tests;

/// <summary>Readers that sleep or vanish, on a clock that only the test moves.</summary>
public sealed class ReaderTests : IAsyncLifetime
{
    private readonly TestModel _model = new();
    private readonly FakeTimeProvider _time = new(new DateTimeOffset(2026, 1, 1, 0, 0, 0, TimeSpan.Zero));
    private GrainCluster _cluster = null!;

    public async ValueTask InitializeAsync() => _cluster = await GrainCluster.StartAsync(_model.Folder, options: (_, host) => host with { Time = _time });

    public async ValueTask DisposeAsync()
    {
        await _cluster.DisposeAsync();
        _model.Dispose();
    }

    private static Task<SessionReport> Paused(FlashSession session, int unread = 16) =>
        Turns.UntilAsync(session.GetReportAsync, r => r.Unread == unread, $"{unread} unread chunks");

    [Fact]
    public async Task A_sleeping_reader_pauses_generation_at_16_unread_and_then_gets_everything()
    {
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 100);
        await session.StartAsync(turn);
        SessionReport paused = await Paused(session);
        Assert.Equal(16, paused.Generated);
        Assert.Equal(16, paused.Steps);
        // Somebody else's whole answer goes by, and it still waits.
        await _cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(2), 30)).AllAsync();
        Assert.Equal(16, (await session.GetReportAsync()).Steps);
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 100), (await session.ReadAsync(turn.TurnId).AllAsync()).Tokens());
    }

    [Fact]
    public async Task Nobody_reading_for_30_seconds_abandons_the_turn_and_keeps_its_tokens()
    {
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 100);
        await session.StartAsync(turn);
        await Paused(session);
        _time.Advance(TimeSpan.FromSeconds(29));
        Assert.True((await session.GetReportAsync()).Running);
        _time.Advance(TimeSpan.FromSeconds(2));
        SessionReport report = await Turns.UntilAsync(session.GetReportAsync, r => !r.Running, "the end of the turn");
        Assert.Equal(FinishReason.Abandoned, report.Finish);
        List<TokenChunk> kept = await session.ReadAsync(turn.TurnId).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 16), kept.Tokens());
        Assert.Equal(FinishReason.Abandoned, kept[^1].Finish);
        Assert.Equal(5 + 16, (await session.GetTokensAsync()).Length);
    }

    [Fact]
    public async Task After_a_standstill_of_the_process_a_reader_has_a_moment_to_come_back()
    {
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 100);
        await session.StartAsync(turn);
        await Paused(session);
        // All timers at once, as after a stop of two minutes.
        _time.Advance(TimeSpan.FromMinutes(2));
        _time.Advance(TimeSpan.FromSeconds(1));
        Assert.True((await session.GetReportAsync()).Running);
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 100), (await session.ReadAsync(turn.TurnId).AllAsync()).Tokens());
    }

    [Fact]
    public async Task A_stream_that_ends_without_its_reader_having_left_does_not_cancel_the_turn()
    {
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 100);
        await session.StartAsync(turn);
        // What Orleans does to streams that nobody asked anything for half a minute: they are disposed, and their tokens cancelled.
        using (var ended = new CancellationTokenSource())
        {
            await using IAsyncEnumerator<TokenChunk> stream = _cluster.Grains.GetGrain<ISessionGrain>(session.Id).Read(turn.TurnId, 0, ended.Token).GetAsyncEnumerator(ended.Token);
            Assert.True(await stream.MoveNextAsync());
            await ended.CancelAsync();
        }
        await Turns.UntilAsync(session.GetReportAsync, r => r.Readers == 0, "a stream that ended");
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 100), (await session.ReadAsync(turn.TurnId).AllAsync()).Tokens());
    }

    [Fact]
    public async Task A_reader_that_comes_back_within_the_lease_gets_the_whole_answer()
    {
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 100);
        await session.StartAsync(turn);
        await foreach (TokenChunk chunk in session.ReadAsync(turn.TurnId))
        {
            if (chunk.Index == 2) break;
        }
        await Turns.UntilAsync(session.GetReportAsync, r => r is { Readers: 0, Unread: 16 }, "a paused turn without readers");
        _time.Advance(TimeSpan.FromSeconds(25));
        List<TokenChunk> rest = await session.ReadAsync(turn.TurnId, fromIndex: 3).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 100)[3..], rest.Tokens());
        Assert.Equal(FinishReason.Length, rest[^1].Finish);
    }

    [Fact]
    public async Task A_step_that_is_only_slow_is_never_submitted_again()
    {
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        // The step waits at a layer that cannot come up yet.
        await _cluster.Cluster.DeactivateAsync(_cluster.Layer(_model, 1));
        using var gate = new ManualResetEventSlim();
        Task<int> busy = _cluster.Host.OnOpenerAsync(() =>
        {
            gate.Wait();
            return 0;
        });
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 1);
        await session.StartAsync(turn);
        for (int asked = 1; asked <= 3; asked++)
        {
            _time.Advance(TimeSpan.FromSeconds(5));
            await Turns.UntilAsync(session.GetReportAsync, r => r.StillHeld >= asked, $"watchdog round {asked}");
        }
        // A reader that waits through silent spells gets its token all the same.
        Task<List<TokenChunk>> reading = session.ReadAsync(turn.TurnId).AllAsync();
        for (int spell = 0; spell < 3; spell++)
        {
            await Turns.UntilAsync(session.GetReportAsync, r => r.Readers == 1, "a waiting reader");
            _time.Advance(TimeSpan.FromSeconds(2.5));
        }
        gate.Set();
        await busy;
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 1), (await reading).Tokens());
        SessionReport report = await session.GetReportAsync();
        Assert.Equal(1, report.Steps);
        Assert.Equal(0, report.Resubmits);
    }
}
