using System.Numerics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What a model needs whatever the size of its windows: the terms of <see cref="BudgetPlan"/>. Native sizes follow from the code that allocates, by the same functions; process and
/// managed heap are measured figures (docs/adr/0015). Pure.
/// </summary>
internal sealed record BudgetNeeds
{
    /// <summary>Managed bytes a window slot costs: maps, pins, links, score.</summary>
    public const int ManagedPerSlot = 40;
    public const long LeastMargin = 12 << 20;
    private const long MiB = 1 << 20;
    /// <summary>Managed bytes a unit costs whether it is in the window or not: two checksums, map, history, mark.</summary>
    private const int ManagedPerUnit = 30;
    /// <summary>A read of up to 64 units: its four lists.</summary>
    private const int ManagedPerRequest = 1400;
    /// <summary>What the kernel keeps of memory that is lent to the ring, of its size: 16 bytes a page.</summary>
    private const int PinnedShare = 256;
    /// <summary>Window that lets reads run side by side at all.</summary>
    public const int LeastWindowBytes = 256 * 1024;

    public required IReadOnlyList<LayerUnits> Layers { get; init; }
    public required long Resident { get; init; }
    public required long Edge { get; init; }
    public required long Rope { get; init; }
    public required long Kv { get; init; }
    public required KvType KvType { get; init; }
    public required int KvBlocks { get; init; }
    public required int Context { get; init; }
    public required long Buffers { get; init; }
    public required int Steps { get; init; }
    public required int Rows { get; init; }
    public required long Process { get; init; }
    /// <summary>Managed heap without what window slots cost.</summary>
    public required long Heap { get; init; }
    public required long Streamed { get; init; }
    /// <summary>Native memory of the model that drafts.</summary>
    public long Draft { get; init; }
    /// <summary>What a step costs beside flash.</summary>
    public required StepShape Shape { get; init; }

    /// <summary>Slots that scans and stretches take turns in (<see cref="Engine.Sweep"/>) at most, unless all units stay; bytes of one; layers that use them.</summary>
    public required (int Most, int SlotBytes, int Layers) Sweep { get; init; }
    private bool Scans => Layers.Any(static l => l.Scan);

    public long AllWindows => Layers.Sum(static l => l.Units * l.SlotCost);
    public long LeastWindows => Layers.Sum(static l => l.Least * l.SlotCost);
    /// <summary>Everything but windows, the slots for turns and the margin.</summary>
    public long Fixed => Resident + Edge + Rope + Kv + Buffers + Draft + Process + Heap;
    /// <summary>Everything but the margin, with the smallest windows.</summary>
    public long Bytes => Fixed + Math.Min(LeastWindows + SweepBytes(SweepSlots(0)), AllWindows);

    /// <summary>Slots of which so much room for windows is left: scans want all of them, stretches a part of what windows have.</summary>
    public int SweepSlots(long room) => Scans || Sweep.Most == 0 ? Sweep.Most : Engine.Sweep.SlotsWithin(Sweep.Most, Sweep.SlotBytes, room);

    /// <summary>The slots, what lending them costs, and what each layer that uses them keeps of every one of them.</summary>
    public long SweepBytes(int slots) => slots == 0 ? 0 : NativeBuffer.Footprint((long)slots * Sweep.SlotBytes) + slots * (Sweep.SlotBytes / PinnedShare + (long)Sweep.Layers * ManagedPerSlot);

    public static BudgetNeeds Of(Manifest manifest, int alignment, EngineOptions engine, LayerOptions layer, BudgetOptions options)
    {
        ModelConfig c = manifest.Model;
        int[] here = [.. Enumerable.Range(0, c.Layers).Where(i => options.Layers?.Invoke(i) != false)];
        bool first = here.Contains(0), last = here.Contains(c.Layers - 1);
        int rows = options.WaveRows(engine.MaxWaveRows), steps = Math.Min(options.Steps, Math.Max(1, here.Length));
        int context = Math.Min(options.Context, c.MaxPositions);
        long blocks = (long)options.Sessions * ((context + KvCache.BlockPositions - 1) / KvCache.BlockPositions);
        KvType kv = KvCache.TypeOf(layer.Kv, manifest.Weights.Most);
        var units = here.Select(i => UnitsOf(manifest, i, alignment, layer)).ToArray();
        long arena = NativeBuffer.Footprint(StepLayout.For(manifest, rows, engine.Threads, engine.PartialBytes).Bytes);
        long embedding = 0;
        if (first && !(c.TiedHead && last))
        {
            (int count, int slot) = PackageLayout.EmbeddingSlots(manifest, alignment);
            embedding = NativeBuffer.Footprint((long)Math.Min(count, rows) * slot);
        }
        long logits = last ? NativeBuffer.Footprint((long)HeadScratch.Tile * c.VocabSize * sizeof(float)) : 0;
        return new BudgetNeeds
        {
            Layers = units,
            Resident = here.Sum(i => LayerBytes(manifest, i, layer)),
            Edge = EdgeBytes(manifest, first, last),
            Rope = RopeBytes(c, here, (int)Math.Min(c.MaxPositions, blocks * KvCache.BlockPositions)),
            Kv = here.Length * (NativeBuffer.Footprint(blocks * KvCache.BlockBytes(c, kv)) + NativeBuffer.Footprint(Math.Max(blocks, 16) * KvTable.BytesPerBlock)) + KvDiskBytes(engine, c, kv, here.Length),
            KvType = kv,
            KvBlocks = (int)Math.Min(blocks, int.MaxValue / KvCache.BlockPositions),
            Context = context,
            Buffers = steps * arena + embedding + logits + NativeBuffer.Footprint(FlashReader.BufferBytes(engine.IoThreads)) + NativeBuffer.Footprint(PackageLayout.LoadScratchBytes(manifest)),
            Sweep = SweepOf(manifest, alignment, layer, here.Count(i => Engine.Sweep.Scans(c, i, Layer.ModeOf(manifest, c, i, layer.Mode)) || Stretches.Of(manifest, i, alignment, layer).Count > 0)),
            Steps = steps,
            Rows = rows,
            Process = ProcessBytes(options.Host, engine),
            Heap = HeapBytes(manifest, options, units, first, last, rows, steps),
            Streamed = units.Sum(static u => (long)u.Units * u.PartBytes),
            Shape = StepShape.Of(manifest, layer),
        };
    }

