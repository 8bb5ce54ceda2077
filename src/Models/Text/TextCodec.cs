using System.Buffers;
using System.Collections.Concurrent;
using System.Collections.Frozen;
using System.Text;

namespace FlashOrleans.Models.Text;

/// <summary>
/// A model's text side: text to token ids and back, which tokens end an answer, and the chat template. Made from the side files of a package
/// or checkpoint (<c>tokenizer.json</c>, <c>tokenizer_config.json</c>, <c>generation_config.json</c>); gives the ids that Hugging Face's tokenizers give for
/// byte-level BPE (docs/adr/0006-tokenizer.md). Immutable but for a bounded cache of pieces; any thread. A file that is malformed or of
/// another kind is one <see cref="ModelFormatException"/> that names it.
/// </summary>
public sealed class TextCodec
{
    // Words repeat: the cache makes encoding of prose several times as fast. It is emptied when full, so a hostile text costs speed only.
    private const int CachedPieces = 8192;
    private const int CachedPieceLength = 48;

    private readonly TokenizerFile _file;
    private readonly PreTokenizer _pre;
    private readonly BytePairMerger _merger;
    private readonly AddedTokens _added;
    private readonly byte[]?[] _bytes;
    private readonly FrozenSet<int> _special;
    private readonly ConcurrentDictionary<string, int[]> _cache = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, int[]>.AlternateLookup<ReadOnlySpan<char>> _cached;

    public TextCodec(byte[] tokenizer, byte[]? tokenizerConfig = null, byte[]? generationConfig = null)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        _file = TokenizerFile.Parse(tokenizer);
        _pre = new(_file.PreTokenizers);
        if (_pre.ByteLevel != _file.ByteLevelDecoder)
            throw TokenizerFile.Bad($"the pre-tokenizer is {(_pre.ByteLevel ? "" : "not ")}ByteLevel and the decoder is{(_file.ByteLevelDecoder ? "" : " not")}; both or none must be");
        _merger = new(_file);
        _added = new(_file.Added);
        _cached = _cache.GetAlternateLookup<ReadOnlySpan<char>>();
        _special = _file.Added.Where(static t => t.Special).Select(static t => t.Id).ToFrozenSet();
        _bytes = new byte[_file.Size][];
        foreach (var (entry, id) in _file.Vocabulary) _bytes[id] = BytesOf(entry);
        foreach (var token in _file.Added) _bytes[token.Id] = BytesOf(token.Content);

