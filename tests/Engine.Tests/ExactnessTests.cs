using CsCheck;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>
/// "One arithmetic": for a package every logit is the same bits whatever the mode, window, prefetch, kernel variant, threads, prompt chunking or company. The
/// yardstick of every case is one plain run: dense, everything in the window, scalar kernels, one thread, the prompt in one chunk, alone.
/// </summary>
public sealed class ExactnessTests
{
    private static readonly WeightFormat[] Formats = [WeightFormat.F32, WeightFormat.BF16, WeightFormat.Q8, WeightFormat.Q4, WeightFormat.Q4B, WeightFormat.Q4K];

    /// <param name="Companions">Other sessions that decode all the while.</param>
    /// <param name="Cramped">Room for two partial sums only, less than a layer has blocks.</param>
    /// <param name="Stretches">Stretches of a sparse layer are read whole, however short they are here.</param>
    internal sealed record Variant(FeedForwardMode Mode, double Window, bool Prefetch, string Kernels, int Threads, int Chunk, int Companions = 0, bool Cramped = false, bool Stretches = false);

    /// <summary>What runs really did: a property over threads or company says nothing when one thread did it all or nobody was merged.</summary>
    internal sealed class Tally
    {
        public long Merged, TakenByOthers, Issued, Whole;

        public void Add(LocalEngine engine)
        {
            for (int worker = 1; worker < engine.Conductor.Pool.Threads; worker++) TakenByOthers += engine.Conductor.Pool.Taken(worker);
            Whole += engine.Layers.Sum(static l => l.Stretches?.Store.DemandReads ?? 0);
            foreach (var stats in engine.Layers.Select(l => l.Stats))
            {
                Merged += stats.Slots - stats.Waves;
                Issued += stats.PrefetchIssued;
            }
        }
    }

    public static TheoryData<string, WeightFormat> Shapes()
    {
        var data = new TheoryData<string, WeightFormat>();
        foreach (var format in Formats)
        {
            data.Add("llama", format);
            data.Add("opt", format);
            data.Add("untied", format);
        }
        return data;
    }

    /// <summary>Rows of q4k are super-blocks of 256: there the same model is wider and flatter.</summary>
    internal static ModelConfig Shape(string name, WeightFormat format) =>
        format == WeightFormat.Q4K ? Shape(name) with { HiddenSize = 256, HeadDim = 64, Layers = 2 } : Shape(name);

    internal static ModelConfig Shape(string name) => name switch
    {
        "opt" => TinyPackage.Opt(),
        "untied" => TinyPackage.Llama(tied: false),
        "silu" => TinyPackage.Llama(Activation.Silu),
        _ => TinyPackage.Llama(),
    };

    [Theory, MemberData(nameof(Shapes))]
    public void Tokens_and_logits_are_the_same_bits_for_every_mode_window_prefetch_kernel_thread_count_chunk_and_company(string shape, WeightFormat format)
    {
        using var tiny = TinyPackage.Create(Shape(shape, format), format);
        int[] prompt = Prompt(90, tiny.Package.Config.VocabSize, seed: 5);
        var expected = Transcript(tiny.Package, new(FeedForwardMode.Dense, 1, false, "scalar", 1, prompt.Length), prompt, 6);
        var variants = Gen.Select(
            OneOf(FeedForwardMode.Dense, FeedForwardMode.Exact),
            OneOf(1.0, 0.25, 0.02),
            Gen.Bool,
            OneOf(Kernels.Available.ToArray()),
            Gen.Int[1, 3],
            OneOf(1, 7, 64, 65, 90),
            Gen.Int[0, 3],
            Gen.Select(Gen.Bool, Gen.Bool),
            (mode, window, prefetch, kernels, threads, chunk, companions, how) => new Variant(mode, window, prefetch, kernels, threads, chunk, companions, how.Item1, how.Item2));
        var tally = new Tally();
        bool threaded = false, company = false, stretched = false;
        // 107 units of three neurons make no runs.
        bool divides = Stretches.Of(tiny.Package.Manifest, 0, tiny.Package.DeviceAlignment, new() { LeastStretchBytes = 0 }).Count > 0;
        Assert.True(divides || format is WeightFormat.Q4 or WeightFormat.Q4B);
        variants.Sample(v =>
        {
            var mine = new Tally();
            AssertSame(expected, Transcript(tiny.Package, v, prompt, 6, mine), v.ToString());
            if (v is { Mode: FeedForwardMode.Exact, Prefetch: true, Window: 0.25, Stretches: false }) Assert.True(mine.Issued > 0, $"{v}: nothing was read ahead");
            threaded |= v.Threads > 1;
            company |= v.Companions > 0;
            stretched |= divides && v is { Mode: FeedForwardMode.Exact, Window: < 1, Stretches: true };
            tally.Whole += mine.Whole;
            tally.Merged += mine.Merged;
            tally.TakenByOthers += mine.TakenByOthers;
        }, iter: 16, threads: 1);
        Assert.True(tally.TakenByOthers > 0 || !threaded, "one thread did everything");
        Assert.True(tally.Merged > 0 || !company, "no two sessions were ever in one step");
        Assert.True(tally.Whole > 0 || !stretched, "no stretch was ever read whole");
    }

