using CsCheck;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Contexts of several splits (docs/adr/0028-attention-in-splits.md): the same bits however rows are cut into waves and positions are shared out, and the numbers of the reference model.</summary>
public sealed class AttentionTests
{
    private const int Vocabulary = 200;

    public static TheoryData<string, KvType> Shapes()
    {
        var data = new TheoryData<string, KvType>();
        foreach (string shape in new[] { "plain", "one group", "no groups", "odd heads", "window", "short window", "capped", "sinks", "narrow values", "by length" })
            foreach (var kv in new[] { KvType.F32, KvType.F16, KvType.Q8 })
                data.Add(shape, kv);
        return data;
    }

    private static ModelConfig Shape(string shape)
    {
        var plain = TinyPackage.Llama(Activation.Silu, layers: 2, hidden: 64, ffn: 128) with { MaxPositions = 1200 };
        ModelConfig Windowed(int window) => plain with { SlidingWindow = window, LayerTraits = [LayerTraits.Sliding, LayerTraits.None] };
        return shape switch
        {
            "one group" => plain with { KvHeads = 1, HeadDim = 64 },
            "no groups" => plain with { KvHeads = 4 },
            "odd heads" => plain with { HeadDim = 20 },
            "window" => Windowed(300),
            "short window" => Windowed(5),
            "capped" => plain with { AttentionSoftcap = 3, AttentionScale = 0.5f },
            "sinks" => Windowed(100) with { Sinks = true },
            "narrow values" => plain with { HeadDim = 32, ValueDim = 24 },
            "by length" => plain with { Rope = new RopeConfig { Scaling = RopeScaling.Dynamic, Factor = 4, OriginalPositions = 200 } },
            _ => plain,
        };
    }

    [Theory, MemberData(nameof(Shapes))]
    public void Rows_are_the_same_bits_alone_in_chunks_beside_others_on_any_threads_and_kernels(string shape, KvType kv)
    {
        // Rows of 80 numbers are no blocks of 32.
        using var tiny = TinyPackage.Create(Shape(shape), shape == "odd heads" ? WeightFormat.F32 : WeightFormat.Q8);
        var plain = new Dictionary<int, (int, float)[][]>();
        Gen.Select(ExactnessTests.OneOf(255, 257, 511, 600), ExactnessTests.OneOf(1000, 1, 7, 64, 65, 256), ExactnessTests.OneOf(Kernels.Available.ToArray()), Gen.Int[1, 3]).Sample((length, chunk, kernels, threads) =>
        {
            int[] prompt = ExactnessTests.Prompt(length, Vocabulary, length);
            if (!plain.TryGetValue(length, out var expected)) plain.Add(length, expected = Run(tiny, new() { Kernels = "scalar", Threads = 1 }, kv, prompt, 50));
            var actual = Run(tiny, new() { Kernels = kernels, Threads = threads, ParallelWork = 0 }, kv, prompt, chunk);
            ExactnessTests.AssertSame(expected, actual, $"{shape} {kv}: {length} in chunks of {chunk}, {kernels}, {threads} threads");
        }, iter: 5, threads: 1);
    }

    [Fact]
    public void Sessions_of_one_wave_get_the_bits_they_get_alone_whoever_shares_positions()
    {
        using var tiny = TinyPackage.Create(Shape("plain"), WeightFormat.Q8);
        int[][] prompts = [ExactnessTests.Prompt(700, Vocabulary, 1), ExactnessTests.Prompt(3, Vocabulary, 2), ExactnessTests.Prompt(260, Vocabulary, 3)];
        var alone = prompts.Select(p => Run(tiny, new() { Threads = 1 }, KvType.F16, p, 64, 30)).ToArray();
        using var engine = new LocalEngine(tiny.Package, new() { Threads = 2, ParallelWork = 0 }, new() { Kv = KvType.F16 });
        var together = new (int, float)[prompts.Length][][];
        var threads = prompts.Select((p, i) => new Thread(() => together[i] = ExactnessTests.Run(engine, p, 30, 64, Vocabulary))).ToArray();
        foreach (var thread in threads) thread.Start();
        foreach (var thread in threads) thread.Join();
        for (int i = 0; i < prompts.Length; i++) ExactnessTests.AssertSame(alone[i], together[i], $"session {i}");
        Assert.True(engine.Conductor.Pool.Taken(1) > 0, "one thread did everything");
    }

    [Theory, InlineData("plain"), InlineData("window"), InlineData("capped"), InlineData("sinks"), InlineData("narrow values"), InlineData("odd heads")]
    public void Logits_behind_several_splits_are_those_of_the_reference_model(string shape)
    {
        using var tiny = TinyPackage.Create(Shape(shape), WeightFormat.F32);
        int[] prompt = ExactnessTests.Prompt(600, Vocabulary, 9);
        float[] logits = new ReferenceModel(tiny.Package.Config, new PackageTensors(tiny.Package).Read).Run(prompt).Logits[^1];
        foreach (int threads in new[] { 1, 2 })
            foreach ((int id, float logit) in Run(tiny, new() { Threads = threads, ParallelWork = 0 }, KvType.F32, prompt, 64, 1)[0])
                Assert.Equal(logits[id], logit, 2e-4f * Math.Max(1, Math.Abs(logits[id])));
    }

    private static (int Id, float Logit)[][] Run(TinyPackage tiny, EngineOptions options, KvType kv, int[] prompt, int chunk, int tokens = 3)
    {
        using var engine = new LocalEngine(tiny.Package, options, new() { Window = 1, Kv = kv });
        return ExactnessTests.Run(engine, prompt, tokens, chunk, Vocabulary);
    }
}
