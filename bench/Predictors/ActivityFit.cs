using System.Globalization;
using System.Numerics;
using System.Text.Json;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;

namespace FlashOrleans.Predictors.Bench;

/// <summary>
/// The statistics of a real model's active sets over stories that it tells itself, and the activity model (docs/adr/0016) fitted to them: prints measured beside achieved and writes the JSON that
/// <c>flash synth --activity FILE</c> reads. Of each story only the model's own tokens count; a story is a session.
/// </summary>
internal static class ActivityFit
{
    private static readonly int[] s_unions = [1, 2, 4, 8, 16, 32, 64, 128];

    /// <summary>Sets by session and token, as bits.</summary>
    private sealed record Trace(int Neurons, List<ulong[][]> Sessions);

    /// <summary>Figures of one trace; shares of the layer's neurons but where it says otherwise.</summary>
    private sealed record Figures(double Density, double Top, double Again, double[] Union, double Fresh, double Scattered, double Burst)
    {
        /// <summary>What is fitted: all are positive.</summary>
        public IEnumerable<double> Fitted => [Top, Again, .. Union[1..], Fresh, Scattered, Burst];

        public static Figures Mean(IReadOnlyList<Figures> of) => new(of.Average(static f => f.Density), of.Average(static f => f.Top), of.Average(static f => f.Again),
            [.. s_unions.Select((_, i) => of.Average(f => f.Union[i]))], of.Average(static f => f.Fresh), of.Average(static f => f.Scattered), of.Average(static f => f.Burst));
    }

    public static void Run(string checkpointPath, string trained, string to, FlashPackage plain, IReadOnlyList<(int[] Ids, int First)> stories)
    {
        var traces = new List<Trace>();
        var found = new List<(double Recall, double Taken)>();
        var ahead = new List<(double Recall, double Taken)>();
        using (Checkpoint checkpoint = Checkpoint.Open(checkpointPath))
        using (PredictorSource source = PredictorSource.Open(checkpoint, trained, [])!)
        {
            LayerRows? before = null;
            LayerByLayer.Study(plain, [.. stories.Select(static s => s.Ids)], rows =>
            {
                traces.Add(Of(rows, stories));
                foreach (bool early in (ReadOnlySpan<bool>)[false, true])
                {
                    if (early && before == null) continue;
                    PredictorMatrix[] matrices = [.. source.Matrices(rows.Layer).Where(m => m.Section.StartsWith(PackageLayout.Lookahead, StringComparison.Ordinal) == early)];
                    float[] scores = ImportStudy.Scores(checkpoint, plain.Manifest.Weights, source.Config, matrices, rows, early ? before!.Entering : null);
                    float threshold = early ? source.Config.LookaheadOf(rows.Layer)!.Threshold : source.Config.Layers[rows.Layer].Threshold;
                    (early ? ahead : found).Add(At(scores, rows.Values, threshold));
                }
                before = rows;
            });
        }
        Figures[] measured = [.. traces.Select(Measure)];
        int tokens = traces[0].Sessions.Sum(static s => s.Length);
        Console.WriteLine($"{tokens} tokens of {traces[0].Sessions.Count} stories");
        var config = new ActivityConfig
        {
            Name = Path.GetFileName(to),
            Density = [.. measured.Select(static f => Math.Round(f.Density, 5))],
            Popularity = 1,
            Persistence = 0.1,
            Burst = measured.Average(static f => f.Burst),
            Drift = 0.5,
            Topic = 256,
            Predicted = Math.Round(found.Average(static f => f.Taken), 3),
            Recall = Math.Round(found.Average(static f => f.Recall), 3),
            AheadRecall = Math.Round(ahead.Average(static f => f.Recall), 3),
            AheadPrecision = Math.Round(ahead.Average(static f => f.Recall) / ahead.Average(static f => f.Taken), 3),
        };
        config = Fit(config, Figures.Mean(measured), traces);
        Trace[] drawn = [.. traces.Select((t, l) => Draw(config, l, t))];
        Print(config, measured, [.. drawn.Select(Measure)], traces, drawn);
        var json = new Dictionary<string, object>
        {
            ["density"] = config.Density,
            ["popularity"] = config.Popularity,
            ["persistence"] = config.Persistence,
            ["burst"] = config.Burst,
            ["drift"] = config.Drift,
            ["topic"] = config.Topic,
            ["predicted"] = config.Predicted,
            ["recall"] = config.Recall,
            ["aheadRecall"] = config.AheadRecall,
            ["aheadPrecision"] = config.AheadPrecision,
        };
        File.WriteAllText(to, JsonSerializer.Serialize(json) + "\n");
        Console.WriteLine($"\n{to}: {File.ReadAllText(to)}");
    }

