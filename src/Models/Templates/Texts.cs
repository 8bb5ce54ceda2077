using TextBuilder = FlashOrleans.Models.Templates.TextValue.TextBuilder;

namespace FlashOrleans.Models.Templates;

/// <summary>Python's operations on strings. Parts keep the origin of their characters.</summary>
internal static class Texts
{
    public static TextValue Strip(TextValue text, Value? characters, bool left, bool right, RenderBudget budget)
    {
        if (characters is not (null or NoneValue or TextValue)) throw new TemplateException($"strip needs characters, not {characters.TypeName}");
        string? set = (characters as TextValue)?.Chars;
        budget.Look((long)text.Chars.Length * Math.Max(1, (set?.Length ?? 0) / 8));
        int from = 0, to = text.Chars.Length;
        if (left) while (from < to && Goes(text.Chars[from])) from++;
        if (right) while (to > from && Goes(text.Chars[to - 1])) to--;
        return text.Slice(from, to - from, budget);

        bool Goes(char c) => set is null ? TemplateLexer.IsSpace(c) : set.Contains(c, StringComparison.Ordinal);
    }

    public static ListValue Split(TextValue text, TextValue? separator, int most, bool fromRight, RenderBudget budget)
    {
        budget.Look(text.Chars.Length);
        if (separator?.Chars.Length == 0) throw new TemplateException("split: the separator is empty");
        var parts = new List<Value>();
        string chars = text.Chars;
        if (fromRight && most >= 0)
        {
            SplitFromRight(text, separator, most, parts, budget);
            return new(parts);
        }
        int at = 0;
        if (separator is null)
        {
            while (true)
            {
                while (at < chars.Length && TemplateLexer.IsSpace(chars[at])) at++;
                if (at == chars.Length) break;
                int end = at;
                if (most >= 0 && parts.Count == most)
                {
                    Add(at, chars.Length);
                    break;
                }
                while (end < chars.Length && !TemplateLexer.IsSpace(chars[end])) end++;
                Add(at, end);
                at = end;
            }
            return new(parts);
        }
        for (int found; (most < 0 || parts.Count < most) && (found = chars.IndexOf(separator.Chars, at, StringComparison.Ordinal)) >= 0; at = found + separator.Chars.Length) Add(at, found);
        Add(at, chars.Length);
        return new(parts);

        void Add(int from, int to)
        {
            budget.MakeItems(2);
            parts.Add(text.Slice(from, to - from, budget));
        }
    }

    private static void SplitFromRight(TextValue text, TextValue? separator, int most, List<Value> parts, RenderBudget budget)
    {
        string chars = text.Chars;
        int end = chars.Length;
        while (true)
        {
            if (separator is null) while (end > 0 && TemplateLexer.IsSpace(chars[end - 1])) end--;
            if (separator is null && end == 0) break;
            budget.MakeItems(2);
            int from = -1;
            if (parts.Count < most && separator is null)
            {
                from = end;
                while (from > 0 && !TemplateLexer.IsSpace(chars[from - 1])) from--;
            }
            else if (parts.Count < most && end > 0) from = chars.AsSpan(0, end).LastIndexOf(separator!.Chars, StringComparison.Ordinal) is var f && f >= 0 ? f + separator.Chars.Length : -1;
            if (from < 0)
            {
                parts.Add(text.Slice(0, end, budget));
                break;
            }
            parts.Add(text.Slice(from, end - from, budget));
            end = separator is null ? from : from - separator.Chars.Length;
        }
        parts.Reverse();
    }

