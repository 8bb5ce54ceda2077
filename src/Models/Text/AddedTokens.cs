using System.Buffers;
using FlashOrleans.Models.Templates;

namespace FlashOrleans.Models.Text;

/// <summary>
/// Finds added tokens in a text: the leftmost, the longest where several start together. Two views of the same list: with special tokens, and
/// without them (a text that must not be able to name one). Immutable; any thread.
/// </summary>
internal sealed class AddedTokens
{
    private readonly (AddedToken[] Tokens, SearchValues<string>? Search) _all, _plain;

    public AddedTokens(IEnumerable<AddedToken> tokens)
    {
        var list = tokens.Where(static t => t.Content.Length > 0).OrderByDescending(static t => t.Content.Length).ToArray();
        _all = View(list);
        _plain = View(list.Where(static t => !t.Special).ToArray());
    }

    /// <summary>
    /// The first added token at or after <paramref name="from"/>, or null. Start and end include what it strips beside it. In a <paramref name="rendered"/> conversation a
    /// special token counts only where the template wrote it.
    /// </summary>
    public AddedToken? Find(string text, int from, bool special, out int start, out int end, TextValue? rendered = null)
    {
        var (tokens, search) = special ? _all : _plain;
        (start, end) = (text.Length, text.Length);
        if (search is null) return null;
        for (int at = from; at < text.Length; at++)
        {
            int found = text.AsSpan(at).IndexOfAny(search);
            if (found < 0) return null;
            at += found;
            foreach (var token in tokens)
            {
                if (string.CompareOrdinal(text, at, token.Content, 0, token.Content.Length) != 0) continue;
                if (token.Special && rendered?.IsTemplate(at, token.Content.Length) == false) continue;
                (start, end) = (at, at + token.Content.Length);
                if (token.SingleWord && ((start > 0 && IsWord(text[start - 1])) || (end < text.Length && IsWord(text[end])))) break;
                if (token.LeftStrip) while (start > from && char.IsWhiteSpace(text[start - 1])) start--;
                if (token.RightStrip) while (end < text.Length && char.IsWhiteSpace(text[end])) end++;
                return token;
            }
        }
        (start, end) = (text.Length, text.Length);
        return null;
    }

    private static bool IsWord(char c) => char.IsLetterOrDigit(c) || c == '_';

    private static (AddedToken[], SearchValues<string>?) View(AddedToken[] tokens) =>
        (tokens, tokens.Length == 0 ? null : SearchValues.Create(tokens.Select(static t => t.Content).ToArray(), StringComparison.Ordinal));
}
