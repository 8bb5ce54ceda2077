namespace FlashOrleans.Models.Text;

/// <summary>
/// The vocabulary of a GGUF file made usable, and checked: <c>llama</c> is SentencePiece BPE, whose merges follow from the scores; <c>gpt2</c> is byte-level BPE with
/// merges of its own and a pre-tokeniser known by name. Other kinds are refused by name. The metadata's defaults are llama.cpp's.
/// </summary>
internal static class GgufVocabulary
{
    private const int Normal = 1, UnknownType = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6;
    // SentencePiece's longest is 16 unless asked for more; every place where an entry could be cut in two is looked up.
    private const int LongestEntry = 256;

    // Tokens that end an answer whatever the metadata say; converters often give one of several only.
    private static readonly HashSet<string> s_ends = new(StringComparer.Ordinal)
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "<|end_of_text|>", "<end_of_utterance>",
    };

    public static ModelFormatException Bad(string what) => new("tokenizer.ggml", what);

    public static TokenizerSpec Read(VocabularySource source)
    {
        int count = source.Tokens.Count;
        if (count == 0) throw Bad("there are no tokens");
        if (source.TokenTypes.Count > 0 && source.TokenTypes.Count != count) throw Bad($"{count} tokens have {source.TokenTypes.Count} types");
        int[] types = Types(source);
        for (int id = 0; id < count; id++)
            if (types[id] is < Normal or > Byte) throw Bad($"token {id} has type {types[id]}; 1 to 6 are known");
        foreach (var (name, id) in (ReadOnlySpan<(string, int?)>)[("bos", source.Bos), ("eos", source.Eos), ("eot", source.Eot), ("unknown", source.Unknown), ("padding", source.Padding)])
            if (id is { } value && (uint)value >= (uint)count) throw Bad($"{name}_token_id is {value}, there are {count} tokens");
        return source.Model switch
        {
            "llama" => ReadSentencePiece(source, types),
            "gpt2" => ReadByteLevel(source, types),
            _ => throw Bad($"model \"{source.Model}\" is not supported; llama (SentencePiece BPE) and gpt2 (byte-level BPE) are"),
        };
    }

    public static HashSet<int> StopTokens(VocabularySource source)
    {
        var stops = new HashSet<int>();
        if (source.Eos is { } eos) stops.Add(eos);
        if (source.Eot is { } eot) stops.Add(eot);
        if (source is { Eos: null, Model: "llama", Tokens.Count: > 2 }) stops.Add(2);
        // Harmony: <|end|> ends a part of an answer there.
        bool parts = source.Tokens.Contains("<|return|>") && source.Tokens.Contains("<|call|>");
        for (int id = 0; id < source.Tokens.Count; id++)
            if (s_ends.Contains(source.Tokens[id]) && !(parts && source.Tokens[id] == "<|end|>")) stops.Add(id);
        return stops;
    }

    private static TokenizerSpec ReadByteLevel(VocabularySource source, int[] types)
    {
        string pre = source.Pre ?? "default";
        var known = GgufPreTokenizers.Find(pre);
        if (known is null && pre != "falcon") throw Bad($"pre-tokenizer \"{pre}\" is not supported; {GgufPreTokenizers.Names} are");
        var vocabulary = new Dictionary<string, int>(StringComparer.Ordinal);
        for (int id = 0; id < types.Length; id++)
            if (source.Tokens[id].Length > 0) vocabulary.TryAdd(source.Tokens[id], id);

        var merges = new List<Merge>(source.Merges.Count);
        if (source.Merges.Count == 0) throw Bad("there are no merges, which model \"gpt2\" needs");
        foreach (string merge in source.Merges)
        {
            // A part may begin with the space itself in vocabularies that do not use the byte alphabet.
            int space = merge.Length > 2 ? merge.IndexOf(' ', 1) : -1;
            if (space < 0 || space == merge.Length - 1) throw Bad($"merges[{merges.Count}] is \"{merge}\", expected two tokens");
            string left = merge[..space], right = merge[(space + 1)..];
            if (!vocabulary.TryGetValue(left, out int l)) throw Bad($"merges[{merges.Count}] names \"{left}\", which is no token");
            if (!vocabulary.TryGetValue(right, out int r)) throw Bad($"merges[{merges.Count}] names \"{right}\", which is no token");
            if (!vocabulary.TryGetValue(left + right, out int merged)) throw Bad($"merges[{merges.Count}] makes \"{left + right}\", which is no token");
            merges.Add(new(l, r, merged, merges.Count));
        }
        var added = Added(source, types, static token => token);
        return new()
        {
            Vocabulary = vocabulary,
            Added = added,
            Normalizer = new(known?.Nfc ?? false),
            PreTokenizer = known is null ? GgufPreTokenizers.Falcon() : new(known.Patterns),
            Model = new BytePairMerger(vocabulary, merges, default, known?.IgnoreMerges ?? false),
            Text = new(Entries(source), types.Length, new() { ByteLevel = true }, added.Select(static t => t.Id).ToHashSet()),
            Prefix = source.AddBos ?? known?.AddBos ?? false ? [source.Bos ?? throw Bad("a begin token is to be added, but bos_token_id is missing")] : [],
            Suffix = source.AddEos ?? false ? [source.Eos ?? throw Bad("an end token is to be added, but eos_token_id is missing")] : [],
        };
    }

    private static TokenizerSpec ReadSentencePiece(VocabularySource source, int[] types)
    {
        int count = types.Length;
        if (source.Scores.Count != count) throw Bad($"{count} tokens have {source.Scores.Count} scores, which model \"llama\" merges by");
        var vocabulary = new Dictionary<string, int>(StringComparer.Ordinal);
        int[] bytes = new int[256];
        Array.Fill(bytes, -1);
        for (int id = 0; id < count; id++)
        {
            string token = source.Tokens[id];
            if (!float.IsFinite(source.Scores[id])) throw Bad($"token {id} has the score {source.Scores[id]}");
            if (types[id] == Byte)
            {
                int value = PieceModel.ByteValue(token);
                if (value < 0) throw Bad($"token {id} is a byte and is called \"{token}\", expected <0x00> to <0xFF>");
                bytes[value] = id;
            }
            else if (types[id] == Normal && token.Length > 0)
            {
                if (token.Length > LongestEntry) throw Bad($"token {id} has {token.Length} characters; at most {LongestEntry} can be merged");
                vocabulary.TryAdd(token, id);
            }
        }
        int unknown = source.Unknown ?? 0, bos = source.Bos ?? 1, eos = source.Eos ?? 2;
        bool addBos = source.AddBos ?? true, addEos = source.AddEos ?? false, space = source.AddSpacePrefix ?? true;
        if ((addBos && bos >= count) || (addEos && eos >= count)) throw Bad($"a begin or end token is to be added that is not among the {count} tokens");

        var rest = new UnknownCharacters(unknown, fuse: true, bytes);
        var merges = ScoredMerges(source, vocabulary, out var symbols, out var extra, out var joints);
        var rules = new TokenText.Rules { ByteFallback = true, Strip = ' ', StripCount = space ? 1 : 0 };
        rules.Replace.Add((Metaspace.Text, " "));
        var literal = Enumerable.Range(0, count).Where(id => types[id] is Control or UnknownType).ToHashSet();
        // User-defined tokens are looked for in the text as it is written.
        var added = Added(source, types, static token => token.Replace(Metaspace.Char, ' '));
        return new()
        {
            Vocabulary = vocabulary,
            Added = added,
            Normalizer = Normalizer.SentencePiece(space),
            PreTokenizer = PreTokenizer.None,
            Model = new BytePairMerger(symbols, merges, rest, joints: joints, size: count, extra: extra),
            Text = new(Entries(source), count, rules, literal),
            Prefix = addBos ? [bos] : [],
            Suffix = addEos ? [eos] : [],
        };
    }

    /// <summary>
    /// SentencePiece joins the two neighbours whose joint text is the entry with the highest score. So every entry gives a merge for each place where it can be
    /// cut into what can stand there before: entries, and single characters even if they are none (those get ids beyond the vocabulary).
    /// </summary>
    private static List<Merge> ScoredMerges(VocabularySource source, Dictionary<string, int> vocabulary, out Dictionary<string, int> symbols, out string[] extra, out HashSet<int> joints)
    {
        float[] scores = vocabulary.Values.Select(id => source.Scores[id] + 0f).Distinct().OrderDescending().ToArray();
        var ranks = new Dictionary<float, int>();
        foreach (float score in scores) ranks[score] = ranks.Count;

        symbols = new(vocabulary, StringComparer.Ordinal);
        var ids = symbols.GetAlternateLookup<ReadOnlySpan<char>>();
        var beyond = new List<string>();
        joints = [];
        var merges = new List<Merge>(vocabulary.Count * 3);
        foreach (var (token, id) in vocabulary)
        {
            int rank = ranks[source.Scores[id] + 0f];
            for (int cut = 1; cut < token.Length; cut++)
            {
                if (char.IsLowSurrogate(token[cut])) continue;
                if (Part(token.AsSpan(0, cut)) is not { } left || Part(token.AsSpan(cut)) is not { } right) continue;
                merges.Add(new(left, right, id, rank));
                joints.Add(BytePairMerger.Joint(token[cut - 1], token[cut]));
            }
        }
        extra = beyond.ToArray();
        return merges;

        int? Part(ReadOnlySpan<char> text)
        {
            if (ids.TryGetValue(text, out int id)) return id;
            if (text.Length > 2 || (text.Length == 2 && !char.IsHighSurrogate(text[0]))) return null;
            beyond.Add(text.ToString());
            ids[text] = source.Tokens.Count + beyond.Count - 1;
            return ids[text];
        }
    }

    private static List<AddedToken> Added(VocabularySource source, int[] types, Func<string, string> written)
    {
        string name = source.Name ?? "";
        bool phi3 = name.Contains("phi-3", StringComparison.OrdinalIgnoreCase) || name.Contains("phi3", StringComparison.OrdinalIgnoreCase);
        var added = new List<AddedToken>();
        for (int id = 0; id < types.Length; id++)
        {
            string token = source.Tokens[id];
            if (token.Length == 0 || types[id] is not (UnknownType or Control or UserDefined)) continue;
            bool strips = phi3 && token is not ("<unk>" or "<s>" or "<|endoftext|>");
            added.Add(new(id, types[id] == UserDefined ? written(token) : token, types[id] != UserDefined, RightStrip: strips));
        }
        return added;
    }

    private static IEnumerable<(int, string)> Entries(VocabularySource source) => source.Tokens.Select(static (token, id) => (id, token));

    /// <summary>The types; where a file says none, what the names tell. A token that ends an answer is no text, whatever its type says.</summary>
    private static int[] Types(VocabularySource source)
    {
        int[] types = new int[source.Tokens.Count];
        for (int id = 0; id < types.Length; id++)
        {
            string token = source.Tokens[id];
            types[id] = source.TokenTypes.Count > 0 ? source.TokenTypes[id]
                : source.Model != "llama" ? Normal
                : PieceModel.ByteValue(token) >= 0 ? Byte
                : token switch { "<unk>" => UnknownType, "<s>" or "</s>" => Control, _ => Normal };
            if (s_ends.Contains(token) && types[id] == Normal) types[id] = Control;
        }
        return types;
    }
}