        var config = SideFile.Parse("tokenizer_config.json", tokenizerConfig);
        var stops = SideFile.EndTokens("generation_config.json", generationConfig).ToHashSet();
        if (SideFile.Token(config, "eos_token") is { } eos && TokenId(eos) is { } end) stops.Add(end);
        string? template = SideFile.Template(config);
        ChatTemplate = ChatTemplate.Detect(this, template);
        TemplateUnknown = template is not null && ChatTemplate is null;
        if (ChatTemplate is { } chat) stops.Add(chat.EndMarker);
        StopTokens = stops.ToFrozenSet();
    }

    /// <summary>Reads the side files of a checkpoint folder; null when it has no tokenizer.json (then only token ids can be used).</summary>
    public static TextCodec? FromFolder(string folder)
    {
        byte[]? Read(string name) => Path.Combine(folder, name) is var path && File.Exists(path) ? File.ReadAllBytes(path) : null;
        return FromFiles(Read);
    }

    /// <summary>From whatever holds the side files by name (a package: <c>codec = TextCodec.FromFiles(package.SideFile)</c>); null without a tokenizer.json.</summary>
    public static TextCodec? FromFiles(Func<string, byte[]?> file)
    {
        ArgumentNullException.ThrowIfNull(file);
        return file(TokenizerFile.Name) is { } tokenizer
            ? new(tokenizer, file("tokenizer_config.json"), file("generation_config.json"))
            : null;
    }

    /// <summary>Highest id plus one. The model's own table may be larger (padding); such ids have no text.</summary>
    public int VocabSize => _file.Size;

    /// <summary>Tokens after which an answer is over.</summary>
    public IReadOnlySet<int> StopTokens { get; }

    /// <summary>How messages become a prompt; null when the model has no template or one this code does not know: complete plain text then.</summary>
    public ChatTemplate? ChatTemplate { get; }

    /// <summary>The model brings a template, but not one that <see cref="ChatTemplate"/> knows: say so rather than complete plain text in silence.</summary>
    public bool TemplateUnknown { get; }

    /// <summary>
    /// The ids of a text. With <paramref name="parseSpecial"/> the names of special tokens in it become those tokens; without, they are plain text: always so
    /// for what a user wrote. <paramref name="addSpecial"/> puts around it what the tokenizer's post-processor adds (a begin-of-text token).
    /// </summary>
    public int[] Encode(string text, bool parseSpecial, bool addSpecial = false)
    {
        FlashOrleans.Flash.ThreadRole.AssertNotGrainTurn("tokenizing");
        ArgumentNullException.ThrowIfNull(text);
        var ids = new List<int>(text.Length / 3 + 8);
        if (addSpecial) ids.AddRange(_file.Prefix);
        EncodeInto(text, parseSpecial, ids);
        if (addSpecial) ids.AddRange(_file.Suffix);
        return ids.ToArray();
    }

    /// <summary>
    /// The text of ids. Bytes that are no UTF-8 become U+FFFD, one per maximal ill-formed part. Special tokens are left out with
    /// <paramref name="skipSpecial"/>; an id without an entry (padding of the model's table) has no text.
    /// </summary>
    public string Decode(ReadOnlySpan<int> ids, bool skipSpecial)
    {
        var bytes = new ArrayBufferWriter<byte>(Math.Max(ids.Length * 4, 16));
        foreach (int id in ids) bytes.Write(Bytes(id, skipSpecial));
        return Encoding.UTF8.GetString(bytes.WrittenSpan);
    }

    /// <summary>Id of a token by its exact spelling in the vocabulary, or null.</summary>
    public int? TokenId(string token)
    {
        foreach (var added in _file.Added)
            if (added.Content == token) return added.Id;
        return _file.Vocabulary.TryGetValue(token, out int id) ? id : null;
    }

    public bool IsSpecial(int id) => _special.Contains(id);

    /// <summary>The bytes one token contributes to the text.</summary>
    internal ReadOnlySpan<byte> Bytes(int id, bool skipSpecial) =>
        (uint)id < (uint)_bytes.Length && !(skipSpecial && _special.Contains(id)) ? _bytes[id] : default(ReadOnlySpan<byte>);

    internal void EncodeInto(string text, bool parseSpecial, List<int> ids)
    {
        var pieces = new List<Range>();
        for (int at = 0; at < text.Length;)
        {
            var token = _added.Find(text, at, parseSpecial, out int start, out int end);
            if (start > at) EncodePlain(text.AsSpan(at, start - at), pieces, ids);
            if (token is not null) ids.Add(token.Id);
            at = end;
        }
    }

    private void EncodePlain(ReadOnlySpan<char> text, List<Range> pieces, List<int> ids)
    {
        if (_file.NormalizeNfc) text = Nfc.Normalize(text);
        if (_pre.AddPrefixSpace && text[0] != ' ') text = string.Concat(" ", text);
        pieces.Clear();
        _pre.SplitText(text, pieces);
        foreach (var range in pieces)
        {
            var piece = text[range];
            if (_cached.TryGetValue(piece, out int[]? known))
            {
                ids.AddRange(known);
                continue;
            }
            int before = ids.Count;
            EncodePiece(piece, ids);
            if (piece.Length > CachedPieceLength) continue;
            if (_cache.Count >= CachedPieces) _cache.Clear();
            _cached[piece] = ids.GetRange(before, ids.Count - before).ToArray();
        }
    }

    private void EncodePiece(ReadOnlySpan<char> piece, List<int> ids)
    {
        if (_pre.ByteLevel) piece = ByteAlphabet.Write(piece);
        if (!_pre.SplitsBytes)
        {
            _merger.Encode(piece, ids);
            return;
        }
        var parts = new List<Range>();
        _pre.SplitBytes(piece, parts);
        foreach (var part in parts) _merger.Encode(piece[part], ids);
    }

    private byte[] BytesOf(string entry) => _pre.ByteLevel ? ByteAlphabet.Read(entry) : Encoding.UTF8.GetBytes(entry);
}
