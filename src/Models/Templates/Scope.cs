namespace FlashOrleans.Models.Templates;

/// <summary>Names of one block. A loop's body, a macro and a with block have their own: what they set is gone behind them, what is outside can be read.</summary>
internal sealed class Scope(Scope? outer)
{
    private Dictionary<string, Value>? _names;

    public Value? Find(string name)
    {
        for (var scope = this; scope is not null; scope = scope.Outer)
            if (scope._names is { } names && names.TryGetValue(name, out var value)) return value;
        return null;
    }

    public void Set(string name, Value value) => (_names ??= new(StringComparer.Ordinal))[name] = value;

    private Scope? Outer => outer;
}
