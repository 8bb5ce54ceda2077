using System.Text;

namespace FlashOrleans.Models.Templates;

internal enum TokenKind { Data, BlockBegin, BlockEnd, PrintBegin, PrintEnd, Name, Text, Integer, Real, Operator, End }

internal readonly record struct Token(TokenKind Kind, string Text, int Line)
{
    public bool Is(string op) => Kind == TokenKind.Operator && Text == op;
    public bool IsName(string name) => Kind == TokenKind.Name && Text == name;
}

/// <summary>
/// Template source to tokens. Here is all the white space control, as Hugging Face sets it: the line break after a block tag or comment goes (trim_blocks), so
/// does the indentation before one (lstrip_blocks), a minus sign takes all white space on its side and a plus sign keeps it; one line break at the end of the source is no part of it.
/// </summary>
internal sealed class TemplateLexer
{
    private static readonly string[] s_twoCharacters = ["//", "**", "==", "!=", ">=", "<="];

    private readonly string _source;
    private readonly List<Token> _tokens = [];
    private int _at, _line = 1;
    // The tag before ended with a line break, so that what follows it begins a line.
    private bool _lineBegins = true;

    private TemplateLexer(string source) => _source = source;

    public static List<Token> Read(string source)
    {
        source = source.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n');
        var lexer = new TemplateLexer(source.EndsWith('\n') ? source[..^1] : source);
        lexer.ReadAll();
        return lexer._tokens;
    }

    private void ReadAll()
    {
        while (_at < _source.Length)
        {
            int tag = NextTag(_at);
            if (tag < 0)
            {
                Add(TokenKind.Data, _source[_at..]);
                break;
            }
            char kind = _source[tag + 1];
            char sign = tag + 2 < _source.Length && _source[tag + 2] is '-' or '+' ? _source[tag + 2] : ' ';
            Data(_at, tag, sign, isPrint: kind == '{');
            _at = tag + (sign == ' ' ? 2 : 3);
            if (kind == '#') Comment();
            else if (kind == '{') Tag(TokenKind.PrintBegin, TokenKind.PrintEnd, "}}");
            else if (!Raw()) Tag(TokenKind.BlockBegin, TokenKind.BlockEnd, "%}");
        }
        Add(TokenKind.End, "");
    }

    private int NextTag(int from)
    {
        for (int at = from; (at = _source.IndexOf('{', at)) >= 0 && at + 1 < _source.Length; at++)
            if (_source[at + 1] is '%' or '{' or '#') return at;
        return -1;
    }

    /// <summary>Text between tags, without what the tag that follows takes away.</summary>
    private void Data(int from, int to, char sign, bool isPrint)
    {
        int end = to;
        if (sign == '-')
        {
            while (end > from && IsSpace(_source[end - 1])) end--;
        }
        else if (sign != '+' && !isPrint)
        {
            int line = end;
            while (line > from && _source[line - 1] != '\n' && IsSpace(_source[line - 1])) line--;
            if (line > from ? _source[line - 1] == '\n' : _lineBegins) end = line;
        }
        if (end > from) Add(TokenKind.Data, _source[from..end]);
        _line += CountLines(from, to);
    }

    private void Comment()
    {
        int end = _source.IndexOf("#}", _at, StringComparison.Ordinal);
        if (end < 0) throw Bad("a comment is not closed: #} is missing");
        char sign = end > _at && _source[end - 1] is '-' or '+' ? _source[end - 1] : ' ';
        Skip(end + 2, sign, trimLine: true);
    }

    /// <summary>A raw block, if this is one: its text is data.</summary>
    private bool Raw()
    {
        int at = _at;
        if (!Word(ref at, "raw", out char sign, out _)) return false;
        Skip(at, sign, trimLine: false);
        for (int tag = _at; (tag = _source.IndexOf("{%", tag, StringComparison.Ordinal)) >= 0; tag += 2)
        {
            int inside = tag + 2;
            char before = inside < _source.Length && _source[inside] is '-' or '+' ? _source[inside++] : ' ';
            if (!Word(ref inside, "endraw", out char after, out bool plus)) continue;
            Data(_at, tag, before, isPrint: false);
            _at = tag;
            Skip(inside, after, trimLine: !plus);
            return true;
        }
        throw Bad("a raw block is not closed: {% endraw %} is missing");
    }

    /// <summary>A word alone in a block, and the end of the block.</summary>
    private bool Word(ref int at, string word, out char sign, out bool plus)
    {
        (sign, plus) = (' ', false);
        while (at < _source.Length && IsSpace(_source[at])) at++;
        if (string.CompareOrdinal(_source, at, word, 0, word.Length) != 0) return false;
        at += word.Length;
        while (at < _source.Length && IsSpace(_source[at])) at++;
        if (at < _source.Length && (_source[at] == '-' || (_source[at] == '+' && word == "endraw"))) sign = _source[at++];
        plus = sign == '+';
        if (string.CompareOrdinal(_source, at, "%}", 0, 2) != 0) return false;
        at += 2;
        return true;
    }

    /// <summary>Goes on behind a tag that ends at <paramref name="end"/>.</summary>
    private void Skip(int end, char sign, bool trimLine)
    {
        int to = end;
        if (sign == '-') while (to < _source.Length && IsSpace(_source[to])) to++;
        else if (sign != '+' && trimLine && to < _source.Length && _source[to] == '\n') to++;
        _line += CountLines(_at, to);
        _lineBegins = _source[to - 1] == '\n';
        _at = to;
    }

