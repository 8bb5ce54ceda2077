using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>Bundles without the rows that decide are the same model: `exact` gives the same bits by fewer bytes, and what would read the missing rows is refused.</summary>
public sealed class LeanBundleTests
{
    /// <summary>Gated and not, one neuron a unit and several.</summary>
    public static readonly TheoryData<string, WeightFormat, int> Shapes = new()
    {
        { "llama", WeightFormat.F32, 1 }, { "llama", WeightFormat.Q4, 5 }, { "llama", WeightFormat.Q4K, 1 },
        { "opt", WeightFormat.F32, 2 }, { "opt", WeightFormat.Q8, 6 }, { "wide opt", WeightFormat.F32, 1 },
    };

    private static ModelConfig Shape(string name, WeightFormat format) => name == "wide opt" ? TinyPackage.Opt() with { HiddenSize = 256, HeadDim = 64, Layers = 2 } : ExactnessTests.Shape(name, format);

    private static (TinyPackage Whole, TinyPackage Lean) Both(string shape, WeightFormat format)
    {
        ModelConfig config = Shape(shape, format);
        return (TinyPackage.Create(config, format), TinyPackage.Create(config, format, lean: true));
    }

    [Theory, MemberData(nameof(Shapes))]
    public void Exact_gives_the_same_bits_as_of_whole_bundles_in_every_window_and_company(string shape, WeightFormat format, int group)
    {
        var (whole, lean) = Both(shape, format);
        using var _ = whole;
        using var __ = lean;
        using (var slice = lean.Package.OpenSlice(1)) Assert.Equal((group, true), (slice.Bundles!.Group, slice.Bundles.Lean));
        int[] prompt = ExactnessTests.Prompt(70, whole.Package.Config.VocabSize, seed: 11);
        var expected = ExactnessTests.Transcript(whole.Package, new(FeedForwardMode.Exact, 1, false, "scalar", 1, prompt.Length), prompt, 6);
        var tally = new ExactnessTests.Tally();
        foreach (var (window, companions, prefetch) in new[] { (1.0, 0, false), (0.25, 0, true), (0.25, 3, true), (0.02, 2, false) })
        {
            var v = new ExactnessTests.Variant(FeedForwardMode.Auto, window, prefetch, "auto", 2, 7, companions);
            ExactnessTests.AssertSame(expected, ExactnessTests.Transcript(lean.Package, v, prompt, 6, tally), v.ToString());
        }
        Assert.True(tally.Merged > 0, "no two sessions were ever in one step");
        Assert.True(tally.Issued > 0, "nothing was read ahead");
    }

    [Theory, InlineData("llama", 2), InlineData("opt", 1)]
    public void A_prompt_that_needs_most_neurons_reads_the_rows_it_uses_and_not_those_between_them(string shape, int rows)
    {
        ModelConfig config = ExactnessTests.Shape(shape) with { HiddenSize = 256, HeadDim = 64, Layers = 2 };
        long Read(bool lean)
        {
            using var tiny = TinyPackage.Create(config, WeightFormat.F32, lean: lean);
            using var engine = new LocalEngine(tiny.Package, new(), new() { Window = 1, Prefetch = false });
            ExactnessTests.Run(engine, ExactnessTests.Prompt(120, 150, seed: 12), 1, 120, 150);
            Assert.All(engine.Layers, static l => Assert.True(l.Stats.UnitsNeeded > l.Bundles!.Region.Count * 2 / 3, $"the prompt needs {l.Stats.UnitsNeeded} of {l.Bundles.Region.Count} neurons"));
            if (lean) Assert.All(engine.Layers, l => Assert.Equal((l.Bundles!.Region.Stride, 1024 * rows), (l.Bundles.Region.PartBytes, l.Bundles.Region.PartBytes)));
            return engine.Layers.Sum(static l => l.Stats.DemandBytes - (l.Embeddings?.DemandBytes ?? 0));
        }
        long whole = Read(lean: false), lean = Read(lean: true);
        Assert.InRange((double)lean / whole, 0.9 * rows / (rows + 1), 1.1 * rows / (rows + 1));
    }

