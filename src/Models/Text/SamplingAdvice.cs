using System.Text.Json;
using FlashOrleans.Engine;

namespace FlashOrleans.Models.Text;

/// <summary>How a model's makers recommend to sample (generation_config.json): the defaults where a user says nothing. Stateless; any thread.</summary>
public static class SamplingAdvice
{
    public const string FileName = "generation_config.json";
    public const float MaxTemperature = 100;

    /// <summary>
    /// A model that says nothing gets 0.8 and top-p 0.95, one that says do_sample false is greedy. Values that make no sense are ignored: they are a recommendation.
    /// </summary>
    public static Sampling Of(byte[]? generationConfig)
    {
        var fallback = Sampling.Greedy with { Temperature = 0.8f, TopP = 0.95f };
        if (generationConfig is null) return fallback;
        try
        {
            using var document = JsonDocument.Parse(generationConfig);
            var root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object) return fallback;
            if (root.TryGetProperty("do_sample", out var sample) && sample.ValueKind == JsonValueKind.False) return Sampling.Greedy;
            if (Number(root, "temperature", 0, MaxTemperature) is null && Number(root, "top_p", 0, 1) is null && Number(root, "top_k", 0, int.MaxValue) is null) return fallback;
            return Sampling.Greedy with
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
