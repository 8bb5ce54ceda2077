using System.Globalization;
using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>Expressions, loosest binding first: inline if, or, and, not, comparison, sum, ~, product, power, sign, postfix and filters.</summary>
internal sealed partial class TemplateParser
{
    private Node Expression(bool withCondition = true) => withCondition ? Conditional() : Or();

    /// <summary>An expression, or several with commas: a tuple.</summary>
    private Node Tuple(bool withCondition = true)
    {
        int line = Current.Line;
        var first = Expression(withCondition);
        if (!Current.Is(",")) return first;
        var items = new List<Node> { first };
        while (TryOperator(","))
        {
            if (Current.Kind is TokenKind.PrintEnd or TokenKind.BlockEnd || Current.Is(")") || Current.IsName("recursive")) break;
            items.Add(Expression(withCondition));
        }
        return new ListNode(line, items, IsTuple: true);
    }

    private Node Conditional()
    {
        Enter();
        var value = Or();
        while (Current.IsName("if"))
        {
            int line = Next().Line;
            var test = Or();
            var otherwise = TryName("else") ? Conditional() : null;
            value = new ConditionalNode(line, test, value, otherwise);
        }
        return Leave(value);
    }

    private Node Or()
    {
        var left = And();
        while (Current.IsName("or")) left = new BinaryNode(Next().Line, "or", left, And());
        return left;
    }

    private Node And()
    {
        var left = Not();
        while (Current.IsName("and")) left = new BinaryNode(Next().Line, "and", left, Not());
        return left;
    }

    private Node Not()
    {
        if (!Current.IsName("not")) return Compare();
        Enter();
        int line = Next().Line;
        return Leave(new UnaryNode(line, "not", Not()));
    }

    private Node Compare()
    {
        var first = Sum();
        var rest = new List<KeyValuePair<string, Node>>();
        while (true)
        {
            var token = Current;
            string op;
            if (token.Kind == TokenKind.Operator && token.Text is "==" or "!=" or "<" or "<=" or ">" or ">=") op = token.Text;
            else if (token.IsName("in")) op = "in";
            else if (token.IsName("not") && _tokens[_at + 1].IsName("in"))
            {
                op = "not in";
                Next();
            }
            else return rest.Count == 0 ? first : new CompareNode(first.Line, first, rest);
            Next();
            rest.Add(new(op, Sum()));
        }
    }

    private Node Sum()
    {
        var left = Joined();
        while (Current.Is("+") || Current.Is("-"))
        {
            var op = Next();
            left = new BinaryNode(op.Line, op.Text, left, Joined());
        }
        return left;
    }

    private Node Joined()
    {
        var left = Product();
        while (Current.Is("~")) left = new BinaryNode(Next().Line, "~", left, Product());
        return left;
    }

    private Node Product()
    {
        var left = Power();
        while (Current.Kind == TokenKind.Operator && Current.Text is "*" or "/" or "//" or "%")
        {
            var op = Next();
            left = new BinaryNode(op.Line, op.Text, left, Power());
        }
        return left;
    }

    private Node Power()
    {
        var left = Signed(withFilters: true);
        while (Current.Is("**")) left = new BinaryNode(Next().Line, "**", left, Signed(withFilters: true));
        return left;
    }

    /// <summary>A filter behind a signed value takes the sign with it: <c>-1 | abs</c> is 1.</summary>
    private Node Signed(bool withFilters)
    {
        Enter();
        Node node;
        if (Current.Is("-") || Current.Is("+"))
        {
            var sign = Next();
            node = new UnaryNode(sign.Line, sign.Text, Signed(withFilters: false));
        }
        else node = Primary();
        node = Postfix(node);
        return Leave(withFilters ? FiltersAndTests(node) : node);
    }

    private Node Primary()
    {
        var token = Next();
        switch (token.Kind)
        {
            case TokenKind.Name: return NamedValue(token);
            case TokenKind.Text:
                string text = token.Text;
                while (Current.Kind == TokenKind.Text) text += Next().Text;
                return new LiteralNode(token.Line, new TextValue(text, foreign: false));
            case TokenKind.Integer:
                return new LiteralNode(token.Line, new IntegerValue(BigInteger.Parse(token.Text, NumberStyles.None, CultureInfo.InvariantCulture)));
            case TokenKind.Real:
                return new LiteralNode(token.Line, new RealValue(double.Parse(token.Text, NumberStyles.Float, CultureInfo.InvariantCulture)));
            case TokenKind.Operator when token.Text == "(":
                if (TryOperator(")")) return new ListNode(token.Line, [], IsTuple: true);
                var inner = Tuple();
                ExpectOperator(")");
                return inner;
            case TokenKind.Operator when token.Text == "[":
                var items = new List<Node>();
                while (!TryOperator("]"))
                {
                    if (items.Count > 0) ExpectOperator(",");
                    if (TryOperator("]")) break;
                    items.Add(Expression());
                }
                return new ListNode(token.Line, items, IsTuple: false);
            case TokenKind.Operator when token.Text == "{": return Map(token.Line);
            default: throw Bad("an expression is missing", token);
        }
    }

