using CsCheck;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Drafts change how many steps it takes, never a token, a probability or a logit: every case is compared bit for bit with a run of the same settings in which nobody guesses.</summary>
public sealed class DraftTests
{
    private const int Count = 24;
    private static readonly Sampling s_warm = new() { Temperature = 0.9f, TopP = 0.95f, MinP = 0.01f, Seed = 77 };

    /// <summary>Guesses the answer that will come: so many tokens, each right with a probability, drawn from a seed.</summary>
    private sealed class Guesser(int prompt, int[] answer, double right, int most, int vocabulary, int seed)
    {
        private readonly Random _random = new(seed);
        public Action<SessionTimeline>? Before { get; init; }

        public int[] Guess(SessionTimeline timeline)
        {
            Before?.Invoke(timeline);
            int from = timeline.Length - prompt;
            return [.. Enumerable.Range(from, _random.Next(most + 1)).Select(i => i < answer.Length && _random.NextDouble() < right ? answer[i] : _random.Next(vocabulary))];
        }
    }

    public static TheoryData<string, WeightFormat, KvType, FeedForwardMode> Shapes() => new()
    {
        { "llama", WeightFormat.Q4, KvType.F16, FeedForwardMode.Dense },
        { "llama", WeightFormat.Q8, KvType.Q8, FeedForwardMode.Exact },
        { "llama", WeightFormat.F32, KvType.F32, FeedForwardMode.Predicted },
        { "opt", WeightFormat.Q8, KvType.F16, FeedForwardMode.Exact },
        { "silu", WeightFormat.Q4K, KvType.Q8, FeedForwardMode.Dense },
        { "untied", WeightFormat.BF16, KvType.F16, FeedForwardMode.Predicted },
        { "sliding", WeightFormat.Q8, KvType.F16, FeedForwardMode.Dense },
    };

    [Theory, MemberData(nameof(Shapes))]
    public void Tokens_probabilities_and_logits_are_the_same_bits_whatever_is_guessed(string shape, WeightFormat format, KvType kv, FeedForwardMode mode)
    {
        var config = shape == "sliding"
            ? TinyPackage.Llama() with { SlidingWindow = 16, LayerTraits = [LayerTraits.Sliding, LayerTraits.None, LayerTraits.Sliding] }
            : ExactnessTests.Shape(shape, format);
        using var tiny = TinyPackage.Create(config, format, predictors: mode == FeedForwardMode.Predicted ? TinyPackage.LowRanks(config) : null);
        int[] prompt = ExactnessTests.Prompt(50, config.VocabSize, 5);
        var samplings = new[] { Sampling.Greedy, s_warm };
        var expected = samplings.Select(s => Run(tiny.Package, prompt, s, new() { Mode = mode, Kv = kv }, new() { Kernels = "scalar" }, null)).ToArray();
        long steps = 0, tokens = 0;
        Gen.Select(Gen.Int[0, 1], ExactnessTests.OneOf(0.0, 0.6, 0.9, 1.0), Gen.Int[1, 9], Gen.Int[0, 1000], ExactnessTests.OneOf(Kernels.Available.ToArray()), Gen.Int[1, 2], ExactnessTests.OneOf(1, 0.1), Gen.Bool).Sample(
            (sampling, right, most, seed, kernels, threads, window, forgets) =>
        {
            int[] answer = [.. expected[sampling].Select(static r => r.Token)];
            LocalEngine? running = null;
            var guesser = new Guesser(prompt.Length, answer, right, most, config.VocabSize, seed)
            {
                // Keys and values get lost now and then.
                Before = timeline =>
                {
                    steps++;
                    if (forgets && timeline.Length % 7 == 3) running!.Conductor.CloseSession(timeline.Session);
                },
            };
            var actual = Run(tiny.Package, prompt, samplings[sampling], new() { Mode = mode, Kv = kv, Window = window }, new() { Kernels = kernels, Threads = threads, ParallelWork = 0 }, guesser.Guess, engine => running = engine);
            tokens += actual.Length;
            AssertSame(expected[sampling], actual, $"sampling {sampling}, right {right}, most {most}, seed {seed}, {kernels}, {threads} threads, window {window}, forgets {forgets}");
        }, iter: 12, threads: 1);
        Assert.True(steps < tokens, "no draft was ever right");
    }

