namespace FlashOrleans.Flash;

/// <summary>
/// Which format each matrix of a package has: one for most of them, and exceptions by kind ("ffn.down") or by kind in one layer ("layers.3.ffn.down"), as mixed
/// quantisations have them. Vectors, norms and position tables are always f32. Immutable.
/// </summary>
public sealed class WeightFormats
{
    private readonly SortedDictionary<string, WeightFormat> _exceptions = new(StringComparer.Ordinal);

    public WeightFormats(WeightFormat most, IEnumerable<KeyValuePair<string, WeightFormat>>? exceptions = null)
    {
        Most = most;
        foreach ((string matrix, WeightFormat format) in exceptions ?? []) _exceptions[matrix] = format;
    }

    public WeightFormat Most { get; }
    public IReadOnlyDictionary<string, WeightFormat> Exceptions => _exceptions;

    public static implicit operator WeightFormats(WeightFormat format) => new(format);

    /// <summary>A matrix of edge.bin: "embed", "head".</summary>
    public WeightFormat Of(string matrix) => _exceptions.TryGetValue(matrix, out WeightFormat format) ? format : Most;

    /// <summary>A matrix of a layer: "attn.qkv", "ffn.up".</summary>
    public WeightFormat Of(int layer, string matrix) => _exceptions.TryGetValue($"layers.{layer}.{matrix}", out WeightFormat format) ? format : Of(matrix);

    /// <summary>Every format that occurs.</summary>
    public IEnumerable<WeightFormat> All => _exceptions.Values.Prepend(Most).Distinct();
}