    private Node NamedValue(Token token)
    {
        switch (token.Text)
        {
            case "true" or "True": return new LiteralNode(token.Line, BooleanValue.True);
            case "false" or "False": return new LiteralNode(token.Line, BooleanValue.False);
            case "none" or "None": return new LiteralNode(token.Line, NoneValue.Instance);
            case "caller": _macro.Caller = true; break;
            case "varargs": _macro.Arguments = true; break;
            case "kwargs": _macro.Named = true; break;
        }
        return new NameNode(token.Line, token.Text);
    }

    private MapNode Map(int line)
    {
        var entries = new List<KeyValuePair<Node, Node>>();
        while (!TryOperator("}"))
        {
            if (entries.Count > 0) ExpectOperator(",");
            if (TryOperator("}")) break;
            var key = Expression();
            ExpectOperator(":");
            entries.Add(new(key, Expression()));
        }
        return new(line, entries);
    }

    private Node Postfix(Node node)
    {
        while (true)
        {
            int line = Current.Line;
            if (TryOperator("."))
            {
                var member = Next();
                if (member.Kind == TokenKind.Name) node = new MemberNode(line, node, member.Text);
                else if (member.Kind == TokenKind.Integer) node = new IndexNode(line, node, new LiteralNode(line, new IntegerValue(BigInteger.Parse(member.Text, CultureInfo.InvariantCulture))));
                else throw Bad("a name is missing", member);
            }
            else if (TryOperator("[")) node = Subscript(line, node);
            else if (Current.Is("(")) node = new CallNode(line, node, CallArguments());
            else return node;
        }
    }

    private Node Subscript(int line, Node target)
    {
        Node? start = null;
        if (!Current.Is(":"))
        {
            start = Expression();
            if (TryOperator("]")) return new IndexNode(line, target, start);
        }
        ExpectOperator(":");
        var stop = Current.Is(":") || Current.Is("]") ? null : Expression();
        var step = TryOperator(":") && !Current.Is("]") ? Expression() : null;
        ExpectOperator("]");
        return new SliceNode(line, target, start, stop, step);
    }

    private Node FiltersAndTests(Node node)
    {
        while (true)
        {
            if (TryOperator("|")) node = Filter(node);
            else if (Current.IsName("is")) node = Test(node);
            else if (Current.Is("(")) node = new CallNode(Current.Line, node, CallArguments());
            else return node;
        }
    }

    private FilterNode Filter(Node? target)
    {
        var at = Current;
        string name = DottedName();
        if (!Templates.Filters.IsKnown(name)) throw Bad($"the filter '{name}' is not known here", at);
        return new(at.Line, target, name, Current.Is("(") ? CallArguments() : Arguments.None);
    }

    private Node Test(Node target)
    {
        int line = Next().Line;
        bool negated = TryName("not");
        var at = Current;
        string name = DottedName();
        if (!Tests.IsKnown(name)) throw Bad($"the test '{name}' is not known here", at);
        var arguments = Arguments.None;
        if (Current.Is("(")) arguments = CallArguments();
        else if (Current.Kind is TokenKind.Name or TokenKind.Text or TokenKind.Integer or TokenKind.Real || Current.Is("[") || Current.Is("{"))
        {
            if (!(Current.Kind == TokenKind.Name && Current.Text is "else" or "or" or "and"))
            {
                if (Current.IsName("is")) throw Bad("tests cannot be chained with is");
                arguments = new([Postfix(Primary())], [], null, null);
            }
        }
        Node test = new TestNode(line, target, name, arguments);
        return negated ? new UnaryNode(line, "not", test) : test;
    }

    private string DottedName()
    {
        string name = Name();
        while (TryOperator(".")) name += "." + Name();
        return name;
    }

    private Arguments CallArguments()
    {
        Enter();
        ExpectOperator("(");
        var positional = new List<Node>();
        var named = new List<KeyValuePair<string, Node>>();
        Node? spread = null, spreadNamed = null;
        for (bool first = true; !TryOperator(")"); first = false)
        {
            if (!first)
            {
                ExpectOperator(",");
                if (TryOperator(")")) break;
            }
            if (TryOperator("**")) spreadNamed = spreadNamed is null ? Expression() : throw Bad("** is there twice");
            else if (TryOperator("*")) spread = spread is null && spreadNamed is null ? Expression() : throw Bad("* is not possible here");
            else if (Current.Kind == TokenKind.Name && _tokens[_at + 1].Is("="))
            {
                string name = Name();
                Next();
                named.Add(new(name, Expression()));
            }
            else if (named.Count > 0 || spread is not null || spreadNamed is not null) throw Bad("a positional argument follows a named one");
            else positional.Add(Expression());
        }
        return Leave(new Arguments(positional, named, spread, spreadNamed));
    }
}
