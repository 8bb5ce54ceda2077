using CsCheck;
using FlashOrleans.Flash;
using static FlashOrleans.Engine.Tests.ExactnessTests;

namespace FlashOrleans.Engine.Tests;

/// <summary>Random weights whose active neurons are drawn: the statistics asked for, and an engine that computes, reads and counts exactly what was drawn.</summary>
public sealed class ActivityTests
{
    private static ActivityConfig Activity(int layers, double density = 0.05, double predicted = 2.3) =>
        new() { Name = "test", Seed = 3, Density = [.. Enumerable.Repeat(density, layers)], Predicted = predicted, Recall = 0.9, AheadRecall = 0.85, AheadPrecision = 0.7 };

    [Theory, InlineData(0.0156, 0.3), InlineData(0.0536, 0.3), InlineData(0.12, 1.0)]
    public void What_is_drawn_is_as_dense_as_was_asked_and_the_prediction_as_large_and_as_right(double density, double popularity)
    {
        const int Neurons = 4096, Tokens = 400;
        var config = Activity(1, density) with { Popularity = popularity };
        var model = new ActivityModel(config, 0, Neurons);
        float[] g = new float[Neurons];
        double fire = 0, missed = 0, needed = 0, guessed = 0, right = 0;
        for (int t = 0; t < Tokens; t++)
        {
            var (f, m) = model.PredictedInto(model.Key(11), t, g);
            fire += f;
            missed += m;
            bool[] wanted = [.. g.Select(x => x > 0)];
            needed += wanted.Count(x => x);
            Ahead(model, 11, t, g, predicted: true);
            for (int i = 0; i < Neurons; i++)
            {
                if (!(g[i] > 0)) continue;
                guessed++;
                if (wanted[i]) right++;
            }
        }
        // Bursts of a few hundred tokens of one session leave the mean uncertain by some percent.
        Assert.Equal(density, fire / Tokens / Neurons, 0.15 * density);
        Assert.Equal(0.1, missed / fire, 0.02);
        Assert.Equal(config.Predicted, (needed + missed) / fire, 0.25);
        Assert.Equal(0.85, right / needed, 0.06);
        Assert.Equal(0.7, right / guessed, 0.1);
    }

    [Fact]
    public void In_order_of_popularity_the_same_sets_are_drawn_and_what_another_session_uses_most_lies_in_front()
    {
        const int Neurons = 2050, Tokens = 200;
        var plain = new ActivityModel(Activity(1), 0, Neurons);
        var ordered = new ActivityModel(Activity(1) with { Ordered = 256 }, 0, Neurons);
        float[] g = new float[Neurons], h = new float[Neurons];
        int[] uses = new int[Neurons];
        for (int t = 0; t < Tokens; t++)
        {
            Assert.Equal(plain.PredictedInto(plain.Key(11), t, g), ordered.PredictedInto(ordered.Key(11), t, h));
            foreach (float score in (ReadOnlySpan<float>)[ActivityModel.Active, ActivityModel.Wrong, ActivityModel.Missed]) Assert.Equal(g.Count(x => x == score), h.Count(x => x == score));
            bool[] fire = [.. h.Select(static x => x is ActivityModel.Active or ActivityModel.Missed)];
            Ahead(plain, 11, t, g, predicted: false);
            Ahead(ordered, 11, t, h, predicted: false);
            Assert.Equal(g.Count(static x => x > 0), h.Count(static x => x > 0));
            // Those that fire keep their size, above the cut.
            Array.Fill(h, -3);
            Exact(ordered, 11, t, h, cut: 0.5f);
            for (int i = 0; i < Neurons; i++)
            {
                Assert.Equal(fire[i], h[i] > 0.5f);
                Assert.Equal(3.5f, MathF.Abs(h[i]), 1e-5f);
                uses[i] += fire[i] ? 1 : 0;
            }
        }
        int[] tenths = [.. uses.Chunk(Neurons / 10).Take(10).Select(static c => c.Sum())];
        Assert.True(tenths[0] > 1.5 * tenths[1] && tenths[1] > tenths[3] && tenths[3] > tenths[7], string.Join(' ', tenths));
    }

    [Fact]
    public void A_session_meets_the_same_set_again_at_the_same_position_and_another_session_another_one()
    {
        var model = new ActivityModel(Activity(2), 1, 512);
        float[] once = new float[512], again = new float[512], other = new float[512], later = new float[512];
        model.PredictedInto(model.Key(5), 40, once);
        model.PredictedInto(model.Key(5), 41, later);
        model.PredictedInto(model.Key(5), 40, again);
        model.PredictedInto(model.Key(6), 40, other);
        Assert.Equal(once, again);
        Assert.NotEqual(once, other);
        Assert.NotEqual(once, later);
    }

