using System.Collections.Frozen;
using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>The filters: what is there, and those for single values. Sequences have their own file.</summary>
internal static partial class Filters
{
    private static readonly FrozenDictionary<string, Func<Value, Call, Value>> s_filters = new Dictionary<string, Func<Value, Call, Value>>
    {
        ["abs"] = Abs,
        ["attr"] = static (v, c) => Own(v, c.Text(c.Bind("name")[0], "name").Chars),
        ["batch"] = Batch,
        ["capitalize"] = static (v, c) => Texts.Capitalize(Plain(v, c), c.Budget),
        ["center"] = static (v, c) => Texts.Pad(Soft(v, c), c.Int(c.Bind("width")[0], "width", 80), 0, null, c.Budget),
        ["count"] = Length,
        ["d"] = Default,
        ["default"] = Default,
        ["dictsort"] = DictSort,
        ["e"] = Escape,
        ["escape"] = Escape,
        ["first"] = First,
        ["float"] = Float,
        ["forceescape"] = Escape,
        ["format"] = static (v, c) => PercentFormat.Apply(Soft(v, c), c.Named.Count > 0 ? NamedArguments(c) : new ListValue(c.Positional, ListKind.Tuple), c.Budget),
        ["groupby"] = GroupBy,
        ["indent"] = Indent,
        ["int"] = Int,
        ["items"] = static (v, c) => v is UndefinedValue ? new ListValue([], ListKind.Iterator) : Methods.Entries(v as MapValue ?? throw new TemplateException("items needs a dict"), c),
        ["join"] = Join,
        ["last"] = Last,
        ["length"] = Length,
        ["list"] = static (v, c) => new ListValue(v is ListValue { Kind: not ListKind.List } l ? l.Items : Operators.Items(v, Bare(c).Budget)),
        ["lower"] = static (v, c) => Texts.Lower(Plain(v, c), c.Budget),
        ["map"] = Map,
        ["max"] = static (v, c) => Extreme(v, c, 1),
        ["min"] = static (v, c) => Extreme(v, c, -1),
        ["reject"] = static (v, c) => Select(v, c, byAttribute: false, keep: false),
        ["rejectattr"] = static (v, c) => Select(v, c, byAttribute: true, keep: false),
        ["replace"] = Replace,
        ["reverse"] = Reverse,
        ["round"] = Round,
        ["safe"] = Plain,
        ["select"] = static (v, c) => Select(v, c, byAttribute: false, keep: true),
        ["selectattr"] = static (v, c) => Select(v, c, byAttribute: true, keep: true),
        ["slice"] = Slice,
        ["sort"] = Sort,
        ["string"] = Plain,
        ["sum"] = Sum,
        ["title"] = Title,
        ["tojson"] = JsonText.Filter,
        ["trim"] = static (v, c) => Texts.Strip(Soft(v, c), c.Bind("chars")[0], left: true, right: true, c.Budget),
        ["truncate"] = Truncate,
        ["unique"] = Unique,
        ["upper"] = static (v, c) => Texts.Upper(Plain(v, c), c.Budget),
        ["wordcount"] = static (v, c) => new IntegerValue(Texts.Split(Plain(v, c), null, -1, fromRight: false, c.Budget).Items.Count),
    }.ToFrozenDictionary(StringComparer.Ordinal);

    public static bool IsKnown(string name) => s_filters.ContainsKey(name);

    public static Value Apply(string name, Value value, Call call) =>
        s_filters.TryGetValue(name, out var filter) ? filter(value, call) : throw new TemplateException($"the filter '{name}' is not known here");

    /// <summary>The value as text; the filter takes no argument.</summary>
    private static TextValue Plain(Value value, Call call) => PythonText.Print(value, Bare(call).Budget);

    private static TextValue Soft(Value value, Call call) => PythonText.Print(value, call.Budget);

    private static Call Bare(Call call)
    {
        call.Bind();
        return call;
    }

    private static MapValue NamedArguments(Call call)
    {
        var map = new MapValue();
        foreach (var (key, value) in call.Named) map.With(key, value);
        return map;
    }

    /// <summary>A method or member, never a key.</summary>
    private static Value Own(Value value, string name) => value is MapValue ? (Value?)Methods.Find(value, name) ?? new UndefinedValue($"'{name}'") : Evaluator.Member(value, name);

    private static Value Default(Value value, Call call)
    {
        var given = call.Bind("default_value", "boolean");
        bool missing = value is UndefinedValue || (call.Flag(given[1]) && !Operators.Truth(value));
        return missing ? given[0] ?? TextValue.Empty : value;
    }

    private static Value Abs(Value value, Call call)
    {
        if (!Number.TryOf(value, out var n)) throw value is UndefinedValue u ? u.Used() : new TemplateException($"a {value.TypeName} has no absolute value");
        return n.IsReal ? new RealValue(Math.Abs(n.Real)) : new IntegerValue(BigInteger.Abs(n.Whole));
    }

