namespace FlashOrleans.Flash;

/// <summary>
/// Slots that the windows of several layers borrow, each for as long as a unit is on its way or in use: what layers do not keep passes through here, so that one stretch of memory serves whichever of them reads.
/// Owned by the conductor thread alone (no locks); I/O threads only fill the memory of slots that are being read. A unit that was read ahead and that nobody has used yet may be given up for a
/// window that has nothing to go on with (<see cref="TryReclaim"/>).
/// </summary>
public sealed unsafe class SlotPool : IDisposable
{
    private readonly NativeBuffer _memory;
    private readonly int[] _free;
    private readonly Window?[] _holder;

    /// <param name="slots">How many.</param>
    /// <param name="slotBytes">Of each: the largest slot of the windows that borrow.</param>
    /// <param name="ledger">Counts the memory.</param>
    /// <param name="name">Its name there.</param>
    public SlotPool(int slots, int slotBytes, MemoryLedger ledger, string name)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(slots);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(slotBytes);
        _memory = new NativeBuffer((long)slots * slotBytes, ledger, name);
        SlotBytes = slotBytes;
        _free = new int[slots];
        for (int i = 0; i < slots; i++) _free[i] = slots - 1 - i;
        Free = slots;
        _holder = new Window?[slots];
    }

    public NativeBuffer Buffer => _memory;
    public int SlotBytes { get; }
    public int Count => _free.Length;
    /// <summary>Slots that nobody has.</summary>
    public int Free { get; private set; }

    internal byte* Memory(int index) => _memory.Pointer + (long)index * SlotBytes;

    /// <summary>A free slot, or -1.</summary>
    internal int Take(Window holder)
    {
        if (Free == 0) return -1;
        int index = _free[--Free];
        _holder[index] = holder;
        return index;
    }

    internal void Give(int index)
    {
        if (_holder[index] == null) throw new InvalidOperationException($"slot {index} of the pool is not lent");
        _holder[index] = null;
        _free[Free++] = index;
    }

    /// <summary>True when a slot is free, or holds what was read ahead and has no user yet.</summary>
    public bool HasUnused
    {
        get
        {
            if (Free > 0) return true;
            for (int i = 0; i < _holder.Length; i++)
                if (_holder[i]!.IsUnused(i)) return true;
            return false;
        }
    }

    /// <summary>Gives up a unit that was read ahead and has no user yet, whoever holds it.</summary>
    internal bool TryReclaim()
    {
        for (int i = 0; i < _holder.Length; i++)
            if (_holder[i] is { } holder && holder.GiveUp(i)) return true;
        return false;
    }

    public void Dispose() => _memory.Dispose();
}
