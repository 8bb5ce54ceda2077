namespace FlashOrleans.Models.Templates;

/// <summary>Filters on what can be iterated. Where Python makes a generator the items are there at once.</summary>
internal static partial class Filters
{
    private static IntegerValue Length(Value value, Call call)
    {
        call.Bind();
        return new IntegerValue(value switch
        {
            TextValue text => Slices.Length(text, call.Budget),
            ListValue list => list.Items.Count,
            MapValue map => map.Count,
            UndefinedValue => 0,
            _ => throw new TemplateException($"a {value.TypeName} has no length"),
        });
    }

    private static Value First(Value value, Call call) => Operators.Items(value, Bare(call).Budget) is [var first, ..] ? first : new UndefinedValue("the first item of nothing");

    private static Value Last(Value value, Call call) => Operators.Items(value, Bare(call).Budget) is [.., var last] ? last : new UndefinedValue("the last item of nothing");

    private static TextValue Join(Value value, Call call)
    {
        var given = call.Bind("d", "attribute");
        var between = given[0] is null ? TextValue.Empty : Soft(given[0]!, call);
        var to = new TextValue.TextBuilder(call.Budget);
        bool first = true;
        foreach (var item in Operators.Items(value, call.Budget))
        {
            call.Budget.Step();
            if (!first) to.Append(between);
            first = false;
            to.Append(Soft(given[1] is null ? item : Attribute(item, given[1]!, call), call));
        }
        return to.ToText();
    }

    private static ListValue Map(Value value, Call call)
    {
        Func<Value, Value> map;
        if (call.Positional.Count == 0 && call.Named.Count > 0)
        {
            var given = call.Bind("attribute", "default");
            var attribute = call.Required(given[0], "attribute");
            map = item => Attribute(item, attribute, call) is var found && found is UndefinedValue && given[1] is { } otherwise ? otherwise : found;
        }
        else
        {
            var (name, inner) = Inner(call, 0);
            if (!IsKnown(name)) throw new TemplateException($"the filter '{name}' is not known here");
            map = item => Apply(name, item, inner);
        }
        return Each(value, call, static (item, to, map) => to.Add(map(item)), map);
    }

    private static ListValue Select(Value value, Call call, bool byAttribute, bool keep)
    {
        if (byAttribute && call.Positional.Count == 0) throw new TemplateException($"{call.Name} needs an attribute");
        int skip = byAttribute ? 1 : 0;
        Func<Value, bool> test = Operators.Truth;
        if (call.Positional.Count > skip)
        {
            var (name, inner) = Inner(call, skip);
            if (!Tests.IsKnown(name)) throw new TemplateException($"the test '{name}' is not known here");
            test = item => Tests.Apply(name, item, inner);
        }
        return Each(value, call, (item, to, test) =>
        {
            if (test(byAttribute ? Attribute(item, call.Positional[0], call) : item) == keep) to.Add(item);
        }, test);
    }

    /// <summary>A filter or test by name among the arguments, and the arguments for it.</summary>
    private static (string, Call) Inner(Call call, int at)
    {
        string name = call.Text(call.Positional.Count > at ? call.Positional[at] : null, "name").Chars;
        return (name, new Call(call.Run, name, [.. call.Positional.Skip(at + 1)], call.Named));
    }

    private static ListValue Each<T>(Value value, Call call, Action<Value, List<Value>, T> what, T how)
    {
        var items = Operators.Items(value, call.Budget);
        call.Budget.MakeItems(items.Count);
        call.Budget.Enter();
        var to = new List<Value>(items.Count);
        foreach (var item in items)
        {
            call.Budget.Step();
            what(item, to, how);
        }
        call.Budget.Leave();
        return new(to, ListKind.Iterator);
    }

    /// <summary>a.b.0: keys, members and positions with dots between.</summary>
    private static Value Attribute(Value item, Value path, Call call)
    {
        if (path is not TextValue text) return call.Run.Index(item, path);
        foreach (string part in text.Chars.Split('.'))
        {
            call.Budget.Step();
            item = call.Run.Index(item, int.TryParse(part, System.Globalization.NumberStyles.None, null, out int position) ? new IntegerValue(position) : new TextValue(part, foreign: false));
        }
        return item;
    }

    private static Func<Value, Value> Key(Value? attribute, bool caseSensitive, Call call) => item =>
    {
        var key = attribute is null or NoneValue ? item : Attribute(item, attribute, call);
        return !caseSensitive && key is TextValue text ? Texts.Lower(text, call.Budget) : key;
    };

    private static ListValue Sort(Value value, Call call)
    {
        var given = call.Bind("reverse", "case_sensitive", "attribute");
        return new ListValue(Sorting.By(Copy(value, call), Key(given[2], call.Flag(given[1]), call), call.Budget, call.Flag(given[0])));
    }

