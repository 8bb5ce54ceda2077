using System.Buffers;
using System.Collections.Frozen;
using System.Runtime.InteropServices;
using System.Text;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Models.Templates;

namespace FlashOrleans.Models.Text;

/// <summary>
/// A model's text side: text to token ids and back, which tokens end an answer, and the chat template. Made from the side files of a package
/// or checkpoint (<c>tokenizer.json</c>, <c>tokenizer_config.json</c>, <c>generation_config.json</c>, <c>chat_template.jinja</c>) or from the vocabulary of a GGUF file
/// (<c>tokenizer.gguf.json</c>); gives the ids that Hugging Face's tokenizers and llama.cpp give (docs/adr/0006-tokenizer.md). Immutable but for a bounded cache of
/// pieces; any thread. A file that is malformed or of another kind is one <see cref="ModelFormatException"/> that names it.
/// </summary>
public sealed class TextCodec
{
    private readonly TokenizerSpec _spec;
    private readonly PreTokenizer _pre;
    private readonly AddedTokens _addedBefore;
    private readonly AddedTokens _addedAfter;
    private readonly FrozenSet<int> _special;
    private readonly PieceCache _cache = new();

    public TextCodec(byte[] tokenizer, byte[]? tokenizerConfig = null, byte[]? generationConfig = null, byte[]? chatTemplate = null)
        : this(TokenizerFile.Parse(tokenizer ?? throw new ArgumentNullException(nameof(tokenizer))))
    {
        var config = SideFile.Parse("tokenizer_config.json", tokenizerConfig);
        var stops = SideFile.EndTokens("generation_config.json", generationConfig).ToHashSet();
        if (SideFile.Token(config, "eos_token") is { } eos && TokenId(eos) is { } end) stops.Add(end);
        (ChatTemplate, TemplateNote, TemplateUnknown, StopTokens) = Chat(TemplateFile.Read(config, chatTemplate), stops);
    }

    /// <summary>From the vocabulary of a GGUF file, or of a package made from one.</summary>
    public TextCodec(VocabularySource source)
        : this(GgufVocabulary.Read(source ?? throw new ArgumentNullException(nameof(source)))) =>
        (ChatTemplate, TemplateNote, TemplateUnknown, StopTokens) = Chat(TemplateFile.Of(source), GgufVocabulary.StopTokens(source));

    private TextCodec(TokenizerSpec spec)
    {
        _spec = spec;
        _pre = spec.PreTokenizer;
        _addedBefore = new(spec.Added.Where(static t => !t.Normalized));
        _addedAfter = new(spec.Added.Where(static t => t.Normalized).Select(t => t with { Content = spec.Normalizer.Normalize(t.Content) }));
        _special = spec.Added.Where(static t => t.Special).Select(static t => t.Id).ToFrozenSet();
        StopTokens = FrozenSet<int>.Empty;
    }

    private (ChatTemplate?, string?, bool, IReadOnlySet<int>) Chat(TemplateFile template, HashSet<int> stops)
    {
        var chat = ChatTemplate.Create(this, template, out string? note);
        if (chat is { EndMarker: >= 0 }) stops.Add(chat.EndMarker);
        return (chat, note, template.Default is not null && chat is null, stops.ToFrozenSet());
    }

    /// <summary>Reads the side files of a checkpoint folder; null when it has no tokenizer.json (then only token ids can be used).</summary>
    public static TextCodec? FromFolder(string folder)
    {
        byte[]? Read(string name) => Path.Combine(folder, name) is var path && File.Exists(path) ? File.ReadAllBytes(path) : null;
        return FromFiles(Read);
    }

    /// <summary>From the metadata of a GGUF file, which may hold nothing but a vocabulary; null without one.</summary>
    public static TextCodec? FromGguf(string path)
    {
        using GgufFile file = GgufFile.Open(path);
        return GgufConfig.Vocabulary(file.Metadata) is { } source ? new(source) : null;
    }

    /// <summary>From whatever holds the side files by name (a package: <c>codec = TextCodec.FromFiles(package.SideFile)</c>); null without a tokenizer among them.</summary>
    public static TextCodec? FromFiles(Func<string, byte[]?> file)
    {
        ArgumentNullException.ThrowIfNull(file);
        if (file(TokenizerFile.Name) is { } tokenizer) return new(tokenizer, file("tokenizer_config.json"), file("generation_config.json"), file(TemplateFile.JinjaName));
        return file(VocabularySource.FileName) is { } vocabulary ? new(VocabularySource.Parse(vocabulary)) : null;
    }

    /// <summary>The names of the files that hold a tokenizer: a model with none of them takes token ids only.</summary>
    public static IReadOnlyList<string> FileNames { get; } = [TokenizerFile.Name, VocabularySource.FileName];

    /// <summary>Highest id plus one. The model's own table may be larger (padding); such ids have no text.</summary>
    public int VocabSize => _spec.Text.Size;

    /// <summary>Tokens after which an answer is over.</summary>
    public IReadOnlySet<int> StopTokens { get; }

    /// <summary>How messages become a prompt; null when the model has no template or none that can be used here: complete plain text then.</summary>
    public ChatTemplate? ChatTemplate { get; }

    /// <summary>The model brings a template, but not one that can be used: say so rather than complete plain text in silence.</summary>
    public bool TemplateUnknown { get; }

    /// <summary>One line for the user when the model's template cannot be parsed: why, and what is used instead. Else null.</summary>
    public string? TemplateNote { get; }

