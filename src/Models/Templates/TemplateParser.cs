using System.Runtime.CompilerServices;

namespace FlashOrleans.Models.Templates;

/// <summary>
/// Tokens to a tree: statements here, expressions in the other file, by recursive descent over Jinja's grammar. What is not known (a statement, filter or test) is an
/// error now, not when it is reached. Nesting is bounded, so that no source can overflow the stack.
/// </summary>
internal sealed partial class TemplateParser
{
    private const int MaxDepth = 200;

    private readonly List<Token> _tokens;
    private readonly MacroUse _topLevel = new();
    private int _at, _depth, _loops;
    private MacroUse _macro;

    /// <summary>Which of the names that only macros have were used in one.</summary>
    private sealed class MacroUse
    {
        public bool Caller, Arguments, Named;
    }

    private TemplateParser(List<Token> tokens)
    {
        _tokens = tokens;
        _macro = _topLevel;
    }

    public static IReadOnlyList<Node> Parse(string source)
    {
        var parser = new TemplateParser(TemplateLexer.Read(source));
        var body = parser.Body();
        return parser.Current.Kind == TokenKind.End ? body : throw parser.Bad("unexpected end of a block");
    }

    private Token Current => _tokens[_at];

    private Token Next() => _tokens[_at].Kind == TokenKind.End ? _tokens[_at] : _tokens[_at++];

    /// <summary>Statements up to a block that begins with one of these words, which is left to the caller; without words, to the end of the source.</summary>
    private List<Node> Body(params ReadOnlySpan<string> ends)
    {
        Enter();
        var body = new List<Node>();
        int line = Current.Line;
        while (true)
        {
            var token = Next();
            switch (token.Kind)
            {
                case TokenKind.Data:
                    body.Add(new DataNode(token.Line, new TextValue(token.Text, foreign: false)));
                    continue;
                case TokenKind.PrintBegin:
                    body.Add(new OutputNode(token.Line, Tuple()));
                    Expect(TokenKind.PrintEnd, "}}");
                    continue;
                case TokenKind.BlockBegin:
                    if (Current.Kind == TokenKind.Name && ends.Contains(Current.Text))
                    {
                        _depth--;
                        return body;
                    }
                    body.Add(Statement());
                    continue;
                default:
                    if (ends.Length > 0) throw new TemplateException($"a block is not closed: {{% {ends[^1]} %}} is missing", line);
                    _depth--;
                    return body;
            }
        }
    }

    /// <summary>The body of a block and its end.</summary>
    private List<Node> BodyTo(string end)
    {
        EndBlock();
        var body = Body(end);
        Next();
        EndBlock();
        return body;
    }

    private Node Statement()
    {
        var word = Next();
        if (word.Kind != TokenKind.Name) throw Bad("a block without a statement", word);
        switch (word.Text)
        {
            case "if": return If(word.Line);
            case "for": return For(word.Line);
            case "set": return Set(word.Line);
            case "macro": return Macro(word.Line);
            case "call": return CallBlock(word.Line);
            case "filter":
                var filters = Filters();
                return new FilterBlockNode(word.Line, filters, BodyTo("endfilter"));
            case "with": return With(word.Line);
            // Marks what the model is to learn from; prints the same.
            case "generation": return new WithNode(word.Line, [], BodyTo("endgeneration"));
            case "break" or "continue":
                if (_loops == 0) throw Bad($"{word.Text} outside a loop", word);
                EndBlock();
                return new JumpNode(word.Line, word.Text == "break");
            default: throw Bad($"the statement '{word.Text}' is not known here", word);
        }
    }

    private IfNode If(int line)
    {
        var branches = new List<KeyValuePair<Node, IReadOnlyList<Node>>>();
        IReadOnlyList<Node> otherwise = [];
        while (true)
        {
            var test = Tuple(withCondition: false);
            EndBlock();
            branches.Add(new(test, Body("elif", "else", "endif")));
            string end = Next().Text;
            if (end == "elif") continue;
            if (end == "else") otherwise = BodyTo("endif");
            else EndBlock();
            return new(line, branches, otherwise);
        }
    }

    private ForNode For(int line)
    {
        var target = Target(withMembers: false);
        if (!Current.IsName("in")) throw Bad("'in' is missing");
        Next();
        var source = Tuple(withCondition: false);
        var filter = TryName("if") ? Expression() : null;
        bool recursive = TryName("recursive");
        EndBlock();
        _loops++;
        var body = Body("else", "endfor");
        _loops--;
        IReadOnlyList<Node> otherwise = [];
        if (Next().Text == "else") otherwise = BodyTo("endfor");
        else EndBlock();
        return new(line, target, source, filter, recursive, body, otherwise);
    }

