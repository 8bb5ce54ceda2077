using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// One merged wave on its way through one layer: look-ahead for the next layer, embedding (layer 0), attention, feed-forward, head (last layer).
/// Driven by the conductor thread through <see cref="Start"/>, <see cref="Advance"/> and <see cref="Arrived"/>; heavy loops run on the compute pool. While
/// units are on their way from flash the step is parked and other layers run. Reused from a pool: after warm-up a decode step allocates nothing.
/// A slot that fails (KV miss, unreadable neuron, bad token) leaves the step with a fault to its session; the others go on.
/// </summary>
internal sealed unsafe partial class LayerStep(Kernels kernels, ComputePool pool, TimeProvider time, MemoryLedger ledger) : IDisposable
{
    private enum Phase { Embedding, FeedForward, Done }

    private struct StepSlot
    {
        public Slot Slot;
        public KvSequence Sequence;
        public int FirstRow;
        public bool Dead;
    }

    private StepSlot[] _slots = new StepSlot[8];
    private int[] _tokens = new int[16];
    private int[] _slotOfRow = new int[16];
    private float[] _rowsIn = [];
    private int _slotCount;
    private int _rows;
    private int _drafts;
    private Phase _phase;
    private Layer _layer = null!;
    private long _parkedAt;
    private bool _announced;
    private Slot[] _live = new Slot[8];

    /// <summary>Time for which it was parked until its reads were there.</summary>
    public long FlashWaited { get; private set; }
    /// <summary>It stopped between two tiles, not for flash.</summary>
    private bool _gaveWay;

    /// <summary>Set by the conductor when something the parked step waits for has happened.</summary>
    public bool Runnable { get; set; }
    /// <summary>Shared by all steps of the conductor.</summary>
    public required HeadScratch Head { get; init; }
    /// <summary><see cref="EngineOptions.ParallelWork"/>.</summary>
    public long ParallelWork { get; init; }
    /// <summary><see cref="EngineOptions.PartialBytes"/>.</summary>
    public long PartialBytes { get; init; }
    /// <summary><see cref="EngineOptions.TurnBytes"/>.</summary>
    public required int TurnBytes { get; init; }
    /// <summary><see cref="EngineOptions.Trace"/>.</summary>
    public StepTrace? Trace { get; init; }
    /// <summary>Rows there is scratch for from the first step on; with a budget all that it ever has.</summary>
    public int LeastRows { get; init; }
    /// <summary>Rows that a slot may bring.</summary>
    public int MostRows { get; init; } = int.MaxValue;
    public long BegunAt { get; private set; }
    public bool IsDecode => _rows - _drafts == _slotCount;
    public int Rows => _rows;

    public void Dispose()
    {
        _arena?.Dispose();
    }

    /// <summary>Takes the slots of waiting waves; call for each wave, then <see cref="Start"/>.</summary>
    public void Begin(Layer layer)
    {
        _layer = layer;
        BegunAt = time.GetTimestamp();
        _slotCount = 0;
        _rows = 0;
        _drafts = 0;
        _phase = Phase.Embedding;
        Runnable = _gaveWay = false;
        FlashWaited = 0;
        _announced = false;
    }

