using System.Text.Json;

namespace FlashOrleans.Models;

/// <summary>
/// The JSON header of a safetensors file: tensor name → dtype, shape, data_offsets. Parsed by hand from the token stream, so that a name or key
/// given twice, numbers that are not whole, and deep nesting are seen; then the byte ranges are checked: in order they must follow each
/// other without overlap or hole and end with the file. Every refusal names the tensor.
/// </summary>
internal static class SafetensorsHeader
{
    /// <summary>The format's own limit.</summary>
    public const int MaxBytes = 100_000_000;

    public static Dictionary<string, TensorInfo> Parse(string path, ReadOnlySpan<byte> header, long dataStart, long fileLength)
    {
        if (header.IsEmpty || header[0] != '{') throw new ModelFormatException(path, "the header is not a JSON object");
        var tensors = new Dictionary<string, TensorInfo>(StringComparer.Ordinal);
        try
        {
            var json = new Utf8JsonReader(header, new JsonReaderOptions { MaxDepth = 8 });
            json.Read();
            bool metadata = false;
            while (json.Read() && json.TokenType == JsonTokenType.PropertyName)
            {
                string name = json.GetString()!;
                if (name == "__metadata__")
                {
                    if (metadata) throw new ModelFormatException(path, "the header has two __metadata__ entries");
                    metadata = true;
                    json.Read();
                    bool texts = json.TokenType == JsonTokenType.StartObject;
                    while (texts && json.Read() && json.TokenType != JsonTokenType.EndObject) texts = json.TokenType is JsonTokenType.PropertyName or JsonTokenType.String;
                    if (!texts) throw new ModelFormatException(path, "__metadata__ is not an object of strings");
                    continue;
                }
                TensorInfo tensor = Entry(path, ref json, name, dataStart, fileLength);
                if (!tensors.TryAdd(name, tensor)) throw new ModelFormatException(path, $"tensor {name} is named twice in the header");
            }
            while (json.Read()) { /* only blanks may follow: anything else throws */ }
        }
        // InvalidOperationException: a string that is not UTF-8, or half of a surrogate pair.
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw ModelFormatException.NotJson(path, "the header ", e);
        }
        CheckCoverage(path, tensors.Values, dataStart, fileLength);
        return tensors;
    }

    private static TensorInfo Entry(string path, ref Utf8JsonReader json, string name, long dataStart, long fileLength)
    {
        json.Read();
        if (json.TokenType != JsonTokenType.StartObject) throw new ModelFormatException(path, $"the entry of tensor {name} is not an object");
        string? type = null;
        List<long>? shape = null, offsets = null;
        while (json.Read() && json.TokenType == JsonTokenType.PropertyName)
        {
            string key = json.GetString()!;
            json.Read();
            bool twice = false;
            switch (key)
            {
                case "dtype":
                    twice = type != null;
                    type = json.TokenType == JsonTokenType.String ? json.GetString() : throw new ModelFormatException(path, $"dtype of tensor {name} is not a string");
                    break;
                case "shape":
                    twice = shape != null;
                    shape = Numbers(path, ref json, name, key);
                    break;
                case "data_offsets":
                    twice = offsets != null;
                    offsets = Numbers(path, ref json, name, key);
                    break;
                default:
                    json.Skip();
                    break;
            }
            if (twice) throw new ModelFormatException(path, $"tensor {name} has two {key}");
        }
        if (type == null || shape == null || offsets == null)
            throw new ModelFormatException(path, $"tensor {name} lacks {(type == null ? "dtype" : shape == null ? "shape" : "data_offsets")}");
        if (offsets.Count != 2 || offsets[0] > offsets[1])
            throw new ModelFormatException(path, $"data_offsets [{string.Join(", ", offsets)}] of tensor {name} are not a begin and an end");
        if (offsets[1] > fileLength - dataStart)
            throw new ModelFormatException(path, $"tensor {name} ends at byte {offsets[1]} of the data, the file has {fileLength - dataStart}; download it again");
        int bits = Bits(type) ?? throw new ModelFormatException(path, $"tensor {name} has the unknown dtype {type}");
        UInt128 total = (UInt128)bits;
        foreach (long n in shape)
        {
            // 2^63 elements are more than any file holds; stopping here keeps the product within 128 bits.
            total *= (UInt128)n;
            if (total > (UInt128)long.MaxValue) throw new ModelFormatException(path, $"shape [{string.Join(", ", shape)}] of tensor {name} is larger than any file");
        }
        long bytes = offsets[1] - offsets[0];
        if (total != (UInt128)bytes * 8)
            throw new ModelFormatException(path, $"tensor {name} is {type} [{string.Join(", ", shape)}], but its data_offsets span {bytes} bytes");
        return new TensorInfo(name, type, shape, dataStart + offsets[0], bytes);
    }

    private static List<long> Numbers(string path, ref Utf8JsonReader json, string name, string key)
    {
        if (json.TokenType != JsonTokenType.StartArray) throw new ModelFormatException(path, $"{key} of tensor {name} is not an array");
        var numbers = new List<long>();
        while (json.Read() && json.TokenType != JsonTokenType.EndArray)
        {
            if (json.TokenType != JsonTokenType.Number || !json.TryGetInt64(out long n) || n < 0)
                throw new ModelFormatException(path, $"{key} of tensor {name} holds something else than whole numbers from 0");
            if (numbers.Count == 8) throw new ModelFormatException(path, $"{key} of tensor {name} has more than 8 entries");
            numbers.Add(n);
        }
        return numbers;
    }

    /// <summary>In the order of their offsets the tensors must tile the data exactly.</summary>
    private static void CheckCoverage(string path, IEnumerable<TensorInfo> tensors, long dataStart, long fileLength)
    {
        TensorInfo[] ordered = [.. tensors.OrderBy(t => t.Offset).ThenBy(t => t.Bytes)];
        // An overlap leaves a hole elsewhere: it is the better explanation, so it is looked for first.
        for (int i = 1; i < ordered.Length; i++)
            if (ordered[i].Offset < ordered[i - 1].Offset + ordered[i - 1].Bytes)
                throw new ModelFormatException(path, $"tensors {ordered[i - 1].Name} and {ordered[i].Name} overlap at byte {ordered[i].Offset}");
        long end = dataStart;
        string before = "the header";
        foreach (TensorInfo t in ordered)
        {
            if (t.Offset > end) throw new ModelFormatException(path, $"{t.Offset - end} bytes between {before} and tensor {t.Name} at byte {end} belong to nothing");
            end = t.Offset + t.Bytes;
            before = t.Name;
        }
        if (end < fileLength) throw new ModelFormatException(path, $"{fileLength - end} bytes after the last tensor at byte {end} belong to nothing");
    }

    private static int? Bits(string type) => type switch
    {
        "BOOL" or "U8" or "I8" or "F8_E4M3" or "F8_E5M2" or "F8_E8M0" => 8,
        "U16" or "I16" or "F16" or "BF16" => 16,
        "U32" or "I32" or "F32" => 32,
        "U64" or "I64" or "F64" or "C64" => 64,
        "F4" => 4,
        "F6_E2M3" or "F6_E3M2" => 6,
        _ => null,
    };
}
