using System.Collections.Concurrent;
using System.Runtime.InteropServices;

namespace FlashOrleans.Flash;

/// <summary>
/// Aligned native memory with an owner and a name in a <see cref="MemoryLedger"/>. Weights, windows, KV and scratch live here,
/// never on the managed heap. Any thread may dispose it once; the owner sees to it that nobody uses the pointer afterwards.
/// From <see cref="LeastMapped"/> on it is a mapping of its own: named ("flash:tinyllama/3" in /proc/PID/maps, where the kernel can), all its pages
/// there from the start, given back whole at the end. What cannot be had is a <see cref="FlashException"/> here and now, not a killed process later.
/// </summary>
public sealed unsafe class NativeBuffer : IDisposable
{
    /// <summary>
    /// Below this the heap serves: a mapping costs four calls whatever its size (6 µs for 4 KiB, 13 for 64 KiB, measured), and layers have a dozen vectors of a few KB.
    /// </summary>
    public const int LeastMapped = 64 * 1024;
    public const int Page = 4096;
    private readonly MemoryLedger _ledger;
    private readonly string _name;
    private readonly bool _mapped;
    private byte* _pointer;

    /// <summary>Zeroed memory of <paramref name="bytes"/> bytes; alignment is a power of two, at most a page (4096 serves direct I/O anywhere).</summary>
    public NativeBuffer(long bytes, MemoryLedger ledger, string name, int alignment = Page)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(alignment, Page);
        _ledger = ledger;
        _name = name;
        Length = bytes;
        _mapped = bytes >= LeastMapped && Libc.Supported;
        if (_mapped)
        {
            _pointer = Libc.Map(bytes, name, out int error);
            if (_pointer == null)
                throw new FlashException($"{name}: the system has no {bytes / 1e6:0.0} MB of memory to give ({Marshal.GetPInvokeErrorMessage(error)}): take a smaller --budget or --window");
        }
        else
        {
            _pointer = (byte*)NativeMemory.AlignedAlloc((nuint)Math.Max(bytes, 1), (nuint)alignment);
            NativeMemory.Clear(_pointer, (nuint)bytes);
        }
        ledger.Add(name, bytes);
    }

    public byte* Pointer => _pointer != null ? _pointer : throw new ObjectDisposedException(_name);

    public long Length { get; }

    public Span<byte> Span => new(Pointer, checked((int)Length));

    /// <summary>What a buffer of so many bytes takes from the system at most: whole pages where it is mapped, a page for alignment where it is not.</summary>
    public static long Footprint(long bytes) => bytes >= LeastMapped ? PackageLayout.RoundUp(bytes, Page) : bytes == 0 ? 0 : PackageLayout.RoundUp(bytes, Page) + Page;

    public void Dispose()
    {
        byte* pointer = _pointer;
        if (pointer == null) return;
        _pointer = null;
        if (_mapped) Libc.Unmap(pointer, Length);
        else NativeMemory.AlignedFree(pointer);
        _ledger.Add(_name, -Length);
    }
}

/// <summary>
/// Who holds how much native memory, by name. Any thread. Tests assert that a deactivated layer returns to zero; the
/// figure "DRAM held" comes from here.
/// </summary>
public sealed class MemoryLedger
{
    private readonly ConcurrentDictionary<string, long> _held = new(StringComparer.Ordinal);

    public void Add(string name, long bytes) => _held.AddOrUpdate(name, static (_, b) => b, static (_, old, b) => old + b, bytes);

    public long Held(string name) => _held.GetValueOrDefault(name);

    public long Total => _held.Values.Sum();

    public IReadOnlyDictionary<string, long> Snapshot() => _held.Where(p => p.Value != 0).ToDictionary(p => p.Key, p => p.Value, StringComparer.Ordinal);
}
