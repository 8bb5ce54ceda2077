using System.IO.Hashing;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Experts of a step of few tokens, as decoding has: a slab is gone through once, from its first byte to its last, by one thread: gate, up, activation, and what it adds to the sums, in rows of its own. Whoever finishes an
/// expert's last slab adds its slabs' rows in ascending order, so the bits are those of <see cref="RunInStripes"/>. Threads meet once for all experts that are ready, not after each kind of product, since what
/// they wait for each other is paid for twice: where a machine's processors are counted in time, turning in a wait takes it from reads. An expert that nobody has checked is hashed by who computes it, slab by
/// slab: it comes from memory once. Compute threads; the conductor calls <see cref="RunSlabwise"/>.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>What one thread does of a ready expert: slabs [From, To), a checked span if it is to be hashed (else -1).</summary>
    private readonly record struct SlabsItem(int Ready, int From, int To, int Span);

    private bool _slabwise;
    private readonly List<SlabsItem> _slabsItems = [];
    /// <summary>By ready expert: items that are not done.</summary>
    private int[] _itemsLeft = new int[64];
    private XxHash3[] _hashes = [];
    private Action<int, int>? _slabsJob;

    /// <summary>Few tokens, and there is room for every slab's sums: whoever comes first is computed first, and waits for no room.</summary>
    private bool IsSlabwise(ExpertConfig experts) => _rows <= SumsApart && (long)_tokensFrom[_neededCount] * BundleLayout.SlabsOf(experts.Size) <= _partialRows;

    private void RunSlabwise(Span<Segment> segments, bool parallel)
    {
        var e = _layer.Experts!;
        var bundles = _layer.Bundles!;
        int slabs = BundleLayout.SlabsOf(e.Size);
        if (_itemsLeft.Length < e.Count) _itemsLeft = new int[e.Count];
        if (_hashes.Length == 0) _hashes = [.. Enumerable.Range(0, pool.Threads).Select(_ => new XxHash3())];
        _slabsItems.Clear();
        _slabsItems.EnsureCapacity(_neededCount * slabs);
        // What takes longest first: the last items should be short.
        foreach (int i in _ready)
            if (IsComputed(i) && IsToHash(i)) AddSpans(i);
        foreach (int i in _ready)
        {
            if (!IsComputed(i)) continue;
            GatherTokens(i);
            if (IsToHash(i)) continue;
            for (int slab = 0; slab < slabs; slab++) _slabsItems.Add(new SlabsItem(i, slab, slab + 1, -1));
            _itemsLeft[i] = slabs;
        }
        pool.Run(_slabsJob ??= SlabsOfItem, _slabsItems.Count, parallel);
        foreach (int i in _ready)
            if (IsComputed(i) && !bundles.Checked(_neededSlot[i])) _wrong = true;
        WithdrawWrong(segments);
        foreach (int i in _ready)
            if (IsComputed(i)) _computedNeurons += (long)TokensOf(i) * e.Size;
    }

    private bool IsComputed(int index) => !_neededFailed[index] && TokensOf(index) > 0;

    private bool IsToHash(int index) => _layer.Bundles!.IsUnchecked(_neededSlot[index]) && _layer.Bundles.Region.Checks.Count > 0;

    /// <summary>An expert's checked spans, of which each is whole slabs.</summary>
    private void AddSpans(int index)
    {
        var checks = _layer.Bundles!.Region.Checks;
        int slab = _layer.Bundle.SlabBytes, items = 0;
        for (int span = 0; span < checks.Count; span++)
        {
            if (checks[span].Bytes == 0) continue;
            int from = checks[span].Offset / slab;
            _slabsItems.Add(new SlabsItem(index, from, from + checks[span].Bytes / slab, span));
            items++;
        }
        _itemsLeft[index] = items;
    }

    private void SlabsOfItem(int item, int worker)
    {
        (int index, int from, int to, int span) = _slabsItems[item];
        var hash = _hashes[worker];
        if (span >= 0) hash.Reset();
        for (int slab = from; slab < to; slab++)
        {
            if (span >= 0) hash.Append(new ReadOnlySpan<byte>(SlabOf(index, slab), _layer.Bundle.SlabBytes));
            byte* next = null;
            if (slab + 1 == to && item + pool.Threads < _slabsItems.Count)
            {
                var other = _slabsItems[item + pool.Threads];
                next = SlabOf(other.Ready, other.From);
            }
            ComputeSlab(index, slab, next, worker);
        }
        if (span >= 0) _layer.Bundles!.Hashed(_needed[index], _neededSlot[index], span, hash.GetCurrentHashAsUInt64());
        if (Interlocked.Decrement(ref _itemsLeft[index]) == 0) SumSlabs(index);
    }

    /// <summary>What a slab adds to the sums of an expert's tokens, into its rows.</summary>
    private void ComputeSlab(int index, int slab, byte* next, int worker)
    {
        var e = _layer.Experts!;
        var layout = _layer.Bundle;
        byte* at = SlabOf(index, slab), down = at + _layer.Offsets.Down;
        int tokens = TokensOf(index), unit = _needed[index], first = slab * BundleLayout.SlabNeurons, n = Math.Min(BundleLayout.SlabNeurons, e.Size - first), width = _layer.Config.HiddenSize;
        long row = _ringRow[index] + (long)slab * tokens;
        float* act = _act + row * BundleLayout.SlabNeurons, sums = _partials + row * width;
        Activate(at, unit * e.Size + first, 0, n, InputsOf(layout.Gate, index), InputsOf(layout.Up, index), tokens, act, down, worker);
        WeighTokens(index, act, n);
        MakeOperand(act, n, tokens);
        new Span<float>(sums, tokens * width).Clear();
        kernels.Panels(layout.Down, down, 0, PanelsOfDown, width, BundleLayout.SlabNeurons, (byte*)act, OperandStride, tokens, sums, width, next, add: true);
    }

    /// <summary>An expert's sums: of its slabs' rows, in ascending order.</summary>
    private void SumSlabs(int index)
    {
        int n = TokensOf(index) * _layer.Config.HiddenSize;
        float* sums = SumsOf(index);
        for (int slab = 1; slab < BundleLayout.SlabsOf(_layer.Experts!.Size); slab++) kernels.Add(sums, sums + (long)slab * n, n);
    }
}
