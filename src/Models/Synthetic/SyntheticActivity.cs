using System.Numerics;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Synthetic;

/// <summary>What was drawn for some tokens of one session, beside what is published.</summary>
/// <param name="What">The figure.</param>
/// <param name="Measured">Of the sets that were drawn.</param>
/// <param name="Published">For OPT-6.7B; null where there is none.</param>
public sealed record ActivityFigure(string What, double Measured, double? Published);

/// <summary>
/// The statistics with which a synthetic model's sets of neurons are drawn: published ones ("paper"), the same with a prediction that is right ("oracle"), or a file that says
/// otherwise. Sources: LLM in a flash (arXiv 2312.11514) for densities by layer, ranks of predictors and the excess of what they predict; ProSparse and Bamboo model cards for
/// the densities of gated models; PowerInfer (arXiv 2312.12456) for how few neurons most activations come from (26 % ungated, 43 % gated give 80 %).
/// </summary>
internal static class SyntheticActivity
{
    /// <summary>OPT-6.7B: percent active in layers 1, 16 and 32, and on average.</summary>
    private const double First = 1.56, Middle = 2.66, Last = 5.36, Mean = 3.30;

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        RespectNullableAnnotations = true,
    };

    /// <summary>Null: the weights decide.</summary>
    /// <param name="what">none, auto (paper for ReLU models), paper, oracle or a file: properties of <see cref="ActivityConfig"/> in JSON that differ from paper's, and "mean" in place of all densities.</param>
    /// <param name="shape">Name of the shape.</param>
    /// <param name="model">The model.</param>
    /// <param name="seed">Of the draws.</param>
    public static ActivityConfig? Read(string what, string shape, ModelConfig model, ulong seed)
    {
        if (what == "auto") what = model.IsSparse && model.Experts == null ? "paper" : "none";
        if (what == "none") return null;
        if (!model.IsSparse || model.Experts != null) throw new ModelFormatException($"--activity says which neurons of a ReLU model are active; {shape} {(model.Experts != null ? "has experts" : $"uses {model.Activation}")}: leave it out");
        double mean = !model.Gated ? Mean / 100 : shape == "bamboo-7b" ? 0.12 : 0.11;
        var paper = new ActivityConfig
        {
            Name = what is "paper" or "oracle" ? what : Path.GetFileName(what),
            Seed = seed,
            Density = Profile(mean, model.Layers),
            Popularity = model.Gated ? 1 : 0.3,
            Predicted = model.Gated ? 2 : 2.3,
        };
        return what switch
        {
            "paper" => paper,
            "oracle" => paper with { Predicted = 1, Recall = 1 },
            _ => Over(paper, what, model.Layers),
        };
    }

    /// <summary>Predictors of the published ranks, in four bits.</summary>
    public static PredictorConfig Predictors(ModelConfig model)
    {
        int four = Math.Max(1, model.Layers / 8), first = model.Gated ? model.Layers / 2 - four / 2 : model.Layers - four;
        return new PredictorConfig { Format = "q4", Layers = [.. Enumerable.Range(0, model.Layers).Select(i => new LowRank(i >= first && i < first + four ? 1024 : model.Gated ? 256 : 128, 0))] };
    }

    /// <summary>Draws some tokens of one session in a few layers, and measures.</summary>
    public static IReadOnlyList<ActivityFigure> Measure(ActivityConfig config, ModelConfig model)
    {
        const int Tokens = 512, Window = 5;
        int[] layers = [.. new[] { 0, model.Layers / 4, model.Layers / 2, model.Layers * 3 / 4, model.Layers - 1 }.Distinct()], unions = [1, 2, 4, 8, 16, 32, 128, 256];
        double[] active = new double[layers.Length], union = new double[unions.Length];
        double chosen = 0, fresh = 0, top = 0, again = 0;
        int n = model.FfnSize, few = (int)(n * (model.Gated ? 0.43 : 0.26));
        for (int l = 0; l < layers.Length; l++)
        {
            var drawn = new ActivityModel(config, layers[l], n);
            var sets = new BitSet[Tokens];
            int[] uses = new int[n];
            ulong key = drawn.Key(7);
            for (int t = 0; t < Tokens; t++)
            {
                (sets[t], double true_) = Needed(drawn, key, t, n, uses);
                active[l] += true_ / n / Tokens;
                chosen += (double)sets[t].Count / n / Tokens / layers.Length;
                if (t > 0) again += sets[t].Common(sets[t - 1]) / (double)Math.Max(1, sets[t].Count) / (Tokens - 1) / layers.Length;
            }
            for (int u = 0; u < unions.Length; u++)
            {
                int runs = Math.Min(8, Tokens / unions[u]);
                for (int r = 0; r < runs; r++) union[u] += BitSet.Union(sets.AsSpan(r * unions[u], unions[u]), n).Count / (double)n / runs / layers.Length;
            }
            for (int t = Window; t < Tokens; t++) fresh += sets[t].Beyond(BitSet.Union(sets.AsSpan(t - Window, Window), n)) / (double)n / (Tokens - Window) / layers.Length;
            Array.Sort(uses);
            top += uses[^few..].Sum() / (double)Math.Max(1, uses.Sum()) / layers.Length;
        }
        bool opt = !model.Gated && config.Name == "paper";
        double?[] published = opt ? [9.5, 15.3, 20.6, 29.0, 39.8, 51.7, 70.7, 77.2] : new double?[unions.Length];
        double? Of(double value) => opt ? value : null;
        return
        [
            new("active, first layer", 100 * active[0], Of(First)),
            new("active, middle layer", 100 * active[active.Length / 2], Of(Middle)),
            new("active, last layer", 100 * active[^1], Of(Last)),
            new("active, mean of all layers", 100 * config.MeanDensity, Of(Mean)),
            new($"of all activations, those of the {(model.Gated ? 43 : 26)} % most active", 100 * top, 80),
            new("needed by a token", 100 * chosen, Of(10)),
            .. unions.Select((u, i) => new ActivityFigure($"needed by {u} tokens together", 100 * union[i], published[i])),
            new("needed and not by the five tokens before", 100 * fresh, Of(2.4)),
            new("of what a token needs, needed by the one before", 100 * again, null),
        ];
    }

    private static (BitSet Needed, double True) Needed(ActivityModel drawn, ulong key, int position, int n, int[] uses)
    {
        float[] g = new float[n];
        (int fire, _) = drawn.PredictedInto(key, position, g);
        var set = new BitSet(n);
        for (int i = 0; i < n; i++)
        {
            if (g[i] > 0) set.Add(i);
            if (g[i] is ActivityModel.Active or ActivityModel.Missed) uses[i]++;
        }
        return (set, fire);
    }

    private static double[] Profile(double mean, int layers)
    {
        double[] at = [.. Enumerable.Range(0, layers).Select(i =>
        {
            double x = layers == 1 ? 15 : i * 31.0 / (layers - 1);
            return x < 15 ? First + (Middle - First) * x / 15 : Middle + (Last - Middle) * (x - 15) / 16;
        })];
        double average = at.Average();
        return [.. at.Select(a => Math.Round(a / average * mean, 6))];
    }

    private static ActivityConfig Over(ActivityConfig paper, string file, int layers)
    {
        if (!File.Exists(file)) throw new ModelFormatException($"--activity '{file}' is neither paper nor oracle nor a file");
        try
        {
            if (JsonNode.Parse(File.ReadAllBytes(file)) is not JsonObject wanted) throw new ModelFormatException(file, "is not a JSON object of what differs from paper's activity");
            var all = JsonSerializer.SerializeToNode(paper, Json)!.AsObject();
            foreach (var (key, value) in wanted)
            {
                if (key == "mean") all["density"] = JsonSerializer.SerializeToNode(Profile(value!.GetValue<double>(), layers), Json);
                else all[key] = value?.DeepClone();
            }
            return all.Deserialize<ActivityConfig>(Json) ?? paper;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or FormatException)
        {
            throw new ModelFormatException(file, $"is not what --activity reads: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    private sealed class BitSet(int n)
    {
        private readonly ulong[] _words = new ulong[(n + 63) / 64];

        public int Count => _words.Sum(BitOperations.PopCount);
        public void Add(int i) => _words[i / 64] |= 1UL << (i % 64);
        public int Common(BitSet other) => _words.Zip(other._words, static (a, b) => BitOperations.PopCount(a & b)).Sum();
        public int Beyond(BitSet other) => _words.Zip(other._words, static (a, b) => BitOperations.PopCount(a & ~b)).Sum();

        public static BitSet Union(ReadOnlySpan<BitSet> sets, int n)
        {
            var all = new BitSet(n);
            foreach (var set in sets)
                for (int w = 0; w < all._words.Length; w++) all._words[w] |= set._words[w];
            return all;
        }
    }
}
