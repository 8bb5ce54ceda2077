namespace FlashOrleans.Models.Templates;

/// <summary>The <c>loop</c> of a for block. Items are taken, and a filter behind <c>if</c> asked, one by one: a template can see the difference.</summary>
internal sealed class LoopValue(IEnumerator<Value> source, Func<Value, bool>? filter, int depth, Func<Value, TextValue>? again, RenderBudget budget) : Value
{
    private readonly Queue<Value> _ahead = new();
    private Value? _previous, _current, _changed;
    private int _index = -1;

    public override string TypeName => "LoopContext";
    public int Depth => depth;
    public Value Current => _current!;
    public bool Began => _index >= 0;

    public bool MoveNext()
    {
        budget.Step();
        if (!Ahead()) return false;
        _previous = _current;
        _current = _ahead.Dequeue();
        _index++;
        return true;
    }

    public Value Member(string name) => name switch
    {
        "index" => new IntegerValue(_index + 1),
        "index0" => new IntegerValue(_index),
        "first" => BooleanValue.Of(_index == 0),
        "last" => BooleanValue.Of(!Ahead()),
        "length" => new IntegerValue(Length()),
        "revindex" => new IntegerValue(Length() - _index),
        "revindex0" => new IntegerValue(Length() - _index - 1),
        "depth" => new IntegerValue(depth + 1),
        "depth0" => new IntegerValue(depth),
        "previtem" => _previous ?? new UndefinedValue("loop.previtem of the first item"),
        "nextitem" => Ahead() ? _ahead.Peek() : new UndefinedValue("loop.nextitem of the last item"),
        "cycle" => new FunctionValue("loop.cycle", Cycle),
        "changed" => new FunctionValue("loop.changed", Changed),
        _ => new UndefinedValue($"loop.{name}"),
    };

    /// <summary>Renders the loop's body for the children of an item: <c>loop(item.children)</c> of a recursive loop.</summary>
    public Value Again(Call call)
    {
        if (again is null) throw new TemplateException("loop can only be called in a recursive loop");
        return again(call.Required(call.Bind("iterable")[0], "iterable"));
    }

    private bool Ahead()
    {
        while (_ahead.Count == 0)
        {
            if (!source.MoveNext()) return false;
            budget.Step();
            if (filter is null || filter(source.Current)) _ahead.Enqueue(source.Current);
        }
        return true;
    }

    private int Length()
    {
        while (source.MoveNext())
        {
            budget.Step();
            if (filter is null || filter(source.Current)) _ahead.Enqueue(source.Current);
        }
        return _index + 1 + _ahead.Count;
    }

    private Value Cycle(Call call) => call.Positional.Count == 0
        ? throw new TemplateException("loop.cycle needs something to cycle through")
        : call.Positional[_index % call.Positional.Count];

    private BooleanValue Changed(Call call)
    {
        var now = new ListValue([.. call.Positional], ListKind.Tuple);
        bool same = _changed is not null && Operators.AreEqual(_changed, now, budget);
        _changed = now;
        return BooleanValue.Of(!same);
    }
}
