using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward half of a step. The needed units (all, or those with a non-zero neuron) are taken in ascending order in batches as large as the window can pin;
/// a batch's neuron blocks are summed as their units arrive, in any order, each into its own partial sum, and added in ascending order at the end of the batch.
/// A block cut by the end of a batch goes on in the next one with the same partial sum, so neither window nor arrival order can change a bit.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    private struct Segment
    {
        public int Block, From, To, Missing;
        public bool Done;
    }

    private int[] _needed = new int[64];
    private int[] _neededSlot = new int[64];
    private bool[] _neededFailed = new bool[64];
    private bool[] _marks = [];
    private int[] _awaiting = [];
    private int _neededCount, _batchFrom, _batchTo, _segmentsLeft;
    private readonly List<Segment> _segments = [];
    private readonly List<int> _ready = [];
    private readonly List<int> _freePartials = [];
    private int[] _partialOf = [];
    private int _nextFold;
    private Action<int, int>? _segmentJob;
    private long _computedNeurons;

    private void BeginFeedForward()
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        _input = c.Parallel ? _x : _h;
        bool predicted = _layer.Mode == FeedForwardMode.Predicted;
        if (predicted) Score(w.Predictor, _input, _rows, _layer.Neurons, out _);
        if (c.NormPlacement is NormPlacement.Pre or NormPlacement.Sandwich)
        {
            // A shared norm left its result behind when attention began.
            if (!c.SharedNorm) Normalise(_input, w.FfnNorm, _n, _rows);
            _input = _n;
        }
        var layout = _layer.Bundle;
        if (WeightLayout.IsQuantized(layout.Up) || WeightLayout.IsQuantized(layout.Gate)) Operand(WeightFormat.Q8, _input, _q, _rows, c.HiddenSize, out _);
        new Span<float>(_y, _rows * c.HiddenSize).Clear();
        int units = _layer.Bundles!.Region.Count;
        if (_needed.Length < units)
        {
            _needed = new int[units];
            _neededSlot = new int[units];
            _neededFailed = new bool[units];
        }
        if (_marks.Length < units) _marks = new bool[units];
        int slots = _layer.Bundles.Window.Slots;
        if (_awaiting.Length < slots) _awaiting = new int[slots];
        Array.Fill(_awaiting, -1);
        if (_partialOf.Length < _layer.Blocks) _partialOf = new int[_layer.Blocks];
        Array.Fill(_partialOf, -1);
        _freePartials.Clear();
        for (int i = _partialBuffers - 1; i >= 0; i--) _freePartials.Add(i);
        _nextFold = 0;
        _batchFrom = _batchTo = 0;
        _segments.Clear();
        _segmentsLeft = 0;
        _layer.Count.Dense += (long)_rows * _layer.Neurons;
        _layer.Bundles.Window.Tick();
        if (predicted) SelectPredicted();
        else if (_layer.Exact) SelectActive(c, w);
        else if (_layer.Experts is { } experts) SelectExperts(experts, w);
        else
        {
            for (int u = 0; u < units; u++) _needed[u] = u;
            _neededCount = units;
            _layer.Count.Active += (long)_rows * _layer.Neurons;
        }
        Array.Clear(_neededFailed, 0, _neededCount);
        _coldBefore = _layer.Bundles.Cold;
    }

    /// <summary>What the feed-forward reads, and its quantised form in q.</summary>
    private float* _input;
    private long _coldBefore;

    /// <summary>A row of the feed-forward's input as the kernels of a format take it.</summary>
    private byte* InputRow(WeightFormat format, int row)
    {
        int width = _layer.Config.HiddenSize;
        return WeightLayout.IsQuantized(format) ? _q + (long)row * Kernels.QuantizedBytes(width) : (byte*)(_input + (long)row * width);
    }

    /// <summary>Exact mode: the selector says which neurons are not zero; their pre-activations stay in g.</summary>
    private void SelectActive(ModelConfig c, LayerWeights w)
    {
        nint stride = WeightLayout.IsQuantized(w.SelectorFormat) ? Kernels.QuantizedBytes(c.HiddenSize) : c.HiddenSize * 4;
        MultiplyOperand(w.SelectorFormat, w.Selector, _layer.Neurons, c.HiddenSize, InputRow(w.SelectorFormat, 0), stride, _rows, _g, c.Gated ? w.GateBias : w.UpBias);
        Array.Clear(_marks, 0, _layer.Bundles!.Region.Count);
        _layer.Count.Active += MarkActive(_layer.Neurons, _layer.Cut, _layer.Bundle.Group);
        TakeMarked();
    }

    /// <summary>The marked units are needed, and beside them those of an audit.</summary>
    private void TakeMarked(int auditFrom = 0, int auditTo = 0)
    {
        _neededCount = 0;
        int wanted = 0;
        int predictedHit = 0;
        bool predicted = _layer.HasPrediction;
        for (int u = 0; u < _layer.Bundles!.Region.Count; u++)
        {
            if (!_marks[u] && !(auditFrom <= u && u < auditTo)) continue;
            _needed[_neededCount++] = u;
            if (!_marks[u]) continue;
            wanted++;
            if (predicted && _layer.Predicted[u]) predictedHit++;
        }
        if (!predicted) return;
        _layer.Count.PredictedHit += predictedHit;
        _layer.Count.PredictedFor += wanted;
        _layer.HasPrediction = false;
    }

    /// <summary>Marks the unit of every value above the threshold; returns how many there are. A slot that is dead (its embedding could not be read) needs nothing.</summary>
    private long MarkActive(int neurons, float threshold, int group)
    {
        long active = 0;
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* row = _g + (long)r * neurons;
            for (int i = 0; i < neurons; i++)
            {
                if (!(row[i] > threshold)) continue;
                active++;
                _marks[group == 1 ? i : i / group] = true;
                _layer.Watch?.Invoke(PositionOf(r), i);
            }
        }
        return active;
    }

    /// <summary>Goes as far as the units that are there allow; true when every needed neuron is summed.</summary>
    private bool AdvanceFeedForward()
    {
        while (true)
        {
            if (_segmentsLeft == 0)
            {
                FoldBatch();
                if (_batchTo == _neededCount)
                {
                    _layer.ObserveLookAhead(_rows, _neededCount, (int)(_layer.Bundles!.Cold - _coldBefore));
                    return true;
                }
                if (!NextBatch()) return false;
            }
            RunReadySegments();
            if (_segmentsLeft > 0) return false;
        }
    }

    /// <summary>Pins the next units, starts their reads and cuts them into blocks. False when the window has no slot to give until a read under way completes.</summary>
    private bool NextBatch()
    {
        var bundles = _layer.Bundles!;
        _batchFrom = _batchTo;
        _segments.Clear();
        while (_batchTo < _neededCount)
        {
            int unit = _needed[_batchTo];
            if (!OpenBlocks(unit)) break;
            int slot = bundles.Acquire(unit, out bool ready);
            if (slot < 0) break;
            _neededSlot[_batchTo] = slot;
            if (!ready) _awaiting[slot] = _batchTo;
            AddToSegments(unit, _batchTo, ready);
            _batchTo++;
        }
        bundles.Flush();
        _segmentsLeft = _segments.Count;
        return _batchTo > _batchFrom;
    }

    private (int First, int Last) BlocksOf(int unit)
    {
        int first = unit * _layer.Bundle.Group;
        int last = Math.Min(first + _layer.Bundle.Group, _layer.Neurons) - 1;
        return (first / _layer.BlockNeurons, last / _layer.BlockNeurons);
    }

    /// <summary>Gives each block of the unit a partial sum, from +0; false when none is free in this batch.</summary>
    private bool OpenBlocks(int unit)
    {
        var (first, last) = BlocksOf(unit);
        for (int b = first; b <= last; b++)
        {
            if (_partialOf[b] >= 0) continue;
            if (_freePartials.Count == 0) return false;
            _partialOf[b] = _freePartials[^1];
            _freePartials.RemoveAt(_freePartials.Count - 1);
            new Span<float>(Partial(b), _rows * _layer.Config.HiddenSize).Clear();
        }
        return true;
    }

    private float* Partial(int block) => _partials + (long)_partialOf[block] * _capacity * _layer.Config.HiddenSize;

    private void AddToSegments(int unit, int index, bool ready)
    {
        var (first, last) = BlocksOf(unit);
        for (int b = first; b <= last; b++)
        {
            if (_segments.Count == 0 || _segments[^1].Block < b) _segments.Add(new Segment { Block = b, From = index });
            ref var segment = ref CollectionsMarshal.AsSpan(_segments)[^1];
            if (segment.Block != b) segment = ref CollectionsMarshal.AsSpan(_segments)[^2];
            segment.To = index + 1;
            if (!ready) segment.Missing++;
        }
    }

    private void FeedForwardArrived(int slot, ReadFault fault)
    {
        Runnable |= _segmentsLeft == 0;
        int index = slot < _awaiting.Length ? _awaiting[slot] : -1;
        if (index < 0) return;
        _awaiting[slot] = -1;
        if (fault != ReadFault.None) FailUnit(index);
        foreach (ref var segment in CollectionsMarshal.AsSpan(_segments))
        {
            if (segment.From <= index && index < segment.To && --segment.Missing == 0) Runnable = true;
        }
    }

    /// <summary>A neuron that cannot be read ends only the slots that need it.</summary>
    private void FailUnit(int index)
    {
        _neededFailed[index] = true;
        int unit = _needed[index], first = unit * _layer.Bundle.Group, end = Math.Min(first + _layer.Bundle.Group, _layer.Neurons);
        for (int r = 0; r < _rows; r++)
        {
            bool needs = !_layer.Sparse && UsesUnit(r, unit);
            for (int i = first; i < end && !needs && _layer.Sparse; i++) needs = _g[(long)r * _layer.Neurons + i] > _layer.Cut;
            if (needs) Kill(_slotOfRow[r], FaultKind.Flash, _layer.Bundles!.LastError ?? "flash read failed");
        }
    }

    private void RunReadySegments()
    {
        _ready.Clear();
        var segments = CollectionsMarshal.AsSpan(_segments);
        long units = 0;
        for (int i = 0; i < segments.Length; i++)
        {
            if (segments[i].Done || segments[i].Missing > 0) continue;
            segments[i].Done = true;
            units += segments[i].To - segments[i].From;
            _ready.Add(i);
        }
        if (_ready.Count == 0) return;
        // An upper bound of the work: in exact mode a needed neuron serves few of the rows.
        long work = units * _layer.Bundle.Group * _rows * _layer.Config.HiddenSize * 2;
        _computedNeurons = _trueNeurons = _auditTrue = _auditMissed = 0;
        pool.Run(_segmentJob ??= SegmentItem, _ready.Count, work > ParallelWork);
        _layer.Count.Computed += _computedNeurons;
        _layer.Count.Active += _trueNeurons;
        _layer.Count.AuditActive += _auditTrue;
        _layer.Count.AuditMissed += _auditMissed;
        _segmentsLeft -= _ready.Count;
    }

    /// <summary>Neurons whose coefficients are computed at a time; not a numeric constant: their down rows follow each other into one sum.</summary>
    private const int Gathered = 128;

    /// <summary>One block's neurons of this batch for every row: coefficients first, then their down rows in ascending order.</summary>
    private void SegmentItem(int item, int worker)
    {
        var segment = _segments[_ready[item]];
        var layout = _layer.Bundle;
        var bundles = _layer.Bundles!;
        byte** rows = stackalloc byte*[3 * Gathered];
        byte** up = rows, down = rows + Gathered, gate = rows + 2 * Gathered;
        int* ids = stackalloc int[Gathered];
        int firstNeuron = segment.Block * _layer.BlockNeurons, endNeuron = Math.Min(firstNeuron + _layer.BlockNeurons, _layer.Neurons);
        float cut = _layer.Cut;
        bool audited = _layer.Mode == FeedForwardMode.Predicted && Audits(segment);
        long computed = 0;
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* g = _g + (long)r * _layer.Neurons;
            int n = 0;
            for (int k = segment.From; k < segment.To; k++)
            {
                int unit = _needed[k];
                if (_neededFailed[k] || !UsesUnit(r, unit)) continue;
                byte* at = bundles.UnitBase(_neededSlot[k], unit);
                int first = unit * layout.Group;
                for (int i = Math.Max(first, firstNeuron); i < Math.Min(first + layout.Group, endNeuron); i++)
                {
                    if (_layer.Sparse && !(g[i] > cut)) continue;
                    int j = i - first;
                    up[n] = at + layout.UpOffset(j);
                    down[n] = at + layout.DownOffset(j);
                    gate[n] = at + layout.GateOffset(j);
                    ids[n++] = i;
                    if (n < Gathered) continue;
                    AddNeurons(r, rows, ids, n, Partial(segment.Block));
                    computed += n;
                    n = 0;
                }
            }
            if (n > 0) AddNeurons(r, rows, ids, n, Partial(segment.Block));
            computed += n;
            if (audited) CountMissed(segment, r);
        }
        Interlocked.Add(ref _computedNeurons, computed);
    }

    /// <summary>
    /// partial += a_i · down_i for neurons in ascending order; a_i = act(gate_i x) · up_i x, or act(up_i x) without a gate, times its expert's weight. In exact
    /// mode the selector has computed the pre-activation already. Offsets of rows that are not read are never dereferenced.
    /// </summary>
    private void AddNeurons(int row, byte** rows, int* ids, int n, float* partial)
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        var layout = _layer.Bundle;
        byte** up = rows, down = rows + Gathered, gate = rows + 2 * Gathered;
        byte** xs = stackalloc byte*[Gathered];
        float* a = stackalloc float[Gathered];
        if (_layer.Exact)
        {
            float* g = _g + (long)row * _layer.Neurons;
            for (int k = 0; k < n; k++) a[k] = g[ids[k]];
        }
        else
        {
            WeightFormat decides = c.Gated ? layout.Gate : layout.Up;
            Fill(xs, InputRow(decides, row), n);
            kernels.Dots(decides, c.Gated ? gate : up, xs, n, c.HiddenSize, a);
            float* bias = c.Gated ? w.GateBias : w.UpBias;
            for (int k = 0; k < n && bias != null; k++) a[k] += bias[ids[k]];
            if (_layer.Mode == FeedForwardMode.Predicted) CountChosen(a, ids, n);
        }
        Activations.Apply(kernels, c, a, n);
        if (c.Gated)
        {
            float* u = stackalloc float[Gathered];
            Fill(xs, InputRow(layout.Up, row), n);
            kernels.Dots(layout.Up, up, xs, n, c.HiddenSize, u);
            for (int k = 0; k < n && w.UpBias != null; k++) u[k] += w.UpBias[ids[k]];
            Activations.Combine(c, a, u, n);
        }
        if (_layer.Options.CountZeros) Interlocked.Add(ref _layer.Count.Zeros, new Span<float>(a, n).Count(0f));
        if (_layer.Experts is { } e)
        {
            float* weights = _g + (long)row * e.Count;
            for (int k = 0; k < n; k++) a[k] *= weights[ids[k] / e.Size];
        }
        kernels.Axpys(layout.Down, a, down, n, c.HiddenSize, partial + (long)row * c.HiddenSize);
    }

    private static void Fill(byte** to, byte* value, int n)
    {
        for (int i = 0; i < n; i++) to[i] = value;
    }

    /// <summary>Adds the finished blocks in ascending order and gives the batch's slots back.</summary>
    private void FoldBatch()
    {
        int end = _batchTo == _neededCount ? _layer.Blocks : BlocksOf(_needed[_batchTo]).First;
        long width = _layer.Config.HiddenSize;
        for (; _nextFold < end; _nextFold++)
        {
            if (_partialOf[_nextFold] < 0) continue;
            // y starts at +0 and a sum of finite floats never becomes -0 from there, so a block of zeros is neutral.
            kernels.Add(_y, Partial(_nextFold), (int)(_rows * width));
            _freePartials.Add(_partialOf[_nextFold]);
            _partialOf[_nextFold] = -1;
        }
        ReleaseBatch();
    }

    private void ReleaseBatch()
    {
        for (int i = _batchFrom; i < _batchTo; i++)
        {
            _layer.Bundles!.Release(_neededSlot[i]);
            _awaiting[_neededSlot[i]] = -1;
        }
        _batchFrom = _batchTo;
    }
}