    /// <summary>
    /// Resident memory of a running `flash bench` less native buffers less the managed heap: 54 to 60 MB on the engine alone and 102 to 119 MB with Orleans (x64, .NET 10, RSS, code of the
    /// runtime in the page cache included); a silo that had answered six requests over HTTP held 18 and 19 MB more than one asked by a .NET client, 4 and 5 of it managed.
    /// What keeps sessions is charged 6 MiB of either: 3.4 MB are mapped code and index of SQLite and its binding (smaps after 13 answers), the rest is for two page caches of 256 KiB, statements and their code. Threads are charged what
    /// their stacks really touch.
    /// </summary>
    private static long ProcessBytes(BudgetHost host, EngineOptions engine) =>
        host switch { BudgetHost.Engine => 58, BudgetHost.Grains => 116, _ => 132 } * MiB + (engine.Threads + engine.IoThreads) * 32L * 1024;

    /// <summary>Managed heap of a process without a model.</summary>
    public static long HeapOf(BudgetHost host) => host switch { BudgetHost.Engine => 10, BudgetHost.Grains => 34, _ => 40 } * MiB;

    private static long HeapBytes(Manifest manifest, BudgetOptions options, LayerUnits[] units, bool first, bool last, int rows, int steps)
    {
        ModelConfig c = manifest.Model;
        long heap = HeapOf(options.Host);
        heap += units.Sum(static u => (long)u.Units) * ManagedPerUnit;
        int widest = units.Length == 0 ? 0 : units.Max(static u => u.Units);
        // A step's lists by unit; its rows, grown by doubling; and what a layer's checksums look like while they are read.
        heap += steps * (34L * widest + 8L * rows * c.HiddenSize) + 16L * widest;
        if (first && !(c.TiedHead && last)) heap += PackageLayout.EmbeddingSlots(manifest, PackageLayout.Page).Units * 28L;
        if (last) heap += 8L * c.VocabSize;
        // Reads under way: of every step that runs, and of reads ahead.
        heap += (steps + 1) * (long)UnitStore.MostRequests * ManagedPerRequest;
        // Waves in flight and the pool's spares, in powers of two.
        heap += (options.Sessions + 2L) * (long)BitOperations.RoundUpToPowerOf2((ulong)Math.Min(rows, 64) * (ulong)c.HiddenSize * 4 + 4096);
        // A tokenizer in memory is several times its file: maps of pieces, of merges, and the text they were read from.
        heap += 6 * manifest.SideFiles.Sum(static f => f.Bytes);
        return heap;
    }

    private static LayerUnits UnitsOf(Manifest manifest, int index, int alignment, LayerOptions options)
    {
        ModelConfig c = manifest.Model;
        FeedForwardMode mode = Layer.ModeOf(manifest, c, index, options.Mode);
        ExpertConfig? experts = c.ExpertsOf(index);
        bool scans = Engine.Sweep.Scans(c, index, mode);
        (int units, int slot, int part, int group) = Slots(manifest, index, alignment, mode);
        // Predicted sets are larger than true ones (docs/adr/0012).
        double density = Density(manifest, index) * (mode != FeedForwardMode.Predicted ? 1 : manifest.Activity?.Predicted ?? manifest.Predictors?.Layers[index].Taken ?? 1.5);
        var firing = experts is { ByNeuron: false } ? Firing.Experts((double)experts.Active / experts.Count) : Firing.Neurons(density, group, manifest.Activity?.Popularity ?? Firing.Popularity);
        int least = scans ? 0 : Math.Clamp(LeastWindowBytes / slot, 2, Math.Max(2, units));
        return new LayerUnits(index, units, part, slot + slot / PinnedShare + ManagedPerSlot, Math.Min(least, units), scans, firing);
    }

