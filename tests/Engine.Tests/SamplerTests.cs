namespace FlashOrleans.Engine.Tests;

/// <summary>Each option against the exact distribution it stands for: many positions are the random source, so every run draws the same numbers.</summary>
public sealed unsafe class SamplerTests
{
    private const int Draws = 40_000;

    // Not sorted, with equal neighbours and one hopeless token.
    private static readonly float[] s_logits = [0.1f, 2.5f, -1.2f, 1.9f, 0.1f, 1.9f, -0.4f, 0.8f, -30f, 1.1f, 0.35f];

    private static Sampling Options(float temperature = 1, float topP = 1, float minP = 0, int topK = 0, ulong seed = 7) =>
        new() { Temperature = temperature, TopP = topP, MinP = minP, TopK = topK, Seed = seed };

    private static int Sample(Sampler sampler, float[] logits, in Sampling sampling, int position, out float logProbability)
    {
        fixed (float* p = logits) return sampler.Sample(p, logits.Length, sampling, position, out logProbability);
    }

    /// <summary>The definition, by sorting and in double: top-k, softmax at the temperature, top-p, min-p.</summary>
    private static double[] Exact(float[] logits, Sampling s)
    {
        int[] order = [.. Enumerable.Range(0, logits.Length).OrderByDescending(i => logits[i]).ThenBy(i => i)];
        if (s.TopK > 0) order = [.. order.Take(s.TopK)];
        double[] weights = [.. order.Select(i => Math.Exp((logits[i] - logits[order[0]]) / (double)s.Temperature))];
        double all = weights.Sum();
        int kept = 0;
        for (double sum = 0; kept < order.Length; kept++)
        {
            if (kept > 0 && (sum >= s.TopP * all || weights[kept] < s.MinP)) break;
            sum += weights[kept];
        }
        double total = weights.Take(kept).Sum();
        var probabilities = new double[logits.Length];
        for (int i = 0; i < kept; i++) probabilities[order[i]] = weights[i] / total;
        return probabilities;
    }

    private static void Assert_drawn_as(float[] logits, Sampling sampling, int expectedTokens)
    {
        double[] exact = Exact(logits, sampling);
        Assert.Equal(expectedTokens, exact.Count(p => p > 1e-7));
        var sampler = new Sampler(logits.Length);
        var counts = new int[logits.Length];
        for (int position = 0; position < Draws; position++) counts[Sample(sampler, logits, sampling, position, out _)]++;

        double chi = 0;
        int freedom = -1;
        for (int i = 0; i < logits.Length; i++)
        {
            double expected = exact[i] * Draws;
            if (expected < 1e-3)
            {
                Assert.True(counts[i] == 0, $"token {i} was cut off but drawn {counts[i]} times");
                continue;
            }
            chi += (counts[i] - expected) * (counts[i] - expected) / expected;
            freedom++;
        }
        // Four standard deviations of chi-square (one in 10 000); a wrong order of the options or a cut one token off is far beyond.
        Assert.True(chi <= freedom + 4 * Math.Sqrt(2 * Math.Max(freedom, 1)), $"chi-square {chi:F1} with {freedom} degrees of freedom");
    }

    [Fact]
    public void Temperature_zero_takes_the_best_and_the_lowest_id_of_equals()
    {
        var sampler = new Sampler(16);
        Assert.Equal(1, Sample(sampler, s_logits, Sampling.Greedy, 3, out _));
        Assert.Equal(1, Sample(sampler, [1f, 4f, 2f, 4f, 4f], Sampling.Greedy, 3, out _));
        Assert.Equal(0, Sample(sampler, [-2f, -2f], Sampling.Greedy, 3, out _));
    }

    [Fact]
    public void Temperature_one_draws_the_softmax() => Assert_drawn_as(s_logits, Options(), 10);

