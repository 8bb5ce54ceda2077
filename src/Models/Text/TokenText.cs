using System.Text;
using System.Text.Json;

namespace FlashOrleans.Models.Text;

/// <summary>Where in a text a decoder is: what it still takes off the beginning. As new at the beginning of every text.</summary>
internal struct TextPosition
{
    public bool Begun;
    public int Stripped;
}

/// <summary>
/// Tokens back to bytes. Every known decoder gives a token the same bytes wherever it stands, but for the beginning of a text, where a space that encoding put
/// there is taken off again; so text can be given out token by token. Immutable; any thread.
/// </summary>
internal sealed class TokenText
{
    private readonly byte[]?[] _bytes;
    // What the first token of a text gives, where that differs.
    private readonly Dictionary<int, byte[]> _first = [];
    private readonly byte _strip;
    private readonly int _stripCount;

    /// <summary>How the entries of a vocabulary are read.</summary>
    internal sealed record Rules
    {
        public bool ByteLevel { get; set; }
        public bool ByteFallback { get; set; }
        public List<(string From, string To)> Replace { get; } = [];
        /// <summary>This character at the beginning of a text, at most so many times, is not part of it.</summary>
        public char Strip { get; set; }
        public int StripCount { get; set; }
        /// <summary>Of the first token this character is left out.</summary>
        public char FirstWithout { get; set; }
    }

    /// <param name="entries">Every id and its entry; of two for the same id the later counts.</param>
    /// <param name="size">Highest id plus one.</param>
    /// <param name="rules">How entries are read.</param>
    /// <param name="literal">Ids whose entry is their text as it stands.</param>
    public TokenText(IEnumerable<(int Id, string Entry)> entries, int size, Rules rules, IReadOnlySet<int>? literal = null)
    {
        _bytes = new byte[size][];
        (_strip, _stripCount) = ((byte)rules.Strip, rules.StripCount);
        foreach (var (id, entry) in entries)
        {
            if (literal?.Contains(id) == true)
            {
                _bytes[id] = Encoding.UTF8.GetBytes(entry);
                continue;
            }
            _bytes[id] = Read(entry, rules);
            if (rules.FirstWithout == 0) continue;
            _first.Remove(id);
            if (entry.Contains(rules.FirstWithout, StringComparison.Ordinal)) _first[id] = Read(entry.Replace(rules.FirstWithout.ToString(), "", StringComparison.Ordinal), rules);
        }
    }

    public int Size => _bytes.Length;

    /// <summary>What a token adds to the text at this position.</summary>
    public ReadOnlySpan<byte> Next(int id, ref TextPosition position)
    {
        if ((uint)id >= (uint)_bytes.Length || _bytes[id] is not { } bytes) return default;
        if (!position.Begun && _first.TryGetValue(id, out byte[]? first)) bytes = first;
        position.Begun = true;
        var span = bytes.AsSpan();
        while (position.Stripped < _stripCount && span.Length > 0)
        {
            if (span[0] != _strip) { position.Stripped = _stripCount; break; }
            span = span[1..];
            position.Stripped++;
        }
        return span;
    }

    private static byte[] Read(string entry, Rules rules)
    {
        foreach (var (from, to) in rules.Replace) entry = entry.Replace(from, to, StringComparison.Ordinal);
        if (rules.ByteFallback && PieceModel.ByteValue(entry) is >= 0 and var value) return [(byte)value];
        return rules.ByteLevel ? ByteAlphabet.Read(entry) : Encoding.UTF8.GetBytes(entry);
    }

    /// <summary>The decoder of a tokenizer.json. Absent: entries are their own text.</summary>
    public static Rules ReadRules(IEnumerable<JsonElement> steps)
    {
        var rules = new Rules();
        bool fused = false;
        foreach (var step in steps)
        {
            string type = TokenizerFile.Text(step, "type") ?? "none";
            if (fused && type is not ("Strip" or "Fuse")) throw TokenizerFile.Bad($"decoder \"{type}\" after Fuse is not supported");
            switch (type)
            {
                case "ByteLevel" when !rules.ByteFallback:
                    rules.ByteLevel = true;
                    break;
                case "ByteFallback" when !rules.ByteLevel:
                    rules.ByteFallback = true;
                    break;
                case "Replace" when !rules.ByteLevel && !rules.ByteFallback && TokenizerFile.Get(step, "pattern") is { } pattern
                    && TokenizerFile.Text(pattern, "String") is { Length: > 0 } from && TokenizerFile.Text(step, "content") is { } to:
                    rules.Replace.Add((from, to));
                    break;
                case "Metaspace" when !rules.ByteLevel && !rules.ByteFallback && rules.Replace.Count == 0:
                    string replacement = TokenizerFile.Text(step, "replacement") ?? Metaspace.Text;
                    if (replacement.Length != 1) throw TokenizerFile.Bad("decoder Metaspace has a replacement that is not one character");
                    rules.Replace.Add((replacement, " "));
                    bool never = TokenizerFile.Text(step, "prepend_scheme") is { } scheme
                        ? scheme == "never"
                        : TokenizerFile.Get(step, "add_prefix_space") is not null && !TokenizerFile.Flag(step, "add_prefix_space");
                    if (!never) rules.FirstWithout = replacement[0];
                    break;
                case "Fuse":
                    fused = true;
                    break;
                case "Strip" when fused && rules.StripCount == 0 && Count(step, "stop") == 0:
                    string content = TokenizerFile.Text(step, "content") ?? " ";
                    if (content.Length != 1 || !char.IsAscii(content[0])) throw TokenizerFile.Bad("decoder Strip has a content that is not one ASCII character");
                    (rules.Strip, rules.StripCount) = (content[0], Count(step, "start"));
                    break;
                case "ByteLevel" or "ByteFallback" or "Replace" or "Metaspace" or "Strip":
                    throw TokenizerFile.Bad($"decoder \"{type}\" is not supported with these values or in this order; ByteLevel alone, Metaspace alone, and Replace (String), ByteFallback, Fuse, Strip (start) are");
                default:
                    throw TokenizerFile.Bad($"decoder \"{type}\" is not supported; ByteLevel, Metaspace, Replace, ByteFallback, Fuse and Strip are");
            }
        }
        return rules;
    }

    private static int Count(JsonElement step, string name) => TokenizerFile.Get(step, name) is not { } value ? 0
        : value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int count) && count >= 0 ? count : throw TokenizerFile.Bad($"decoder Strip has a \"{name}\" that is no count");
}