    private static Value Int(Value value, Call call)
    {
        var given = call.Bind("default", "base");
        if (value is UndefinedValue undefined) throw undefined.Used();
        int radix = call.Int(given[1], "base", 10);
        if (radix != 10) throw new TemplateException("int: only base 10 is known here");
        if (Number.TryOf(value, out var n)) return !n.IsReal ? new IntegerValue(n.Whole) : double.IsFinite(n.Real) ? new IntegerValue(new BigInteger(n.Real)) : given[0] ?? IntegerValue.Zero;
        if (value is TextValue text && Numerals.TryInteger(text.Chars, call.Budget, out var whole)) return new IntegerValue(whole);
        if (value is TextValue real && Numerals.TryReal(real.Chars, call.Budget, out double number) && double.IsFinite(number)) return new IntegerValue(new BigInteger(number));
        return given[0] ?? IntegerValue.Zero;
    }

    private static Value Float(Value value, Call call)
    {
        var given = call.Bind("default");
        if (value is UndefinedValue undefined) throw undefined.Used();
        if (Number.TryOf(value, out var n)) return new RealValue(n.AsReal);
        return value is TextValue text && Numerals.TryReal(text.Chars, call.Budget, out double number) ? new RealValue(number) : given[0] ?? new RealValue(0);
    }

    private static Value Round(Value value, Call call)
    {
        var given = call.Bind("precision", "method");
        int digits = Math.Clamp(call.Int(given[0], "precision", 0), -400, 400);
        string method = given[1] is null ? "common" : call.Text(given[1], "method").Chars;
        if (!Number.TryOf(value, out var n)) throw value is UndefinedValue u ? u.Used() : new TemplateException($"a {value.TypeName} cannot be rounded");
        if (method == "common") return n.IsReal ? new RealValue(PythonText.Round(n.Real, digits)) : digits >= 0 ? new IntegerValue(n.Whole) : new IntegerValue(new BigInteger(PythonText.Round((double)n.Whole, digits)));
        double scale = Math.Pow(10, digits);
        return method switch
        {
            "ceil" => new RealValue(Math.Ceiling(n.AsReal * scale) / scale),
            "floor" => new RealValue(Math.Floor(n.AsReal * scale) / scale),
            _ => throw new TemplateException($"round: the method '{method}' is not common, ceil or floor"),
        };
    }

    private static TextValue Replace(Value value, Call call)
    {
        var given = call.Bind("old", "new", "count");
        return Texts.Replace(Soft(value, call), Soft(call.Required(given[0], "old"), call), Soft(call.Required(given[1], "new"), call),
            given[2] is null or NoneValue ? -1 : call.Int(given[2], "count", -1), call.Budget);
    }

    private static TextValue Escape(Value value, Call call)
    {
        var text = Plain(value, call);
        foreach (var (c, entity) in new[] { ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ("\"", "&#34;") })
            text = Texts.Replace(text, new(c, foreign: false), new(entity, text.Foreign), -1, call.Budget);
        return text;
    }

    /// <summary>Words by blanks, hyphens and brackets; not the same as the method of this name.</summary>
    private static TextValue Title(Value value, Call call)
    {
        var text = Plain(value, call);
        call.Budget.Make(text.Chars.Length);
        bool begin = true;
        return text.Mapped(string.Create(text.Chars.Length, text.Chars, (span, from) =>
        {
            for (int i = 0; i < span.Length; i++)
            {
                span[i] = begin ? char.ToUpperInvariant(from[i]) : char.ToLowerInvariant(from[i]);
                begin = TemplateLexer.IsSpace(from[i]) || from[i] is '-' or '(' or '{' or '[' or '<';
            }
        }), call.Budget);
    }

    private static TextValue Indent(Value value, Call call)
    {
        var given = call.Bind("width", "first", "blank");
        var prefix = given[0] is TextValue text ? text : new TextValue(new string(' ', Math.Clamp(call.Int(given[0], "width", 4), 0, FieldFormat.MaxWidth)), foreign: false);
        var newline = new TextValue("\n", foreign: false);
        var lines = Texts.SplitLines(TextValue.Concat(Soft(value, call), newline, call.Budget), keepEnds: false, call.Budget).Items;
        bool first = call.Flag(given[1]), blank = call.Flag(given[2]);
        var to = new TextValue.TextBuilder(call.Budget);
        for (int i = 0; i < lines.Count; i++)
        {
            var line = (TextValue)lines[i];
            if (i > 0) to.Append(newline);
            if (i == 0 ? first : blank || line.Chars.Length > 0) to.Append(prefix);
            to.Append(line);
        }
        return to.ToText();
    }

    private static TextValue Truncate(Value value, Call call)
    {
        var given = call.Bind("length", "killwords", "end", "leeway");
        var text = Soft(value, call);
        int length = call.Int(given[0], "length", 255), leeway = given[3] is NoneValue ? 5 : call.Int(given[3], "leeway", 5);
        var end = given[2] is null ? new TextValue("...", foreign: false) : call.Text(given[2], "end");
        if (length < end.Chars.Length || leeway < 0) throw new TemplateException("truncate: the length is below that of the end");
        if (text.Chars.Length <= length + leeway) return text;
        var part = text.Slice(0, length - end.Chars.Length, call.Budget);
        int space = call.Flag(given[1]) ? -1 : part.Chars.LastIndexOf(' ');
        return TextValue.Concat(space < 0 ? part : part.Slice(0, space, call.Budget), end, call.Budget);
    }
}
