namespace FlashOrleans.Flash;

/// <summary>The Ready slots without a pin, most recently used (or unpinned) first: a doubly linked list over slot numbers. Conductor thread, allocated once.</summary>
internal struct EvictableList(int slots)
{
    private readonly int[] _next = new int[slots];
    private readonly int[] _previous = new int[slots];

    /// <summary>The most recent, or -1.</summary>
    public int First { get; private set; } = -1;
    /// <summary>The least recent, or -1.</summary>
    public int Last { get; private set; } = -1;
    public int Count { get; private set; }

    /// <summary>The next more recent slot, or -1.</summary>
    public readonly int Before(int slot) => _previous[slot];

    public void AddFirst(int slot)
    {
        _previous[slot] = -1;
        _next[slot] = First;
        if (First >= 0) _previous[First] = slot;
        else Last = slot;
        First = slot;
        Count++;
    }

    public void Remove(int slot)
    {
        if (_previous[slot] >= 0) _next[_previous[slot]] = _next[slot];
        else First = _next[slot];
        if (_next[slot] >= 0) _previous[_next[slot]] = _previous[slot];
        else Last = _previous[slot];
        Count--;
    }
}
