using System.Globalization;
using TextBuilder = FlashOrleans.Models.Templates.TextValue.TextBuilder;

namespace FlashOrleans.Models.Templates;

/// <summary>The filter <c>tojson</c> as Hugging Face defines it: Python's <c>json.dumps</c>, characters as they are, nothing escaped for HTML.</summary>
internal sealed class JsonText
{
    private readonly TextBuilder _to;
    private readonly RenderBudget _budget;
    private readonly string? _indent;
    private readonly string _itemSeparator, _keySeparator;
    private readonly bool _ascii, _sorted;

    private JsonText(RenderBudget budget, string? indent, string itemSeparator, string keySeparator, bool ascii, bool sorted)
    {
        _to = new(budget);
        (_budget, _indent, _itemSeparator, _keySeparator, _ascii, _sorted) = (budget, indent, itemSeparator, keySeparator, ascii, sorted);
    }

    public static TextValue Filter(Value value, Call call)
    {
        var given = call.Bind("ensure_ascii", "indent", "separators", "sort_keys");
        string? indent = given[1] switch
        {
            null or NoneValue => null,
            TextValue text => text.Chars,
            var width => new string(' ', Math.Clamp(Number.Int(width, "tojson: 'indent'"), 0, 1000)),
        };
        (string item, string key) = indent is null ? (", ", ": ") : (",", ": ");
        if (given[2] is ListValue { Items: [TextValue between, TextValue after] }) (item, key) = (between.Chars, after.Chars);
        else if (given[2] is not (null or NoneValue)) throw new TemplateException("tojson: 'separators' must be two strings");
        var json = new JsonText(call.Budget, indent, item, key, call.Flag(given[0]), call.Flag(given[3]));
        json.Write(value, 0);
        return json._to.ToText();
    }

    private void Write(Value value, int depth)
    {
        _budget.Enter();
        switch (value)
        {
            case NoneValue: Put("null"); break;
            case BooleanValue flag: Put(flag == BooleanValue.True ? "true" : "false"); break;
            case IntegerValue whole: Put(Number.Print(whole.Number)); break;
            case RealValue real: Put(Real(real.Number)); break;
            case TextValue text: PutText(text.Chars); break;
            case ListValue { Kind: not ListKind.Iterator } list: WriteList(list, depth); break;
            case MapValue map: WriteMap(map, depth); break;
            case UndefinedValue undefined: throw undefined.Used();
            default: throw new TemplateException($"a {value.TypeName} cannot be written as JSON");
        }
        _budget.Leave();
    }

    private void WriteList(ListValue list, int depth)
    {
        if (list.Items.Count == 0)
        {
            Put("[]");
            return;
        }
        Put("[");
        for (int i = 0; i < list.Items.Count; i++)
        {
            if (i > 0) Put(_itemSeparator);
            Line(depth + 1);
            Write(list.Items[i], depth + 1);
        }
        Line(depth);
        Put("]");
    }

    private void WriteMap(MapValue map, int depth)
    {
        if (map.Count == 0)
        {
            Put("{}");
            return;
        }
        var entries = map.Entries;
        if (_sorted)
        {
            _budget.MakeItems(map.Count);
            entries = Sorting.By(map.Entries.ToArray(), static e => e.Key, _budget);
        }
        Put("{");
        bool first = true;
        foreach (var (key, value) in entries)
        {
            if (!first) Put(_itemSeparator);
            first = false;
            Line(depth + 1);
            PutText(key switch
            {
                TextValue text => text.Chars,
                BooleanValue flag => flag == BooleanValue.True ? "true" : "false",
                NoneValue => "null",
                RealValue real => Real(real.Number),
                _ => Number.Print(((IntegerValue)key).Number),
            });
            Put(_keySeparator);
            Write(value, depth + 1);
        }
        Line(depth);
        Put("}");
    }

    private void Line(int depth)
    {
        if (_indent is null) return;
        Put("\n");
        for (int i = 0; i < depth; i++) Put(_indent);
    }

    private static string Real(double value) => double.IsNaN(value) ? "NaN" : double.IsInfinity(value) ? value > 0 ? "Infinity" : "-Infinity" : PythonText.Real(value);

    private void PutText(string text)
    {
        _budget.Make(text.Length);
        Put("\"");
        int plain = 0;
        for (int i = 0; i < text.Length; i++)
        {
            char c = text[i];
            if (c >= ' ' && c is not ('"' or '\\') && !(_ascii && c > '~')) continue;
            Put(text[plain..i]);
            plain = i + 1;
            Put(c switch
            {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\b' => "\\b",
                '\f' => "\\f",
                _ => string.Create(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}"),
            });
        }
        Put(text[plain..]);
        Put("\"");
    }

    private void Put(string text) => _to.Append(text, foreign: true);
}
