using System.Globalization;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The metadata of a file's architecture (<c>gemma2.…</c>; keys are given without that), typed and checked, and what its tensors tell. Remembers what was asked for: a key
/// or a tensor that nobody asked for may change what the model computes, so <see cref="DemandNoOtherKeys"/> and <see cref="DemandNoOtherTensors"/> refuse it by name.
/// One import, one thread; what is wrong is a <see cref="ModelFormatException"/>.
/// </summary>
internal sealed class GgufKeys(GgufFile file)
{
    /// <summary>What says nothing about the computation, or what the tensors say better.</summary>
    private static readonly string[] s_idle =
        ["vocab_size", "tensor_data_layout", "use_parallel_residual", "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "rope.scaling.finetuned"];

    private readonly GgufMetadata _metadata = file.Metadata;
    private readonly HashSet<string> _keys = new(s_idle, StringComparer.Ordinal);
    private readonly HashSet<string> _tensors = new(StringComparer.Ordinal);

    private readonly List<string> _leftOut = [];

    public string Architecture { get; } = file.Metadata.Architecture;
    public bool IsPowerInfer => file.IsPowerInfer;

    public ModelFormatException Wrong(string reason) => new(file.Path, reason);

    /// <summary>Refuses a key's value: one that this version does not compute.</summary>
    public void Refuse(bool wrong, string key, string supported)
    {
        if (wrong) throw Wrong($"metadata {Architecture}.{key} is {Shown(key)}, which is not supported; supported: {supported}");
    }

    public bool Has(string key) => _metadata.Has(Full(key));

    /// <summary>A size: whole, from 1 to <paramref name="most"/>; a list of one number over and over is that number.</summary>
    public int Size(string key, int most, int? absent = null)
    {
        string full = Full(key);
        if (absent is { } other && !_metadata.Has(full)) return other;
        int n;
        if (_metadata.Find(full) is { Type: GgufValueType.Array } && _metadata.Int32s(full) is { Length: > 0 } all)
        {
            Refuse(all.Distinct().Count() > 1, key, "one number for all layers");
            n = all[0];
        }
        else n = _metadata.RequireInt32(full);
        return n >= 1 && n <= most ? n : throw Wrong($"metadata {full} is {n}; a whole number from 1 to {most} is expected");
    }

    /// <summary>A whole number from 0, or null where the key is absent.</summary>
    public int? Whole(string key) =>
        _metadata.Int32(Full(key)) is not { } n ? null : n >= 0 ? n : throw Wrong($"metadata {Full(key)} is {n}; a whole number from 0 is expected");

    public double Number(string key, double? absent = null)
    {
        string full = Full(key);
        if (absent is { } other && !_metadata.Has(full)) return other;
        float n = _metadata.RequireFloat32(full);
        return float.IsFinite(n) && n > 0 ? n : throw Wrong($"metadata {full} is {n}; a number above 0 is expected");
    }

    /// <summary>A factor, of which 0 means that there is none.</summary>
    public double Factor(string key, double absent) => Float(key) is null or 0 ? absent : Number(key);

    public float? Float(string key) => _metadata.Float32(Full(key));

    public string? Text(string key) => _metadata.String(Full(key));

    public bool? Flag(string key) => _metadata.Bool(Full(key));

    /// <summary>Which layers a pattern names: one entry per layer, or the period of which only the last layer is not meant; null where the key is absent.</summary>
    public bool[]? Pattern(string key, int layers)
    {
        string full = Full(key);
        if (_metadata.Find(full) is not { } value) return null;
        if (value.Type != GgufValueType.Array) return EachBut(Whole(key)!.Value, layers);
        bool[] all = value.Element == GgufValueType.Bool ? _metadata.Bools(full)! : [.. _metadata.Int32s(full)!.Select(static n => n != 0)];
        return all.Length == layers ? all : throw Wrong($"metadata {full} has {all.Length} entries for {layers} layers");
    }

    /// <summary>All layers but the last of each <paramref name="period"/>; 0: all.</summary>
    public static bool[] EachBut(int period, int layers) => [.. Enumerable.Range(0, layers).Select(i => period == 0 || i % period < period - 1)];

    public bool HasTensor(string name) => file.Tensors.ContainsKey(name);

    public GgufTensor Tensor(string name) => file.Require(name);

    /// <summary>Tensors whose names begin so belong to what is not computed, and nothing that is hangs on them.</summary>
    public void LeaveOut(string prefix) => _leftOut.Add(prefix);

    /// <summary>A vector of the whole model that belongs to the configuration: divisors of frequencies.</summary>
    public double[] Divisors(string tensor, int length)
    {
        _tensors.Add(tensor);
        float[] numbers = new float[length];
        file.ReadRows(file.Require(tensor, length), 0, 1, numbers);
        return numbers.All(static f => float.IsFinite(f) && f > 0) ? [.. numbers.Select(static f => (double)f)] : throw Wrong($"tensor {tensor} holds divisors that are not above 0");
    }

    /// <summary>A token's id, or null where there is none in the vocabulary.</summary>
    public int? Token(string name, int vocabulary) => _metadata.Int32($"tokenizer.ggml.{name}_token_id") is { } id && (uint)id < (uint)vocabulary ? id : null;

    public void DemandNoOtherKeys()
    {
        string prefix = Architecture + ".";
        foreach (string full in _metadata.Keys.Where(k => k.StartsWith(prefix, StringComparison.Ordinal)))
        {
            string key = full[prefix.Length..];
            if (!_keys.Contains(key) && !IsOff(full)) throw Wrong($"metadata {full} is {Shown(key)}: an option that is not supported for {Architecture}");
        }
    }

    /// <summary>Beside the tensors that the import reads. PowerInfer's predictors are not computed: they only guess.</summary>
    public void DemandNoOtherTensors(IEnumerable<string> read)
    {
        var known = new HashSet<string>(read, StringComparer.Ordinal);
        foreach (string name in file.Tensors.Keys)
        {
            bool predictor = IsPowerInfer && name.Split('.') is ["blk", _, "fc1" or "fc2", "weight"];
            if (!known.Contains(name) && !_tensors.Contains(name) && !predictor && !_leftOut.Exists(p => name.StartsWith(p, StringComparison.Ordinal))) throw Wrong($"tensor {name} belongs to nothing that is supported for {Architecture}; without it the model would compute something else");
        }
    }

    private string Full(string key)
    {
        _keys.Add(key);
        return $"{Architecture}.{key}";
    }

    private bool IsOff(string full) => _metadata.Find(full)!.Value switch
    {
        { Type: GgufValueType.Bool } => _metadata.Bool(full) == false,
        { Type: GgufValueType.String } => _metadata.String(full) is "" or "none",
        { Type: GgufValueType.Array, Element: GgufValueType.Bool } => _metadata.Bools(full)!.All(static on => !on),
        { Type: GgufValueType.Array, Element: GgufValueType.Float32 or GgufValueType.Float64 } => _metadata.Float32s(full)!.All(static n => n == 0),
        { Type: GgufValueType.Array, Element: GgufValueType.String or GgufValueType.Array, Count: var count } => count == 0,
        { Type: GgufValueType.Array } => _metadata.Int32s(full)!.All(static n => n == 0),
        _ => _metadata.Float32(full) == 0,
    };

    private string Shown(string key)
    {
        string full = $"{Architecture}.{key}";
        return _metadata.Find(full) is not { } v ? "missing" : v.Type switch
        {
            GgufValueType.Bool => _metadata.Bool(full) == true ? "true" : "false",
            GgufValueType.String => $"\"{_metadata.String(full)}\"",
            GgufValueType.Array => $"a list of {v.Count}",
            _ => _metadata.Float32(full)!.Value.ToString(CultureInfo.InvariantCulture),
        };
    }
}
