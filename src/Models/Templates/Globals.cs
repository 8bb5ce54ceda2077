using System.Collections.Frozen;
using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>Functions that every template can call.</summary>
internal static class Globals
{
    /// <summary>Jinja's sandbox refuses longer ranges as well.</summary>
    private const int LongestRange = 100_000;

    private static readonly FrozenDictionary<string, Value> s_globals = new[]
    {
        new FunctionValue("range", Range),
        new FunctionValue("dict", Dict),
        new FunctionValue("namespace", Namespace),
        new FunctionValue("joiner", Joiner),
        new FunctionValue("raise_exception", static c => throw new TemplateException($"the template refuses this conversation: {PythonText.Print(c.Required(c.Bind("message")[0], "message"), c.Budget).Chars}")),
        new FunctionValue("strftime_now", Clock.Format),
    }.ToFrozenDictionary(static f => f.Name, static f => (Value)f, StringComparer.Ordinal);

    public static Value? Find(string name) => s_globals.GetValueOrDefault(name);

    private static ListValue Range(Call call)
    {
        var given = call.Bind("start", "stop", "step");
        int first = call.Int(call.Required(given[0], "start"), "start", 0);
        (long start, long stop, long step) = given[1] is null ? (0, first, 1) : (first, call.Int(given[1], "stop", 0), call.Int(given[2], "step", 1));
        if (step == 0) throw new TemplateException("range: the step cannot be 0");
        long count = Math.Max(0, step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step);
        if (count > LongestRange) throw new TemplateException($"a range of more than {LongestRange} numbers; the template was stopped");
        call.Budget.MakeItems(2 * count);
        var items = new Value[count];
        for (int i = 0; i < count; i++) items[i] = new IntegerValue(new BigInteger(start + i * step));
        return new ListValue(items);
    }

    private static MapValue Dict(Call call)
    {
        var map = new MapValue();
        if (call.Positional.Count > 1) throw new TemplateException("dict takes one argument and named ones");
        if (call.Positional.Count == 1) Entries(call.Positional[0], call, (key, value) => map.With(key, value));
        foreach (var (key, value) in call.Named) map.With(key, value);
        return map;
    }

    private static NamespaceValue Namespace(Call call)
    {
        var space = new NamespaceValue();
        if (call.Positional.Count > 1) throw new TemplateException("namespace takes one argument and named ones");
        if (call.Positional.Count == 1)
            Entries(call.Positional[0], call, (key, value) => space.Members[key is TextValue text ? text.Chars : throw new TemplateException("names of a namespace are strings")] = value);
        foreach (var (key, value) in call.Named) space.Members[key] = value;
        return space;
    }

    private static void Entries(Value from, Call call, Action<Value, Value> add)
    {
        if (from is MapValue map)
        {
            call.Budget.MakeItems(2 * map.Count);
            foreach (var (key, value) in map.Entries) add(key, value);
            return;
        }
        foreach (var pair in Operators.Items(from, call.Budget))
        {
            call.Budget.MakeItems(2);
            if (Operators.Items(pair, call.Budget) is not [var key, var value]) throw new TemplateException($"{call.Name} needs pairs");
            add(key, value);
        }
    }

    private static FunctionValue Joiner(Call call)
    {
        var between = call.Bind("sep")[0] ?? new TextValue(", ", foreign: false);
        bool used = false;
        return new FunctionValue("joiner", c =>
        {
            c.Bind();
            var text = used ? between : TextValue.Empty;
            used = true;
            return text;
        });
    }
}
