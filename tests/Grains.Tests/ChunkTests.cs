using System.Collections.Concurrent;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Grains.Tests;

/// <summary>How much of a prompt one step carries.</summary>
public sealed class ChunkTests
{
    [Theory]
    [InlineData(64, 128, 4096, false, 64)]
    [InlineData(100_000, 128, 4096, false, 128)]
    [InlineData(128, 128, 4096, true, 64)]
    [InlineData(64, 128, 8192, true, 32)]
    [InlineData(64, 128, 1 << 20, true, 1)]
    public void A_chunk_is_no_larger_than_a_step_nor_between_silos_than_a_message(int wanted, int maxRows, int hidden, bool manySilos, int chunk) =>
        Assert.Equal(chunk, SessionGrain.Chunk(wanted, maxRows, hidden, manySilos));

    [Fact]
    public async Task A_chunk_of_more_different_tokens_than_layer_0_can_hold_rows_of_is_cut()
    {
        // An untied model reads one embedding row per token, and a step has room for 128.
        using var model = new TestModel(format: WeightFormat.F32, tied: false);
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] prompt = [.. Enumerable.Range(3, 190)];
        List<TokenChunk> chunks = await cluster.Client.OpenSession().SendAsync(Turns.Of(prompt, 5) with { PrefillChunk = 190 }).AllAsync();
        Assert.Null(chunks[^1].Error);
        Assert.Equal(model.TokensAlone(prompt, 5), chunks.Tokens());
    }

    [Fact]
    public async Task No_message_between_silos_has_more_than_a_mebibyte_of_rows()
    {
        using var model = new TestModel(layers: 2, hidden: 512, positions: 1024);
        var sizes = new Sizes();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder, silos: 2,
            (silo, host) => host with { Layers = silo == 0 ? "0" : "1", Engine = host.Engine with { MaxWaveRows = 1024 } },
            silo => silo.Services.AddSingleton<IIncomingGrainCallFilter>(sizes));
        int[] prompt = model.Prompt(1, length: 600);
        FlashSession session = cluster.Client.OpenSession();
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of(prompt, 2) with { PrefillChunk = 600 }).AllAsync();
        Assert.Equal(model.TokensAlone(prompt, 2), chunks.Tokens());
        // 512 rows of 512 floats, and the rest.
        Assert.Equal(3, (await session.GetReportAsync()).Steps);
        Assert.InRange(sizes.Seen.Max(), 1 << 20, (1 << 20) + (8 << 10));
    }

    private sealed class Sizes : IIncomingGrainCallFilter
    {
        public ConcurrentBag<int> Seen { get; } = [];

        public Task Invoke(IIncomingGrainCallContext context)
        {
            if (context.MethodName == nameof(ILayerGrain.Forward) && context.Request.GetArgument(0) is WaveMessage wave) Seen.Add(wave.Length);
            return context.Invoke();
        }
    }
}
