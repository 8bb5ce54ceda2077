namespace FlashOrleans.Engine;

/// <summary>What reading costs, for sizing windows: seconds of the device a read takes beside its bytes, and bytes a second. Only ratios between layers matter.</summary>
internal readonly record struct FlashCost(double SecondsPerRead, double BytesPerSecond)
{
    /// <summary>Fits what was measured on the reference device at depth 32: 4 KiB 0.32, 16 KiB 0.67, 64 KiB 0.90, 256 KiB 1.5 GB/s.</summary>
    public static readonly FlashCost Typical = new(10e-6, 1.3e9);

    public double Of(long bytes) => SecondsPerRead + bytes / BytesPerSecond;
}

/// <summary>One layer's units as the plan sees them.</summary>
internal sealed record LayerUnits(int Layer, int Units, int PartBytes, long SlotCost, int Least, bool Scan, Firing Firing);

/// <summary>
/// Windows of equal expected miss time: the smallest time t for which every layer gets the slots with which its step misses at most t, found by bisection over the numbers
/// themselves. A dense scan misses what it does not keep: its t is the missing share, so that every layer keeps the same share of itself (docs/adr/0014).
/// What the last bisection step leaves goes to the layers in their order. More memory never makes a window smaller: slots are a prefix of one fixed order of all slots. Pure.
/// </summary>
internal static class WindowPlan
{
    public static int[] Solve(IReadOnlyList<LayerUnits> layers, long bytes, int tokens)
    {
        double scan = layers.Where(static l => l.Scan).Select(static l => l.Units * (double)l.PartBytes).DefaultIfEmpty(0).Average() / FlashCost.Typical.BytesPerSecond;
        int[] At(double time) => [.. layers.Select(l => SlotsFor(l, time, tokens, scan))];
        long Cost(int[] slots) => slots.Select((s, i) => s * layers[i].SlotCost).Sum();
        int[] all = At(0);
        if (Cost(all) <= bytes) return all;
        // Positive doubles in the order of their bits: bisected until two neighbours stand on both sides.
        long infeasible = 0, feasible = BitConverter.DoubleToInt64Bits(1e9);
        int[] best = At(1e9), beyond = all;
        while (feasible - infeasible > 1)
        {
            long middle = infeasible + (feasible - infeasible) / 2;
            int[] slots = At(BitConverter.Int64BitsToDouble(middle));
            if (Cost(slots) <= bytes) (feasible, best) = (middle, slots);
            else (infeasible, beyond) = (middle, slots);
        }
        long left = bytes - Cost(best);
        for (int i = 0; i < best.Length; i++)
        {
            while (best[i] < beyond[i])
            {
                if (left < layers[i].SlotCost) return best;
                left -= layers[i].SlotCost;
                best[i]++;
            }
        }
        return best;
    }

    private static int SlotsFor(LayerUnits l, double time, int tokens, double scan)
    {
        double share = l.Scan ? 1 - Math.Min(1, time / scan) : l.Firing.WindowFor(time / (l.Units * FlashCost.Typical.Of(l.PartBytes)), tokens);
        return Math.Clamp((int)Math.Ceiling(share * l.Units), l.Least, l.Units);
    }
}