    [Theory, InlineData(128), InlineData(5)]
    public void A_prompt_in_one_wave_larger_than_the_row_limit_gives_the_same_bits_where_embedding_rows_come_from_flash(int maxRows)
    {
        using var tiny = TinyPackage.Create(Shape("untied"), WeightFormat.F32);
        // All different: more rows of the embedding than there are slots for them.
        int[] prompt = [.. Enumerable.Range(0, 200).Select(i => i * 77 % 200)];
        var expected = Transcript(tiny.Package, new(FeedForwardMode.Dense, 1, false, "scalar", 1, 50), prompt, 4);
        using var engine = new LocalEngine(tiny.Package, new() { MaxWaveRows = maxRows }, new());
        AssertSame(expected, Run(engine, prompt, 4, prompt.Length, 200), "all at once");
        Assert.Equal(200 + 3, engine.Layers[0].Stats.Rows);
    }

    [Theory, InlineData(WeightFormat.F32), InlineData(WeightFormat.Q8)]
    public void Every_kernel_variant_window_and_thread_count_gives_the_same_bits_in_dense_silu_models(WeightFormat format)
    {
        using var tiny = TinyPackage.Create(Shape("silu"), format);
        int[] prompt = Prompt(40, tiny.Package.Config.VocabSize, seed: 6);
        var expected = Transcript(tiny.Package, new(FeedForwardMode.Dense, 1, false, "scalar", 1, 40), prompt, 4);
        foreach (string kernels in Kernels.Available)
        {
            foreach (double window in new[] { 1, 0.25, 0.02 })
            {
                var v = new Variant(FeedForwardMode.Auto, window, true, kernels, 2, 7);
                AssertSame(expected, Transcript(tiny.Package, v, prompt, 4), v.ToString());
            }
        }
    }

    [Theory, InlineData("llama", WeightFormat.Q8), InlineData("opt", WeightFormat.F32), InlineData("llama", WeightFormat.Q4), InlineData("llama", WeightFormat.Q4K)]
    public void A_session_gets_the_same_bits_beside_others_as_alone(string shape, WeightFormat format)
    {
        using var tiny = TinyPackage.Create(Shape(shape, format), format);
        int vocabulary = tiny.Package.Config.VocabSize;
        var prompts = Enumerable.Range(0, 5).Select(i => Prompt(3 + 17 * i, vocabulary, seed: 100 + i)).ToArray();
        var alone = prompts.Select(p => Transcript(tiny.Package, new(FeedForwardMode.Exact, 0.25, true, "auto", 2, 64), p, 12)).ToArray();
        using var engine = new LocalEngine(tiny.Package, new() { Threads = 2, ParallelWork = 0 }, new() { Window = 0.1 });
        engine.Conductor.Pool.OthersFirst = true;
        var together = new (int, float)[prompts.Length][][];
        var threads = prompts.Select((p, i) => new Thread(() => together[i] = Run(engine, p, 12, chunk: 16, vocabulary))).ToArray();
        foreach (var thread in threads) thread.Start();
        foreach (var thread in threads) thread.Join();
        for (int i = 0; i < prompts.Length; i++) AssertSame(alone[i], together[i], $"session {i}");
        var tally = new Tally();
        tally.Add(engine);
        Assert.True(tally.Merged > 0, "no two sessions were ever in one step");
        Assert.True(tally.TakenByOthers > 0, "one thread did everything");
    }