    private void Tag(TokenKind begin, TokenKind end, string close)
    {
        Add(begin, "");
        var open = new Stack<char>();
        while (true)
        {
            while (_at < _source.Length && IsSpace(_source[_at]))
                if (_source[_at++] == '\n') _line++;
            if (_at >= _source.Length) throw Bad($"a tag is not closed: {close} is missing");
            char c = _source[_at];
            if (open.Count == 0)
            {
                char sign = c == '-' || (c == '+' && end == TokenKind.BlockEnd) ? c : ' ';
                int at = sign == ' ' ? _at : _at + 1;
                if (string.CompareOrdinal(_source, at, close, 0, 2) == 0)
                {
                    Add(end, "");
                    Skip(at + 2, sign, trimLine: end == TokenKind.BlockEnd);
                    return;
                }
            }
            if (char.IsAsciiDigit(c)) ReadNumber();
            else if (char.IsLetterOrDigit(c) || c == '_') ReadName();
            else if (c is '"' or '\'') ReadText(c);
            else ReadOperator(c, open);
        }
    }

    private void ReadName()
    {
        int from = _at;
        while (_at < _source.Length && (char.IsLetterOrDigit(_source[_at]) || _source[_at] == '_')) _at++;
        Add(TokenKind.Name, _source[from.._at]);
    }

    private void ReadNumber()
    {
        int from = _at;
        bool real = false;
        if (_source[_at] == '0' && _at + 1 < _source.Length && _source[_at + 1] is 'x' or 'X' or 'b' or 'B' or 'o' or 'O')
            throw Bad("numbers are decimal");
        Digits();
        // After a dot only an index can stand (a.0.1), no fraction.
        if (from == 0 || _source[from - 1] != '.')
        {
            if (_at + 1 < _source.Length && _source[_at] == '.' && char.IsAsciiDigit(_source[_at + 1]))
            {
                real = true;
                _at++;
                Digits();
            }
            if (_at < _source.Length && _source[_at] is 'e' or 'E')
            {
                int exponent = _at + 1;
                if (exponent < _source.Length && _source[exponent] is '+' or '-') exponent++;
                if (exponent < _source.Length && char.IsAsciiDigit(_source[exponent]))
                {
                    real = true;
                    _at = exponent;
                    Digits();
                }
            }
        }
        if (_at - from > 400) throw Bad("a number has too many digits");
        Add(real ? TokenKind.Real : TokenKind.Integer, _source[from.._at].Replace("_", "", StringComparison.Ordinal));

        void Digits()
        {
            while (_at < _source.Length && (char.IsAsciiDigit(_source[_at]) || (_source[_at] == '_' && _at + 1 < _source.Length && char.IsAsciiDigit(_source[_at + 1])))) _at++;
        }
    }

    private void ReadText(char quote)
    {
        int line = _line;
        var text = new StringBuilder();
        for (_at++; ; _at++)
        {
            if (_at >= _source.Length) throw new TemplateException("a string is not closed", line);
            char c = _source[_at];
            if (c == quote) break;
            if (c == '\n') _line++;
            if (c != '\\') text.Append(c);
            else Escape(text);
        }
        _at++;
        _tokens.Add(new(TokenKind.Text, text.ToString(), line));
    }

    /// <summary>Python's escapes; one that it does not know stays as it is written.</summary>
    private void Escape(StringBuilder text)
    {
        if (++_at >= _source.Length) throw Bad("a string is not closed");
        char c = _source[_at];
        int known = "abfnrtv\\'\"".IndexOf(c, StringComparison.Ordinal);
        if (known >= 0) text.Append("\a\b\f\n\r\t\v\\'\""[known]);
        else if (c == '\n') _line++;
        else if (c is 'x' or 'u' or 'U') Hexadecimal(text, c == 'x' ? 2 : c == 'u' ? 4 : 8);
        else if (c is >= '0' and <= '7')
        {
            int value = 0, end = Math.Min(_at + 3, _source.Length);
            for (; _at < end && _source[_at] is >= '0' and <= '7'; _at++) value = value * 8 + (_source[_at] - '0');
            _at--;
            text.Append((char)value);
        }
        else text.Append('\\').Append(c);
    }

    private void Hexadecimal(StringBuilder text, int digits)
    {
        if (_at + digits >= _source.Length || !uint.TryParse(_source.AsSpan(_at + 1, digits), System.Globalization.NumberStyles.AllowHexSpecifier, null, out uint value) || value > 0x10FFFF)
            throw Bad("a string has an escape that is no character");
        _at += digits;
        if (value <= char.MaxValue) text.Append((char)value);
        else text.Append(char.ConvertFromUtf32((int)value));
    }

    private void ReadOperator(char c, Stack<char> open)
    {
        foreach (string two in s_twoCharacters)
        {
            if (string.CompareOrdinal(_source, _at, two, 0, 2) != 0) continue;
            Add(TokenKind.Operator, two);
            _at += 2;
            return;
        }
        if (!"+-/*%~[](){}><=.:|,;".Contains(c, StringComparison.Ordinal)) throw Bad($"unexpected character '{c}'");
        if (c is '(' or '[' or '{') open.Push(c == '(' ? ')' : c == '[' ? ']' : '}');
        else if (c is ')' or ']' or '}' && (!open.TryPop(out char expected) || expected != c)) throw Bad($"unexpected '{c}'");
        Add(TokenKind.Operator, c.ToString());
        _at++;
    }

    private void Add(TokenKind kind, string text) => _tokens.Add(new(kind, text, _line));

    private int CountLines(int from, int to) => _source.AsSpan(from, to - from).Count('\n');

    private TemplateException Bad(string what) => new(what, _line);

    /// <summary>White space as Python has it.</summary>
    internal static bool IsSpace(char c) => char.IsWhiteSpace(c) || c is >= '\x1c' and <= '\x1f';
}
