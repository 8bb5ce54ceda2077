using System.Globalization;
using System.Text;

namespace FlashOrleans.Models.Text;

/// <summary>
/// Reads one pattern in Oniguruma's Ruby syntax and writes what means the same in .NET. Known: alternation, groups, look-around, greedy, lazy and possessive
/// repeats, classes with ranges, escapes and general categories, case-insensitive groups of ASCII letters. Everything else is refused by name
/// (back references, scripts such as \p{Han}, nested classes, intersections). One reader per pattern; the depth of groups is bounded.
/// </summary>
internal sealed class PatternReader
{
    private const int Deepest = 50, Longest = 20_000;
    private static readonly string[] s_categories =
        ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Cn"];

    private readonly string _source;
    private readonly CodePointUnits? _units;
    private readonly StringBuilder _to = new();
    private int _at;
    private int _depth;

    private PatternReader(string source, CodePointUnits? units)
    {
        _source = source;
        _units = units;
    }

    /// <param name="source">The pattern.</param>
    /// <param name="units">For texts written in these units; null for texts without surrogates.</param>
    public static string Translate(string source, CodePointUnits? units)
    {
        if (source.Length > Longest) throw TokenizerFile.Bad($"a pre-tokenizer pattern has {source.Length} characters; at most {Longest} are read");
        var reader = new PatternReader(source, units);
        reader.Alternation(ignoreCase: false);
        return reader._at == source.Length ? reader._to.ToString() : throw reader.Refuse("has a ) without a (");
    }

    public static void WriteChar(StringBuilder to, char c) => to.Append("\\u").Append(((int)c).ToString("X4", CultureInfo.InvariantCulture));

    private ModelFormatException Refuse(string what) => TokenizerFile.Bad($"the pre-tokenizer pattern {_source} {what}, at character {_at + 1}");

    private bool More => _at < _source.Length;

    private bool Take(string text)
    {
        if (string.CompareOrdinal(_source, _at, text, 0, text.Length) != 0) return false;
        _at += text.Length;
        return true;
    }

    private int Point()
    {
        if (!Rune.TryGetRuneAt(_source, _at, out var rune)) throw Refuse("is not valid text");
        _at += rune.Utf16SequenceLength;
        return rune.Value;
    }

    private void Alternation(bool ignoreCase)
    {
        if (++_depth > Deepest) throw Refuse($"nests more than {Deepest} groups");
        while (More && _source[_at] != ')')
        {
            if (Take("|")) { _to.Append('|'); continue; }
            int begin = _to.Length;
            bool repeatable = Atom(ignoreCase);
            Repeat(begin, repeatable);
        }
        _depth--;
    }

    /// <summary>One group, class, escape or literal. False for what cannot be repeated.</summary>
    private bool Atom(bool ignoreCase)
    {
        switch (_source[_at])
        {
            case '(':
                return Group(ignoreCase);
            case '[':
                _at++;
                Class(ignoreCase);
                return true;
            case '\\':
                return Escape(ignoreCase);
            case '.':
                _at++;
                _to.Append("[^\\n]");
                return true;
            case '^':
                _at++;
                _to.Append(@"(?:\A|(?<=\n)(?!\z))");
                return false;
            case '$':
                _at++;
                _to.Append(@"(?=\n|\z)");
                return false;
            case '*' or '+' or '?':
                throw Refuse("repeats nothing");
            default:
                var set = new ClassItems(_units);
                set.Add(Point(), ignoreCase, this);
                set.Write(_to, negated: false);
                return true;
        }
    }

    private bool Group(bool ignoreCase)
    {
        _at++;
        bool look = false;
        if (Take("?"))
        {
            if (Take("i:")) { ignoreCase = true; _to.Append("(?:"); }
            else if (Take("i)"))
            {
                // For the rest of the pattern; elsewhere Ruby gives it a meaning of its own.
                if (_at != 4) throw Refuse("has (?i) not at its beginning");
                Alternation(ignoreCase: true);
                return false;
            }
            else if (Take(":")) _to.Append("(?:");
            else if (Take(">")) _to.Append("(?>");
            else
            {
                look = true;
                _to.Append(Take("=") ? "(?=" : Take("!") ? "(?!" : Take("<=") ? "(?<=" : Take("<!") ? "(?<!" : throw Refuse("has a kind of group that is not supported"));
            }
        }
        else
        {
            _to.Append("(?:");
        }
        Alternation(ignoreCase);
        if (!Take(")")) throw Refuse("has a ( without a )");
        _to.Append(')');
        return !look;
    }

