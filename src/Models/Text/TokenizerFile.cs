using System.Text.Json;

namespace FlashOrleans.Models.Text;

/// <summary>A token that is cut out of the text before anything else looks at it.</summary>
internal sealed record AddedToken(int Id, string Content, bool Special, bool SingleWord, bool LeftStrip, bool RightStrip);

/// <summary>
/// What a <c>tokenizer.json</c> says, checked: every id and every merge is usable as it stands, and what this code does not know is
/// refused by name instead of being skipped. The parts that are programs (normaliser, pre-tokeniser) stay as JSON for <see cref="PreTokenizer"/>.
/// Failure is one <see cref="ModelFormatException"/>; memory stays proportional to the file.
/// </summary>
internal sealed class TokenizerFile
{
    public const string Name = "tokenizer.json";

    // Real vocabularies leave holes of a few hundred ids (padding to a multiple); a table indexed by id must not follow one huge id.
    private const int HolesAllowed = 65_536;

    public required Dictionary<string, int> Vocabulary { get; init; }
    /// <summary>In order of rank: the two parts and what they become.</summary>
    public required List<(int Left, int Right, int Merged)> Merges { get; init; }
    public required List<AddedToken> Added { get; init; }
    public required bool IgnoreMerges { get; init; }
    public required int? Unknown { get; init; }
    public required bool NormalizeNfc { get; init; }
    public required List<JsonElement> PreTokenizers { get; init; }
    public required bool ByteLevelDecoder { get; init; }
    /// <summary>Ids the post-processor puts around one text.</summary>
    public required int[] Prefix { get; init; }
    public required int[] Suffix { get; init; }
    /// <summary>Highest id plus one.</summary>
    public required int Size { get; init; }

    public static ModelFormatException Bad(string what) => new(Name, what);

    public static TokenizerFile Parse(byte[] json)
    {
        try
        {
            using var document = JsonDocument.Parse(json);
            return Read(document.RootElement);
        }
        catch (JsonException e)
        {
            throw new ModelFormatException(Name, $"line {e.LineNumber + 1}, byte {e.BytePositionInLine}: not valid JSON; download or copy the file again", e);
        }
        catch (InvalidOperationException e)
        {
            // What JsonElement throws for a string that is no valid Unicode.
            throw new ModelFormatException(Name, $"a value has the wrong kind or is no valid text ({e.Message})", e);
        }
    }

    private static TokenizerFile Read(JsonElement root)
    {
        if (root.ValueKind != JsonValueKind.Object) throw Bad($"the file is {Kind(root)}, expected an object");
        if (Get(root, "model") is not { ValueKind: JsonValueKind.Object } model) throw Bad("there is no \"model\" object, so there is no vocabulary");
        // Files of before 2020 lack the type; then the merges tell.
        string type = Text(model, "type") ?? (Get(model, "merges") is not null ? "BPE" : "none");
        if (type != "BPE") throw Bad($"model type \"{type}\" is not supported; byte-level BPE is");
        if (Flag(model, "byte_fallback")) throw Bad("BPE with byte_fallback (SentencePiece) is not supported; byte-level BPE is");
        foreach (string option in (ReadOnlySpan<string>)["continuing_subword_prefix", "end_of_word_suffix"])
            if (Text(model, option) is { Length: > 0 } value) throw Bad($"model.{option} \"{value}\" is not supported; byte-level BPE has none");

        var vocabulary = ReadVocabulary(model, out int highest);
        var added = ReadAdded(root, ref highest);
        if (highest >= vocabulary.Count + added.Count + HolesAllowed)
            throw Bad($"id {highest} leaves a hole of more than {HolesAllowed} ids in a vocabulary of {vocabulary.Count} entries");

        var known = new Dictionary<string, int>(vocabulary, StringComparer.Ordinal);
        foreach (var token in added) known.TryAdd(token.Content, token.Id);
        string? unknown = Text(model, "unk_token");
        if (unknown is not null && !known.ContainsKey(unknown)) throw Bad($"model.unk_token \"{unknown}\" is not in the vocabulary");

        var stages = Steps(root, "pre_tokenizer", "pretokenizers").Select(static s => s.Clone()).ToList();
        var (prefix, suffix) = ReadPostProcessor(root, known);
        return new()
        {
            Vocabulary = vocabulary,
            Merges = ReadMerges(model, vocabulary),
            Added = added,
            IgnoreMerges = Flag(model, "ignore_merges"),
            Unknown = unknown is null ? null : known[unknown],
            NormalizeNfc = ReadNormalizer(root),
            PreTokenizers = stages,
            ByteLevelDecoder = ReadDecoder(root),
            Prefix = prefix,
            Suffix = suffix,
            Size = highest + 1,
        };
    }