    [Theory, InlineData("llama", WeightFormat.Q8), InlineData("opt", WeightFormat.Q4), InlineData("llama", WeightFormat.F32), InlineData("opt", WeightFormat.Q4B)]
    public void Exact_computes_only_active_neurons_and_needs_fewer_bundles_than_dense(string shape, WeightFormat format)
    {
        using var tiny = TinyPackage.Create(Shape(shape, format), format);
        int[] prompt = Prompt(10, tiny.Package.Config.VocabSize, seed: 7);
        long exact = 0, dense = 0;
        foreach (var mode in new[] { FeedForwardMode.Exact, FeedForwardMode.Dense })
        {
            using var engine = new LocalEngine(tiny.Package, new(), new() { Mode = mode, Window = 0.1, Prefetch = false });
            Run(engine, prompt, 20, 1, tiny.Package.Config.VocabSize);
            foreach (var (stats, group) in engine.Layers.Select(l => (l.Stats, l.Bundle.Group)))
            {
                if (mode == FeedForwardMode.Exact)
                {
                    Assert.Equal(stats.NeuronsActive, stats.NeuronsComputed);
                    Assert.InRange(stats.NeuronsActive, 1, stats.NeuronsDense * 3 / 4);
                    exact += stats.UnitsNeeded * group;
                }
                else
                {
                    Assert.Equal(stats.NeuronsDense, stats.NeuronsComputed);
                    dense += stats.UnitsNeeded * group;
                }
            }
        }
        Assert.InRange(exact, 1, dense - 1);
    }

