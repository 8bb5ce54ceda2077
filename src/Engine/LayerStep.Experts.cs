using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What a feed-forward of experts does differently: the router chooses units, and each row weighs those it uses.</summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>The router says which experts each row uses, and with what weight: in g, 0 for the others.</summary>
    private void SelectExperts(ExpertConfig experts, LayerWeights w)
    {
        Multiply(w.RouterFormat, w.Router, experts.Count, _layer.Config.HiddenSize, _input, _q, _rows, _g, w.RouterBias);
        Array.Clear(_marks, 0, _layer.Bundles!.Region.Count);
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* weights = _g + (long)r * experts.Count;
            if (_layer.Routing is { } routing) routing.Choose(routing.Key(_slots[_slotOfRow[r]].Slot.Sampling.Seed), PositionOf(r), new Span<float>(weights, experts.Count));
            Activations.ChooseExperts(experts, weights);
            for (int e = 0; e < experts.Count; e++) _marks[e] |= weights[e] != 0;
            _layer.Count.Active += (long)experts.Active * experts.Size;
        }
        TakeMarked();
        ListTokens(experts);
    }

    /// <summary>Look-ahead: the next layer's router on this layer's input, as if that entered the next feed-forward. The units that any row would use, ascending.</summary>
    private ReadOnlySpan<int> PredictExperts(Layer next, float* rows, int count, long start)
    {
        var e = next.Experts!;
        var w = next.Weights!;
        Multiply(w.RouterFormat, w.Router, e.Count, next.Config.HiddenSize, AsInput(next.Config, w, rows, count), _q, count, _g, w.RouterBias);
        if (_hints.Length < e.Count)
        {
            _hints = new int[e.Count];
            _hintScores = new float[e.Count];
        }
        Array.Clear(_hintScores, 0, e.Count);
        for (int r = 0; r < count; r++)
        {
            float* weights = _g + (long)r * e.Count;
            if (next.Routing is { } routing) routing.Guess(routing.Key(_slots[_slotOfRow[r]].Slot.Sampling.Seed), PositionOf(r), new Span<float>(weights, e.Count));
            Activations.ChooseExperts(e, weights);
            for (int x = 0; x < e.Count; x++) _hintScores[x] = Math.Max(_hintScores[x], weights[x]);
        }
        int n = 0;
        for (int x = 0; x < e.Count; x++)
            if (_hintScores[x] > 0) _hints[n++] = x;
        var hints = _hints.AsSpan(0, n);
        next.RecordPrediction(hints);
        next.Count.Predict += Nanos(start);
        Trace?.Add(TraceKind.LookAhead, next.Index, start, time.GetTimestamp(), n);
        return hints;
    }

    /// <summary>With experts a row needs a unit only if the router chose it.</summary>
    private bool UsesUnit(int row, int unit) => _layer.Experts is not { } e || _g[(long)row * e.Count + unit] != 0;

    /// <summary>The sum is complete: biases of the down matrix, an expert's by its weight.</summary>
    private void AddDownBias()
    {
        var c = _layer.Config;
        float* bias = _layer.Weights!.DownBias;
        if (bias == null) return;
        for (int r = 0; r < _rows; r++)
        {
            float* y = _y + (long)r * c.HiddenSize;
            if (_layer.Experts is not { } e)
            {
                kernels.Add(y, bias, c.HiddenSize);
                continue;
            }
            for (int x = 0; x < e.Count; x++)
            {
                float weight = _g[(long)r * e.Count + x];
                byte* row = (byte*)(bias + (long)x * c.HiddenSize);
                if (weight != 0) kernels.Axpys(WeightFormat.F32, &weight, &row, 1, c.HiddenSize, y);
            }
        }
    }
}
