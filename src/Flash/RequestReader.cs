using System.Runtime.InteropServices;

namespace FlashOrleans.Flash;

/// <summary>
/// Carries out one <see cref="ReadRequest"/> on an I/O thread: one scattered read from the rounded-down start of the first unit to the rounded-up
/// end of the last, straight into the slots, gaps into a sink nobody reads. Where units are not aligned to the device, neighbours share
/// an aligned block: it is read once, into the earlier slot, and copied to the later one (a block, never a row).
/// EINTR is retried at once and a short read goes on where it stopped. After an I/O error, a premature end or a checksum that does not match, each
/// affected unit is read once more by itself; what fails again is that unit's fault alone. One instance per thread; allocates only for error texts.
/// </summary>
internal sealed unsafe class RequestReader
{
    private const int MaxParts = 2 * ReadRequest.MaxUnits;
    /// <summary>Memory for the list of parts.</summary>
    public const int PartBytes = MaxParts * 16;
    /// <summary>A file that answers nothing but EINTR is broken.</summary>
    private const int MaxInterrupts = 1000;

    private readonly byte* _sink;
    private readonly IoVector* _parts;

    public RequestReader(byte* sink, IoVector* parts)
    {
        _sink = sink;
        _parts = parts;
    }

    /// <summary>Reads done a second time, since start.</summary>
    public int Retries { get; private set; }

    public void Read(ReadRequest request)
    {
        int parts = Scatter(request);
        Finish(request, ReadParts(request, ReadPlanner.Low(request.Region, request.Units[0]), parts, out _));
    }

    /// <summary>The merged read has come as far as this offset: neighbours share their blocks, every unit is checked if the request wants it, what is wrong is read again.</summary>
    public void Finish(ReadRequest request, long reached)
    {
        UnitRegion region = request.Region;
        ShareBlocks(request, reached);
        for (int k = 0; k < request.Count; k++)
        {
            int unit = request.Units[k];
            long end = region.Start(unit) + region.PartBytes;
            request.Faults[k] = end <= reached && (!request.Verify || Verified(request, k)) ? ReadFault.None : ReadAgain(request, k);
        }
    }

    /// <summary>The list of parts of the read that is being done.</summary>
    public IoVector* Parts => _parts;

    /// <summary>Lists the parts of the merged read; returns how many.</summary>
    public int Scatter(ReadRequest request)
    {
        UnitRegion region = request.Region;
        int parts = 0;
        long at = ReadPlanner.Low(region, request.Units[0]);
        for (int k = 0; k < request.Count; k++)
        {
            int unit = request.Units[k];
            long low = ReadPlanner.Low(region, unit), high = ReadPlanner.High(region, unit);
            if (unit < 0 || unit >= region.Count || (k > 0 && unit <= request.Units[k - 1]))
                throw new ArgumentException($"unit {unit} is out of order or outside 0..{region.Count - 1}");
            if (low - at > ReadPlanner.GapLimit) throw new ArgumentException($"a gap of {low - at} bytes before unit {unit}");
            if (low > at)
            {
                _parts[parts++] = new IoVector { Base = _sink, Length = (nuint)(low - at) };
                at = low;
            }
            if (high > at)
            {
                byte* to = (byte*)request.Memory[k] + (at - low);
                // Neighbours in the file that are neighbours in the window too, as in a scan, are one part.
                if (parts > 0 && _parts[parts - 1].Base + _parts[parts - 1].Length == to) _parts[parts - 1].Length += (nuint)(high - at);
                else _parts[parts++] = new IoVector { Base = to, Length = (nuint)(high - at) };
                at = high;
            }
        }
        return parts;
    }

    /// <summary>What was read in one piece, from one offset of the file to another, goes into the slots.</summary>
    public static void HandOut(ReadRequest request, byte* piece, long from, long reached)
    {
        UnitRegion region = request.Region;
        for (int k = 0; k < request.Count; k++)
        {
            long low = ReadPlanner.Low(region, request.Units[k]), high = Math.Min(ReadPlanner.High(region, request.Units[k]), reached);
            if (high > low) NativeMemory.Copy(piece + (low - from), (byte*)request.Memory[k], (nuint)(high - low));
        }
    }

