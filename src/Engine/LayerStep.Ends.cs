using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>The ends of the model, embedding and head, and the look-ahead for the layer that comes next.</summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Rows whose next layer is worth predicting: the union of a longer prompt is nearly everything.</summary>
    private const int LookAheadRows = 8;

    private int[] _embeddingUnits = new int[16];
    private int[] _embeddingSlots = new int[16];
    private int _embeddingCount, _embeddingFrom, _embeddingTo, _embeddingMissing;
    private int[] _hints = new int[64];
    private float[] _hintScores = new float[64];

    private static int RowsPerUnit(WeightFormat format) => WeightLayout.IsQuantized(format) ? WeightLayout.PanelRows : 1;

    /// <summary>Layer 0: token ids to rows, in as many batches of units as the slots ask for. True when all are done, false while units are on their way.</summary>
    private bool StartEmbedding()
    {
        var edge = _layer.Edge!;
        _embeddingCount = _embeddingFrom = _embeddingTo = _embeddingMissing = 0;
        if (edge.ResidentEmbedding != null)
        {
            EmbedResident();
            return true;
        }
        int perUnit = RowsPerUnit(edge.EmbeddingFormat);
        var store = _layer.OpenEmbeddings();
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
            if (r == 0 || _embeddingUnits[r] != _embeddingUnits[_embeddingCount - 1]) _embeddingUnits[_embeddingCount++] = _embeddingUnits[r];
        }
        return AdvanceEmbedding();
    }

    private bool AdvanceEmbedding()
    {
        while (_embeddingMissing == 0)
        {
            if (_embeddingTo > _embeddingFrom) EmbedBatch();
            if (_embeddingTo == _embeddingCount) return true;
            NextEmbeddingBatch();
        }
        return false;
    }

    private void NextEmbeddingBatch()
    {
        var store = _layer.Embeddings!;
        while (_embeddingTo < _embeddingCount)
        {
            int slot = store.Acquire(_embeddingUnits[_embeddingTo], out bool ready);
            if (slot < 0) break;
            _embeddingSlots[_embeddingTo++] = slot;
            if (!ready) _embeddingMissing++;
        }
        store.Flush();
        // One step at a time uses the layer's embedding slots, and it has just given all of them back.
        if (_embeddingTo == _embeddingFrom) throw new InvalidOperationException("no slot for an embedding row");
    }

    private void EmbeddingArrived(int unit, ReadFault fault)
    {
        if (_phase != Phase.Embedding || Array.BinarySearch(_embeddingUnits, _embeddingFrom, _embeddingTo - _embeddingFrom, unit) < 0) return;
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

    /// <summary>The rows whose units are in this batch; then its slots are free for the next.</summary>
    private void EmbedBatch()
    {
        var format = _layer.Edge!.EmbeddingFormat;
        int perUnit = RowsPerUnit(format);
        for (int r = 0; r < _rows; r++)
        {
            int unit = _tokens[r] / perUnit;
            int index = Array.BinarySearch(_embeddingUnits, _embeddingFrom, _embeddingTo - _embeddingFrom, unit);
            if (index >= 0) EmbedRow(r, _layer.Embeddings!.UnitBase(_embeddingSlots[index], unit), _tokens[r] % perUnit);
        }
        ReleaseEmbedding();
    }

    private void EmbedResident()
    {
        var edge = _layer.Edge!;
        long panelBytes = WeightLayout.PanelBytes(edge.EmbeddingFormat, _layer.Config.EmbeddingWidth);
        for (int r = 0; r < _rows; r++)
            EmbedRow(r, edge.ResidentEmbedding + _tokens[r] / WeightLayout.PanelRows * panelBytes, _tokens[r] % WeightLayout.PanelRows);
    }

    private void EmbedRow(int r, byte* panel, int inPanel)
    {
        if (_slots[_slotOfRow[r]].Dead) return;
        var edge = _layer.Edge!;
        var c = _layer.Config;
        float* x = c.EmbeddingSize == 0 ? _x + (long)r * c.HiddenSize : _e + (long)r * c.EmbeddingSize;
        kernels.PanelRow(edge.EmbeddingFormat, panel, inPanel, c.EmbeddingWidth, x);
        if (c.EmbeddingScale != 1) kernels.Scale(x, c.EmbeddingScale, c.EmbeddingWidth);
    }

    /// <summary>Rows of the embedding become the stream: projected where their width is another one, with their positions where those are learned.</summary>
    private void EnterStream()
    {
        var edge = _layer.Edge!;
        var c = _layer.Config;
        if (edge.ProjectIn != null) Multiply(edge.ProjectInFormat, edge.ProjectIn, c.HiddenSize, c.EmbeddingSize, _e, _q, _rows, _x, null);
        for (int r = 0; r < _rows && edge.Positions != null; r++)
            kernels.Add(_x + (long)r * c.HiddenSize, edge.Positions + (long)(PositionOf(r) + c.PositionOffset) * c.HiddenSize, c.HiddenSize);
    }

    private void ReleaseEmbedding()
    {
        for (int i = _embeddingFrom; i < _embeddingTo; i++) _layer.Embeddings!.Release(_embeddingSlots[i]);
        _embeddingFrom = _embeddingTo;
    }

    /// <summary>First act of a step: which units the next layer will want, judged from this layer's input; of the first layer which experts it will want itself.</summary>
    private void LookAhead()
    {
        if (_rows > LookAheadRows) return;
        var router = _layer.Router;
        // No layer comes before the first: its own router says it, of what the tokens became. Neurons of layer 0 hang on attention more than on the token: nothing is guessed of them.
        if (_layer.IsFirst && _layer.Experts is { Early: false, ByNeuron: false } && _layer.Options.Prefetch && _layer.Policy.Decide())
        {
            var own = Predict(_layer, _x, _rows);
            if (own.Length > 0) router.HintOwn(own);
        }
        if (router.Next is { } next)
        {
            if (next.Options.Prefetch && next.Chooses && next.IsReady && next.Policy.Decide())
            {
                var units = Predict(next, _x, _rows);
                if (units.Length > 0) router.Hint(units);
            }
        }
        else if (!_layer.IsLast && _layer.Options.Prefetch && _layer.Chooses && router.WantsRows)
        {
            router.HintRows(new ReadOnlySpan<float>(_x, _rows * _layer.Config.HiddenSize), _rows, _layer.Config.HiddenSize);
        }
    }

    /// <summary>Predicts from hidden rows that another silo sent; the step itself is not running.</summary>
    public ReadOnlySpan<int> PredictRows(Layer layer, ReadOnlySpan<float> rows, int count)
    {
        // Whose rows they are is not known here, and drawn activity depends on it.
        if (count > LookAheadRows || layer.Activity != null || layer.Routing != null) return default;
        Begin(layer);
        Layout(layer, count);
        rows.CopyTo(new Span<float>(_x, count * layer.Config.HiddenSize));
        return Predict(layer, _x, count);
    }

    private ReadOnlySpan<int> Predict(Layer next, float* rows, int count)
    {
        long start = time.GetTimestamp();
        var c = next.Config;
        var w = next.Weights!;
        float cut = 0;
        if (next.ByExpert) return PredictExperts(next, rows, count, start);
        // Best by what was trained to look ahead; else by what the layer itself will ask.
        if (next.Experts is { } experts)
        {
            GuessRoutes(next, experts, rows, count);
            byte* operand = Operand(w.SelectorFormat, AsInput(c, w, rows, count), _q, count, c.HiddenSize, out nint stride);
            GatesOfChosen(next, operand, stride, count);
        }
        else if (w.Lookahead.Exists) Score(w.Lookahead, w.Lookahead.GuessesActivation ? AsInput(c, w, rows, count) : rows, count, next.Neurons, DecidingBias(c, w), out cut);
        else Multiply(w.SelectorFormat, w.Selector, next.Neurons, c.HiddenSize, AsInput(c, w, rows, count), _q, count, _g, DecidingBias(c, w));
        if (next.Activity != null)
        {
            cut = 0;
            Draw(next, count);
        }
        int units = next.Bundles!.Region.Count;
        if (_hints.Length < units)
        {
            _hints = new int[units];
            _hintScores = new float[units];
        }
        int n = UnitsAbove(cut, next.Neurons, next.Bundle.Group, units, count);
        // The gate meets an input it was not made for and says yes too often or too seldom, and what was trained says yes too often; their order is better than their
        // sign. So the best ones, as many as the layer has lately needed: a wrong guess costs a read, and precision is bandwidth.
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
        Trace?.Add(TraceKind.LookAhead, next.Index, start, time.GetTimestamp(), n);
        return hints;
    }

    /// <summary>Rows as if they entered the next layer's feed-forward: through its norm.</summary>
    private float* AsInput(ModelConfig c, LayerWeights w, float* rows, int count)
    {
        if (c.NormPlacement is not (NormPlacement.Pre or NormPlacement.Sandwich)) return rows;
        Normalise(rows, c.SharedNorm ? w.AttentionNorm : w.FfnNorm, _n, count);
        return _n;
    }

    /// <summary>Units with a neuron above the cut in any row, ascending, into the hints; their scores (the largest value) beside them.</summary>
    private int UnitsAbove(float cut, int neurons, int group, int units, int rows)
    {
        int n = 0;
        for (int u = 0; u < units; u++)
        {
            float best = cut;
            int end = Math.Min((u + 1) * group, neurons);
            for (int r = 0; r < rows; r++)
            {
                float* row = _g + (long)r * neurons;
                for (int i = u * group; i < end; i++) best = row[i] > best ? row[i] : best;
            }
            if (!(best > cut)) continue;
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
        Head.Ensure(c.VocabSize);
        int* rows = stackalloc int[HeadScratch.Tile];
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
            for (int r = score ? s.FirstRow : s.FirstRow + s.Slot.Count - 1 - s.Slot.Drafts; r < s.FirstRow + s.Slot.Count; r++)
            {
                rows[n++] = r;
                if (n == HeadScratch.Tile) n = HeadRows(rows, n, edge);
            }
        }
        HeadRows(rows, n, edge);
    }

    private int HeadRows(int* rows, int n, EdgeWeights edge)
    {
        if (n == 0) return 0;
        var c = _layer.Config;
        float* logits = Head.Logits;
        for (int i = 0; i < n; i++)
        {
            float* h = _h + (long)rows[i] * c.HiddenSize, to = _n + (long)i * c.HiddenSize;
            if (c.FinalNorm) Normalise(h, edge.FinalNorm, to, 1);
            else Buffer.MemoryCopy(h, to, c.HiddenSize * 4, c.HiddenSize * 4);
        }
        float* x = _n;
        if (edge.ProjectOut != null) Multiply(edge.ProjectOutFormat, edge.ProjectOut, c.EmbeddingSize, c.HiddenSize, _n, _q, n, x = _e, null);
        Multiply(edge.HeadFormat, edge.Head, c.VocabSize, c.EmbeddingWidth, x, _q, n, logits, edge.HeadBias);
        if (c.LogitScale != 1) kernels.Scale(logits, c.LogitScale, n * c.VocabSize);
        if (c.LogitSoftcap != 0) Activations.Softcap(logits, n * c.VocabSize, c.LogitSoftcap);
        for (int i = 0; i < n; i++)
        {
            int slot = _slotOfRow[rows[i]];
            ref readonly var s = ref _slots[slot];
            float* row = logits + (long)i * c.VocabSize;
            if (s.Slot.Drafts > 0)
            {
                Verify(slot, rows[i], row);
                continue;
            }
            bool last = rows[i] == s.FirstRow + s.Slot.Count - 1;
            _layer.WatchLogits?.Invoke(PositionOf(rows[i]), new ReadOnlySpan<float>(row, c.VocabSize));
            if ((s.Slot.Flags & SlotFlags.Score) != 0)
            {
                if (rows[i] == s.FirstRow) _nll = new float[s.Slot.Count];
                int target = last ? s.Slot.Target : _tokens[rows[i] + 1];
                _nll![rows[i] - s.FirstRow] = target < 0 ? float.NaN : Head.Sampler.Nll(row, c.VocabSize, target);
            }
            if (last) Report(slot, row);
        }
        return 0;
    }

    private float[]? _nll;

    private void Report(int index, float* logits)
    {
        ref readonly var slot = ref _slots[index].Slot;
        var sampled = new SampledToken(-1, 0, 0, null);
        if (logits != null && !TrySample(index, slot.Position + slot.Count, logits, out sampled)) return;
        bool scored = (slot.Flags & SlotFlags.Score) != 0;
        Complete(slot, sampled, slot.Position + slot.Count, scored ? _nll : null, null);
    }

    /// <summary>What a slot asked for at one position. False: the logits are no numbers, and the slot has left.</summary>
    private bool TrySample(int index, int position, float* logits, out SampledToken sampled)
    {
        ref readonly var slot = ref _slots[index].Slot;
        int vocabulary = _layer.Config.VocabSize, token = -1;
        float logProbability = 0;
        var top = slot.TopLogits > 0 ? Sampler.TopLogits(logits, vocabulary, Math.Min(slot.TopLogits, vocabulary)) : null;
        bool sample = (slot.Flags & SlotFlags.Sample) != 0;
        if (sample) token = Head.Sampler.Sample(logits, vocabulary, slot.Sampling, position, out logProbability);
        sampled = new SampledToken(token, logProbability, token >= 0 ? logits[token] : 0, top);
        if (!sample || token >= 0) return true;
        Kill(index, FaultKind.Rejected, "the model's logits are not numbers (NaN); the package may be damaged: run flash verify");
        return false;
    }

    private void Complete(in Slot slot, in SampledToken sampled, int end, float[]? nll, SampledToken[]? more) => _layer.Router.Complete(new StepResult
    {
        Session = slot.Session,
        Epoch = slot.Epoch,
        Step = slot.Step,
        End = end,
        Token = sampled.Token,
        LogProbability = sampled.LogProbability,
        Logit = sampled.Logit,
        Top = sampled.Top,
        Nll = nll,
        More = more,
    });
}
