using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Text;

/// <summary>
/// A pattern of a tokenizer.json (written for Oniguruma's Ruby syntax, matched over code points) as .NET expressions (matched over UTF-16
/// units): one for texts without surrogates and one, made when first needed, for texts written in <see cref="CodePointUnits"/>. The pattern is read by <see cref="PatternReader"/>,
/// which refuses by name what it does not know: nothing means something else by accident. Immutable; any thread.
/// </summary>
internal sealed class UnicodePattern
{
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);
    private readonly Regex _plain;
    private readonly Lazy<Regex> _units;

    public UnicodePattern(string source, CodePointUnits units, Regex? plain = null)
    {
        units.Name(source);
        _plain = plain ?? Make(PatternReader.Translate(source, null), source);
        _units = new(() => Make(PatternReader.Translate(source, units), source));
    }

    /// <summary>Without the units: for literals that are not part of a splitting pipeline (a normaliser's Replace).</summary>
    public static Regex ForBmp(string source) => Make(PatternReader.Translate(source, null), source);

    public Regex Over(bool units) => units ? _units.Value : _plain;

    private static Regex Make(string pattern, string source)
    {
        try
        {
            return new(pattern, RegexOptions.CultureInvariant | RegexOptions.Compiled, Patience);
        }
        catch (ArgumentException e)
        {
            throw new ModelFormatException(TokenizerFile.Name, $"the pattern {source} is not a regular expression that can be used: {e.Message}", e);
        }
    }
}

/// <summary>
/// Texts with one UTF-16 unit per code point, for patterns: a code point beyond U+FFFF becomes a private-use character that stands for its Unicode category
/// and for the ranges beyond U+FFFF that the patterns name; a real private-use character becomes the one that stands for its kind. Filled while the patterns
/// are read, then immutable.
/// </summary>
internal sealed class CodePointUnits
{
    public const int Categories = 30;
    private const int First = 0xE000, Private = (int)UnicodeCategory.PrivateUse;
    private const int MostSegments = 200;
    // Where a range begins that the patterns tell apart. Segment 0 is below U+10000: its only unit is that of private-use characters.
    private readonly SortedSet<int> _edges = [0x10000];
    private int[] _sorted = [0x10000];

    /// <summary>Takes note of the code points beyond U+FFFF in a pattern: each may be one end of a range.</summary>
    public void Name(string pattern)
    {
        foreach (var rune in pattern.EnumerateRunes())
        {
            if (rune.IsBmp) continue;
            _edges.Add(rune.Value);
            _edges.Add(rune.Value + 1);
        }
        if (_edges.Count >= MostSegments) throw TokenizerFile.Bad($"the pre-tokenizer patterns name more than {MostSegments / 2} characters beyond U+FFFF");
        _sorted = [.. _edges];
    }

    /// <summary>The units of a text, and where each begins in it (one entry more than units).</summary>
    public string Write(ReadOnlySpan<char> text, out int[] starts)
    {
        var units = new StringBuilder(text.Length);
        var begins = new List<int>(text.Length + 1);
        int at = 0;
        while (at < text.Length)
        {
            begins.Add(at);
            Rune.DecodeFromUtf16(text[at..], out var rune, out int length);
            units.Append(rune.IsBmp
                ? rune.Value is >= First and <= 0xF8FF ? Unit(0, Private) : (char)rune.Value
                : Unit(Segment(rune.Value), (int)Rune.GetUnicodeCategory(rune)));
            at += length;
        }
        begins.Add(at);
        starts = begins.ToArray();
        return units.ToString();
    }

    /// <summary>Appends, as items of a .NET character class, the units of all code points of a category.</summary>
    public void WriteCategory(StringBuilder to, int category)
    {
        for (int segment = 0; segment <= _sorted.Length; segment++) PatternReader.WriteChar(to, Unit(segment, category));
    }

    /// <summary>The same for the private-use characters up to U+F8FF.</summary>
    public static void WritePrivate(StringBuilder to) => PatternReader.WriteChar(to, Unit(0, Private));

    /// <summary>The same for the code points from <paramref name="first"/> to <paramref name="last"/>, which a pattern names.</summary>
    public void WriteRange(StringBuilder to, int first, int last)
    {
        PatternReader.WriteChar(to, Unit(Segment(first), 0));
        to.Append('-');
        PatternReader.WriteChar(to, Unit(Segment(last), Categories - 1));
    }

    private int Segment(int point)
    {
        int found = Array.BinarySearch(_sorted, point);
        return found >= 0 ? found + 1 : ~found;
    }

    private static char Unit(int segment, int category) => (char)(First + segment * Categories + category);
}
