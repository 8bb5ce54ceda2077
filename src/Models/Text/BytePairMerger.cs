using System.Runtime.InteropServices;

namespace FlashOrleans.Models.Text;

/// <summary>One merge: two tokens that become one. Lower ranks go first.</summary>
internal readonly record struct Merge(int Left, int Right, int Merged, int Rank);

/// <summary>
/// The merge rule of BPE: of all neighbouring pairs that have a merge, the one with the lowest rank (leftmost among equals) becomes one
/// token, until none is left. A heap of candidates over a linked list: n log n, so that a word of a megabyte is no denial of service.
/// </summary>
internal sealed class BytePairMerger : PieceModel
{
    // Below this, looking for the best pair again and again is quicker than a heap.
    private const int ShortPiece = 24;

    private readonly Dictionary<long, (int Rank, int Merged)> _merges = [];
    private readonly HashSet<int>? _joints;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _ids;
    private readonly UnknownCharacters _unknown;
    private readonly int _size;
    private readonly string[] _extra;
    private readonly bool _ignoreMerges;

    /// <param name="symbols">What a single character is, and with <paramref name="ignoreMerges"/> a whole piece.</param>
    /// <param name="merges">All merges; of two for the same pair the later counts.</param>
    /// <param name="unknown">What a character without a symbol becomes.</param>
    /// <param name="ignoreMerges">A piece that is an entry as a whole is that token, whatever the merges say.</param>
    /// <param name="joints">Last unit of the left and first unit of the right part of every merge; null when pieces must not be cut.</param>
    /// <param name="size">Ids from here on are no tokens but characters that only occur inside longer entries,</param>
    /// <param name="extra">namely these.</param>
    public BytePairMerger(Dictionary<string, int> symbols, IEnumerable<Merge> merges, UnknownCharacters unknown, bool ignoreMerges = false, HashSet<int>? joints = null, int size = int.MaxValue, string[]? extra = null)
    {
        _ids = symbols.GetAlternateLookup<ReadOnlySpan<char>>();
        foreach (var (left, right, merged, rank) in merges) _merges[Pair(left, right)] = (rank, merged);
        _unknown = unknown;
        _ignoreMerges = ignoreMerges;
        _joints = ignoreMerges ? null : joints;
        _size = size;
        _extra = extra ?? [];
    }

    public static int Joint(char left, char right) => left << 16 | right;

    public override int Cut(ReadOnlySpan<char> piece, int from)
    {
        if (_joints is null) return piece.Length;
        for (int i = from + 1; i < piece.Length; i++)
        {
            if (_joints.Contains(Joint(piece[i - 1], piece[i])) || char.IsLowSurrogate(piece[i])) continue;
            // A row of unknown characters is one token.
            if (_unknown.Joins && !_ids.ContainsKey(piece.Slice(i - 1, 1))) continue;
            return i;
        }
        return piece.Length;
    }

    /// <summary>Appends the ids of one piece, written in the vocabulary's own characters.</summary>
    public override void Encode(ReadOnlySpan<char> piece, List<int> ids)
    {
        if (_ignoreMerges && _ids.TryGetValue(piece, out int whole)) { ids.Add(whole); return; }

        int begin = ids.Count;
        bool unknownBefore = false;
        for (int i = 0; i < piece.Length;)
        {
            int length = PointLength(piece, i);
            var character = piece.Slice(i, length);
            if (_ids.TryGetValue(character, out int id))
            {
                ids.Add(id);
                unknownBefore = false;
            }
            else
            {
                unknownBefore = _unknown.Append(character, ids, unknownBefore);
            }
            i += length;
        }
        if (ids.Count - begin > ShortPiece) MergeLong(ids, begin);
        else MergeShort(ids, begin);
        if (_extra.Length > 0) SpellExtra(ids, begin);
    }

