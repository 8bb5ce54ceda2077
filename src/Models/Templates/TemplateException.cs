namespace FlashOrleans.Models.Templates;

/// <summary>
/// A chat template cannot be parsed, cannot be rendered with these messages, or asked for more than it may have. One line: where in the template, what. The template, its
/// error messages and the conversation may all be hostile, so the text is cut and freed of control characters.
/// </summary>
public sealed class TemplateException : Exception
{
    public TemplateException() : this("template error") { }
    public TemplateException(string message) : base(OneLine(message)) { }
    public TemplateException(string message, Exception inner) : base(OneLine(message), inner) { }

    internal TemplateException(string message, int line, Exception? inner = null) : base($"line {line} of the template: {OneLine(message)}", inner) => Line = line;

    /// <summary>Line of the template, from 1; 0 when not known.</summary>
    public int Line { get; }

    private static string OneLine(string text)
    {
        const int most = 400;
        if (text.Length > most) text = text[..most] + "…";
        return string.Create(text.Length, text, static (span, from) =>
        {
            for (int i = 0; i < span.Length; i++) span[i] = char.IsControl(from[i]) ? ' ' : from[i];
        });
    }
}
