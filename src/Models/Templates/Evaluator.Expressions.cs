namespace FlashOrleans.Models.Templates;

/// <summary>Expressions to values, in Python's order of evaluation.</summary>
internal sealed partial class Evaluator
{
    private Value Evaluate(Node node, Scope scope)
    {
        budget.Enter();
        Line = node.Line;
        var value = EvaluateNode(node, scope);
        budget.Leave();
        return value;
    }

    private Value EvaluateNode(Node node, Scope scope)
    {
        switch (node)
        {
            case LiteralNode literal: return literal.Value;
            case NameNode name: return scope.Find(name.Name) ?? Globals.Find(name.Name) ?? new UndefinedValue($"'{name.Name}'");
            case MemberNode member: return Member(Evaluate(member.Target, scope), member.Name);
            case IndexNode index: return Index(Evaluate(index.Target, scope), Evaluate(index.Key, scope));
            case SliceNode slice: return Slices.Take(Evaluate(slice.Target, scope), Optional(slice.Start), Optional(slice.Stop), Optional(slice.Step), budget);
            case CallNode call: return Invoke(call, scope, null);
            case FilterNode filter: return Filters.Apply(filter.Name, Evaluate(filter.Target!, scope), MakeCall(filter.Name, filter.Arguments, scope));
            case TestNode test: return BooleanValue.Of(Tests.Apply(test.Name, Evaluate(test.Target, scope), MakeCall(test.Name, test.Arguments, scope)));
            case ConditionalNode choice:
                if (Operators.Truth(Evaluate(choice.Test, scope))) return Evaluate(choice.Then, scope);
                return choice.Else is null ? new UndefinedValue("the value of an inline if without else") : Evaluate(choice.Else, scope);
            case UnaryNode { Operator: "not" } not: return BooleanValue.Of(!Operators.Truth(Evaluate(not.Operand, scope)));
            case UnaryNode sign: return Operators.Sign(Evaluate(sign.Operand, scope), negative: sign.Operator == "-");
            case BinaryNode binary: return Binary(binary, scope);
            case CompareNode compare: return Compare(compare, scope);
            case ListNode list:
                budget.MakeItems(list.Items.Count);
                var items = new Value[list.Items.Count];
                for (int i = 0; i < items.Length; i++) items[i] = Evaluate(list.Items[i], scope);
                return new ListValue(items, list.IsTuple ? ListKind.Tuple : ListKind.List);
            case MapNode map:
                budget.MakeItems(2 * map.Entries.Count);
                var made = new MapValue();
                foreach (var (key, value) in map.Entries) made.With(Evaluate(key, scope), Evaluate(value, scope));
                return made;
            default: throw new TemplateException($"a {node.GetType().Name} has no value");
        }

        Value? Optional(Node? part) => part is null ? null : Evaluate(part, scope);
    }

    /// <summary>and, or: the operand that decides, the right one only evaluated where it does.</summary>
    private Value Binary(BinaryNode node, Scope scope)
    {
        var left = Evaluate(node.Left, scope);
        if (node.Operator is "and" or "or") return Operators.Truth(left) == (node.Operator == "or") ? left : Evaluate(node.Right, scope);
        return Operators.Binary(node.Operator, left, Evaluate(node.Right, scope), budget);
    }

    private BooleanValue Compare(CompareNode node, Scope scope)
    {
        var left = Evaluate(node.First, scope);
        foreach (var (op, operand) in node.Rest)
        {
            var right = Evaluate(operand, scope);
            if (!Operators.Compare(op, left, right, budget)) return BooleanValue.False;
            left = right;
        }
        return BooleanValue.True;
    }

    private Value Invoke(CallNode node, Scope scope, KeyValuePair<string, Value>? caller)
    {
        var target = Evaluate(node.Target, scope);
        Func<Call, Value> body = target switch
        {
            FunctionValue function => function.Body,
            LoopValue loop => loop.Again,
            UndefinedValue undefined => throw undefined.Used(),
            _ => throw new TemplateException($"a {target.TypeName} cannot be called"),
        };
        return body(MakeCall(target is FunctionValue f ? f.Name : "loop", node.Arguments, scope, caller));
    }

    private Call MakeCall(string name, Arguments arguments, Scope scope, KeyValuePair<string, Value>? caller = null)
    {
        if (ReferenceEquals(arguments, Arguments.None) && caller is null) return new(this, name, [], []);
        var positional = new List<Value>(arguments.Positional.Count);
        foreach (var argument in arguments.Positional) positional.Add(Evaluate(argument, scope));
        if (arguments.Spread is not null) positional.AddRange(Operators.Items(Evaluate(arguments.Spread, scope), budget));
        var named = new List<KeyValuePair<string, Value>>(arguments.Named.Count);
        foreach (var (key, argument) in arguments.Named) named.Add(new(key, Evaluate(argument, scope)));
        if (arguments.SpreadNamed is not null)
        {
            if (Evaluate(arguments.SpreadNamed, scope) is not MapValue map) throw new TemplateException("** needs a dict");
            budget.MakeItems(map.Count);
            foreach (var (key, value) in map.Entries)
                named.Add(new(key is TextValue text ? text.Chars : throw new TemplateException("names of arguments must be strings"), value));
        }
        if (caller is { } block) named.Add(block);
        return new(this, name, positional, named);
    }

    /// <summary><c>target.name</c>.</summary>
    public static Value Member(Value target, string name)
    {
        if (Own(target, name) is { } own) return own;
        return (target as MapValue)?.Find(name) ?? Missing(target, name);
    }

    /// <summary><c>target[key]</c>.</summary>
    public Value Index(Value target, Value key)
    {
        if (target is UndefinedValue undefined) throw undefined.Used();
        if (target is MapValue map && map.Find(key) is { } found) return found;
        if (Number.TryOf(key, out var n) && !n.IsReal && Slices.At(target, n.Whole, budget) is { } item) return item;
        if (key is TextValue name && Own(target, name.Chars) is { } own) return own;
        return Missing(target, key is TextValue text ? text.Chars : PythonText.Print(key, budget).Chars);
    }

    /// <summary>What a value has beside its items.</summary>
    private static Value? Own(Value target, string name) => target switch
    {
        UndefinedValue undefined => throw undefined.Used(),
        NamespaceValue space => space.Members.GetValueOrDefault(name),
        LoopValue loop => loop.Member(name),
        FunctionValue function when name == "name" => new TextValue(function.Name, foreign: false),
        _ => Methods.Find(target, name),
    };

    private static UndefinedValue Missing(Value target, string name) => new($"'{(name.Length > 60 ? name[..60] : name)}' of a {target.TypeName}");
}