    [Theory, InlineData("llama"), InlineData("opt")]
    public void The_reference_model_finds_the_rows_that_decide_in_the_selector(string shape)
    {
        var (whole, lean) = Both(shape, WeightFormat.Q8);
        using var _ = whole;
        using var __ = lean;
        var (one, other) = (new PackageTensors(whole.Package), new PackageTensors(lean.Package));
        foreach (string matrix in whole.Package.Config.Gated ? ["ffn.up", "ffn.down", "ffn.gate"] : (string[])["ffn.up", "ffn.down"])
            Assert.Equal(one.Read("layers.1." + matrix), other.Read("layers.1." + matrix));
        int[] ids = ExactnessTests.Prompt(9, 150, seed: 13);
        Assert.Equal(ReferenceModel.FromPackage(whole.Package).Run(ids).Logits, ReferenceModel.FromPackage(lean.Package).Run(ids).Logits);
    }

    [Theory, InlineData("llama", 2), InlineData("wide opt", 1)]
    public void Rows_that_are_read_one_by_one_give_the_same_bits(string shape, int rows)
    {
        using var tiny = TinyPackage.Create(Shape(shape, WeightFormat.F32), WeightFormat.F32, lean: true);
        var layer = new LayerOptions { Window = 0.3, Prefetch = false };
        using var together = new LocalEngine(tiny.Package, new(), layer);
        using var apart = new LocalEngine(tiny.Package, new() { Bundled = false }, layer);
        int[] prompt = ExactnessTests.Prompt(24, 150, seed: 3);
        ExactnessTests.AssertSame(ExactnessTests.Run(together, prompt, 8, 4, 150), ExactnessTests.Run(apart, prompt, 8, 4, 150), "row by row");
        Assert.Equal(0, apart.Conductor.ReaderStats.Faults);
        // Two rows are a read each; one is read as ever, in company.
        long units = apart.Layers.Sum(static l => l.Stats.UnitsNeeded - l.Stats.UnitsHit - l.Stats.UnitsLate);
        Assert.InRange(apart.Conductor.ReaderStats.Reads, rows > 1 ? rows * units : 1, rows > 1 ? rows * units + apart.Layers[0].Stats.DemandReads : units - 1);
    }

    [Theory, InlineData("llama"), InlineData("wide opt")]
    public async Task A_bit_that_flips_once_in_each_unit_is_read_again_and_one_that_stays_is_a_fault(string shape)
    {
        var opened = new List<MemoryFile>();
        using var tiny = TinyPackage.Create(Shape(shape, WeightFormat.F32), WeightFormat.F32, lean: true, open: path =>
        {
            MemoryFile file = new(File.ReadAllBytes(path), 512, path);
            lock (opened) opened.Add(file);
            return file;
        });
        int[] prompt = ExactnessTests.Prompt(6, 150, 3);
        var layer = new LayerOptions { Window = 0.1, Prefetch = false };
        using var whole = new LocalEngine(tiny.Package, null, layer);
        var expected = ExactnessTests.Run(whole, prompt, 4, 3, 150);
        foreach (long times in new[] { 1, MemoryFault.Always })
        {
            int before = opened.Count;
            using var engine = new LocalEngine(tiny.Package, null, layer);
            await Task.WhenAll(engine.Layers.Select(static l => l.Loaded));
            using (var slice = tiny.Package.OpenSlice(1))
            {
                var units = slice.BundleUnits(whole: false);
                foreach (var file in opened.Skip(before).Where(static f => f.Name.EndsWith("001.slice", StringComparison.Ordinal)))
                    for (int u = 0; u < units.Count; u++) file.Inject(new MemoryFault { Offset = units.Start(u) + units.PartBytes - 5, FlipBit = 3, Times = times });
            }
            if (times == 1)
            {
                ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, prompt, 4, 3, 150), "with every unit read twice");
                Assert.True(engine.Layers[1].Bundles!.DemandReads > whole.Layers[1].Bundles!.DemandReads, "nothing was read again");
            }
            else
            {
                var fault = Assert.Throws<StepFaultException>(() => ExactnessTests.Run(engine, prompt, 4, 3, 150));
                Assert.Equal(FaultKind.Flash, fault.Kind);
                Assert.Contains("001.slice", fault.Message, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void Auto_is_exact_and_modes_that_read_the_missing_rows_say_what_to_do_instead()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8, lean: true);
        Manifest manifest = tiny.Package.Manifest;
        FeedForwardMode Of(FeedForwardMode mode, ModelConfig? config = null) => Layer.ModeOf(manifest, config ?? manifest.Model, 0, mode);
        Assert.Equal((FeedForwardMode.Exact, FeedForwardMode.Exact), (Of(FeedForwardMode.Auto), Of(FeedForwardMode.Exact)));
        const string dense = "mode dense reads every row of a neuron; the bundles of tiny are lean: take --mode exact, or import it again with --bundles whole";
        Assert.Equal(dense, Assert.Throws<FlashException>(() => Of(FeedForwardMode.Dense)).Message);
        // With an activation that has no zeros everything would be needed.
        Assert.Equal(dense, Assert.Throws<FlashException>(() => Of(FeedForwardMode.Auto, manifest.Model with { Activation = Activation.Silu })).Message);
        Assert.Contains("mode predicted needs predictors", Assert.Throws<FlashException>(() => Of(FeedForwardMode.Predicted)).Message, StringComparison.Ordinal);
        Assert.Equal(dense, Assert.Throws<FlashException>(() => new LocalEngine(tiny.Package, null, new() { Mode = FeedForwardMode.Dense })).Message);
    }

