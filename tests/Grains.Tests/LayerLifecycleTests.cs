using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Grains.Tests;

/// <summary>A layer is in memory exactly while its grain is active, whatever runs meanwhile.</summary>
[Collection(nameof(Alone))]
public sealed class LayerLifecycleTests : IAsyncLifetime
{
    private readonly HashSet<byte[]> _out = [.. WaveGuard.Outstanding];
    private readonly TestModel _model = new();
    private GrainCluster _cluster = null!;

    private readonly CallGate _calls = new();

    public async ValueTask InitializeAsync() => _cluster = await GrainCluster.StartAsync(_model.Folder,
        configure: silo => silo.Services.AddSingleton<IOutgoingGrainCallFilter>(_calls));

    public async ValueTask DisposeAsync()
    {
        await _cluster.DisposeAsync();
        _model.Dispose();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Deactivating_a_layer_mid_story_replays_and_keeps_the_tokens(int layer)
    {
        int[] prompt = _model.Prompt(layer);
        FlashSession session = _cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(prompt, 60);
        await session.StartAsync(turn);
        List<TokenChunk> chunks = [];
        Layer? before = null;
        await foreach (TokenChunk chunk in session.ReadAsync(turn.TurnId))
        {
            chunks.Add(chunk);
            if (chunks.Count != 20) continue;
            before = _cluster.Host.Find(LayerKey.Parse(_cluster.Layer(_model, layer).GetPrimaryKeyString()))!.Layer!;
            Assert.True(before.NativeBytes > 0);
            string label = $"{TestModel.Name}/{layer}";
            Assert.True(_cluster.Host.Conductor.Ledger.Held(label) > 0);
            // Nobody may bring it back between its leave and the look at what it left.
            _calls.Close(method: null, grain => grain is ILayerGrain g && g.GetPrimaryKeyString().EndsWith($"/{layer}", StringComparison.Ordinal));
            await _cluster.Cluster.DeactivateAsync(_cluster.Layer(_model, layer));
            Assert.Equal(0, _cluster.Host.Conductor.Ledger.Held(label));
            _calls.Open();
        }
        Assert.Equal(_model.TokensAlone(prompt, 60), chunks.Tokens());
        Assert.True((await session.GetReportAsync()).Replays > 0);
        Assert.NotSame(before, _cluster.Host.Find(LayerKey.Parse(_cluster.Layer(_model, layer).GetPrimaryKeyString()))!.Layer);
    }

    [Fact]
    public async Task A_wave_whose_message_came_ahead_enters_the_layer_when_it_is_there_and_stays_with_its_sender_when_the_layer_leaves()
    {
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        var key = new LayerKey(_model.Package.Hash, 1);
        HostedLayer hosted = _cluster.Host.Find(key)!;
        var ahead = new WaveMessage();
        hosted.Accept(ahead);
        // Delivered twice, as a network may.
        hosted.Accept(ahead);
        Assert.Equal(0, hosted.WavesIn);
        Wave wave = OneRow();
        Assert.True(ahead.Fill(wave.Array, wave.Length));
        Assert.Equal(1, hosted.WavesIn);
        await Turns.UntilAsync(() => Task.FromResult(_cluster.Host.Report().WavesHeld), static held => held == 0, "the layer to be done with the wave");

        var late = new WaveMessage();
        hosted.Accept(late);
        await _cluster.Cluster.DeactivateAsync(_cluster.Layer(_model, 1));
        Wave kept = OneRow();
        Assert.False(late.Fill(kept.Array, kept.Length));
        kept.Return();
        Assert.Equal(1, hosted.WavesIn);

        Wave OneRow()
        {
            Wave one = Wave.Rent(1, 1, _model.Config.HiddenSize);
            one.Slots[0] = new Slot { Session = Guid.NewGuid(), Epoch = 1, Step = 1, Count = 1, Sampling = Sampling.Greedy };
            one.Tokens[0] = 3;
            one.Rows.Clear();
            return one;
        }
    }

    [Fact]
    public async Task Deactivating_every_layer_again_and_again_under_load_keeps_the_tokens_and_frees_everything()
    {
        Task<List<TokenChunk>>[] stories = [.. Enumerable.Range(0, 4).Select(i => _cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(10 + i), 80)).AllAsync())];
        for (int round = 0; !Task.WhenAll(stories).IsCompleted && round < 40; round++) await _cluster.Cluster.DeactivateAsync(_cluster.Layer(_model, round % _model.Config.Layers));
        List<TokenChunk>[] all = await Task.WhenAll(stories);
        for (int i = 0; i < 4; i++)
        {
            Assert.Null(all[i][^1].Error);
            Assert.Equal(_model.TokensAlone(_model.Prompt(10 + i), 80), all[i].Tokens());
        }
        await Turns.UntilAsync(() => Task.FromResult(_cluster.Host.Report().WavesHeld), static held => held == 0, "no wave in anybody's hands");
        await Turns.UntilAsync(() => Task.FromResult(WaveGuard.Outstanding.Count(a => !_out.Contains(a))), static lost => lost == 0, "every array of a wave in the pool again");
        for (int k = 0; k < _model.Config.Layers; k++) await _cluster.Cluster.DeactivateAsync(_cluster.Layer(_model, k));
        Assert.Empty(_cluster.Host.LayerKeys);
        Assert.DoesNotContain(_cluster.Host.Conductor.Ledger.Snapshot(), static held => held.Key.StartsWith(TestModel.Name + "/", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_layer_that_is_asked_for_twice_at_once_is_attached_once()
    {
        ModelReport[] reports = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => _cluster.Client.EnsureReadyAsync(TestModel.Name)));
        Assert.All(reports, r => Assert.All(r.Layers, l => Assert.True(l.Ready)));
        Assert.Equal(_model.Config.Layers, _cluster.Host.LayerKeys.Count);
    }

