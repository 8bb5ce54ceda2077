using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;
using Orleans.Runtime;

namespace FlashOrleans.Grains.Tests;

/// <summary>Slow is not lost: wherever a step waits, the watchdog finds it, on a clock that only the test moves.</summary>
public sealed class WatchdogTests : IAsyncLifetime
{
    private readonly TestModel _model = new();
    private readonly FakeTimeProvider _time = new(new DateTimeOffset(2026, 1, 1, 0, 0, 0, TimeSpan.Zero));
    private readonly List<GatedReader> _readers = [];
    private readonly CallGate _calls = new();
    private readonly Deaf _deaf = new();
    private GrainCluster _cluster = null!;

    public ValueTask InitializeAsync() => ValueTask.CompletedTask;

    public async ValueTask DisposeAsync()
    {
        foreach (GatedReader reader in _readers) reader.Open();
        await _cluster.DisposeAsync();
        foreach (GatedReader reader in _readers) reader.Dispose();
        _model.Dispose();
    }

    private async Task StartAsync(short silos)
    {
        for (int i = 0; i < silos; i++) _readers.Add(new GatedReader());
        _cluster = await GrainCluster.StartAsync(_model.Folder, silos, (silo, host) => host with
        {
            Time = _time,
            Layers = silos == 1 ? null : silo == 0 ? "0,2" : "1,3",
            Layer = new LayerOptions { Window = 0.02, Prefetch = false },
            Reader = () => _readers[silo],
        }, silo =>
        {
            silo.Services.AddSingleton<IIncomingGrainCallFilter>(_calls);
            silo.Services.AddSingleton<IOutgoingGrainCallFilter>(_deaf);
        });
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
    }

    private async Task<(FlashSession Session, TurnRequest Turn)> SendAsync()
    {
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 1);
        await session.StartAsync(turn);
        return (session, turn);
    }

    /// <summary>The watchdog asks, several times, and each time somebody says that he has it.</summary>
    private async Task HeldAsync(FlashSession session)
    {
        for (int asked = 1; asked <= 3; asked++)
        {
            _time.Advance(TimeSpan.FromSeconds(2));
            SessionReport report = await Turns.UntilAsync(session.GetReportAsync, r => r.StillHeld >= asked || r.Resubmits > 0, $"watchdog round {asked}");
            Assert.Equal(0, report.Resubmits);
        }
    }

    private async Task OnceAsync(FlashSession session, TurnRequest turn)
    {
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 1), (await session.ReadAsync(turn.TurnId).AllAsync()).Tokens());
        SessionReport report = await session.GetReportAsync();
        Assert.Equal((1, 0, 0, 0), (report.Steps, report.Resubmits, report.Replays, report.Stale));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task A_step_parked_on_a_slow_read_is_held(short silos)
    {
        await StartAsync(silos);
        // With two silos: the layers on the other one.
        _readers[^1].Close();
        (FlashSession session, TurnRequest turn) = await SendAsync();
        await _readers[^1].Parked();
        await HeldAsync(session);
        _readers[^1].Open();
        await OnceAsync(session, turn);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task A_wave_that_was_sent_and_not_acknowledged_is_held(short silos)
    {
        await StartAsync(silos);
        string late = new LayerKey(_model.Package.Hash, 2).ToString();
        _calls.Close(nameof(ILayerGrain.Forward), grain => ((IAddressable)grain!).GetPrimaryKeyString() == late);
        (FlashSession session, TurnRequest turn) = await SendAsync();
        await _calls.Arrived();
        await HeldAsync(session);
        _calls.Open();
        await OnceAsync(session, turn);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task An_outcome_on_its_way_to_the_session_is_held(short silos)
    {
        await StartAsync(silos);
        _calls.Close(nameof(ISessionGrain.Deliver));
        (FlashSession session, TurnRequest turn) = await SendAsync();
        await _calls.Arrived();
        await HeldAsync(session);
        _calls.Open();
        await OnceAsync(session, turn);
    }

    [Fact]
    public async Task A_host_too_busy_to_answer_is_asked_again_and_one_that_is_gone_holds_nothing()
    {
        await StartAsync(silos: 1);
        _readers[0].Close();
        (FlashSession session, TurnRequest turn) = await SendAsync();
        await _readers[0].Parked();

        _deaf.Error = new TimeoutException("too busy");
        long held = 0;
        for (int asked = 1; asked <= 3; asked++)
        {
            _time.Advance(TimeSpan.FromSeconds(2));
            await Turns.UntilAsync(async () =>
            {
                // Until its own call is acknowledged the session itself has the step, and asks nobody.
                long now = (await session.GetReportAsync()).StillHeld;
                if (now > held) _time.Advance(TimeSpan.FromSeconds(2));
                held = now;
                return _deaf.Asked;
            }, n => n >= asked, $"watchdog round {asked}");
            SessionReport unknown = await session.GetReportAsync();
            Assert.Equal((0L, held), (unknown.Resubmits, unknown.StillHeld));
        }
        _deaf.Error = null;
        await HeldAsync(session);

        _deaf.Error = new SiloUnavailableException("gone");
        _time.Advance(TimeSpan.FromSeconds(2));
        await Turns.UntilAsync(session.GetReportAsync, r => r.Resubmits > 0, "a resubmission");
        _deaf.Error = null;
        _readers[0].Open();
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 1), (await session.ReadAsync(turn.TurnId).AllAsync()).Tokens());
    }

    /// <summary>Hosts that do not answer the watchdog.</summary>
    private sealed class Deaf : IOutgoingGrainCallFilter
    {
        private int _asked;

        public Exception? Error { get; set; }
        public int Asked => Volatile.Read(ref _asked);

        public Task Invoke(IOutgoingGrainCallContext context)
        {
            if (context.MethodName != nameof(ILayerGrain.Holds) || Error is not { } error) return context.Invoke();
            Interlocked.Increment(ref _asked);
            return Task.FromException(error);
        }
    }
}
