using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>What a read costs, and which gaps are worth reading across.</summary>
public sealed class GapCostTests
{
    [Theory]
    // 12 µs a read and 1 ns a byte: 12 000 bytes cost what another read does.
    [InlineData(12e-6, 1e-9, 12_000)]
    [InlineData(2e-6, 0.5e-9, 4_000)]
    // A device that does not mind length, and one that counts nothing else.
    [InlineData(20e-6, 0, GapCost.MostGapBytes)]
    [InlineData(0, 1e-9, 0)]
    // Beyond what ever paid.
    [InlineData(1e-3, 1e-9, GapCost.MostGapBytes)]
    public void The_gap_is_where_its_bytes_cost_as_much_as_another_read(double perRead, double perByte, int gap)
    {
        ReadCost Of(int bytes) => new(bytes, perRead + perByte * bytes);
        GapCost cost = GapCost.Fit(Of(4096), Of(65536));
        Assert.Equal(perRead, cost.SecondsPerRead, 1e-9);
        Assert.Equal(perByte, cost.SecondsPerByte, 1e-13);
        Assert.InRange(cost.GapBytes, gap - 1, gap + 1);
    }

    [Fact]
    public void A_long_read_that_was_faster_than_a_short_one_is_noise_and_costs_nothing_more()
    {
        GapCost cost = GapCost.Fit(new(4096, 1 / 50_000.0), new(65536, 1 / 60_000.0));
        Assert.Equal((1 / 50_000.0, 0, GapCost.MostGapBytes), (cost.SecondsPerRead, cost.SecondsPerByte, cost.GapBytes));
    }

    /// <summary>Results never depend on it; how many reads there are does.</summary>
    [Fact]
    public void A_wider_gap_gives_fewer_reads_more_bytes_and_the_same_tokens()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(hidden: 256, ffn: 512), WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(8, 200, seed: 3);
        var seen = new List<(int[] Tokens, long Reads, long Bytes)>();
        foreach (int gap in new[] { 0, 4096, 65536 })
        {
            using var engine = new LocalEngine(tiny.Package, new() { GapBytes = gap }, new() { Window = 0.1, Prefetch = false });
            using EngineSession session = engine.OpenSession();
            int[] tokens = [.. session.Generate(prompt, 12, Sampling.Greedy).Select(static r => r.Token)];
            seen.Add((tokens, engine.Layers.Sum(static l => l.Stats.DemandReads), engine.Layers.Sum(static l => l.Stats.DemandBytes)));
        }
        Assert.All(seen, s => Assert.Equal(seen[0].Tokens, s.Tokens));
        Assert.True(seen[0].Reads > seen[1].Reads && seen[1].Reads > seen[2].Reads, string.Join(", ", seen.Select(static s => s.Reads)));
        Assert.True(seen[0].Bytes < seen[1].Bytes && seen[1].Bytes < seen[2].Bytes, string.Join(", ", seen.Select(static s => s.Bytes)));
    }
}