    private static Trace Of(LayerRows rows, IReadOnlyList<(int[] Ids, int First)> stories)
    {
        var sessions = new List<ulong[][]>();
        int at = 0;
        foreach (var (ids, first) in stories)
        {
            ulong[][] sets = [.. Enumerable.Range(at + first, ids.Length - first).Select(t => Bits(rows.Neurons, i => rows.Values[t * rows.Neurons + i] > 0))];
            at += ids.Length;
            if (sets.Length > s_unions[^1]) sessions.Add(sets);
        }
        return new Trace(rows.Neurons, sessions);
    }

    private static Trace Draw(ActivityConfig config, int layer, Trace like)
    {
        var model = new ActivityModel(config, layer, like.Neurons);
        float[] g = new float[like.Neurons];
        return new Trace(like.Neurons, [.. like.Sessions.Select((session, s) =>
        {
            ulong key = model.Key((ulong)s);
            return session.Select((_, t) =>
            {
                model.PredictedInto(key, t, g);
                return Bits(g.Length, i => g[i] is ActivityModel.Active or ActivityModel.Missed);
            }).ToArray();
        })]);
    }

    private static ulong[] Bits(int n, Func<int, bool> has)
    {
        ulong[] words = new ulong[(n + 63) / 64];
        for (int i = 0; i < n; i++)
            if (has(i)) words[i / 64] |= 1UL << (i % 64);
        return words;
    }

    private static Figures Measure(Trace trace)
    {
        int n = trace.Neurons;
        double tokens = trace.Sessions.Sum(static s => s.Length), all = 0;
        int[] uses = new int[n];
        double again = 0, pairs = 0, fresh = 0, later = 0;
        double[] union = new double[s_unions.Length], runs = new double[s_unions.Length];
        foreach (ulong[][] s in trace.Sessions)
        {
            for (int t = 0; t < s.Length; t++)
            {
                for (int i = 0; i < n; i++) uses[i] += (int)(s[t][i / 64] >> (i % 64) & 1);
                if (t > 0) (again, pairs) = (again + Count(s[t], s[t - 1], static (a, b) => a & b), pairs + Count(s[t]));
                if (t >= 5) (fresh, later) = (fresh + Count(s[t], Union(s.AsSpan(t - 5, 5)), static (a, b) => a & ~b), later + 1);
            }
            for (int u = 0; u < s_unions.Length; u++)
                for (int t = 0; t + s_unions[u] <= s.Length; t += s_unions[u]) (union[u], runs[u]) = (union[u] + Count(Union(s.AsSpan(t, s_unions[u]))), runs[u] + 1);
        }
        double[] counts = [.. trace.Sessions.SelectMany(static s => s.Select(static set => (double)Count(set)))];
        all = counts.Sum();
        double mean = all / tokens, variance = counts.Sum(c => (c - mean) * (c - mean)) / tokens;
        Array.Sort(uses);
        // Eight tokens of eight stories: what sessions that go together want.
        var random = new Random(1);
        const int tries = 256;
        double scattered = 0;
        for (int k = 0; k < tries; k++)
        {
            ulong[][] eight = [.. Enumerable.Range(0, 8).Select(_ => trace.Sessions[random.Next(trace.Sessions.Count)]).Select(s => s[random.Next(s.Length)])];
            scattered += Count(Union(eight)) / (double)tries;
        }
        return new Figures(mean / n, uses[^(int)(n * .26)..].Sum() / all, again / pairs, [.. union.Select((u, i) => u / runs[i] / n)], fresh / later / n, scattered / n,
            // Beyond what independent draws would scatter.
            Math.Sqrt(Math.Log(1 + Math.Max(0, variance - mean * (1 - mean / n)) / (mean * mean))));
    }

    private static int Count(ulong[] set) => set.Sum(BitOperations.PopCount);

    private static int Count(ulong[] a, ulong[] b, Func<ulong, ulong, ulong> of)
    {
        int count = 0;
        for (int w = 0; w < a.Length; w++) count += BitOperations.PopCount(of(a[w], b[w]));
        return count;
    }

    private static ulong[] Union(ReadOnlySpan<ulong[]> sets)
    {
        ulong[] all = new ulong[sets[0].Length];
        foreach (ulong[] set in sets)
            for (int w = 0; w < all.Length; w++) all[w] |= set[w];
        return all;
    }

