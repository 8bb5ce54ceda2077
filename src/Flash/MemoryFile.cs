namespace FlashOrleans.Flash;

/// <summary>
/// The in-memory twin of <see cref="DirectFile"/> for tests: the same rules (alignment, short at the end of the file, minus errno) over
/// an array, with faults on demand and a gate in which a test can hold a read. Any thread; no clock, no sleep. A read without a fault
/// to inject does not allocate.
/// </summary>
public sealed unsafe class MemoryFile : FlashFile
{
    private readonly byte[] _content;
    private readonly Lock _lock = new();
    private readonly List<Pending> _faults = [];
    private long _started;
    private long _bytes;
    private bool _disposed;

    private sealed class Pending(MemoryFault fault)
    {
        public readonly MemoryFault Fault = fault;
        public long Left = fault.Times;
    }

    /// <param name="content">The bytes of the file; the array is used, not copied.</param>
    /// <param name="alignment">What a direct file would demand (512, 4096), or 1 for a buffered one.</param>
    /// <param name="name">Path, for error messages.</param>
    public MemoryFile(byte[] content, int alignment = 512, string name = "memory.slice")
    {
        _content = content;
        Alignment = alignment;
        Name = name;
    }

    public override string Name { get; }
    public override long Length => _content.Length;
    public override int Alignment { get; }
    public override string Access => Alignment > 1 ? $"memory ({Alignment})" : "memory";

    /// <summary>Reads begun, failed ones included.</summary>
    public long Reads => Volatile.Read(ref _started);
    /// <summary>Bytes delivered.</summary>
    public long Bytes => Volatile.Read(ref _bytes);

    /// <summary>Runs on the reading thread before each read (index, offset, bytes): a test blocks or records here.</summary>
    public Action<long, long, long>? Gate { get; set; }

    /// <summary>Adds a fault; the first one that applies to a read is used.</summary>
    public void Inject(MemoryFault fault)
    {
        lock (_lock) _faults.Add(new Pending(fault));
    }

    public override long Read(long offset, ReadOnlySpan<IoVector> parts)
    {
        ThreadRole.AssertNotGrainTurn("a read of flash");
        ObjectDisposedException.ThrowIf(_disposed, this);
        long index = Interlocked.Increment(ref _started) - 1;
        long wanted = 0;
        bool aligned = offset >= 0 && offset % Alignment == 0;
        foreach (IoVector part in parts)
        {
            wanted += (long)part.Length;
            aligned &= (nuint)part.Base % (nuint)Alignment == 0 && part.Length % (nuint)Alignment == 0;
        }
        Gate?.Invoke(index, offset, wanted);
        if (!aligned) return -Libc.EINVAL;

        MemoryFault? fault = Take(index, offset, wanted);
        if (fault is { Errno: > 0 }) return -fault.Errno;
        long limit = Math.Min(wanted, Math.Max(0, Length - offset));
        if (fault is { ShortBytes: >= 0 }) limit = Math.Min(limit, fault.ShortBytes);

        long done = 0;
        foreach (IoVector part in parts)
        {
            int bytes = (int)Math.Min((long)part.Length, limit - done);
            if (bytes <= 0) break;
            new ReadOnlySpan<byte>(_content, (int)(offset + done), bytes).CopyTo(new Span<byte>(part.Base, bytes));
            if (fault is { FlipBit: >= 0 } && fault.Offset >= offset + done && fault.Offset < offset + done + bytes)
                part.Base[fault.Offset - offset - done] ^= (byte)(1 << fault.FlipBit);
            done += bytes;
        }
        Interlocked.Add(ref _bytes, done);
        return done;
    }

    public override void Dispose() => _disposed = true;

    private MemoryFault? Take(long index, long offset, long bytes)
    {
        lock (_lock)
        {
            foreach (Pending pending in _faults)
            {
                MemoryFault fault = pending.Fault;
                if (pending.Left <= 0) continue;
                if (fault.Read >= 0 && fault.Read != index) continue;
                if (fault.Offset >= 0 && (fault.Offset < offset || fault.Offset >= offset + bytes)) continue;
                pending.Left--;
                return fault;
            }
            return null;
        }
    }
}

/// <summary>What goes wrong in a <see cref="MemoryFile"/>, and when. Without conditions it applies to the next reads.</summary>
public sealed record MemoryFault
{
    /// <summary>Only the read of this index (0 is the first); -1: any.</summary>
    public long Read { get; init; } = -1;
    /// <summary>Only reads that cover this byte of the file; -1: any.</summary>
    public long Offset { get; init; } = -1;
    /// <summary>How many reads it hits.</summary>
    public long Times { get; init; } = 1;
    /// <summary>The read fails with this errno (4 EINTR, 5 EIO).</summary>
    public int Errno { get; init; }
    /// <summary>The read delivers at most this many bytes; -1: all.</summary>
    public long ShortBytes { get; init; } = -1;
    /// <summary>This bit of the byte at <see cref="Offset"/> arrives inverted; -1: none.</summary>
    public int FlipBit { get; init; } = -1;

    /// <summary>A permanent fault.</summary>
    public const long Always = long.MaxValue;
}