    [Fact]
    public void A_budget_counts_the_smaller_units_and_proposes_no_mode_that_is_refused()
    {
        // The resident copy weighs enough beside a process to be worth a proposal.
        ModelConfig config = TinyPackage.Llama(layers: 2, hidden: 256, ffn: 2048);
        using var whole = TinyPackage.Create(config, WeightFormat.F32);
        using var lean = TinyPackage.Create(config, WeightFormat.F32, lean: true);
        EngineOptions Budget(long bytes) => new() { Budget = new BudgetOptions { Size = BudgetSize.OfBytes(bytes), Sessions = 1, Context = 128, Host = BudgetHost.Engine } };
        BudgetPlan one = BudgetPlan.Of(whole.Package, Budget(1L << 30), new()), other = BudgetPlan.Of(lean.Package, Budget(1L << 30), new());
        // `exact` never took the third row into memory; but between two neighbours it was read.
        Assert.Equal(one.Streamed, other.Streamed);
        Assert.Equal(one.Needs.Shape.Layers, other.Needs.Shape.Layers);
        Assert.Contains("--mode dense", BudgetPlan.Of(whole.Package, Budget(20 << 20), new()).Refusal!, StringComparison.Ordinal);
        Assert.DoesNotContain("--mode dense", BudgetPlan.Of(lean.Package, Budget(20 << 20), new()).Refusal!, StringComparison.Ordinal);
        Assert.Equal((FeedForwardMode.Dense, FeedForwardMode.Exact), (DraftModel.Resident(whole.Package.Manifest, new()).Mode, DraftModel.Resident(lean.Package.Manifest, new()).Mode));
        Assert.True(BudgetPlan.OfDraft(lean.Package.Manifest, lean.Package.DeviceAlignment, Budget(1L << 30), new()).Native > 0);
    }

    [Theory]
    [InlineData("llama-relu", "q8")]
    [InlineData("bamboo", "q8")]
    [InlineData("opt", "f32")]
    [InlineData("falcon-relu", "f32")]
    public void A_layer_at_a_time_measures_what_it_measures_of_whole_bundles(string family, string quant)
    {
        using var whole = ImportedPackage.Create(TestData.Golden(family), quant);
        using var lean = ImportedPackage.Create(TestData.Golden(family), quant, lean: true);
        Assert.Equal((false, true), (whole.Package.Manifest.Lean, lean.Package.Manifest.Lean));
        int[] ids = [.. Enumerable.Range(0, Math.Min(90, whole.Package.Config.MaxPositions)).Select(i => i * 31 % whole.Package.Config.VocabSize)];
        LayerByLayer expected = LayerByLayer.Run(whole.Package, ids), actual = LayerByLayer.Run(lean.Package, ids);
        Assert.Equal(expected.Nll, actual.Nll);
        // A neuron of dReLU whose gate is open is active though its other factor may be zero.
        if (whole.Package.Config.Activation != Activation.DRelu) Assert.Equal(expected.Zeros, actual.Zeros, static (a, b) => Math.Abs(a - b) < 1e-9);
        using var engine = new LocalEngine(whole.Package);
        using var session = engine.OpenSession();
        session.Timeline.Append(ids);
        session.Run(Sampling.Greedy);
        Assert.Equal(engine.Layers.Select(static l => 1 - (double)l.Stats.NeuronsActive / l.Stats.NeuronsDense), actual.Zeros, static (a, b) => Math.Abs(a - b) < 1e-9);
        Assert.All(actual.Zeros, static z => Assert.InRange(z, 0.1, 0.99));
        Assert.True(LayerByLayer.MemoryFor(lean.Package) > LayerByLayer.MemoryFor(whole.Package), "the selector is in memory");
    }
}
