namespace FlashOrleans.Flash;

/// <summary>One file of a package as the reader sees it: positional reads into aligned native memory. Two implementations:
/// <c>DirectFile</c> (the device) and <c>MemoryFile</c> (an in-memory twin with injectable faults, for tests).</summary>
public abstract unsafe class FlashFile : IDisposable
{
    /// <summary>Path, for error messages.</summary>
    public abstract string Name { get; }
    public abstract long Length { get; }
    /// <summary>Offsets, lengths and memory addresses of reads must be multiples of this (512 or 4096; 1 for buffered files).</summary>
    public abstract int Alignment { get; }
    /// <summary>"direct" or "buffered", for reports.</summary>
    public abstract string Access { get; }

    /// <summary>
    /// One scattered read (preadv): fills <paramref name="parts"/> in order from <paramref name="offset"/>. I/O threads and loaders only.
    /// Returns the bytes read (may be short) or minus errno. The caller handles short reads, EINTR and EIO.
    /// </summary>
    public abstract long Read(long offset, ReadOnlySpan<IoVector> parts);

    public abstract void Dispose();
}

/// <summary>A piece of memory to fill; the layout of Linux' struct iovec.</summary>
public unsafe struct IoVector
{
    public byte* Base;
    public nuint Length;
}
