using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The bundles of a sparse layer once more, as stretches of neighbours that one long read brings (docs/adr/0033). A step that wants so much of a stretch that single reads would take the device about as long reads it whole, into slots that
/// the layers share (<see cref="Sweep"/>), and computes from there; what deserves it more than what the window holds is copied into the window on its way out. Which stretches it was is kept: the next step of as many rows is likely to want
/// them too, and they are read while the layers before compute. Conductor thread; compute threads read what lies in the slots.
/// </summary>
internal sealed unsafe class Stretches
{
    /// <summary>A layer has at least so many, so that a part of it can be read so and a part not.</summary>
    private const int Least = 16;
    /// <summary>Below this a read gains little by being long.</summary>
    internal const int LeastBytes = 64 * 1024;

    /// <summary>Of the device's time for a stretch, what single reads may take before it is read whole: that need not be copied, costs the processor one read, and can be foreseen.</summary>
    private const double Worth = 0.75;
    /// <summary>Below this share of stretches read ahead that steps used, only every so many steps try again.</summary>
    private const double UsefulFloor = 0.5;
    private const int ProbeEvery = 16;

    private readonly int _run, _stride, _part, _gap;
    /// <summary>In bytes: what a read brings, and for each read as many as cost the device as much.</summary>
    private readonly double _enough;
    private readonly bool[] _whole;
    /// <summary>By slot: units of the running step that have yet to be given back.</summary>
    private readonly int[] _uses;
    private int _chosen, _rows, _steps;
    private long _issued, _used;
    private double _useful = 1;

    /// <param name="region">The bundles, joined to stretches.</param>
    /// <param name="bundles">The single ones.</param>
    /// <param name="store">Of stretches; it has no slots of its own.</param>
    /// <param name="gapBytes">That cost the device as much as another read.</param>
    public Stretches(UnitRegion region, UnitRegion bundles, UnitStore store, int gapBytes)
    {
        _run = region.Stride / bundles.Stride;
        _stride = bundles.Stride;
        _part = bundles.PartBytes;
        _gap = gapBytes;
        _enough = Worth * (gapBytes + (double)region.PartBytes);
        _whole = new bool[region.Count];
        _uses = new int[store.Window.Slots];
        Store = store;
    }

    public UnitStore Store { get; }

    /// <summary>Stretches of a layer and the bytes of a slot for one; none where units are too few, make no runs of a power of two, or are too small for a long read of them to be one.</summary>
    public static (int Count, int SlotBytes) Of(Manifest manifest, int index, int alignment, LayerOptions options)
    {
        FeedForwardMode mode = Layer.ModeOf(manifest, manifest.Model, index, options.Mode);
        if (mode == FeedForwardMode.Dense || !options.Reuse) return (0, 0);
        int units = BudgetNeeds.Slots(manifest, index, alignment, mode).Units;
        (int count, int slotBytes, int bytes, _) = PackageLayout.BundleSlots(manifest, index, whole: true, alignment, Least, Numerics.NeuronBlock);
        return count == units || bytes < options.LeastStretchBytes ? (0, 0) : (count, slotBytes);
    }

    /// <summary>The geometry of them.</summary>
    public static BundleLayout Join(BundleLayout bundles) => bundles.Joined(Least, Numerics.NeuronBlock);

    public int Of(int unit) => unit / _run;

    /// <summary>The step reads this unit's stretch whole, if it does not hold the unit.</summary>
    public bool IsWhole(int unit) => _whole[unit / _run];

    /// <summary>A unit in a stretch's slot, as <see cref="UnitStore.UnitBase"/> of it.</summary>
    public byte* At(int slot, int unit) => Store.UnitBase(slot, unit / _run) + unit % _run * _stride;

    /// <summary>Decides for a step that needs these units, ascending.</summary>
    public void Choose(ReadOnlySpan<int> needed, Window window, int rows)
    {
        Observe();
        Array.Clear(_whole);
        _chosen = 0;
        _rows = rows;
        for (int k = 0; k < needed.Length;)
        {
            int stretch = needed[k] / _run, last = -1;
            double single = 0;
            for (; k < needed.Length && needed[k] / _run == stretch; k++)
            {
                if (window.Find(needed[k]) >= 0) continue;
                // Joined with its neighbour, as a read of several is.
                double joined = last < 0 ? double.MaxValue : (double)(needed[k] - last) * _stride;
                single += Math.Min(joined, _gap + _part);
                last = needed[k];
            }
            if (single < _enough) continue;
            _whole[stretch] = true;
            _chosen++;
        }
    }

    private void Observe()
    {
        long issued = Store.PrefetchIssued - _issued, used = Store.PrefetchUseful - _used;
        _issued += issued;
        _used += used;
        _steps++;
        if (issued > 0) _useful = 0.9 * _useful + 0.1 * Math.Min(1.0, (double)used / issued);
    }

    /// <summary>Another unit of the step lies in the slot.</summary>
    public void Use(int slot) => _uses[slot]++;

    /// <summary>One less; with the last the slot is free for others.</summary>
    public void GiveBack(int slot)
    {
        if (--_uses[slot] == 0) Store.Release(slot);
    }

    /// <summary>Reads ahead what the last step read, unless what comes has far fewer rows; false when there are no more slots.</summary>
    public bool ReadAhead(int rows)
    {
        if (_chosen == 0 || rows < (_rows + 1) / 2 || (_useful < UsefulFloor && _steps % ProbeEvery != 0)) return true;
        bool room = true;
        for (int s = 0; s < _whole.Length && room; s++) room = !_whole[s] || Store.Prefetch(s);
        Store.Flush();
        return room;
    }
}
