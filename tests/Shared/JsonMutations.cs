using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashOrleans.Tests;

/// <summary>Damaged copies of good JSON files: values replaced by others, moved, doubled or removed, and bytes changed. Any thread with a generator of its own.</summary>
internal static class JsonMutations
{
    private static readonly string[] s_pieces = ["(", ")", "[", "]", "+", "*", "{2}", "\\", "\\p{L}", "|", "^", "𐐀", "?", "../"];
    private static readonly string[] s_numbers = ["0", "-0.0", "-1", "2", "0.5", "1e-300", "1e300", "1e999", "2147483647", "-2147483648", "4294967296", "9223372036854775807", "1267650600228229401496703205376"];

    /// <param name="good">A JSON object.</param>
    /// <param name="donor">Another of its kind (or the same): parts of it are put in as well.</param>
    /// <param name="words">Names that mean something in files of this kind.</param>
    public static byte[] Make(byte[] good, byte[] donor, string[] words, Random random)
    {
        byte[] bytes = good;
        if (random.Next(4) > 0)
        {
            JsonObject root = JsonNode.Parse(good)!.AsObject(), other = JsonNode.Parse(donor)!.AsObject();
            for (int n = random.Next(1, 4); n > 0; n--) Mutate(root, root, other, words, random);
            bytes = JsonSerializer.SerializeToUtf8Bytes(root);
        }
        if (random.Next(3) > 0) return bytes;
        byte[] flipped = [.. bytes];
        for (int n = random.Next(1, 5); n > 0; n--) flipped[random.Next(flipped.Length)] = (byte)random.Next(256);
        return flipped;
    }

    /// <summary>One change somewhere below <paramref name="node"/>.</summary>
    public static void Mutate(JsonObject root, JsonNode node, JsonObject donor, string[] words, Random random)
    {
        // Down to some place: one child at each step, long lists less often than the steps.
        while (true)
        {
            switch (node)
            {
                case JsonObject o when o.Count > 0:
                    string key = o.ElementAt(random.Next(Math.Min(o.Count, 40))).Key;
                    if (random.Next(3) > 0 && o[key] is { } inner and not JsonValue) { node = inner; continue; }
                    if (random.Next(5) == 0) o.Remove(key);
                    else if (random.Next(6) == 0 && donor.Count > 0)
                    {
                        (string given, JsonNode? value) = donor.ElementAt(random.Next(donor.Count));
                        o[given] = value?.DeepClone();
                    }
                    else o[key] = Value(root, o[key], donor, words, random);
                    return;
                case JsonArray a when a.Count > 0:
                    int index = random.Next(a.Count);
                    if (random.Next(3) > 0 && a[index] is { } element and not JsonValue) { node = element; continue; }
                    if (random.Next(5) == 0) a.RemoveAt(index);
                    else if (random.Next(4) == 0) a.Add(a[index]?.DeepClone());
                    else a[index] = Value(root, a[index], donor, words, random);
                    return;
                default:
                    return;
            }
        }
    }

    private static JsonNode? Value(JsonObject root, JsonNode? old, JsonObject donor, string[] words, Random random)
    {
        string text = old is JsonValue v && v.TryGetValue(out string? s) ? s : "";
        return random.Next(15) switch
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
            9 => text.Length > 0 ? text.Insert(random.Next(text.Length), s_pieces[random.Next(s_pieces.Length)]) : " ",
            10 or 11 => JsonNode.Parse(s_numbers[random.Next(s_numbers.Length)]),
            12 => words[random.Next(words.Length)],
            // Another part of this file, or of the other, in this place.
            _ => (random.Next(2) == 0 && donor.Count > 0 ? donor : root) is { Count: > 0 } from ? from.ElementAt(random.Next(from.Count)).Value?.DeepClone() : null,
        };
    }
}
