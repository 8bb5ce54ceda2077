using TextBuilder = FlashOrleans.Models.Templates.TextValue.TextBuilder;

namespace FlashOrleans.Models.Templates;

/// <summary><c>str.format</c>. A field names an argument, by position or name, and nothing inside it: members are the way out of sandboxes.</summary>
internal static class BraceFormat
{
    public static TextValue Apply(TextValue format, Call call)
    {
        var to = new TextBuilder(call.Budget);
        string text = format.Chars;
        int next = 0;
        for (int at = 0; at < text.Length;)
        {
            int brace = text.AsSpan(at).IndexOfAny('{', '}');
            if (brace < 0)
            {
                to.Append(format, at, text.Length - at);
                break;
            }
            to.Append(format, at, brace);
            at += brace;
            if (at + 1 < text.Length && text[at + 1] == text[at])
            {
                to.Append(format, at, 1);
                at += 2;
                continue;
            }
            int close = text.IndexOf('}', at);
            if (text[at] == '}' || close < 0) throw new TemplateException("a format has a single brace");
            string field = text[(at + 1)..close];
            at = close + 1;
            int colon = field.IndexOf(':', StringComparison.Ordinal), bang = field.IndexOf('!', StringComparison.Ordinal);
            if (bang >= 0 && colon >= 0 && bang > colon) bang = -1;
            string name = field[..(bang >= 0 ? bang : colon >= 0 ? colon : field.Length)];
            string conversion = bang < 0 ? "" : field[(bang + 1)..(colon < 0 ? field.Length : colon)];
            Put(to, Convert(Find(name), conversion, call.Budget), colon < 0 ? "" : field[(colon + 1)..], call.Budget);
        }
        return to.ToText();

        Value Find(string name)
        {
            if (name.Length == 0) return At(next++);
            if (name.Length < 6 && int.TryParse(name, System.Globalization.NumberStyles.None, null, out int position)) return At(position);
            foreach (var (key, value) in call.Named)
                if (key == name) return value;
            throw new TemplateException($"the format's field '{name}' is missing");
        }

        Value At(int position) => position < call.Positional.Count ? call.Positional[position] : throw new TemplateException("fewer arguments than the format has places for");
    }

    private static Value Convert(Value value, string conversion, RenderBudget budget) => conversion switch
    {
        "" => value,
        "s" => PythonText.Print(value, budget),
        "r" or "a" => PythonText.Repr(value, budget),
        _ => throw new TemplateException($"the conversion '!{conversion}' is not known here"),
    };

    private static void Put(TextBuilder to, Value value, string spec, RenderBudget budget)
    {
        if (spec.Length == 0)
        {
            to.Append(PythonText.Print(value, budget));
            return;
        }
        var field = Parse(spec);
        if (Number.TryOf(value, out var number) && field.Type != 's')
        {
            to.Append(field.Format(number), foreign: true);
            return;
        }
        if (value is not TextValue text) throw new TemplateException($"a {value.TypeName} takes no format");
        if (field.Type is not ('\0' or 's') || field.Align == '=') throw new TemplateException($"the format '{spec}' is not one for a str");
        if (field.Precision >= 0) text = text.Slice(0, Math.Min(field.Precision, text.Chars.Length), budget);
        string padded = field.Pad(text.Chars, '<');
        to.Append(padded.Length == text.Chars.Length ? text : new TextValue(padded, text.Foreign));
    }

    private static FieldFormat Parse(string spec)
    {
        var field = new FieldFormat { Precision = -1 };
        int at = 0;
        if (spec.Length > 1 && spec[1] is '<' or '>' or '^' or '=')
        {
            field = field with { Fill = spec[0], Align = spec[1] };
            at = 2;
        }
        else if (spec[0] is '<' or '>' or '^' or '=')
        {
            field = field with { Align = spec[0] };
            at = 1;
        }
        if (at < spec.Length && spec[at] is '+' or '-' or ' ') field = field with { Sign = spec[at++] };
        if (at < spec.Length && spec[at] == '#') (field, at) = (field with { Alternate = true }, at + 1);
        if (at < spec.Length && spec[at] == '0')
        {
            if (field.Align == '\0') field = field with { Align = '=', Fill = '0' };
            at++;
        }
        field = field with { Width = Count(FieldFormat.MaxWidth) ?? 0 };
        if (at < spec.Length && spec[at] is ',') (field, at) = (field with { Grouped = true }, at + 1);
        if (at < spec.Length && spec[at] == '.')
        {
            at++;
            field = field with { Precision = Count(FieldFormat.MaxPrecision) ?? throw new TemplateException($"the format '{spec}' has no precision") };
        }
        if (at < spec.Length) field = field with { Type = spec[at++] };
        if (at < spec.Length || (field.Type != '\0' && !"dxXobfFeEgG%s".Contains(field.Type, StringComparison.Ordinal))) throw new TemplateException($"the format '{spec}' is not known here");
        return field;

        int? Count(int most)
        {
            int start = at, value = 0;
            for (; at < spec.Length && char.IsAsciiDigit(spec[at]); at++)
                if ((value = value * 10 + (spec[at] - '0')) > most) throw new TemplateException("a format's width is too large");
            return at == start ? null : value;
        }
    }
}
