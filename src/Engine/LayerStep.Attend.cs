namespace FlashOrleans.Engine;

/// <summary>
/// Attention of all rows over what their sessions hold (docs/adr/0028-attention-in-splits.md). Positions are cut into splits at multiples of <see cref="Numerics.SplitPositions"/>. A split of a query is a softmax of its own
/// (largest score m, sum s of e^(score - m), weighted sum a); splits are merged in ascending order. What a query sees of a split depends on its position and the window alone, so its bits do
/// not depend on the rows of its tile, on who computed a split, or when.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    private AttentionTile _tile;
    private float* _attention, _softmax, _splits;
    private long _splitsRoom;
    /// <summary>First rows of the tiles, and the end.</summary>
    private int[] _tiles = [];
    private int _tileCount;
    // Splits that a job shares out, and the numbers that each of a tile's splits takes.
    private int _firstSplit, _splitCount;
    private long _splitFloats;
    private Action<int, int>? _tileJob, _splitJob;

    private void Attend()
    {
        var c = _layer.Config;
        int group = c.Heads / c.KvHeads, first = int.MaxValue, last = 0, mostRows = 0;
        long work = 0, longest = 0;
        _tileCount = 0;
        for (int s = 0; s < _slotCount; s++)
        {
            int count = _slots[s].Slot.Count;
            for (int r = 0; r < count; r += _tile.Rows)
            {
                int rows = Math.Min(_tile.Rows, count - r), row = _slots[s].FirstRow + r, end = PositionOf(row) + rows, from = FirstSeen(PositionOf(row));
                _tiles[_tileCount++] = row;
                first = Math.Min(first, from / Numerics.SplitPositions);
                last = Math.Max(last, (end - 1) / Numerics.SplitPositions);
                mostRows = Math.Max(mostRows, rows);
                long cost = (long)rows * (end - from);
                work += cost;
                longest = Math.Max(longest, cost);
            }
        }
        _tiles[_tileCount] = _rows;
        for (int i = 0; i < _rows * c.Heads; i++)
        {
            // A sink is one more score whose value adds nothing.
            float* sinks = _layer.Weights!.Sinks;
            _softmax[2 * i] = sinks != null ? sinks[i % c.Heads] : float.NegativeInfinity;
            _softmax[2 * i + 1] = sinks != null ? 1 : 0;
        }
        new Span<float>(_a, _rows * c.AttendedSize).Clear();
        // Both now: when positions are first shared out a session is long under way, and a step allocates nothing.
        _tileJob ??= TileItem;
        _splitJob ??= SplitItem;
        int tasks = _tileCount * c.KvHeads;
        // A number of a key or value is read and widened for one product: it takes several times as long as a weight's.
        bool parallel = work * c.Heads * (c.HeadDim + c.ValueHeadDim) > ParallelWork / 8;
        _splitFloats = (long)mostRows * group * _tile.ResultFloats;
        int room = (int)Math.Min(last - first + 1, _splitsRoom / (tasks * _splitFloats));
        // A tile's positions are shared out where it alone would be more than half of a thread's part.
        if (parallel && pool.Threads > 1 && last > first && room > 0 && longest * 2 * pool.Threads > work * c.KvHeads) Spread(first, last, room, tasks);
        else pool.Run(_tileJob, tasks, parallel);
    }

    /// <summary>The first position that one at this place sees.</summary>
    private int FirstSeen(int position) => position + 1 - Math.Min(position + 1, _layer.Window);

    private void Spread(int first, int last, int room, int tasks)
    {
        for (_firstSplit = first; _firstSplit <= last; _firstSplit += _splitCount)
        {
            _splitCount = Math.Min(room, last - _firstSplit + 1);
            pool.Run(_splitJob!, tasks * _splitCount);
            for (int item = 0; item < tasks * _splitCount; item++) Merge(item / _splitCount, _splits + item * _splitFloats);
        }
        for (int task = 0; task < tasks; task++) Divide(task);
    }

    private void SplitItem(int item, int worker)
    {
        float* scratch = _attention + worker * _tile.Floats;
        int task = item / _splitCount;
        Gather(task, scratch);
        Split(task, _firstSplit + item % _splitCount, scratch, _splits + item * _splitFloats);
    }

    private void TileItem(int task, int worker)
    {
        float* scratch = _attention + worker * _tile.Floats, split = scratch + _tile.SplitAt;
        int tile = task / _layer.Config.KvHeads, first = FirstSeen(PositionOf(_tiles[tile])), last = PositionOf(_tiles[tile + 1] - 1);
        Gather(task, scratch);
        for (int s = first / Numerics.SplitPositions; s <= last / Numerics.SplitPositions; s++)
        {
            Split(task, s, scratch, split, s == last / Numerics.SplitPositions ? FirstKeys(task + pool.Threads) : null);
            Merge(task, split);
        }
        Divide(task);
    }

    /// <summary>Where a task begins to read; null behind the last.</summary>
    private byte* FirstKeys(int task)
    {
        int heads = _layer.Config.KvHeads;
        if (task >= _tileCount * heads) return null;
        int row = _tiles[task / heads];
        return _layer.Kv!.Key(_slots[_slotOfRow[row]].Sequence, task % heads, FirstSeen(PositionOf(row)));
    }

    /// <summary>The queries of a tile's rows side by side.</summary>
    private void Gather(int task, float* queries)
    {
        var c = _layer.Config;
        int tile = task / c.KvHeads, bytes = c.Heads / c.KvHeads * c.HeadDim * 4;
        for (int row = _tiles[tile]; row < _tiles[tile + 1]; row++, queries += bytes / 4)
            Buffer.MemoryCopy(_qkv + (long)row * c.QkvRows + task % c.KvHeads * (bytes / 4), queries, bytes, bytes);
    }

    /// <summary>One split of a tile's queries: [query][weighted sum, largest score, sum], the sum 0 where a query sees nothing of it; <paramref name="next"/>: what this thread will probably read after it.</summary>
    private void Split(int task, int split, float* scratch, float* to, byte* next = null)
    {
        var c = _layer.Config;
        var kv = _layer.Kv!;
        int tile = task / c.KvHeads, head = task % c.KvHeads, row = _tiles[tile], rows = _tiles[tile + 1] - row, group = c.Heads / c.KvHeads;
        int position = PositionOf(row), start = split * Numerics.SplitPositions, stop = start + Numerics.SplitPositions, width = _tile.ResultFloats;
        var sequence = _slots[_slotOfRow[row]].Sequence;
        float* scores = scratch + _tile.ScoresAt, room = scratch + _tile.RoomAt;
        float scale = c.AttentionScale == 0 ? 1 / MathF.Sqrt(c.HeadDim) : c.AttentionScale;
        bool q8 = kv.Type == KvType.Q8;
        // Rows are behind each other, so what all of them see lies between what the last one sees first and what the first one sees last.
        int from = Math.Max(start, FirstSeen(position)), end = Math.Min(stop, position + rows);
        int allFrom = Math.Max(start, FirstSeen(position + rows - 1)), allEnd = Math.Min(stop, position + 1);
        for (int p = from, n; p < end; p += n)
        {
            n = Math.Min(KvCache.BlockPositions - p % KvCache.BlockPositions, end - p);
            var (together, apart) = Together(p, p + n, allFrom, allEnd);
            if (apart > together) Score(0, rows, together, apart, p + n < end ? kv.Key(sequence, head, p + n) : kv.Value(sequence, head, from));
            for (int r = 0; r < rows; r++)
            {
                Score(r, 1, Math.Max(p, FirstSeen(position + r)), Math.Min(together, position + r + 1));
                Score(r, 1, Math.Max(apart, FirstSeen(position + r)), Math.Min(p + n, position + r + 1));
            }
        }
        for (int i = 0; i < rows * group; i++)
        {
            int r = i / group, low = Math.Max(start, FirstSeen(position + r)) - start, count = Math.Min(stop, position + r + 1) - start - low;
            float* own = scores + (long)i * Numerics.SplitPositions + low, result = to + (long)i * width;
            new Span<float>(result, width).Clear();
            if (count <= 0) continue;
            if (c.AttentionSoftcap != 0) Activations.Softcap(own, count, c.AttentionSoftcap);
            result[c.ValueHeadDim + 1] = kernels.ExpSum(own, count, out result[c.ValueHeadDim]);
        }
        for (int p = from, n; p < end; p += n)
        {
            n = Math.Min(KvCache.BlockPositions - p % KvCache.BlockPositions, end - p);
            var (together, apart) = Together(p, p + n, allFrom, allEnd);
            for (int r = 0; r < rows; r++) Weigh(r, 1, Math.Max(p, FirstSeen(position + r)), Math.Min(together, position + r + 1));
            if (apart > together) Weigh(0, rows, together, apart, p + n < end ? kv.Value(sequence, head, p + n) : next);
            for (int r = 0; r < rows; r++) Weigh(r, 1, Math.Max(apart, FirstSeen(position + r)), Math.Min(p + n, position + r + 1));
        }

        void Score(int r, int count, int p, int until, byte* ask = null)
        {
            if (p >= until) return;
            kernels.ScoresOfMany(kv.Type, scratch + (long)r * group * c.HeadDim, count * group, c.HeadDim, kv.Key(sequence, head, p), q8 ? kv.KeyScale(sequence, head, p) : null, until - p, c.HeadDim, scale,
                scores + (long)r * group * Numerics.SplitPositions + p - start, Numerics.SplitPositions, room, ask);
        }

        void Weigh(int r, int count, int p, int until, byte* ask = null)
        {
            if (p >= until) return;
            kernels.WeightedSumOfMany(kv.Type, scores + (long)r * group * Numerics.SplitPositions + p - start, count * group, Numerics.SplitPositions, kv.Value(sequence, head, p), q8 ? kv.ValueScale(sequence, head, p) : null,
                until - p, c.ValueHeadDim, to + (long)r * group * width, width, room, ask);
        }
    }

    /// <summary>The part of a run that all rows see; where there is none, an empty one behind it.</summary>
    private static (int From, int End) Together(int from, int end, int allFrom, int allEnd)
    {
        int low = Math.Max(from, allFrom), high = Math.Min(end, allEnd);
        return low < high ? (low, high) : (end, end);
    }

    /// <summary>
    /// (M, S, A) and the next split's (m, s, a) become M' = max(M, m), S' = S e^(M - M') + s e^(m - M'), and the same with A and a: the online softmax of Milakov and Gimelshein (2018), split as in Flash-Decoding.
    /// </summary>
    private void Merge(int task, float* split)
    {
        var c = _layer.Config;
        int tile = task / c.KvHeads, group = c.Heads / c.KvHeads, width = c.ValueHeadDim;
        for (int row = _tiles[tile]; row < _tiles[tile + 1]; row++)
            for (int h = 0; h < group; h++, split += _tile.ResultFloats)
            {
                float m = split[width], s = split[width + 1];
                if (s == 0) continue;
                long at = (long)row * c.Heads + task % c.KvHeads * group + h;
                float* state = _softmax + 2 * at, a = _a + at * width;
                float max = m > state[0] ? m : state[0], old = FloatMath.Exp(state[0] - max), factor = FloatMath.Exp(m - max);
                state[0] = max;
                state[1] = MathF.FusedMultiplyAdd(s, factor, state[1] * old);
                if (old != 1) kernels.Scale(a, old, width);
                kernels.WeightedSum(&factor, (byte*)split, 0, false, 1, width, a);
            }
    }

    private void Divide(int task)
    {
        var c = _layer.Config;
        int tile = task / c.KvHeads, group = c.Heads / c.KvHeads;
        for (int row = _tiles[tile]; row < _tiles[tile + 1]; row++)
            for (int h = 0; h < group; h++)
            {
                long at = (long)row * c.Heads + task % c.KvHeads * group + h;
                kernels.Scale(_a + at * c.ValueHeadDim, 1 / _softmax[2 * at + 1], c.ValueHeadDim);
            }
    }
}
