using FlashOrleans.Abstractions;
using FlashOrleans.Client;

namespace FlashOrleans.Grains.Tests;

/// <summary>What a hop costs the garbage collector, everybody's part counted.</summary>
[Collection(nameof(Alone))]
public sealed class AllocationTests(ITestOutputHelper output)
{
    private const int Tokens = 400;

    [Fact]
    public async Task A_hop_allocates_at_most_a_kibibyte_and_its_hint_a_quarter_more()
    {
        double hop = await HopAsync(prefetch: false, silos: 1, 1024), both = await HopAsync(prefetch: true, silos: 1, 1280);
        output.WriteLine($"{hop:0} bytes a hop, {both:0} with a hint");
        Assert.InRange(hop, 1, 1024);
        // An acknowledged call and a one-way one: Orleans' own messages are three times 204 bytes of it.
        Assert.InRange(both, 1, 1280);
    }

    [Fact]
    public async Task A_hop_between_silos_with_its_hint_allocates_at_most_three_kibibytes()
    {
        double hop = await HopAsync(prefetch: false, silos: 2, 3 << 10), both = await HopAsync(prefetch: true, silos: 2, 3 << 10);
        output.WriteLine($"{hop:0} bytes a hop between silos, {both:0} with a hint");
        Assert.InRange(both, 1, 3 << 10);
    }

    /// <summary>Two models that differ in their number of layers alone: the difference is hops, with calls, acknowledgements and pumps. What clocks allocate meanwhile comes on top, more of it the longer a busy machine
    /// takes, so what is above the bound is measured again.</summary>
    private static async Task<double> HopAsync(bool prefetch, short silos, int bound)
    {
        double least = double.MaxValue;
        for (int run = 0; run < 3 && least > bound; run++)
        {
            long few = await DecodeAsync(layers: 2, prefetch, silos), many = await DecodeAsync(layers: 12, prefetch, silos);
            least = Math.Min(least, (many - few) / (10.0 * Tokens));
        }
        return least;
    }

    private static async Task<long> DecodeAsync(int layers, bool prefetch, short silos)
    {
        using var model = new TestModel(layers);
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder, silos,
            options: (silo, host) => host with { Layers = silos == 1 ? null : silo == 0 ? "0,2,4,6,8,10" : "1,3,5,7,9,11", Layer = host.Layer with { Prefetch = prefetch } });
        FlashSession session = cluster.Client.OpenSession();
        await session.SendAsync(Turns.Of(model.Prompt(1), Tokens)).AllAsync();
        long before = GC.GetTotalAllocatedBytes(precise: true);
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of([5], Tokens)).AllAsync();
        long after = GC.GetTotalAllocatedBytes(precise: true);
        Assert.Equal(Tokens, chunks.Count);
        return after - before;
    }
}
