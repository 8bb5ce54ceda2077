using System.Text.Json;

namespace FlashOrleans.Models.Templates;

/// <summary>What a conversation gives to a template. Only <see cref="Messages"/> must be there; what is null is none to the template, as Hugging Face has it.</summary>
public sealed record TemplateInput
{
    /// <summary>A list of messages.</summary>
    public required JsonElement Messages { get; init; }
    public JsonElement? Tools { get; init; }
    public JsonElement? Documents { get; init; }
    public bool AddGenerationPrompt { get; init; } = true;
    /// <summary>More variables: an object. They stand above the others.</summary>
    public JsonElement? Extra { get; init; }
    /// <summary>What <c>strftime_now</c> tells; null: now.</summary>
    public DateTimeOffset? Now { get; init; }
}

/// <summary>
/// A chat template in Jinja, as model makers ship them: the part of the language that they use, with Python's semantics where they show. It can read what it is given and
/// nothing else, and its steps, nesting and text are bounded: it comes with a download and is trusted as little. A template is parsed once; <see cref="Render"/> may run on any
/// number of threads. Failure is a <see cref="TemplateException"/>, nothing else.
/// </summary>
public sealed class JinjaTemplate
{
    private const int MaxSource = 1 << 19;

    private readonly IReadOnlyList<Node> _body;

    private JinjaTemplate(IReadOnlyList<Node> body) => _body = body;

    public static JinjaTemplate Parse(string source)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (source.Length > MaxSource) throw new TemplateException($"a template of {source.Length} characters; at most {MaxSource} are read");
        return new(TemplateParser.Parse(source));
    }

    /// <summary>The prompt. <paramref name="specialTokens"/> are variables such as bos_token.</summary>
    public string Render(TemplateInput input, IReadOnlyDictionary<string, string>? specialTokens = null) => RenderText(input, specialTokens).Chars;

    /// <summary>The prompt, and which of it the template wrote.</summary>
    internal TextValue RenderText(TemplateInput input, IReadOnlyDictionary<string, string>? specialTokens)
    {
        ArgumentNullException.ThrowIfNull(input);
        long size = input.Messages.GetRawText().Length + Size(input.Tools) + Size(input.Documents) + Size(input.Extra);
        var variables = Variables(ValueReader.Read(input.Messages), input.AddGenerationPrompt, specialTokens);
        variables.Set("tools", Optional(input.Tools));
        variables.Set("documents", Optional(input.Documents));
        if (input.Extra is { ValueKind: JsonValueKind.Object } extra)
            foreach (var (key, value) in ((MapValue)ValueReader.Read(extra)).Entries) variables.Set(((TextValue)key).Chars, value);
        return Run(variables, size, input.Now);
    }

    internal TextValue RenderText(ListValue messages, bool addGenerationPrompt, IReadOnlyDictionary<string, string> specialTokens, long size)
    {
        var variables = Variables(messages, addGenerationPrompt, specialTokens);
        variables.Set("tools", NoneValue.Instance);
        variables.Set("documents", NoneValue.Instance);
        return Run(variables, size, null);
    }

    private static Scope Variables(Value messages, bool addGenerationPrompt, IReadOnlyDictionary<string, string>? specialTokens)
    {
        var variables = new Scope(null);
        if (specialTokens is not null)
            foreach (var (name, token) in specialTokens) variables.Set(name, new TextValue(token, foreign: false));
        variables.Set("messages", messages);
        variables.Set("add_generation_prompt", BooleanValue.Of(addGenerationPrompt));
        return variables;
    }

    private TextValue Run(Scope variables, long size, DateTimeOffset? now)
    {
        var run = new Evaluator(new RenderBudget(size), () => now ?? TimeProvider.System.GetLocalNow());
        try
        {
            return run.Run(_body, variables);
        }
        catch (TemplateException e) when (e.Line == 0)
        {
            throw new TemplateException(e.Message, run.Line, e);
        }
    }

    private static long Size(JsonElement? json) => json?.GetRawText().Length ?? 0;

    private static Value Optional(JsonElement? json) => json is { } given ? ValueReader.Read(given) : NoneValue.Instance;
}