    [Theory, InlineData("llama", FeedForwardMode.Exact), InlineData("llama", FeedForwardMode.Predicted), InlineData("opt", FeedForwardMode.Exact), InlineData("opt", FeedForwardMode.Predicted)]
    public void Tokens_are_the_same_bits_for_every_window_prefetch_kernel_thread_count_chunk_and_company(string shape, FeedForwardMode mode)
    {
        ModelConfig config = shape == "opt" ? TinyPackage.Opt() : TinyPackage.Llama();
        using var tiny = TinyPackage.Create(config, WeightFormat.Q8, predictors: TinyPackage.LowRanks(config, lookahead: false), activity: Activity(config.Layers));
        int[] prompt = Prompt(50, config.VocabSize, seed: 5);
        var expected = Transcript(tiny.Package, new(mode, 1, false, "scalar", 1, prompt.Length), prompt, 6);
        var variants = Gen.Select(OneOf(1.0, 0.25, 0.02), Gen.Bool, OneOf(Kernels.Available.ToArray()), Gen.Int[1, 3], OneOf(1, 7, 50), Gen.Int[0, 3], Gen.Select(Gen.Bool, Gen.Bool),
            (window, prefetch, kernels, threads, chunk, companions, how) => new Variant(mode, window, prefetch, kernels, threads, chunk, companions, how.Item1, how.Item2));
        variants.Sample(v => AssertSame(expected, Transcript(tiny.Package, v, prompt, 6), v.ToString()), iter: 8, threads: 1);
    }

    [Theory, InlineData(FeedForwardMode.Exact, 0), InlineData(FeedForwardMode.Predicted, 0), InlineData(FeedForwardMode.Exact, 32), InlineData(FeedForwardMode.Predicted, 32)]
    public void The_engine_chooses_what_was_drawn_computes_all_of_it_and_counts_what_was_missed(FeedForwardMode mode, int ordered)
    {
        ModelConfig config = TinyPackage.Llama();
        var activity = Activity(config.Layers) with { Ordered = ordered };
        using var tiny = TinyPackage.Create(config, WeightFormat.Q8, predictors: TinyPackage.LowRanks(config, lookahead: false), activity: activity);
        using var engine = new LocalEngine(tiny.Package, new(), new() { Mode = mode, Window = 0.25 });
        var chosen = new HashSet<(int, int, int)>();
        foreach (Layer layer in engine.Layers) layer.Watch = (position, neuron) => chosen.Add((layer.Index, position, neuron));
        int[] ids = Prompt(24, config.VocabSize, seed: 7);
        Run(engine, ids, 1, 7, config.VocabSize);
        var expected = new HashSet<(int, int, int)>();
        float[] g = new float[config.FfnSize];
        for (int l = 0; l < config.Layers; l++)
        {
            var model = new ActivityModel(activity, l, config.FfnSize);
            long fire = 0, missed = 0;
            for (int p = 0; p < ids.Length; p++)
            {
                var (f, m) = model.PredictedInto(model.Key(0), p, g);
                fire += f;
                missed += m;
                for (int i = 0; i < g.Length; i++)
                    if (mode == FeedForwardMode.Predicted ? g[i] > 0 : g[i] is ActivityModel.Active or ActivityModel.Missed) expected.Add((l, p, i));
            }
            var stats = engine.Layers[l].Stats;
            int needed = expected.Count(e => e.Item1 == l);
            Assert.Equal(needed, stats.NeuronsComputed);
            Assert.Equal(mode == FeedForwardMode.Predicted ? fire - missed : fire, stats.NeuronsActive);
            if (mode == FeedForwardMode.Predicted) Assert.Equal((fire, missed), (stats.AuditActive, stats.AuditMissed));
        }
        Assert.Equal(expected, chosen);
    }

    [Fact]
    public void A_manifest_whose_activity_does_not_fit_its_model_is_refused()
    {
        ModelConfig config = TinyPackage.Llama();
        foreach (var (broken, says) in new[] { (Activity(2), "3 layers"), (Activity(3, density: 0.9), "outside"), (Activity(3) with { Persistence = 1 }, "persistence"), (Activity(3) with { Topic = 0 }, "topic"), (Activity(3) with { Ordered = -1 }, "ordered") })
            Assert.Contains(says, Assert.Throws<FlashException>(() => TinyPackage.Create(config, WeightFormat.Q8, activity: broken).Dispose()).Message, StringComparison.Ordinal);
        Assert.Contains("ReLU", Assert.Throws<FlashException>(() => TinyPackage.Create(TinyPackage.Llama(Activation.Silu), WeightFormat.Q8, activity: Activity(3)).Dispose()).Message, StringComparison.Ordinal);
    }

    private static unsafe void Ahead(ActivityModel model, ulong seed, int position, float[] g, bool predicted)
    {
        fixed (float* p = g) model.Ahead(model.Key(seed), position, p, g.Length, predicted);
    }

    private static unsafe void Exact(ActivityModel model, ulong seed, int position, float[] g, float cut)
    {
        fixed (float* p = g) model.Exact(model.Key(seed), position, p, g.Length, cut);
    }
}
