using System.Text.Json;

namespace FlashOrleans.Models.Text;

/// <summary>
/// What a <c>tokenizer.json</c> says, checked: every id and every merge is usable as it stands, and what this code does not know is
/// refused by name instead of being skipped. The parts that are programs (normaliser, pre-tokeniser, decoder) are read by the classes that run them.
/// Failure is one <see cref="ModelFormatException"/>; memory stays proportional to the file.
/// </summary>
internal static class TokenizerFile
{
    public const string Name = "tokenizer.json";

    // Real vocabularies leave holes of a few hundred ids (padding to a multiple); a table indexed by id must not follow one huge id.
    private const int HolesAllowed = 65_536;

    public static ModelFormatException Bad(string what) => new(Name, what);

    public static TokenizerSpec Parse(byte[] json)
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

    private static TokenizerSpec Read(JsonElement root)
    {
        if (root.ValueKind != JsonValueKind.Object) throw Bad($"the file is {Kind(root)}, expected an object");
        if (Get(root, "model") is not { ValueKind: JsonValueKind.Object } model) throw Bad("there is no \"model\" object, so there is no vocabulary");
        // Files of before 2020 lack the type; then the merges tell.
        string type = Text(model, "type") ?? (Get(model, "merges") is not null ? "BPE" : "none");
        if (type is not ("BPE" or "Unigram")) throw Bad($"model type \"{type}\" is not supported; BPE and Unigram are");

        double[] scores = [];
        var vocabulary = type == "BPE" ? ReadVocabulary(model) : ReadScored(model, out scores);
        var added = ReadAdded(root);
        var known = new Dictionary<string, int>(vocabulary, StringComparer.Ordinal);
        foreach (var token in added) known.TryAdd(token.Content, token.Id);
        int highest = known.Values.Concat(added.Select(static t => t.Id)).Max();
        if (highest >= Math.Max(vocabulary.Count, scores.Length) + added.Count + HolesAllowed)
            throw Bad($"id {highest} leaves a hole of more than {HolesAllowed} ids in a vocabulary of {vocabulary.Count} entries");

        var preTokenizer = new PreTokenizer(Steps(root, "pre_tokenizer", "pretokenizers").ToList());
        var rules = TokenText.ReadRules(Steps(root, "decoder", "decoders"));
        if (preTokenizer.ByteLevel != rules.ByteLevel)
            throw Bad($"the pre-tokenizer is {(preTokenizer.ByteLevel ? "" : "not ")}ByteLevel and the decoder is{(rules.ByteLevel ? "" : " not")}; both or none must be");
        var (prefix, suffix) = ReadPostProcessor(root, known);
        return new()
        {
            Vocabulary = vocabulary,
            Added = added,
            Normalizer = new(Steps(root, "normalizer", "normalizers")),
            PreTokenizer = preTokenizer,
            Model = type == "BPE" ? ReadMerger(model, vocabulary, known) : ReadUnigram(model, vocabulary, scores),
            Text = new(vocabulary.Select(static e => (e.Value, e.Key)).Concat(added.Select(static t => (t.Id, t.Content))), highest + 1, rules),
            Prefix = prefix,
            Suffix = suffix,
        };
    }

    private static BytePairMerger ReadMerger(JsonElement model, Dictionary<string, int> vocabulary, Dictionary<string, int> known)
    {
        foreach (string option in (ReadOnlySpan<string>)["continuing_subword_prefix", "end_of_word_suffix"])
            if (Text(model, option) is { Length: > 0 } value) throw Bad($"model.{option} \"{value}\" is not supported; byte-level and SentencePiece BPE have none");
        if (Get(model, "dropout") is { } dropout && !(dropout.ValueKind == JsonValueKind.Number && dropout.TryGetDouble(out double share) && share == 0))
            throw Bad($"model.dropout is {Show(dropout)}: its ids would be left to chance; set it to null");
        string? unknown = Text(model, "unk_token");
        if (unknown is not null && !known.ContainsKey(unknown)) throw Bad($"model.unk_token \"{unknown}\" is not in the vocabulary");

        int[]? bytes = Flag(model, "byte_fallback") ? ByteTokens(vocabulary) : null;
        bool byteMerges = false;
        var joints = new HashSet<int>();
        var merges = ReadMerges(model, vocabulary, (left, right) =>
        {
            joints.Add(BytePairMerger.Joint(left[^1], right[0]));
            byteMerges |= bytes is not null && (PieceModel.ByteValue(left) >= 0 || PieceModel.ByteValue(right) >= 0);
        });
        var rest = new UnknownCharacters(unknown is null ? null : known[unknown], Flag(model, "fuse_unk"), bytes);
        return new(vocabulary, merges, rest, Flag(model, "ignore_merges"), byteMerges ? null : joints);
    }

    private static UnigramModel ReadUnigram(JsonElement model, Dictionary<string, int> vocabulary, double[] scores)
    {
        if (Get(model, "unk_id") is not { } unknown) throw Bad("model.unk_id is missing: a character that is no entry could not be encoded");
        int id = Id(unknown, "model.unk_id");
        if (id >= scores.Length) throw Bad($"model.unk_id is {id}, the vocabulary has {scores.Length} entries");
        return new(vocabulary, scores, id, Flag(model, "byte_fallback") ? ByteTokens(vocabulary) : null);
    }

    /// <summary>The ids of the 256 byte tokens, -1 for those that are missing.</summary>
    private static int[] ByteTokens(Dictionary<string, int> vocabulary) =>
        Enumerable.Range(0, 256).Select(b => vocabulary.TryGetValue($"<0x{b:X2}>", out int id) ? id : -1).ToArray();

