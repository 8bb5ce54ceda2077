using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The layers of one package in one host whose steps read more than they keep in long reads, and the slots that it passes through (docs/adr/0014): scans need every unit, sparse layers now and then whole stretches (<see cref="Stretches"/>).
/// A layer that has asked for all of its own units reads on into the next one's, round and round, as far as there are slots: the device works while attention computes and while a wave is between two layers.
/// Made by the loader thread; then conductor thread.
/// </summary>
internal sealed unsafe class Sweep : IDisposable
{
    /// <summary>Long reads for some milliseconds of the device, more than a layer computes; more earns nothing.</summary>
    private const int MostBytes = 64 << 20;
    /// <summary>Of all units of the layers that scan, about a layer's worth.</summary>
    private const int Share = 32;
    /// <summary>Of all units of sparse layers, and of what their windows hold, which have more use for it, the least of both.</summary>
    private const double SparseShare = 1.0 / 64, OfWindows = 1.0 / 16;
    public const int Fewest = 4;

    private readonly IFlashReader _reader;
    /// <summary>In the order of the model.</summary>
    private readonly List<Layer> _layers = [];

    public Sweep(Layer first, IFlashReader reader, MemoryLedger ledger)
    {
        (int slots, int slotBytes) = SlotsOf(first.Package.Manifest, first.Package.DeviceAlignment, first.Options, first.Options.Window);
        slots = first.Options.Plan?.SweepSlots ?? slots;
        _reader = reader;
        Slots = new SlotPool(slots, slotBytes, ledger, first.Package.Name + "/sweep");
        _reader.Lend(Slots.Buffer.Pointer, Slots.Buffer.Length);
    }

    public SlotPool Slots { get; }
    public int Users { get; set; }

    /// <summary>Slots that the layers of a model take turns in where windows hold this share of all units, and the bytes of each; none where nothing is read in long reads. A pure function of its arguments.</summary>
    public static (int Slots, int SlotBytes) SlotsOf(Manifest manifest, int alignment, LayerOptions options, double window)
    {
        int slotBytes = 0;
        long bytes = 0;
        for (int i = 0; i < manifest.Model.Layers; i++)
        {
            bool scans = Scans(manifest.Model, i, Layer.ModeOf(manifest, manifest.Model, i, options.Mode));
            (int units, int slot) = scans ? OfScan(manifest, i, alignment) : Stretches.Of(manifest, i, alignment, options);
            slotBytes = Math.Max(slotBytes, slot);
            bytes += scans ? (long)units * slot / Share : (long)(units * (double)slot * Math.Min(SparseShare, window * OfWindows));
        }
        return slotBytes == 0 ? (0, 0) : ((int)Math.Clamp(bytes / slotBytes, Fewest, Math.Max(Fewest, MostBytes / slotBytes)), slotBytes);
    }

    /// <summary>Of so many slots at most, what a plan with so much room for windows gives to sparse layers.</summary>
    public static int SlotsWithin(int most, long slotCost, long room) => (int)Math.Clamp(room * OfWindows / slotCost, Math.Min(Fewest, most), most);

    private static (int Units, int SlotBytes) OfScan(Manifest manifest, int index, int alignment)
    {
        (int units, int slot, _, _) = BudgetNeeds.Slots(manifest, index, alignment, FeedForwardMode.Dense);
        return (units, slot);
    }

    /// <summary>A step of such a layer needs every unit.</summary>
    public static bool Scans(ModelConfig model, int layer, FeedForwardMode mode) => mode == FeedForwardMode.Dense && model.ExpertsOf(layer) == null;

    /// <summary>The layer is ready.</summary>
    public void Add(Layer layer)
    {
        _layers.Add(layer);
        _layers.Sort(static (a, b) => a.Index.CompareTo(b.Index));
    }

    public void Remove(Layer layer) => _layers.Remove(layer);

    /// <summary>Reads on from a layer that has all it needs under way, for steps of so many rows. Not while a step waits for a slot: guesses take none from it.</summary>
    public void ReadAhead(Layer from, int rows)
    {
        foreach (var layer in _layers)
            if (layer.Running is { WantsSlot: true }) return;
        int at = _layers.IndexOf(from);
        for (int i = 1; i <= _layers.Count; i++)
        {
            Layer next = _layers[(at + i) % _layers.Count];
            if (!next.Closing && !(next.Stretches?.ReadAhead(rows) ?? next.Bundles!.ReadAhead())) return;
        }
    }

    public void Dispose()
    {
        _reader.Withdraw(Slots.Buffer.Pointer);
        Slots.Dispose();
    }
}
