using System.Text;

namespace FlashOrleans.Models.Templates;

/// <summary>
/// A string, and for each of its characters whether it was written in the template or came from outside (messages, tools, numbers, the clock). Slices
/// and joins keep that apart, so that in the finished prompt only text of the template itself can name a special token. Immutable.
/// </summary>
internal sealed class TextValue : Value
{
    public static readonly TextValue Empty = new("", foreign: false);

    private readonly bool _foreign;
    // Where runs end, alternately of the template and foreign, the first (perhaps empty) of the template; null when all is of one origin.
    private readonly int[]? _runs;

    public TextValue(string chars, bool foreign)
    {
        Chars = chars;
        _foreign = foreign;
    }

    private TextValue(string chars, int[] runs)
    {
        Chars = chars;
        _runs = runs;
    }

    public string Chars { get; }
    public override string TypeName => "str";
    /// <summary>Any of it came from outside.</summary>
    public bool Foreign => _runs is not null || _foreign;
    /// <summary>Python counts code points; without surrogates these are characters.</summary>
    public bool HasSurrogates => Chars.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF') >= 0;

    /// <summary>Every character of the range was written in the template.</summary>
    public bool IsTemplate(int start, int length)
    {
        if (_runs is null) return !_foreign;
        int run = RunAt(start);
        return run % 2 == 0 && start + length <= _runs[run];
    }

    /// <summary>The rest from a position on, outside a rendering.</summary>
    public TextValue From(int start) => Slice(start, Chars.Length - start, new RenderBudget(Chars.Length));

    public TextValue Slice(int start, int length, RenderBudget budget)
    {
        if (length == Chars.Length) return this;
        if (length <= 0) return Empty;
        budget.Make(length);
        string part = Chars.Substring(start, length);
        if (_runs is null) return new(part, _foreign);
        var builder = new TextBuilder(budget);
        builder.AppendOrigins(this, start, length);
        return builder.With(part);
    }

    /// <summary>The same origins on other characters, if there are as many; else all foreign as soon as one is.</summary>
    public TextValue Mapped(string chars, RenderBudget budget)
    {
        budget.Make(chars.Length);
        return _runs is not null && chars.Length == Chars.Length ? new(chars, _runs) : new(chars, Foreign);
    }

    public static TextValue Concat(TextValue a, TextValue b, RenderBudget budget)
    {
        if (a.Chars.Length == 0) return b;
        if (b.Chars.Length == 0) return a;
        if (a._runs is null && b._runs is null && a._foreign == b._foreign)
        {
            budget.Make(a.Chars.Length + b.Chars.Length);
            return new(a.Chars + b.Chars, a._foreign);
        }
        var builder = new TextBuilder(budget);
        builder.Append(a);
        builder.Append(b);
        return builder.ToText();
    }

    private int RunAt(int position)
    {
        int low = 0, high = _runs!.Length - 1;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_runs[middle] > position) high = middle;
            else low = middle + 1;
        }
        return low;
    }

    /// <summary>Collects text with its origins; charges for it before it grows.</summary>
    internal sealed class TextBuilder(RenderBudget budget)
    {
        private readonly StringBuilder _chars = new();
        private readonly List<int> _ends = [];
        private int _length;

        public int Length => _chars.Length;

        public void Append(TextValue text) => Append(text, 0, text.Chars.Length);

        public void Append(TextValue text, int start, int length)
        {
            if (length <= 0) return;
            budget.Make(length);
            _chars.Append(text.Chars, start, length);
            AppendOrigins(text, start, length);
        }

        public void Append(string text, bool foreign)
        {
            if (text.Length == 0) return;
            budget.Make(text.Length);
            _chars.Append(text);
            Run(text.Length, foreign);
        }

        public TextValue ToText() => With(_chars.ToString());

        internal void AppendOrigins(TextValue text, int start, int length)
        {
            if (text._runs is null)
            {
                Run(length, text._foreign);
                return;
            }
            for (int run = text.RunAt(start), end = start + length; start < end; run++)
            {
                budget.Make(1);
                int upTo = Math.Min(text._runs[run], end);
                Run(upTo - start, run % 2 == 1);
                start = upTo;
            }
        }

        internal TextValue With(string chars) => _ends.Count switch
        {
            0 => Empty,
            1 => new(chars, foreign: false),
            2 when _ends[0] == 0 => new(chars, foreign: true),
            _ => new(chars, _ends.ToArray()),
        };

        private void Run(int length, bool foreign)
        {
            if (length == 0) return;
            if (foreign && _ends.Count == 0) _ends.Add(0);
            _length += length;
            bool lastForeign = _ends.Count % 2 == 0;
            if (_ends.Count > 0 && lastForeign == foreign) _ends[^1] = _length;
            else _ends.Add(_length);
        }
    }
}
