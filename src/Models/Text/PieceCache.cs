using System.Diagnostics.CodeAnalysis;

namespace FlashOrleans.Models.Text;

/// <summary>
/// The ids of short pieces met before: words repeat, which makes encoding of prose several times as fast. A table of fixed size in which a newcomer takes the place of
/// what was there: bounded whatever the text, and a hostile one costs speed only. Any thread: entries are immutable and are replaced whole.
/// </summary>
internal sealed class PieceCache
{
    public const int LongestPiece = 48;
    private const int Size = 1 << 15;

    // Made by the first text: a codec that is only opened costs nothing.
    private Entry?[]? _entries;

    private sealed record Entry(string Piece, int[] Ids);

    public bool TryGet(ReadOnlySpan<char> piece, [NotNullWhen(true)] out int[]? ids)
    {
        if (_entries is { } entries && Volatile.Read(ref entries[Slot(piece)]) is { } entry && piece.SequenceEqual(entry.Piece))
        {
            ids = entry.Ids;
            return true;
        }
        ids = null;
        return false;
    }

    public void Add(ReadOnlySpan<char> piece, ReadOnlySpan<int> ids)
    {
        var entries = _entries ??= new Entry?[Size];
        Volatile.Write(ref entries[Slot(piece)], new(piece.ToString(), ids.ToArray()));
    }

    private static int Slot(ReadOnlySpan<char> piece)
    {
        uint hash = 2166136261;
        foreach (char c in piece) hash = (hash ^ c) * 16777619;
        return (int)((hash ^ (hash >> 15)) & (Size - 1));
    }
}