    private void MergeShort(List<int> ids, int begin)
    {
        int count = ids.Count - begin;
        if (count < 2) return;
        // ranks[i] is that of the pair (i, i + 1).
        Span<int> tokens = stackalloc int[ShortPiece], ranks = stackalloc int[ShortPiece], merged = stackalloc int[ShortPiece];
        CollectionsMarshal.AsSpan(ids)[begin..].CopyTo(tokens);
        for (int i = 0; i + 1 < count; i++) (ranks[i], merged[i]) = Rank(tokens[i], tokens[i + 1]);
        while (count > 1)
        {
            int at = 0;
            for (int i = 1; i + 1 < count; i++)
                if (ranks[i] < ranks[at]) at = i;
            if (ranks[at] == int.MaxValue) break;
            tokens[at] = merged[at];
            count--;
            for (int i = at + 1; i < count; i++) tokens[i] = tokens[i + 1];
            for (int i = at; i + 1 < count; i++) (ranks[i], merged[i]) = (ranks[i + 1], merged[i + 1]);
            if (at > 0) (ranks[at - 1], merged[at - 1]) = Rank(tokens[at - 1], tokens[at]);
            if (at + 1 < count) (ranks[at], merged[at]) = Rank(tokens[at], tokens[at + 1]);
        }
        CollectionsMarshal.SetCount(ids, begin + count);
        tokens[..count].CopyTo(CollectionsMarshal.AsSpan(ids)[begin..]);
    }

    private (int Rank, int Merged) Rank(int left, int right) => _merges.TryGetValue(Pair(left, right), out var merge) ? merge : (int.MaxValue, 0);

    private void MergeLong(List<int> ids, int begin)
    {
        // The list: next[i] and previous[i] are indices of living neighbours; a merged-away right part has token -1.
        int[] tokens = ids.GetRange(begin, ids.Count - begin).ToArray();
        int count = tokens.Length;
        var next = new int[count];
        var previous = new int[count];
        var heap = new PriorityQueue<(int At, int Merged), long>(count);
        for (int i = 0; i < count; i++)
        {
            next[i] = i + 1;
            previous[i] = i - 1;
        }
        for (int i = 0; i + 1 < count; i++) Offer(i);

        while (heap.TryDequeue(out var candidate, out _))
        {
            int at = candidate.At;
            if (tokens[at] < 0) continue;
            int right = next[at];
            // Stale: one of the two has changed since it was offered.
            if (right >= count || !_merges.TryGetValue(Pair(tokens[at], tokens[right]), out var merge) || merge.Merged != candidate.Merged) continue;
            tokens[at] = merge.Merged;
            tokens[right] = -1;
            next[at] = next[right];
            if (next[at] < count) previous[next[at]] = at;
            Offer(previous[at]);
            Offer(at);
        }
        ids.RemoveRange(begin, count);
        for (int i = 0; i < count; i = next[i]) ids.Add(tokens[i]);

        void Offer(int at)
        {
            if (at >= 0 && next[at] < count && _merges.TryGetValue(Pair(tokens[at], tokens[next[at]]), out var merge))
                heap.Enqueue((at, merge.Merged), ((long)merge.Rank << 32) | (uint)at);
        }
    }

    /// <summary>Characters that found no neighbour to become a token with are unknown after all.</summary>
    private void SpellExtra(List<int> ids, int begin)
    {
        bool any = false;
        for (int i = begin; i < ids.Count; i++) any |= ids[i] >= _size;
        if (!any) return;
        int[] merged = ids.GetRange(begin, ids.Count - begin).ToArray();
        ids.RemoveRange(begin, merged.Length);
        bool unknownBefore = false;
        foreach (int id in merged)
        {
            if (id >= _size) { unknownBefore = _unknown.Append(_extra[id - _size], ids, unknownBefore); continue; }
            unknownBefore = false;
            ids.Add(id);
        }
    }

    private static long Pair(int left, int right) => ((long)left << 32) | (uint)right;
}