    public static ListValue SplitLines(TextValue text, bool keepEnds, RenderBudget budget)
    {
        budget.Look(text.Chars.Length);
        var lines = new List<Value>();
        string chars = text.Chars;
        for (int at = 0; at < chars.Length;)
        {
            int end = at;
            while (end < chars.Length && !(chars[end] is '\n' or '\r' or '\v' or '\f' or '\x1c' or '\x1d' or '\x1e' or '\x85' or '\u2028' or '\u2029')) end++;
            int next = end == chars.Length ? end : chars[end] == '\r' && end + 1 < chars.Length && chars[end + 1] == '\n' ? end + 2 : end + 1;
            budget.MakeItems(2);
            lines.Add(text.Slice(at, (keepEnds ? next : end) - at, budget));
            at = next;
        }
        return new(lines);
    }

    public static ListValue Partition(TextValue text, TextValue separator, bool last, RenderBudget budget)
    {
        if (separator.Chars.Length == 0) throw new TemplateException("partition: the separator is empty");
        budget.Look(text.Chars.Length);
        int at = last ? text.Chars.LastIndexOf(separator.Chars, StringComparison.Ordinal) : text.Chars.IndexOf(separator.Chars, StringComparison.Ordinal);
        if (at < 0) return new(last ? [TextValue.Empty, TextValue.Empty, text] : [text, TextValue.Empty, TextValue.Empty], ListKind.Tuple);
        int behind = at + separator.Chars.Length;
        return new([text.Slice(0, at, budget), separator, text.Slice(behind, text.Chars.Length - behind, budget)], ListKind.Tuple);
    }

    public static TextValue Replace(TextValue text, TextValue old, TextValue by, int count, RenderBudget budget)
    {
        budget.Look(text.Chars.Length);
        if (count == 0) return text;
        var to = new TextBuilder(budget);
        int at = 0;
        if (old.Chars.Length == 0)
        {
            for (; at <= text.Chars.Length && count != 0; count--)
            {
                to.Append(by);
                if (at == text.Chars.Length) return to.ToText();
                int step = at + 1 < text.Chars.Length && char.IsSurrogatePair(text.Chars[at], text.Chars[at + 1]) ? 2 : 1;
                to.Append(text, at, step);
                at += step;
            }
        }
        else
        {
            int found = text.Chars.IndexOf(old.Chars, StringComparison.Ordinal);
            if (found < 0) return text;
            for (; found >= 0 && count != 0; count--, found = text.Chars.IndexOf(old.Chars, at, StringComparison.Ordinal))
            {
                to.Append(text, at, found - at);
                to.Append(by);
                at = found + old.Chars.Length;
            }
        }
        to.Append(text, at, text.Chars.Length - at);
        return to.ToText();
    }

    /// <summary>startswith, endswith: one string or a tuple of them, in a part of the text.</summary>
    public static bool Begins(TextValue text, Call call, bool atEnd)
    {
        var given = call.Bind("prefix", "start", "end");
        var part = given[1] is null && given[2] is null ? text : (TextValue)Slices.Take(text, given[1], given[2], null, call.Budget);
        foreach (var one in given[0] is ListValue { Kind: ListKind.Tuple } many ? many.Items : [call.Required(given[0], "prefix")])
        {
            string wanted = call.Text(one, "prefix").Chars;
            call.Budget.Look(wanted.Length);
            if (atEnd ? part.Chars.EndsWith(wanted, StringComparison.Ordinal) : part.Chars.StartsWith(wanted, StringComparison.Ordinal)) return true;
        }
        return false;
    }

    public static Value Find(TextValue text, Call call, bool last, bool orFail)
    {
        var given = call.Bind("sub", "start", "end");
        string wanted = call.Text(given[0], "sub").Chars;
        if (given[1] is not null || given[2] is not null) throw new TemplateException($"{call.Name} takes one argument here");
        call.Budget.Look(text.Chars.Length);
        int at = last ? text.Chars.AsSpan().LastIndexOf(wanted, StringComparison.Ordinal) : text.Chars.IndexOf(wanted, StringComparison.Ordinal);
        if (last && wanted.Length == 0) at = text.Chars.Length;
        if (at < 0 && orFail) throw new TemplateException("the text is not in the string");
        return new IntegerValue(at <= 0 ? at : Slices.Length(text.Slice(0, at, call.Budget), call.Budget));
    }

