using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What the machine gives: measured (<see cref="DeviceProbe"/>) or told.</summary>
public sealed record DeviceRates
{
    /// <summary>Tokens of the measured product of many.</summary>
    public const int Many = 64;

    /// <summary>Bytes a second that the compute threads read from memory together.</summary>
    public required double Memory { get; init; }
    /// <summary>Multiply-adds a second of all compute threads with one token's row, the weights in the cache.</summary>
    public required double OneToken { get; init; }
    /// <summary>The same with <see cref="Many"/> tokens.</summary>
    public required double ManyTokens { get; init; }
    /// <summary>What a scattered read of so many bytes costs while the reader is kept busy, smallest first.</summary>
    public required IReadOnlyList<ReadCost> Reads { get; init; }
    /// <summary>The largest ratio between the first and the second measurement of the same reads; null where they were measured once.</summary>
    public double? ReadsChanged { get; init; }
    /// <summary>What memory and flash keep of their rates while both are busy; null where it was not measured.</summary>
    public AtOnce? AtOnce { get; init; }
    /// <summary>Which of them are measured, in words.</summary>
    public required string Source { get; init; }

    /// <summary>With what a second measurement of the same reads found better, and by how much the two differ.</summary>
    public DeviceRates Better(IReadOnlyList<ReadCost> second)
    {
        if (second.Count != Reads.Count) return this;
        var pairs = Reads.Zip(second).ToList();
        return this with
        {
            Reads = [.. pairs.Select(static p => p.First.Seconds <= p.Second.Seconds ? p.First : p.Second)],
            ReadsChanged = pairs.Count == 0 ? null : pairs.Max(static p => Math.Max(p.First.Seconds / p.Second.Seconds, p.Second.Seconds / p.First.Seconds)),
        };
    }

    /// <summary>
    /// Multiply-adds a second of a matrix with so many tokens: a weight costs u to unpack and v for each token, so n tokens take u + n v. Both follow from the two products that are measured.
    /// </summary>
    public double MultiplyAdds(double tokens)
    {
        double one = 1 / OneToken, each = Math.Clamp((Many / ManyTokens - one) / (Many - 1), 0, one);
        return tokens / (one - each + tokens * each);
    }
}

/// <summary>
/// Shares of the rates of memory and of flash that are left of each while both are busy. What comes from flash goes through memory, on a virtual machine more than once, and a thread hands it over.
/// </summary>
public readonly record struct AtOnce(double Memory, double Flash)
{
    /// <summary>Seconds that work takes and reading takes, each alone, become this when they go on side by side as long as there is some of both; or one after the other, where that is sooner.</summary>
    public double Seconds(double work, double reading)
    {
        double both = Math.Min(work / Memory, reading / Flash);
        return Math.Min(work + reading, both + work - both * Memory + reading - both * Flash);
    }
}

/// <summary>What one step takes from memory, from the processor and from flash; counted while it ran, or expected.</summary>
public sealed record StepNeeds
{
    public required double Tokens { get; init; }
    /// <summary>Bytes read from memory: resident matrices once, the units that are needed, keys and values.</summary>
    public required double MemoryBytes { get; init; }
    /// <summary>Multiply-adds of matrices that all tokens of the step go through together.</summary>
    public required double Shared { get; init; }
    /// <summary>Multiply-adds that each token does by itself: its own neurons, its keys and values.</summary>
    public required double Alone { get; init; }
    public required double FlashBytes { get; init; }
    public required double FlashReads { get; init; }

    public double MultiplyAdds => Shared + Alone;
}

/// <summary>
/// The three limits of one step (docs/adr/0017): the times in which memory, the processor and flash could give what it needs, each alone and undisturbed. No step is faster than the largest of
/// them; how near it comes is what a benchmark judges, since absolute figures move with the machine. Pure.
/// </summary>
public sealed record Roofline
{
    public required double MemorySeconds { get; init; }
    public required double ComputeSeconds { get; init; }
    public required double FlashSeconds { get; init; }

    /// <summary>As measured with the rates.</summary>
    public AtOnce? AtOnce { get; init; }

    /// <summary>What the machine would take for all of it with everything overlapped as well as its memory allows; null where that was not measured.</summary>
    public double? TogetherSeconds => AtOnce?.Seconds(Math.Max(MemorySeconds, ComputeSeconds), FlashSeconds);

    public double Seconds => Math.Max(MemorySeconds, Math.Max(ComputeSeconds, FlashSeconds));
    /// <summary>memory, compute or flash: the one that binds.</summary>
    public string Limit => FlashSeconds >= MemorySeconds && FlashSeconds >= ComputeSeconds ? "flash" : ComputeSeconds > MemorySeconds ? "compute" : "memory";

    /// <summary>Of a step that took so long, the share that the limit explains; above 1 the machine gave more than when it was measured.</summary>
    public double Fraction(double seconds) => Seconds / seconds;

    public static Roofline Of(StepNeeds needs, DeviceRates rates)
    {
        ArgumentNullException.ThrowIfNull(needs);
        ArgumentNullException.ThrowIfNull(rates);
        return new Roofline
        {
            MemorySeconds = needs.MemoryBytes / rates.Memory,
            ComputeSeconds = needs.Shared / rates.MultiplyAdds(Math.Max(1, needs.Tokens)) + needs.Alone / rates.OneToken,
            FlashSeconds = needs.FlashReads > 0 ? needs.FlashReads * ReadCost.Of(rates.Reads, needs.FlashBytes / needs.FlashReads) : 0,
            AtOnce = rates.AtOnce,
        };
    }
}
