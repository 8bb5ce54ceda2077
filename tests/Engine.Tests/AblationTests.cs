using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>The switches that measure what bundles and windows are worth change what is read and never a result.</summary>
public sealed class AblationTests
{
    [Theory, InlineData(FeedForwardMode.Exact, 2, true), InlineData(FeedForwardMode.Exact, 2, false), InlineData(FeedForwardMode.Predicted, 3, true), InlineData(FeedForwardMode.Predicted, 3, false)]
    public void Rows_that_are_read_one_by_one_give_the_same_bits_by_as_many_reads_as_a_unit_has_rows(FeedForwardMode mode, int rows, bool prefetch)
    {
        var config = TinyPackage.Llama(layers: 3, hidden: 64, ffn: 320);
        using var tiny = TinyPackage.Create(config, WeightFormat.F32, predictors: TinyPackage.LowRanks(config));
        var layer = new LayerOptions { Mode = mode, Window = 0.3, Prefetch = prefetch };
        using var whole = new LocalEngine(tiny.Package, new(), layer);
        using var apart = new LocalEngine(tiny.Package, new() { Bundled = false }, layer);
        int[] prompt = ExactnessTests.Prompt(24, 200, seed: 3);
        Assert.Equal(ExactnessTests.Run(whole, prompt, 8, 4, 200), ExactnessTests.Run(apart, prompt, 8, 4, 200));
        var stats = apart.Layers.Select(static l => l.Stats).ToList();
        // Units that nobody merges, a read each row; the embedding's rows are no neurons.
        long units = stats.Sum(static s => s.UnitsNeeded - s.UnitsHit - s.UnitsLate + s.PrefetchIssued);
        // The last token does not wait for what is read ahead of a next one.
        SpinWait.SpinUntil(() => apart.Conductor.ReaderStats.Reads >= rows * units, TimeSpan.FromSeconds(60));
        var device = apart.Conductor.ReaderStats;
        Assert.Equal(0, device.Faults);
        Assert.InRange(device.Reads, rows * units, rows * units + stats[0].DemandReads);
        Assert.True(device.Reads > whole.Conductor.ReaderStats.Reads);
    }

    [Theory, InlineData(FeedForwardMode.Dense), InlineData(FeedForwardMode.Exact)]
    public void Without_reuse_a_step_reads_nearly_everything_it_needs(FeedForwardMode mode)
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2, hidden: 512, ffn: 4096), WeightFormat.F32);
        var layer = new LayerOptions { Mode = mode, Window = 0.9, Prefetch = false };
        using var kept = new LocalEngine(tiny.Package, new(), layer);
        using var fresh = new LocalEngine(tiny.Package, new(), layer with { Reuse = false });
        int[] prompt = ExactnessTests.Prompt(6, 200, seed: 3);
        Assert.Equal(ExactnessTests.Run(kept, prompt, 1, 1, 200), ExactnessTests.Run(fresh, prompt, 1, 1, 200));
        foreach (var (a, b) in kept.Layers.Zip(fresh.Layers))
        {
            Assert.True(b.Stats.UnitsHit < b.Stats.UnitsNeeded / 10, $"{b.Stats.UnitsHit} of {b.Stats.UnitsNeeded}");
            Assert.True(a.Stats.UnitsHit > a.Stats.UnitsNeeded / 2);
        }
    }
}
