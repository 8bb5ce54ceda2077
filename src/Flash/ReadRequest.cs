namespace FlashOrleans.Flash;

/// <summary>What a read is for: a step that waits (demand), a step that waits but has others go first (sweep: prefill), or one that may come (prefetch). Demand is read first.</summary>
public enum ReadClass { Demand, Sweep, Prefetch }

/// <summary>Why a unit could not be read. <see cref="None"/> is success.</summary>
public enum ReadFault { None, Io, Short, Checksum, Cancelled }

/// <summary>
/// One read of up to <see cref="MaxUnits"/> neighbouring units, each into its own slot. Owned and reused by the submitter (the conductor);
/// between submit and completion only the reader touches it. Units are ascending; gaps between them are read and thrown away.
/// </summary>
public sealed unsafe class ReadRequest
{
    public const int MaxUnits = 64;

    public UnitRegion Region = null!;
    /// <summary>As submitted; a promotion does not change it.</summary>
    public ReadClass Class;
    public IReadCompletion Completion = null!;
    public int Count;
    public readonly int[] Units = new int[MaxUnits];
    /// <summary>Slot index per unit; for the completion's use only.</summary>
    public readonly int[] Slots = new int[MaxUnits];
    /// <summary>Slot memory per unit, <see cref="UnitRegion.SlotBytes"/> each, aligned for the device. The part arrives at <see cref="UnitRegion.Delta"/>.</summary>
    public readonly nint[] Memory = new nint[MaxUnits];
    /// <summary>The reader checks what it read; false: the submitter does, before it uses a unit, and asks once more with the check where one is wrong.</summary>
    public bool Verify = true;
    /// <summary>Set by the reader, per unit.</summary>
    public readonly ReadFault[] Faults = new ReadFault[MaxUnits];
    /// <summary>First fault in words (file, offset), set by the reader when any unit failed.</summary>
    public string? Error;
    /// <summary>Bytes that crossed the device for this request.</summary>
    public long BytesRead;
    /// <summary>For the submitter.</summary>
    public object? State;
    /// <summary>Intrusive links of the reader's queues.</summary>
    internal ReadRequest? Next, Previous;
    internal volatile ReadPhase Phase;

    /// <summary>True from submit until just before the completion is told.</summary>
    public bool InFlight => Phase != ReadPhase.Idle;

    /// <summary>Empties the request for the next read.</summary>
    public void Reset(UnitRegion region, ReadClass readClass, IReadCompletion completion)
    {
        Region = region;
        Class = readClass;
        Completion = completion;
        Verify = true;
        Count = 0;
        Error = null;
        BytesRead = 0;
    }

    /// <summary>
    /// Adds a unit after those the request holds, unless it is full or the unit is too far away (see <see cref="ReadPlanner.Joins"/>); false: submit
    /// this request and start the next with the same unit. The first unit always fits.
    /// </summary>
    public bool TryAdd(int unit, int slot, byte* memory, int maxGapBytes = ReadPlanner.DefaultGapBytes, int maxBytes = ReadPlanner.DefaultMaxBytes)
    {
        if (Count > 0)
        {
            if (Count == MaxUnits) return false;
            if (!ReadPlanner.Joins(Region, Units[0], Units[Count - 1], unit, maxGapBytes, maxBytes)) return false;
        }
        Units[Count] = unit;
        Slots[Count] = slot;
        Memory[Count] = (nint)memory;
        Faults[Count] = ReadFault.None;
        Count++;
        return true;
    }
}

/// <summary>Where a request is; only the reader, under its lock, moves it.</summary>
internal enum ReadPhase { Idle, DemandQueue, PrefetchQueue, InDevice }

/// <summary>Told on an I/O thread when a request is done; must only enqueue.</summary>
public interface IReadCompletion
{
    void Completed(ReadRequest request);
}

/// <summary>Totals since start. A snapshot, any thread. Reads counts requests; DemandReads and PrefetchReads split it by the class submitted; RingNanos is the processor time of the thread
/// that reads through io_uring, 0 where there is none; BusyNanos the time in which at least one read was in the device.</summary>
public readonly record struct ReaderStats(long Reads, long Units, long Bytes, long Retries, long Faults, long DemandReads, long PrefetchReads, long RingNanos = 0, long BusyNanos = 0);

/// <summary>Where reads go. Two implementations: <c>FlashReader</c> (dedicated I/O threads) and a simulated device on a virtual clock (tests).</summary>
public unsafe interface IFlashReader
{
    /// <summary>Hands a request over; any thread. False when the bounded queue of its class is full: try again after a completion.</summary>
    bool TrySubmit(ReadRequest request);
    /// <summary>A prefetch somebody now waits for: if it is still queued it joins the demand queue.</summary>
    void Promote(ReadRequest request);
    /// <summary>A prefetch that nobody wants any more: true when it was still queued; then it is the submitter's again and its completion is not told. Any thread.</summary>
    bool TryTakeBack(ReadRequest request) => false;
    ReaderStats Stats { get; }
    /// <summary>Memory that many reads will go into, until it is withdrawn; a reader may make them cheaper (<see cref="LentMemory"/>), or may not. Any thread.</summary>
    void Lend(byte* memory, long bytes) { }
    /// <summary>Before lent memory is freed, when no read into it is under way. Any thread.</summary>
    void Withdraw(byte* memory) { }
}
