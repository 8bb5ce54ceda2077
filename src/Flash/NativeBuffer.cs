using System.Collections.Concurrent;
using System.Runtime.InteropServices;

namespace FlashOrleans.Flash;

/// <summary>
/// Aligned native memory with an owner and a name in a <see cref="MemoryLedger"/>. Weights, windows, KV and scratch live here,
/// never on the managed heap. Any thread may dispose it once; the owner sees to it that nobody uses the pointer afterwards.
/// </summary>
public sealed unsafe class NativeBuffer : IDisposable
{
    private readonly MemoryLedger _ledger;
    private readonly string _name;
    private byte* _pointer;

    /// <summary>Zeroed memory of <paramref name="bytes"/> bytes; alignment is a power of two (4096 serves direct I/O anywhere).</summary>
    public NativeBuffer(long bytes, MemoryLedger ledger, string name, int alignment = 4096)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        _ledger = ledger;
        _name = name;
        Length = bytes;
        _pointer = (byte*)NativeMemory.AlignedAlloc((nuint)Math.Max(bytes, 1), (nuint)alignment);
        NativeMemory.Clear(_pointer, (nuint)bytes);
        ledger.Add(name, bytes);
    }

    public byte* Pointer => _pointer != null ? _pointer : throw new ObjectDisposedException(_name);

    public long Length { get; }

    public Span<byte> Span => new(Pointer, checked((int)Length));

    public void Dispose()
    {
        byte* pointer = _pointer;
        if (pointer == null) return;
        _pointer = null;
        NativeMemory.AlignedFree(pointer);
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