    public static int Count(TextValue text, TextValue part, RenderBudget budget)
    {
        budget.Look(text.Chars.Length);
        if (part.Chars.Length == 0) return Slices.Length(text, budget) + 1;
        int count = 0;
        for (int at = 0; (at = text.Chars.IndexOf(part.Chars, at, StringComparison.Ordinal)) >= 0; at += part.Chars.Length) count++;
        return count;
    }

    // Two characters out of one: the only such letter in use.
    public static TextValue Upper(TextValue text, RenderBudget budget) => text.Mapped(text.Chars.ToUpperInvariant().Replace("ß", "SS", StringComparison.Ordinal), budget);

    public static TextValue Lower(TextValue text, RenderBudget budget) => text.Mapped(text.Chars.ToLowerInvariant(), budget);

    public static TextValue Capitalize(TextValue text, RenderBudget budget)
    {
        if (text.Chars.Length == 0) return text;
        int first = text.Chars.Length > 1 && char.IsSurrogatePair(text.Chars[0], text.Chars[1]) ? 2 : 1;
        return text.Mapped(string.Concat(text.Chars[..first].ToUpperInvariant(), text.Chars[first..].ToLowerInvariant()), budget);
    }

    /// <summary>Words are runs of letters.</summary>
    public static TextValue Title(TextValue text, RenderBudget budget) => Map(text, budget, static (c, before) => char.IsLetter(before) ? char.ToLowerInvariant(c) : char.ToUpperInvariant(c));

    public static TextValue SwapCase(TextValue text, RenderBudget budget) => Map(text, budget, static (c, _) => char.IsUpper(c) ? char.ToLowerInvariant(c) : char.ToUpperInvariant(c));

    private static TextValue Map(TextValue text, RenderBudget budget, Func<char, char, char> map)
    {
        budget.Make(text.Chars.Length);
        return text.Mapped(string.Create(text.Chars.Length, (text.Chars, map), static (span, from) =>
        {
            for (int i = 0; i < span.Length; i++) span[i] = from.map(from.Chars[i], i == 0 ? ' ' : from.Chars[i - 1]);
        }), budget);
    }

    public static bool IsLower(TextValue text) => text.Chars.Any(char.IsLower) && !text.Chars.Any(char.IsUpper);

    public static bool IsUpper(TextValue text) => text.Chars.Any(char.IsUpper) && !text.Chars.Any(char.IsLower);

    /// <summary>To a width: text at the left (-1), right (1) or in the middle (0).</summary>
    public static TextValue Pad(TextValue text, int width, int side, TextValue? fill, RenderBudget budget)
    {
        if (fill is not null && fill.Chars.Length != 1) throw new TemplateException("the fill is not one character");
        int length = Slices.Length(text, budget), missing = width - length;
        if (missing <= 0) return text;
        budget.Make(missing);
        // Python's centre: the odd blank goes left when the width is odd too.
        int left = side < 0 ? 0 : side > 0 ? missing : missing / 2 + (missing & width & 1);
        char c = fill is null ? ' ' : fill.Chars[0];
        bool foreign = fill?.Foreign ?? false;
        var to = new TextBuilder(budget);
        to.Append(new string(c, left), foreign);
        to.Append(text);
        to.Append(new string(c, missing - left), foreign);
        return to.ToText();
    }

    public static TextValue ZeroFill(TextValue text, int width, RenderBudget budget)
    {
        int missing = width - Slices.Length(text, budget);
        if (missing <= 0) return text;
        budget.Make(missing);
        int sign = text.Chars.Length > 0 && text.Chars[0] is '+' or '-' ? 1 : 0;
        var to = new TextBuilder(budget);
        to.Append(text, 0, sign);
        to.Append(new string('0', missing), foreign: false);
        to.Append(text, sign, text.Chars.Length - sign);
        return to.ToText();
    }
}