    private static (int, int, int) SweepOf(Manifest manifest, int alignment, LayerOptions options, int layers)
    {
        if (layers == 0) return default;
        (int most, int slotBytes) = Engine.Sweep.SlotsOf(manifest, alignment, options, window: 1);
        return (most, slotBytes, layers);
    }

    /// <summary>Units of a layer in a mode, bytes of a slot and of a read.</summary>
    public static (int Units, int SlotBytes, int PartBytes, int Group) Slots(Manifest manifest, int index, int alignment, FeedForwardMode mode) => PackageLayout.BundleSlots(
        manifest, index, whole: mode != FeedForwardMode.Exact, alignment, mode == FeedForwardMode.Dense && manifest.Model.ExpertsOf(index) == null ? Layer.ScanLeast : 0, Numerics.NeuronBlock);

    /// <summary>Share of neurons that are not zero, as it is drawn or as the import measured it; where it did not 5 %, of chosen experts half.</summary>
    public static double Density(Manifest manifest, int layer) => manifest.Activity is { } drawn ? drawn.Density[layer] : manifest.Measured is { } m && m.Zeros[layer] < 1 ? 1 - m.Zeros[layer]
        : manifest.Model.ExpertsOf(layer) is { } e ? 0.5 * e.Active / e.Count : 0.05;

    private static long KvDiskBytes(EngineOptions engine, ModelConfig c, KvType kv, int layers) => engine.KvDisk is not { Bytes: > 0 } disk ? 0
        : NativeBuffer.Footprint(KvDisk.MemoryFor((int)KvCache.BlockBytes(c, kv))) + layers * NativeBuffer.Footprint(KvDisk.IndexFor(disk, c.Layers, (int)KvCache.BlockBytes(c, kv)));

    private static long LayerBytes(Manifest manifest, int index, LayerOptions options)
    {
        var sections = PackageLayout.Sections(manifest, index);
        return ResidentSections(manifest, index, options).Sum(s => NativeBuffer.Footprint(s.Bytes) + ZeroBias(manifest.Model, sections, s));
    }

    /// <summary>What of a slice a layer with these options keeps in memory.</summary>
    public static IEnumerable<Section> ResidentSections(Manifest manifest, int index, LayerOptions options)
    {
        FeedForwardMode mode = Layer.ModeOf(manifest, manifest.Model, index, options.Mode);
        foreach (Section s in PackageLayout.Sections(manifest, index))
        {
            if (!s.IsResident) continue;
            if (s.Name == "ffn.selector" && mode != FeedForwardMode.Exact) continue;
            // In `exact` it looks ahead where nothing was trained to.
            bool looks = mode == FeedForwardMode.Exact && options.Prefetch && index > 0 && manifest.Predictors is { GuessesActivation: false } trained && trained.LookaheadOf(index) == null;
            if (s.Name.StartsWith(PackageLayout.Predictor + ".", StringComparison.Ordinal) && mode != FeedForwardMode.Predicted && !looks) continue;
            if (s.Name.StartsWith(PackageLayout.Lookahead + ".", StringComparison.Ordinal) && (mode == FeedForwardMode.Dense || !options.Prefetch)) continue;
            yield return s;
        }
    }

    private static long EdgeBytes(Manifest manifest, bool first, bool last)
    {
        long bytes = 0;
        var sections = PackageLayout.Sections(manifest, -1);
        foreach (Section s in sections)
        {
            if (!s.IsResident) continue;
            bool mine = s.Name switch
            {
                "project_in" or "positions" => first,
                "embed" => last && manifest.Model.TiedHead,
                _ => last,
            };
            if (mine) bytes += NativeBuffer.Footprint(s.Bytes) + ZeroBias(manifest.Model, sections, s);
        }
        return bytes;
    }

    /// <summary>LayerNorm without a bias gets one of zeros.</summary>
    private static long ZeroBias(ModelConfig c, IReadOnlyList<Section> sections, Section s) =>
        c.Norm == NormKind.Layer && s.Name.EndsWith("norm.weight", StringComparison.Ordinal) && !sections.Any(o => o.Name == s.Name.Replace(".weight", ".bias", StringComparison.Ordinal))
            ? NativeBuffer.Footprint(s.Bytes) : 0;

    private static long RopeBytes(ModelConfig c, int[] here, int positions)
    {
        if (c.RopeByLength) return 0;
        int tables = here.Select(c.RopeOf).Where(static r => r != null).Select(r => ReferenceEquals(r, c.SlidingRope)).Distinct().Count();
        return tables * RopeTable.BytesFor(positions, c.HeadDim);
    }
}
