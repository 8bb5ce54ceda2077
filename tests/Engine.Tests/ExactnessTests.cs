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

    internal sealed record Variant(FeedForwardMode Mode, double Window, bool Prefetch, string Kernels, int Threads, int Chunk);

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
    public void Tokens_and_logits_are_the_same_bits_for_every_mode_window_prefetch_kernel_thread_count_and_chunk(string shape, WeightFormat format)
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
            (mode, window, prefetch, kernels, threads, chunk) => new Variant(mode, window, prefetch, kernels, threads, chunk));
        variants.Sample(v => AssertSame(expected, Transcript(tiny.Package, v, prompt, 6), v.ToString()), iter: 16, threads: 1);
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
        using var engine = new LocalEngine(tiny.Package, new() { Threads = 2 }, new() { Window = 0.1 });
        var together = new (int, float)[prompts.Length][][];
        var threads = prompts.Select((p, i) => new Thread(() => together[i] = Run(engine, p, 12, chunk: 16, vocabulary))).ToArray();
        foreach (var thread in threads) thread.Start();
        foreach (var thread in threads) thread.Join();
        for (int i = 0; i < prompts.Length; i++) AssertSame(alone[i], together[i], $"session {i}");
    }

    [Theory, InlineData("llama", WeightFormat.Q8), InlineData("opt", WeightFormat.Q4), InlineData("llama", WeightFormat.F32), InlineData("opt", WeightFormat.Q4B)]
    public void Exact_computes_only_active_neurons_and_reads_less_than_dense(string shape, WeightFormat format)
    {
        using var tiny = TinyPackage.Create(Shape(shape, format), format);
        int[] prompt = Prompt(10, tiny.Package.Config.VocabSize, seed: 7);
        long exactBytes = 0, denseBytes = 0;
        foreach (var mode in new[] { FeedForwardMode.Exact, FeedForwardMode.Dense })
        {
            using var engine = new LocalEngine(tiny.Package, new(), new() { Mode = mode, Window = 0.1, Prefetch = false });
            Run(engine, prompt, 20, 1, tiny.Package.Config.VocabSize);
            foreach (var stats in engine.Layers.Select(l => l.Stats))
            {
                if (mode == FeedForwardMode.Exact)
                {
                    Assert.Equal(stats.NeuronsActive, stats.NeuronsComputed);
                    Assert.InRange(stats.NeuronsActive, 1, stats.NeuronsDense * 3 / 4);
                    exactBytes += stats.DemandBytes;
                }
                else
                {
                    Assert.Equal(stats.NeuronsDense, stats.NeuronsComputed);
                    denseBytes += stats.DemandBytes;
                }
            }
        }
        Assert.InRange(exactBytes, 1, denseBytes - 1);
    }

    [Fact]
    public void Half_precision_keys_and_values_give_the_same_bits_for_every_chunking_and_kernel()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        int[] prompt = Prompt(70, 200, seed: 8);
        (int, float)[][]? expected = null;
        foreach (string kernels in Kernels.Available)
        {
            foreach (int chunk in new[] { 70, 1, 64, 65 })
            {
                using var engine = new LocalEngine(tiny.Package, new() { Kernels = kernels }, new() { Kv = KvType.F16 });
                var transcript = Run(engine, prompt, 5, chunk, 200);
                AssertSame(expected ??= transcript, transcript, $"{kernels} {chunk}");
            }
        }
    }

    private static Gen<T> OneOf<T>(params T[] values) => Gen.Int[0, values.Length - 1].Select(i => values[i]);

    internal static int[] Prompt(int length, int vocabulary, int seed)
    {
        var random = new Random(seed);
        return Enumerable.Range(0, length).Select(_ => random.Next(vocabulary)).ToArray();
    }

    internal static (int Id, float Logit)[][] Transcript(FlashPackage package, Variant v, int[] prompt, int tokens)
    {
        using var engine = new LocalEngine(package, new() { Kernels = v.Kernels, Threads = v.Threads },
            new() { Mode = v.Mode, Window = v.Window, Prefetch = v.Prefetch });
        return Run(engine, prompt, tokens, v.Chunk, package.Config.VocabSize);
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
