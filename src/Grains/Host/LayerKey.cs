using System.Globalization;

namespace FlashOrleans.Grains;

/// <summary>Which layer of which package: the key of layer and prefetch grains, "hash/index". A re-import has another hash, so two imports never mix in one pipeline.</summary>
internal readonly record struct LayerKey(string Package, int Layer)
{
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Package}/{Layer}");

    public static LayerKey Parse(string key) =>
        TryParse(key, out LayerKey parsed) ? parsed : throw new ArgumentException($"\"{key}\" is not a layer key: expected package hash, slash, layer number");

    public static bool TryParse(ReadOnlySpan<char> key, out LayerKey parsed)
    {
        int slash = key.LastIndexOf('/');
        if (slash > 0 && int.TryParse(key[(slash + 1)..], NumberStyles.None, CultureInfo.InvariantCulture, out int layer))
        {
            parsed = new LayerKey(key[..slash].ToString(), layer);
            return true;
        }
        parsed = default;
        return false;
    }
}