    /// <summary>
    /// The ids of a text. With <paramref name="parseSpecial"/> the names of special tokens in it become those tokens; without, they are plain text: always so
    /// for what a user wrote. <paramref name="addSpecial"/> puts around it what the tokenizer's post-processor adds (a begin-of-text token).
    /// </summary>
    public int[] Encode(string text, bool parseSpecial, bool addSpecial = false)
    {
        FlashOrleans.Flash.ThreadRole.AssertNotGrainTurn("tokenizing");
        ArgumentNullException.ThrowIfNull(text);
        var ids = new List<int>(text.Length / 3 + 8);
        if (addSpecial) ids.AddRange(_spec.Prefix);
        EncodeInto(text, parseSpecial, ids);
        if (addSpecial) ids.AddRange(_spec.Suffix);
        return ids.ToArray();
    }

    /// <summary>The ids of a rendered conversation: special tokens only where the template itself wrote all of their name.</summary>
    internal int[] Encode(TextValue rendered)
    {
        var ids = new List<int>(rendered.Chars.Length / 3 + 8);
        EncodeInto(rendered.Chars, parseSpecial: true, ids, rendered);
        return ids.ToArray();
    }

    /// <summary>
    /// The text of ids. Bytes that are no UTF-8 become U+FFFD, one per maximal ill-formed part. Special tokens are left out with
    /// <paramref name="skipSpecial"/>; an id without an entry (padding of the model's table) has no text.
    /// </summary>
    public string Decode(ReadOnlySpan<int> ids, bool skipSpecial)
    {
        var bytes = new ArrayBufferWriter<byte>(Math.Max(ids.Length * 4, 16));
        var position = new TextPosition();
        foreach (int id in ids) bytes.Write(Bytes(id, skipSpecial, ref position));
        return Encoding.UTF8.GetString(bytes.WrittenSpan);
    }

    /// <summary>Id of a token by its exact spelling in the vocabulary, or null.</summary>
    public int? TokenId(string token)
    {
        foreach (var added in _spec.Added)
            if (added.Content == token) return added.Id;
        return _spec.Vocabulary.TryGetValue(token, out int id) ? id : null;
    }

    /// <summary>The bytes of a token in the middle of a text, special tokens by their names; half a character is possible.</summary>
    public byte[] TokenBytes(int id)
    {
        var position = new TextPosition { Begun = true, Stripped = int.MaxValue };
        return Bytes(id, skipSpecial: false, ref position).ToArray();
    }

    public bool IsSpecial(int id) => _special.Contains(id);

    /// <summary>The bytes one token contributes to the text at this position of it.</summary>
    internal ReadOnlySpan<byte> Bytes(int id, bool skipSpecial, ref TextPosition position) =>
        skipSpecial && _special.Contains(id) ? default : _spec.Text.Next(id, ref position);

    private void EncodeInto(string text, bool parseSpecial, List<int> ids, TextValue? rendered = null)
    {
        text = Valid(text);
        var pieces = new List<Range>();
        for (int at = 0; at < text.Length;)
        {
            var token = _addedBefore.Find(text, at, parseSpecial, out int start, out int end, rendered);
            // What is normalised has no place in the rendered text any more: where a message had a part in it, names of special tokens are text.
            if (start > at) EncodeNormalized(_spec.Normalizer.Normalize(text[at..start]), at == 0, parseSpecial && rendered?.IsTemplate(at, start - at) != false);
            if (token is not null) ids.Add(token.Id);
            at = end;
        }

        void EncodeNormalized(string part, bool first, bool special)
        {
            if (!_addedAfter.Any) { EncodePlain(part, first, pieces, ids); return; }
            for (int at = 0; at < part.Length;)
            {
                var token = _addedAfter.Find(part, at, special, out int start, out int end);
                if (start > at) EncodePlain(part[at..start], first && at == 0, pieces, ids);
                if (token is not null) ids.Add(token.Id);
                at = end;
            }
        }
    }

    private void EncodePlain(string part, bool first, List<Range> pieces, List<int> ids)
    {
        if (part.Length == 0) return;
        var text = _pre.Prepare(part, first).AsSpan();
        pieces.Clear();
        _pre.SplitText(text, pieces);
        foreach (var range in pieces)
        {
            var piece = text[range];
            if (_pre.ByteLevel || piece.Length <= PieceCache.LongestPiece)
            {
                EncodeCached(piece, ids);
                continue;
            }
            for (int at = 0; at < piece.Length;)
            {
                int end = _spec.Model.Cut(piece, at);
                EncodeCached(piece[at..end], ids);
                at = end;
            }
        }
    }

    private void EncodeCached(ReadOnlySpan<char> piece, List<int> ids)
    {
        if (piece.Length > PieceCache.LongestPiece)
        {
            EncodePiece(piece, ids);
            return;
        }
        if (_cache.TryGet(piece, out int[]? known))
        {
            ids.AddRange((ReadOnlySpan<int>)known);
            return;
        }
        int before = ids.Count;
        EncodePiece(piece, ids);
        _cache.Add(piece, CollectionsMarshal.AsSpan(ids)[before..]);
    }

    private void EncodePiece(ReadOnlySpan<char> piece, List<int> ids)
    {
        if (_pre.ByteLevel) piece = ByteAlphabet.Write(piece);
        if (!_pre.SplitsBytes)
        {
            _spec.Model.Encode(piece, ids);
            return;
        }
        var parts = new List<Range>();
        _pre.SplitBytes(piece, parts);
        foreach (var part in parts) _spec.Model.Encode(piece[part], ids);
    }

    /// <summary>Half a surrogate pair is no character: U+FFFD in its place.</summary>
    private static string Valid(string text)
    {
        int at = text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF');
        for (; at >= 0 && at < text.Length; at++)
        {
            if (!char.IsSurrogate(text[at])) continue;
            if (!char.IsSurrogatePair(text, at)) return Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text));
            at++;
        }
        return text;
    }
}
