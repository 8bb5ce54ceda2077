using System.Text.Json;
using System.Text.Json.Serialization;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Synthetic;

/// <summary>
/// The locality with which a synthetic model's experts are drawn, and what is reported of trained models beside what is drawn. Reports: three prompts of 512 tokens of Qwen3-30B-A3B (github.com/kekzl/imp, pull 1359:
/// 45 % of a token's experts were the last one's, 80 % within eight tokens; 40 % of the experts by recency hit .90 to .95), 300 tokens of a model of 512 experts (the same, pull 2061: 18, 36, 54 and 73 % hit
/// .44, .62, .72 and .79, first uses included, 15 % of all). The defaults lie between the two.
/// </summary>
internal static class SyntheticRouting
{
    private static readonly JsonSerializerOptions Json = new() { PropertyNamingPolicy = JsonNamingPolicy.CamelCase, UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow };

    /// <summary>Null: the weights decide.</summary>
    /// <param name="what">none, auto or paper, or a file: properties of <see cref="RoutingConfig"/> in JSON that differ.</param>
    /// <param name="model">The model.</param>
    /// <param name="seed">Of the draws.</param>
    public static RoutingConfig? Read(string what, ModelConfig model, ulong seed)
    {
        if (model.Experts == null || what == "none") return null;
        if (what == "auto" && model.Experts.Groups > 0) return null;
        if (what is "auto" or "paper") return new RoutingConfig { Seed = seed };
        if (!File.Exists(what)) throw new ModelFormatException($"--activity '{what}' of a model of experts is neither paper nor none nor a file");
        try
        {
            return (JsonSerializer.Deserialize<RoutingConfig>(File.ReadAllBytes(what), Json) ?? new RoutingConfig()) with { Name = Path.GetFileName(what), Seed = seed };
        }
        catch (JsonException e)
        {
            throw new ModelFormatException(what, $"is not what --activity reads of a model of experts: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    /// <summary>Draws some tokens of one session in a few layers, and measures.</summary>
    public static IReadOnlyList<ActivityFigure> Measure(RoutingConfig config, ModelConfig model)
    {
        const int Tokens = 1024, Warm = 256;
        ExpertConfig experts = model.Experts!;
        int[] layers = [.. Enumerable.Range(0, model.Layers).Where(i => model.ExpertsOf(i) != null).Where(static (_, i) => i % 8 == 0)];
        (int Share, string? Published)[] shares = [(20, ".44 to .80"), (40, ".64 to .93"), (50, ".67 to .89"), (75, ".79 to .97")];
        double again = 0, eight = 0, top = 0;
        double[] hits = new double[shares.Length];
        foreach (int layer in layers)
        {
            var drawn = new RoutingModel(config, layer, experts);
            ulong key = drawn.Key(7);
            int[][] sets = [.. Enumerable.Range(0, Tokens).Select(t => drawn.Draw(key, t).ToArray())];
            int[] last = new int[experts.Count], uses = new int[experts.Count];
            Array.Fill(last, int.MinValue / 2);
            for (int t = 0; t < Tokens; t++)
            {
                foreach (int e in sets[t])
                {
                    uses[e]++;
                    if (t < Warm) continue;
                    again += t - last[e] <= 1 ? 1 : 0;
                    eight += t - last[e] <= 8 ? 1 : 0;
                    // Least recently used: a hit when fewer others than there is room for were used since.
                    int since = last.Count(l => l > last[e]);
                    for (int s = 0; s < shares.Length; s++) hits[s] += since < Math.Max(experts.Active, experts.Count * shares[s].Share / 100) ? 1 : 0;
                }
                foreach (int e in sets[t]) last[e] = t;
            }
            Array.Sort(uses);
            top += uses[^Math.Max(1, experts.Count / 16)..].Sum() / (double)(Tokens * experts.Active) / layers.Length;
        }
        double all = (Tokens - Warm) * (double)experts.Active * layers.Length / 100;
        return
        [
            new("of a token's experts, used by the one before", again / all, experts.Count == 128 ? 45 : null),
            new("used by one of the eight before", eight / all, experts.Count == 128 ? 80 : null),
            .. shares.Select((s, i) => new ActivityFigure($"held, of the last used {s.Share} % (reported {s.Published})", hits[i] / all, null)),
            new("of all uses, those of the sixteenth most used", 100 * top, 10),
        ];
    }
}
