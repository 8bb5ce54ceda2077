using System.Numerics;
using System.Runtime.Intrinsics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward half of a step: which units are needed, and what they are chosen by. What a neuron adds is in LayerStep.Neurons.cs, how units come and go meanwhile is in LayerStep.Gather.cs.
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
        _sharedDue = w.Shared.Up != null;
        int units = _layer.Bundles!.Region.Count;
        if (_needed.Length < units) _needed = new int[units];
        if (_marks.Length < units) _marks = new bool[units];
        _layer.Count.Dense += (long)_rows * _layer.Neurons;
        if (!_layer.ByExpert) _layer.Bundles.Window.Tick();
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
        if (_layer.Experts is { } experts)
        {
            if (!experts.Early) Route(experts, w, _input);
            LeaveDead(experts);
            GatesOfChosen(_layer, InputRow(w.SelectorFormat, 0), stride, _rows);
        }
        else MultiplyOperand(w.SelectorFormat, w.Selector, _layer.Neurons, c.HiddenSize, InputRow(w.SelectorFormat, 0), stride, _rows, _g, c.Gated ? w.GateBias : w.UpBias);
        if (_layer.Activity != null) Draw(_layer, _rows);
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
        bool predicted = _layer.Predictions > 0;
        for (int u = 0; u < _layer.Bundles!.Region.Count; u++)
        {
            if (!_marks[u] && !(auditFrom <= u && u < auditTo)) continue;
            _needed[_neededCount++] = u;
            // What is held and needed later in this step must not make room for what is needed before it.
            _layer.Bundles.Need(u);
            if (!_marks[u]) continue;
            wanted++;
            if (predicted && _layer.Predicted[u]) predictedHit++;
        }
        if (!predicted) return;
        _layer.Count.PredictedHit += predictedHit;
        _layer.Count.PredictedFor += wanted;
        // Of two predictions one may be for a step that is still to come.
        if (_layer.Predictions == 1 && _layer.Bundles.WithdrawGuesses(_marks)) FlushAll?.Invoke();
        _layer.Predictions = 0;
    }

    /// <summary>Marks the unit of every value above the threshold; returns how many there are. A slot that is dead (its embedding could not be read) needs nothing.</summary>
    private long MarkActive(int neurons, float threshold, int group)
    {
        long active = 0;
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* row = _g + (long)r * neurons;
            for (int i = 0; i < neurons; i += 8)
            {
                // Most neurons are not active: eight at a time are passed over.
                uint above = 0;
                if (i + 8 <= neurons) above = Vector256.GreaterThan(Vector256.Load(row + i), Vector256.Create(threshold)).ExtractMostSignificantBits();
                else
                    for (int k = i; k < neurons; k++) above |= (row[k] > threshold ? 1u : 0) << (k - i);
                for (; above != 0; above &= above - 1)
                {
                    int neuron = i + BitOperations.TrailingZeroCount(above);
                    active++;
                    _marks[group == 1 ? neuron : neuron / group] = true;
                    _layer.Watch?.Invoke(PositionOf(r), neuron);
                }
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
            if (needs) Kill(_slotOfRow[r], FaultKind.Flash, _layer.Bundles!.LastError ?? _layer.Stretches?.Store.LastError ?? "flash read failed");
        }
    }
}