    private static Dictionary<string, int> ReadVocabulary(JsonElement model, out int highest)
    {
        if (Get(model, "vocab") is not { ValueKind: JsonValueKind.Object } vocab) throw Bad("model.vocab is missing or not an object of token → id");
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        highest = -1;
        foreach (var entry in vocab.EnumerateObject())
        {
            int id = Id(entry.Value, $"model.vocab: token \"{entry.Name}\"");
            ids[entry.Name] = id;
            highest = Math.Max(highest, id);
        }
        return ids.Count > 0 ? ids : throw Bad("model.vocab is empty");
    }

    private static List<(int, int, int)> ReadMerges(JsonElement model, Dictionary<string, int> vocabulary)
    {
        if (Get(model, "merges") is not { ValueKind: JsonValueKind.Array } merges) throw Bad("model.merges is missing or not an array");
        var result = new List<(int, int, int)>(merges.GetArrayLength());
        foreach (var merge in merges.EnumerateArray())
        {
            string left, right;
            // Two spellings exist: "a b" and, since 2024, ["a", "b"].
            if (merge.ValueKind == JsonValueKind.Array && merge.GetArrayLength() == 2
                && merge[0].ValueKind == JsonValueKind.String && merge[1].ValueKind == JsonValueKind.String)
            {
                (left, right) = (merge[0].GetString()!, merge[1].GetString()!);
            }
            else
            {
                string[] parts = merge.ValueKind == JsonValueKind.String ? merge.GetString()!.Split(' ') : [];
                if (parts.Length != 2) throw Bad($"model.merges[{result.Count}] is {Show(merge)}, expected two tokens");
                (left, right) = (parts[0], parts[1]);
            }
            if (!vocabulary.TryGetValue(left, out int l)) throw Bad($"model.merges[{result.Count}] names \"{left}\", which is not in the vocabulary");
            if (!vocabulary.TryGetValue(right, out int r)) throw Bad($"model.merges[{result.Count}] names \"{right}\", which is not in the vocabulary");
            if (!vocabulary.TryGetValue(left + right, out int merged)) throw Bad($"model.merges[{result.Count}] makes \"{left + right}\", which is not in the vocabulary");
            result.Add((l, r, merged));
        }
        return result;
    }

    private static List<AddedToken> ReadAdded(JsonElement root, ref int highest)
    {
        var result = new List<AddedToken>();
        if (Get(root, "added_tokens") is not { } list) return result;
        if (list.ValueKind != JsonValueKind.Array) throw Bad($"added_tokens is {Kind(list)}, expected an array");
        foreach (var token in list.EnumerateArray())
        {
            if (token.ValueKind != JsonValueKind.Object || Text(token, "content") is not { } content)
                throw Bad($"added_tokens[{result.Count}] is {Show(token)}, expected an object with id and content");
            int id = Id(Get(token, "id"), $"added token \"{content}\"");
            highest = Math.Max(highest, id);
            result.Add(new(id, content, Flag(token, "special"), Flag(token, "single_word"), Flag(token, "lstrip"), Flag(token, "rstrip")));
        }
        return result;
    }

