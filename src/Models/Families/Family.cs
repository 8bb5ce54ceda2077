using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// A model family as data: how its configuration reads, and what its tensors are called (<see cref="TensorNames"/>). The names on our side are those of a
/// package (<c>embed</c>, <c>attn.qkv</c>, <c>ffn.down</c> …), with <c>layers.N.</c> before what belongs to a layer; the engine knows no families.
/// </summary>
internal sealed record Family(string Architecture, string ModelType, Func<ConfigJson, ModelConfig> ReadConfig, Func<ModelConfig, TensorNames> Names)
{
    private static readonly Family[] s_all = [.. LlamaFamilies.All, .. ClassicFamilies.All, .. ExpertFamilies.All];

    /// <summary>Published checkpoints bring code of their own although what they compute is known here.</summary>
    public bool KnownCode { get; init; }

    public static Family For(ConfigJson json)
    {
        string supported = $"docs/MODELS.md has the {s_all.Length} model types that are";
        IReadOnlyList<string> names = json.Texts("architectures");
        string? type = json.Text("model_type");
        if (names.Count == 0 && type == null) throw json.Wrong($"names neither architectures nor model_type; {supported} read");
        Family family = s_all.FirstOrDefault(f => names.Count > 0 ? names.Contains(f.Architecture) : f.ModelType == type)
            ?? throw json.Wrong($"architecture {(names.Count > 0 ? string.Join(", ", names) : type)} is not supported; {supported}");
        if (type != null && type != family.ModelType)
            throw json.Wrong($"architecture {family.Architecture} with model_type {type} is not supported; {family.ModelType} is expected");
        if (!family.KnownCode && json.Object("auto_map") is { } map && map.Has("AutoModelForCausalLM"))
            throw json.Wrong("auto_map: the model is computed by code of its own, which is not run; what it computes is unknown");
        if (json.Object("quantization_config") is { } q)
            throw json.Wrong($"quantization_config: weights quantised by {q.Text("quant_method") ?? "another tool"} are not supported; take the float checkpoint");
        return family;
    }
}