    [Theory, InlineData(1.0), InlineData(0.1)]
    public void Exact_reads_the_active_share_of_the_bundles_and_no_more(double window)
    {
        // Bundles so large that no read is merged across one that nobody needs.
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2, hidden: 1024, ffn: 192), WeightFormat.F32);
        using var engine = new LocalEngine(tiny.Package, new(), new() { Window = window, Prefetch = false });
        Run(engine, Prompt(4, 200, seed: 9), 8, 1, 200);
        foreach (var layer in engine.Layers)
        {
            var stats = layer.Stats;
            // A whole bundle, since between two neighbours the resident gate row is read across; and each read may be rounded outward to the device's blocks.
            long unit = layer.Bundles!.Region.Stride + 2L * layer.Bundles.Region.File.Alignment;
            Assert.InRange(stats.NeuronsActive, 1, stats.NeuronsDense * 3 / 4);
            Assert.InRange(stats.DemandBytes, 1, stats.NeuronsActive * unit);
            // With room for all nothing is read twice.
            if (window == 1) Assert.InRange(stats.DemandBytes, 1, layer.Bundles.Region.Count * unit);
        }
    }

    [Theory, InlineData(KvType.F16), InlineData(KvType.Q8)]
    public void Rounded_keys_and_values_give_the_same_bits_for_every_chunking_and_kernel(KvType kv)
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        int[] prompt = Prompt(70, 200, seed: 8);
        (int, float)[][]? expected = null;
        foreach (string kernels in Kernels.Available)
        {
            foreach (int chunk in new[] { 70, 1, 64, 65 })
            {
                using var engine = new LocalEngine(tiny.Package, new() { Kernels = kernels }, new() { Kv = kv });
                var transcript = Run(engine, prompt, 5, chunk, 200);
                AssertSame(expected ??= transcript, transcript, $"{kernels} {chunk}");
            }
        }
    }

    [Fact]
    public void Keys_and_values_of_8_bits_move_logits_by_little()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        int[] prompt = Prompt(70, 200, seed: 8);
        (int Id, float Logit)[] Logits(KvType kv)
        {
            using var engine = new LocalEngine(tiny.Package, new(), new() { Kv = kv });
            return [.. Run(engine, prompt, 1, 64, 200)[0].OrderBy(static t => t.Id)];
        }
        var (exact, rounded) = (Logits(KvType.F32), Logits(KvType.Q8));
        double norm = Math.Sqrt(exact.Sum(static t => (double)t.Logit * t.Logit)), error = Math.Sqrt(exact.Zip(rounded, static (a, b) => Math.Pow(a.Logit - b.Logit, 2)).Sum());
        Assert.InRange(error, norm * 1e-6, norm * 0.02);
    }

    internal static Gen<T> OneOf<T>(params T[] values) => Gen.Int[0, values.Length - 1].Select(i => values[i]);

    internal static int[] Prompt(int length, int vocabulary, int seed)
    {
        var random = new Random(seed);
        return Enumerable.Range(0, length).Select(_ => random.Next(vocabulary)).ToArray();
    }

    internal static (int Id, float Logit)[][] Transcript(FlashPackage package, Variant v, int[] prompt, int tokens, Tally? tally = null)
    {
        var options = new EngineOptions { Kernels = v.Kernels, Threads = v.Threads, ParallelWork = 0 };
        if (v.Cramped) options = options with { PartialBytes = 0 };
        using var engine = new LocalEngine(package, options, new() { Mode = v.Mode, Window = v.Window, Prefetch = v.Prefetch, LeastStretchBytes = v.Stretches ? 0 : Stretches.LeastBytes });
        int vocabulary = package.Config.VocabSize;
        var transcript = v.Companions == 0 ? Run(engine, prompt, tokens, v.Chunk, vocabulary) : Beside(engine, v.Companions, () => Run(engine, prompt, tokens, v.Chunk, vocabulary));
        tally?.Add(engine);
        return transcript;
    }

    /// <summary>Runs while other sessions go on and on; the first has begun by then.</summary>
    private static T Beside<T>(LocalEngine engine, int companions, Func<T> run)
    {
        using var begun = new ManualResetEventSlim();
        bool stop = false;
        Exception? failure = null;
        var threads = Enumerable.Range(0, companions).Select(i => new Thread(() =>
        {
            try
            {
                for (int round = 0; !Volatile.Read(ref stop); round++)
                {
                    using var session = engine.OpenSession();
                    foreach (var _ in session.Generate(Prompt(1 + 11 * i, 150, 1000 + 10 * round + i), 40, Sampling.Greedy))
                    {
                        begun.Set();
                        if (Volatile.Read(ref stop)) break;
                    }
                }
            }
            catch (Exception e)
            {
                failure = e;
                begun.Set();
            }
        })).ToArray();
        foreach (var thread in threads) thread.Start();
        begun.Wait();
        try
        {
            return run();
        }
        finally
        {
            Volatile.Write(ref stop, true);
            foreach (var thread in threads) thread.Join();
            Assert.Null(failure);
        }
    }

    /// <summary>All logits of every generated step, best first.</summary>
    internal static (int Id, float Logit)[][] Run(LocalEngine engine, int[] prompt, int tokens, int chunk, int vocabulary)
    {
        using var session = engine.OpenSession();
        return session.Generate(prompt, tokens, Sampling.Greedy, null, vocabulary, chunk).Select(r => r.Top!).ToArray();
    }

    internal static void AssertSame((int Id, float Logit)[][] expected, (int Id, float Logit)[][] actual, string what)
    {
        Assert.Equal(expected.Length, actual.Length);
        for (int step = 0; step < expected.Length; step++)
        {
            for (int i = 0; i < expected[step].Length; i++)
            {
                var (id, logit) = expected[step][i];
                if (id != actual[step][i].Id || BitConverter.SingleToInt32Bits(logit) != BitConverter.SingleToInt32Bits(actual[step][i].Logit))
                    Assert.Fail($"{what}: step {step}, rank {i}: expected {id} {logit:R}, got {actual[step][i]}");
            }
        }
    }
}