    /// <summary>Admits one slot of a wave; false (with a fault to its session, or silently when it is old) leaves it out.</summary>
    public bool Admit(in Slot slot, ReadOnlySpan<int> tokens, ReadOnlySpan<float> rows)
    {
        var config = _layer.Config;
        if (slot.Drafts > 0 && !CanTry(slot, tokens)) return AdmitUndrafted(slot, tokens, rows);
        if (slot.Count < 1 || slot.Position < 0 || slot.Position > config.MaxPositions - slot.Count)
            return Refuse(slot, $"context_length_exceeded: {slot.Position + (long)slot.Count} tokens do not fit the model's context of {config.MaxPositions}");
        if (slot.Count > MostRows) return Refuse(slot, $"{slot.Count} tokens in one step are more than the budget has scratch for: send chunks of at most {MostRows}");
        foreach (int token in tokens)
        {
            if ((uint)token >= (uint)config.VocabSize) return Refuse(slot, $"token id {token} is not in the vocabulary of {config.VocabSize}");
        }
        var admission = _layer.Kv!.Admit(slot, tokens, out var sequence);
        if (admission == Admission.Old) return false;
        if (admission == Admission.Full && slot.Drafts > 0) return AdmitUndrafted(slot, tokens, rows);
        if (admission == Admission.Full)
        {
            int room = _layer.Kv.Blocks * KvCache.BlockPositions;
            return Refuse(slot, slot.Position + slot.Count > room
                ? $"context_length_exceeded: {slot.Position + slot.Count} tokens do not fit the budget's keys and values, which hold {room}: promise more with --context, or take a larger --budget"
                : $"the budget's keys and values ({room} tokens) are in use by other sessions of this step: promise more with --sessions, or submit again");
        }
        if (admission == Admission.Miss)
        {
            int length = Math.Min(sequence?.Length ?? 0, slot.Position);
            _layer.Router.Fault(new SlotFault(slot.Session, slot.Epoch, slot.Step, FaultKind.KvMiss, "", length, sequence?.HashAt(length) ?? slot.PrefixHash));
            return false;
        }
        if (_slotCount == _slots.Length) Array.Resize(ref _slots, _slotCount * 2);
        if (_rows + slot.Count > _tokens.Length)
        {
            Array.Resize(ref _tokens, Math.Max(_tokens.Length * 2, _rows + slot.Count));
            Array.Resize(ref _slotOfRow, _tokens.Length);
        }
        int width = config.HiddenSize;
        if (!_layer.IsFirst)
        {
            if ((_rows + slot.Count) * width > _rowsIn.Length) Array.Resize(ref _rowsIn, Math.Max(_rowsIn.Length * 2, (_rows + slot.Count) * width));
            rows.CopyTo(_rowsIn.AsSpan(_rows * width));
        }
        sequence!.Pins++;
        tokens.CopyTo(_tokens.AsSpan(_rows));
        _slotOfRow.AsSpan(_rows, slot.Count).Fill(_slotCount);
        _slots[_slotCount++] = new StepSlot { Slot = slot, Sequence = sequence, FirstRow = _rows };
        _rows += slot.Count;
        _drafts += slot.Drafts;
        return true;
    }

    /// <summary>There is room for drafts in the context and in the scratch, and they are tokens.</summary>
    private bool CanTry(in Slot slot, ReadOnlySpan<int> tokens)
    {
        if (slot.Count > MostRows || slot.Position > _layer.Config.MaxPositions - slot.Count) return false;
        foreach (int token in tokens[(slot.Count - slot.Drafts)..])
        {
            if ((uint)token >= (uint)_layer.Config.VocabSize) return false;
        }
        return true;
    }

    /// <summary>Drafts are a wish: what a step alone would be given is never refused because of them, so they are left out.</summary>
    private bool AdmitUndrafted(in Slot slot, ReadOnlySpan<int> tokens, ReadOnlySpan<float> rows)
    {
        var plain = slot.Undrafted;
        return Admit(plain, tokens[..plain.Count], _layer.IsFirst ? rows : rows[..(plain.Count * _layer.Config.HiddenSize)]);
    }

    /// <summary>Runs the step until it is finished (true) or waits for flash (false).</summary>
    public bool Start()
    {
        ThreadRole.AssertNotGrainTurn("a layer's step");
        if (_rows == 0)
        {
            _phase = Phase.Done;
            return true;
        }
        Layout(_layer, _rows);
        if (Trace != null && _layer.SentAt is > 0 and var sent) Mark(TraceKind.Hop, sent);
        _layer.SentAt = 0;
        _layer.Count.Waves++;
        _layer.Count.Slots += _slotCount;
        _layer.Count.Rows += _rows;
        if (!_layer.RopeByLength) _layer.Rope?.Ensure(MaxEnd());
        if (_layer.IsFirst)
        {
            if (!StartEmbedding()) return Park();
            return AfterEmbedding();
        }
        _rowsIn.AsSpan(0, _rows * _layer.Config.HiddenSize).CopyTo(new Span<float>(_x, _rows * _layer.Config.HiddenSize));
        return AfterEmbedding();
    }

