using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashOrleans.Tests;

/// <summary>Damaged copies of good tokenizer.json files, by <see cref="JsonMutations"/>.</summary>
internal static class TokenizerMutations
{
    // A short vocabulary: what is looked for is not in its length.
    private const int Entries = 300;

    public static readonly string[] Words = ["Sequence", "ByteLevel", "Metaspace", "Split", "NFC", "Replace", "Strip", "Fuse", "ByteFallback", "BPE", "Unigram", "Prepend", "Digits", "first", "Removed"];

    public static byte[] Make(byte[] shortened, Random random) => JsonMutations.Make(shortened, shortened, Words, random);

    /// <summary>The tokenizer.json of a folder with fewer entries.</summary>
    public static byte[] Shorten(string folder)
    {
        var root = JsonNode.Parse(File.ReadAllBytes(Path.Combine(folder, "tokenizer.json")))!.AsObject();
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
