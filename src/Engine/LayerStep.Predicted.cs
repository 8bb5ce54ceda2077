using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What a feed-forward with trained predictors does differently: scores say which neurons are read and computed, for each row its own, and what that misses is measured
/// as the step goes. Scores are products like any others, so a row's set is the same bits whatever the wave, threads or kernels.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Each step reads one of so many parts of the layer whole, in turn, and asks what of it should have been chosen: what that costs is counted like any read.</summary>
    private const int AuditParts = 64;

    private int _auditFrom, _auditTo;
    private long _trueNeurons, _auditTrue, _auditMissed;

    /// <summary>Scores into g for rows of the stream or, where they guess the pre-activation (<paramref name="bias"/> is of those), of the feed-forward's input; what is above the cut is predicted.</summary>
    private void Score(in PredictorWeights p, float* x, int rows, int neurons, float* bias, out float cut)
    {
        cut = p.Cut;
        if (!p.GuessesActivation) bias = null;
        if (p.Sketch != null)
        {
            Multiply(p.SketchFormat, p.Sketch, neurons, _shape!.HiddenSize, x, _q, rows, _g, bias);
            return;
        }
        Multiply(p.Fc1Format, p.Fc1, p.Rank, _shape!.HiddenSize, x, _q, rows, _low, null);
        for (long i = 0, n = (long)rows * p.Rank; i < n && !p.GuessesActivation; i++) _low[i] = _low[i] > 0 ? _low[i] : 0;
        Multiply(p.Fc2Format, p.Fc2, neurons, p.Rank, _low, _lowQ, rows, _g, bias);
    }

    /// <summary>What decides of each neuron whether it is zero: its bias, or null.</summary>
    private static float* DecidingBias(ModelConfig c, LayerWeights w) => c.Gated ? w.GateBias : w.UpBias;

    /// <summary>Some neurons are computed whatever their score.</summary>
    private void ChooseCore(in PredictorWeights p)
    {
        for (int r = 0; r < _rows; r++)
        {
            float* score = _g + (long)r * _layer.Neurons;
            for (int k = 0; k < p.CoreCount; k++)
            {
                // Its number is the package's word: one that does not exist is passed over.
                int id = (int)p.Core[k];
                if ((uint)id < (uint)_layer.Neurons) score[id] = float.PositiveInfinity;
            }
        }
    }

    /// <summary>Predicted mode: the scores, which are in g, say what each row computes.</summary>
    private void SelectPredicted()
    {
        long units = _layer.Bundles!.Region.Count, part = _layer.Count.Waves % AuditParts;
        _auditFrom = (int)(part * units / AuditParts);
        _auditTo = (int)((part + 1) * units / AuditParts);
        if (_layer.Activity != null)
        {
            // The truth is known for every neuron: nothing has to be read to find out.
            _auditFrom = _auditTo = 0;
            Draw(_layer, _rows);
        }
        ChooseCore(_layer.Weights!.Predictor);
        Array.Clear(_marks, 0, (int)units);
        MarkActive(_layer.Neurons, _layer.Cut, _layer.Bundle.Group);
        TakeMarked(_auditFrom, _auditTo);
    }

    private Layer? _drawn;
    private Action<int, int>? _drawJob;

    /// <summary>Drawn activity in place of the rows of g: of this layer its own, of the next one a guess. Threads take rows.</summary>
    private void Draw(Layer layer, int rows)
    {
        _drawn = layer;
        pool.Run(_drawJob ??= DrawItem, rows, (long)rows * layer.Neurons > ParallelWork / 128);
    }

    private void DrawItem(int r, int worker)
    {
        var layer = _drawn!;
        var model = layer.Activity!;
        ulong session = model.Key(_slots[_slotOfRow[r]].Slot.Sampling.Seed);
        int position = PositionOf(r), neurons = layer.Neurons;
        float* g = _g + (long)r * neurons;
        if (layer != _layer) model.Ahead(session, position, g, neurons, layer.Mode == FeedForwardMode.Predicted);
        else if (layer.Exact) model.Exact(session, position, g, neurons, layer.Cut);
        else
        {
            var (fire, missed) = model.Predicted(session, position, g, neurons);
            Interlocked.Add(ref layer.Count.AuditActive, fire);
            Interlocked.Add(ref layer.Count.AuditMissed, missed);
        }
    }

    /// <summary>Drawn activity: of the chosen neurons, whose pre-activations have been computed, those that fire are positive and the others not.</summary>
    private void Reveal(int row, float* pre, int* ids, int n)
    {
        float* drawn = _g + (long)row * _layer.Neurons;
        float least = MathF.BitIncrement(_layer.Config.Threshold);
        for (int k = 0; k < n; k++) pre[k] = drawn[ids[k]] == ActivityModel.Active ? MathF.Abs(pre[k]) + least : -MathF.Abs(pre[k]);
    }

    private bool Audits(int unit) => _auditFrom <= unit && unit < _auditTo;
    private bool Audits(in Segment segment) => _needed[segment.From] < _auditTo && _auditFrom <= _needed[segment.To - 1];

    /// <summary>Of the pre-activations of chosen neurons: how many were right.</summary>
    private void CountChosen(float* pre, int* ids, int n)
    {
        float threshold = _layer.Config.Threshold;
        int right = 0, audited = 0;
        for (int k = 0; k < n; k++)
        {
            if (!(pre[k] > threshold)) continue;
            right++;
            if (Audits(ids[k] / _layer.Bundle.Group)) audited++;
        }
        Interlocked.Add(ref _trueNeurons, right);
        if (audited > 0) Interlocked.Add(ref _auditTrue, audited);
    }

    /// <summary>The neurons of a segment that are audited and that this row did not choose: how many of them were not zero. They are not added.</summary>
    private void CountMissed(in Segment segment, int row)
    {
        var c = _layer.Config;
        var layout = _layer.Bundle;
        WeightFormat decides = c.Gated ? layout.Gate : layout.Up;
        byte** rows = stackalloc byte*[2 * Gathered];
        byte** xs = rows + Gathered;
        float* pre = stackalloc float[Gathered];
        int* ids = stackalloc int[Gathered];
        float* bias = c.Gated ? _layer.Weights!.GateBias : _layer.Weights!.UpBias;
        float* score = _g + (long)row * _layer.Neurons;
        new Span<nint>(xs, Gathered).Fill((nint)InputRow(decides, row));
        int firstNeuron = segment.Block * _layer.BlockNeurons, endNeuron = Math.Min(firstNeuron + _layer.BlockNeurons, _layer.Neurons);
        int n = 0, missed = 0;
        for (int k = segment.From; k <= segment.To; k++)
        {
            // Once more behind the last one, for what is left.
            if (k == segment.To || n > Gathered - layout.Group)
            {
                kernels.Dots(decides, rows, xs, n, c.HiddenSize, pre);
                for (int i = 0; i < n; i++)
                    if (pre[i] + (bias != null ? bias[ids[i]] : 0) > c.Threshold) missed++;
                n = 0;
            }
            if (k == segment.To || _neededFailed[k] || !Audits(_needed[k])) continue;
            byte* at = (byte*)_neededAt[k];
            int first = _needed[k] * layout.Group;
            for (int i = Math.Max(first, firstNeuron); i < Math.Min(first + layout.Group, endNeuron); i++)
            {
                if (score[i] > _layer.Cut) continue;
                rows[n] = at + (c.Gated ? layout.GateOffset(i - first) : layout.UpOffset(i - first));
                ids[n++] = i;
            }
        }
        if (missed == 0) return;
        Interlocked.Add(ref _auditTrue, missed);
        Interlocked.Add(ref _auditMissed, missed);
    }
}