    [Fact]
    public async Task An_unknown_model_is_one_clear_line()
    {
        var error = await Assert.ThrowsAsync<ModelNotFoundException>(() => _cluster.Client.GetModelAsync("nobody"));
        Assert.Contains("nobody", error.Message, StringComparison.Ordinal);
        Assert.Contains(TestModel.Name, error.Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<ModelNotFoundException>(() => _cluster.Client.OpenSession().SendAsync(Turns.Of([3], 1) with { Model = "nobody" }).AllAsync());
    }

    [Fact]
    public async Task A_package_that_was_damaged_after_it_was_resolved_ends_the_turn_with_its_error()
    {
        ModelInfo info = await _cluster.Client.GetModelAsync(TestModel.Name);
        await _cluster.Host.Catalog.ForgetAsync(info.Package);
        string slice = Directory.GetFiles(Path.Combine(info.Path, "layers")).Order().Last();
        byte[] bytes = await File.ReadAllBytesAsync(slice);
        bytes[bytes.Length / 3] ^= 0x10;
        await File.WriteAllBytesAsync(slice, bytes);
        List<TokenChunk> chunks = await _cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(1), 5)).AllAsync();
        Assert.Equal(FinishReason.Failed, chunks[^1].Finish);
        Assert.Contains(Path.GetFileName(slice), chunks[^1].Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_package_imported_again_is_seen_by_the_next_turn_and_the_old_layers_leave()
    {
        using var other = new TestModel(seed: 2);
        Assert.NotEqual(_model.Package.Hash, other.Package.Hash);
        int[] prompt = _model.Prompt(1);
        FlashSession old = _cluster.Client.OpenSession();
        Assert.Equal(_model.TokensAlone(prompt, 10), (await old.SendAsync(Turns.Of(prompt, 10)).AllAsync()).Tokens());
        int[] expected = other.TokensAlone(prompt, 10);
        string here = _model.Package.Path, there = other.Package.Path;
        Directory.Move(here, here + ".old");
        Directory.Move(there, here);
        try
        {
            Assert.Equal(expected, (await _cluster.Client.OpenSession().SendAsync(Turns.Of(prompt, 10)).AllAsync()).Tokens());
            await Turns.UntilAsync(() => Task.FromResult(string.Join(' ', _cluster.Host.LayerKeys)), keys => !keys.Contains(_model.Package.Hash, StringComparison.Ordinal), "the old layers' leave");
            Assert.Equal(_model.Config.Layers, _cluster.Host.LayerKeys.Count);
            var error = await Assert.ThrowsAsync<TurnRejectedException>(() => old.StartAsync(Turns.Of([5], 1)));
            Assert.Contains("another package", error.Message, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Move(here, there);
            Directory.Move(here + ".old", here);
        }
    }

    [Fact]
    public async Task Unloading_frees_every_layer_until_the_next_turn()
    {
        await _cluster.Client.EnsureReadyAsync(TestModel.Name);
        await _cluster.Client.UnloadAsync(TestModel.Name);
        await Turns.UntilAsync(() => Task.FromResult(_cluster.Host.LayerKeys.Count), static n => n == 0, "no layer");
        await Turns.UntilAsync(() => Task.FromResult(_cluster.Host.Conductor.Ledger.Snapshot().Count(h => h.Key.StartsWith(TestModel.Name + "/", StringComparison.Ordinal))), static n => n == 0, "no memory of it");
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 5), (await _cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(1), 5)).AllAsync()).Tokens());
    }
}
