using System.Diagnostics;

namespace FlashOrleans.Flash;

/// <summary>What reads of one size cost: <see cref="Seconds"/> is the device's time for each, so many being under way that it is busy.</summary>
public readonly record struct ReadCost(int Bytes, double Seconds)
{
    /// <summary>Between sizes that were measured in a straight line; beyond the last by its bandwidth, below the first as the first: a read costs nearly the same however small.</summary>
    public static double Of(IReadOnlyList<ReadCost> measured, double bytes)
    {
        ArgumentNullException.ThrowIfNull(measured);
        if (measured.Count == 0) return 0;
        if (bytes <= measured[0].Bytes) return measured[0].Seconds;
        for (int i = 1; i < measured.Count; i++)
        {
            (ReadCost a, ReadCost b) = (measured[i - 1], measured[i]);
            if (bytes <= b.Bytes) return a.Seconds + (b.Seconds - a.Seconds) * (bytes - a.Bytes) / (b.Bytes - a.Bytes);
        }
        return measured[^1].Seconds * bytes / measured[^1].Bytes;
    }
}

/// <summary>
/// Keeps a reader busy with scattered reads of one size, to measure it: a completion only counts, the caller's thread submits again. What is read is no matter, but that it is
/// scattered and the same in every run; nothing is checked. The caller's thread blocks; a read that fails is a <see cref="FlashException"/>.
/// </summary>
public sealed unsafe class ReadLoad : IReadCompletion, IDisposable
{
    /// <summary>What the ring keeps in the device.</summary>
    public const int Depth = RingReader.Depth;
    private readonly UnitRegion[] _regions;
    private readonly NativeBuffer _memory;
    private readonly ReadRequest[] _requests = new ReadRequest[Depth];
    private readonly Queue<ReadRequest> _done = new(Depth);
    private readonly int _slotBytes;
    private ulong _state = 1;

    /// <param name="files">Where to read, in turn by chance; those that are too short are left out.</param>
    /// <param name="bytes">Of a read, whole blocks of the device apart.</param>
    public ReadLoad(IEnumerable<FlashFile> files, int bytes)
    {
        int stride = (bytes + PackageLayout.Sector - 1) / PackageLayout.Sector * PackageLayout.Sector;
        _regions = [.. files.Where(f => f.Length >= stride).Select(f => new UnitRegion(f, "a measured read", 0, (int)Math.Min(f.Length / stride, int.MaxValue), stride, 0, bytes))];
        _slotBytes = _regions.Length == 0 ? 0 : _regions.Max(static r => r.SlotBytes);
        _memory = new NativeBuffer((long)Depth * _slotBytes, new MemoryLedger(), "probe");
        for (int i = 0; i < Depth; i++) _requests[i] = new ReadRequest();
    }

    /// <summary>False: every file is shorter than one read.</summary>
    public bool Possible => _regions.Length > 0;

    void IReadCompletion.Completed(ReadRequest request)
    {
        lock (_done)
        {
            _done.Enqueue(request);
            Monitor.Pulse(_done);
        }
    }

    /// <summary>Reads for so long; how many there were and the seconds they took, the last ones under way included.</summary>
    /// <param name="reader">Which reads.</param>
    /// <param name="seconds">How long.</param>
    /// <param name="lend">As windows are lent; false: to compare.</param>
    public (long Reads, double Seconds) Run(IFlashReader reader, double seconds, bool lend = true)
    {
        ArgumentNullException.ThrowIfNull(reader);
        if (lend) reader.Lend(_memory.Pointer, _memory.Length);
        try
        {
            return Read(reader, seconds);
        }
        finally
        {
            if (lend) reader.Withdraw(_memory.Pointer);
        }
    }

    private (long Reads, double Seconds) Read(IFlashReader reader, double seconds)
    {
        long reads = 0, start = Stopwatch.GetTimestamp();
        int under = 0;
        string? error = null;
        while (under < Depth) Submit(reader, _requests[under], under++);
        while (under > 0)
        {
            ReadRequest request;
            lock (_done)
            {
                while (!_done.TryDequeue(out request!)) Monitor.Wait(_done);
            }
            error ??= request.Error;
            reads++;
            if (error == null && Stopwatch.GetElapsedTime(start).TotalSeconds < seconds) Submit(reader, request, request.Slots[0]);
            else under--;
        }
        if (error != null) throw new FlashException($"the device cannot be measured: {error}");
        return (reads, Stopwatch.GetElapsedTime(start).TotalSeconds);
    }

    public void Dispose() => _memory.Dispose();

    private void Submit(IFlashReader reader, ReadRequest request, int slot)
    {
        _state = _state * 6364136223846793005 + 1442695040888963407;
        UnitRegion region = _regions[(int)((_state >> 33) % (ulong)_regions.Length)];
        request.Reset(region, ReadClass.Demand, this);
        request.TryAdd((int)((_state >> 20) % (ulong)region.Count), slot, _memory.Pointer + (long)slot * _slotBytes);
        while (!reader.TrySubmit(request)) Thread.Yield();
    }
}