    [Fact]
    public void Right_drafts_save_steps_and_wrong_ones_cost_none()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(10, 200, 6);
        using var engine = new LocalEngine(tiny.Package);
        int[] answer = [.. Generate(engine, prompt, Count, null).Select(static r => r.Token)];
        long Steps(Func<SessionTimeline, int[]>? draft)
        {
            long before = engine.Layers[0].Stats.Waves;
            Assert.Equal(answer, Generate(engine, prompt, Count, draft).Select(static r => r.Token));
            return engine.Layers[0].Stats.Waves - before;
        }
        Assert.Equal(Count, Steps(null));
        Assert.Equal(Count, Steps(t => [.. Enumerable.Repeat((answer[t.Length - prompt.Length] + 1) % 200, 4)]));
        // Four and the one behind them.
        Assert.Equal((Count + 4) / 5, Steps(t => answer[(t.Length - prompt.Length)..Math.Min(Count, t.Length - prompt.Length + 4)]));
    }

    [Fact]
    public void Drafts_beyond_a_stop_token_leave_a_history_that_goes_on_as_if_nobody_had_guessed()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(10, 200, 6);
        using var engine = new LocalEngine(tiny.Package);
        int[] answer = [.. Generate(engine, prompt, Count, null).Select(static r => r.Token)];
        for (int stop = 0; stop < 8; stop++)
        {
            using var session = engine.OpenSession();
            var stops = new HashSet<int> { answer[stop] };
            int[] said = [.. session.Generate(prompt, Count, Sampling.Greedy, stops, draft: t => answer[(t.Length - prompt.Length)..]).Select(static r => r.Token)];
            Assert.Equal(answer[..(Array.IndexOf(answer, answer[stop]) + 1)], said);
            int[] more = [7, 8, 9];
            var next = session.Generate(more, 5, Sampling.Greedy, null, 200).ToArray();
            AssertSame(Generate(engine, [.. prompt, .. said, .. more], 5, null, 200), next, $"after a stop at {stop}");
        }
    }

    [Fact]
    public void At_the_end_of_the_context_drafts_are_left_out_and_the_answer_is_the_same()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama() with { MaxPositions = 32 }, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(20, 200, 6);
        using var engine = new LocalEngine(tiny.Package);
        // One more than there are positions: the last token is sampled and never computed.
        var expected = Generate(engine, prompt, 13, null, 200);
        int[] answer = [.. expected.Select(static r => r.Token), 1, 2, 3, 4, 5, 6, 7, 8];
        using var session = engine.OpenSession();
        AssertSame(expected, [.. session.Generate(prompt, 13, Sampling.Greedy, null, 200, draft: t => answer.AsSpan(t.Length - prompt.Length, 6).ToArray())], "at the end");
        using var strict = engine.OpenSession();
        strict.Timeline.Append([.. prompt, .. answer[..11]]);
        // More drafts than positions, and one that is no token.
        Assert.Equal(answer[11], strict.Run(Sampling.Greedy, drafts: [answer[11], answer[12], 1, 2]).Token);
        strict.Timeline.Truncate(25);
        Assert.Equal(answer[5], strict.Run(Sampling.Greedy, drafts: [answer[5], 200]).At(0).Token);
    }

    [Fact]
    public void Where_a_budget_has_no_room_for_the_keys_of_drafts_they_are_left_out()
    {
        using var kv = new KvCache(TinyPackage.Llama(), KvType.F16, new MemoryLedger(), "kv", blocks: 1);
        var slot = new Slot { Session = Guid.NewGuid(), Epoch = 1, Step = 1, Count = 66, Drafts = 5, PrefixHash = TokenChain.Start };
        Assert.Equal(Admission.Full, kv.Admit(slot, new int[66], out _));
        Assert.Equal(Admission.Accepted, kv.Admit(slot.Undrafted, new int[61], out var sequence));
        Assert.Equal(61, sequence!.Length);
    }

    [Theory, InlineData(RopeScaling.Dynamic), InlineData(RopeScaling.LongRope)]
    public void Where_rotation_depends_on_the_length_only_drafts_of_the_same_rotation_are_verified(RopeScaling scaling)
    {
        var rope = new RopeConfig { Scaling = scaling, Factor = 4, OriginalPositions = 40, ShortFactors = [1, 1, 1, 1, 1, 1, 1, 1], LongFactors = [2, 2, 2, 2, 2, 2, 2, 2] };
        using var tiny = TinyPackage.Create(TinyPackage.Llama() with { Rope = rope }, WeightFormat.Q8);
        Assert.True(tiny.Package.Config.RopeByLength);
        int[] prompt = ExactnessTests.Prompt(30, 200, 6);
        using var engine = new LocalEngine(tiny.Package);
        var expected = Generate(engine, prompt, Count, null, 200);
        int[] answer = [.. expected.Select(static r => r.Token)];
        var tried = new List<(int Length, int Drafts)>();
        using var session = engine.OpenSession();
        var actual = session.Generate(prompt, Count, Sampling.Greedy, null, 200, draft: t =>
        {
            tried.Add((t.Length, t.Drafted));
            return answer[(t.Length - prompt.Length)..Math.Min(Count, t.Length - prompt.Length + 3)];
        }).ToArray();
        AssertSame(expected, actual, scaling.ToString());
        Assert.Contains(tried, static t => t.Drafts > 0);
        Assert.True(tried.Count < Count);
    }

    private static StepResult[] Generate(LocalEngine engine, int[] prompt, int count, Func<SessionTimeline, int[]>? draft, int top = 0)
    {
        using var session = engine.OpenSession();
        return [.. session.Generate(prompt, count, Sampling.Greedy, null, top, draft: draft)];
    }

    private static StepResult[] Run(FlashPackage package, int[] prompt, Sampling sampling, LayerOptions layer, EngineOptions options, Func<SessionTimeline, int[]>? draft, Action<LocalEngine>? started = null)
    {
        using var engine = new LocalEngine(package, options, layer);
        started?.Invoke(engine);
        using var session = engine.OpenSession();
        return [.. session.Generate(prompt, Count, sampling, null, package.Config.VocabSize, draft: draft)];
    }

    private static void AssertSame(StepResult[] expected, StepResult[] actual, string what)
    {
        Assert.Equal(expected.Select(static r => r.Token), actual.Select(static r => r.Token));
        Assert.Equal(expected.Select(static r => (r.End, r.LogProbability, r.Logit)), actual.Select(static r => (r.End, r.LogProbability, r.Logit)));
        ExactnessTests.AssertSame([.. expected.Select(static r => r.Top!)], [.. actual.Select(static r => r.Top!)], what);
    }
}