    /// <summary>Continues a parked step; true when finished.</summary>
    public bool Advance()
    {
        ThreadRole.AssertNotGrainTurn("a layer's step");
        Runnable = false;
        if (!_gaveWay)
        {
            FlashWaited += time.GetTimestamp() - _parkedAt;
            _layer.Count.FlashWait += Nanos(_parkedAt);
            Mark(TraceKind.Flash, _parkedAt);
        }
        _gaveWay = false;
        if (_phase == Phase.Embedding) return AdvanceEmbedding() ? AfterEmbedding() : Park();
        return RunFeedForward();
    }

    /// <summary>A unit this layer asked for is there, or failed. Marks the step runnable when it can do something with it.</summary>
    public void Arrived(UnitStore store, int unit, int slot, ReadFault fault)
    {
        if (_phase == Phase.Done) return;
        if (ReferenceEquals(store, _layer.Embeddings)) EmbeddingArrived(unit, fault);
        else if (ReferenceEquals(store, _layer.Stretches?.Store)) StretchArrived(unit, slot, fault);
        else FeedForwardArrived(slot, fault);
    }

    /// <summary>The step threw: every slot still in it is faulted, pins are given back, KV of the step is forgotten.</summary>
    public void Abort(Exception error)
    {
        for (int i = 0; i < _slotCount; i++)
        {
            ref var s = ref _slots[i];
            s.Sequence.Truncate(s.Slot.Position);
            if (!s.Dead) Kill(i, FaultKind.Rejected, $"layer {_layer.Index} failed: {error.Message}");
        }
        ReleaseEmbedding();
        AbandonGather();
        // Reads that were being put together count as outstanding: unsent, they would keep the layer for ever.
        _layer.FlushReads();
        End();
    }

    public bool Holds(Guid session)
    {
        for (int i = 0; i < _slotCount; i++)
        {
            if (_slots[i].Slot.Session == session) return true;
        }
        return false;
    }

    private bool AfterEmbedding()
    {
        if (_layer.IsFirst) EnterStream();
        LookAhead();
        Announce();
        long start = time.GetTimestamp();
        RouteEarly();
        Attention();
        Mark(TraceKind.Attention, start);
        Poll?.Invoke();
        long select = time.GetTimestamp();
        BeginFeedForward();
        _phase = Phase.FeedForward;
        _layer.Count.Compute += Nanos(start);
        Mark(TraceKind.FeedForward, select, _neededCount);
        return RunFeedForward();
    }

    private bool RunFeedForward()
    {
        long start = time.GetTimestamp();
        bool done = AdvanceFeedForward();
        Mark(TraceKind.FeedForward, start);
        if (done) Finish();
        _layer.Count.Compute += Nanos(start);
        return done || Park();
    }

    /// <summary>Between the phases of a step the conductor looks at what came in meanwhile (prefetch requests must not wait for a whole step).</summary>
    public Action? Poll { get; init; }

    /// <summary>The reader has room again: every layer sends what it held back.</summary>
    public Action? FlushAll { get; init; }

    /// <summary>Prefill runs in tiles, since decode is under way.</summary>
    public Func<bool>? Tiles { get; init; }
    /// <summary>Asked between two tiles: decode that could run now goes first.</summary>
    public Func<bool>? GivesWay { get; init; }

