using System.IO.Hashing;

namespace FlashOrleans.Flash;

/// <summary>One checked span of every unit's part: XxHash3 of <paramref name="Bytes"/> bytes at <paramref name="Offset"/> within the part; unit u's is number u · <paramref name="Step"/> + <paramref name="First"/>.</summary>
public readonly record struct UnitCheck(int Offset, int Bytes, ulong[] Hashes, int First = 0, int Step = 1);

/// <summary>
/// A run of equally spaced units in one package file that are read one by one into slots: neuron bundles (or the part of each that a
/// mode needs), embedding rows. Immutable; any thread. What is read is checked span by span, as it arrives, by the thread that read it.
/// </summary>
public sealed class UnitRegion
{
    private readonly UnitCheck[] _checks;
    /// <summary>Every part begins at a multiple of the device's alignment.</summary>
    private readonly bool _aligned;

    /// <param name="file">File the units are in.</param>
    /// <param name="name">For error messages: "layers/003.slice bundles".</param>
    /// <param name="offset">File offset of unit 0.</param>
    /// <param name="count">Number of units.</param>
    /// <param name="stride">Distance of units.</param>
    /// <param name="partOffset">First byte of the wanted part inside a unit.</param>
    /// <param name="partBytes">Bytes of the wanted part.</param>
    /// <param name="checks">Checked spans of the part, one hash per unit each; none where nothing is recorded.</param>
    public UnitRegion(FlashFile file, string name, long offset, int count, int stride, int partOffset, int partBytes, params UnitCheck[] checks)
    {
        File = file; Name = name; Offset = offset; Count = count; Stride = stride;
        PartOffset = partOffset; PartBytes = partBytes;
        foreach (UnitCheck check in checks)
        {
            if (check.Hashes.Length < (long)(count - 1) * check.Step + check.First + 1 || check.Offset < 0 || check.Bytes < 0 || check.Offset > partBytes - check.Bytes)
                throw new ArgumentException($"{name}: a checked span of {check.Bytes} bytes at {check.Offset} with {check.Hashes.Length} hashes does not fit {count} parts of {partBytes} bytes", nameof(checks));
        }
        _checks = checks;
        _aligned = Start(0) % file.Alignment == 0 && stride % file.Alignment == 0;
        SlotBytes = SlotBytesOf(offset + partOffset, stride, partBytes, file.Alignment);
    }

    public FlashFile File { get; }
    public string Name { get; }
    public long Offset { get; }
    public int Count { get; }
    public int Stride { get; }
    public int PartOffset { get; }
    public int PartBytes { get; }
    public IReadOnlyList<UnitCheck> Checks => _checks;
    /// <summary>Bytes of each matrix's row in the part, in their order, where a unit is one neuron; else none.</summary>
    public IReadOnlyList<int> Rows { get; init; } = [];
    /// <summary>Bytes a slot must have to receive any unit, the device's rounding included.</summary>
    public int SlotBytes { get; }

    /// <summary>Every read of it is too long to gain by memory that has been lent (<see cref="LentMemory.MostBytes"/>).</summary>
    public bool IsLong => SlotBytes >= LentMemory.MostBytes;

    /// <summary>File offset of the wanted part of a unit.</summary>
    public long Start(int unit) => Offset + (long)unit * Stride + PartOffset;

    /// <summary>Where inside its slot a unit's part begins: what the device's rounding put before it.</summary>
    public int Delta(int unit) => _aligned ? 0 : (int)(Start(unit) % File.Alignment);

    /// <summary>Checks the <see cref="PartBytes"/> bytes of a unit at <paramref name="part"/> (slot memory + <see cref="Delta"/>). Any thread, allocates nothing.</summary>
    public unsafe ReadFault Verify(int unit, byte* part)
    {
        for (int span = 0; span < _checks.Length; span++)
            if (!IsSound(unit, part, span)) return ReadFault.Checksum;
        return ReadFault.None;
    }

    /// <summary>The same of one of its checked spans.</summary>
    public unsafe bool IsSound(int unit, byte* part, int span)
    {
        UnitCheck check = _checks[span];
        return Matches(unit, span, XxHash3.HashToUInt64(new ReadOnlySpan<byte>(part + check.Offset, check.Bytes)));
    }

    /// <summary>Whether that is the XxHash3 that is recorded of a unit's span.</summary>
    public bool Matches(int unit, int span, ulong hash)
    {
        UnitCheck check = _checks[span];
        return hash == check.Hashes[unit * check.Step + check.First];
    }

    /// <summary>Bytes of a slot for parts of units that lie so: the worst case of rounding [start, start + bytes) outward to the device's alignment.</summary>
    internal static int SlotBytesOf(long start, int stride, int partBytes, int align)
    {
        bool aligned = start % align == 0 && stride % align == 0;
        return RoundUp(partBytes + (aligned ? 0 : align - 1), Math.Max(align, 64));
    }

    private static int RoundUp(int value, int multiple) => (value + multiple - 1) / multiple * multiple;
}
