using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashOrleans.Models.Tests.Text;

/// <summary>Damaged copies of good tokenizer.json files: values replaced by others, moved, doubled or removed, and bytes changed.</summary>
internal static class TokenizerMutations
{
    // A short vocabulary: what is looked for is not in its length.
    private const int Entries = 300;
    private static readonly Dictionary<string, byte[]> s_bases = CodecData.Names.ToDictionary(static n => n, Shorten, StringComparer.Ordinal);

    public static byte[] Make(string name, Random random)
    {
        byte[] bytes = s_bases[name];
        if (random.Next(4) > 0)
        {
            var root = JsonNode.Parse(bytes)!.AsObject();
            for (int n = random.Next(1, 4); n > 0; n--) Mutate(root, root, random);
            bytes = JsonSerializer.SerializeToUtf8Bytes(root);
        }
        if (random.Next(3) > 0) return bytes;
        byte[] flipped = [.. bytes];
        for (int n = random.Next(1, 5); n > 0; n--) flipped[random.Next(flipped.Length)] = (byte)random.Next(256);
        return flipped;
    }

    private static void Mutate(JsonObject root, JsonNode node, Random random)
    {
        // Down to some place: one child at each step, the model's long lists less often than the steps.
        while (true)
        {
            switch (node)
            {
                case JsonObject o when o.Count > 0:
                    string key = o.ElementAt(random.Next(Math.Min(o.Count, 40))).Key;
                    if (random.Next(3) > 0 && o[key] is { } inner and not JsonValue) { node = inner; continue; }
                    if (random.Next(5) == 0) o.Remove(key);
                    else o[key] = Value(root, o[key], random);
                    return;
                case JsonArray a when a.Count > 0:
                    int index = random.Next(a.Count);
                    if (random.Next(3) > 0 && a[index] is { } element and not JsonValue) { node = element; continue; }
                    if (random.Next(5) == 0) a.RemoveAt(index);
                    else if (random.Next(4) == 0) a.Add(a[index]?.DeepClone());
                    else a[index] = Value(root, a[index], random);
                    return;
                default:
                    return;
            }
        }
    }

    private static JsonNode? Value(JsonObject root, JsonNode? old, Random random)
    {
        string text = old is JsonValue v && v.TryGetValue(out string? s) ? s : "";
        return random.Next(14) switch
        {
            0 => null,
            1 => random.Next(-2, 400),
            2 => random.NextDouble() * 1e10,
            3 => random.Next(2) == 0,
            4 => new JsonArray(),
            5 => new JsonObject(),
            6 => "",
            7 => text + text,
            8 => text.Length > 0 ? text[..random.Next(text.Length)] : "▁",
            9 => text.Length > 0 ? text.Insert(random.Next(text.Length), ((string[])["(", ")", "[", "]", "+", "*", "{2}", "\\", "\\p{L}", "|", "^", "𐐀", "?"])[random.Next(13)]) : " ",
            10 => int.MaxValue,
            11 => ((string[])["Sequence", "ByteLevel", "Metaspace", "Split", "NFC", "Replace", "Strip", "Fuse", "ByteFallback", "BPE", "Unigram", "Prepend", "Digits", "first", "Removed"])[random.Next(15)],
            // Another part of the file in this place.
            _ => root.ElementAt(random.Next(root.Count)).Value?.DeepClone(),
        };
    }

    private static byte[] Shorten(string name)
    {
        var root = JsonNode.Parse(File.ReadAllBytes(Path.Combine(CodecData.Folder(name), "tokenizer.json")))!.AsObject();
        var model = root["model"]!.AsObject();
        if (model["vocab"] is JsonArray scored)
        {
            while (scored.Count > Entries) scored.RemoveAt(scored.Count - 1);
        }
        else
        {
            var entries = model["vocab"]!.AsObject();
            var merges = model["merges"]!.AsArray();
            while (merges.Count > 40) merges.RemoveAt(merges.Count - 1);
            var needed = merges.SelectMany(static m => new[] { $"{m![0]}", $"{m[1]}", $"{m[0]}{m[1]}" }).ToHashSet(StringComparer.Ordinal);
            foreach (string key in entries.Where(e => e.Value!.GetValue<int>() > Entries && !needed.Contains(e.Key) && e.Key.Length > 1 && !e.Key.StartsWith('<')).Select(static e => e.Key).ToArray()) entries.Remove(key);
        }
        return JsonSerializer.SerializeToUtf8Bytes(root);
    }
}
