using System.Text.Json;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Text;

/// <summary>
/// What happens to a text before it is cut into pieces: NFC, a prefix, replacements, in the order of the tokenizer.json. Any other step is refused by name
/// (Precompiled and NFKC need tables of their own; Lowercase and StripAccents are no language model's). Immutable; any thread.
/// </summary>
internal sealed class Normalizer
{
    private readonly List<Step> _steps = [];

    private sealed record Step(bool Nfc = false, string? Prepend = null, string? From = null, Regex? Pattern = null, string To = "");

    /// <summary>Composes characters (NFC) and nothing else, or changes nothing.</summary>
    public Normalizer(bool nfc = false)
    {
        if (nfc) _steps.Add(new(Nfc: true));
    }

    public Normalizer(IEnumerable<JsonElement> steps)
    {
        foreach (var step in steps)
        {
            string type = TokenizerFile.Text(step, "type") ?? "none";
            _steps.Add(type switch
            {
                "NFC" => new(Nfc: true),
                "Prepend" => new(Prepend: TokenizerFile.Text(step, "prepend") ?? throw TokenizerFile.Bad("normalizer Prepend has no \"prepend\"")),
                "Replace" => Replace(step),
                _ => throw TokenizerFile.Bad($"normalizer \"{type}\" is not supported; NFC, Prepend and Replace are"),
            });
        }
    }

    /// <summary>SentencePiece's: a space before the text, if wanted, and every space as U+2581.</summary>
    public static Normalizer SentencePiece(bool prefix)
    {
        var normalizer = new Normalizer();
        if (prefix) normalizer._steps.Add(new(Prepend: Metaspace.Text));
        normalizer._steps.Add(new(From: " ", To: Metaspace.Text));
        return normalizer;
    }

    public string Normalize(string text)
    {
        foreach (var step in _steps)
        {
            if (text.Length == 0) return text;
            if (step.Nfc) text = Composed(text);
            else if (step.Prepend is { } prefix) text = prefix + text;
            else if (step.From is { } from) text = text.Replace(from, step.To, StringComparison.Ordinal);
            else text = ReplaceMatches(step.Pattern!, text, step.To);
        }
        return text;
    }

    private static string Composed(string text)
    {
        var composed = Nfc.Normalize(text);
        return composed.Overlaps(text) ? text : composed.ToString();
    }

    private static Step Replace(JsonElement step)
    {
        string to = TokenizerFile.Text(step, "content") ?? throw TokenizerFile.Bad("normalizer Replace has no \"content\"");
        if (TokenizerFile.Get(step, "pattern") is { } pattern)
        {
            if (TokenizerFile.Text(pattern, "String") is { Length: > 0 } literal) return new(From: literal, To: to);
            if (TokenizerFile.Text(pattern, "Regex") is { Length: > 0 } regex) return new(Pattern: UnicodePattern.ForBmp(regex), To: to);
        }
        throw TokenizerFile.Bad("normalizer Replace has no pattern (Regex or String)");
    }

    private static string ReplaceMatches(Regex pattern, string text, string to)
    {
        try
        {
            return pattern.Replace(text, _ => to);
        }
        catch (RegexMatchTimeoutException e)
        {
            throw new ModelFormatException(TokenizerFile.Name, $"the normalizer pattern {e.Pattern} takes more than {UnicodePattern.Patience.TotalSeconds:0} s on a text of {text.Length} characters", e);
        }
    }
}

/// <summary>The character that SentencePiece writes for a space.</summary>
internal static class Metaspace
{
    public const char Char = '\u2581';
    public const string Text = "\u2581";
}
