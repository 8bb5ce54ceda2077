using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Neurons inside ReLU experts, read one by one: of the experts that a token uses only the neurons that are not zero are read and computed, and neither window, threads, kernels, chunks nor company change a bit.</summary>
public sealed class ExpertNeuronTests
{
    private const int Count = 6, Active = 2, Size = 160;

    /// <summary>The router before attention or behind it; formats that are quantised and not; units of one neuron and of several.</summary>
    public static readonly TheoryData<bool, WeightFormat, int> Shapes = new() { { true, WeightFormat.F32, 1 }, { false, WeightFormat.F32, 1 }, { true, WeightFormat.Q4, 5 }, { false, WeightFormat.Q8, 3 } };

    private static TinyPackage Create(bool early, WeightFormat format, Func<string, FlashFile>? open = null) => TinyPackage.Create(
        TinyPackage.Llama() with { Experts = new ExpertConfig { Count = Count, Active = Active, Size = Size, Normalised = true, Score = RouterScore.Sigmoid, Early = early, ByNeuron = true } }, format, lean: true, open: open);

    [Theory, MemberData(nameof(Shapes))]
    public void The_bits_are_the_same_in_every_window_and_company(bool early, WeightFormat format, int group)
    {
        using TinyPackage tiny = Create(early, format);
        using (PackageFile slice = tiny.Package.OpenSlice(1)) Assert.Equal((group, true, Count * Size), (slice.Bundles!.Group, slice.Bundles.Lean, slice.Bundles.Neurons));
        int[] prompt = ExactnessTests.Prompt(70, tiny.Package.Config.VocabSize, seed: 11);
        var expected = ExactnessTests.Transcript(tiny.Package, new(FeedForwardMode.Exact, 1, false, "scalar", 1, prompt.Length), prompt, 6);
        var tally = new ExactnessTests.Tally();
        foreach (string kernels in Kernels.Available)
        {
            foreach (var (window, threads, chunk, companions, prefetch, stretches) in new[] { (1.0, 1, 1, 0, false, false), (0.25, 2, 7, 0, true, false), (0.25, 3, 70, 3, true, true), (0.01, 2, 7, 2, false, false), (0.1, 1, 33, 0, true, true) })
            {
                var v = new ExactnessTests.Variant(FeedForwardMode.Auto, window, prefetch, kernels, threads, chunk, companions, Stretches: stretches);
                ExactnessTests.AssertSame(expected, ExactnessTests.Transcript(tiny.Package, v, prompt, 6, tally), v.ToString());
            }
        }
        Assert.True(tally.Merged > 0, "no two sessions were ever in one step");
        Assert.True(tally.Issued > 0, "nothing was read ahead");
    }

    [Theory, MemberData(nameof(Shapes))]
    public void Logits_are_those_of_the_reference_model(bool early, WeightFormat format, int group)
    {
        using TinyPackage tiny = Create(early, format);
        int[] ids = ExactnessTests.Prompt(12 + group, tiny.Package.Config.VocabSize, seed: 13);
        float[] expected = ReferenceModel.FromPackage(tiny.Package).Run(ids).Logits[^1];
        using var engine = new LocalEngine(tiny.Package, new(), new() { Window = 0.2 });
        using EngineSession session = engine.OpenSession();
        session.Timeline.Append(ids);
        double size = expected.Max(Math.Abs), error = session.Run(Sampling.Greedy, SlotFlags.Sample, expected.Length, 5).Top!.Max(t => Math.Abs(t.Logit - expected[t.Id]));
        // The reference multiplies by numbers as they are, the engine by rows in eight bits where weights are quantised.
        Assert.InRange(error / size, 0, format == WeightFormat.F32 ? 1e-5 : 0.05);
    }

