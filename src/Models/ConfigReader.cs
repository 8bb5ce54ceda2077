using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// <c>config.json</c> and <c>generation_config.json</c> of a Hugging Face checkpoint → <see cref="ModelConfig"/>, in the layout of published checkpoints
/// (<c>rope_theta</c>, <c>rope_scaling</c>, <c>torch_dtype</c>) and in that of transformers 5 (<c>rope_parameters</c>, <c>dtype</c>). What this
/// version does not compute is refused by name, never ignored: a wrong model is worse than none.
/// </summary>
public static class ConfigReader
{
    private const long MaxFileBytes = 16 << 20;

    /// <summary>Reads the configuration of a checkpoint folder; <paramref name="file"/> is the name of the configuration in it.</summary>
    public static ModelConfig Read(string folder, string file = "config.json") => ReadWithFamily(folder, file).Config;

    internal static (ModelConfig Config, Family Family) ReadWithFamily(string folder, string file = "config.json")
    {
        string path = Path.Combine(folder, file);
        if (!File.Exists(path))
            throw new ModelFormatException(path, "not found; a checkpoint folder needs config.json beside its weights");
        using JsonDocument document = Parse(path);
        var json = new ConfigJson(path, document.RootElement);
        (ModelConfig config, Family family) = Read(json);

        string generation = Path.Combine(folder, "generation_config.json");
        (int? bos, IReadOnlyList<int> eos) = (json.TokenId("bos_token_id"), json.TokenIds("eos_token_id"));
        if (File.Exists(generation))
        {
            using JsonDocument second = Parse(generation);
            var g = new ConfigJson(generation, second.RootElement);
            bos = g.TokenId("bos_token_id") ?? bos;
            // The generation configuration decides what ends an answer, as in transformers.
            if (g.TokenIds("eos_token_id") is { Count: > 0 } ids) eos = ids;
        }
        // Ids outside the vocabulary (-1 means "none" in some checkpoints) can never be met.
        return (config with
        {
            BosToken = bos is { } b && (uint)b < (uint)config.VocabSize ? b : null,
            EosTokens = [.. eos.Where(id => (uint)id < (uint)config.VocabSize).Distinct()],
        }, family);
    }

    /// <summary>What a configuration says by itself, checked; the tokens that begin and end are yet to be taken from it.</summary>
    internal static (ModelConfig Config, Family Family) Read(ConfigJson json)
    {
        Family family = Family.For(json);
        ModelConfig config = family.ReadConfig(json);
        Validate(json, config);
        return (config, family);
    }

    internal static JsonDocument Parse(string path)
    {
        try
        {
            long length = new FileInfo(path).Length;
            if (length > MaxFileBytes) throw new ModelFormatException(path, $"{length} bytes are too many for a configuration");
            JsonDocument document = StrictJson.Parse(File.ReadAllBytes(path), new JsonDocumentOptions { AllowDuplicateProperties = false });
            if (document.RootElement.ValueKind == JsonValueKind.Object) return document;
            document.Dispose();
            throw new ModelFormatException(path, "is not a JSON object");
        }
        catch (JsonException e)
        {
            throw ModelFormatException.NotJson(path, "", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ModelFormatException(path, $"cannot be read: {e.Message}", e);
        }
    }

    /// <summary>Sizes must fit each other and stay far from where products of them overflow.</summary>
    private static void Validate(ConfigJson json, ModelConfig c)
    {
        if (c.Heads % c.KvHeads != 0) throw json.Wrong($"{c.Heads} attention heads do not divide among {c.KvHeads} key/value heads");
        if ((long)c.Heads * Math.Max(c.HeadDim, c.ValueHeadDim) > 1 << 20) throw json.Wrong($"{c.Heads} heads of {c.HeadDim} are more than this version supports");
        if (c.Positions == PositionKind.Rope && c.HeadDim % 2 != 0) throw json.Wrong($"rotary positions need an even head size, not {c.HeadDim}");
        if ((long)c.FfnSize * c.HiddenSize > int.MaxValue || (long)c.VocabSize * c.HiddenSize > 1L << 36)
            throw json.Wrong($"matrices of {c.FfnSize} x {c.HiddenSize} and {c.VocabSize} x {c.HiddenSize} are more than this version supports");
    }
}
