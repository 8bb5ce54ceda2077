namespace FlashOrleans.Models.Templates;

/// <summary>A parsed template is a tree of these. Expressions give a value, statements print or bind names. Immutable; shared by all renderings.</summary>
internal abstract record Node(int Line);

internal sealed record LiteralNode(int Line, Value Value) : Node(Line);
internal sealed record NameNode(int Line, string Name) : Node(Line);
internal sealed record ListNode(int Line, IReadOnlyList<Node> Items, bool IsTuple) : Node(Line);
internal sealed record MapNode(int Line, IReadOnlyList<KeyValuePair<Node, Node>> Entries) : Node(Line);
/// <summary><c>target.name</c>: a method or member first, then a key. <see cref="IndexNode"/> looks the other way round.</summary>
internal sealed record MemberNode(int Line, Node Target, string Name) : Node(Line);
internal sealed record IndexNode(int Line, Node Target, Node Key) : Node(Line);
internal sealed record SliceNode(int Line, Node Target, Node? Start, Node? Stop, Node? Step) : Node(Line);
internal sealed record Arguments(IReadOnlyList<Node> Positional, IReadOnlyList<KeyValuePair<string, Node>> Named, Node? Spread, Node? SpreadNamed)
{
    public static readonly Arguments None = new([], [], null, null);
}
internal sealed record CallNode(int Line, Node Target, Arguments Arguments) : Node(Line);
/// <summary>Without a target it stands at the end of a filter or set block.</summary>
internal sealed record FilterNode(int Line, Node? Target, string Name, Arguments Arguments) : Node(Line);
internal sealed record TestNode(int Line, Node Target, string Name, Arguments Arguments) : Node(Line);
internal sealed record UnaryNode(int Line, string Operator, Node Operand) : Node(Line);
internal sealed record BinaryNode(int Line, string Operator, Node Left, Node Right) : Node(Line);
internal sealed record CompareNode(int Line, Node First, IReadOnlyList<KeyValuePair<string, Node>> Rest) : Node(Line);
internal sealed record ConditionalNode(int Line, Node Test, Node Then, Node? Else) : Node(Line);

internal sealed record DataNode(int Line, TextValue Text) : Node(Line);
internal sealed record OutputNode(int Line, Node Expression) : Node(Line);
internal sealed record IfNode(int Line, IReadOnlyList<KeyValuePair<Node, IReadOnlyList<Node>>> Branches, IReadOnlyList<Node> Else) : Node(Line);
internal sealed record ForNode(int Line, Node Target, Node Source, Node? Filter, bool Recursive, IReadOnlyList<Node> Body, IReadOnlyList<Node> Else) : Node(Line);
internal sealed record SetNode(int Line, Node Target, Node Value) : Node(Line);
internal sealed record SetBlockNode(int Line, Node Target, IReadOnlyList<FilterNode> Filters, IReadOnlyList<Node> Body) : Node(Line);
internal sealed record FilterBlockNode(int Line, IReadOnlyList<FilterNode> Filters, IReadOnlyList<Node> Body) : Node(Line);
internal sealed record WithNode(int Line, IReadOnlyList<KeyValuePair<Node, Node>> Names, IReadOnlyList<Node> Body) : Node(Line);
internal sealed record JumpNode(int Line, bool IsBreak) : Node(Line);
internal sealed record Parameter(string Name, Node? Default);
/// <summary>Also the body of a call block, which its macro knows as <c>caller</c>.</summary>
internal sealed record MacroNode(int Line, string Name, IReadOnlyList<Parameter> Parameters, IReadOnlyList<Node> Body, bool UsesCaller, bool UsesArguments, bool UsesNamed) : Node(Line);
internal sealed record CallBlockNode(int Line, CallNode Call, MacroNode Caller) : Node(Line);
