using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>What a step reads that needs every unit: what its window cannot hold, and no more.</summary>
public sealed class DenseScanTests
{
    [Theory, InlineData(0.75, true), InlineData(0.5, true), InlineData(0.5, false), InlineData(0.1, false)]
    public void A_dense_scan_keeps_most_of_its_window_from_step_to_step(double window, bool prefetch)
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(Activation.Silu, layers: 2, hidden: 64, ffn: 2048), WeightFormat.F32);
        using var engine = new LocalEngine(tiny.Package, new(), new() { Window = window, Prefetch = prefetch });
        ExactnessTests.Run(engine, ExactnessTests.Prompt(4, 200, seed: 9), 8, 1, 200);
        long[] before = [.. engine.Layers.Select(static l => l.Stats.DemandBytes + l.Stats.PrefetchBytes)];
        const int Steps = 20;
        ExactnessTests.Run(engine, ExactnessTests.Prompt(Steps, 200, seed: 10), 1, 1, 200);
        foreach (var (layer, had) in engine.Layers.Zip(before))
        {
            UnitRegion region = layer.Bundles!.Region;
            int slots = layer.Bundles.Window.Slots, missing = region.Count - slots + layer.ScanUnits;
            long read = layer.Stats.DemandBytes + layer.Stats.PrefetchBytes - had;
            // At least what does not fit; at most that and what the scan itself keeps moving, a step more for reads ahead.
            Assert.InRange(read, Steps * (long)(region.Count - slots) * region.Stride, (Steps + 1) * (long)missing * region.Stride + 2L * Steps * region.File.Alignment * region.Count / 8);
        }
    }

    [Fact]
    public void Reading_on_after_a_scan_leaves_the_next_one_nothing_to_begin_with_but_waiting_for_the_device()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(Activation.Silu, layers: 2, hidden: 64, ffn: 1024), WeightFormat.F32);
        using var engine = new LocalEngine(tiny.Package, new(), new() { Window = 0.5 });
        ExactnessTests.Run(engine, ExactnessTests.Prompt(12, 200, seed: 9), 1, 1, 200);
        foreach (var layer in engine.Layers)
        {
            Assert.True(layer.Stats.PrefetchIssued > 0);
            // All but those of the last step, whose next one never came, were used.
            Assert.True(layer.Stats.PrefetchUseful >= layer.Stats.PrefetchIssued - layer.ScanUnits, $"{layer.Stats.PrefetchUseful} of {layer.Stats.PrefetchIssued}");
        }
    }
}
