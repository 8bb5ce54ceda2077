using TextBuilder = FlashOrleans.Models.Templates.TextValue.TextBuilder;

namespace FlashOrleans.Models.Templates;

/// <summary>
/// One rendering: walks the tree, prints into a builder, keeps to its budget. Statements here, expressions in the other file. It sees the variables and the globals it is given and
/// nothing else. Whatever goes wrong is a <see cref="TemplateException"/>; <see cref="Line"/> is where. One thread, one use.
/// </summary>
internal sealed partial class Evaluator(RenderBudget budget, Func<DateTimeOffset> clock)
{
    private enum Flow { Next, Break, Continue }

    public RenderBudget Budget => budget;

    /// <summary>The time as the template may know it.</summary>
    public DateTimeOffset Now() => clock();

    /// <summary>Line of the statement or expression begun last.</summary>
    public int Line { get; private set; }

    public TextValue Run(IReadOnlyList<Node> body, Scope variables)
    {
        var output = new TextBuilder(budget);
        Execute(body, new Scope(variables), output);
        return output.ToText();
    }

    private Flow Execute(IReadOnlyList<Node> body, Scope scope, TextBuilder output)
    {
        budget.Enter();
        foreach (var node in body)
        {
            budget.Step();
            Line = node.Line;
            var flow = Execute(node, scope, output);
            if (flow == Flow.Next) continue;
            budget.Leave();
            return flow;
        }
        budget.Leave();
        return Flow.Next;
    }

    private Flow Execute(Node node, Scope scope, TextBuilder output)
    {
        switch (node)
        {
            case DataNode data:
                output.Append(data.Text);
                return Flow.Next;
            case OutputNode print:
                output.Append(PythonText.Print(Evaluate(print.Expression, scope), budget));
                return Flow.Next;
            case IfNode choice:
                foreach (var (test, body) in choice.Branches)
                    if (Operators.Truth(Evaluate(test, scope))) return Execute(body, scope, output);
                return Execute(choice.Else, scope, output);
            case ForNode loop: return For(loop, scope, output, Evaluate(loop.Source, scope), depth: 0);
            case SetNode set:
                Assign(set.Target, Evaluate(set.Value, scope), scope);
                return Flow.Next;
            case SetBlockNode set: return Capture(set.Body, set.Filters, scope, text => Assign(set.Target, text, scope));
            case FilterBlockNode filter: return Capture(filter.Body, filter.Filters, scope, text => output.Append(PythonText.Print(text, budget)));
            case WithNode with:
                var inner = new Scope(scope);
                foreach (var (target, value) in with.Names) Assign(target, Evaluate(value, scope), inner);
                return Execute(with.Body, inner, output);
            case MacroNode macro:
                scope.Set(macro.Name, Macro(macro, scope));
                return Flow.Next;
            case CallBlockNode block:
                output.Append(PythonText.Print(Invoke(block.Call, scope, new("caller", Macro(block.Caller, scope))), budget));
                return Flow.Next;
            case JumpNode jump: return jump.IsBreak ? Flow.Break : Flow.Continue;
            default: throw new TemplateException($"a {node.GetType().Name} cannot stand here");
        }
    }

    private Flow For(ForNode node, Scope scope, TextBuilder output, Value source, int depth)
    {
        Func<Value, bool>? filter = node.Filter is not { } test ? null : item =>
        {
            var inner = new Scope(scope);
            Assign(node.Target, item, inner);
            return Operators.Truth(Evaluate(test, inner));
        };
        Func<Value, TextValue>? again = !node.Recursive ? null : children =>
        {
            var text = new TextBuilder(budget);
            budget.Enter();
            For(node, scope, text, children, depth + 1);
            budget.Leave();
            return text.ToText();
        };
        using var items = Operators.Iterate(source, budget).GetEnumerator();
        var loop = new LoopValue(items, filter, depth, again, budget);
        while (loop.MoveNext())
        {
            var inner = new Scope(scope);
            inner.Set("loop", loop);
            Assign(node.Target, loop.Current, inner);
            if (Execute(node.Body, inner, output) == Flow.Break) break;
        }
        return loop.Began ? Flow.Next : Execute(node.Else, new Scope(scope), output);
    }

    private Flow Capture(IReadOnlyList<Node> body, IReadOnlyList<FilterNode> filters, Scope scope, Action<Value> then)
    {
        var text = new TextBuilder(budget);
        var flow = Execute(body, new Scope(scope), text);
        Value value = text.ToText();
        foreach (var filter in filters) value = Filters.Apply(filter.Name, value, MakeCall(filter.Name, filter.Arguments, scope));
        then(value);
        return flow;
    }

    private void Assign(Node target, Value value, Scope scope)
    {
        switch (target)
        {
            case NameNode name:
                scope.Set(name.Name, value);
                break;
            case MemberNode { Target: NameNode owner } member:
                if (scope.Find(owner.Name) is not NamespaceValue space) throw new TemplateException($"'{owner.Name}' is no namespace: its member '{member.Name}' cannot be set");
                space.Members[member.Name] = value;
                break;
            case ListNode list:
                var values = Operators.Items(value, budget);
                if (values.Count != list.Items.Count) throw new TemplateException($"{values.Count} values cannot be assigned to {list.Items.Count} names");
                for (int i = 0; i < values.Count; i++) Assign(list.Items[i], values[i], scope);
                break;
        }
    }

    private FunctionValue Macro(MacroNode node, Scope defined) => new(node.Name, call => Macro(node, defined, call));

    private TextValue Macro(MacroNode node, Scope defined, Call call)
    {
        budget.Enter();
        var scope = new Scope(defined);
        var named = new Dictionary<string, Value>(StringComparer.Ordinal);
        foreach (var (name, value) in call.Named)
            if (!named.TryAdd(name, value)) throw new TemplateException($"the macro '{node.Name}' was given '{name}' twice");
        for (int i = 0; i < node.Parameters.Count; i++)
        {
            var (name, otherwise) = node.Parameters[i];
            bool byName = named.Remove(name, out var value);
            if (i < call.Positional.Count) value = byName ? throw new TemplateException($"the macro '{node.Name}' was given '{name}' twice") : call.Positional[i];
            scope.Set(name, value ?? (otherwise is null ? new UndefinedValue($"the parameter '{name}'") : Evaluate(otherwise, scope)));
        }
        bool hasCaller = named.Remove("caller", out var caller);
        if (node.UsesCaller) scope.Set("caller", caller ?? new UndefinedValue("'caller' outside a call block"));
        else if (hasCaller) throw new TemplateException($"the macro '{node.Name}' has no use for 'caller'");
        if (node.UsesArguments) scope.Set("varargs", new ListValue([.. call.Positional.Skip(node.Parameters.Count)], ListKind.Tuple));
        else if (call.Positional.Count > node.Parameters.Count)
            throw new TemplateException($"the macro '{node.Name}' takes at most {node.Parameters.Count} arguments, {call.Positional.Count} were given");
        if (node.UsesNamed)
        {
            var rest = new MapValue();
            foreach (var (name, value) in named) rest.With(name, value);
            scope.Set("kwargs", rest);
        }
        else if (named.Count > 0) throw new TemplateException($"the macro '{node.Name}' takes no argument '{named.First().Key}'");
        var output = new TextBuilder(budget);
        Execute(node.Body, scope, output);
        budget.Leave();
        return output.ToText();
    }
}
