using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Text;

/// <summary>
/// Cuts text into the pieces within which BPE merges. Every known pre-tokeniser is a regular expression whose matches stand alone; what
/// comes before ByteLevel sees the text, what comes after sees it in <see cref="ByteAlphabet"/>. Immutable; any thread. A pattern that .NET does not
/// accept, or that runs for half a minute on one text, is a <see cref="ModelFormatException"/>.
/// </summary>
internal sealed partial class PreTokenizer
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);
    private readonly List<Stage> _onText = [];
    private readonly List<Stage> _onBytes = [];

    private sealed record Stage(Regex Regex, bool Matches, bool Gaps);

    public PreTokenizer(List<JsonElement> steps)
    {
        foreach (var step in steps)
        {
            string type = TokenizerFile.Text(step, "type") ?? "none";
            var stages = ByteLevel ? _onBytes : _onText;
            switch (type)
            {
                case "ByteLevel" when !ByteLevel:
                    // Absent means true in files of before 2022.
                    bool regex = TokenizerFile.Get(step, "use_regex") is null || TokenizerFile.Flag(step, "use_regex");
                    AddPrefixSpace = TokenizerFile.Flag(step, "add_prefix_space");
                    if (AddPrefixSpace && _onText.Count > 0) throw TokenizerFile.Bad("add_prefix_space after another pre-tokenizer is not supported");
                    if (regex) _onText.Add(new(Gpt2(), true, true));
                    ByteLevel = true;
                    break;
                case "Split":
                    stages.Add(ReadSplit(step));
                    break;
                case "Punctuation":
                    stages.Add(Class(@"[\p{P}$+<=>^`|~]", Text(step, "behavior") ?? "Isolated"));
                    break;
                case "Digits":
                    stages.Add(Class(@"\p{N}", TokenizerFile.Flag(step, "individual_digits") ? "Isolated" : "Contiguous"));
                    break;
                default:
                    throw TokenizerFile.Bad($"pre_tokenizer \"{type}\" is not supported; ByteLevel, Split, Punctuation and Digits are");
            }
        }
    }

    /// <summary>Pieces must be written in <see cref="ByteAlphabet"/> before <see cref="SplitBytes"/> and the vocabulary.</summary>
    public bool ByteLevel { get; }

    /// <summary>A text that does not start with a space gets one.</summary>
    public bool AddPrefixSpace { get; }

    public bool SplitsBytes => _onBytes.Count > 0;

    /// <summary>Appends the pieces of a text as ranges of it.</summary>
    public void SplitText(ReadOnlySpan<char> text, List<Range> pieces) => Run(_onText, text, pieces);

    public void SplitBytes(ReadOnlySpan<char> written, List<Range> pieces) => Run(_onBytes, written, pieces);

    private static void Run(List<Stage> stages, ReadOnlySpan<char> text, List<Range> pieces)
    {
        if (text.IsEmpty) return;
        // .NET matches UTF-16 units, the patterns mean code points: a letter beyond U+FFFF must count as one letter.
        int[]? map = null;
        if (text.IndexOfAnyInRange('\uD800', '\uDFFF') >= 0) text = Stand(text, out map);

        int first = pieces.Count;
        pieces.Add(0..text.Length);
        try
        {
            foreach (var stage in stages)
            {
                var input = pieces.GetRange(first, pieces.Count - first);
                pieces.RemoveRange(first, pieces.Count - first);
                foreach (var range in input) Cut(stage, text, range.Start.Value, range.End.Value, pieces);
            }
        }
        catch (RegexMatchTimeoutException e)
        {
            throw new ModelFormatException(TokenizerFile.Name, $"the pre-tokenizer pattern {e.Pattern} takes more than {s_patience.TotalSeconds:0} s on a text of {text.Length} characters", e);
        }
        if (map is null) return;
        for (int i = first; i < pieces.Count; i++) pieces[i] = map[pieces[i].Start.Value]..map[pieces[i].End.Value];
    }

    private static void Cut(Stage stage, ReadOnlySpan<char> text, int start, int end, List<Range> pieces)
    {
        int at = start;
        foreach (var match in stage.Regex.EnumerateMatches(text[start..end]))
        {
            int from = start + match.Index;
            if (match.Length == 0) continue;
            if (stage.Gaps && from > at) pieces.Add(at..from);
            if (stage.Matches) pieces.Add(from..(from + match.Length));
            at = from + match.Length;
        }
        if (stage.Gaps && at < end) pieces.Add(at..end);
    }

    private static Stage ReadSplit(JsonElement step)
    {
        string? pattern = null;
        if (TokenizerFile.Get(step, "pattern") is { } p)
            pattern = Text(p, "Regex") ?? (Text(p, "String") is { } literal ? Regex.Escape(literal) : null);
        if (pattern is null) throw TokenizerFile.Bad("pre_tokenizer Split has no pattern (Regex or String)");
        bool invert = TokenizerFile.Flag(step, "invert");
        return (Text(step, "behavior") ?? "Isolated") switch
        {
            "Isolated" => new(Make(pattern), true, true),
            "Removed" => new(Make(pattern), invert, !invert),
            var other => throw TokenizerFile.Bad($"pre_tokenizer Split with behavior \"{other}\" is not supported; Isolated and Removed are"),
        };
    }

    private static Stage Class(string characters, string behavior) => behavior switch
    {
        "Isolated" => new(Make(characters), true, true),
        "Contiguous" => new(Make(characters + "+"), true, true),
        var other => throw TokenizerFile.Bad($"pre_tokenizer behavior \"{other}\" is not supported; Isolated and Contiguous are"),
    };

    private static Regex Make(string pattern)
    {
        try
        {
            return new(pattern, RegexOptions.CultureInvariant | RegexOptions.Compiled, s_patience);
        }
        catch (ArgumentException e)
        {
            throw new ModelFormatException(TokenizerFile.Name, $"the pre-tokenizer pattern is not a regular expression that can be used: {e.Message}", e);
        }
    }

    /// <summary>
    /// A stand-in with one UTF-16 unit per code point and the same Unicode category each, and where each unit begins in the text (one entry more
    /// than units). The stand-ins lie outside ASCII and the East Asian blocks that patterns name literally.
    /// </summary>
    private static string Stand(ReadOnlySpan<char> text, out int[] map)
    {
        var units = new StringBuilder(text.Length);
        var starts = new List<int>(text.Length + 1);
        int at = 0;
        while (at < text.Length)
        {
            starts.Add(at);
            Rune.DecodeFromUtf16(text[at..], out var rune, out int length);
            units.Append(rune.IsBmp ? (char)rune.Value : StandIn(Rune.GetUnicodeCategory(rune)));
            at += length;
        }
        starts.Add(at);
        map = starts.ToArray();
        return units.ToString();
    }

    private static char StandIn(UnicodeCategory category) => category switch
    {
        UnicodeCategory.UppercaseLetter => '\u0182',
        UnicodeCategory.LowercaseLetter => '\u0183',
        UnicodeCategory.TitlecaseLetter => '\u01C5',
        UnicodeCategory.ModifierLetter => '\u02B0',
        UnicodeCategory.OtherLetter => '\u01BB',
        UnicodeCategory.NonSpacingMark => '\u0300',
        UnicodeCategory.SpacingCombiningMark => '\u0903',
        UnicodeCategory.EnclosingMark => '\u0488',
        UnicodeCategory.DecimalDigitNumber => '\u0660',
        UnicodeCategory.LetterNumber => '\u2160',
        UnicodeCategory.OtherNumber => '\u2460',
        UnicodeCategory.ConnectorPunctuation => '\u203F',
        UnicodeCategory.DashPunctuation => '\u2010',
        UnicodeCategory.OpenPunctuation => '\u2045',
        UnicodeCategory.ClosePunctuation => '\u2046',
        UnicodeCategory.InitialQuotePunctuation => '\u2018',
        UnicodeCategory.FinalQuotePunctuation => '\u2019',
        UnicodeCategory.OtherPunctuation => '\u2020',
        UnicodeCategory.MathSymbol => '\u2044',
        UnicodeCategory.CurrencySymbol => '\u20A0',
        UnicodeCategory.ModifierSymbol => '\u02C2',
        UnicodeCategory.OtherSymbol => '\u2100',
        UnicodeCategory.Format => '\u2060',
        UnicodeCategory.PrivateUse => '\uE000',
        _ => '\u0378', // unassigned
    };

    private static string? Text(JsonElement of, string name) => TokenizerFile.Text(of, name);

    [GeneratedRegex(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", RegexOptions.CultureInvariant, 30_000)]
    private static partial Regex Gpt2();
}
