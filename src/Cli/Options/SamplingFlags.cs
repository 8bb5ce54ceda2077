using System.CommandLine;
using System.Text.Json;
using FlashOrleans.Abstractions;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Options;

/// <summary>How tokens are chosen; what is not given comes from the model's generation_config.json.</summary>
internal sealed class SamplingFlags
{
    public const float MaxTemperature = 100;
    private readonly Option<float?> _temperature = Flags.Float("--temperature", "0 always takes the best token (default: the model's)", 0, MaxTemperature);
    private readonly Option<int?> _topK = Flags.Int("--top-k", "K", "Of the K best tokens; 0 of all (default: the model's)", 0);
    private readonly Option<float?> _topP = Flags.Float("--top-p", "Of the best tokens that together reach this probability (default: the model's)", 0, 1);
    private readonly Option<float?> _minP = Flags.Float("--min-p", "Of tokens with at least this share of the best one's probability (default: the model's)", 0, 1);
    private readonly Option<ulong?> _seed = Flags.Seed();

    public SamplingFlags(Command command)
    {
        foreach (Option option in new Option[] { _temperature, _topK, _topP, _minP, _seed }) command.Add(option);
    }

    public SamplingOptions Over(SamplingOptions model, ParseResult parse) => new()
    {
        Temperature = parse.GetValue(_temperature) ?? model.Temperature,
        TopK = parse.GetValue(_topK) ?? model.TopK,
        TopP = parse.GetValue(_topP) ?? model.TopP,
        MinP = parse.GetValue(_minP) ?? model.MinP,
        Seed = parse.GetValue(_seed),
    };

    /// <summary>
    /// What the model's makers recommend; a model that says nothing gets 0.8 and top-p 0.95, one that says do_sample false is greedy.
    /// Values that make no sense are ignored: they are a recommendation.
    /// </summary>
    public static SamplingOptions Recommended(FlashPackage package)
    {
        var fallback = new SamplingOptions { Temperature = 0.8f, TopP = 0.95f };
        if (package.SideFile("generation_config.json") is not { } bytes) return fallback;
        try
        {
            using var document = JsonDocument.Parse(bytes);
            var root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object) return fallback;
            if (root.TryGetProperty("do_sample", out var sample) && sample.ValueKind == JsonValueKind.False) return new();
            if (Number(root, "temperature", 0, MaxTemperature) is null && Number(root, "top_p", 0, 1) is null && Number(root, "top_k", 0, int.MaxValue) is null) return fallback;
            return new()
            {
                Temperature = Number(root, "temperature", 0, MaxTemperature) ?? 1,
                TopP = Number(root, "top_p", 0, 1) ?? 1,
                MinP = Number(root, "min_p", 0, 1) ?? 0,
                TopK = (int)(Number(root, "top_k", 0, 1 << 24) ?? 0),
            };
        }
        catch (JsonException)
        {
            return fallback;
        }
    }

    private static float? Number(JsonElement root, string name, float least, float most) =>
        root.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number && value.TryGetSingle(out float number) && number >= least && number <= most ? number : null;
}
