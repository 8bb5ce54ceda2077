using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The layers of one package in one host whose steps need every unit, and the slots that what they do not keep passes through (docs/adr/0014). A layer that has asked for all of its own units reads on into
/// the next one's, round and round, as far as there are slots: the device works while attention computes and while a wave is between two layers. Made by the loader thread; then conductor thread.
/// </summary>
internal sealed unsafe class Sweep : IDisposable
{
    /// <summary>Long reads for some milliseconds of the device, more than a layer computes; more earns nothing.</summary>
    private const int MostBytes = 64 << 20;
    /// <summary>Of all units of the layers that scan, about a layer's worth.</summary>
    private const int Share = 32;

    private readonly IFlashReader _reader;
    /// <summary>In the order of the model.</summary>
    private readonly List<Layer> _layers = [];

    public Sweep(Layer first, IFlashReader reader, MemoryLedger ledger)
    {
        (int slots, int slotBytes) = SlotsOf(first.Package.Manifest, first.Package.DeviceAlignment, first.Options.Mode);
        _reader = reader;
        Slots = new SlotPool(slots, slotBytes, ledger, first.Package.Name + "/sweep");
        _reader.Lend(Slots.Buffer.Pointer, Slots.Buffer.Length);
    }

    public SlotPool Slots { get; }
    public int Users { get; set; }

    /// <summary>Slots that the layers of a model take turns in, and the bytes of each; none where no layer scans. A pure function of its arguments.</summary>
    public static (int Slots, int SlotBytes) SlotsOf(Manifest manifest, int alignment, FeedForwardMode mode)
    {
        int slotBytes = 0;
        long bytes = 0;
        for (int i = 0; i < manifest.Model.Layers; i++)
        {
            if (!Scans(manifest.Model, i, Layer.ModeOf(manifest, manifest.Model, i, mode))) continue;
            (int units, int slot, _, _) = BudgetNeeds.Slots(manifest, i, alignment, FeedForwardMode.Dense);
            slotBytes = Math.Max(slotBytes, slot);
            bytes += (long)units * slot;
        }
        return slotBytes == 0 ? (0, 0) : ((int)Math.Clamp(bytes / Share / slotBytes, 4, Math.Max(4, MostBytes / slotBytes)), slotBytes);
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

    /// <summary>Reads on from a layer that has all it needs under way. Not while a step waits for a slot: guesses take none from it.</summary>
    public void ReadAhead(Layer from)
    {
        foreach (var layer in _layers)
            if (layer.Running is { WantsSlot: true }) return;
        int at = _layers.IndexOf(from);
        for (int i = 1; i <= _layers.Count; i++)
        {
            Layer next = _layers[(at + i) % _layers.Count];
            if (!next.Closing && !next.Bundles!.ReadAhead()) return;
        }
    }

    public void Dispose()
    {
        _reader.Withdraw(Slots.Buffer.Pointer);
        Slots.Dispose();
    }
}
