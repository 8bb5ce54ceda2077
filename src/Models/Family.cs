using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// A model family as data: how its configuration reads and which of its tensors make up each of ours. The names on our side are those of a
/// package (<c>embed</c>, <c>attn.qkv</c>, <c>ffn.down</c> …), with <c>layers.N.</c> before what belongs to a layer; the engine knows no families.
/// </summary>
internal abstract class Family
{
    private static readonly Family[] s_all = [new LlamaFamily(), new OptFamily()];

    /// <summary>The name in <c>architectures</c>.</summary>
    public abstract string Architecture { get; }
    public abstract string ModelType { get; }
    /// <summary>What tensor names may begin with; the first under which the embedding exists is taken.</summary>
    public abstract IReadOnlyList<string> Prefixes { get; }
    /// <summary>Name of the embedding after the prefix.</summary>
    public abstract string Embedding { get; }

    public abstract ModelConfig ReadConfig(ConfigJson json);

    /// <summary>Every tensor the model has, in terms of the checkpoint's.</summary>
    public abstract IEnumerable<TensorMap> Tensors(ModelConfig c, string prefix);

    public static Family For(ConfigJson json)
    {
        string supported = string.Join(", ", s_all.Select(f => f.Architecture));
        IReadOnlyList<string> names = json.Texts("architectures");
        string? type = json.Text("model_type");
        if (names.Count == 0 && type == null) throw json.Wrong($"names neither architectures nor model_type; supported: {supported}");
        Family family = s_all.FirstOrDefault(f => names.Count > 0 ? names.Contains(f.Architecture) : f.ModelType == type)
            ?? throw json.Wrong($"architecture {(names.Count > 0 ? string.Join(", ", names) : type)} is not supported; supported: {supported}");
        if (type != null && type != family.ModelType)
            throw json.Wrong($"architecture {family.Architecture} with model_type {type} is not supported; {family.ModelType} is expected");
        if (json.Object("auto_map") is { } map && map.Has("AutoModelForCausalLM"))
            throw json.Wrong("auto_map: the model is computed by code of its own, which is not run; what it computes is unknown");
        if (json.Object("quantization_config") is { } q)
            throw json.Wrong($"quantization_config: weights quantised by {q.Text("quant_method") ?? "another tool"} are not supported; take the float checkpoint");
        return family;
    }

    /// <summary>Refuses an option that the family knows and this version does not compute.</summary>
    protected static void Refuse(ConfigJson json, bool wrong, string option, string supported)
    {
        if (wrong) throw json.Wrong($"{option} is not supported; supported: {supported}");
    }

    /// <summary>A matrix or vector taken as it is.</summary>
    protected static TensorMap One(string name, string source, int rows, int cols) => new(name, rows, cols, [(source, rows)]);
    protected static TensorMap Vector(string name, string source, int length) => new(name, 1, length, [(source, length)]) { IsVector = true };
}

/// <summary>
/// One tensor of the package in terms of the checkpoint: <see cref="Parts"/> below each other, or for vectors behind each other.
/// <see cref="Transposed"/>: the checkpoint has [Cols, Rows].
/// </summary>
internal sealed record TensorMap(string Name, int Rows, int Cols, IReadOnlyList<(string Source, int Size)> Parts)
{
    public bool IsVector { get; init; }
    public bool Transposed { get; init; }
}
