using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward half of a step: which units are needed, and what a neuron adds. How units come and go meanwhile is in LayerStep.Gather.cs.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    private int[] _needed = new int[64];
    private bool[] _marks = [];
    private int _neededCount;
    private long _computedNeurons;

    private void BeginFeedForward()
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        _input = c.Parallel ? _x : _h;
        bool predicted = _layer.Mode == FeedForwardMode.Predicted;
        float* stream = _input;
        if (predicted && !w.Predictor.GuessesActivation) Score(w.Predictor, stream, _rows, _layer.Neurons, null, out _);
        if (c.NormPlacement is NormPlacement.Pre or NormPlacement.Sandwich)
        {
            // A shared norm left its result behind when attention began.
            if (!c.SharedNorm) Normalise(_input, w.FfnNorm, _n, _rows);
            _input = _n;
        }
        var layout = _layer.Bundle;
        if (WeightLayout.IsQuantized(layout.Up) || WeightLayout.IsQuantized(layout.Gate)) Operand(WeightFormat.Q8, _input, _q, _rows, c.HiddenSize, out _);
        if (predicted && w.Predictor.GuessesActivation) Score(w.Predictor, _input, _rows, _layer.Neurons, DecidingBias(c, w), out _);
        new Span<float>(_y, _rows * c.HiddenSize).Clear();
        int units = _layer.Bundles!.Region.Count;
        if (_needed.Length < units) _needed = new int[units];
        if (_marks.Length < units) _marks = new bool[units];
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
        _layer.WatchFeedForward?.Invoke(new FeedForwardRows(_x, stream, _input, _g, _rows, c.HiddenSize, _layer.Neurons));
        BeginGather();
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
        if (_layer.Activity is { } drawn)
        {
            for (int r = 0; r < _rows; r++) drawn.Exact(drawn.Key(_slots[_slotOfRow[r]].Slot.Sampling.Seed), PositionOf(r), _g + (long)r * _layer.Neurons, _layer.Neurons, _layer.Cut);
        }
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
            // What is held and needed later in this step must not make room for what is needed before it.
            _layer.Bundles.Expect(u);
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

    /// <summary>Neurons whose coefficients are computed at a time; not a numeric constant: their down rows follow each other into one sum.</summary>
    private const int Gathered = 128;

    /// <summary>One segment's neurons for every row: coefficients first, then their down rows in ascending order.</summary>
    private void SegmentItem(int item, int worker)
    {
        var segment = _segments[_ready[item]];
        if (!IsSound(segment)) return;
        var layout = _layer.Bundle;
        RowOffsets offsets = _layer.Offsets;
        var bundles = _layer.Bundles!;
        byte** rows = stackalloc byte*[3 * Gathered];
        byte** up = rows, down = rows + Gathered, gate = rows + 2 * Gathered;
        int* ids = stackalloc int[Gathered];
        int firstNeuron = segment.Block * _layer.BlockNeurons, endNeuron = Math.Min(firstNeuron + _layer.BlockNeurons, _layer.Neurons);
        float cut = _layer.Cut;
        bool audited = _layer.Mode == FeedForwardMode.Predicted && Audits(segment);
        long computed = 0;
        ClearFresh(segment.Block);
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
                    up[n] = at + offsets.Up(i - first);
                    down[n] = up[n] + offsets.Down;
                    gate[n] = up[n] + offsets.Gate;
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
            if (_layer.Mode == FeedForwardMode.Predicted)
            {
                if (_layer.Activity != null) Reveal(row, a, ids, n);
                CountChosen(a, ids, n);
            }
        }
        Activations.Apply(kernels, c, a, n);
        if (c.Gated)
        {
            float* u = stackalloc float[Gathered];
            Fill(xs, InputRow(layout.Up, row), n);
            kernels.Dots(layout.Up, up, xs, n, c.HiddenSize, u);
            for (int k = 0; k < n && w.UpBias != null; k++) u[k] += w.UpBias[ids[k]];
            // An active neuron of a gated model that takes the positive part of both has both positive.
            for (int k = 0; k < n && _layer.Activity != null; k++) u[k] = MathF.Abs(u[k]);
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
}