    private static Dictionary<string, int> ReadVocabulary(JsonElement model)
    {
        if (Get(model, "vocab") is not { ValueKind: JsonValueKind.Object } vocab) throw Bad("model.vocab is missing or not an object of token → id");
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (var entry in vocab.EnumerateObject()) ids[entry.Name] = Id(entry.Value, $"model.vocab: token \"{entry.Name}\"");
        return ids.Count > 0 ? ids : throw Bad("model.vocab is empty");
    }

    /// <summary>Unigram's vocabulary: [entry, score] in the order of the ids.</summary>
    private static Dictionary<string, int> ReadScored(JsonElement model, out double[] scores)
    {
        if (Get(model, "vocab") is not { ValueKind: JsonValueKind.Array } vocab) throw Bad("model.vocab is missing or not an array of [token, score]");
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        scores = new double[vocab.GetArrayLength()];
        int next = 0;
        foreach (var entry in vocab.EnumerateArray())
        {
            if (entry.ValueKind != JsonValueKind.Array || entry.GetArrayLength() != 2 || entry[0].ValueKind != JsonValueKind.String
                || entry[1].ValueKind != JsonValueKind.Number || !entry[1].TryGetDouble(out scores[next]) || !double.IsFinite(scores[next]))
                throw Bad($"model.vocab[{next}] is {Show(entry)}, expected [token, score]");
            string token = entry[0].GetString()!;
            if (token.Length > UnigramModel.LongestEntry) throw Bad($"model.vocab[{next}] has {token.Length} characters; at most {UnigramModel.LongestEntry} are supported");
            ids[token] = next++;
        }
        return ids.Count > 0 ? ids : throw Bad("model.vocab is empty");
    }

    private static List<Merge> ReadMerges(JsonElement model, Dictionary<string, int> vocabulary, Action<string, string> each)
    {
        if (Get(model, "merges") is not { ValueKind: JsonValueKind.Array } merges) throw Bad("model.merges is missing or not an array");
        var result = new List<Merge>(merges.GetArrayLength());
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
            if (left.Length == 0 || right.Length == 0) throw Bad($"model.merges[{result.Count}] is {Show(merge)}, expected two tokens");
            if (!vocabulary.TryGetValue(left, out int l)) throw Bad($"model.merges[{result.Count}] names \"{left}\", which is not in the vocabulary");
            if (!vocabulary.TryGetValue(right, out int r)) throw Bad($"model.merges[{result.Count}] names \"{right}\", which is not in the vocabulary");
            if (!vocabulary.TryGetValue(left + right, out int merged)) throw Bad($"model.merges[{result.Count}] makes \"{left + right}\", which is not in the vocabulary");
            result.Add(new(l, r, merged, result.Count));
            each(left, right);
        }
        return result;
    }

    private static List<AddedToken> ReadAdded(JsonElement root)
    {
        var result = new List<AddedToken>();
        if (Get(root, "added_tokens") is not { } list) return result;
        if (list.ValueKind != JsonValueKind.Array) throw Bad($"added_tokens is {Kind(list)}, expected an array");
        foreach (var token in list.EnumerateArray())
        {
            if (token.ValueKind != JsonValueKind.Object || Text(token, "content") is not { } content)
                throw Bad($"added_tokens[{result.Count}] is {Show(token)}, expected an object with id and content");
            int id = Id(Get(token, "id"), $"added token \"{content}\"");
            bool special = Flag(token, "special");
            bool normalized = Get(token, "normalized") is null ? !special : Flag(token, "normalized");
            result.Add(new(id, content, special, Flag(token, "single_word"), Flag(token, "lstrip"), Flag(token, "rstrip"), normalized));
        }
        return result;
    }

    private static (int[] Prefix, int[] Suffix) ReadPostProcessor(JsonElement root, Dictionary<string, int> known)
    {
        List<int> prefix = [], suffix = [];
        bool found = false;
        foreach (var step in Steps(root, "post_processor", "processors"))
        {
            string type = Text(step, "type") ?? "none";
            if (type == "ByteLevel") continue; // only moves offsets
            if (type != "TemplateProcessing") throw Bad($"post_processor \"{type}\" is not supported; TemplateProcessing or ByteLevel is");
            if (Get(step, "single") is not { ValueKind: JsonValueKind.Array } single) throw Bad("post_processor.single is missing or not an array");
            if (found) throw Bad("post_processor has two TemplateProcessing steps, which is not supported");
            found = true;
            var side = prefix;
            foreach (var part in single.EnumerateArray())
            {
                if (side == prefix && Get(part, "Sequence") is not null) side = suffix;
                else if (Get(part, "SpecialToken") is { } special && Text(special, "id") is { } name && Template(step, name, known) is { Count: > 0 } ids) side.AddRange(ids);
                else throw Bad($"post_processor.single holds {Show(part)}, expected Sequence or a SpecialToken of the vocabulary");
            }
        }
        return (prefix.ToArray(), suffix.ToArray());
    }

    /// <summary>The ids that a name in a template stands for: the template's own list, else the vocabulary's.</summary>
    private static List<int> Template(JsonElement step, string name, Dictionary<string, int> known)
    {
        if (Get(step, "special_tokens") is not { } list || Get(list, name) is not { } token) return known.TryGetValue(name, out int id) ? [id] : [];
        if (Get(token, "ids") is not { ValueKind: JsonValueKind.Array } ids) throw Bad($"post_processor.special_tokens: \"{name}\" has no array of ids");
        return ids.EnumerateArray().Select(i => Id(i, $"post_processor.special_tokens: \"{name}\"")).ToList();
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
