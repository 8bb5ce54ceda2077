using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Grains.Tests;

/// <summary>How many grain calls a token takes, and what merges on the way.</summary>
public sealed class WaveTests : IAsyncLifetime
{
    private readonly TestModel _model = new();
    private readonly Mischief _calls = new(seed: 1, share: 0);
    private GrainCluster _cluster = null!;

    public async ValueTask InitializeAsync() => _cluster = await GrainCluster.StartAsync(_model.Folder, configure: silo =>
    {
        silo.Services.AddSingleton<IIncomingGrainCallFilter>(_calls);
    });

    public async ValueTask DisposeAsync()
    {
        await _cluster.DisposeAsync();
        _model.Dispose();
    }

    [Fact]
    public async Task Grain_calls_are_waves_times_layers()
    {
        FlashSession session = _cluster.Client.OpenSession();
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of(_model.Prompt(1, length: 150), 30)).AllAsync();
        // 150 tokens in chunks of 64 are three steps, the last of which gives the first token.
        SessionReport report = await session.GetReportAsync();
        Assert.Equal(30, chunks.Count);
        Assert.Equal(3 + 29, report.Steps);
        Assert.Equal(report.Steps * _model.Config.Layers, _calls.Forwards);
        ModelReport model = await _cluster.Client.GetReportAsync(TestModel.Name);
        Assert.All(model.Layers, l =>
        {
            Assert.Equal(report.Steps, l.WavesIn);
            Assert.Equal(report.Steps, l.Counters.Waves);
            Assert.Equal(l.Layer == _model.Config.Layers - 1 ? 0 : report.Steps, l.WavesOut);
        });
    }

    [Fact]
    public async Task Staggered_arrivals_merge_again_at_a_deeper_layer()
    {
        const int late = 2;
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        int[][] prompts = [.. Enumerable.Range(0, 3).Select(i => _model.Prompt(i))];
        // A deeper layer leaves and cannot come back yet: its loader is busy.
        await _cluster.Cluster.DeactivateAsync(_cluster.Layer(_model, late));
        using var gate = new ManualResetEventSlim();
        Task<int> busy = _cluster.Host.OnOpenerAsync(() =>
        {
            gate.Wait();
            return 0;
        });

        var stories = new List<Task<List<TokenChunk>>>();
        for (int i = 0; i < 3; i++)
        {
            // Each enters the first layer alone, after the one before it went through.
            FlashSession session = _cluster.Client.OpenSession();
            TurnRequest turn = Turns.Of(prompts[i], 1);
            await session.StartAsync(turn);
            await Turns.UntilAsync(() => _cluster.Layer(_model, late).Report(), r => r.WavesIn == i + 1, $"wave {i + 1} waiting at layer {late}");
            stories.Add(session.ReadAsync(turn.TurnId).AllAsync());
        }
        LayerReport first = await _cluster.Layer(_model, 0).Report();
        Assert.Equal(3, first.Counters.Waves);
        gate.Set();
        await busy;
        List<TokenChunk>[] all = await Task.WhenAll(stories);

        for (int i = 0; i < 3; i++) Assert.Equal(_model.TokensAlone(prompts[i], 1), all[i].Tokens());
        for (int k = late; k < _model.Config.Layers; k++)
        {
            LayerReport report = await _cluster.Layer(_model, k).Report();
            // Three messages came in where they met, one to every layer below.
            Assert.Equal(k == late ? 3 : 1, report.WavesIn);
            Assert.Equal(1, report.Counters.Waves);
            Assert.Equal(3, report.Counters.Slots);
        }
    }

    [Fact]
    public async Task Hints_reach_the_next_layer_and_change_no_token()
    {
        List<TokenChunk> chunks = await _cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(4), 60)).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(4), 60), chunks.Tokens());
        ModelReport report = await _cluster.Client.GetReportAsync(TestModel.Name);
        Assert.Contains(report.Layers, l => l.Hints > 0);
        Assert.Contains(report.Layers, l => l.Counters.PrefetchIssued > 0);
        Assert.Equal(0, report.Layers[0].Counters.PrefetchIssued);
    }
}
