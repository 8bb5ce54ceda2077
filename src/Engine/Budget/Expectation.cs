using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What the machine gives: measured (<see cref="DeviceProbe"/>) or told.</summary>
public sealed record DeviceRates
{
    /// <summary>Bytes a second that the compute threads read from memory together.</summary>
    public required double Memory { get; init; }
    /// <summary>Reads a second of <see cref="UnitBytes"/> at the reader's depth, scattered.</summary>
    public required double Reads { get; init; }
    public required int UnitBytes { get; init; }
    /// <summary>Bytes a second of long reads.</summary>
    public required double Sequential { get; init; }
    /// <summary>What reads cost between a unit and the longest gap; null where rates were given.</summary>
    public ReadCost? Cost { get; init; }
    /// <summary>Which of them are measured, in words.</summary>
    public required string Source { get; init; }
}

/// <summary>
/// Expected speed of decoding under a plan: one step of n sessions takes the longer of what it reads from memory (resident weights once, the units it needs, keys and values of half the promised
/// context) and what it reads from flash (<see cref="Activity"/>: an upper estimate of misses). The two overlap only as far as look-ahead works, so this is what may be reached, not what will be;
/// multiply-adds are not counted: from three or four sessions on they are what binds. Pure.
/// </summary>
public sealed record Expectation
{
    public required int Sessions { get; init; }
    public required double MemoryBytes { get; init; }
    public required double FlashBytes { get; init; }
    public required double FlashReads { get; init; }
    public required double MemorySeconds { get; init; }
    public required double FlashSeconds { get; init; }
    public double TokensPerSecond => Sessions / Math.Max(MemorySeconds, FlashSeconds);
    /// <summary>Nothing overlaps.</summary>
    public double LeastTokensPerSecond => Sessions / (MemorySeconds + FlashSeconds);

    public static Expectation Of(BudgetPlan plan, DeviceRates rates, int sessions)
    {
        ArgumentNullException.ThrowIfNull(plan);
        ArgumentNullException.ThrowIfNull(rates);
        BudgetNeeds needs = plan.Needs;
        double memory = needs.Resident + needs.Edge + (double)needs.Kv / plan.Options.Sessions * sessions / 2, bytes = 0, reads = 0, seconds = 0;
        foreach (LayerUnits l in needs.Layers)
        {
            int slots = plan.WindowSlots[l.Layer];
            double missed;
            if (l.Scan)
            {
                // A quarter of the window, at most 4 MiB, takes turns and hits nothing (docs/adr/0014).
                int turning = Math.Clamp(Layer.ScanBytes / (int)(l.SlotCost - BudgetNeeds.ManagedPerSlot), 1, Math.Max(1, slots / 4));
                missed = slots >= l.Units ? 0 : l.Units - (slots - turning);
                seconds += missed * l.PartBytes / rates.Sequential;
                reads += missed * l.PartBytes / ReadPlanner.DefaultMaxBytes;
                memory += (double)l.Units * l.PartBytes;
            }
            else
            {
                missed = l.Units * l.Activity.MissedWith((double)slots / l.Units, sessions);
                seconds += missed * Math.Max(1 / rates.Reads * Math.Max(1, (double)l.PartBytes / rates.UnitBytes), l.PartBytes / rates.Sequential);
                reads += missed;
                memory += l.Units * l.Activity.Needed(sessions) * l.PartBytes;
            }
            bytes += missed * l.PartBytes;
        }
        return new Expectation { Sessions = sessions, MemoryBytes = memory, FlashBytes = bytes, FlashReads = reads, MemorySeconds = memory / rates.Memory, FlashSeconds = seconds };
    }
}
