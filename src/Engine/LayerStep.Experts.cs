using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What a feed-forward of experts does differently: the router chooses units, and each row weighs those it uses.</summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>The router says which experts each row uses; one that reads the layer's own input has said it before attention.</summary>
    private void SelectExperts(ExpertConfig experts, LayerWeights w)
    {
        if (!experts.Early) Route(experts, w, _input);
        LeaveDead(experts);
        if (_marks.Length < experts.Count) _marks = new bool[experts.Count];
        _layer.Bundles!.Window.Tick(CountUses(experts));
        for (int x = 0; x < experts.Count; x++) _marks[x] = _unitUses[x] > 0;
        TakeMarked();
        ListTokens(experts, _needed, _neededCount, _rows);
        _layer.Count.Active += (long)_tokensFrom[_neededCount] * experts.Size;
        OpenRing(experts);
    }

    /// <summary>By unit: its uses by the step's tokens, each as much as is left of it at its session's last token of the step.</summary>
    private float[] _unitUses = [];

    /// <summary>Counts what the tokens use: a prompt's chunk leaves a window as if its tokens had come one by one. Returns the tokens of the session that has most.</summary>
    private int CountUses(ExpertConfig experts)
    {
        if (_unitUses.Length < experts.Count) _unitUses = new float[experts.Count];
        Array.Clear(_unitUses, 0, experts.Count);
        int longest = 1, age = 0;
        float worth = 1;
        for (int r = _rows - 1; r >= 0; r--)
        {
            bool earlier = r < _rows - 1 && _slotOfRow[r] == _slotOfRow[r + 1];
            age = earlier ? age + 1 : 0;
            // Never 0: what a token uses is needed, however long ago.
            worth = earlier ? Math.Max(worth * Retention.Experts.Decay, 1e-9f) : 1;
            longest = Math.Max(longest, age + 1);
            float* weights = _routed + (long)r * experts.Count;
            for (int x = 0; x < experts.Count; x++)
                if (weights[x] != 0) _unitUses[x] += worth;
        }
        return longest;
    }

    /// <summary>A slot that has failed uses no expert.</summary>
    private void LeaveDead(ExpertConfig experts)
    {
        for (int r = 0; r < _rows; r++)
            if (_slots[_slotOfRow[r]].Dead) new Span<float>(_routed + (long)r * experts.Count, experts.Count).Clear();
    }

    /// <summary>Weights of the experts of each row, 0 for those it does not use.</summary>
    private void Route(ExpertConfig experts, LayerWeights w, float* input)
    {
        Multiply(w.RouterFormat, w.Router, experts.Count, _layer.Config.HiddenSize, input, _q, _rows, _routed, w.RouterBias);
        for (int r = 0; r < _rows; r++)
        {
            float* weights = _routed + (long)r * experts.Count;
            if (_layer.Routing is { } routing) routing.Choose(routing.Key(_slots[_slotOfRow[r]].Slot.Sampling.Seed), PositionOf(r), new Span<float>(weights, experts.Count));
            Activations.ChooseExperts(experts, weights, w.ChoiceBias);
        }
    }

    /// <summary>Before attention: a router that reads the layer's input knows already which experts will be needed, so their reads run meanwhile. What it says is no guess.</summary>
    private void RouteEarly()
    {
        if (_layer.Experts is not { Early: true } experts) return;
        Route(experts, _layer.Weights!, _x);
        if (!_layer.ByExpert || !_layer.Options.Prefetch) return;
        var bundles = _layer.Bundles!;
        for (int e = 0; e < experts.Count; e++)
            if (AnyUses(experts, e, _rows) && !bundles.Prefetch(e)) break;
        bundles.Flush();
    }

    /// <summary>Look-ahead: a layer's router on what enters this layer, as if that entered the other's feed-forward. The units that any row would use, the surest first: what comes last is wrong most often, and should wait for the device.</summary>
    private ReadOnlySpan<int> PredictExperts(Layer next, float* rows, int count, long start)
    {
        var e = next.Experts!;
        GuessRoutes(next, e, rows, count);
        if (_hints.Length < e.Count)
        {
            _hints = new int[e.Count];
            _hintScores = new float[e.Count];
        }
        Array.Clear(_hintScores, 0, e.Count);
        for (int r = 0; r < count; r++)
        {
            float* weights = _routed + (long)r * e.Count;
            for (int x = 0; x < e.Count; x++) _hintScores[x] = Math.Max(_hintScores[x], weights[x]);
        }
        int n = 0;
        for (int x = 0; x < e.Count; x++)
            if (_hintScores[x] > 0) _hints[n++] = x;
        var hints = _hints.AsSpan(0, n);
        // Into a buffer that is there: a comparison that captures would allocate in every step.
        for (int i = 0; i < n; i++) _hintScores[i] = -_hintScores[hints[i]];
        _hintScores.AsSpan(0, n).Sort(hints);
        next.RecordPrediction(hints);
        next.Count.Predict += Nanos(start);
        Trace?.Add(TraceKind.LookAhead, next.Index, start, time.GetTimestamp(), n);
        return hints;
    }

    /// <summary>The experts of each row as that layer's router chooses them now, and their weights.</summary>
    private void GuessRoutes(Layer next, ExpertConfig e, float* rows, int count)
    {
        var w = next.Weights!;
        Multiply(w.RouterFormat, w.Router, e.Count, next.Config.HiddenSize, e.Early ? rows : AsInput(next.Config, w, rows, count), _q, count, _routed, w.RouterBias);
        for (int r = 0; r < count; r++)
        {
            float* weights = _routed + (long)r * e.Count;
            if (next.Routing is { } routing) routing.Guess(routing.Key(_slots[_slotOfRow[r]].Slot.Sampling.Seed), PositionOf(r), new Span<float>(weights, e.Count));
            Activations.ChooseExperts(e, weights, w.ChoiceBias);
        }
    }

    /// <summary>With experts a row needs a unit only if the router chose it.</summary>
    private bool UsesUnit(int row, int unit) => !_layer.ByExpert || _routed[(long)row * _layer.Experts!.Count + unit] != 0;

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
                float weight = _routed[(long)r * e.Count + x];
                byte* row = (byte*)(bias + (long)x * c.HiddenSize);
                if (weight != 0) kernels.Axpys(WeightFormat.F32, &weight, &row, 1, c.HiddenSize, y);
            }
        }
    }
}