    private static bool ReadNormalizer(JsonElement root)
    {
        bool nfc = false;
        foreach (var step in Steps(root, "normalizer", "normalizers"))
        {
            string type = Text(step, "type") ?? "none";
            if (type != "NFC") throw Bad($"normalizer \"{type}\" is not supported; NFC or none is");
            nfc = true;
        }
        return nfc;
    }

    private static bool ReadDecoder(JsonElement root)
    {
        bool byteLevel = false;
        foreach (var step in Steps(root, "decoder", "decoders"))
        {
            string type = Text(step, "type") ?? "none";
            if (type != "ByteLevel") throw Bad($"decoder \"{type}\" is not supported; ByteLevel is");
            byteLevel = true;
        }
        return byteLevel;
    }

    private static (int[] Prefix, int[] Suffix) ReadPostProcessor(JsonElement root, Dictionary<string, int> known)
    {
        List<int> prefix = [], suffix = [];
        foreach (var step in Steps(root, "post_processor", "processors"))
        {
            string type = Text(step, "type") ?? "none";
            if (type == "ByteLevel") continue; // only moves offsets
            if (type != "TemplateProcessing") throw Bad($"post_processor \"{type}\" is not supported; TemplateProcessing or ByteLevel is");
            if (Get(step, "single") is not { ValueKind: JsonValueKind.Array } single) throw Bad("post_processor.single is missing or not an array");
            var side = prefix;
            foreach (var part in single.EnumerateArray())
            {
                if (part.ValueKind == JsonValueKind.Object && part.TryGetProperty("Sequence", out _)) side = suffix;
                else if (Get(part, "SpecialToken") is { } special && Text(special, "id") is { } name && known.TryGetValue(name, out int id)) side.Add(id);
                else throw Bad($"post_processor.single holds {Show(part)}, expected Sequence or a SpecialToken of the vocabulary");
            }
        }
        return (prefix.ToArray(), suffix.ToArray());
    }

    /// <summary>A part that may be absent, one step, or a Sequence of steps.</summary>
    private static IEnumerable<JsonElement> Steps(JsonElement root, string part, string list)
    {
        if (Get(root, part) is not { } value) yield break;
        if (value.ValueKind != JsonValueKind.Object) throw Bad($"{part} is {Kind(value)}, expected an object");
        if (Text(value, "type") != "Sequence") { yield return value; yield break; }
        if (Get(value, list) is not { ValueKind: JsonValueKind.Array } steps) throw Bad($"{part}.{list} is missing or not an array");
        foreach (var step in steps.EnumerateArray())
            yield return step.ValueKind == JsonValueKind.Object ? step : throw Bad($"{part}.{list} holds {Show(step)}, expected objects");
    }

    private static int Id(JsonElement? value, string what) =>
        value is { ValueKind: JsonValueKind.Number } number && number.TryGetInt32(out int id) && id >= 0
            ? id
            : throw Bad($"{what} has id {(value is { } v ? Show(v) : "none")}, expected an integer from 0 to {int.MaxValue}");

    /// <summary>A property, null when absent or JSON null.</summary>
    internal static JsonElement? Get(JsonElement of, string name) =>
        of.ValueKind == JsonValueKind.Object && of.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;

    internal static string? Text(JsonElement of, string name) => Get(of, name) is { } value
        ? value.ValueKind == JsonValueKind.String ? value.GetString() : throw Bad($"\"{name}\" is {Show(value)}, expected a string")
        : null;

    internal static bool Flag(JsonElement of, string name) => Get(of, name) is { } value
        && (value.ValueKind is JsonValueKind.True or JsonValueKind.False ? value.GetBoolean() : throw Bad($"\"{name}\" is {Show(value)}, expected true or false"));

    private static string Kind(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Array => "an array",
        JsonValueKind.Object => "an object",
        JsonValueKind.String => "a string",
        JsonValueKind.Number => "a number",
        _ => "true, false or null",
    };

    private static string Show(JsonElement value)
    {
        string raw = value.GetRawText();
        return raw.Length <= 60 ? raw : Kind(value);
    }
}
