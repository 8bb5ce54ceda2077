namespace FlashOrleans.Flash;

/// <summary>
/// Memory that its owners have lent to the ring for as long as they read into it: pinned once (a registered buffer of io_uring), so that a read need not look up and hold its pages, which at 64 KiB is half of its processor
/// time. <see cref="Lend"/> and <see cref="Withdraw"/> come from any thread and only leave word; the thread of the ring carries it out in that order (<see cref="Apply"/>) before it begins a read that was submitted later. What cannot
/// be pinned (RLIMIT_MEMLOCK, an old kernel, more than <see cref="Most"/>) is read into like any other memory.
/// </summary>
internal sealed unsafe class LentMemory
{
    /// <summary>Windows of a model of 80 layers, several times over.</summary>
    private const int Most = 512;
    /// <summary>The kernel's limit of one buffer; what lies behind it is read into as if it were not lent.</summary>
    private const long Longest = 1L << 30;
    /// <summary>
    /// A longer read looks up its pages, which at this size is little: of pinned memory that is not all of large pages the kernel gives the device pieces of 4 KiB, of which a request has 254 at most, and a virtual disk pays for each
    /// (docs/adr/0005).
    /// </summary>
    public const int MostBytes = 128 << 10;

    private readonly Lock _gate = new();
    private readonly List<(nint Start, long Bytes, bool Given)> _word = [];
    /// <summary>Pinned ranges, ascending, and the number of each; the ring's thread alone.</summary>
    private readonly List<(nint Start, long Bytes, int Number)> _pinned = [];
    private readonly Stack<int> _free = new();
    private bool _made;
    private volatile bool _pending;

    public bool Pending => _pending;
    /// <summary>Bytes that are pinned now; any thread.</summary>
    public long Bytes { get; private set; }

    public void Lend(byte* start, long bytes) => Leave((nint)start, bytes, given: true);

    /// <summary>Before the memory is freed, when no read into it is under way.</summary>
    public void Withdraw(byte* start) => Leave((nint)start, 0, given: false);

    private void Leave(nint start, long bytes, bool given)
    {
        lock (_gate)
        {
            _word.Add((start, Math.Min(bytes, Longest), given));
            _pending = true;
        }
    }

    /// <summary>The ring's thread: pins and lets go as it was told.</summary>
    public void Apply(IoRing ring)
    {
        lock (_gate)
        {
            foreach (var (start, bytes, given) in _word)
            {
                if (given) Pin(ring, start, bytes);
                else Release(ring, start);
            }
            _word.Clear();
            _pending = false;
        }
    }

    /// <summary>The ring's thread: the number under which all of this memory is pinned, or -1, also for what is longer than <see cref="MostBytes"/>.</summary>
    public int Find(in IoVector part)
    {
        if (part.Length >= MostBytes) return -1;
        int at = Below((nint)part.Base);
        return at >= 0 && (nint)part.Base + (long)part.Length <= _pinned[at].Start + _pinned[at].Bytes ? _pinned[at].Number : -1;
    }

    private void Pin(IoRing ring, nint start, long bytes)
    {
        if (!_made)
        {
            _made = true;
            if (ring.TryMakeBuffers(Most))
                for (int i = Most - 1; i >= 0; i--) _free.Push(i);
        }
        if (!_free.TryPeek(out int number) || !ring.TryRegister(number, (byte*)start, bytes)) return;
        _free.Pop();
        _pinned.Insert(Below(start) + 1, (start, bytes, number));
        Bytes += bytes;
    }

    private void Release(IoRing ring, nint start)
    {
        int at = Below(start);
        if (at < 0 || _pinned[at].Start != start) return;
        ring.TryRegister(_pinned[at].Number, null, 0);
        _free.Push(_pinned[at].Number);
        Bytes -= _pinned[at].Bytes;
        _pinned.RemoveAt(at);
    }

    /// <summary>The last range that begins at or before an address, or -1.</summary>
    private int Below(nint address)
    {
        int low = 0, high = _pinned.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_pinned[middle].Start <= address) low = middle + 1;
            else high = middle;
        }
        return low - 1;
    }
}