    private void Repeat(int begin, bool repeatable)
    {
        bool first = true;
        while (More)
        {
            int at = _at;
            string repeat;
            bool interval = false;
            switch (_source[_at])
            {
                case '*' or '+' or '?':
                    repeat = _source[_at++].ToString();
                    break;
                case '{' when Interval() is { } counts:
                    (repeat, interval) = (counts, true);
                    break;
                default:
                    return;
            }
            if (!repeatable || !first) { _at = at; throw Refuse("repeats what cannot be repeated"); }
            first = false;
            if (More && _source[_at] == '?') { if (interval) throw Refuse("has a lazy interval"); _at++; repeat += "?"; }
            else if (More && _source[_at] == '+')
            {
                if (interval) throw Refuse("has a possessive interval");
                _at++;
                _to.Insert(begin, "(?>").Append(repeat).Append(')');
                continue;
            }
            _to.Insert(begin, "(?:").Append(')').Append(repeat);
        }
    }

    /// <summary>{3} {1,3} {2,} {,4}; null when the brace is a literal.</summary>
    private string? Interval()
    {
        int end = _source.IndexOf('}', _at);
        if (end < 0) return null;
        string inside = _source[(_at + 1)..end];
        string[] parts = inside.Split(',');
        if (parts.Length > 2 || parts.All(static p => p.Length == 0) || !parts.All(static p => p.All(char.IsAsciiDigit))) return null;
        if (parts.Any(static p => p.Length > 4)) throw Refuse("repeats more than 9999 times");
        _at = end + 1;
        return parts.Length == 2 && parts[0].Length == 0 ? $"{{0,{parts[1]}}}" : $"{{{inside}}}";
    }

    private bool Escape(bool ignoreCase)
    {
        if (Take("\\A")) { _to.Append("\\A"); return false; }
        if (Take("\\z")) { _to.Append("\\z"); return false; }
        if (Take("\\Z")) { _to.Append("\\Z"); return false; }
        var set = new ClassItems(_units);
        bool notWord = Take("\\W");
        if (notWord || Take("\\w"))
        {
            // Outside a class Oniguruma counts the Latin-1 powers and fractions among the word characters, inside one it does not.
            set.AddCategories(IsWord);
            set.AddRaw("\\u00B2\\u00B3\\u00B9\\u00BC-\\u00BE");
        }
        else
        {
            EscapeInto(set, ignoreCase);
        }
        set.Write(_to, notWord);
        return true;
    }

    // Letter-like numbers (Ⅳ) count, other numbers do not.
    private static bool IsWord(string category) => category[0] is 'L' or 'M' || category is "Nd" or "Nl" or "Pc";

    private void Class(bool ignoreCase)
    {
        bool negated = Take("^");
        var set = new ClassItems(_units);
        for (bool first = true; ; first = false)
        {
            if (!More) throw Refuse("has a [ without a ]");
            if (Take("]"))
            {
                if (first) throw Refuse("has an empty class");
                break;
            }
            if (_source[_at] == '[') throw Refuse("has a class inside a class, which is not supported");
            if (string.CompareOrdinal(_source, _at, "&&", 0, 2) == 0) throw Refuse("has an intersection &&, which is not supported");
            int? low = _source[_at] == '\\' ? EscapeInto(set, ignoreCase, range: true) : Point();
            if (low is not { } from) continue;
            if (_at + 1 < _source.Length && _source[_at] == '-' && _source[_at + 1] != ']')
            {
                _at++;
                int? high = _source[_at] == '\\' ? EscapeInto(set, ignoreCase, range: true) : Point();
                if (high is not { } to || to < from || _source[_at - 1] == '[') throw Refuse("has a range that is none");
                set.Add(from, to, ignoreCase, this);
            }
            else
            {
                set.Add(from, ignoreCase, this);
            }
        }
        set.Write(_to, negated);
    }

    /// <summary>Adds what an escape names. With <paramref name="range"/> a single character is not added but given back: it may begin a range.</summary>
    private int? EscapeInto(ClassItems set, bool ignoreCase, bool range = false)
    {
        _at++;
        if (!More) throw Refuse("ends with a \\");
        char c = _source[_at];
        switch (c)
        {
            case 's': set.AddRaw("\\s"); break;
            case 'S': set.AddRaw("\\S"); break;
            case 'd': set.AddCategories(static n => n == "Nd"); break;
            case 'D': set.AddCategories(static n => n != "Nd"); break;
            case 'w': set.AddCategories(IsWord); break;
            case 'W': set.AddCategories(static n => !IsWord(n)); break;
            case 'p' or 'P':
                Property(set, c == 'P', ignoreCase);
                return null;
            default:
                int point = Single(c);
                if (range) return point;
                set.Add(point, ignoreCase, this);
                return null;
        }
        _at++;
        return null;
    }

