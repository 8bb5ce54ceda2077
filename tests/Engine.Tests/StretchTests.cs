using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Stretches of a sparse layer that are read whole (<see cref="Stretches"/>): when, that they bring the window what it deserves, and that what is wrong with them is nobody's loss. Their bits are in <see cref="ExactnessTests"/>.</summary>
public sealed class StretchTests
{
    private const int Vocabulary = 200;
    private static readonly LayerOptions s_short = new() { Window = 0.3, Prefetch = false, LeastStretchBytes = 0 };
    private static readonly int[] s_prompt = ExactnessTests.Prompt(48, Vocabulary, seed: 3);

    [Fact]
    public void A_prompt_reads_stretches_whole()
    {
        using var tiny = Wide();
        using var single = new LocalEngine(tiny.Package, null, s_short with { LeastStretchBytes = int.MaxValue });
        using var engine = new LocalEngine(tiny.Package, null, s_short);
        ExactnessTests.AssertSame(ExactnessTests.Run(single, s_prompt, 1, 48, Vocabulary), ExactnessTests.Run(engine, s_prompt, 1, 48, Vocabulary), "a prompt");
        Assert.True(engine.Layers.Sum(static l => l.Stretches!.Store.DemandReads) > 0, "no stretch was read whole");
        Assert.True(engine.Layers.Sum(static l => l.Stats.DemandReads) < single.Layers.Sum(static l => l.Stats.DemandReads), "long reads were no fewer");
    }

    [Fact]
    public async Task A_stretch_is_read_whole_where_single_reads_of_what_is_missing_take_three_quarters_of_its_time()
    {
        using var tiny = Wide();
        using var engine = new LocalEngine(tiny.Package, new() { GapBytes = 1024 }, s_short);
        await engine.Layers[0].Loaded;
        var stretches = engine.Layers[0].Stretches!;
        UnitRegion units = engine.Layers[0].Bundles!.Region, whole = stretches.Store.Region;
        int run = units.Count / whole.Count, enough = 1;
        // Neighbours are read together.
        while (1024 + units.PartBytes + (enough - 1) * units.Stride < 0.75 * (1024 + whole.PartBytes)) enough++;
        Assert.InRange(enough, 2, run);
        using var window = new Window(units.Count, 8, units.SlotBytes, new(), "test");
        stretches.Choose([.. Enumerable.Range(0, enough - 1), .. Enumerable.Range(run, enough)], window, 1);
        Assert.False(stretches.IsWhole(0));
        Assert.True(stretches.IsWhole(run) && stretches.IsWhole(2 * run - 1));
        // What the window holds is not missing.
        window.Reserve(run);
        stretches.Choose([.. Enumerable.Range(run, enough)], window, 1);
        Assert.False(stretches.IsWhole(run));
    }

    [Fact]
    public void What_comes_with_stretches_fills_the_window_and_then_only_what_is_used_more_often_enters_it()
    {
        using var tiny = Wide();
        using var engine = new LocalEngine(tiny.Package, null, s_short);
        ExactnessTests.Run(engine, s_prompt, 1, 48, Vocabulary);
        foreach (var layer in engine.Layers)
        {
            Assert.Equal(layer.Bundles!.Window.Own, layer.Bundles.Window.Occupied);
            Assert.Equal(0, layer.Bundles.Window.Evictions);
        }
        // The same prompt again: all of it has been used as often, so next to nothing is worth more than what is there (a few are read by themselves).
        long[] held = [.. engine.Layers.Select(static l => l.Stats.UnitsHit)];
        ExactnessTests.Run(engine, s_prompt, 1, 48, Vocabulary);
        foreach (var (layer, before) in engine.Layers.Zip(held))
        {
            int own = layer.Bundles!.Window.Own;
            // Were the last ones to come kept, they would push out twice the window.
            Assert.InRange(layer.Bundles.Window.Evictions, 0, own / 4);
            Assert.True(layer.Stats.UnitsHit - before >= own * 3 / 4, "what the window holds was not used");
        }
    }