    private Node Set(int line)
    {
        var target = Target(withMembers: true);
        if (TryOperator("="))
        {
            var value = Tuple();
            EndBlock();
            return new SetNode(line, target, value);
        }
        if (target is ListNode) throw Bad("= is missing");
        var filters = TryOperator("|") ? Filters() : [];
        return new SetBlockNode(line, target, filters, BodyTo("endset"));
    }

    private MacroNode Macro(int line)
    {
        string name = Name();
        ExpectOperator("(");
        return MacroBody(line, name, "endmacro", Parameters());
    }

    private CallBlockNode CallBlock(int line)
    {
        var parameters = TryOperator("(") ? Parameters() : [];
        if (Expression() is not CallNode call) throw Bad("a call block needs a call");
        return new(line, call, MacroBody(line, "caller", "endcall", parameters));
    }

    private MacroNode MacroBody(int line, string name, string end, List<Parameter> parameters)
    {
        var (outerMacro, outerLoops) = (_macro, _loops);
        (_macro, _loops) = (new MacroUse(), 0);
        var body = BodyTo(end);
        var used = _macro;
        (_macro, _loops) = (outerMacro, outerLoops);
        return new(line, name, parameters, body, used.Caller, used.Arguments, used.Named);
    }

    private List<Parameter> Parameters()
    {
        var parameters = new List<Parameter>();
        while (!TryOperator(")"))
        {
            if (parameters.Count > 0) ExpectOperator(",");
            string name = Name();
            if (parameters.Exists(p => p.Name == name)) throw Bad($"the parameter '{name}' is there twice");
            var otherwise = TryOperator("=") ? Expression() : null;
            if (otherwise is null && parameters.Count > 0 && parameters[^1].Default is not null) throw Bad("a parameter without a default follows one with it");
            parameters.Add(new(name, otherwise));
        }
        return parameters;
    }

    private List<FilterNode> Filters()
    {
        var filters = new List<FilterNode>();
        do filters.Add(Filter(null));
        while (TryOperator("|"));
        return filters;
    }

    private WithNode With(int line)
    {
        var names = new List<KeyValuePair<Node, Node>>();
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (names.Count > 0) ExpectOperator(",");
            var target = Target(withMembers: false);
            ExpectOperator("=");
            names.Add(new(target, Expression()));
        }
        return new(line, names, BodyTo("endwith"));
    }

    /// <summary>What can be assigned to: a name, several with commas, a member of a namespace.</summary>
    private Node Target(bool withMembers)
    {
        Enter();
        var items = new List<Node>();
        bool tuple = false;
        do
        {
            int line = Current.Line;
            if (TryOperator("("))
            {
                items.Add(Target(withMembers: false));
                ExpectOperator(")");
            }
            else if (items.Count > 0 && Current.Kind != TokenKind.Name) break;
            else
            {
                string name = Name();
                if (name is "true" or "false" or "none" or "True" or "False" or "None") throw Bad($"nothing can be assigned to '{name}'");
                if (withMembers && items.Count == 0 && TryOperator(".")) return Leave(new MemberNode(line, new NameNode(line, name), Name()));
                items.Add(new NameNode(line, name));
            }
        }
        while (TryOperator(",") && (tuple = true));
        return Leave(tuple ? new ListNode(items[0].Line, items, IsTuple: true) : items[0]);
    }

    private string Name()
    {
        var token = Next();
        return token.Kind == TokenKind.Name ? token.Text : throw Bad("a name is missing", token);
    }

    private bool TryName(string name)
    {
        if (!Current.IsName(name)) return false;
        Next();
        return true;
    }

    private bool TryOperator(string op)
    {
        if (!Current.Is(op)) return false;
        Next();
        return true;
    }

    private void ExpectOperator(string op)
    {
        if (!TryOperator(op)) throw Bad($"'{op}' is missing");
    }

    private void EndBlock() => Expect(TokenKind.BlockEnd, "%}");

    private void Expect(TokenKind kind, string spelled)
    {
        if (Current.Kind != kind) throw Bad($"{spelled} is missing");
        Next();
    }

    private void Enter()
    {
        if (++_depth > MaxDepth || !RuntimeHelpers.TryEnsureSufficientExecutionStack()) throw Bad($"nested deeper than {MaxDepth} levels");
    }

    private T Leave<T>(T node)
    {
        _depth--;
        return node;
    }

    private TemplateException Bad(string what) => Bad(what, Current);

    private static TemplateException Bad(string what, Token at)
    {
        string found = at.Kind switch
        {
            TokenKind.End => "the end of the template",
            TokenKind.BlockBegin or TokenKind.PrintBegin => "the begin of a tag",
            TokenKind.BlockEnd or TokenKind.PrintEnd => "the end of a tag",
            TokenKind.Data => "text",
            _ => $"'{at.Text}'",
        };
        return new($"{what} (at {found})", at.Line);
    }
}
