using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using Microsoft.Extensions.DependencyInjection;
using Orleans.Runtime;

namespace FlashOrleans.Grains.Tests;

/// <summary>Even layers on one silo, odd ones on the other: every hop crosses the wire.</summary>
public sealed class TwoSiloTests : IAsyncLifetime
{
    private readonly TestModel _model = new();
    private readonly CallGate _hints = new();
    private GrainCluster _cluster = null!;

    public async ValueTask InitializeAsync() => _cluster = await GrainCluster.StartAsync(_model.Folder, silos: 2,
        options: static (silo, host) => host with { Layers = silo == 0 ? "0,2,4,6" : "1,3,5,7" },
        configure: silo => silo.Services.AddSingleton<IIncomingGrainCallFilter>(_hints));

    public async ValueTask DisposeAsync()
    {
        await _cluster.DisposeAsync();
        _model.Dispose();
    }

    [Fact]
    public async Task Tokens_and_every_logit_are_those_of_the_engine_alone()
    {
        ModelReport ready = await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        Assert.Equal(2, ready.Hosts.Length);
        Assert.All(ready.Layers, l => Assert.Equal(ready.Layers[l.Layer % 2].Silo, l.Silo));
        Assert.NotEqual(ready.Layers[0].Silo, ready.Layers[1].Silo);

        foreach (SamplingFacts sampling in new[] { SamplingFacts.Greedy, new SamplingFacts(0.9f, 77) })
        {
            int[] prompt = _model.Prompt(1, length: 150);
            StepResult[] alone = _model.Alone(prompt, 40, sampling, topLogits: _model.Config.VocabSize);
            List<TokenChunk> chunks = await _cluster.Client.OpenSession().SendAsync(Turns.Of(prompt, 40, sampling, _model.Config.VocabSize)).AllAsync();

            Assert.Equal(alone.Select(r => r.Token), chunks.Tokens());
            for (int i = 0; i < alone.Length; i++)
            {
                Assert.Equal(alone[i].Top!.Select(t => (t.Id, BitConverter.SingleToInt32Bits(t.Logit))),
                    chunks[i].Top!.Select(t => (t.Id, BitConverter.SingleToInt32Bits(t.Logit))));
                Assert.Equal(BitConverter.SingleToInt32Bits(alone[i].LogProbability), BitConverter.SingleToInt32Bits(chunks[i].LogProbability));
            }
            Assert.Equal(FinishReason.Length, chunks[^1].Finish);
        }
    }

    [Fact]
    public async Task Eight_sessions_at_once_get_the_texts_they_get_alone()
    {
        SamplingFacts[] sampling = [.. Enumerable.Range(0, 8).Select(i => new SamplingFacts(i % 2 == 0 ? 0 : 1.1f, (ulong)i))];
        int[][] prompts = [.. Enumerable.Range(0, 8).Select(i => _model.Prompt(i, length: 3 + 20 * i))];
        List<TokenChunk>[] together = await Task.WhenAll(Enumerable.Range(0, 8)
            .Select(i => _cluster.Client.OpenSession().SendAsync(Turns.Of(prompts[i], 50, sampling[i])).AllAsync()));
        for (int i = 0; i < 8; i++) Assert.Equal(_model.TokensAlone(prompts[i], 50, sampling[i]), together[i].Tokens());
        await Turns.UntilAsync(() => Task.FromResult(_cluster.Hosts.Sum(h => h.Report().WavesHeld)), static held => held == 0, "no wave in anybody's hands");
    }

