using System.Text.RegularExpressions;
using CsCheck;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>What a plan promises, for any model and budget, and that an engine keeps it. Plans need no package, only its manifest.</summary>
public sealed partial class BudgetTests
{
    private sealed record Case(ModelConfig Model, string Quant, double[] Zeros, FeedForwardMode Mode, int Sessions, int Context, KvType Kv, int Alignment)
    {
        public BudgetPlan Plan(long bytes) => BudgetPlan.Of(Manifest(Model, Quant, Zeros), Alignment, Engine(bytes, Sessions, Context), new() { Mode = Mode, Kv = Kv });
    }

    private static Gen<Case> Cases => Gen.Select(
        Gen.Select(Gen.Int[1, 24], ExactnessTests.OneOf(256, 512, 1024, 4096), Gen.Int[1, 40].Select(static n => n * 256), ExactnessTests.OneOf("relu", "silu", "opt", "experts"), Gen.Bool),
        ExactnessTests.OneOf("f32", "bf16", "q8", "q4", "q4k"), Gen.Double[0.01, 0.4], Gen.Select(Gen.Int[1, 20], Gen.Int[1, 6000]), ExactnessTests.OneOf(KvType.F32, KvType.F16, KvType.Q8), ExactnessTests.OneOf(512, 4096),
        static (shape, quant, density, promise, kv, alignment) =>
        {
            var (layers, hidden, ffn, kind, tied) = shape;
            var model = (kind == "opt" ? TinyPackage.Opt(layers) : TinyPackage.Llama(kind == "silu" || kind == "experts" ? Activation.Silu : Activation.Relu, layers, hidden, ffn, tied)) with
            {
                HiddenSize = hidden,
                FfnSize = ffn,
                HeadDim = hidden / 4,
                MaxPositions = 4096,
                VocabSize = 5000,
                TiedHead = tied,
                Experts = kind == "experts" ? new ExpertConfig { Count = 16, Active = 2, Size = 256, Normalised = true } : null,
            };
            // Later layers are denser.
            double[] zeros = [.. Enumerable.Range(0, layers).Select(i => 1 - Math.Min(0.9, density * (1 + 2.0 * i / layers)))];
            return new Case(model, quant, zeros, FeedForwardMode.Auto, promise.Item1, promise.Item2, kv, alignment);
        });

    [Fact]
    public void A_plan_never_promises_more_than_its_budget_and_every_refusal_names_a_minimum_that_is_accepted() => Gen.Select(Cases, Gen.Double[0.3, 4]).Sample((c, factor) =>
    {
        long minimum = c.Plan(1).Minimum;
        var plan = c.Plan((long)(minimum * factor));
        Assert.Equal(factor >= 1, plan.Fits);
        Assert.Equal(minimum, plan.Minimum);
        if (plan.Fits)
        {
            Assert.True(plan.Sum <= plan.Budget, $"{plan.Sum} of {plan.Budget}");
            Assert.Equal(plan.Sum, plan.Lines.Sum(static l => l.Bytes));
            Assert.Null(plan.Refusal);
            foreach (var l in plan.Needs.Layers) Assert.InRange(plan.WindowSlots[l.Layer], l.Least, l.Units);
            return;
        }
        Assert.Contains(BudgetSize.Text(minimum), plan.Refusal!, StringComparison.Ordinal);
        Assert.Throws<FlashException>(plan.Demand);
        Assert.True(c.Plan(minimum).Fits);
        Assert.False(c.Plan(minimum - 1).Fits);
        // What is named in words is enough, too: it is rounded up.
        Assert.True(BudgetSize.TryParse(LeastInWords().Match(plan.Refusal!).Groups[1].Value, out BudgetSize named));
        Assert.True(c.Plan(named.Bytes).Fits, plan.Refusal);
    }, iter: 100, threads: 1);

    [Fact]
    public void What_a_refusal_says_would_need_less_does() => Cases.Sample(c =>
    {
        var plan = c.Plan(1);
        var less = LessWithSessions().Match(plan.Refusal!);
        if (!less.Success) return;
        Assert.True(BudgetSize.TryParse(less.Groups[1].Value, out BudgetSize named));
        Assert.True(named.Bytes < plan.Minimum);
        Assert.True((c with { Sessions = 1 }).Plan(named.Bytes).Fits);
    }, iter: 50, threads: 1);

    [Fact]
    public void More_budget_never_makes_a_window_smaller() => Gen.Select(Cases, Gen.Double[1, 3], Gen.Int[1, 2_000_000]).Sample((c, factor, more) =>
    {
        long bytes = (long)(c.Plan(1).Minimum * factor);
        var less = c.Plan(bytes).WindowSlots;
        var larger = c.Plan(bytes + more).WindowSlots;
        for (int i = 0; i < less.Count; i++) Assert.True(larger[i] >= less[i], $"layer {i}: {less[i]} slots with {bytes}, {larger[i]} with {more} more");
    }, iter: 60, threads: 1);

