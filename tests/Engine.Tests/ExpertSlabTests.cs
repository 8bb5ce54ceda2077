using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Experts of several slabs, the last one not full: a step of few tokens goes through them slab by slab, one of many in stripes, and nobody can tell by the bits.</summary>
public sealed class ExpertSlabTests
{
    private static TinyPackage Create(WeightFormat format, int size = 300, Func<string, FlashFile>? open = null) => TinyPackage.Create(
        TinyPackage.Llama(Activation.Silu) with { Experts = new ExpertConfig { Count = 6, Active = 2, Size = size, Normalised = true } }, format, open: open);

    [Theory, InlineData(WeightFormat.Q4), InlineData(WeightFormat.Q8), InlineData(WeightFormat.F32)]
    public void One_token_a_few_and_many_at_a_time_give_the_same_bits(WeightFormat format)
    {
        using TinyPackage tiny = Create(format);
        using (PackageFile slice = tiny.Package.OpenSlice(1)) Assert.Equal((true, 300, 6), (slice.Bundles!.Slabs, slice.Bundles.Group, slice.Bundles.Units));
        int[] prompt = ExactnessTests.Prompt(40, tiny.Package.Config.VocabSize, seed: 21);
        var expected = ExactnessTests.Transcript(tiny.Package, new(FeedForwardMode.Auto, 1, false, "scalar", 1, prompt.Length), prompt, 6);
        var tally = new ExactnessTests.Tally();
        foreach (string kernels in Kernels.Available)
        {
            foreach (var (window, threads, chunk, companions, prefetch) in new[] { (1.0, 1, 1, 0, false), (1.0, 3, 1, 0, false), (0.4, 2, 5, 0, true), (0.2, 3, 8, 2, false), (0.4, 2, 9, 3, true), (0.2, 2, 40, 0, false) })
            {
                var v = new ExactnessTests.Variant(FeedForwardMode.Auto, window, prefetch, kernels, threads, chunk, companions);
                ExactnessTests.AssertSame(expected, ExactnessTests.Transcript(tiny.Package, v, prompt, 6, tally), v.ToString());
            }
        }
        Assert.True(tally.Merged > 0, "no two sessions were ever in one step");
        Assert.True(tally.TakenByOthers > 0, "one thread did everything");
    }

    /// <summary>Five slabs an expert, room for sixteen rows of sums: one token's two experts are summed slab by slab, of two tokens and more they are not.</summary>
    [Theory, InlineData(1), InlineData(2), InlineData(8)]
    public void Where_there_is_no_room_for_every_slab_the_bits_are_the_same(int chunk)
    {
        using TinyPackage tiny = Create(WeightFormat.Q4, size: 600);
        int[] prompt = ExactnessTests.Prompt(24, tiny.Package.Config.VocabSize, seed: 23);
        var expected = ExactnessTests.Transcript(tiny.Package, new(FeedForwardMode.Auto, 1, false, "scalar", 1, prompt.Length), prompt, 4);
        var v = new ExactnessTests.Variant(FeedForwardMode.Auto, 0.4, false, "auto", 2, chunk, Cramped: true);
        ExactnessTests.AssertSame(expected, ExactnessTests.Transcript(tiny.Package, v, prompt, 4), v.ToString());
    }

    /// <summary>What was computed of a wrong expert is forgotten. The bit lies in the first span that is checked, or in the second.</summary>
    [Theory, InlineData(1, 0), InlineData(1, 1), InlineData(6, 0), InlineData(6, 1), InlineData(40, 1)]
    public async Task An_expert_with_a_wrong_bit_is_read_again_and_computed_anew(int chunk, int span)
    {
        var opened = new List<MemoryFile>();
        using TinyPackage tiny = Create(WeightFormat.Q4, open: path => RecoveryTests.Remember(opened, path));
        int vocabulary = tiny.Package.Config.VocabSize;
        int[] prompt = ExactnessTests.Prompt(40, vocabulary, seed: 22);
        LayerOptions options = new() { Window = 0.4, Prefetch = false };
        using var whole = new LocalEngine(tiny.Package, new() { Threads = 2 }, options);
        var expected = ExactnessTests.Run(whole, prompt, 4, chunk, vocabulary);
        int before = opened.Count;
        using var engine = new LocalEngine(tiny.Package, new() { Threads = 2 }, options);
        await Task.WhenAll(engine.Layers.Select(l => l.Loaded));
        using (PackageFile file = tiny.Package.OpenSlice(2))
        {
            UnitRegion units = file.BundleUnits(whole: true);
            foreach (MemoryFile slice in opened.Skip(before).Where(f => f.Name.EndsWith("002.slice", StringComparison.Ordinal)))
            {
                for (int u = 0; u < units.Count; u++) slice.Inject(new MemoryFault { Offset = units.Start(u) + units.Checks[span].Offset + 7, FlipBit = 6, Times = 1 });
            }
        }
        ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, prompt, 4, chunk, vocabulary), "with every expert read twice");
        Assert.True(engine.Layers[2].Stats.DemandReads > whole.Layers[2].Stats.DemandReads, "nothing was read again");
        Assert.Equal(whole.Layers[2].Stats.NeuronsComputed, engine.Layers[2].Stats.NeuronsComputed);
    }
}
