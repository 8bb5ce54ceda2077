using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>The ends of the model, embedding and head, and the look-ahead for the layer that comes next.</summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Rows whose next layer is worth predicting: the union of a longer prompt is nearly everything.</summary>
    private const int LookAheadRows = 8;
    /// <summary>Logit rows computed per pass over the head.</summary>
    private const int HeadTile = 8;

    private int[] _embeddingUnits = new int[16];
    private int[] _embeddingSlots = new int[16];
    private int _embeddingCount, _embeddingMissing;
    private int[] _hints = new int[64];
    private float[] _hintScores = new float[64];
    private NativeBuffer? _logits;
    private Sampler? _sampler;

    private static int RowsPerUnit(WeightFormat format) => WeightLayout.IsQuantized(format) ? WeightLayout.PanelRows : 1;

    /// <summary>Layer 0: token ids to rows. True when every embedding row is at hand.</summary>
    private bool StartEmbedding()
    {
        var edge = _layer.Edge!;
        _embeddingCount = 0;
        _embeddingMissing = 0;
        if (edge.ResidentEmbedding != null) return true;
        int perUnit = RowsPerUnit(edge.EmbeddingFormat);
        var store = _layer.Embeddings!;
        if (_embeddingUnits.Length < _rows)
        {
            _embeddingUnits = new int[_tokens.Length];
            _embeddingSlots = new int[_tokens.Length];
        }
        for (int r = 0; r < _rows; r++) _embeddingUnits[r] = _tokens[r] / perUnit;
        // Ascending and without repeats, so that neighbours share a read.
        Array.Sort(_embeddingUnits, 0, _rows);
        store.Window.Tick();
        for (int r = 0; r < _rows; r++)
        {
            if (r > 0 && _embeddingUnits[r] == _embeddingUnits[_embeddingCount - 1]) continue;
            int unit = _embeddingUnits[r];
            int slot = store.Acquire(unit, out bool ready);
            if (slot < 0) throw new InvalidOperationException($"a wave of {_rows} tokens needs more embedding rows than {store.Window.Slots} slots hold");
            _embeddingUnits[_embeddingCount] = unit;
            _embeddingSlots[_embeddingCount++] = slot;
            if (!ready) _embeddingMissing++;
        }
        store.Flush();
        return _embeddingMissing == 0;
    }

    private bool EmbeddingPending() => _embeddingMissing > 0;

    private void EmbeddingArrived(int unit, ReadFault fault)
    {
        if (_phase != Phase.Embedding || Array.BinarySearch(_embeddingUnits, 0, _embeddingCount, unit) < 0) return;
        if (fault != ReadFault.None)
        {
            int perUnit = RowsPerUnit(_layer.Edge!.EmbeddingFormat);
            for (int r = 0; r < _rows; r++)
            {
                if (_tokens[r] / perUnit == unit) Kill(_slotOfRow[r], FaultKind.Flash, _layer.Embeddings!.LastError ?? "flash read failed");
            }
        }
        if (--_embeddingMissing == 0) Runnable = true;
    }

    private void Embed()
    {
        var edge = _layer.Edge!;
        var c = _layer.Config;
        int perUnit = RowsPerUnit(edge.EmbeddingFormat);
        for (int r = 0; r < _rows; r++)
        {
            if (_slots[_slotOfRow[r]].Dead) continue;
            float* x = _x + (long)r * c.HiddenSize;
            int unit = _tokens[r] / perUnit, inUnit = _tokens[r] % perUnit;
            if (edge.ResidentEmbedding != null)
            {
                int panel = _tokens[r] / WeightLayout.PanelRows;
                byte* at = edge.ResidentEmbedding + (long)panel * WeightLayout.PanelBytes(edge.EmbeddingFormat, c.HiddenSize);
                kernels.PanelRow(edge.EmbeddingFormat, at, _tokens[r] % WeightLayout.PanelRows, c.HiddenSize, x);
            }
            else
            {
                int slot = _embeddingSlots[Array.BinarySearch(_embeddingUnits, 0, _embeddingCount, unit)];
                kernels.PanelRow(edge.EmbeddingFormat, _layer.Embeddings!.UnitBase(slot, unit), inUnit, c.HiddenSize, x);
            }
            if (edge.Positions != null) kernels.Add(x, edge.Positions + (long)(PositionOf(r) + c.PositionOffset) * c.HiddenSize, c.HiddenSize);
        }
        ReleaseEmbedding();
    }

    private void ReleaseEmbedding()
    {
        for (int i = 0; i < _embeddingCount; i++) _layer.Embeddings!.Release(_embeddingSlots[i]);
        _embeddingCount = 0;
    }

    /// <summary>First act of a step: which units the next layer will want, judged from this layer's input through the next layer's own norm and selector.</summary>
    private void LookAhead()
    {
        if (_rows > LookAheadRows) return;
        var router = _layer.Router;
        if (router.Next is { } next)
        {
            if (next.Options.Prefetch && next.Exact && next.IsReady && next.Policy.Decide())
            {
                var units = Predict(next, _x, _rows);
                if (units.Length > 0) router.Hint(units);
            }
        }
        else if (!_layer.IsLast && _layer.Options.Prefetch && _layer.Exact && router.WantsRows)
        {
            router.HintRows(new ReadOnlySpan<float>(_x, _rows * _layer.Config.HiddenSize), _rows, _layer.Config.HiddenSize);
        }
    }

    /// <summary>Predicts from hidden rows that another silo sent; the step itself is not running.</summary>
    public ReadOnlySpan<int> PredictRows(Layer layer, ReadOnlySpan<float> rows, int count)
    {
        if (count > LookAheadRows) return default;
        Begin(layer);
        Layout(layer.Config, count);
        rows.CopyTo(new Span<float>(_x, count * layer.Config.HiddenSize));
        return Predict(layer, _x, count);
    }

    private ReadOnlySpan<int> Predict(Layer next, float* rows, int count)
    {
        long start = time.GetTimestamp();
        var c = next.Config;
        var w = next.Weights!;
        Normalise(rows, w.FfnNorm, w.FfnNormBias, _n, count);
        Multiply(w.Format, w.Selector, c.FfnSize, c.HiddenSize, _n, _q, count, _g, c.Gated ? w.GateBias : w.UpBias);
        int units = next.Bundles!.Region.Count;
        if (_hints.Length < units)
        {
            _hints = new int[units];
            _hintScores = new float[units];
        }
        int n = PositiveUnits(c.FfnSize, next.Bundle.Group, units, count);
        // The gate meets an input it was not made for and says yes too often or too seldom; its order is better than its sign. So the best ones, as many
        // as the layer has lately needed: a wrong guess costs a read, and precision is bandwidth.
        int most = next.Policy.Budget(count);
        if (n > most)
        {
            _hintScores.AsSpan(0, n).Sort(_hints.AsSpan(0, n));
            _hints.AsSpan(n - most, most).CopyTo(_hints);
            n = most;
            _hints.AsSpan(0, n).Sort();
        }
        var hints = _hints.AsSpan(0, n);
        next.RecordPrediction(hints);
        next.Count.Predict += Nanos(start);
        return hints;
    }

    /// <summary>Units with a positive neuron in any row, ascending, into the hints; their scores (the largest value) beside them.</summary>
    private int PositiveUnits(int neurons, int group, int units, int rows)
    {
        int n = 0;
        for (int u = 0; u < units; u++)
        {
            float best = 0;
            int end = Math.Min((u + 1) * group, neurons);
            for (int r = 0; r < rows; r++)
            {
                float* row = _g + (long)r * neurons;
                for (int i = u * group; i < end; i++) best = row[i] > best ? row[i] : best;
            }
            if (!(best > 0)) continue;
            _hints[n] = u;
            _hintScores[n++] = best;
        }
        return n;
    }

    /// <summary>Last layer: final norm, head and what each slot asked for; a tile of rows per pass over the head.</summary>
    private void RunHead()
    {
        var c = _layer.Config;
        var edge = _layer.Edge!;
        _sampler ??= new Sampler(c.VocabSize);
        long logitBytes = (long)HeadTile * c.VocabSize * 4;
        if (_logits == null || _logits.Length < logitBytes)
        {
            _logits?.Dispose();
            _logits = new NativeBuffer(logitBytes, ledger, "scratch", alignment: 64);
        }
        int* rows = stackalloc int[HeadTile];
        int n = 0;
        for (int i = 0; i < _slotCount; i++)
        {
            ref readonly var s = ref _slots[i];
            if (s.Dead) continue;
            bool score = (s.Slot.Flags & SlotFlags.Score) != 0;
            bool last = score || (s.Slot.Flags & SlotFlags.Sample) != 0 || s.Slot.TopLogits > 0;
            if (!last)
            {
                Report(i, null);
                continue;
            }
            for (int r = score ? s.FirstRow : s.FirstRow + s.Slot.Count - 1; r < s.FirstRow + s.Slot.Count; r++)
            {
                rows[n++] = r;
                if (n == HeadTile) n = HeadRows(rows, n, edge);
            }
        }
        HeadRows(rows, n, edge);
    }

    private int HeadRows(int* rows, int n, EdgeWeights edge)
    {
        if (n == 0) return 0;
        var c = _layer.Config;
        float* logits = (float*)_logits!.Pointer;
        for (int i = 0; i < n; i++) Normalise(_h + (long)rows[i] * c.HiddenSize, edge.FinalNorm, edge.FinalNormBias, _n + (long)i * c.HiddenSize, 1);
        Multiply(edge.HeadFormat, edge.Head, c.VocabSize, c.HiddenSize, _n, _q, n, logits, null);
        for (int i = 0; i < n; i++)
        {
            int slot = _slotOfRow[rows[i]];
            ref readonly var s = ref _slots[slot];
            float* row = logits + (long)i * c.VocabSize;
            bool last = rows[i] == s.FirstRow + s.Slot.Count - 1;
            if ((s.Slot.Flags & SlotFlags.Score) != 0)
            {
                if (rows[i] == s.FirstRow) _nll = new float[s.Slot.Count];
                int target = last ? s.Slot.Target : _tokens[rows[i] + 1];
                _nll![rows[i] - s.FirstRow] = target < 0 ? float.NaN : _sampler!.Nll(row, c.VocabSize, target);
            }
            if (last) Report(slot, row);
        }
        return 0;
    }

    private float[]? _nll;

    private void Report(int index, float* logits)
    {
        ref readonly var slot = ref _slots[index].Slot;
        int token = -1;
        float logProbability = 0;
        (int, float)[]? top = null;
        if (logits != null)
        {
            int vocabulary = _layer.Config.VocabSize;
            if (slot.TopLogits > 0) top = Sampler.TopLogits(logits, vocabulary, Math.Min(slot.TopLogits, vocabulary));
            if ((slot.Flags & SlotFlags.Sample) != 0)
            {
                token = _sampler!.Sample(logits, vocabulary, slot.Sampling, slot.Position + slot.Count, out logProbability);
                if (token < 0)
                {
                    Kill(index, FaultKind.Rejected, "the model's logits are not numbers (NaN); the package may be damaged: run flash verify");
                    return;
                }
            }
        }
        bool scored = (slot.Flags & SlotFlags.Score) != 0;
        _layer.Router.Complete(new StepResult
        {
            Session = slot.Session,
            Epoch = slot.Epoch,
            Step = slot.Step,
            End = slot.Position + slot.Count,
            Token = token,
            LogProbability = logProbability,
            Top = top,
            Nll = scored ? _nll : null,
        });
    }
}
