using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>Python's operators on values: what they do with which types, and that everything else is an error rather than a guess.</summary>
internal static class Operators
{
    public static bool Truth(Value value) => value switch
    {
        TextValue text => text.Chars.Length > 0,
        BooleanValue flag => flag == BooleanValue.True,
        ListValue list => list.Kind == ListKind.Iterator || list.Items.Count > 0,
        MapValue map => map.Count > 0,
        IntegerValue whole => !whole.Number.IsZero,
        RealValue real => real.Number != 0,
        NoneValue or UndefinedValue => false,
        _ => true,
    };

    /// <summary>What a for block goes through.</summary>
    public static IEnumerable<Value> Iterate(Value value, RenderBudget budget) => value is MapValue map ? map.Keys : Items(value, budget);

    public static IReadOnlyList<Value> Items(Value value, RenderBudget budget)
    {
        switch (value)
        {
            case ListValue list: return list.Items;
            case MapValue map:
                budget.MakeItems(map.Count);
                return [.. map.Keys];
            case TextValue text:
                var starts = Slices.Starts(text, budget);
                int count = starts is null ? text.Chars.Length : starts.Length - 1;
                budget.MakeItems(2L * count);
                var characters = new Value[count];
                for (int i = 0; i < count; i++) characters[i] = starts is null ? text.Slice(i, 1, budget) : text.Slice(starts[i], starts[i + 1] - starts[i], budget);
                return characters;
            case UndefinedValue: return [];
            default: throw new TemplateException($"a {value.TypeName} cannot be iterated");
        }
    }

    public static bool AreEqual(Value a, Value b, RenderBudget budget)
    {
        budget.Enter();
        bool equal = (a, b) switch
        {
            (TextValue x, TextValue y) => SameText(x, y, budget),
            (ListValue x, ListValue y) => x.Kind == y.Kind && SameItems(x.Items, y.Items, budget),
            (MapValue x, MapValue y) => SameEntries(x, y, budget),
            (NoneValue, NoneValue) or (UndefinedValue, UndefinedValue) => true,
            _ => Number.TryOf(a, out var n) && Number.TryOf(b, out var m) ? Number.Compare(n, m) == 0 : ReferenceEquals(a, b),
        };
        budget.Leave();
        return equal;
    }

    private static bool SameText(TextValue a, TextValue b, RenderBudget budget)
    {
        if (a.Chars.Length != b.Chars.Length) return false;
        budget.Look(a.Chars.Length);
        return a.Chars == b.Chars;
    }

    private static bool SameItems(IReadOnlyList<Value> a, IReadOnlyList<Value> b, RenderBudget budget)
    {
        if (a.Count != b.Count) return false;
        for (int i = 0; i < a.Count; i++)
            if (!AreEqual(a[i], b[i], budget)) return false;
        return true;
    }

    private static bool SameEntries(MapValue a, MapValue b, RenderBudget budget)
    {
        if (a.Count != b.Count) return false;
        foreach (var (key, value) in a.Entries)
            if (b.Find(key) is not { } other || !AreEqual(value, other, budget)) return false;
        return true;
    }

    public static bool Compare(string op, Value a, Value b, RenderBudget budget) => op switch
    {
        "==" => AreEqual(a, b, budget),
        "!=" => !AreEqual(a, b, budget),
        "in" => Contains(b, a, budget),
        "not in" => !Contains(b, a, budget),
        _ => Order(op, a, b, budget),
    };

    private static bool Order(string op, Value a, Value b, RenderBudget budget)
    {
        int order = Order(a, b, budget, op);
        if (order == 2) return false;
        return op switch { "<" => order < 0, "<=" => order <= 0, ">" => order > 0, _ => order >= 0 };
    }

    /// <summary>Below 0, 0 or 1; 2 where a nan is in the way. Values of kinds that have no order are an error.</summary>
    public static int Order(Value a, Value b, RenderBudget budget, string op = "<")
    {
        if (Number.TryOf(a, out var n) && Number.TryOf(b, out var m)) return Number.Compare(n, m);
        if (a is TextValue x && b is TextValue y)
        {
            budget.Look(Math.Min(x.Chars.Length, y.Chars.Length));
            return Math.Sign(CompareCodePoints(x.Chars, y.Chars));
        }
        if (a is ListValue { Kind: not ListKind.Iterator } p && b is ListValue q && p.Kind == q.Kind)
        {
            budget.Enter();
            for (int i = 0; i < Math.Min(p.Items.Count, q.Items.Count); i++)
            {
                if (AreEqual(p.Items[i], q.Items[i], budget)) continue;
                int order = Order(p.Items[i], q.Items[i], budget, op);
                budget.Leave();
                return order;
            }
            budget.Leave();
            return p.Items.Count.CompareTo(q.Items.Count);
        }
        if (a is UndefinedValue u) throw u.Used();
        if (b is UndefinedValue v) throw v.Used();
        throw new TemplateException($"'{op}' is not possible between {a.TypeName} and {b.TypeName}");
    }

    /// <summary>Ordinal by code point: a surrogate stands above all of the basic plane.</summary>
    private static int CompareCodePoints(string a, string b)
    {
        int at = a.AsSpan().CommonPrefixLength(b);
        if (at == a.Length || at == b.Length) return a.Length.CompareTo(b.Length);
        bool high = char.IsSurrogate(a[at]), otherHigh = char.IsSurrogate(b[at]);
        return high == otherHigh ? a[at].CompareTo(b[at]) : high ? 1 : -1;
    }

