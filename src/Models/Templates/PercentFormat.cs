using System.Numerics;
using TextBuilder = FlashOrleans.Models.Templates.TextValue.TextBuilder;

namespace FlashOrleans.Models.Templates;

/// <summary>Formatting by percent signs, <c>'%s-%02d' % (name, number)</c>, and by braces, <c>'{}: {:.2f}'.format(name, number)</c>.</summary>
internal static class PercentFormat
{
    public static TextValue Apply(TextValue format, Value arguments, RenderBudget budget)
    {
        var positional = arguments is ListValue { Kind: ListKind.Tuple } tuple ? tuple.Items : [arguments];
        var to = new TextBuilder(budget);
        string text = format.Chars;
        int next = 0;
        bool byKey = false;
        for (int at = 0; at < text.Length;)
        {
            int sign = text.IndexOf('%', at);
            if (sign < 0) sign = text.Length;
            to.Append(format, at, sign - at);
            at = sign + 1;
            if (at > text.Length) break;
            Value? item = null;
            if (at < text.Length && text[at] == '(')
            {
                int close = text.IndexOf(')', at);
                if (close < 0 || arguments is not MapValue map) throw new TemplateException("a format with names needs a dict");
                item = map.Find(text[(at + 1)..close]) ?? throw new TemplateException($"the format's name '{text[(at + 1)..close]}' is missing");
                byKey = true;
                at = close + 1;
            }
            var field = Parse(text, ref at, Take);
            if (field.Type == '%')
            {
                to.Append(format, at - 1, 1);
                continue;
            }
            item ??= Take();
            Put(to, item, field, budget);
        }
        if (!byKey && next < positional.Count && arguments is not (MapValue or ListValue { Kind: ListKind.List })) throw new TemplateException("more arguments than the format has places for");
        return to.ToText();

        Value Take() => next < positional.Count ? positional[next++] : throw new TemplateException("fewer arguments than the format has places for");
    }

    private static FieldFormat Parse(string text, ref int at, Func<Value> take)
    {
        var field = new FieldFormat { Precision = -1 };
        for (; at < text.Length && text[at] is '-' or '+' or ' ' or '0' or '#'; at++)
        {
            field = text[at] switch
            {
                '-' => field with { Align = '<', Fill = ' ' },
                '0' => field.Align == '<' ? field : field with { Align = '=', Fill = '0' },
                '#' => field with { Alternate = true },
                '+' => field with { Sign = '+' },
                _ => field.Sign == '+' ? field : field with { Sign = ' ' },
            };
        }
        field = field with { Width = Count(text, ref at, FieldFormat.MaxWidth) ?? 0 };
        if (at < text.Length && text[at] == '.')
        {
            at++;
            field = field with { Precision = Count(text, ref at, FieldFormat.MaxPrecision) ?? 0 };
        }
        while (at < text.Length && text[at] is 'h' or 'l' or 'L') at++;
        if (at >= text.Length) throw new TemplateException("a format ends inside a field");
        return field with { Type = text[at++] };

        int? Count(string from, ref int position, int most)
        {
            if (position < from.Length && from[position] == '*')
            {
                position++;
                return Math.Clamp(Number.Int(take(), "a format's width"), 0, most);
            }
            int start = position, value = 0;
            for (; position < from.Length && char.IsAsciiDigit(from[position]); position++)
                if ((value = value * 10 + (from[position] - '0')) > most) throw new TemplateException("a format's width is too large");
            return position == start ? null : value;
        }
    }

    private static void Put(TextBuilder to, Value item, FieldFormat field, RenderBudget budget)
    {
        switch (field.Type)
        {
            case 's' or 'r' or 'a':
                var text = field.Type == 's' ? PythonText.Print(item, budget) : PythonText.Repr(item, budget);
                if (field.Precision >= 0) text = text.Slice(0, Math.Min(field.Precision, text.Chars.Length), budget);
                int missing = field.Width - Slices.Length(text, budget);
                string padding = missing > 0 ? new string(' ', missing) : "";
                if (field.Align != '<') to.Append(padding, foreign: false);
                to.Append(text);
                if (field.Align == '<') to.Append(padding, foreign: false);
                break;
            case 'd' or 'i' or 'u' or 'x' or 'X' or 'o' or 'f' or 'F' or 'e' or 'E' or 'g' or 'G':
                if (item is UndefinedValue undefined) throw undefined.Used();
                if (!Number.TryOf(item, out var number)) throw new TemplateException($"the format %{field.Type} needs a number, not {item.TypeName}");
                if (field.Type is 'd' or 'i' or 'u')
                {
                    if (number.IsReal && !double.IsFinite(number.Real)) throw new TemplateException("an infinite number cannot be a whole one");
                    number = number.IsReal ? new(new BigInteger(number.Real), 0, false) : number;
                    field = field with { Type = 'd' };
                }
                to.Append(field.Format(number), foreign: true);
                break;
            case 'c' when item is TextValue character && Slices.Length(character, budget) == 1:
                to.Append(character);
                break;
            default: throw new TemplateException($"the format %{field.Type} is not known here");
        }
    }
}
