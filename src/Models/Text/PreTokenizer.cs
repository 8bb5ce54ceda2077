using System.Text.Json;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Text;

/// <summary>
/// Cuts text into the pieces within which a model's tokens are found. Every known pre-tokeniser is a pattern and what becomes of its matches; what
/// comes before ByteLevel sees the text, what comes after sees it in <see cref="ByteAlphabet"/>. Immutable; any thread. A pattern that cannot
/// be used, or that runs for half a minute on one text, is a <see cref="ModelFormatException"/>.
/// </summary>
internal sealed partial class PreTokenizer
{
    public const string Gpt2Pattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    private readonly List<Stage> _onText = [];
    private readonly List<Stage> _onBytes = [];
    private readonly CodePointUnits _units = new();
    private char _replacement;
    private Prefix _prefix;

    private enum Behavior { Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous }

    private enum Prefix { Never, First, Always }

    private sealed record Stage(UnicodePattern Pattern, Behavior Behavior, bool Invert = false);

    public PreTokenizer(List<JsonElement> steps)
    {
        foreach (var step in steps) Read(step);
    }

    /// <summary>Byte-level, with patterns that each isolate their matches in what the one before left.</summary>
    public PreTokenizer(ReadOnlySpan<string> patterns)
    {
        foreach (string pattern in patterns) _onText.Add(pattern == Gpt2Pattern ? GptStage() : new(new(pattern, _units), Behavior.Isolated));
        ByteLevel = true;
    }

    /// <summary>Whole texts are pieces.</summary>
    public static PreTokenizer None { get; } = new(new List<JsonElement>());

    private void Read(JsonElement step)
    {
        string type = Text(step, "type") ?? "none";
        var stages = ByteLevel ? _onBytes : _onText;
        switch (type)
        {
            case "ByteLevel" when !ByteLevel:
                // Absent means true in files of before 2022.
                bool regex = TokenizerFile.Get(step, "use_regex") is null || TokenizerFile.Flag(step, "use_regex");
                AddPrefixSpace = TokenizerFile.Flag(step, "add_prefix_space");
                if (AddPrefixSpace && _onText.Count > 0) throw TokenizerFile.Bad("add_prefix_space after another pre-tokenizer is not supported");
                if (regex) _onText.Add(GptStage());
                ByteLevel = true;
                break;
            case "Split":
                stages.Add(new(new(SplitPattern(step), _units), How(step, "Isolated"), TokenizerFile.Flag(step, "invert")));
                break;
            case "Punctuation":
                stages.Add(new(new(@"[\p{P}$+<=>^`|~]", _units), How(step, "Isolated")));
                break;
            case "Digits":
                stages.Add(new(new(@"\p{N}", _units), TokenizerFile.Flag(step, "individual_digits") ? Behavior.Isolated : Behavior.Contiguous));
                break;
            case "WhitespaceSplit":
                stages.Add(new(new(@"\s", _units), Behavior.Removed));
                break;
            case "Metaspace":
                if (ByteLevel || _onText.Count > 0) throw TokenizerFile.Bad("pre_tokenizer Metaspace after another one is not supported");
                ReadMetaspace(step);
                break;
            default:
                throw TokenizerFile.Bad($"pre_tokenizer \"{type}\" is not supported; ByteLevel, Metaspace, Split, Punctuation, Digits and WhitespaceSplit are");
        }
    }

    /// <summary>Pieces must be written in <see cref="ByteAlphabet"/> before <see cref="SplitBytes"/> and the vocabulary.</summary>
    public bool ByteLevel { get; private set; }

    /// <summary>A text that does not start with a space gets one.</summary>
    public bool AddPrefixSpace { get; private set; }

    public bool SplitsBytes => _onBytes.Count > 0;

    /// <summary>The text as the patterns want it: with the prefix and the written space that some pre-tokenisers put into it.</summary>
    public string Prepare(string text, bool first)
    {
        if (AddPrefixSpace && text[0] != ' ') text = " " + text;
        if (_replacement == 0) return text;
        text = text.Replace(' ', _replacement);
        return text[0] != _replacement && (_prefix == Prefix.Always || (_prefix == Prefix.First && first)) ? _replacement + text : text;
    }

    /// <summary>Appends the pieces of a text as ranges of it.</summary>
    public void SplitText(ReadOnlySpan<char> text, List<Range> pieces) => Run(_onText, text, pieces);

    public void SplitBytes(ReadOnlySpan<char> written, List<Range> pieces) => Run(_onBytes, written, pieces);

