using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward of a ReLU model where all rows of a wave compute all neurons: a matrix product, not neuron after neuron for each row. First the activations of the units that are there: sixteen
/// neurons at a time, woven into a panel, are multiplied with every row. Then their down rows, threads splitting columns: a tile of columns serves all rows, and the sum of a block stays
/// in registers until it is whole. The sums are those of <see cref="SegmentsItem"/> in the same order, so the bits are too.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Fewer rows than this take their down rows each on its own: making columns of them floats in memory is not worth it.</summary>
    internal const int TiledRows = 6;
    /// <summary>Columns of the down rows that a thread sums at a time; the rows' sums of so many stay in the second cache while blocks pass by.</summary>
    private const int StripColumns = 256;

    /// <summary>Activations by partial buffer, grouped as <see cref="Kernels.Columns"/> takes them; then per worker a panel and the products of one group of neurons.</summary>
    private float* _act, _products;
    private byte* _woven;
    private long _wovenBytes;
    /// <summary>By block: its partial sum has not been begun.</summary>
    private bool[] _fresh = [];
    /// <summary>The first so many ready segments are whole blocks that follow what is folded: they are added to the result at once.</summary>
    private int _direct;
    /// <summary>Neurons of one item of the activations.</summary>
    private int _itemNeurons;
    private Action<int, int>? _activationJob, _columnJob, _downJob;

    private bool IsDenseProduct => _layer.Mode == FeedForwardMode.Dense && _layer.Experts is null;

    /// <summary>Sums the ready segments for all rows.</summary>
    private void RunDense(long work)
    {
        // Few rows take their down rows each on its own, and threads split the blocks.
        bool parallel = work > ParallelWork, few = _rows < TiledRows, tiled = !few || _layer.Bundle.Slabs;
        _ready.Sort();
        _direct = 0;
        while (tiled && _direct < _ready.Count && IsWholeBlock(_segments[_ready[_direct]], _nextFold + _direct)) _direct++;
        if (_layer.Bundle.Slabs) RunSlabs(parallel);
        else RunRows(parallel, few);
        for (int r = _direct; tiled && r < _ready.Count; r++) _fresh[_segments[_ready[r]].Block] = false;
        foreach (int i in _ready)
        {
            NeuronsOf(_segments[i], out int first, out int end);
            for (int s = 0; s < _slotCount; s++)
                if (!_slots[s].Dead) _computedNeurons += (long)(end - first) * _slots[s].Slot.Count;
        }
    }

    private void RunRows(bool parallel, bool few)
    {
        // For few rows memory sets the pace: a whole block at a time, so that the next rows can be asked for.
        _itemNeurons = few ? Numerics.NeuronBlock : WeightLayout.PanelRows;
        pool.Run(_activationJob ??= ActivationItem, _ready.Count * (Numerics.NeuronBlock / _itemNeurons), parallel);
        if (few) pool.Run(_downJob ??= DownItem, _ready.Count, parallel);
        else pool.Run(_columnJob ??= ColumnItem, (_layer.Config.HiddenSize + StripColumns - 1) / StripColumns, parallel);
    }

    private bool IsWholeBlock(in Segment segment, int block)
    {
        if (segment.Block != block || !_fresh[block]) return false;
        NeuronsOf(segment, out int first, out int end);
        return first == block * Numerics.NeuronBlock && end == Math.Min(first + Numerics.NeuronBlock, _layer.Neurons);
    }

    /// <summary>Neurons [first, end) of a segment: every unit is needed, so they follow each other.</summary>
    private void NeuronsOf(in Segment segment, out int first, out int end)
    {
        int group = _layer.Bundle.Group, start = segment.Block * Numerics.NeuronBlock;
        first = Math.Max(_needed[segment.From] * group, start);
        end = Math.Min(Math.Min((_needed[segment.To - 1] + 1) * group, start + Numerics.NeuronBlock), _layer.Neurons);
    }

    /// <summary>Where n neurons of a segment lie.</summary>
    private void Locate(in Segment segment, int first, int n, byte** at)
    {
        RowOffsets offsets = _layer.Offsets;
        int group = _layer.Bundle.Group, before = _needed[segment.From];
        for (int i = first; i < first + n; i++)
        {
            int unit = i / group;
            *at++ = _layer.Bundles!.UnitBase(_neededSlot[segment.From + unit - before], unit) + offsets.Of(i - unit * group);
        }
    }

    private float* ActivationsOf(int block) => _act + (long)_partialOf[block] * Numerics.NeuronBlock * _openRows;

    /// <summary>Sixteen neurons of a segment, or all, for every row: products, activation, and into groups of eight rows.</summary>
    private void ActivationItem(int item, int worker)
    {
        int parts = Numerics.NeuronBlock / _itemNeurons;
        var segment = _segments[_ready[item / parts]];
        NeuronsOf(segment, out int first, out int end);
        first += item % parts * _itemNeurons;
        int n = Math.Min(_itemNeurons, end - first);
        if (n <= 0) return;
        var c = _layer.Config;
        var w = _layer.Weights!;
        var layout = _layer.Bundle;
        byte** at = stackalloc byte*[Numerics.NeuronBlock];
        Locate(segment, first, n, at);
        float* a = _products + worker * 2 * StepLayout.ProductFloats(_capacity), u = a + StepLayout.ProductFloats(_capacity);
        int width = c.HiddenSize;
        var gate = new Inputs(InputRow(layout.Gate, 0), StrideOf(layout.Gate, width));
        var up = new Inputs(InputRow(layout.Up, 0), StrideOf(layout.Up, width));
        Products(at, n, gate, up, _rows, a, u, worker);
        AddBias(a, n, _rows, c.Gated ? w.GateBias : w.UpBias, first);
        Activations.Apply(kernels, c, a, n * _rows);
        if (c.Gated)
        {
            AddBias(u, n, _rows, w.UpBias, first);
            Activations.Combine(c, a, u, n * _rows);
        }
        float* to = ActivationsOf(segment.Block) + Kernels.TokenGroup * (first - segment.Block * Numerics.NeuronBlock);
        for (int t = 0; t < _rows; t++, a += n)
        {
            float* row = to + t / Kernels.TokenGroup * Kernels.TokenGroup * Numerics.NeuronBlock + t % Kernels.TokenGroup;
            for (int i = 0; i < n; i++) row[Kernels.TokenGroup * i] = a[i];
            if (_layer.Options.CountZeros && !_slots[_slotOfRow[t]].Dead) Interlocked.Add(ref _layer.Count.Zeros, new Span<float>(a, n).Count(0f));
        }
    }

    /// <summary>A strip of columns of all ready segments, for every row.</summary>
    private void ColumnItem(int item, int worker)
    {
        int width = _layer.Config.HiddenSize, from = item * StripColumns, to = Math.Min(from + StripColumns, width);
        byte** at = stackalloc byte*[Numerics.NeuronBlock];
        for (int s = 0; s < _ready.Count; s++)
        {
            var segment = _segments[_ready[s]];
            int n = LocateAll(segment, at, out float* a);
            bool direct = s < _direct;
            float* y = direct ? _y : Partial(segment.Block);
            if (!direct && _fresh[segment.Block])
                for (int t = 0; t < _rows; t++) new Span<float>(y + (long)t * width + from, to - from).Clear();
            AddColumns(at, n, from, to, a, Kernels.TokenGroup * Numerics.NeuronBlock, _rows, y, direct);
        }
    }

    /// <summary>Few rows' activations, each row's together.</summary>
    private void Ungroup(float* a, int n, float* to)
    {
        for (int t = 0; t < _rows; t++)
            for (int i = 0; i < n; i++) to[t * Numerics.NeuronBlock + i] = a[Kernels.TokenGroup * i + t];
    }

    /// <summary>One segment's down rows for few rows, each on its own.</summary>
    private void DownItem(int item, int worker)
    {
        var segment = _segments[_ready[item]];
        byte** at = stackalloc byte*[Numerics.NeuronBlock];
        float* coefficients = stackalloc float[Numerics.NeuronBlock * TiledRows];
        int n = LocateAll(segment, at, out float* a);
        ClearFresh(segment.Block);
        Ungroup(a, n, coefficients);
        AddRows(at, n, coefficients, Numerics.NeuronBlock, _rows, Partial(segment.Block));
    }

    private int LocateAll(in Segment segment, byte** at, out float* a)
    {
        NeuronsOf(segment, out int first, out int end);
        Locate(segment, first, end - first, at);
        a = ActivationsOf(segment.Block) + Kernels.TokenGroup * (first - segment.Block * Numerics.NeuronBlock);
        return end - first;
    }

    private void ClearFresh(int block)
    {
        if (!_fresh[block]) return;
        _fresh[block] = false;
        new Span<float>(Partial(block), _rows * _layer.Config.HiddenSize).Clear();
    }
}
