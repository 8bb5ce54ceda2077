using System.Collections.Frozen;

namespace FlashOrleans.Models.Templates;

/// <summary>What can stand behind <c>is</c>.</summary>
internal static class Tests
{
    private static readonly FrozenDictionary<string, Func<Value, Call, bool>> s_tests = new Dictionary<string, Func<Value, Call, bool>>
    {
        ["defined"] = static (v, c) => Is(v is not UndefinedValue, c),
        ["undefined"] = static (v, c) => Is(v is UndefinedValue, c),
        ["none"] = static (v, c) => Is(v is NoneValue, c),
        ["boolean"] = static (v, c) => Is(v is BooleanValue, c),
        ["true"] = static (v, c) => Is(v == BooleanValue.True, c),
        ["false"] = static (v, c) => Is(v == BooleanValue.False, c),
        ["integer"] = static (v, c) => Is(v is IntegerValue, c),
        ["float"] = static (v, c) => Is(v is RealValue, c),
        ["number"] = static (v, c) => Is(Number.TryOf(v, out _), c),
        ["string"] = static (v, c) => Is(v is TextValue, c),
        ["mapping"] = static (v, c) => Is(v is MapValue, c),
        ["iterable"] = static (v, c) => Is(v is TextValue or ListValue or MapValue or UndefinedValue or LoopValue, c),
        ["sequence"] = static (v, c) => Is(v is TextValue or ListValue { Kind: not ListKind.Iterator } or MapValue or UndefinedValue, c),
        // An undefined value has a call operator, that it only raises is not seen.
        ["callable"] = static (v, c) => Is(v is FunctionValue or LoopValue or UndefinedValue, c),
        ["escaped"] = static (_, c) => Is(false, c),
        ["odd"] = static (v, c) => Whole(v, c, "%", new IntegerValue(2)) is IntegerValue { Number.IsOne: true },
        ["even"] = static (v, c) => Whole(v, c, "%", new IntegerValue(2)) is IntegerValue { Number.IsZero: true },
        ["divisibleby"] = static (v, c) => !Operators.Truth(Operators.Binary("%", v, One(c), c.Budget)),
        ["lower"] = static (v, c) => Is(Texts.IsLower(PythonText.Print(v, c.Budget)), c),
        ["upper"] = static (v, c) => Is(Texts.IsUpper(PythonText.Print(v, c.Budget)), c),
        ["sameas"] = static (v, c) => Same(v, One(c)),
        ["in"] = static (v, c) => Operators.Compare("in", v, One(c), c.Budget),
        ["filter"] = static (v, c) => Is(v is TextValue t && Filters.IsKnown(t.Chars), c),
        ["test"] = static (v, c) => Is(v is TextValue t && IsKnown(t.Chars), c),
        ["=="] = Comparing("=="),
        ["eq"] = Comparing("=="),
        ["equalto"] = Comparing("=="),
        ["!="] = Comparing("!="),
        ["ne"] = Comparing("!="),
        ["<"] = Comparing("<"),
        ["lt"] = Comparing("<"),
        ["lessthan"] = Comparing("<"),
        ["<="] = Comparing("<="),
        ["le"] = Comparing("<="),
        [">"] = Comparing(">"),
        ["gt"] = Comparing(">"),
        ["greaterthan"] = Comparing(">"),
        [">="] = Comparing(">="),
        ["ge"] = Comparing(">="),
    }.ToFrozenDictionary(StringComparer.Ordinal);

    public static bool IsKnown(string name) => s_tests.ContainsKey(name);

    public static bool Apply(string name, Value value, Call call) =>
        s_tests.TryGetValue(name, out var test) ? test(value, call) : throw new TemplateException($"the test '{name}' is not known here");

    private static bool Is(bool answer, Call call)
    {
        call.Bind();
        return answer;
    }

    private static Value Whole(Value value, Call call, string op, Value by)
    {
        call.Bind();
        return Operators.Binary(op, value is BooleanValue ? Operators.Binary("+", value, IntegerValue.Zero, call.Budget) : value, by, call.Budget) is RealValue real
            ? real.Number == 1 ? IntegerValue.One : real.Number == 0 ? IntegerValue.Zero : real
            : Operators.Binary(op, value, by, call.Budget);
    }

    private static Value One(Call call) => call.Required(call.Bind("other")[0], "other");

    /// <summary>Identity: Python has one object for each of these, and small whole numbers.</summary>
    private static bool Same(Value a, Value b) => ReferenceEquals(a, b) || (a, b) switch
    {
        (IntegerValue x, IntegerValue y) => x.Number == y.Number,
        (TextValue x, TextValue y) => x.Chars == y.Chars,
        _ => false,
    };

    private static Func<Value, Call, bool> Comparing(string op) => (value, call) => Operators.Compare(op, value, One(call), call.Budget);
}
