using System.Globalization;

namespace FlashOrleans.Models.Text;

/// <summary>Turns one piece of a text, as the pre-tokeniser cuts them, into ids. Immutable; any thread.</summary>
internal abstract class PieceModel
{
    public abstract void Encode(ReadOnlySpan<char> piece, List<int> ids);

    /// <summary>
    /// Where a piece can be cut after <paramref name="from"/> without changing its ids: long pieces become short ones, which the cache knows. The length when nowhere.
    /// </summary>
    public virtual int Cut(ReadOnlySpan<char> piece, int from) => piece.Length;

    /// <summary>The value of a byte token's name, <c>&lt;0x0A&gt;</c>; -1 for any other name.</summary>
    public static int ByteValue(ReadOnlySpan<char> name) =>
        name.Length == 6 && name.StartsWith("<0x", StringComparison.Ordinal) && name[5] == '>'
        && byte.TryParse(name[3..5], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out byte value)
            ? value
            : -1;

    /// <summary>Characters from one position on: one or, beyond U+FFFF, two.</summary>
    protected static int PointLength(ReadOnlySpan<char> piece, int at) =>
        char.IsHighSurrogate(piece[at]) && at + 1 < piece.Length && char.IsLowSurrogate(piece[at + 1]) ? 2 : 1;
}

/// <summary>
/// What becomes of a character that no vocabulary entry holds: its UTF-8 bytes as byte tokens where the vocabulary has all of them, else the unknown
/// token (one for a row of them, if fused), else nothing.
/// </summary>
internal readonly struct UnknownCharacters(int? unknown, bool fuse, int[]? bytes)
{
    /// <summary>True when a row of such characters gives one token, so that it cannot be cut in two.</summary>
    public bool Joins { get; } = fuse && unknown is not null && (bytes is null || bytes.Contains(-1));

    /// <param name="character">One code point; half a surrogate pair counts as U+FFFD.</param>
    /// <param name="ids">Where its tokens go.</param>
    /// <param name="unknownBefore">The last token added stands for an unknown character.</param>
    /// <returns>Whether the unknown token was used.</returns>
    public bool Append(ReadOnlySpan<char> character, List<int> ids, bool unknownBefore)
    {
        if (bytes is not null)
        {
            Span<byte> utf8 = stackalloc byte[4];
            int count = System.Text.Encoding.UTF8.GetBytes(character, utf8);
            bool all = true;
            foreach (byte b in utf8[..count]) all &= bytes[b] >= 0;
            if (all)
            {
                foreach (byte b in utf8[..count]) ids.Add(bytes[b]);
                return false;
            }
        }
        if (unknown is not { } id) return false;
        if (!(fuse && unknownBefore)) ids.Add(id);
        return true;
    }
}