    public static bool Contains(Value container, Value item, RenderBudget budget)
    {
        switch (container)
        {
            case TextValue text:
                if (item is not TextValue part) throw new TemplateException($"'in' needs a str to look for in a str, not {item.TypeName}");
                budget.Look(text.Chars.Length);
                return text.Chars.Contains(part.Chars, StringComparison.Ordinal);
            case MapValue map: return map.Find(item) is not null || (!ScalarComparer.IsKey(item) && item is not UndefinedValue ? throw new TemplateException($"a {item.TypeName} cannot be a key") : false);
            case ListValue list:
                foreach (var candidate in list.Items)
                    if (AreEqual(candidate, item, budget)) return true;
                return false;
            case UndefinedValue: return false;
            default: throw new TemplateException($"a {container.TypeName} cannot be searched with 'in'");
        }
    }

    public static Value Sign(Value value, bool negative)
    {
        if (value is UndefinedValue undefined) throw undefined.Used();
        if (!Number.TryOf(value, out var n)) throw new TemplateException($"a {value.TypeName} has no sign");
        if (n.IsReal) return new RealValue(negative ? -n.Real : n.Real);
        return new IntegerValue(negative ? -n.Whole : n.Whole);
    }

    public static Value Binary(string op, Value a, Value b, RenderBudget budget)
    {
        if (op == "~") return TextValue.Concat(PythonText.Print(a, budget), PythonText.Print(b, budget), budget);
        if (a is UndefinedValue u) throw u.Used();
        if (op == "%" && a is TextValue format) return PercentFormat.Apply(format, b, budget);
        if (b is UndefinedValue v) throw v.Used();
        if (Number.TryOf(a, out var n) && Number.TryOf(b, out var m)) return n.IsReal || m.IsReal ? Real(op, n.AsReal, m.AsReal) : Whole(op, n.Whole, m.Whole);
        if (op == "+")
        {
            if (a is TextValue x && b is TextValue y) return TextValue.Concat(x, y, budget);
            if (a is ListValue p && b is ListValue q && p.Kind == q.Kind && p.Kind != ListKind.Iterator)
            {
                budget.MakeItems(p.Items.Count + q.Items.Count);
                return new ListValue([.. p.Items, .. q.Items], p.Kind);
            }
            if (a is TextValue || b is TextValue) throw new TemplateException($"only str can be added to str, not {(a is TextValue ? b : a).TypeName}");
        }
        if (op == "*" && Number.TryOf(b, out var times) && !times.IsReal && a is TextValue or ListValue { Kind: not ListKind.Iterator }) return Repeat(a, times.Whole, budget);
        if (op == "*" && Number.TryOf(a, out times) && !times.IsReal && b is TextValue or ListValue { Kind: not ListKind.Iterator }) return Repeat(b, times.Whole, budget);
        throw new TemplateException($"'{op}' is not possible between {a.TypeName} and {b.TypeName}");
    }

    private static Value Repeat(Value value, BigInteger times, RenderBudget budget)
    {
        long many = times < 0 ? 0 : times > int.MaxValue ? int.MaxValue : (long)times;
        if (value is TextValue text)
        {
            budget.Make(many * text.Chars.Length);
            var builder = new TextValue.TextBuilder(budget);
            for (long i = 0; i < many && text.Chars.Length > 0; i++) builder.Append(text);
            return builder.ToText();
        }
        var list = (ListValue)value;
        budget.MakeItems(many * list.Items.Count);
        var items = new List<Value>();
        for (long i = 0; i < many && list.Items.Count > 0; i++) items.AddRange(list.Items);
        return new ListValue(items, list.Kind);
    }

    private static Value Whole(string op, BigInteger a, BigInteger b)
    {
        switch (op)
        {
            case "+": return new IntegerValue(a + b);
            case "-": return new IntegerValue(a - b);
            case "*": return new IntegerValue(a * b);
            case "/": return b.IsZero ? throw ByZero() : new RealValue((double)a / (double)b);
            case "**" when b < 0: return a.IsZero ? throw ByZero() : new RealValue(Math.Pow((double)a, (double)b));
            case "**":
                if (a.IsZero || a.IsOne) return new IntegerValue(b.IsZero ? 1 : a);
                if (b > IntegerValue.MaxBits || a.GetBitLength() * (long)b > 2 * IntegerValue.MaxBits) throw new TemplateException("a whole number became too large; the template was stopped");
                return new IntegerValue(BigInteger.Pow(a, (int)b));
        }
        if (b.IsZero) throw ByZero();
        var quotient = BigInteger.DivRem(a, b, out var rest);
        bool down = !rest.IsZero && rest.Sign != b.Sign;
        return new IntegerValue(op == "//" ? quotient - (down ? 1 : 0) : rest + (down ? b : 0));
    }

    private static RealValue Real(string op, double a, double b)
    {
        if (b == 0 && op is "/" or "//" or "%") throw ByZero();
        double rest = 0;
        if (op is "//" or "%")
        {
            rest = a % b;
            if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
            else if (rest == 0) rest = Math.CopySign(0, b);
        }
        return new(op switch
        {
            "+" => a + b,
            "-" => a - b,
            "*" => a * b,
            "/" => a / b,
            "//" => Floor((a - rest) / b),
            "%" => rest,
            _ => Math.Pow(a, b),
        });

        // The division above is exact but for rounding.
        static double Floor(double quotient) => Math.Floor(quotient) is var whole && quotient - whole > 0.5 ? whole + 1 : whole;
    }

    private static TemplateException ByZero() => new("division by zero");
}
