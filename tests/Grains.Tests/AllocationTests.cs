using FlashOrleans.Abstractions;
using FlashOrleans.Client;

namespace FlashOrleans.Grains.Tests;

/// <summary>Alone in the process: what is measured is what everybody allocates.</summary>
[CollectionDefinition(nameof(AllocationTests), DisableParallelization = true)]
public sealed class AllocationGroup;

[Collection(nameof(AllocationTests))]
public sealed class AllocationTests(ITestOutputHelper output)
{
    private const int Tokens = 400;

    [Fact]
    public async Task A_hop_allocates_at_most_a_kibibyte_and_so_does_a_hint()
    {
        double hop = await HopAsync(prefetch: false), both = await HopAsync(prefetch: true);
        output.WriteLine($"{hop:0} bytes a hop, {both - hop:0} more with a hint");
        Assert.InRange(hop, 1, 1024);
        Assert.InRange(both - hop, 0, 1024);
    }

    /// <summary>Two models that differ in their number of layers alone: the difference is hops, with calls, acknowledgements and pumps.</summary>
    private static async Task<double> HopAsync(bool prefetch)
    {
        long few = await DecodeAsync(layers: 2, prefetch), many = await DecodeAsync(layers: 12, prefetch);
        return (many - few) / (10.0 * Tokens);
    }

    private static async Task<long> DecodeAsync(int layers, bool prefetch)
    {
        using var model = new TestModel(layers);
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder,
            options: (_, host) => host with { Layer = host.Layer with { Prefetch = prefetch } });
        FlashSession session = cluster.Client.OpenSession();
        await session.SendAsync(Turns.Of(model.Prompt(1), Tokens)).AllAsync();
        long before = GC.GetTotalAllocatedBytes(precise: true);
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of([5], Tokens)).AllAsync();
        long after = GC.GetTotalAllocatedBytes(precise: true);
        Assert.Equal(Tokens, chunks.Count);
        return after - before;
    }
}