    [Fact]
    public async Task Killing_a_silo_mid_story_moves_its_layers_and_keeps_the_tokens()
    {
        int[] prompt = _model.Prompt(3);
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        // A session that lives on the silo that stays.
        Orleans.TestingHost.InProcessSiloHandle dies = _cluster.Cluster.Silos[1];
        LayerHost dead = _cluster.HostOf(dies);
        Assert.True(dead.Conductor.Ledger.Total > 0);
        Client.FlashSession session;
        do
        {
            session = _cluster.Client.OpenSession();
            await session.GetReportAsync();
        }
        while (!_cluster.IsOn(_cluster.Cluster.Silos[0], _cluster.Grains.GetGrain<ISessionGrain>(session.Id)));

        TurnRequest turn = Turns.Of(prompt, 120);
        await session.StartAsync(turn);
        List<TokenChunk> chunks = [];
        await foreach (TokenChunk chunk in session.ReadAsync(turn.TurnId))
        {
            chunks.Add(chunk);
            if (chunks.Count == 30) await _cluster.Cluster.KillSiloAsync(dies);
        }
        await Turns.UntilAsync(() => Task.FromResult(dead.Conductor.Ledger.Total), static bytes => bytes == 0, "no native memory in the silo that died");
        Assert.Null(chunks[^1].Error);
        Assert.Equal(_model.TokensAlone(prompt, 120), chunks.Tokens());
        Assert.Equal(Enumerable.Range(0, 120), chunks.Select(c => c.Index));
        ModelReport after = await _cluster.Client.GetReportAsync(TestModel.Name);
        Assert.Single(after.Hosts);
    }

    [Fact]
    public async Task Look_ahead_reaches_across_silos_and_changes_no_token()
    {
        List<TokenChunk> chunks = await _cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(4), 60)).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(4), 60), chunks.Tokens());
        ModelReport report = await _cluster.Client.GetReportAsync(TestModel.Name);
        Assert.All(report.Layers[1..], l => Assert.True(l.Counters.PrefetchIssued > 0, $"layer {l.Layer}"));
        Assert.Equal(0, report.Layers[0].Counters.PrefetchIssued);
    }

    [Fact]
    public async Task Sessions_go_on_when_another_silo_on_the_same_store_dies()
    {
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        // These sessions live on the one that stays.
        List<Client.FlashSession> sessions = [];
        while (sessions.Count < 16)
        {
            Client.FlashSession session = _cluster.Client.OpenSession();
            await session.GetReportAsync();
            if (_cluster.IsOn(_cluster.Cluster.Silos[0], _cluster.Grains.GetGrain<ISessionGrain>(session.Id))) sessions.Add(session);
        }
        int[][] first = await Task.WhenAll(sessions.Select(async (s, i) => (await s.SendAsync(Turns.Of(_model.Prompt(i), 5)).AllAsync()).Tokens()));
        LayerHost dead = _cluster.HostOf(_cluster.Cluster.Silos[1]);
        await _cluster.Cluster.KillSiloAsync(_cluster.Cluster.Silos[1]);
        for (int i = 0; i < sessions.Count; i++)
        {
            List<TokenChunk> second = await sessions[i].SendAsync(Turns.Of([7], 5)).AllAsync();
            Assert.Null(second[^1].Error);
            Assert.Equal(_model.TokensAlone([.. _model.Prompt(i), .. first[i], 7], 5), second.Tokens());
        }
        // What the dead silo's layers held is free.
        await Turns.UntilAsync(() => Task.FromResult(dead.Conductor.Ledger.Total), static bytes => bytes == 0, "no native memory");
    }

    [Fact]
    public async Task A_prefetch_grain_whose_layer_is_not_beside_it_leaves()
    {
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        IPrefetchGrain prefetch = _cluster.Grains.GetGrain<IPrefetchGrain>(new LayerKey(_model.Package.Hash, 1).ToString());
        IPrefetchGrain stray = _cluster.Grains.GetGrain<IPrefetchGrain>(new LayerKey("nopackage", 1).ToString());
        int before = _hints.Served("IPrefetchGrain.Hint");
        foreach (IPrefetchGrain grain in new[] { prefetch, stray }) await grain.Hint(PrefetchHint.Rent(new byte[4], 1, rows: false));
        await Turns.UntilAsync(() => Task.FromResult(_hints.Served("IPrefetchGrain.Hint")), n => n >= before + 2, "both hints");
        await Turns.UntilAsync(() => Task.FromResult(_cluster.Cluster.TryGetGrainContext(stray.GetGrainId(), out _)), static there => !there, "the stray grain's leave");
        Assert.True(_cluster.Cluster.TryGetGrainContext(prefetch.GetGrainId(), out _));
    }
}