    [Fact]
    public void A_stretch_that_cannot_be_read_comes_neuron_by_neuron_and_nobody_notices()
    {
        using var tiny = Wide();
        using var whole = new LocalEngine(tiny.Package, null, s_short);
        var expected = ExactnessTests.Run(whole, s_prompt, 4, 48, Vocabulary);
        using var device = new FlashReader(2);
        var reader = new ReaderTwin(device) { Broken = IsStretch };
        using var conductor = new Conductor(new(), null, reader);
        using var engine = new LocalEngine(tiny.Package, conductor, s_short, null);
        ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, s_prompt, 4, 48, Vocabulary), "with stretches that cannot be read");
        Assert.True(reader.Refused > 0, "no stretch was asked for");
    }

    [Fact]
    public void Where_a_window_has_no_room_for_what_a_stretch_that_cannot_be_read_leaves_over_the_step_fails_in_its_words_and_the_engine_goes_on()
    {
        using var tiny = Wide();
        var narrow = s_short with { Window = 0.02 };
        using var whole = new LocalEngine(tiny.Package, null, narrow);
        var expected = ExactnessTests.Run(whole, s_prompt, 4, 48, Vocabulary);
        using var device = new FlashReader(2);
        var reader = new ReaderTwin(device) { Broken = IsStretch };
        using var conductor = new Conductor(new(), null, reader);
        using var engine = new LocalEngine(tiny.Package, conductor, narrow, null);
        var fault = Assert.Throws<StepFaultException>(() => ExactnessTests.Run(engine, s_prompt, 4, 48, Vocabulary));
        Assert.Equal(FaultKind.Flash, fault.Kind);
        Assert.Contains("is broken by the test", fault.Message, StringComparison.Ordinal);
        reader.Broken = null;
        ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, s_prompt, 4, 48, Vocabulary), "afterwards");
    }

    [Fact]
    public async Task An_unreadable_neuron_in_a_stretch_ends_who_needs_it_and_not_who_needs_its_neighbours()
    {
        var opened = new List<MemoryFile>();
        using var tiny = Wide(path =>
        {
            var file = new MemoryFile(File.ReadAllBytes(path), 512, Path.GetFileName(path));
            lock (opened) opened.Add(file);
            return file;
        });
        using var engine = new LocalEngine(tiny.Package, null, s_short);
        await Task.WhenAll(engine.Layers.Select(static l => l.Loaded));
        int[] other = ExactnessTests.Prompt(3, Vocabulary, seed: 8);
        HashSet<int> needed = Needed(engine, s_prompt), neededToo = Needed(engine, other);
        var units = engine.Layers[1].Bundles!.Region;
        int group = engine.Layers[1].Bundle.Group, unit = needed.Select(n => n / group).Except(neededToo.Select(n => n / group)).First();
        using var broken = new LocalEngine(tiny.Package, null, s_short);
        await Task.WhenAll(broken.Layers.Select(static l => l.Loaded));
        opened.Last(static f => f.Name == "001.slice").Inject(new MemoryFault { Offset = units.Start(unit) + 5, Errno = 5, Times = MemoryFault.Always });
        ExactnessTests.AssertSame(ExactnessTests.Run(engine, other, 1, 3, Vocabulary), ExactnessTests.Run(broken, other, 1, 3, Vocabulary), "who does not need it");
        using var session = broken.OpenSession();
        var fault = Assert.Throws<StepFaultException>(() => session.Generate(s_prompt, 1, Sampling.Greedy, null, 0, 48).Count());
        Assert.Equal(FaultKind.Flash, fault.Kind);
        Assert.Contains("001.slice", fault.Message, StringComparison.Ordinal);
    }

    [Theory, InlineData(true), InlineData(false)]
    public void What_the_last_step_read_whole_is_read_ahead_for_the_next_one(bool ahead)
    {
        using var tiny = Wide();
        using var engine = new LocalEngine(tiny.Package, null, s_short with { Prefetch = ahead });
        ExactnessTests.Run(engine, s_prompt, 1, 12, Vocabulary);
        long issued = engine.Layers.Sum(static l => l.Stretches!.Store.PrefetchIssued), useful = engine.Layers.Sum(static l => l.Stretches!.Store.PrefetchUseful);
        if (ahead) Assert.True(useful > 0 && useful <= issued, $"{useful} of {issued}");
        else Assert.Equal(0, issued);
    }

    [Fact]
    public void A_plan_has_room_for_stretches_and_a_layer_that_keeps_everything_has_none()
    {
        using var tiny = Wide();
        var options = new EngineOptions { Threads = 1, Budget = new() { Size = BudgetSize.OfBytes(1), Context = 128, Host = BudgetHost.Engine } };
        long minimum = BudgetPlan.Of(tiny.Package, options, s_short).Minimum;
        using (var engine = new LocalEngine(tiny.Package, options with { Budget = options.Budget! with { Size = BudgetSize.OfBytes(minimum) } }, s_short))
        {
            ExactnessTests.Run(engine, s_prompt, 4, 48, Vocabulary);
            Assert.True(engine.Conductor.Plan!.Sweep > 0);
            Assert.InRange(engine.Conductor.Ledger.Total, 1, engine.Conductor.Plan.Native);
            Assert.All(engine.Layers, static l => Assert.NotNull(l.Stretches));
        }
        using var all = new LocalEngine(tiny.Package, options with { Budget = options.Budget! with { Size = BudgetSize.OfBytes(1L << 30) } }, s_short);
        ExactnessTests.Run(all, s_prompt, 1, 48, Vocabulary);
        Assert.Equal(0, all.Conductor.Plan!.Sweep);
        Assert.All(all.Layers, static l => Assert.Null(l.Stretches));
    }

    [Fact]
    public void Short_stretches_and_dense_layers_have_none()
    {
        using var tiny = Wide();
        Assert.Equal((0, 0), Stretches.Of(tiny.Package.Manifest, 0, 512, new()));
        Assert.Equal((0, 0), Stretches.Of(tiny.Package.Manifest, 0, 512, s_short with { Mode = FeedForwardMode.Dense }));
        Assert.Equal((0, 0), Stretches.Of(tiny.Package.Manifest, 0, 512, s_short with { Reuse = false }));
        Assert.True(Stretches.Of(tiny.Package.Manifest, 0, 512, s_short).Count >= 16);
    }

    /// <summary>Neurons of layer 1 that a prompt needs.</summary>
    private static HashSet<int> Needed(LocalEngine engine, int[] prompt)
    {
        HashSet<int> neurons = [];
        engine.Layers[1].Watch = (_, neuron) => neurons.Add(neuron);
        ExactnessTests.Run(engine, prompt, 1, prompt.Length, Vocabulary);
        engine.Layers[1].Watch = null;
        return neurons;
    }

    /// <summary>Units that are several neurons: a checksum for each of them.</summary>
    private static bool IsStretch(UnitRegion region, int unit) => region.Checks.Count > 2;

    private static TinyPackage Wide(Func<string, FlashFile>? open = null) => TinyPackage.Create(TinyPackage.Llama(layers: 3, hidden: 128, ffn: 1024), WeightFormat.Q8, open: open);
}
