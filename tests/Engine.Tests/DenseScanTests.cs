using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>What a step reads that needs every unit: what its window cannot hold, and no more.</summary>
public sealed class DenseScanTests
{
    [Theory, InlineData(0.75, true), InlineData(0.5, true), InlineData(0.5, false), InlineData(0.1, false)]
    public void A_dense_scan_keeps_its_window_from_step_to_step(double window, bool prefetch)
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
            int missing = region.Count - layer.Bundles.Window.Own, turns = layer.Sweep!.Slots.Count;
            long read = layer.Stats.DemandBytes + layer.Stats.PrefetchBytes - had;
            // What does not fit, but for what was read ahead before and is read ahead now; and what lies around it.
            Assert.InRange(read, (Steps * (long)missing - turns) * region.Stride, (Steps * (long)missing + turns) * region.Stride + 2L * Steps * region.File.Alignment * region.Count / 8);
        }
    }

    [Fact]
    public void What_a_scan_reads_ahead_is_used_by_the_next_layer_or_the_next_step()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(Activation.Silu, layers: 2, hidden: 64, ffn: 1024), WeightFormat.F32);
        using var engine = new LocalEngine(tiny.Package, new(), new() { Window = 0.5 });
        ExactnessTests.Run(engine, ExactnessTests.Prompt(12, 200, seed: 9), 1, 1, 200);
        foreach (var layer in engine.Layers)
        {
            Assert.True(layer.Stats.PrefetchIssued > 0);
            // All but those of the last step, whose next one never came, were used.
            Assert.True(layer.Stats.PrefetchUseful >= layer.Stats.PrefetchIssued - layer.Sweep!.Slots.Count, $"{layer.Stats.PrefetchUseful} of {layer.Stats.PrefetchIssued}");
        }
    }

    [Fact]
    public void A_layer_reads_on_into_the_next_one_and_not_into_what_it_has_used_itself()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(Activation.Silu, layers: 3, hidden: 64, ffn: 1024), WeightFormat.F32);
        using var engine = new LocalEngine(tiny.Package, new(), new() { Window = 0.25 });
        ExactnessTests.Run(engine, ExactnessTests.Prompt(5, 200, seed: 9), 1, 1, 200);
        // Behind the last layer comes the first, whose missing units are more than there are slots.
        Assert.Equal([engine.Layers[0].Sweep!.Slots.Count, 0, 0], engine.Layers.Select(Borrowed));

        static int Borrowed(Layer layer) => Enumerable.Range(0, layer.Bundles!.Region.Count).Count(unit => layer.Bundles.Window.Find(unit) >= layer.Bundles.Window.Own);
    }

    [Fact]
    public void Memory_for_turns_is_shared_by_the_layers_and_given_back_with_the_last_of_them()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(Activation.Silu, layers: 3, hidden: 64, ffn: 1024), WeightFormat.F32);
        using var engine = new LocalEngine(tiny.Package, new(), new() { Window = 0.25 });
        ExactnessTests.Run(engine, ExactnessTests.Prompt(5, 200, seed: 9), 1, 1, 200);
        SlotPool pool = Assert.Single(engine.Layers.Select(static l => l.Sweep!.Slots).Distinct());
        Assert.True(pool.Count < engine.Layers[0].Bundles!.Region.Count - engine.Layers[0].Bundles!.Window.Own);
        engine.Dispose();
        Assert.Equal(0, engine.Conductor.Ledger.Total);
    }

    public static TheoryData<string, WeightFormat> Variants() =>
        [.. from name in Kernels.Available from format in new[] { WeightFormat.Q4, WeightFormat.Q4B, WeightFormat.Q8, WeightFormat.F32 } select new TheoryDataRow<string, WeightFormat>(name, format)];

    [Theory, MemberData(nameof(Variants))]
    public void Slabs_give_one_kernels_bits_in_every_other_and_in_any_window_and_chunk(string kernels, WeightFormat format)
    {
        // Neurons that do not fill the last slab, and a row of down that is the only one of its panel.
        foreach (ModelConfig model in new[] { TinyPackage.Llama(Activation.Silu, layers: 2, hidden: 320, ffn: 1224), TinyPackage.Opt(layers: 2) with { Activation = Activation.Gelu, FfnSize = 512 } })
        {
            using var tiny = TinyPackage.Create(model, format);
            int vocabulary = model.VocabSize;
            using var scalar = new LocalEngine(tiny.Package, new() { Kernels = "scalar" }, new() { Window = 1 });
            // More tokens at a time than inputs are multiplied for, and fewer.
            foreach ((int length, int plain, int[] chunks) in new[] { (14, 1, new[] { 1, 3, 9 }), (70, 9, [70]) })
            {
                int[] prompt = ExactnessTests.Prompt(length, vocabulary, seed: 9);
                (int Id, float Logit)[][] expected = ExactnessTests.Run(scalar, prompt, 3, plain, vocabulary);
                foreach (double window in (double[])[1, 0.6, 0.1])
                {
                    using var engine = new LocalEngine(tiny.Package, new() { Kernels = kernels, Threads = 2, ParallelWork = 1 }, new() { Window = window });
                    Assert.True(engine.Layers[1].Bundle.Slabs);
                    foreach (int chunk in chunks)
                        ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, prompt, 3, chunk, vocabulary), $"{kernels}, {format}, window {window}, chunks of {chunk}");
                }
            }
        }
    }

    [Theory, MemberData(nameof(Variants))]
    public void A_sparse_model_that_is_asked_not_to_be_has_the_bits_of_its_active_neurons(string kernels, WeightFormat format)
    {
        foreach (ModelConfig model in new[] { TinyPackage.Llama(layers: 2, hidden: 256, ffn: 2048), TinyPackage.Opt(layers: 2) with { HiddenSize = 256, HeadDim = 64, FfnSize = 2048 } })
        {
            using var tiny = TinyPackage.Create(model, format);
            int vocabulary = model.VocabSize;
            int[] prompt = ExactnessTests.Prompt(14, vocabulary, seed: 9);
            using var sparse = new LocalEngine(tiny.Package, new() { Kernels = kernels }, new() { Window = 0.1 });
            foreach (double window in (double[])[1, 0.6])
            {
                using var engine = new LocalEngine(tiny.Package, new() { Kernels = kernels, Threads = 2 }, new() { Window = window, Mode = FeedForwardMode.Dense });
                foreach (int chunk in (int[])[1, 3, 9])
                    ExactnessTests.AssertSame(ExactnessTests.Run(sparse, prompt, 3, chunk, vocabulary), ExactnessTests.Run(engine, prompt, 3, chunk, vocabulary), $"{kernels}, {format}, window {window}, chunks of {chunk}");
            }
        }
    }
}
