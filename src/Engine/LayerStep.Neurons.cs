using System.Runtime.CompilerServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward neuron by neuron: of each row the neurons it needs, rows of weights lying anywhere in the window. Segments are put together into items long enough for the kernels to
/// ask for the next weights while they compute the present ones: a segment alone has a dozen neurons a row, and each would begin by waiting for memory. Compute threads.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>(Row, neuron) pairs that are computed at a time; not a numeric constant: a block's neurons follow each other into one sum however they are cut.</summary>
    private const int Gathered = 256;
    /// <summary>Pairs an item has at most, roughly: enough for the kernels, few enough to divide among threads.</summary>
    private const int ItemPairs = 128;

    /// <summary>The pairs of one row in one segment, the next ones of a list: [from the end of the run before, To).</summary>
    private struct Run
    {
        public int Row, Block, To;
    }

    /// <summary>What an item has gathered; on its thread's stack. Up rows, of those down and gate rows are at a fixed distance.</summary>
    private ref struct Pairs
    {
        public byte** Up, Rows, Inputs;
        public float* Activations, Factors;
        public int* Neurons;
        public Run* Runs;
        public int Count, RunCount;
        public long Computed;
    }

    /// <summary>By item: its first segment in the ready ones; one more than there are items.</summary>
    private readonly List<int> _itemFrom = [];

    /// <summary>Puts ready segments together, in order, until an item has enough to do.</summary>
    private void Itemise(ReadOnlySpan<Segment> segments)
    {
        _itemFrom.Clear();
        int pairs = ItemPairs;
        for (int i = 0; i < _ready.Count; i++)
        {
            if (pairs >= ItemPairs)
            {
                _itemFrom.Add(i);
                pairs = 0;
            }
            ref readonly var segment = ref segments[_ready[i]];
            // No more than this: a row seldom needs all that the others do.
            pairs += (segment.To - segment.From) * _layer.Bundle.Group * _rows;
        }
        _itemFrom.Add(_ready.Count);
    }

    [SkipLocalsInit]
    private void SegmentsItem(int item, int worker)
    {
        byte** pointers = stackalloc byte*[3 * Gathered];
        float* floats = stackalloc float[2 * Gathered];
        int* ids = stackalloc int[Gathered];
        Run* runs = stackalloc Run[Gathered];
        var pairs = new Pairs { Up = pointers, Rows = pointers + Gathered, Inputs = pointers + 2 * Gathered, Activations = floats, Factors = floats + Gathered, Neurons = ids, Runs = runs };
        for (int i = _itemFrom[item]; i < _itemFrom[item + 1]; i++)
        {
            var segment = _segments[_ready[i]];
            if (IsSound(segment)) Gather(segment, ref pairs);
        }
        AddPairs(ref pairs);
        Interlocked.Add(ref _computedNeurons, pairs.Computed);
    }

    /// <summary>Takes up one segment's pairs, rows one after the other and neurons ascending; computes what there is whenever the list is full.</summary>
    private void Gather(in Segment segment, ref Pairs pairs)
    {
        var layout = _layer.Bundle;
        RowOffsets offsets = _layer.Offsets;
        int firstNeuron = segment.Block * _layer.BlockNeurons, endNeuron = Math.Min(firstNeuron + _layer.BlockNeurons, _layer.Neurons);
        float cut = _layer.Cut;
        bool sparse = _layer.Sparse, audited = _layer.Mode == FeedForwardMode.Predicted && Audits(segment);
        ClearFresh(segment.Block);
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* g = _g + (long)r * _layer.Neurons;
            int from = pairs.Count;
            for (int k = segment.From; k < segment.To; k++)
            {
                int unit = _needed[k];
                if (_neededFailed[k]) continue;
                int first = unit * layout.Group, end = Math.Min(first + layout.Group, endNeuron);
                for (int i = Math.Max(first, firstNeuron); i < end; i++)
                {
                    if (sparse && !(g[i] > cut)) continue;
                    if (pairs.Count == Gathered)
                    {
                        EndRun(ref pairs, r, segment.Block, from);
                        AddPairs(ref pairs);
                        from = 0;
                    }
                    pairs.Neurons[pairs.Count] = i;
                    pairs.Activations[pairs.Count] = sparse ? g[i] : 0;
                    pairs.Up[pairs.Count++] = (byte*)_neededAt[k] + offsets.Of(i - first);
                }
            }
            EndRun(ref pairs, r, segment.Block, from);
            if (audited) CountMissed(segment, r);
        }
    }

    private static void EndRun(ref Pairs pairs, int row, int block, int from)
    {
        if (pairs.Count > from) pairs.Runs[pairs.RunCount++] = new Run { Row = row, Block = block, To = pairs.Count };
    }

    /// <summary>
    /// partial += a_i · down_i, of each run into the partial sum of its row and block; a_i = act(gate_i x) · up_i x, or act(up_i x) without a gate. In exact
    /// mode the selector has computed the pre-activation already. Empties the list.
    /// </summary>
    private void AddPairs(ref Pairs pairs)
    {
        int n = pairs.Count;
        if (n == 0) return;
        var c = _layer.Config;
        var w = _layer.Weights!;
        var layout = _layer.Bundle;
        float* a = pairs.Activations;
        pairs.Computed += n;
        if (!_layer.Exact)
        {
            Multiply(pairs, c.Gated ? layout.Gate : layout.Up, c.Gated ? _layer.Offsets.Gate : 0, c.Gated ? w.GateBias : w.UpBias, a);
            if (_layer.Mode == FeedForwardMode.Predicted)
            {
                if (_layer.Activity != null)
                    for (int k = 0, run = 0; run < pairs.RunCount; k = pairs.Runs[run++].To) Reveal(pairs.Runs[run].Row, a + k, pairs.Neurons + k, pairs.Runs[run].To - k);
                CountChosen(a, pairs.Neurons, n);
            }
        }
        Activations.Apply(kernels, c, a, n);
        if (_layer.Options.CountZeros) Interlocked.Add(ref _layer.Count.Zeros, new Span<float>(a, n).Count(0f));
        // Chosen and zero after all: such a neuron adds nothing, whatever its other rows say.
        if (_layer.Mode == FeedForwardMode.Predicted) n = DropZeros(ref pairs);
        if (c.Gated)
        {
            float* u = pairs.Factors;
            Multiply(pairs, layout.Up, 0, w.UpBias, u);
            // An active neuron of a gated model that takes the positive part of both has both positive.
            for (int k = 0; k < n && _layer.Activity != null; k++) u[k] = MathF.Abs(u[k]);
            Activations.Combine(c, a, u, n);
        }
        for (int k = 0; k < n; k++) pairs.Rows[k] = pairs.Up[k] + _layer.Offsets.Down;
        for (int k = 0, run = 0; run < pairs.RunCount; k = pairs.Runs[run++].To)
        {
            (int row, int to) = (pairs.Runs[run].Row, pairs.Runs[run].To);
            kernels.Axpys(layout.Down, a + k, pairs.Rows + k, to - k, c.HiddenSize, Partial(pairs.Runs[run].Block) + (long)row * c.HiddenSize, n - to);
        }
        pairs.Count = pairs.RunCount = 0;
    }

    /// <summary>result = the row at this distance from each up row, times the pair's input, plus a bias.</summary>
    private void Multiply(in Pairs pairs, WeightFormat format, int distance, float* bias, float* result)
    {
        int n = pairs.Count;
        for (int k = 0, run = 0; run < pairs.RunCount; run++)
        {
            byte* input = InputRow(format, pairs.Runs[run].Row);
            for (; k < pairs.Runs[run].To; k++)
            {
                pairs.Inputs[k] = input;
                pairs.Rows[k] = pairs.Up[k] + distance;
            }
        }
        kernels.Dots(format, pairs.Rows, pairs.Inputs, n, _layer.Config.HiddenSize, result);
        for (int k = 0; k < n && bias != null; k++) result[k] += bias[pairs.Neurons[k]];
    }

    /// <summary>Takes pairs whose activation is zero out of the list; returns how many are left.</summary>
    private static int DropZeros(ref Pairs pairs)
    {
        int kept = 0, runs = 0;
        for (int k = 0, run = 0; run < pairs.RunCount; run++)
        {
            int from = kept;
            for (; k < pairs.Runs[run].To; k++)
            {
                if (pairs.Activations[k] == 0) continue;
                pairs.Activations[kept] = pairs.Activations[k];
                pairs.Neurons[kept] = pairs.Neurons[k];
                pairs.Up[kept++] = pairs.Up[k];
            }
            if (kept > from) pairs.Runs[runs++] = pairs.Runs[run] with { To = kept };
        }
        pairs.RunCount = runs;
        return pairs.Count = kept;
    }
}