    private void Finish()
    {
        var c = _layer.Config;
        AddDownBias();
        AddBranch(_y, _h, _layer.Weights!.FfnOutNorm, c.NormPlacement == NormPlacement.Post ? _layer.Weights.FfnNorm : default, _h);
        if (_layer.IsLast)
        {
            long start = time.GetTimestamp();
            RunHead();
            Mark(TraceKind.Head, start);
        }
        else SendOn(c.HiddenSize);
        End();
    }

    /// <summary>The way to the next layer is prepared while this one works, behind the hint, so that one wake-up of a pool thread serves both. Of prefill that is a small part.</summary>
    private void Announce()
    {
        if (_announced || _layer.IsLast || !IsDecode) return;
        if (_live.Length < _slotCount) _live = new Slot[_slots.Length];
        int live = 0;
        for (int i = 0; i < _slotCount; i++)
            if (!_slots[i].Dead) _live[live++] = _slots[i].Slot;
        if (live == 0) return;
        _announced = true;
        _layer.Router.Announce(_live.AsSpan(0, live));
    }

    private void SendOn(int width)
    {
        int slots = 0, rows = 0;
        for (int i = 0; i < _slotCount; i++)
        {
            if (_slots[i].Dead) continue;
            slots++;
            rows += _slots[i].Slot.Count;
        }
        if (slots == 0) return;
        var wave = Wave.Rent(slots, rows, width);
        int s = 0, row = 0;
        for (int i = 0; i < _slotCount; i++)
        {
            ref readonly var slot = ref _slots[i];
            if (slot.Dead) continue;
            wave.Slots[s++] = slot.Slot;
            _tokens.AsSpan(slot.FirstRow, slot.Slot.Count).CopyTo(wave.Tokens[row..]);
            new ReadOnlySpan<float>(_h + (long)slot.FirstRow * width, slot.Slot.Count * width).CopyTo(wave.Rows[(row * width)..]);
            row += slot.Slot.Count;
        }
        if (Trace != null && _layer.Router.Next is { } next) next.SentAt = time.GetTimestamp();
        _announced = false;
        _layer.Router.Forward(wave);
    }

    private void Mark(TraceKind kind, long since, int amount = 0) => Trace?.Add(kind, _layer.Index, since, time.GetTimestamp(), amount);

    private void End()
    {
        for (int i = 0; i < _slotCount; i++)
        {
            _layer.Kv!.Unpin(_slots[i].Sequence, _slots[i].Dead ? 0 : _slots[i].Slot.Position + _slots[i].Slot.Count);
            _slots[i].Sequence = null!;
        }
        if (_announced) _layer.Router.Withdraw();
        _announced = false;
        _phase = Phase.Done;
        OnEnd?.Invoke(this);
    }

    /// <summary>Told when the step is over, before its slots are forgotten.</summary>
    public Action<LayerStep>? OnEnd { get; init; }

    public int SlotCount => _slotCount;

    public ref readonly Slot SlotAt(int index) => ref _slots[index].Slot;

    private bool Park()
    {
        _parkedAt = time.GetTimestamp();
        return false;
    }

    private bool Refuse(in Slot slot, string message)
    {
        _layer.Router.Fault(new SlotFault(slot.Session, slot.Epoch, slot.Step, FaultKind.Rejected, message));
        return false;
    }

    private void Kill(int index, FaultKind kind, string message)
    {
        ref var s = ref _slots[index];
        if (s.Dead) return;
        s.Dead = true;
        _layer.Router.Fault(new SlotFault(s.Slot.Session, s.Slot.Epoch, s.Slot.Step, kind, message));
    }

    private int MaxEnd()
    {
        int end = 0;
        for (int i = 0; i < _slotCount; i++) end = Math.Max(end, _slots[i].Slot.Position + _slots[i].Slot.Count);
        return end;
    }

    private int PositionOf(int row)
    {
        ref readonly var s = ref _slots[_slotOfRow[row]];
        return s.Slot.Position + row - s.FirstRow;
    }

    private long Nanos(long since) => (long)(time.GetElapsedTime(since).Ticks * 100);
}