    /// <summary>Gives a unit the head block that arrived in its predecessor's slot. Ascending, so the predecessor is complete.</summary>
    private static void ShareBlocks(ReadRequest request, long reached)
    {
        UnitRegion region = request.Region;
        for (int k = 1; k < request.Count; k++)
        {
            long before = ReadPlanner.Low(region, request.Units[k - 1]);
            long low = ReadPlanner.Low(region, request.Units[k]);
            long shared = Math.Min(ReadPlanner.High(region, request.Units[k - 1]), reached) - low;
            if (shared > 0) NativeMemory.Copy((byte*)request.Memory[k - 1] + (low - before), (byte*)request.Memory[k], (nuint)shared);
        }
    }

    private ReadFault ReadAgain(ReadRequest request, int k)
    {
        UnitRegion region = request.Region;
        int unit = request.Units[k];
        long low = ReadPlanner.Low(region, unit), start = region.Start(unit), end = start + region.PartBytes;
        _parts[0] = new IoVector { Base = (byte*)request.Memory[k], Length = (nuint)(ReadPlanner.High(region, unit) - low) };
        Retries++;
        long reached = ReadParts(request, low, 1, out int errno);
        if (errno != 0)
        {
            request.Error ??= Describe(request, unit, reached, $"the read failed twice: {Marshal.GetPInvokeErrorMessage(errno)} (errno {errno})");
            return ReadFault.Io;
        }
        if (reached < end)
        {
            request.Error ??= Describe(request, unit, start, $"the file ends at byte {reached}, the unit at {end}: truncated? Import the model again");
            return ReadFault.Short;
        }
        if (Verified(request, k)) return ReadFault.None;
        request.Error ??= Describe(request, unit, start, $"the checksum of {region.PartBytes} bytes does not match, twice: damaged; import the model again");
        return ReadFault.Checksum;
    }

    /// <summary>Reads until all parts are full, the file ends or an error comes; returns the offset reached. Uses up the list of parts.</summary>
    private long ReadParts(ReadRequest request, long offset, int parts, out int errno)
    {
        FlashFile file = request.Region.File;
        int alignment = file.Alignment;
        long wanted = 0;
        for (int i = 0; i < parts; i++) wanted += (long)_parts[i].Length;
        long end = offset + wanted;
        IoVector* first = _parts;
        int interrupts = 0;
        errno = 0;
        while (true)
        {
            long got = file.Read(offset, new ReadOnlySpan<IoVector>(first, parts));
            if (got < 0)
            {
                if (got == -Libc.EINTR && ++interrupts < MaxInterrupts) continue;
                errno = (int)-got;
                return offset;
            }
            request.BytesRead += got;
            long reached = offset + got;
            if (got == 0 || reached >= end || reached >= file.Length) return reached;
            // The rest begins at a multiple of the alignment, so a last broken block is read again.
            long step = got - reached % alignment;
            if (step <= 0)
            {
                if (++interrupts < MaxInterrupts) continue;
                return reached;
            }
            offset += step;
            while (step > 0)
            {
                long length = (long)first->Length;
                if (step >= length)
                {
                    step -= length;
                    first++;
                    parts--;
                    continue;
                }
                first->Base += step;
                first->Length -= (nuint)step;
                step = 0;
            }
        }
    }

    private static bool Verified(ReadRequest request, int k)
    {
        UnitRegion region = request.Region;
        int unit = request.Units[k];
        return region.Verify(unit, (byte*)request.Memory[k] + region.Delta(unit)) == ReadFault.None;
    }

    private static string Describe(ReadRequest request, int unit, long offset, string what) =>
        $"{request.Region.File.Name} at byte {offset}: {request.Region.Name} unit {unit}: {what}";
}