    [Theory]
    [InlineData(0.5f)]
    [InlineData(1.7f)]
    public void Temperature_sharpens_and_flattens(float temperature) => Assert_drawn_as(s_logits, Options(temperature, seed: 11), 10);

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 2)]
    [InlineData(3, 3)]
    [InlineData(5, 5)]
    public void Top_k_keeps_exactly_k_and_the_lower_id_of_equals(int k, int tokens) => Assert_drawn_as(s_logits, Options(topK: k), tokens);

    [Theory]
    [InlineData(0.1f, 1)]
    [InlineData(0.6f, 3)]
    [InlineData(0.75f, 4)]
    [InlineData(0.9f, 6)]
    public void Top_p_keeps_the_smallest_set_that_reaches_it(float topP, int tokens) => Assert_drawn_as(s_logits, Options(topP: topP), tokens);

    [Theory]
    [InlineData(0.2f, 4)]
    [InlineData(0.6f, 1)]
    public void Min_p_keeps_what_has_that_share_of_the_best(float minP, int tokens) => Assert_drawn_as(s_logits, Options(minP: minP), tokens);

    [Fact]
    public void Top_p_and_min_p_speak_of_the_distribution_at_the_temperature()
    {
        // At temperature 1 the same options keep 3 and 4 tokens (above).
        Assert_drawn_as(s_logits, Options(temperature: 2, topP: 0.6f), 4);
        Assert_drawn_as(s_logits, Options(temperature: 2, minP: 0.2f), 9);
    }

    [Fact]
    public void Top_p_takes_its_share_of_what_top_k_left() => Assert_drawn_as(s_logits, Options(topK: 3, topP: 0.6f), 2);

    [Fact]
    public void All_options_together() => Assert_drawn_as(s_logits, Options(temperature: 1.3f, topK: 7, topP: 0.95f, minP: 0.25f, seed: 99), 5);

    [Fact]
    public void A_top_p_of_zero_keeps_the_best() => Assert_drawn_as(s_logits, Options(topP: 0), 1);

    [Fact]
    public void The_draw_is_a_function_of_seed_and_position_alone()
    {
        var one = new Sampler(s_logits.Length);
        var other = new Sampler(64);
        var options = Options(topP: 0.95f);
        int[] forward = [.. Enumerable.Range(0, 300).Select(p => Sample(one, s_logits, options, p, out _))];
        for (int p = 299; p >= 0; p--) Assert.Equal(forward[p], Sample(other, s_logits, options, p, out _));
    }

    /// <summary>The plain definition, sorting everything, on vocabularies where candidates are filtered, vectors have tails and logits are equal by the dozen.</summary>
    [Fact]
    public void Every_draw_over_a_large_vocabulary_is_that_of_the_definition()
    {
        var random = new Random(8);
        for (int round = 0; round < 120; round++)
        {
            int n = random.Next(1, 3000);
            float spread = random.Next(1, 30);
            float[] logits = [.. Enumerable.Range(0, n).Select(_ => MathF.Round(random.NextSingle() * spread * 4) / 4 - spread)];
            var options = Options(0.3f + random.NextSingle(), random.Next(3) == 0 ? 1 : random.NextSingle(), random.Next(3) == 0 ? 0 : random.NextSingle() / 4,
                random.Next(3) == 0 ? 0 : random.Next(1, 400), (ulong)round);
            bool byRank = (options.TopK > 0 && options.TopK < n) || options.TopP < 1;
            double[] exact = Exact(logits, options);
            int[] order = byRank ? [.. Enumerable.Range(0, n).OrderByDescending(i => logits[i]).ThenBy(i => i)] : [.. Enumerable.Range(0, n)];
            var sampler = new Sampler(n);
            for (int position = 0; position < 20; position++)
            {
                double left = Sampler.Uniform(options.Seed, position);
                int token = Sample(sampler, logits, options, position, out _);
                double before = order.TakeWhile(i => i != token).Sum(i => exact[i]);
                // The number must fall into the token's share, but for the rounding of float weights.
                Assert.True(exact[token] > 0, $"token {token} of {n} was cut off");
                Assert.InRange(left, before - 1e-6, before + exact[token] + 1e-6);
            }
        }
    }

    [Fact]
    public void Other_seeds_draw_other_tokens()
    {
        var sampler = new Sampler(s_logits.Length);
        int[] Draw(ulong seed) => [.. Enumerable.Range(0, 200).Select(p => Sample(sampler, s_logits, Options(seed: seed), p, out _))];
        for (ulong seed = 0; seed < 8; seed++) Assert.NotEqual(Draw(seed), Draw(seed + 1));
    }

    [Fact]
    public void Numbers_of_neighbouring_seeds_and_positions_are_uniform_and_uncorrelated()
    {
        double sum = 0, bySeed = 0, byPosition = 0, diagonal = 0;
        const int n = 20_000;
        for (int i = 0; i < n; i++)
        {
            double u = Sampler.Uniform((ulong)i, i) - 0.5;
            Assert.InRange(u, -0.5, 0.49999999999999994);
            sum += u;
            bySeed += u * (Sampler.Uniform((ulong)i + 1, i) - 0.5);
            byPosition += u * (Sampler.Uniform((ulong)i, i + 1) - 0.5);
            diagonal += u * (Sampler.Uniform((ulong)i + 1, i + 1) - 0.5);
        }
        // Standard deviations of the means: 0.2887 / sqrt(n) and 0.0833 / sqrt(n).
        Assert.InRange(sum / n, -0.0082, 0.0082);
        foreach (double product in new[] { bySeed, byPosition, diagonal }) Assert.InRange(product / n, -0.0024, 0.0024);
    }

    [Fact]
    public void Drawn_tokens_are_pinned_so_that_a_change_of_the_generator_is_noticed()
    {
        // Computed outside .NET from the definition.
        Assert.Equal(0.6524484863740322, Sampler.Uniform(0, 0), 15);
        var sampler = new Sampler(s_logits.Length);
        int[] drawn = [.. Enumerable.Range(0, 16).Select(p => Sample(sampler, s_logits, Options(seed: 42), p, out _))];
        Assert.Equal([1, 9, 3, 1, 5, 1, 1, 5, 1, 5, 5, 1, 1, 1, 9, 5], drawn);
    }

    [Fact]
    public void Log_probability_is_that_of_the_full_softmax_at_temperature_one()
    {
        var sampler = new Sampler(s_logits.Length);
        double log = Math.Log(s_logits.Sum(l => Math.Exp(l)));
        foreach (var options in new[] { Sampling.Greedy, Options(2, 0.5f, 0.1f, 4), Options(0.3f) })
            for (int position = 0; position < 20; position++)
            {
                int token = Sample(sampler, s_logits, options, position, out float logProbability);
                Assert.Equal(s_logits[token] - log, logProbability, 1e-6);
            }
    }

    [Fact]
    public void Negative_log_likelihood_is_that_of_the_full_softmax()
    {
        var sampler = new Sampler(5000);
        float[] logits = [.. Enumerable.Range(0, 5000).Select(i => (float)(8 * Sampler.Uniform(5, i) - 100))];
        double log = Math.Log(logits.Sum(l => Math.Exp(l + 100))) - 100;
        fixed (float* p = logits)
        {
            foreach (int target in new[] { 0, 17, 4999 }) Assert.Equal(log - logits[target], sampler.Nll(p, logits.Length, target), 2e-6);
            Assert.True(float.IsNaN(sampler.Nll(p, logits.Length, -1)));
            Assert.True(float.IsNaN(sampler.Nll(p, logits.Length, 5000)));
        }
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    [InlineData(float.NegativeInfinity)]
    public void Logits_that_are_not_finite_give_no_token(float bad)
    {
        var sampler = new Sampler(s_logits.Length);
        for (int at = 0; at < s_logits.Length; at++)
        {
            float[] logits = [.. s_logits];
            logits[at] = bad;
            foreach (var options in new[] { Sampling.Greedy, Options(), Options(topK: 3), Options(topP: 0.5f) })
            {
                Assert.Equal(-1, Sample(sampler, logits, options, 0, out float logProbability));
                Assert.True(float.IsNaN(logProbability));
            }
            fixed (float* p = logits) Assert.True(float.IsNaN(sampler.Nll(p, logits.Length, 1)));
        }
    }

    [Fact]
    public void Extreme_options_still_draw_a_token()
    {
        var sampler = new Sampler(s_logits.Length);
        foreach (float temperature in new[] { float.Epsilon, 1e-30f, 1e-3f })
            Assert.Equal(1, Sample(sampler, s_logits, Options(temperature), 5, out _));
        Assert.InRange(Sample(sampler, s_logits, Options(float.PositiveInfinity), 5, out _), 0, s_logits.Length - 1);
        Assert.Equal(1, Sample(sampler, s_logits, Options(float.NaN), 5, out _));
        Assert.Equal(1, Sample(sampler, s_logits, Options(minP: 5), 5, out _));
        Assert.Equal(1, Sample(sampler, s_logits, Options(minP: 5, topK: 4), 5, out _));
        Assert.InRange(Sample(sampler, s_logits, Options(topK: int.MaxValue, topP: 9), int.MaxValue, out _), 0, s_logits.Length - 1);
        Assert.Equal(-1, Sample(sampler, [], Sampling.Greedy, 0, out _));
    }

    [Fact]
    public void Top_logits_are_best_first_with_the_lower_id_of_equals_first()
    {
        fixed (float* p = s_logits)
        {
            Assert.Equal([(1, 2.5f), (3, 1.9f), (5, 1.9f), (9, 1.1f)], Sampler.TopLogits(p, s_logits.Length, 4));
            Assert.Empty(Sampler.TopLogits(p, s_logits.Length, 0));
            var all = Sampler.TopLogits(p, s_logits.Length, 100);
            Assert.Equal(Enumerable.Range(0, s_logits.Length).OrderByDescending(i => s_logits[i]).ThenBy(i => i), all.Select(t => t.Id));
        }
        fixed (float* p = new[] { 1f, float.NaN, 3f }) Assert.Equal([(2, 3f), (0, 1f)], Sampler.TopLogits(p, 3, 3));
    }

    [Fact]
    public void Sampling_allocates_nothing()
    {
        var sampler = new Sampler(s_logits.Length);
        Sampling[] all = [Sampling.Greedy, Options(), Options(topK: 4), Options(topP: 0.7f), Options(minP: 0.1f)];
        foreach (var options in all) Sample(sampler, s_logits, options, 0, out _);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int position = 0; position < 100; position++)
            foreach (ref var options in all.AsSpan()) Sample(sampler, s_logits, options, position, out _);
        fixed (float* p = s_logits) sampler.Nll(p, s_logits.Length, 3);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Fact]
    public void The_logarithm_agrees_with_the_platform()
    {
        for (int i = 0; i < 10_000; i++)
        {
            double x = Math.Exp(30 * Sampler.Uniform(3, i) - 2);
            Assert.Equal(Math.Log(x), Sampler.Log(x), 1e-14 * Math.Max(1, Math.Abs(Math.Log(x))));
        }
        Assert.Equal(0, Sampler.Log(1));
    }
}