    [Fact]
    public void Denser_layers_get_larger_windows_and_every_layer_of_a_dense_model_the_same_share()
    {
        var relu = TinyPackage.Llama(layers: 4, hidden: 1024, ffn: 4096);
        double[] zeros = [0.99, 0.98, 0.96, 0.92];
        var sparse = BudgetPlan.Of(Manifest(relu, "q8", zeros), 4096, Engine(Least(relu, zeros) + (12 << 20)), new());
        Assert.Equal(sparse.WindowSlots.Order(), sparse.WindowSlots);
        Assert.True(sparse.WindowSlots[3] > 1.2 * sparse.WindowSlots[0]);
        var silu = relu with { Activation = Activation.Silu };
        var dense = BudgetPlan.Of(Manifest(silu, "q8", zeros), 4096, Engine(Least(silu, zeros) + (12 << 20)), new());
        Assert.True(dense.WindowSlots.Max() - dense.WindowSlots.Min() <= 1);
        // 32 slabs a layer.
        Assert.InRange(dense.WindowSlots[0], 5, 31);

        static long Least(ModelConfig model, double[] zeros) => BudgetPlan.Of(Manifest(model, "q8", zeros), 4096, Engine(1), new()).Minimum;
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1 << 30)]
    public void A_tried_step_counts_its_own_reads_and_layers_that_read_everything_are_added(long more)
    {
        var model = TinyPackage.Llama(Activation.Silu, layers: 4, hidden: 1024, ffn: 4096);
        double[] zeros = [0, 0, 0, 0];
        var plan = BudgetPlan.Of(Manifest(model, "q8", zeros), 4096, Engine(BudgetPlan.Of(Manifest(model, "q8", zeros), 4096, Engine(1), new()).Minimum + (12 << 20) + more), new());
        Assert.True(plan.Fits);
        StepTrial trial = StepTrial.Of(1, 0.006, [0.002, 0.002], [0, 0], 1000);
        Expectation none = Expectation.Of(plan, RooflineTests.Rates, 1), tried = Expectation.Of(plan, RooflineTests.Rates, 1, trial);
        Assert.Null(none.ExpectedTokensPerSecond);
        Assert.Equal(none.Times, tried.Times);
        Assert.Equal(more == 0, none.Times.FlashSeconds > 0);
        Assert.Equal(1 / (trial.Seconds(model) + none.Times.FlashSeconds), tried.ExpectedTokensPerSecond!.Value, 1e-9);
    }

    /// <summary>The figures that were simulated for 3.3 % active neurons: window, misses in percent of all.</summary>
    [Theory, InlineData(0.07, 2.4), InlineData(0.12, 1.9), InlineData(0.24, 1.0), InlineData(0.5, 0.18)]
    public void The_model_of_misses_agrees_with_simulated_windows(double share, double percent)
    {
        var activity = Firing.Neurons(0.033, 1);
        double missed = activity.MissedWith(share, 1);
        Assert.InRange(100 * missed, 0.85 * percent, 1.15 * percent);
        Assert.Equal(share, activity.WindowFor(missed, 1), 1e-6);
        Assert.Equal(0.033, activity.Needed(1), 1e-9);
    }

    [Theory]
    [InlineData("1.8GiB", 1932735283, 0)]
    [InlineData("800MB", 800_000_000, 0)]
    [InlineData("512 MiB", 536870912, 0)]
    [InlineData("64m", 67108864, 0)]
    [InlineData("4096B", 4096, 0)]
    [InlineData("50%", 0, 0.5)]
    [InlineData("62.5 %", 0, 0.625)]
    [InlineData("110%", 0, 1.1)]
    public void A_budget_is_read_in_bytes_or_percent(string text, long bytes, double share)
    {
        Assert.True(BudgetSize.TryParse(text, out BudgetSize size));
        Assert.Equal(bytes, size.Bytes);
        Assert.Equal(share, size.Share, 1e-12);
        Assert.Equal(share > 0 ? (long)(share * 1_000_000) : bytes, size.Of(1_000_000));
    }

    [Theory, InlineData(""), InlineData("50"), InlineData("0.5"), InlineData("0%"), InlineData("-1GiB"), InlineData("GiB"), InlineData("1e3GB"), InlineData("NaNMB"), InlineData("9999999TB"), InlineData("half")]
    public void What_is_no_budget_is_refused(string text) => Assert.False(BudgetSize.TryParse(text, out _));

    [Theory, InlineData("llama", WeightFormat.Q8), InlineData("untied", WeightFormat.F32), InlineData("opt", WeightFormat.Q4), InlineData("silu", WeightFormat.Q8)]
    public void An_engine_under_a_plan_gives_the_same_bits_and_holds_no_more_native_memory_than_planned(string shape, WeightFormat format)
    {
        using var tiny = TinyPackage.Create(ExactnessTests.Shape(shape), format);
        int[] prompt = ExactnessTests.Prompt(90, tiny.Package.Config.VocabSize, seed: 5);
        var expected = ExactnessTests.Transcript(tiny.Package, new(FeedForwardMode.Auto, 1, false, "auto", 1, 90), prompt, 6);
        var options = new EngineOptions { Threads = 2, Budget = new() { Size = BudgetSize.OfBytes(1), Context = 128, Sessions = 2, Host = BudgetHost.Engine } };
        var refused = Assert.Throws<FlashException>(() => new LocalEngine(tiny.Package, options));
        Assert.Contains("at least", refused.Message, StringComparison.Ordinal);
        long minimum = BudgetPlan.Of(tiny.Package, options, new()).Minimum;
        using var engine = new LocalEngine(tiny.Package, options with { Budget = options.Budget! with { Size = BudgetSize.OfBytes(minimum) } });
        BudgetPlan plan = engine.Conductor.Plan!;
        long loaded = Settled(engine);
        Assert.InRange(loaded, 1, plan.Native);
        ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, prompt, 6, 64, tiny.Package.Config.VocabSize), "under a plan");
        // Everything was there from the start.
        Assert.Equal(loaded, Settled(engine));
        Assert.Equal(plan.WindowSlots, engine.Layers.Select(static l => l.Bundles!.Window.Own));
    }

    [Fact]
    public void Keys_and_values_never_outgrow_the_plan_and_sessions_that_lose_theirs_replay()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var engine = Planned(tiny, sessions: 2, context: 64);
        long held = Settled(engine);
        int[][] prompts = [.. Enumerable.Range(0, 4).Select(i => ExactnessTests.Prompt(40, 200, seed: 50 + i))];
        var expected = prompts.Select(p => ExactnessTests.Transcript(tiny.Package, new(FeedForwardMode.Exact, 1, false, "auto", 1, 64), p, 6)).ToArray();
        // Four sessions in turn where two are promised.
        EngineSession[] sessions = [.. prompts.Select(_ => engine.OpenSession())];
        for (int i = 0; i < 4; i++) sessions[i].Timeline.Append(prompts[i]);
        for (int step = 0; step < 6; step++)
        {
            for (int i = 0; i < 4; i++)
            {
                var result = sessions[i].Run(Sampling.Greedy, SlotFlags.Sample, 200);
                sessions[i].Timeline.Append([result.Token]);
                ExactnessTests.AssertSame([expected[i][step]], [result.Top!], $"session {i}, step {step}");
            }
        }
        Assert.True(sessions.Sum(static s => s.Replays) > 0, "nobody lost anything");
        Assert.Equal(held, Settled(engine));
        foreach (var session in sessions) session.Dispose();
    }

    [Fact]
    public void A_session_that_is_longer_than_all_that_is_promised_is_refused_in_words()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var engine = Planned(tiny, sessions: 1, context: 64);
        using var session = engine.OpenSession();
        session.Timeline.Append(ExactnessTests.Prompt(65, 200, seed: 1));
        var fault = Assert.Throws<StepFaultException>(() => session.Run(Sampling.Greedy));
        Assert.Contains("context_length_exceeded", fault.Message, StringComparison.Ordinal);
        Assert.Contains("64", fault.Message, StringComparison.Ordinal);
        session.Timeline.Truncate(10);
        session.Run(Sampling.Greedy);
    }

    [Fact]
    public void No_more_steps_run_at_once_than_have_scratch_and_all_sessions_are_served()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(tied: false), WeightFormat.Q8);
        using var engine = Planned(tiny, sessions: 8, context: 128);
        long held = Settled(engine);
        var prompts = Enumerable.Range(0, 8).Select(i => ExactnessTests.Prompt(10 + 7 * i, 200, seed: 70 + i)).ToArray();
        var expected = prompts.Select(p => ExactnessTests.Transcript(tiny.Package, new(FeedForwardMode.Exact, 1, false, "auto", 1, 64), p, 6)).ToArray();
        var together = new (int, float)[8][][];
        var threads = prompts.Select((p, i) => new Thread(() => together[i] = ExactnessTests.Run(engine, p, 6, 16, 200))).ToArray();
        foreach (var thread in threads) thread.Start();
        foreach (var thread in threads) thread.Join();
        for (int i = 0; i < 8; i++) ExactnessTests.AssertSame(expected[i], together[i], $"session {i}");
        Assert.Equal(held, Settled(engine));
    }

    [Fact]
    public async Task A_second_model_is_refused_while_the_first_has_the_budget_and_admitted_when_it_has_left()
    {
        using var first = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8, seed: 1);
        using var second = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8, seed: 2);
        var options = new EngineOptions { Threads = 1, Budget = new() { Size = BudgetSize.OfBytes(1L << 30), Host = BudgetHost.Engine } };
        using var conductor = new Conductor(options);
        var one = new LocalEngine(first.Package, conductor, new(), null);
        foreach (var layer in one.Layers) await layer.Loaded;
        Assert.Contains("has the whole budget", Assert.Throws<FlashException>(() => new LocalEngine(second.Package, conductor, new(), null)).Message, StringComparison.Ordinal);
        one.Dispose();
        using var two = new LocalEngine(second.Package, conductor, new(), null);
        foreach (var layer in two.Layers) await layer.Loaded;
        Assert.Equal(second.Package.Hash, conductor.Plan!.Manifest.Hash);
    }

    [Fact]
    public async Task Rows_that_another_silo_hints_at_do_not_use_up_the_steps_that_a_budget_allows()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var engine = Planned(tiny, sessions: 1, context: 64);
        float[] rows = [.. Enumerable.Repeat(0.5f, tiny.Package.Config.HiddenSize)];
        for (int i = 0; i < 8; i++) engine.Conductor.PredictAndPrefetch(engine.Layers[1], rows, 1);
        Settled(engine);
        using var session = engine.OpenSession();
        int tokens = await Task.Run(() => session.Generate([1, 2, 3], 2, Sampling.Greedy).Count()).WaitAsync(TimeSpan.FromSeconds(20));
        Assert.Equal(2, tokens);
    }

    [Fact]
    public void More_window_is_never_expected_to_be_slower()
    {
        var model = TinyPackage.Llama(layers: 8, hidden: 1024, ffn: 4096);
        double[] zeros = [.. Enumerable.Repeat(0.95, 8)];
        var rates = new DeviceRates { Memory = 12e9, OneToken = 20e9, ManyTokens = 60e9, Reads = [new(4096, 1 / 78e3), new(256 << 10, 175e-6)], Source = "test" };
        long minimum = BudgetPlan.Of(Manifest(model, "q8", zeros), 4096, Engine(1), new()).Minimum;
        double before = 0;
        for (long more = 0; more < 140 << 20; more += 10 << 20)
        {
            var e = Expectation.Of(BudgetPlan.Of(Manifest(model, "q8", zeros), 4096, Engine(minimum + more), new()), rates, 1);
            Assert.True(e.LeastTokensPerSecond >= before);
            Assert.True(e.TokensPerSecond >= e.LeastTokensPerSecond);
            before = e.LeastTokensPerSecond;
        }
        Assert.True(before > 10);
    }

    private static LocalEngine Planned(TinyPackage tiny, int sessions, int context)
    {
        var options = new EngineOptions { Threads = 2, ParallelWork = 0, Budget = new() { Size = BudgetSize.OfBytes(1), Context = context, Sessions = sessions, Host = BudgetHost.Engine } };
        long minimum = BudgetPlan.Of(tiny.Package, options, new()).Minimum;
        return new LocalEngine(tiny.Package, options with { Budget = options.Budget! with { Size = BudgetSize.OfBytes(minimum) } });
    }

    /// <summary>The ledger's total once the conductor has done what it was told.</summary>
    private static long Settled(LocalEngine engine)
    {
        engine.Conductor.AllocatedBytes();
        return engine.Conductor.Ledger.Total;
    }

    private static EngineOptions Engine(long bytes, int sessions = 1, int context = 512) =>
        new() { Threads = 2, Budget = new BudgetOptions { Size = BudgetSize.OfBytes(bytes), Sessions = sessions, Context = context } };

    private static Manifest Manifest(ModelConfig model, string quant, double[] zeros) => new()
    {
        Name = "planned",
        Model = model,
        Quant = quant,
        Alignment = 4096,
        Group = 1,
        Stride = 512,
        Predictor = "none",
        Permutation = "identity",
        SideFiles = [],
        Files = [],
        Provenance = new Provenance { Source = "nothing", Tool = "tests" },
        Measured = new Measured { Tokens = 1, Zeros = zeros },
    };

    [GeneratedRegex(@"at least (\S+?)(,|\z)")]
    private static partial Regex LeastInWords();

    [GeneratedRegex(@"--sessions 1: (\S+?)(;|\z)")]
    private static partial Regex LessWithSessions();
}