    private static ListValue DictSort(Value value, Call call)
    {
        var given = call.Bind("case_sensitive", "by", "reverse");
        string by = given[1] is null ? "key" : call.Text(given[1], "by").Chars;
        if (by is not ("key" or "value")) throw new TemplateException("dictsort: 'by' is key or value");
        var entries = Methods.Entries(value as MapValue ?? throw new TemplateException($"a {value.TypeName} cannot be sorted as a dict"), call).Items.ToArray();
        var key = Key(new IntegerValue(by == "key" ? 0 : 1), call.Flag(given[0]), call);
        return new ListValue(Sorting.By(entries, key, call.Budget, call.Flag(given[2])));
    }

    private static Value Extreme(Value value, Call call, int sign)
    {
        var given = call.Bind("case_sensitive", "attribute");
        var key = Key(given[1], call.Flag(given[0]), call);
        Value? best = null;
        foreach (var item in Operators.Items(value, call.Budget))
            if (best is null || Operators.Order(key(item), key(best), call.Budget) is var order && order != 2 && order * sign > 0) best = item;
        return best ?? new UndefinedValue("the extreme of nothing");
    }

    private static ListValue Unique(Value value, Call call)
    {
        var given = call.Bind("case_sensitive", "attribute");
        var key = Key(given[1], call.Flag(given[0]), call);
        var seen = new HashSet<Value>(ScalarComparer.Instance);
        return Each(value, call, (item, to, seen) =>
        {
            var k = key(item);
            if (!ScalarComparer.IsKey(k)) throw new TemplateException($"unique: a {k.TypeName} cannot be a key");
            if (seen.Add(k)) to.Add(item);
        }, seen);
    }

    private static ListValue GroupBy(Value value, Call call)
    {
        var given = call.Bind("attribute", "default", "case_sensitive");
        var key = Key(call.Required(given[0], "attribute"), call.Flag(given[2]), call);
        Func<Value, Value> keyed = item => key(item) is var k && k is UndefinedValue && given[1] is { } otherwise ? otherwise : k;
        var groups = new List<Value>();
        List<Value>? group = null;
        Value? last = null;
        foreach (var item in Sorting.By(Copy(value, call), keyed, call.Budget))
        {
            var k = keyed(item);
            if (group is null || !Operators.AreEqual(last!, k, call.Budget))
            {
                group = [];
                call.Budget.MakeItems(4);
                var shown = given[0] is { } path && Attribute(item, path, call) is var original && original is not UndefinedValue ? original : k;
                groups.Add(new ListValue([shown, new ListValue(group)], ListKind.Tuple));
            }
            group.Add(item);
            last = k;
        }
        return new ListValue(groups);
    }

    private static Value Sum(Value value, Call call)
    {
        var given = call.Bind("attribute", "start");
        Value sum = given[1] ?? IntegerValue.Zero;
        foreach (var item in Operators.Items(value, call.Budget))
            sum = Operators.Binary("+", sum, given[0] is null or NoneValue ? item : Attribute(item, given[0]!, call), call.Budget);
        return sum;
    }

    private static Value Reverse(Value value, Call call)
    {
        if (value is TextValue text) return Slices.Take(text, null, null, new IntegerValue(-1), Bare(call).Budget);
        var items = Copy(value, Bare(call));
        Array.Reverse(items);
        return new ListValue(items, ListKind.Iterator);
    }

    private static ListValue Batch(Value value, Call call)
    {
        var given = call.Bind("linecount", "fill_with");
        int size = call.Int(call.Required(given[0], "linecount"), "linecount", 1);
        if (size < 1) throw new TemplateException("batch: 'linecount' must be positive");
        var rows = new List<Value>();
        foreach (var chunk in Copy(value, call).Chunk(size))
        {
            bool fill = chunk.Length < size && given[1] is not (null or NoneValue);
            call.Budget.MakeItems(fill ? size : chunk.Length);
            rows.Add(new ListValue(fill ? [.. chunk, .. Enumerable.Repeat(given[1]!, size - chunk.Length)] : chunk));
        }
        return new ListValue(rows, ListKind.Iterator);
    }

    private static ListValue Slice(Value value, Call call)
    {
        var given = call.Bind("slices", "fill_with");
        int slices = call.Int(call.Required(given[0], "slices"), "slices", 1);
        if (slices < 1) throw new TemplateException("slice: 'slices' must be positive");
        call.Budget.MakeItems(2L * slices);
        var items = Copy(value, call);
        int each = items.Length / slices, more = items.Length % slices, at = 0;
        var rows = new List<Value>();
        for (int i = 0; i < slices; i++)
        {
            int count = each + (i < more ? 1 : 0);
            var row = items[at..(at + count)].ToList();
            at += count;
            if (given[1] is { } filler and not NoneValue && more > 0 && i >= more) row.Add(filler);
            rows.Add(new ListValue(row));
        }
        return new ListValue(rows, ListKind.Iterator);
    }

    private static Value[] Copy(Value value, Call call)
    {
        var items = Operators.Items(value, call.Budget);
        call.Budget.MakeItems(items.Count);
        return [.. items];
    }
}
