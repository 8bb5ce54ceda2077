namespace FlashOrleans.Flash;

/// <summary>
/// Which neighbouring units share one read. Pure arithmetic over a <see cref="UnitRegion"/>, no state, no allocation; the submitter loops:
/// <code>
/// foreach unit in ascending order:
///     if (!request.TryAdd(unit, slot, memory)) { submit(request); request = next free one, Reset; request.TryAdd(...); }
/// submit(request);
/// </code>
/// A gap is what a merged read would bring and throw away, after rounding to the device's alignment: 0 for units that touch. Reading
/// across a small gap is cheaper than a second read, because one read costs about the same up to 16 KiB (docs/adr/0005-flash-io.md).
/// </summary>
public static class ReadPlanner
{
    /// <summary>Where nobody measured the device.</summary>
    public const int DefaultGapBytes = 8 * 1024;
    /// <summary>Beyond this a longer read into one place gains no bandwidth, and it would hold back a demand read behind it.</summary>
    public const int DefaultMaxBytes = 256 * 1024;
    /// <summary>The most that a read brings for several slots: it comes in one piece and is handed out from there, and each read under way has room for so much.</summary>
    public const int GatherBytes = 64 * 1024;
    /// <summary>The reader's sink for gaps is this large.</summary>
    public const int GapLimit = 64 * 1024;

    /// <summary>First byte of the file that a read of the unit touches, rounded down to the alignment.</summary>
    public static long Low(UnitRegion region, int unit)
    {
        long start = region.Start(unit);
        return start - start % region.File.Alignment;
    }

    /// <summary>End of the bytes that a read of the unit touches, rounded up to the alignment; may lie behind the end of the file.</summary>
    public static long High(UnitRegion region, int unit)
    {
        int alignment = region.File.Alignment;
        long end = region.Start(unit) + region.PartBytes + alignment - 1;
        return end - end % alignment;
    }

    /// <summary>True when <paramref name="unit"/> may join a read that begins at unit <paramref name="first"/> and so far ends with <paramref name="last"/>.</summary>
    public static bool Joins(UnitRegion region, int first, int last, int unit, int maxGapBytes, int maxBytes) =>
        unit > last
        && Low(region, unit) - High(region, last) <= Math.Min(maxGapBytes, GapLimit)
        && High(region, unit) - Low(region, first) <= maxBytes;

    /// <summary>Bytes that the read of a request will bring.</summary>
    public static long Bytes(ReadRequest request) =>
        request.Count == 0 ? 0 : High(request.Region, request.Units[request.Count - 1]) - Low(request.Region, request.Units[0]);
}