    private void Run(List<Stage> stages, ReadOnlySpan<char> text, List<Range> pieces)
    {
        if (text.IsEmpty) return;
        int first = pieces.Count;
        if (stages.Count == 0) { pieces.Add(0..text.Length); return; }

        // .NET matches UTF-16 units, the patterns mean code points: a letter beyond U+FFFF must count as one letter.
        int[]? map = null;
        if (text.IndexOfAnyInRange('\uD800', '\uDFFF') >= 0) text = _units.Write(text, out map);

        pieces.Add(0..text.Length);
        try
        {
            foreach (var stage in stages)
            {
                var input = pieces.GetRange(first, pieces.Count - first);
                pieces.RemoveRange(first, pieces.Count - first);
                foreach (var range in input) Cut(stage, map is not null, text, range.Start.Value, range.End.Value, pieces);
            }
        }
        catch (RegexMatchTimeoutException e)
        {
            throw new ModelFormatException(TokenizerFile.Name, $"the pre-tokenizer pattern {e.Pattern} takes more than {UnicodePattern.Patience.TotalSeconds:0} s on a text of {text.Length} characters", e);
        }
        if (map is null) return;
        for (int i = first; i < pieces.Count; i++) pieces[i] = map[pieces[i].Start.Value]..map[pieces[i].End.Value];
    }

    private static void Cut(Stage stage, bool units, ReadOnlySpan<char> text, int start, int end, List<Range> pieces)
    {
        int at = start, begin = pieces.Count;
        bool before = false;
        foreach (var match in stage.Pattern.Over(units).EnumerateMatches(text[start..end]))
        {
            int from = start + match.Index;
            if (from > at) Put(at..from, stage.Invert);
            at = from + match.Length;
            if (at > from) Put(from..at, !stage.Invert);
        }
        if (at < end) Put(at..end, stage.Invert);

        void Put(Range piece, bool match)
        {
            bool joins = pieces.Count > begin && stage.Behavior switch
            {
                Behavior.MergedWithPrevious => match && !before,
                Behavior.MergedWithNext => !match && before,
                Behavior.Contiguous => match == before,
                _ => false,
            };
            before = match;
            if (joins) pieces[^1] = pieces[^1].Start..piece.End;
            else if (!match || stage.Behavior != Behavior.Removed) pieces.Add(piece);
        }
    }

    private Stage GptStage() => new(new(Gpt2Pattern, _units, Gpt2()), Behavior.Isolated);

    private static string SplitPattern(JsonElement step)
    {
        if (TokenizerFile.Get(step, "pattern") is { } p)
        {
            if (Text(p, "Regex") is { Length: > 0 } regex) return regex;
            if (Text(p, "String") is { Length: > 0 } literal) return Literal(literal);
        }
        throw TokenizerFile.Bad("pre_tokenizer Split has no pattern (Regex or String)");
    }

    private static Behavior How(JsonElement step, string otherwise)
    {
        string name = Text(step, "behavior") ?? otherwise;
        return Enum.TryParse(name, out Behavior behavior) && Enum.IsDefined(behavior) && char.IsAsciiLetterUpper(name[0])
            ? behavior
            : throw TokenizerFile.Bad($"pre_tokenizer behavior \"{name}\" is not supported; {string.Join(", ", Enum.GetNames<Behavior>())} are");
    }

    private void ReadMetaspace(JsonElement step)
    {
        string replacement = Text(step, "replacement") ?? Metaspace.Text;
        if (replacement.Length != 1 || char.IsSurrogate(replacement[0]) || replacement[0] == ' ') throw TokenizerFile.Bad("pre_tokenizer Metaspace has a replacement that is not one character");
        _replacement = replacement[0];
        // Files of before 2024 say add_prefix_space.
        string scheme = Text(step, "prepend_scheme") ?? (TokenizerFile.Get(step, "add_prefix_space") is null || TokenizerFile.Flag(step, "add_prefix_space") ? "always" : "never");
        _prefix = scheme switch
        {
            "always" => Prefix.Always,
            "first" => Prefix.First,
            "never" => Prefix.Never,
            _ => throw TokenizerFile.Bad($"pre_tokenizer Metaspace has the prepend_scheme \"{scheme}\"; always, first and never are known"),
        };
        bool split = TokenizerFile.Get(step, "split") is null || TokenizerFile.Flag(step, "split");
        if (split) _onText.Add(new(new(Literal(replacement), _units), Behavior.MergedWithNext));
    }

    /// <summary>A pattern that matches this text: every character that could mean something is escaped.</summary>
    private static string Literal(string text) =>
        string.Concat(text.Select(static c => char.IsAscii(c) && !char.IsAsciiLetterOrDigit(c) && !char.IsControl(c) ? $"\\{c}" : c.ToString()));

    private static string? Text(JsonElement of, string name) => TokenizerFile.Text(of, name);

    [GeneratedRegex(Gpt2Pattern, RegexOptions.CultureInvariant, 30_000)]
    private static partial Regex Gpt2();
}
