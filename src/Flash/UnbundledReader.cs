namespace FlashOrleans.Flash;

/// <summary>
/// The rows of a neuron by a read each, as if its matrices lay apart: what bundling is worth, measured (bench/Ablation). It stands before another reader and splits what that one would have read at
/// once: a read for every matrix of every unit, into the same slot, and the unit's checksum when all of them are there and it is asked for. Regions without parts pass through. Any thread; bounded by the reader behind it.
/// </summary>
public sealed unsafe class UnbundledReader(IFlashReader reader) : IFlashReader, IReadCompletion
{
    private const int MostUnsent = 256;

    /// <summary>A request that was split, and how much of it is still under way.</summary>
    private sealed class Whole
    {
        public required ReadRequest Request;
        public int Left;
    }

    private readonly Lock _gate = new();
    private readonly Dictionary<UnitRegion, UnitRegion[]> _parts = [];
    private readonly Queue<ReadRequest> _unsent = new();
    private readonly List<ReadRequest> _underWay = [];
    private readonly Stack<ReadRequest> _idle = new();

    public ReaderStats Stats => reader.Stats;

    public void Lend(byte* memory, long bytes) => reader.Lend(memory, bytes);

    public void Withdraw(byte* memory) => reader.Withdraw(memory);

    public bool TrySubmit(ReadRequest request)
    {
        UnitRegion region = request.Region;
        if (region.Rows.Count < 2) return reader.TrySubmit(request);
        lock (_gate)
        {
            if (_unsent.Count >= MostUnsent) return false;
            if (!_parts.TryGetValue(region, out UnitRegion[]? parts)) _parts.Add(region, parts = PartsOf(region));
            request.Error = null;
            request.BytesRead = 0;
            request.Phase = ReadPhase.InDevice;
            var whole = new Whole { Request = request, Left = request.Count * parts.Length };
            for (int k = 0; k < request.Count; k++)
            {
                int unit = request.Units[k];
                request.Faults[k] = ReadFault.None;
                foreach (UnitRegion part in parts)
                {
                    if (!_idle.TryPop(out ReadRequest? one)) one = new ReadRequest();
                    one.Reset(part, request.Class, this);
                    // A part's first block lies as far into the slot as it lies behind the unit's first.
                    one.TryAdd(unit, k, (byte*)request.Memory[k] + (ReadPlanner.Low(part, unit) - ReadPlanner.Low(region, unit)));
                    one.State = whole;
                    _underWay.Add(one);
                    _unsent.Enqueue(one);
                }
            }
            Send();
        }
        return true;
    }

    public void Promote(ReadRequest request)
    {
        if (request.Region.Rows.Count < 2)
        {
            reader.Promote(request);
            return;
        }
        lock (_gate)
        {
            foreach (ReadRequest one in _underWay)
                if (((Whole)one.State!).Request == request && one.InFlight) reader.Promote(one);
        }
    }

    void IReadCompletion.Completed(ReadRequest one)
    {
        ReadRequest request;
        lock (_gate)
        {
            var whole = (Whole)one.State!;
            request = whole.Request;
            request.BytesRead += one.BytesRead;
            int k = one.Slots[0];
            if (one.Faults[0] != ReadFault.None)
            {
                request.Faults[k] = one.Faults[0];
                request.Error ??= one.Error;
            }
            one.State = null;
            _underWay.Remove(one);
            _idle.Push(one);
            Send();
            if (--whole.Left > 0) return;
        }
        for (int k = 0; k < request.Count && request.Verify; k++)
        {
            if (request.Faults[k] != ReadFault.None) continue;
            UnitRegion region = request.Region;
            request.Faults[k] = region.Verify(request.Units[k], (byte*)request.Memory[k] + region.Delta(request.Units[k]));
            if (request.Faults[k] != ReadFault.None) request.Error ??= $"{region.File.Name}: {region.Name} unit {request.Units[k]}: the checksum does not match";
        }
        request.Phase = ReadPhase.Idle;
        request.Completion.Completed(request);
    }

    /// <summary>Under the lock.</summary>
    private void Send()
    {
        while (_unsent.TryPeek(out ReadRequest? one) && reader.TrySubmit(one)) _unsent.Dequeue();
    }

    private static UnitRegion[] PartsOf(UnitRegion region)
    {
        var parts = new UnitRegion[region.Rows.Count];
        int offset = region.PartOffset;
        for (int i = 0; i < parts.Length; offset += region.Rows[i++])
            parts[i] = new UnitRegion(region.File, region.Name, region.Offset, region.Count, region.Stride, offset, region.Rows[i]);
        return parts;
    }
}
