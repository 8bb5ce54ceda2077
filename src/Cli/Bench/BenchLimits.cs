using FlashOrleans.Cli.Hosts;
using FlashOrleans.Engine;

namespace FlashOrleans.Cli.Bench;

/// <summary>
/// One step of decoding, in the mean: what it took, what it needed, and what the machine's limits are for that (<see cref="Roofline"/>). Needs are counted by the engine where it counts (steps, units,
/// neurons, flash bytes and reads), the rest follows from the shape.
/// </summary>
internal sealed record BenchLimits
{
    public required double Steps { get; init; }
    public required double Seconds { get; init; }
    public required StepNeeds Needs { get; init; }
    public required Roofline Times { get; init; }
    /// <summary>Of all layers: on the compute threads, and waiting for reads (side by side where several steps are under way).</summary>
    public required double Computing { get; init; }
    public required double Waiting { get; init; }
    /// <summary>With at least one read in the device.</summary>
    public required double Reading { get; init; }
    /// <summary>Processor time of the reading thread; null where many threads read.</summary>
    public required double? ReadProcessor { get; init; }

    public double Fraction => Times.Fraction(Seconds);
    /// <summary>Of the step, what it would take with memory and flash at once as the machine lets them be.</summary>
    public double? Together => Times.TogetherSeconds / Seconds;
    public double? ProcessorOfRead => Snapshot.Ratio(ReadProcessor ?? 0, ReadProcessor is null ? 0 : Needs.FlashReads);
    /// <summary>Of the step's time on one processor.</summary>
    public double? ReadShare => ReadProcessor / Seconds;

    /// <summary>Null where nothing was decoded.</summary>
    public static BenchLimits? Of(BenchStretch? stretch, StepShape shape, DeviceRates rates)
    {
        if (stretch is not { Steps: > 0 and var steps }) return null;
        Snapshot all = stretch.Counters;
        LayerWork[] work = [.. all.Layers.Select(l => new LayerWork(l.Waves / steps, l.Rows / steps, l.Slots / steps, l.UnitsNeeded / steps, l.NeuronsComputed / steps))];
        StepNeeds needs = shape.Needs(work, all.Rows / steps, stretch.Context, all.FlashBytes / steps, all.Reads / steps);
        return new BenchLimits
        {
            Steps = steps,
            Seconds = stretch.Time.TotalSeconds / steps,
            Needs = needs,
            Times = Roofline.Of(needs, rates),
            Computing = all.ComputeNanos / 1e9 / steps,
            Waiting = all.FlashWaitNanos / 1e9 / steps,
            Reading = all.ReadBusyNanos / 1e9 / steps,
            ReadProcessor = all.ReadNanos > 0 ? all.ReadNanos / 1e9 / steps : null,
        };
    }

    public object Json() => new
    {
        Steps,
        TokensPerStep = Needs.Tokens,
        StepMs = 1e3 * Seconds,
        Needs.MemoryBytes,
        SharedMultiplyAdds = Needs.Shared,
        AloneMultiplyAdds = Needs.Alone,
        Needs.FlashBytes,
        Needs.FlashReads,
        MemoryMs = 1e3 * Times.MemorySeconds,
        ComputeMs = 1e3 * Times.ComputeSeconds,
        FlashMs = 1e3 * Times.FlashSeconds,
        Times.Limit,
        LimitMs = 1e3 * Times.Seconds,
        Fraction,
        TogetherMs = 1e3 * Times.TogetherSeconds,
        TogetherFraction = Together,
        MeasuredComputeMs = 1e3 * Computing,
        MeasuredWaitMs = 1e3 * Waiting,
        MeasuredReadMs = 1e3 * Reading,
        MeasuredReadGbS = Snapshot.Ratio(Needs.FlashBytes / 1e9, Reading),
        ReadCpuNanos = 1e9 * ProcessorOfRead,
        ReadCpuShare = ReadShare,
    };
}
