using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What a read costs at the reader's depth, as a line: so much for each, and so much for each byte. From it follows how large a gap is worth reading across. Pure.</summary>
public readonly record struct ReadCost(double SecondsPerRead, double SecondsPerByte)
{
    /// <summary>The line through two measured sizes; a device that is not slower with the longer ones charges nothing for bytes, one that is slower in proportion nothing for reads.</summary>
    /// <param name="small">Bytes of a short read.</param>
    /// <param name="smallPerSecond">So many of them a second.</param>
    /// <param name="large">Bytes of a long read, more than <paramref name="small"/>.</param>
    /// <param name="largePerSecond">So many of them a second.</param>
    public static ReadCost Fit(int small, double smallPerSecond, int large, double largePerSecond)
    {
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(large, small);
        double perByte = Math.Max(0, (1 / largePerSecond - 1 / smallPerSecond) / (large - small));
        return new ReadCost(Math.Max(0, 1 / smallPerSecond - perByte * small), perByte);
    }

    /// <summary>A gap is read across while its bytes cost less than another read, up to what the reader has room for.</summary>
    public int GapBytes => SecondsPerRead >= SecondsPerByte * ReadPlanner.GapLimit ? ReadPlanner.GapLimit : (int)(SecondsPerRead / SecondsPerByte);
}
