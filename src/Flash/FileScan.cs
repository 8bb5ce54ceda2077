using System.Globalization;
using System.IO.Hashing;
using System.Runtime.InteropServices;

namespace FlashOrleans.Flash;

/// <summary>
/// Reads a package file front to back through one aligned scratch buffer: opening, loading, verifying. One thread at a time, never a
/// grain turn. Rounds outward to what the device wants, repeats interrupted and short reads, repeats a device error once; what
/// then still fails is a <see cref="FlashException"/> with file and offset.
/// </summary>
internal sealed unsafe class FileScan : IDisposable
{
    private const int Eintr = 4, Eio = 5;
    /// <summary>A file that answers nothing but EINTR is broken.</summary>
    private const int MaxInterrupts = 1000;
    private readonly NativeBuffer _scratch;

    /// <param name="ledger">Where the scratch is accounted while the scan lives.</param>
    /// <param name="chunk">Most bytes that one <see cref="Read"/> must be able to return.</param>
    public FileScan(MemoryLedger ledger, int chunk = 1 << 20)
    {
        Chunk = chunk;
        _scratch = new NativeBuffer((long)chunk + 2 * PackageLayout.Page, ledger, "load scratch");
    }

    public int Chunk { get; }

    /// <summary>The bytes at <paramref name="offset"/>; valid until the next call.</summary>
    public ReadOnlySpan<byte> Read(FlashFile file, long offset, int bytes)
    {
        ThreadRole.AssertNotGrainTurn("reading " + file.Name);
        int align = file.Alignment;
        if (bytes > Chunk || PackageLayout.Page % align != 0)
            throw new ArgumentException($"{bytes} bytes with alignment {align} exceed the scratch of {Chunk}", nameof(bytes));
        long start = offset / align * align;
        int lead = (int)(offset - start), wanted = (int)PackageLayout.RoundUp(lead + bytes, align), done = 0;
        bool retried = false;
        int interrupts = 0;
        while (done < lead + bytes)
        {
            // After a short read the next one starts at an aligned address again.
            int at = done / align * align;
            IoVector part = new() { Base = _scratch.Pointer + at, Length = (nuint)(wanted - at) };
            long got = file.Read(start + at, new ReadOnlySpan<IoVector>(in part));
            if (got == -Eintr && ++interrupts < MaxInterrupts) continue;
            if (got < 0)
            {
                if (!retried && got == -Eio) { retried = true; continue; }
                throw new FlashException(file.Name, start + at, string.Create(CultureInfo.InvariantCulture, $"cannot be read: {Marshal.GetPInvokeErrorMessage((int)-got)} (errno {-got})"));
            }
            if (at + got <= done) throw new FlashException(file.Name, start + done, $"the file ends here; it should have {file.Length} bytes");
            done = (int)(at + got);
        }
        return new ReadOnlySpan<byte>(_scratch.Pointer + lead, bytes);
    }

    /// <summary>
    /// Checks a section's bytes in one pass, copying them to <paramref name="to"/> unless that is null. With <paramref name="units"/> their own
    /// checksums are compared as well, first: they name the place; the section's covers what pads them.
    /// </summary>
    public void Check(FlashFile file, SectionEntry section, byte* to = null, UnitRegion? units = null, ScanProgress? progress = null)
    {
        int step = units is null ? Chunk : Chunk / units.Stride * units.Stride;
        XxHash3 hash = new();
        for (long done = 0; done < section.Bytes;)
        {
            int count = (int)Math.Min(step, section.Bytes - done);
            ReadOnlySpan<byte> piece = Read(file, section.Offset + done, count);
            if (units is not null) CheckUnits(units, (int)(done / units.Stride), piece);
            hash.Append(piece);
            if (to != null) piece.CopyTo(new Span<byte>(to + done, count));
            done += count;
            progress?.Add(count);
        }
        ulong actual = hash.GetCurrentHashAsUInt64();
        if (actual != section.Hash)
            throw new FlashException(file.Name, section.Offset, $"section {section.Name} ({section.Bytes} bytes) is damaged: checksum {actual:x16}, expected {section.Hash:x16}");
    }

    private static void CheckUnits(UnitRegion units, int first, ReadOnlySpan<byte> bytes)
    {
        fixed (byte* p = bytes)
        {
            int last = Math.Min(units.Count, first + bytes.Length / units.Stride);
            for (int unit = first; unit < last; unit++)
            {
                if (units.Verify(unit, p + (long)(unit - first) * units.Stride + units.PartOffset) != ReadFault.None)
                    throw new FlashException(units.File.Name, units.Start(unit), $"unit {unit} of {units.Name} is damaged (checksum of {units.PartBytes} bytes)");
            }
        }
    }

    /// <summary>What lies between sections is zero.</summary>
    public void CheckZero(FlashFile file, long from, long to)
    {
        while (from < to)
        {
            int count = (int)Math.Min(Chunk, to - from);
            int bad = Read(file, from, count).IndexOfAnyExcept((byte)0);
            if (bad >= 0) throw new FlashException(file.Name, from + bad, "a byte between two sections is not zero");
            from += count;
        }
    }

    public void Dispose() => _scratch.Dispose();
}

/// <summary>Bytes done of bytes to do, told at every piece.</summary>
internal sealed class ScanProgress(long total, Action<long, long> report)
{
    private long _done;

    public void Add(long bytes) => report(_done += bytes, total);
}
