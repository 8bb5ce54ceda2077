using System.Globalization;
using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>
/// What an expression of a template can be. These and <see cref="TextValue"/> are all there is: nothing of the program can be reached through a value. Immutable, but for
/// <see cref="NamespaceValue"/>.
/// </summary>
internal abstract class Value
{
    /// <summary>Python's name of the type, for messages.</summary>
    public abstract string TypeName { get; }
}

/// <summary>What a name or member that does not exist gives: empty when printed, false, an error when anything is done with it.</summary>
internal sealed class UndefinedValue(string what) : Value
{
    public override string TypeName => "Undefined";
    public TemplateException Used() => new($"{what} is undefined");
}

internal sealed class NoneValue : Value
{
    public static readonly NoneValue Instance = new();
    private NoneValue() { }
    public override string TypeName => "NoneType";
}

internal sealed class BooleanValue : Value
{
    public static readonly BooleanValue True = new(), False = new();
    private BooleanValue() { }
    public override string TypeName => "bool";
    public static BooleanValue Of(bool value) => value ? True : False;
}

/// <summary>Whole numbers have no limit in Python; here they end at <see cref="MaxBits"/>.</summary>
internal sealed class IntegerValue : Value
{
    public const int MaxBits = 4096;
    public static readonly IntegerValue Zero = new(0), One = new(1);

    public IntegerValue(BigInteger number)
    {
        if (number.GetBitLength() > MaxBits) throw new TemplateException("a whole number became too large; the template was stopped");
        Number = number;
    }

    public BigInteger Number { get; }
    public override string TypeName => "int";
}

internal sealed class RealValue(double number) : Value
{
    public double Number { get; } = number;
    public override string TypeName => "float";
}

internal enum ListKind { List, Tuple, Iterator }

/// <summary>A list, a tuple, or what Python makes on demand (a generator, a view, a range), which here is made at once.</summary>
internal sealed class ListValue(IReadOnlyList<Value> items, ListKind kind = ListKind.List) : Value
{
    public IReadOnlyList<Value> Items { get; } = items;
    public ListKind Kind { get; } = kind;
    public override string TypeName => Kind switch { ListKind.List => "list", ListKind.Tuple => "tuple", _ => "generator" };
}

/// <summary>A mapping in order of insertion. Keys are texts, numbers, booleans or none.</summary>
internal sealed class MapValue : Value
{
    private readonly OrderedDictionary<Value, Value> _entries = new(ScalarComparer.Instance);

    public override string TypeName => "dict";
    public int Count => _entries.Count;
    public IEnumerable<KeyValuePair<Value, Value>> Entries => _entries;
    public IList<Value> Keys => _entries.Keys;
    public IList<Value> Values => _entries.Values;

    public Value? Find(Value key) => ScalarComparer.IsKey(key) && _entries.TryGetValue(key, out var value) ? value : null;
    public Value? Find(string key) => Find(new TextValue(key, foreign: false));

    /// <summary>Only while it is being made.</summary>
    public MapValue With(Value key, Value value)
    {
        if (!ScalarComparer.IsKey(key)) throw new TemplateException($"a {key.TypeName} cannot be a key");
        _entries[key] = value;
        return this;
    }

    public MapValue With(string key, Value value) => With(new TextValue(key, foreign: false), value);
}

/// <summary>The one thing that a template can change: <c>{% set ns.x = … %}</c>.</summary>
internal sealed class NamespaceValue : Value
{
    public Dictionary<string, Value> Members { get; } = new(StringComparer.Ordinal);
    public override string TypeName => "Namespace";
}

/// <summary>A macro, a global function or a method bound to its value.</summary>
internal sealed class FunctionValue(string name, Func<Call, Value> body) : Value
{
    public string Name => name;
    public Func<Call, Value> Body => body;
    public override string TypeName => "function";
}

/// <summary>Equality of keys as Python has it: 1, 1.0 and true are one key.</summary>
internal sealed class ScalarComparer : IEqualityComparer<Value>
{
    public static readonly ScalarComparer Instance = new();

    public static bool IsKey(Value value) => value is TextValue or IntegerValue or RealValue or BooleanValue or NoneValue;

    public bool Equals(Value? x, Value? y) => (x, y) switch
    {
        (TextValue a, TextValue b) => a.Chars == b.Chars,
        (NoneValue, NoneValue) => true,
        _ => x is not null && y is not null && Number.TryOf(x, out var a) && Number.TryOf(y, out var b) && Number.Compare(a, b) == 0,
    };

    public int GetHashCode(Value obj) => obj is TextValue text ? text.Chars.GetHashCode(StringComparison.Ordinal) : Number.TryOf(obj, out var n) ? n.AsReal.GetHashCode() : 0;
}

/// <summary>A whole or real number, as arithmetic sees it; true is 1 and false 0.</summary>
internal readonly record struct Number(BigInteger Whole, double Real, bool IsReal)
{
    public double AsReal => IsReal ? Real : (double)Whole;

    public static bool TryOf(Value value, out Number number)
    {
        number = value switch
        {
            IntegerValue i => new(i.Number, 0, false),
            BooleanValue b => new(b == BooleanValue.True ? 1 : 0, 0, false),
            RealValue r => new(0, r.Number, true),
            _ => default,
        };
        return value is IntegerValue or BooleanValue or RealValue;
    }

    /// <summary>Below, equal, above; 2 when one of them is no number (nan).</summary>
    public static int Compare(Number a, Number b)
    {
        if (!a.IsReal && !b.IsReal) return a.Whole.CompareTo(b.Whole);
        if (double.IsNaN(a.AsReal) || double.IsNaN(b.AsReal)) return 2;
        return a.AsReal.CompareTo(b.AsReal);
    }

    /// <summary>A whole number that fits an int, as indices and widths must.</summary>
    public static int Int(Value value, string what)
    {
        if (!TryOf(value, out var n) || n.IsReal) throw new TemplateException($"{what} is a {value.TypeName}, it must be a whole number");
        return n.Whole < int.MinValue ? int.MinValue : n.Whole > int.MaxValue ? int.MaxValue : (int)n.Whole;
    }

    public static string Print(BigInteger whole) => whole.ToString(CultureInfo.InvariantCulture);
}