    /// <summary>What a position reads lies in as many experts as it uses, about as many of their neurons as ReLU leaves; nothing else is computed.</summary>
    [Theory, InlineData(true), InlineData(false)]
    public void Only_active_neurons_of_chosen_experts_are_needed(bool early)
    {
        using TinyPackage tiny = Create(early, WeightFormat.F32);
        using var engine = new LocalEngine(tiny.Package, new() { GapBytes = 0 }, new() { Window = 1, Prefetch = false });
        using EngineSession session = engine.OpenSession();
        var needed = new List<(int Position, int Neuron)>();
        Layer layer = engine.Layers[1];
        Assert.Equal(FeedForwardMode.Exact, layer.Mode);
        layer.Watch = (position, neuron) => needed.Add((position, neuron));
        Assert.Equal(9, session.Generate([3, 50, 7, 120, 9], 9, Sampling.Greedy).Count());
        int[] counts = [.. needed.GroupBy(static n => n.Position).Select(static p => p.Count())];
        Assert.All(needed.GroupBy(static n => n.Position), static p => Assert.InRange(p.Select(static n => n.Neuron / Size).Distinct().Count(), 1, Active));
        Assert.True(needed.Select(static n => n.Neuron / Size).Distinct().Count() > Active, "always the same experts");
        Assert.All(counts, static c => Assert.InRange(c, 1, Active * Size - 1));
        LayerStats stats = layer.Stats;
        Assert.Equal((needed.Count, needed.Count), (stats.NeuronsActive, stats.NeuronsComputed));
        // Everything fits: what was read is what was needed at least once, rows up and down of each.
        long bytes = (long)layer.Bundles!.Region.PartBytes * needed.Select(static n => n.Neuron).Distinct().Count();
        Assert.Equal(bytes, stats.DemandBytes);
    }

    [Fact]
    public void What_would_read_whole_experts_is_refused_with_what_to_do_instead()
    {
        using TinyPackage tiny = Create(early: true, WeightFormat.Q8);
        string Why(FeedForwardMode mode) => Assert.Throws<FlashException>(() => new LocalEngine(tiny.Package, null, new() { Mode = mode })).Message;
        Assert.Contains("the bundles of tiny are lean: take --mode exact", Why(FeedForwardMode.Dense), StringComparison.Ordinal);
        Assert.Contains("mode predicted is of models without experts; tiny has some: take --mode exact", Why(FeedForwardMode.Predicted), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_neuron_that_cannot_be_read_ends_the_step_that_needs_it_with_one_line()
    {
        var opened = new List<MemoryFile>();
        using TinyPackage tiny = Create(early: false, WeightFormat.F32, path =>
        {
            MemoryFile file = new(File.ReadAllBytes(path), 512, path);
            lock (opened) opened.Add(file);
            return file;
        });
        using var engine = new LocalEngine(tiny.Package, null, new() { Window = 0.1, Prefetch = false });
        await Task.WhenAll(engine.Layers.Select(static l => l.Loaded));
        using (PackageFile slice = tiny.Package.OpenSlice(1))
        {
            UnitRegion units = slice.BundleUnits(whole: false);
            foreach (MemoryFile file in opened.Where(static f => f.Name.EndsWith("001.slice", StringComparison.Ordinal)))
                for (int u = 0; u < units.Count; u++) file.Inject(new MemoryFault { Offset = units.Start(u) + 5, FlipBit = 3, Times = MemoryFault.Always });
        }
        var fault = Assert.Throws<StepFaultException>(() => ExactnessTests.Run(engine, ExactnessTests.Prompt(6, 150, 3), 4, 3, 150));
        Assert.Equal(FaultKind.Flash, fault.Kind);
        Assert.Contains("001.slice", fault.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_a_budget_plans_is_what_is_held()
    {
        using TinyPackage tiny = Create(early: true, WeightFormat.Q4);
        var options = new EngineOptions { Budget = new BudgetOptions { Size = BudgetSize.OfBytes(256L << 20), Sessions = 2, Context = 128, Host = BudgetHost.Engine } };
        BudgetPlan plan = BudgetPlan.Of(tiny.Package, options, new());
        Assert.Null(plan.Refusal);
        using var engine = new LocalEngine(tiny.Package, options, new());
        using EngineSession session = engine.OpenSession();
        Assert.Equal(20, session.Generate(ExactnessTests.Prompt(40, 150, 5), 20, Sampling.Greedy).Count());
        Assert.InRange(engine.Conductor.Ledger.Total, 1, plan.Native);
    }
}