    /// <summary>One parameter after the other, in steps that shrink, for the least squared logarithm of drawn over measured.</summary>
    private static ActivityConfig Fit(ActivityConfig config, Figures measured, List<Trace> traces)
    {
        // A third of the stories is enough to compare with.
        Trace[] few = [.. traces.Select(static t => t with { Sessions = [.. t.Sessions.Where(static (_, i) => i % 3 == 0)] })];
        double best = Error(config);
        for (double step = 1.6; step > 1.04; step = Math.Sqrt(step))
        {
            for (bool better = true; better;)
            {
                better = false;
                foreach (var change in (Func<ActivityConfig, double, ActivityConfig>[])[static (c, f) => c with { Popularity = c.Popularity * f }, static (c, f) => c with { Persistence = Math.Min(.95, c.Persistence * f) },
                    static (c, f) => c with { Drift = Math.Min(1, c.Drift * f) }, static (c, f) => c with { Burst = Math.Min(2, c.Burst * f) }, static (c, f) => c with { Topic = (int)Math.Clamp(c.Topic * f, 8, 4096) }])
                {
                    foreach (double factor in new[] { step, 1 / step })
                    {
                        ActivityConfig other = change(config, factor);
                        double error = Error(other);
                        if (error >= best * 0.995) continue;
                        (best, config, better) = (error, other, true);
                        break;
                    }
                }
            }
        }
        return config with { Popularity = Math.Round(config.Popularity, 3), Persistence = Math.Round(config.Persistence, 3), Drift = Math.Round(config.Drift, 3), Burst = Math.Round(config.Burst, 3) };

        double Error(ActivityConfig c)
        {
            var drawn = new Figures[few.Length];
            Parallel.For(0, few.Length, l => drawn[l] = Measure(Draw(c, l, few[l])));
            return Figures.Mean(drawn).Fitted.Zip(measured.Fitted, static (a, b) => Math.Pow(Math.Log(Math.Max(a, 1e-4) / Math.Max(b, 1e-4)), 2)).Sum();
        }
    }

    private static void Print(ActivityConfig config, Figures[] measured, Figures[] drawn, List<Trace> traces, Trace[] synthetic)
    {
        Figures m = Figures.Mean(measured), d = Figures.Mean(drawn);
        Console.WriteLine("\n| percent of a layer's neurons, mean of all layers | measured | drawn |\n|---|---|---|");
        Row("active", m.Density, d.Density);
        Console.WriteLine($"| by layer | {string.Join(", ", measured.Select(static f => Text(f.Density)))} | {string.Join(", ", drawn.Select(static f => Text(f.Density)))} |");
        Row("of all activations, those of the 26 % most active", m.Top, d.Top);
        Row("of a token's set, in the set of the one before", m.Again, d.Again);
        for (int u = 1; u < s_unions.Length; u++) Row($"needed by {s_unions[u]} tokens together", m.Union[u], d.Union[u]);
        Row("needed and not by the five tokens before", m.Fresh, d.Fresh);
        Row("needed by 8 tokens of other stories together", m.Scattered, d.Scattered);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| bursts: σ of the logarithm of a token's count | {m.Burst:0.00} | {d.Burst:0.00} |"));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| correlation of a token's count with the next layer's | {Correlation(traces):0.00} | {Correlation(synthetic):0.00} |"));

        void Row(string what, double a, double b) => Console.WriteLine($"| {what} | {Text(a)} | {Text(b)} |");
    }

    private static double Correlation(IReadOnlyList<Trace> layers)
    {
        double[][] logs = [.. layers.Select(static l => l.Sessions.SelectMany(static s => s.Select(static set => Math.Log(1 + Count(set)))).ToArray())];
        return Enumerable.Range(0, layers.Count - 1).Average(l =>
        {
            double[] a = logs[l], b = logs[l + 1];
            double ma = a.Average(), mb = b.Average();
            return a.Zip(b, (x, y) => (x - ma) * (y - mb)).Sum() / Math.Sqrt(a.Sum(x => (x - ma) * (x - ma)) * b.Sum(y => (y - mb) * (y - mb)));
        });
    }

    private static (double Recall, double Taken) At(float[] scores, float[] values, float threshold)
    {
        double truly = 0, taken = 0, found = 0;
        for (int k = 0; k < scores.Length; k++)
        {
            if (values[k] > 0) truly++;
            if (!(scores[k] >= threshold)) continue;
            taken++;
            if (values[k] > 0) found++;
        }
        return (found / truly, taken / truly);
    }

    private static string Text(double share) => (100 * share).ToString("0.0", CultureInfo.InvariantCulture);
}
