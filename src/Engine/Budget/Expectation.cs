using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Expected speed of decoding under a plan: one step of n sessions takes the longest of what it reads from memory (resident weights once, the units it needs, keys and values of half the promised
/// context), of what it multiplies, and of what it reads from flash (<see cref="Firing"/>: an upper estimate of misses). They overlap only in part, and look-ahead decides how far flash does, so this
/// is what may be reached, not what will be. Where a step was tried (<see cref="StepTrial"/>) there is one figure beside the two. Pure.
/// </summary>
public sealed record Expectation
{
    public required int Sessions { get; init; }
    public required StepNeeds Needs { get; init; }
    public required Roofline Times { get; init; }
    public double TokensPerSecond => Sessions / Times.Seconds;
    /// <summary>Nothing overlaps.</summary>
    public double LeastTokensPerSecond => Sessions / (Times.MemorySeconds + Times.ComputeSeconds + Times.FlashSeconds);

    /// <summary>By a step that was tried; null: none was.</summary>
    public double? ExpectedTokensPerSecond { get; private init; }

    public static Expectation Of(BudgetPlan plan, DeviceRates rates, int sessions, StepTrial? trial = null)
    {
        ArgumentNullException.ThrowIfNull(plan);
        ArgumentNullException.ThrowIfNull(rates);
        BudgetNeeds needs = plan.Needs;
        double bytes = 0, reads = 0, seconds = 0, scanned = 0;
        LayerWork[] work = new LayerWork[needs.Shape.Layers.Count];
        foreach (LayerUnits l in needs.Layers)
        {
            int slots = plan.WindowSlots[l.Layer];
            double missed, unitsPerRead = 1, needed = l.Units;
            if (l.Scan)
            {
                missed = l.Units - slots;
                unitsPerRead = Math.Max(1, ReadPlanner.DefaultMaxBytes / l.PartBytes);
            }
            else
            {
                missed = l.Units * l.Firing.MissedWith((double)slots / l.Units, sessions);
                needed = l.Units * l.Firing.Needed(sessions);
            }
            double unitBytes = l.PartBytes, time = missed / unitsPerRead * ReadCost.Of(rates.Reads, unitsPerRead * unitBytes);
            if (!l.Scan && plan.SweepSlots > 0 && Swept(plan, l, slots, rates) is var swept && swept.Seconds < time) (missed, unitsPerRead, unitBytes, time) = swept;
            bytes += missed * unitBytes;
            reads += missed / unitsPerRead;
            seconds += time;
            if (l.Scan) scanned += time;
            work[l.Layer] = new LayerWork(1, sessions, sessions, needed, sessions * (l.Scan ? 1 : l.Firing.Density) * plan.Manifest.Model.NeuronsOf(l.Layer));
        }
        bool last = needs.Layers.Any(l => l.Layer == work.Length - 1);
        StepNeeds all = needs.Shape.Needs(work, last ? sessions : 0, plan.Context / 2.0, bytes, reads);
        // The mean of all reads is no size that any of them has.
        var expected = new Expectation { Sessions = sessions, Needs = all, Times = Roofline.Of(all, rates) with { FlashSeconds = seconds } };
        if (trial == null) return expected;
        // What was tried reads what its layers miss; of layers that read everything it has none.
        return expected with { ExpectedTokensPerSecond = sessions / (trial.Seconds(plan.Manifest.Model) + scanned) };
    }

    /// <summary>All of a sparse layer that its window does not hold in long reads (<see cref="Stretches"/>), or all of it where what the window holds lies anywhere: units, units a read, bytes of one, the device's time.</summary>
    private static (double Units, double EachRead, double Bytes, double Seconds) Swept(BudgetPlan plan, LayerUnits l, int slots, DeviceRates rates)
    {
        int bytes = PackageLayout.BundleSlots(plan.Manifest, l.Layer, whole: true, PackageLayout.Page).PartBytes;
        bool ordered = plan.Manifest.Permutation == PackageLayout.Popularity || plan.Manifest.Activity?.Ordered > 0;
        double units = ordered ? l.Units - slots : l.Units, each = Math.Max(1, ReadPlanner.DefaultMaxBytes / bytes);
        return (units, each, bytes, units / each * ReadCost.Of(rates.Reads, each * bytes));
    }
}
