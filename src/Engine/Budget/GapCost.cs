using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What a read costs at the reader's depth, as a line: so much for each, and so much for each byte. From it follows how large a gap is worth reading across. Pure.</summary>
public readonly record struct GapCost(double SecondsPerRead, double SecondsPerByte)
{
    /// <summary>The line through two measured sizes; a device that is not slower with the longer ones charges nothing for bytes, one that is slower in proportion nothing for reads.</summary>
    public static GapCost Fit(ReadCost small, ReadCost large)
    {
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(large.Bytes, small.Bytes);
        double perByte = Math.Max(0, (large.Seconds - small.Seconds) / (large.Bytes - small.Bytes));
        return new GapCost(Math.Max(0, small.Seconds - perByte * small.Bytes), perByte);
    }

    /// <summary>Longer gaps than this did not pay where they seemed to: what a measurement reads again and again may lie in a cache below the device, what a model reads does not, and its bytes take memory's time too
    /// (docs/adr/0005).</summary>
    public const int MostGapBytes = 16 * 1024;

    /// <summary>A gap is read across while its bytes cost less than another read.</summary>
    public int GapBytes => SecondsPerRead >= SecondsPerByte * MostGapBytes ? MostGapBytes : (int)(SecondsPerRead / SecondsPerByte);
}
