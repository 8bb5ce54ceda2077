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

    /// <summary>A gap is read across while its bytes cost less than another read, up to what the reader has room for.</summary>
    public int GapBytes => SecondsPerRead >= SecondsPerByte * ReadPlanner.GapLimit ? ReadPlanner.GapLimit : (int)(SecondsPerRead / SecondsPerByte);
}
