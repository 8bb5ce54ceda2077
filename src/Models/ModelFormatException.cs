namespace FlashOrleans.Models;

/// <summary>
/// A checkpoint cannot be imported: its path, and one line that says what is wrong with it and, where there is one, the way out.
/// Thrown before anything is written, or after what was written has been removed.
/// </summary>
public sealed class ModelFormatException : Exception
{
    public ModelFormatException() : this("model file error") { }
    public ModelFormatException(string message) : base(OneLine(message)) { }
    public ModelFormatException(string message, Exception inner) : base(OneLine(message), inner) { }
    public ModelFormatException(string path, string reason) : base($"{path}: {OneLine(reason)}") => Path = path;
    public ModelFormatException(string path, string reason, Exception inner) : base($"{path}: {OneLine(reason)}", inner) => Path = path;

    public string? Path { get; }

    /// <summary>Bytes that should be JSON and are not: where, and why if that is short.</summary>
    internal static ModelFormatException NotJson(string path, string what, Exception e) => new(path, e switch
    {
        System.Text.Json.JsonException { LineNumber: { } line, BytePositionInLine: { } column } => $"{what}is not valid JSON at line {line + 1}, byte {column + 1}: {Cause(e.Message)}",
        _ => $"{what}is not valid JSON: {Cause(e.Message)}",
    }, e);

    /// <summary>The parser's first sentence; the place it appends is said better by the caller.</summary>
    private static string Cause(string message)
    {
        int end = message.IndexOf(" LineNumber:", StringComparison.Ordinal);
        return (end < 0 ? message : message[..end]).TrimEnd('.');
    }

    /// <summary>A reason may quote names out of a hostile file: they must not break the line, colour the terminal or fill it.</summary>
    internal static string OneLine(string text)
    {
        const int most = 600;
        if (text.Length > most) text = text[..most] + "…";
        return string.Create(text.Length, text, static (span, from) =>
        {
            for (int i = 0; i < span.Length; i++) span[i] = char.IsControl(from[i]) ? '?' : from[i];
        });
    }
}
