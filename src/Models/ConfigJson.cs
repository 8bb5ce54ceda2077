using System.Text.Json;

namespace FlashOrleans.Models;

/// <summary>One configuration object and the path to blame: typed access to its keys. Null and absent are the same, as in transformers.</summary>
internal readonly struct ConfigJson(string path, JsonElement root)
{
    public ModelFormatException Wrong(string reason) => new(path, reason);

    public bool Has(string key) => Find(key) != null;

    public JsonElement? Find(string key) =>
        root.TryGetProperty(key, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;

    /// <summary>A size: whole, from 1 to <paramref name="max"/>.</summary>
    public int Size(string key, int max, int? absent = null)
    {
        if (Find(key) is not { } value) return absent ?? throw Wrong($"{key} is missing");
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetInt32(out int n) || n < 1 || n > max)
            throw Wrong($"{key} is {Shown(value)}; a whole number from 1 to {max} is expected");
        return n;
    }

    public double Number(string key, double absent)
    {
        if (Find(key) is not { } value) return absent;
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetDouble(out double n) || !double.IsFinite(n) || n <= 0)
            throw Wrong($"{key} is {Shown(value)}; a number above 0 is expected");
        return n;
    }

    /// <summary>A whole number from 0, or null where the key is absent.</summary>
    public int? Whole(string key)
    {
        if (Find(key) is not { } value) return null;
        return value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int n) && n >= 0 ? n : throw Wrong($"{key} is {Shown(value)}; a whole number from 0 is expected");
    }

    /// <summary>The key is there and says null: not the same as an absent one where the family has a default.</summary>
    public bool IsNull(string key) => root.TryGetProperty(key, out JsonElement value) && value.ValueKind == JsonValueKind.Null;

    public IReadOnlyList<double> Numbers(string key)
    {
        if (Find(key) is not { } value) return [];
        if (value.ValueKind != JsonValueKind.Array || value.EnumerateArray().Any(v => v.ValueKind != JsonValueKind.Number || !v.TryGetDouble(out double n) || !double.IsFinite(n)))
            throw Wrong($"{key} is {Shown(value)}; a list of numbers is expected");
        return [.. value.EnumerateArray().Select(v => v.GetDouble())];
    }

    public bool Flag(string key, bool absent) => Find(key) switch
    {
        null => absent,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        { } value => throw Wrong($"{key} is {Shown(value)}; true or false is expected"),
    };

    public string? Text(string key) => Find(key) switch
    {
        null => null,
        { ValueKind: JsonValueKind.String } value => value.GetString(),
        { } value => throw Wrong($"{key} is {Shown(value)}; a string is expected"),
    };

    public IReadOnlyList<string> Texts(string key)
    {
        if (Find(key) is not { } value) return [];
        if (value.ValueKind != JsonValueKind.Array || value.EnumerateArray().Any(v => v.ValueKind != JsonValueKind.String))
            throw Wrong($"{key} is {Shown(value)}; a list of strings is expected");
        return [.. value.EnumerateArray().Select(v => v.GetString()!)];
    }

    public ConfigJson? Object(string key) => Find(key) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Object } value => new ConfigJson(path, value),
        { } value => throw Wrong($"{key} is {Shown(value)}; an object is expected"),
    };

    public int? TokenId(string key) => TokenIds(key) is { Count: > 0 } ids ? ids[0] : null;

    /// <summary>One id or a list of ids.</summary>
    public IReadOnlyList<int> TokenIds(string key)
    {
        if (Find(key) is not { } value) return [];
        JsonElement[] all = value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray()] : [value];
        var ids = new List<int>(all.Length);
        foreach (JsonElement e in all)
        {
            if (e.ValueKind != JsonValueKind.Number || !e.TryGetInt32(out int id)) throw Wrong($"{key} is {Shown(value)}; a token id is expected");
            ids.Add(id);
        }
        return ids;
    }

    private static string Shown(JsonElement value)
    {
        string raw = value.GetRawText();
        return raw.Length <= 60 ? raw : raw[..60] + "…";
    }
}
