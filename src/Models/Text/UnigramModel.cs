namespace FlashOrleans.Models.Text;

/// <summary>
/// The Unigram model: of all ways to write a piece as vocabulary entries, the one with the highest sum of scores (Viterbi, from left to right;
/// of equals the one found first). A character that is no entry costs ten more than the rarest entry; a row of them is one unknown token. Time is
/// length × longest entry, which is bounded when the file is read.
/// </summary>
internal sealed class UnigramModel : PieceModel
{
    public const int LongestEntry = 512;
    private const double UnknownPenalty = 10;

    private readonly double[] _scores;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _ids;
    // A trie: (node, character) to node; and the entry that ends at a node.
    private readonly Dictionary<long, int> _children = [];
    private readonly List<int> _entries = [-1];
    private readonly int _unknown;
    private readonly double _unknownScore;
    private readonly UnknownCharacters _rest;

    public UnigramModel(Dictionary<string, int> vocabulary, double[] scores, int unknown, int[]? bytes)
    {
        _scores = scores;
        _ids = vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        _unknown = unknown;
        _unknownScore = scores.Min() - UnknownPenalty;
        _rest = new(unknown, fuse: false, bytes);
        foreach (var (entry, id) in vocabulary) Add(entry, id);
    }

    private void Add(string entry, int id)
    {
        int node = 0;
        foreach (char c in entry)
        {
            long edge = Edge(node, c);
            if (!_children.TryGetValue(edge, out int child))
            {
                child = _entries.Count;
                _entries.Add(-1);
                _children.Add(edge, child);
            }
            node = child;
        }
        if (node != 0) _entries[node] = id;
    }

    public override void Encode(ReadOnlySpan<char> piece, List<int> ids)
    {
        // The best way to each position: its score, its last entry and where that begins.
        int size = piece.Length;
        var best = new (double Score, int Start, int Id)[size + 1];
        for (int i = 1; i <= size; i++) best[i].Start = -1;
        for (int at = 0; at < size;)
        {
            int length = PointLength(piece, at);
            double here = best[at].Score;
            bool single = false;
            int node = 0;
            for (int end = at; end < size && _children.TryGetValue(Edge(node, piece[end]), out node);)
            {
                end++;
                int id = _entries[node];
                if (id < 0) continue;
                Offer(end, here + _scores[id], id, at);
                single |= end - at == length;
            }
            if (!single) Offer(at + length, here + _unknownScore, _unknown, at);
            at += length;
        }

        var path = new List<(int Start, int End)>();
        for (int end = size; end > 0;)
        {
            var (_, start, id) = best[end];
            // Unknown characters in a row become one.
            if (id == _unknown && path.Count > 0 && best[path[^1].End].Id == _unknown && path[^1].Start == end) path[^1] = (start, path[^1].End);
            else path.Add((start, end));
            end = start;
        }
        for (int i = path.Count - 1; i >= 0; i--)
        {
            var entry = piece[path[i].Start..path[i].End];
            if (_ids.TryGetValue(entry, out int id)) ids.Add(id);
            else Spell(entry, ids);
        }

        void Offer(int end, double score, int id, int start)
        {
            if (best[end].Start < 0 || score > best[end].Score) best[end] = (score, start, id);
        }
    }

    /// <summary>A row of unknown characters: all as bytes, or all as one unknown token.</summary>
    private void Spell(ReadOnlySpan<char> entry, List<int> ids)
    {
        int begin = ids.Count;
        for (int i = 0; i < entry.Length;)
        {
            int length = PointLength(entry, i);
            if (_rest.Append(entry.Slice(i, length), ids, unknownBefore: false))
            {
                ids.RemoveRange(begin, ids.Count - begin);
                ids.Add(_unknown);
                return;
            }
            i += length;
        }
    }

    private static long Edge(int node, char c) => ((long)node << 16) | c;
}
