using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>Items by position and <c>[start:stop:step]</c> of strings, lists and tuples, counted as Python counts: from the end with a minus, strings in code points.</summary>
internal static class Slices
{
    /// <summary>Where the code points of a text begin, and its end; null when every character is one.</summary>
    public static int[]? Starts(TextValue text, RenderBudget budget)
    {
        budget.Look(text.Chars.Length);
        if (!text.HasSurrogates) return null;
        budget.Make(text.Chars.Length);
        var starts = new List<int>(text.Chars.Length);
        for (int i = 0; i < text.Chars.Length; i++)
        {
            starts.Add(i);
            if (i + 1 < text.Chars.Length && char.IsSurrogatePair(text.Chars[i], text.Chars[i + 1])) i++;
        }
        starts.Add(text.Chars.Length);
        return starts.ToArray();
    }

    public static int Length(TextValue text, RenderBudget budget)
    {
        budget.Look(text.Chars.Length);
        int pairs = 0;
        for (int i = 0; i + 1 < text.Chars.Length; i++)
            if (char.IsSurrogatePair(text.Chars[i], text.Chars[i + 1])) pairs++;
        return text.Chars.Length - pairs;
    }

    /// <summary>The item at a position; null when there is none.</summary>
    public static Value? At(Value target, BigInteger position, RenderBudget budget)
    {
        int[]? starts = null;
        int count;
        if (target is ListValue { Kind: not ListKind.Iterator } list) count = list.Items.Count;
        else if (target is TextValue text) count = (starts = Starts(text, budget)) is null ? text.Chars.Length : starts.Length - 1;
        else return null;
        if (position < 0) position += count;
        if (position < 0 || position >= count) return null;
        int at = (int)position;
        return target is TextValue chars
            ? starts is null ? chars.Slice(at, 1, budget) : chars.Slice(starts[at], starts[at + 1] - starts[at], budget)
            : ((ListValue)target).Items[at];
    }

    public static Value Take(Value target, Value? start, Value? stop, Value? step, RenderBudget budget)
    {
        int[]? starts = null;
        int count;
        if (target is ListValue { Kind: not ListKind.Iterator } list) count = list.Items.Count;
        else if (target is TextValue text) count = (starts = Starts(text, budget)) is null ? text.Chars.Length : starts.Length - 1;
        else if (target is NoneValue) return new UndefinedValue("a slice of none");
        else throw target is UndefinedValue undefined ? undefined.Used() : new TemplateException($"a {target.TypeName} cannot be sliced");

        int by = Bound(step) ?? 1;
        if (by == 0) throw new TemplateException("a slice's step cannot be 0");
        (int low, int high) = by > 0 ? (0, count) : (-1, count - 1);
        int from = Clip(Bound(start), by > 0 ? low : high), to = Clip(Bound(stop), by > 0 ? high : low);
        long taken = by > 0 ? ((long)to - from + by - 1) / by : ((long)from - to - by - 1) / -(long)by;
        int many = (int)Math.Max(0, taken);

        if (target is TextValue chars)
        {
            if (by == 1) return starts is null ? chars.Slice(from, many, budget) : many == 0 ? TextValue.Empty : chars.Slice(starts[from], starts[from + many] - starts[from], budget);
            var builder = new TextValue.TextBuilder(budget);
            for (int i = 0; i < many; i++)
            {
                int at = from + i * by;
                if (starts is null) builder.Append(chars, at, 1);
                else builder.Append(chars, starts[at], starts[at + 1] - starts[at]);
            }
            return builder.ToText();
        }
        var source = (ListValue)target;
        budget.MakeItems(many);
        var items = new Value[many];
        for (int i = 0; i < many; i++) items[i] = source.Items[from + i * by];
        return new ListValue(items, source.Kind);

        int Clip(int? bound, int otherwise)
        {
            if (bound is not { } value) return otherwise;
            if (value < 0) value = (int)Math.Max((long)value + count, low);
            return Math.Min(value, high);
        }
    }

    private static int? Bound(Value? value) => value is null or NoneValue ? null : Number.Int(value, "a slice's bound");
}
