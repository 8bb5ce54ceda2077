using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Neurons that are always used, a dense feed-forward's and an expert's, slab by slab (<see cref="BundleLayout.Slabs"/>): three matrices, multiplied alike. First activations, threads splitting slabs; then
/// they become what the kernels of down's format take, a slab's together; then down, threads splitting its rows: what a slab adds is one sum from +0, and slabs are added in ascending order, so the
/// bits are always the same. Compute threads.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Tokens whose products are made at a time: their inputs stay in the second cache while a slab's panels pass by.</summary>
    internal const int SlabTokens = 64;
    /// <summary>With fewer slabs than this for each thread they are divided, and so are strips.</summary>
    private const int ItemsPerThread = 4;
    /// <summary>Rows of down that a thread sums at a time, at most, in panels: so much of the tokens' sums stays in the second cache while slabs pass by. Of few tokens more, to be read in one piece.</summary>
    private const int StripPanels = 16, LongStripPanels = 64;

    /// <summary>The sums of up to so many tokens are added to where they are.</summary>
    private const int SumsApart = 8;

    /// <summary>Items that a slab is divided into; panels of a strip.</summary>
    private int _slabParts, _stripPanels;
    private Action<int, int>? _slabJob, _operandJob, _slabSumJob;

    private int PanelsOfDown => WeightLayout.Panels(_layer.Config.HiddenSize);

    private nint OperandStride => StrideOf(_layer.Bundle.Down, BundleLayout.SlabNeurons);

    /// <summary>Strips of one expert's sums, or of a layer's, where so many are summed at once.</summary>
    private int DivideStrips(int sums)
    {
        bool few = _rows <= SumsApart;
        int items = (few ? 2 : ItemsPerThread) * pool.Threads;
        _stripPanels = Math.Clamp((PanelsOfDown * sums + items - 1) / items, 1, few ? LongStripPanels : StripPanels);
        return (PanelsOfDown + _stripPanels - 1) / _stripPanels;
    }

    /// <summary>Sums the ready segments of a dense layer, a slab each, for all rows.</summary>
    private void RunSlabs(bool parallel)
    {
        _slabParts = _ready.Count >= ItemsPerThread * pool.Threads ? 1 : BundleLayout.SlabNeurons / WeightLayout.Block;
        pool.Run(_slabJob ??= SlabItem, _ready.Count * _slabParts, parallel);
        pool.Run(_operandJob ??= OperandItem, _ready.Count, parallel && _rows > 1);
        pool.Run(_slabSumJob ??= SlabSumItem, DivideStrips(1), parallel);
    }

    private byte* SlabOf(in Segment segment) => _layer.Bundles!.UnitBase(_neededSlot[segment.From], _needed[segment.From]);

    /// <summary>Where the products of a slab begin that make neurons from this one on active.</summary>
    private byte* PanelsOf(byte* slab, int neuron)
    {
        var layout = _layer.Bundle;
        (WeightFormat format, nint offset) = _layer.Config.Gated ? (layout.Gate, _layer.Offsets.Gate) : (layout.Up, _layer.Offsets.Up);
        return slab + offset + (nint)(neuron / WeightLayout.PanelRows) * WeightLayout.PanelBytes(format, _layer.Config.HiddenSize);
    }

    private int NeuronsOf(in Segment segment) => Math.Min(BundleLayout.SlabNeurons, _layer.Neurons - segment.Block * BundleLayout.SlabNeurons);

    private void SlabItem(int item, int worker)
    {
        var segment = _segments[_ready[item / _slabParts]];
        int each = BundleLayout.SlabNeurons / _slabParts, from = item % _slabParts * each, to = Math.Min(from + each, NeuronsOf(segment));
        if (from >= to) return;
        var layout = _layer.Bundle;
        int width = _layer.Config.HiddenSize;
        float* act = ActivationsOf(segment.Block);
        var gate = new Inputs(InputRow(layout.Gate, 0), StrideOf(layout.Gate, width));
        var up = new Inputs(InputRow(layout.Up, 0), StrideOf(layout.Up, width));
        int after = item + pool.Threads;
        byte* next = after < _ready.Count * _slabParts ? PanelsOf(SlabOf(_segments[_ready[after / _slabParts]]), after % _slabParts * each) : null;
        Activate(SlabOf(segment), segment.Block * BundleLayout.SlabNeurons, from, to, gate, up, _rows, act, next, worker);
        for (int t = 0; t < _rows && _layer.Options.CountZeros; t++)
            if (!_slots[_slotOfRow[t]].Dead) Interlocked.Add(ref _layer.Count.Zeros, new Span<float>(act + (long)t * BundleLayout.SlabNeurons + from, to - from).Count(0f));
    }

    private void OperandItem(int item, int worker)
    {
        var segment = _segments[_ready[item]];
        MakeOperand(ActivationsOf(segment.Block), NeuronsOf(segment), _rows);
    }

    /// <summary>A strip of all ready segments' sums, for every row: those that come next in order into the result, others each into its own partial sum.</summary>
    private void SlabSumItem(int item, int worker)
    {
        int from = item * _stripPanels, to = Math.Min(from + _stripPanels, PanelsOfDown), width = _layer.Config.HiddenSize;
        int first = from * WeightLayout.PanelRows, columns = Math.Min(to * WeightLayout.PanelRows, width) - first;
        byte** slabs = stackalloc byte*[_ready.Count];
        float** operands = stackalloc float*[_ready.Count];
        for (int s = 0; s < _ready.Count; s++)
        {
            slabs[s] = SlabOf(_segments[_ready[s]]);
            operands[s] = ActivationsOf(_segments[_ready[s]].Block);
        }
        AddSlabs(slabs, operands, _direct, from, to, _rows, _y, worker);
        for (int s = _direct; s < _ready.Count; s++)
        {
            int block = _segments[_ready[s]].Block;
            float* y = Partial(block);
            for (int t = 0; t < _rows && _fresh[block]; t++) new Span<float>(y + (long)t * width + first, columns).Clear();
            AddSlabs(slabs + s, operands + s, 1, from, to, _rows, y, worker);
        }
    }

    /// <summary>act[t * 128 + i] = what neurons [from, to) of a slab make of the tokens' inputs; <paramref name="neuron"/> is the slab's first, <paramref name="next"/> what this thread will probably read after it.</summary>
    private void Activate(byte* slab, int neuron, int from, int to, Inputs gate, Inputs up, int tokens, float* act, byte* next, int worker)
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        var layout = _layer.Bundle;
        int n = to - from, width = c.HiddenSize, first = from / WeightLayout.PanelRows, end = WeightLayout.Panels(to);
        float* a = _products + worker * 2 * StepLayout.ProductFloats(_capacity), u = a + StepLayout.ProductFloats(_capacity);
        for (int done = 0; done < tokens; done += SlabTokens)
        {
            int count = Math.Min(SlabTokens, tokens - done);
            Inputs g = gate.From(done), x = up.From(done);
            if (c.Gated)
            {
                byte* behind = slab + _layer.Offsets.Up + first * (nint)WeightLayout.PanelBytes(layout.Up, width);
                kernels.Panels(layout.Gate, slab + _layer.Offsets.Gate, first, end, to, width, g.At, g.Stride, count, a - from, n, behind);
            }
            kernels.Panels(layout.Up, slab + _layer.Offsets.Up, first, end, to, width, x.At, x.Stride, count, (c.Gated ? u : a) - from, n, next);
            AddBias(a, n, count, c.Gated ? w.GateBias : w.UpBias, neuron + from);
            Activations.Apply(kernels, c, a, n * count);
            if (c.Gated)
            {
                AddBias(u, n, count, w.UpBias, neuron + from);
                Activations.Combine(c, a, u, n * count);
            }
            for (int t = 0; t < count; t++) new Span<float>(a + t * n, n).CopyTo(new Span<float>(act + (long)(done + t) * BundleLayout.SlabNeurons + from, n));
        }
    }

    /// <summary>A slab's activations, of which n are a neuron's, become what goes into down, in their own place: tokens <see cref="OperandStride"/> apart.</summary>
    private void MakeOperand(float* act, int n, int tokens)
    {
        for (int t = 0; t < tokens && n < BundleLayout.SlabNeurons; t++) new Span<float>(act + (long)t * BundleLayout.SlabNeurons + n, BundleLayout.SlabNeurons - n).Clear();
        if (!WeightLayout.IsQuantized(_layer.Bundle.Down)) return;
        float* row = stackalloc float[BundleLayout.SlabNeurons];
        nint stride = OperandStride;
        for (int t = 0; t < tokens; t++)
        {
            new Span<float>(act + (long)t * BundleLayout.SlabNeurons, BundleLayout.SlabNeurons).CopyTo(new Span<float>(row, BundleLayout.SlabNeurons));
            kernels.QuantizeRow(row, BundleLayout.SlabNeurons, (byte*)act + t * stride);
        }
    }

    /// <summary>y_t += down · what <see cref="MakeOperand"/> made, slab after slab, panels [from, to) of its rows.</summary>
    private void AddSlabs(byte** slabs, float** operands, int n, int from, int to, int tokens, float* y, int worker)
    {
        WeightFormat down = _layer.Bundle.Down;
        int width = _layer.Config.HiddenSize, first = from * WeightLayout.PanelRows, columns = Math.Min(to * WeightLayout.PanelRows, width) - first;
        nint offset = _layer.Offsets.Down, strip = (nint)from * WeightLayout.PanelBytes(down, BundleLayout.SlabNeurons), stride = OperandStride;
        // Rows of the result are pages apart, and fall into the same few sets of a cache: the sums of many tokens are kept together meanwhile.
        bool together = tokens > SumsApart && n > 1;
        float* sums = _products + worker * 2 * StepLayout.ProductFloats(_capacity);
        int most = together ? SlabTokens : tokens;
        for (int done = 0; done < tokens; done += most)
        {
            int count = Math.Min(most, tokens - done);
            float* result = y + (long)done * width, at = together ? sums - first : result;
            int atStride = together ? columns : width;
            for (int t = 0; t < count && together; t++) Copy(result + (long)t * width + first, sums + t * columns, columns);
            for (int s = 0; s < n; s++)
                kernels.Panels(down, slabs[s] + offset, from, to, width, BundleLayout.SlabNeurons, (byte*)operands[s] + done * stride, stride, count, at, atStride, s + 1 < n ? slabs[s + 1] + offset + strip : null, add: true);
            for (int t = 0; t < count && together; t++) Copy(sums + t * columns, result + (long)t * width + first, columns);
        }

        static void Copy(float* from, float* to, int n) => new Span<float>(from, n).CopyTo(new Span<float>(to, n));
    }
}
