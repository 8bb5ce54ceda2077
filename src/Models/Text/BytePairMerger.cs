namespace FlashOrleans.Models.Text;

/// <summary>
/// The merge rule of BPE: of all neighbouring pairs that have a merge, the one with the lowest rank (leftmost among equals) becomes one
/// token, until none is left. A heap of candidates over a linked list: n log n, so that a word of a megabyte is no denial of service.
/// Immutable; any thread.
/// </summary>
internal sealed class BytePairMerger
{
    private readonly TokenizerFile _file;
    private readonly Dictionary<long, (int Rank, int Merged)> _merges = [];
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _ids;

    public BytePairMerger(TokenizerFile file)
    {
        _file = file;
        _ids = file.Vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        for (int rank = 0; rank < file.Merges.Count; rank++)
        {
            var (left, right, merged) = file.Merges[rank];
            _merges[Pair(left, right)] = (rank, merged);
        }
    }

    /// <summary>Appends the ids of one piece, written in the vocabulary's own characters.</summary>
    public void Encode(ReadOnlySpan<char> piece, List<int> ids)
    {
        if (_file.IgnoreMerges && _ids.TryGetValue(piece, out int whole)) { ids.Add(whole); return; }

        var tokens = new int[piece.Length];
        int count = Symbols(piece, tokens);
        if (count < 2)
        {
            if (count == 1) ids.Add(tokens[0]);
            return;
        }

        // The list: next[i] and previous[i] are indices of living neighbours; a merged-away right part has token -1.
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
        for (int i = 0; i < count; i = next[i]) ids.Add(tokens[i]);

        void Offer(int at)
        {
            if (at >= 0 && next[at] < count && _merges.TryGetValue(Pair(tokens[at], tokens[next[at]]), out var merge))
                heap.Enqueue((at, merge.Merged), ((long)merge.Rank << 32) | (uint)at);
        }
    }

    /// <summary>The characters as single tokens. One that is not in the vocabulary becomes the unknown token, or nothing where there is none.</summary>
    private int Symbols(ReadOnlySpan<char> piece, Span<int> tokens)
    {
        int count = 0;
        for (int i = 0; i < piece.Length;)
        {
            int length = char.IsHighSurrogate(piece[i]) && i + 1 < piece.Length && char.IsLowSurrogate(piece[i + 1]) ? 2 : 1;
            if (_ids.TryGetValue(piece.Slice(i, length), out int id) || (_file.Unknown is { } unknown && (id = unknown) >= 0)) tokens[count++] = id;
            i += length;
        }
        return count;
    }

    private static long Pair(int left, int right) => ((long)left << 32) | (uint)right;
}
