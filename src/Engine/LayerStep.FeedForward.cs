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
        Normalise(_h, w.FfnNorm, w.FfnNormBias, _n, _rows);
        _operand = Operand(_layer.Bundle.Format, _n, _q, _rows, c.HiddenSize, out _operandStride);
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
        int blocks = (c.FfnSize + Numerics.NeuronBlock - 1) / Numerics.NeuronBlock;
        if (_partialOf.Length < blocks) _partialOf = new int[blocks];
        Array.Fill(_partialOf, -1);
        _freePartials.Clear();
        for (int i = _partialBuffers - 1; i >= 0; i--) _freePartials.Add(i);
        _nextFold = 0;
        _batchFrom = _batchTo = 0;
        _segments.Clear();
        _segmentsLeft = 0;
        _layer.Count.Dense += (long)_rows * c.FfnSize;
        _layer.Bundles.Window.Tick();
        if (_layer.Exact) SelectActive(c, w);
        else
        {
            for (int u = 0; u < units; u++) _needed[u] = u;
            _neededCount = units;
            _layer.Count.Active += (long)_rows * c.FfnSize;
        }
        Array.Clear(_neededFailed, 0, _neededCount);
        _coldBefore = _layer.Bundles.Cold;
    }

    private byte* _operand;
    private nint _operandStride;
    private long _coldBefore;

    /// <summary>Exact mode: the selector says which neurons are not zero; their values stay in g.</summary>
    private void SelectActive(ModelConfig c, LayerWeights w)
    {
        MultiplyOperand(w.Format, w.Selector, c.FfnSize, c.HiddenSize, _operand, _operandStride, _rows, _g, c.Gated ? w.GateBias : w.UpBias);
        Array.Clear(_marks, 0, _layer.Bundles!.Region.Count);
        _layer.Count.Active += MarkPositive(c.FfnSize, _layer.Bundle.Group);
        _neededCount = 0;
        int predictedHit = 0;
        bool predicted = _layer.HasPrediction;
        for (int u = 0; u < _layer.Bundles.Region.Count; u++)
        {
            if (!_marks[u]) continue;
            _needed[_neededCount++] = u;
            if (predicted && _layer.Predicted[u]) predictedHit++;
        }
        if (predicted)
        {
            _layer.Count.PredictedHit += predictedHit;
            _layer.Count.PredictedFor += _neededCount;
            _layer.HasPrediction = false;
        }
    }

    /// <summary>Marks the unit of every positive value; returns how many there are. A slot that is dead (its embedding could not be read) needs nothing.</summary>
    private long MarkPositive(int neurons, int group)
    {
        long active = 0;
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* row = _g + (long)r * neurons;
            for (int i = 0; i < neurons; i++)
            {
                if (!(row[i] > 0)) continue;
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
        int last = Math.Min(first + _layer.Bundle.Group, _layer.Config.FfnSize) - 1;
        return (first / Numerics.NeuronBlock, last / Numerics.NeuronBlock);
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
        var c = _layer.Config;
        int first = _needed[index] * _layer.Bundle.Group, end = Math.Min(first + _layer.Bundle.Group, c.FfnSize);
        for (int r = 0; r < _rows; r++)
        {
            bool needs = !_layer.Exact;
            for (int i = first; i < end && !needs; i++) needs = _g[(long)r * c.FfnSize + i] > 0;
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
        _computedNeurons = 0;
        pool.Run(_segmentJob ??= SegmentItem, _ready.Count, work > ParallelWork);
        _layer.Count.Computed += _computedNeurons;
        _segmentsLeft -= _ready.Count;
    }

    /// <summary>One block's neurons of this batch for every row: coefficients first, then their down rows in ascending order.</summary>
    private void SegmentItem(int item, int worker)
    {
        const int Max = Numerics.NeuronBlock;
        var segment = _segments[_ready[item]];
        var c = _layer.Config;
        var layout = _layer.Bundle;
        var bundles = _layer.Bundles!;
        byte** up = stackalloc byte*[Max];
        byte** down = stackalloc byte*[Max];
        byte** gate = stackalloc byte*[Max];
        byte** xs = stackalloc byte*[Max];
        int* ids = stackalloc int[Max];
        float* a = stackalloc float[Max];
        float* u = stackalloc float[Max];
        int firstNeuron = segment.Block * Max, endNeuron = Math.Min(firstNeuron + Max, c.FfnSize);
        long computed = 0;
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* g = _g + (long)r * c.FfnSize;
            int n = 0;
            for (int k = segment.From; k < segment.To; k++)
            {
                if (_neededFailed[k]) continue;
                int unit = _needed[k];
                byte* at = bundles.UnitBase(_neededSlot[k], unit);
                int first = unit * layout.Group;
                for (int j = 0; j < layout.Group; j++)
                {
                    int i = first + j;
                    if (i < firstNeuron || i >= endNeuron || (_layer.Exact && !(g[i] > 0))) continue;
                    up[n] = at + layout.UpOffset(j);
                    down[n] = at + layout.DownOffset(j);
                    gate[n] = at + layout.GateOffset(j);
                    ids[n++] = i;
                }
            }
            if (n == 0) continue;
            byte* x = _operand + r * _operandStride;
            for (int k = 0; k < n; k++) xs[k] = x;
            Coefficients(c, layout.Format, g, up, gate, xs, ids, n, a, u);
            kernels.Axpys(layout.Format, a, down, n, c.HiddenSize, Partial(segment.Block) + (long)r * c.HiddenSize);
            computed += n;
        }
        Interlocked.Add(ref _computedNeurons, computed);
    }

    /// <summary>a_i = act(gate_i x) * up_i x, or act(up_i x) without a gate. In exact mode the selector has computed the activation already.</summary>
    private void Coefficients(ModelConfig c, WeightFormat format, float* g, byte** up, byte** gate, byte** xs, int* ids, int n, float* a, float* u)
    {
        var w = _layer.Weights!;
        if (_layer.Exact)
        {
            for (int k = 0; k < n; k++) a[k] = g[ids[k]];
        }
        else
        {
            float* bias = c.Gated ? w.GateBias : w.UpBias;
            kernels.Dots(format, c.Gated ? gate : up, xs, n, c.HiddenSize, a);
            if (bias != null)
            {
                for (int k = 0; k < n; k++) a[k] += bias[ids[k]];
            }
            if (c.Activation == Activation.Silu) kernels.Silu(a, n);
            else
            {
                for (int k = 0; k < n; k++) a[k] = a[k] > 0 ? a[k] : 0;
            }
        }
        if (!c.Gated) return;
        kernels.Dots(format, up, xs, n, c.HiddenSize, u);
        for (int k = 0; k < n; k++) a[k] *= w.UpBias == null ? u[k] : u[k] + w.UpBias[ids[k]];
    }

    /// <summary>Adds the finished blocks in ascending order and gives the batch's slots back.</summary>
    private void FoldBatch()
    {
        int end = _batchTo == _neededCount ? _partialOf.Length : BlocksOf(_needed[_batchTo]).First;
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
