using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward where all rows of a wave compute all neurons: a matrix product, not neuron after neuron for each row. First the activations of the units that are there: sixteen
/// neurons at a time are woven into a panel, if they are none yet (LayerStep.Woven.cs), and multiplied with every row. Then their down rows, threads splitting columns: a tile of columns serves all rows, and the sum of a block stays
/// in registers until it is whole. The sums are those of <see cref="SegmentsItem"/> in the same order, so the bits are too.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Fewer rows than this take their down rows each on its own: a tile made into floats is not worth it.</summary>
    internal const int TiledRows = 6;
    /// <summary>Columns of the down rows that a thread sums at a time: the rows' sums of so many stay in the second cache while blocks pass by.</summary>
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
        bool parallel = work > ParallelWork, tiled = _rows >= TiledRows;
        _ready.Sort();
        _direct = 0;
        while (tiled && _direct < _ready.Count && IsWholeBlock(_segments[_ready[_direct]], _nextFold + _direct)) _direct++;
        // For few rows memory sets the pace: a whole block at a time, so that the next rows can be asked for.
        _itemNeurons = tiled ? WeightLayout.PanelRows : Numerics.NeuronBlock;
        pool.Run(_activationJob ??= ActivationItem, _ready.Count * (Numerics.NeuronBlock / _itemNeurons), parallel);
        if (tiled) pool.Run(_columnJob ??= ColumnItem, (_layer.Config.HiddenSize + StripColumns - 1) / StripColumns, parallel);
        else pool.Run(_downJob ??= DownItem, _ready.Count, parallel);
        for (int r = _direct; tiled && r < _ready.Count; r++) _fresh[_segments[_ready[r]].Block] = false;
        foreach (int i in _ready)
        {
            NeuronsOf(_segments[i], out int first, out int end);
            for (int s = 0; s < _slotCount; s++)
                if (!_slots[s].Dead) _computedNeurons += (long)(end - first) * _slots[s].Slot.Count;
        }
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

    /// <summary>Where a neuron of a segment lies: its up row.</summary>
    private byte* Bundle(in Segment segment, int neuron, RowOffsets offsets)
    {
        int group = _layer.Bundle.Group, unit = neuron / group;
        return _layer.Bundles!.UnitBase(_neededSlot[segment.From + unit - _needed[segment.From]], unit) + offsets.Up(neuron - unit * group);
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
        RowOffsets offsets = _layer.Offsets;
        const int panelRows = WeightLayout.PanelRows;
        byte** up = stackalloc byte*[2 * Numerics.NeuronBlock], gate = up + Numerics.NeuronBlock, woven = stackalloc byte*[Numerics.NeuronBlock / panelRows];
        for (int i = 0; i < n; i++)
        {
            if (i % panelRows == 0) woven[i / panelRows] = WovenAt(segment, first + i);
            if (woven[i / panelRows] != null) continue;
            up[i] = Bundle(segment, first + i, offsets);
            gate[i] = up[i] + offsets.Gate;
        }
        float* a = _products + worker * 2 * StepLayout.ProductFloats(_capacity), u = a + StepLayout.ProductFloats(_capacity);
        Products(c.Gated ? layout.Gate : layout.Up, c.Gated ? gate : up, woven, 0, n, a, worker, c.Gated ? w.GateBias : w.UpBias, first);
        Activations.Apply(kernels, c, a, n * _rows);
        if (c.Gated)
        {
            Products(layout.Up, up, woven, GatePanelBytes, n, u, worker, w.UpBias, first);
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

    /// <summary>products[t * n + i] = row_i · x_t + bias; of neurons that are woven the panel lies at <paramref name="offset"/> of theirs.</summary>
    private void Products(WeightFormat format, byte** rows, byte** woven, int offset, int n, float* products, int worker, float* bias, int first)
    {
        const int panelRows = WeightLayout.PanelRows;
        int width = _layer.Config.HiddenSize;
        nint stride = WeightLayout.IsQuantized(format) ? Kernels.QuantizedBytes(width) : width * 4;
        byte* x = InputRow(format, 0);
        for (int i = 0, end; i < n; i = end)
        {
            byte* panel = woven[i / panelRows];
            end = Math.Min(i + panelRows, n);
            if (panel != null)
            {
                byte* next = end < n ? woven[end / panelRows] : null;
                kernels.Panels(format, panel + offset, 0, 1, end - i, width, x, stride, _rows, products + i, n, (next != null ? next : panel) + offset);
                continue;
            }
            while (end < n && woven[end / panelRows] == null) end = Math.Min(end + panelRows, n);
            kernels.Products(format, rows + i, end - i, width, x, stride, _rows, products + i, n, _woven + worker * _wovenBytes);
        }
        if (bias == null) return;
        for (int t = 0; t < _rows; t++, products += n)
            for (int i = 0; i < n; i++) products[i] += bias[first + i];
    }

    /// <summary>A strip of columns of all ready segments, for every row.</summary>
    private void ColumnItem(int item, int worker)
    {
        int width = _layer.Config.HiddenSize, from = item * StripColumns, to = Math.Min(from + StripColumns, width);
        byte** rows = stackalloc byte*[Numerics.NeuronBlock];
        for (int s = 0; s < _ready.Count; s++)
        {
            var segment = _segments[_ready[s]];
            int n = DownRows(segment, rows, out float* a);
            bool direct = s < _direct;
            float* y = direct ? _y : Partial(segment.Block);
            if (!direct && _fresh[segment.Block])
                for (int t = 0; t < _rows; t++) new Span<float>(y + (long)t * width + from, to - from).Clear();
            kernels.Columns(_layer.Bundle.Down, rows, n, width, from, to, a, Kernels.TokenGroup * Numerics.NeuronBlock, _rows, y, width, direct);
        }
    }

    /// <summary>One segment's down rows for few rows, each on its own.</summary>
    private void DownItem(int item, int worker)
    {
        var segment = _segments[_ready[item]];
        int width = _layer.Config.HiddenSize;
        byte** rows = stackalloc byte*[Numerics.NeuronBlock];
        float* coefficients = stackalloc float[Numerics.NeuronBlock];
        int n = DownRows(segment, rows, out float* a);
        ClearFresh(segment.Block);
        for (int t = 0; t < _rows; t++)
        {
            for (int i = 0; i < n; i++) coefficients[i] = a[Kernels.TokenGroup * i + t];
            kernels.Axpys(_layer.Bundle.Down, coefficients, rows, n, width, Partial(segment.Block) + (long)t * width);
        }
    }

    private int DownRows(in Segment segment, byte** rows, out float* a)
    {
        NeuronsOf(segment, out int first, out int end);
        RowOffsets offsets = _layer.Offsets;
        int before = GatePanelBytes + WeightLayout.PanelBytes(_layer.Bundle.Up, _layer.Config.HiddenSize), bytes = _layer.Bundle.DownBytes;
        for (int i = first; i < end; i++)
        {
            byte* woven = WovenAt(segment, i);
            rows[i - first] = woven != null ? woven + before + i % WeightLayout.PanelRows * bytes : Bundle(segment, i, offsets) + offsets.Down;
        }
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
