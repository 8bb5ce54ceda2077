using System.IO.Hashing;

namespace FlashOrleans.Flash.Tests;

/// <summary>A region of units over an in-memory or real file with its slots, and a completion that tests wait on.</summary>
internal sealed unsafe class ReaderBench : IReadCompletion, IDisposable
{
    private readonly object _lock = new();
    private readonly List<ReadRequest> _completed = new(1024);
    private readonly NativeBuffer _slots;

    public ReaderBench(FlashFile file, byte[] content, int units, int stride, int partOffset, int partBytes, long offset = 0)
    {
        Content = content;
        ulong[] hashes = new ulong[units];
        for (int u = 0; u < units; u++)
            hashes[u] = XxHash3.HashToUInt64(content.AsSpan((int)Math.Min(content.Length, offset + (long)u * stride + partOffset))[..Math.Min(partBytes, Math.Max(0, content.Length - (int)(offset + (long)u * stride + partOffset)))]);
        Region = new UnitRegion(file, "neurons", offset, units, stride, partOffset, partBytes, new UnitCheck(0, partBytes, hashes));
        _slots = new NativeBuffer((long)units * Region.SlotBytes, new MemoryLedger(), "slots");
    }

    /// <summary>Units of 1024 bytes (the whole unit) over 512-aligned memory.</summary>
    public static (ReaderBench Bench, MemoryFile File) Simple(int units = 64)
    {
        byte[] content = TempFile.Pattern(units * 1024);
        MemoryFile file = new(content, 512);
        return (new ReaderBench(file, content, units, 1024, 0, 1024), file);
    }

    public byte[] Content { get; }
    public UnitRegion Region { get; }

    public long SlotsBytes => _slots.Length;

    public void Lend(FlashReader reader) => reader.Lend(_slots.Pointer, _slots.Length);

    public void Withdraw(FlashReader reader) => reader.Withdraw(_slots.Pointer);

    public byte* Memory(int unit) => _slots.Pointer + (long)unit * Region.SlotBytes;

    public ReadRequest Request(ReadClass readClass, params int[] units)
    {
        ReadRequest request = new();
        request.Reset(Region, readClass, this);
        foreach (int unit in units) Assert.True(request.TryAdd(unit, unit, Memory(unit), ReadPlanner.GapLimit, 1 << 20));
        return request;
    }

    public void Completed(ReadRequest request)
    {
        lock (_lock)
        {
            _completed.Add(request);
            Monitor.PulseAll(_lock);
        }
    }

    public void Forget()
    {
        lock (_lock) _completed.Clear();
    }

    /// <summary>Waits until so many requests have completed; the deadline only ends a hung test.</summary>
    public ReadRequest[] Wait(int count)
    {
        lock (_lock)
        {
            while (_completed.Count < count)
                if (!Monitor.Wait(_lock, TimeSpan.FromSeconds(60))) throw new TimeoutException($"{_completed.Count} of {count} reads completed");
            return [.. _completed];
        }
    }

    public void AssertDelivered(int unit)
    {
        ReadOnlySpan<byte> part = new(Memory(unit) + Region.Delta(unit), Region.PartBytes);
        Assert.True(part.SequenceEqual(Content.AsSpan((int)Region.Start(unit), Region.PartBytes)), $"unit {unit} has other bytes");
    }

    public void Dispose() => _slots.Dispose();
}