    private int Single(char c)
    {
        _at++;
        switch (c)
        {
            case 'n': return '\n';
            case 'r': return '\r';
            case 't': return '\t';
            case 'f': return '\f';
            case 'v': return '\v';
            case 'a': return '\a';
            case 'e': return '\u001B';
            case 'u': return Hex(4);
            case 'x' when Take("{"):
                int end = _source.IndexOf('}', _at);
                int value = Hex(Math.Clamp(end - _at, 1, 6));
                return Take("}") && Rune.IsValid(value) ? value : throw Refuse("has a \\x{ } that is none");
            case 'x': return Hex(2);
        }
        if (char.IsAsciiLetterOrDigit(c)) { _at--; throw Refuse($"has the escape \\{c}, which is not supported"); }
        _at--;
        return Point();
    }

    private int Hex(int digits)
    {
        if (_at + digits > _source.Length || !int.TryParse(_source.AsSpan(_at, digits), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int value))
            throw Refuse($"lacks {digits} hexadecimal digits");
        _at += digits;
        return value is >= 0xD800 and <= 0xDFFF ? throw Refuse("names half a surrogate pair") : value;
    }

    private void Property(ClassItems set, bool negated, bool ignoreCase)
    {
        _at++;
        int end = _source.IndexOf('}', _at);
        if (!Take("{") || end < 0) throw Refuse("has a \\p without a name in braces");
        string name = _source[_at..end];
        if (name.StartsWith('^')) (name, negated) = (name[1..], !negated);
        bool known = name.Length is 1 or 2 && s_categories.Any(n => n.StartsWith(name, StringComparison.Ordinal));
        if (!known) throw Refuse($"names \\p{{{name}}}; general categories (L, Lu, N, …) are supported");
        if (ignoreCase && name.StartsWith('L')) throw Refuse("names letters in a case-insensitive group");
        _at = end + 1;
        set.AddCategories(n => n.StartsWith(name, StringComparison.Ordinal) != negated);
    }

    /// <summary>The items of one character class, as .NET writes them.</summary>
    private sealed class ClassItems(CodePointUnits? units)
    {
        private readonly StringBuilder _items = new();

        public void AddRaw(string item) => _items.Append(item);

        public void AddCategories(Func<string, bool> which)
        {
            string whole = string.Concat("LMNPSZC".Where(major => s_categories.All(n => n[0] != major || which(n))));
            // Among units every private-use character stands for something else.
            if (units is not null) whole = whole.Replace("C", "", StringComparison.Ordinal);
            foreach (char major in whole) _items.Append("\\p{").Append(major).Append('}');
            for (int c = 0; c < s_categories.Length; c++)
            {
                string name = s_categories[c];
                if (!which(name)) continue;
                if (!whole.Contains(name[0], StringComparison.Ordinal) && (units is null || name != "Co")) _items.Append("\\p{").Append(name).Append('}');
                units?.WriteCategory(_items, c);
            }
        }

        public void Add(int point, bool ignoreCase, PatternReader reader) => Add(point, point, ignoreCase, reader);

        public void Add(int from, int to, bool ignoreCase, PatternReader reader)
        {
            if (ignoreCase && to >= 0x80) throw reader.Refuse("has characters beyond ASCII in a case-insensitive group");
            if (from is >= 0xE000 and <= 0xF8FF || to is >= 0xE000 and <= 0xF8FF) throw reader.Refuse("names private-use characters");
            if (from <= 0xFFFF) AddUnits(from, Math.Min(to, 0xFFFF));
            if (to > 0xFFFF) units?.WriteRange(_items, Math.Max(from, 0x10000), to);
            if (!ignoreCase) return;
            // The letters that fold to ASCII ones are two: long s and the Kelvin sign.
            for (int c = from; c <= to; c++)
            {
                if (!char.IsAsciiLetter((char)c)) continue;
                WriteChar(_items, (char)(c ^ 0x20));
                if ((c | 0x20) == 's') WriteChar(_items, '\u017F');
                if ((c | 0x20) == 'k') WriteChar(_items, '\u212A');
            }
        }

        private void AddUnits(int from, int to)
        {
            if (units is not null && from < 0xE000 && to > 0xF8FF)
            {
                AddUnits(from, 0xDFFF);
                CodePointUnits.WritePrivate(_items);
                from = 0xF900;
            }
            WriteChar(_items, (char)from);
            if (to == from) return;
            _items.Append('-');
            WriteChar(_items, (char)to);
        }

        public void Write(StringBuilder to, bool negated)
        {
            if (_items.Length == 0) to.Append(negated ? "[\\s\\S]" : "(?!)"); // only characters that this text cannot hold
            else to.Append(negated ? "[^" : "[").Append(_items).Append(']');
        }
    }
}
