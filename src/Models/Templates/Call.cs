namespace FlashOrleans.Models.Templates;

/// <summary>The arguments of one call of a filter, test, method, macro or global, and the rendering it belongs to.</summary>
internal sealed class Call(Evaluator run, string name, IReadOnlyList<Value> positional, IReadOnlyList<KeyValuePair<string, Value>> named)
{
    public Evaluator Run => run;
    public RenderBudget Budget => run.Budget;
    public string Name => name;
    public IReadOnlyList<Value> Positional => positional;
    public IReadOnlyList<KeyValuePair<string, Value>> Named => named;

    /// <summary>Arguments by their parameters; null where none was given. Too many, unknown or doubled ones are errors.</summary>
    public Value?[] Bind(params ReadOnlySpan<string> parameters)
    {
        if (positional.Count > parameters.Length) throw new TemplateException($"{name} takes at most {parameters.Length} arguments, {positional.Count} were given");
        var bound = new Value?[parameters.Length];
        for (int i = 0; i < positional.Count; i++) bound[i] = positional[i];
        foreach (var (key, value) in named)
        {
            int at = parameters.IndexOf(key);
            if (at < 0) throw new TemplateException($"{name} takes no argument '{key}'");
            if (bound[at] is not null) throw new TemplateException($"{name} was given '{key}' twice");
            bound[at] = value;
        }
        return bound;
    }

    public Value Required(Value? argument, string parameter) => argument ?? throw new TemplateException($"{name} needs the argument '{parameter}'");

    public TextValue Text(Value? argument, string parameter) => Required(argument, parameter) as TextValue
        ?? throw new TemplateException($"{name}: '{parameter}' is a {argument!.TypeName}, it must be a str");

    public int Int(Value? argument, string parameter, int otherwise) => argument is null ? otherwise : Number.Int(argument, $"{name}: '{parameter}'");

    public bool Flag(Value? argument, bool otherwise = false) => argument is null ? otherwise : Operators.Truth(argument);
}
