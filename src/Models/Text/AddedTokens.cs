using System.Buffers;
using FlashOrleans.Models.Templates;

namespace FlashOrleans.Models.Text;

/// <summary>A token that is cut out of the text before the model sees it: before normalisation, or with <paramref name="Normalized"/> after it.</summary>
internal sealed record AddedToken(int Id, string Content, bool Special, bool SingleWord = false, bool LeftStrip = false, bool RightStrip = false, bool Normalized = false);

/// <summary>
/// Finds added tokens in a text: the leftmost, the longest where several start together. With special tokens off, the name of one is text like
/// any other (it still hides what is inside it, as in the reference). Immutable; any thread.
/// </summary>
internal sealed class AddedTokens
{
    private readonly Dictionary<string, AddedToken>.AlternateLookup<ReadOnlySpan<char>> _byContent;
    private readonly int[] _lengths;
    private readonly SearchValues<string>? _search;

    public AddedTokens(IEnumerable<AddedToken> tokens)
    {
        var byContent = new Dictionary<string, AddedToken>(StringComparer.Ordinal);
        foreach (var token in tokens)
            if (token.Content.Length > 0) byContent[token.Content] = token;
        _byContent = byContent.GetAlternateLookup<ReadOnlySpan<char>>();
        _lengths = byContent.Keys.Select(static c => c.Length).Distinct().OrderDescending().ToArray();
        _search = byContent.Count == 0 ? null : SearchValues.Create(byContent.Keys.ToArray(), StringComparison.Ordinal);
    }

    public bool Any => _search is not null;

    /// <summary>
    /// The first added token at or after <paramref name="from"/>, or null. Start and end include what it strips beside it. In a <paramref name="rendered"/> conversation a
    /// special token counts only where the template wrote it.
    /// </summary>
    public AddedToken? Find(string text, int from, bool special, out int start, out int end, TextValue? rendered = null)
    {
        for (int at = from; _search is not null && at < text.Length;)
        {
            int found = text.AsSpan(at).IndexOfAny(_search);
            if (found < 0) break;
            at += found;
            var token = Longest(text.AsSpan(at));
            (start, end) = (at, at + token.Content.Length);
            if (token.Special && rendered?.IsTemplate(start, token.Content.Length) == false)
            {
                // A message wrote it, or the beginning of it: what follows may still be the template's.
                at++;
                continue;
            }
            at = end;
            if (token.Special && !special) continue;
            if (token.SingleWord && ((start > 0 && IsWord(text[start - 1])) || (end < text.Length && IsWord(text[end])))) continue;
            if (token.LeftStrip) while (start > from && char.IsWhiteSpace(text[start - 1])) start--;
            if (token.RightStrip) while (end < text.Length && char.IsWhiteSpace(text[end])) end++;
            return token;
        }
        (start, end) = (text.Length, text.Length);
        return null;
    }

    private AddedToken Longest(ReadOnlySpan<char> text)
    {
        foreach (int length in _lengths)
            if (length <= text.Length && _byContent.TryGetValue(text[..length], out var token)) return token;
        throw new InvalidOperationException("a token was found that is none");
    }

    private static bool IsWord(char c) => char.IsLetterOrDigit(c) || c == '_' || char.GetUnicodeCategory(c) is System.Globalization.UnicodeCategory.NonSpacingMark or System.Globalization.UnicodeCategory.SpacingCombiningMark;
}
