using System.Text.Json.Serialization;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Which neurons of a feed-forward are computed. Auto: exact for ReLU, else dense. Predicted, those that a trained predictor chooses, is never the default: it changes results.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<FeedForwardMode>))]
public enum FeedForwardMode { Auto, Dense, Exact, Predicted }

/// <summary>How keys and values are kept. Auto: f32 for f32 packages, else f16. Q8: int8 with a scale for each head's row, about half of f16; never the default: it changes results.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<KvType>))]
public enum KvType { Auto, F32, F16, Q8 }

/// <summary>What one engine (one silo) runs with.</summary>
public sealed record EngineOptions
{
    /// <summary>Compute threads, the conductor among them.</summary>
    public int Threads { get; init; } = Environment.ProcessorCount;
    /// <summary>auto, scalar, avx2, avx512. Overridden by FLASH_KERNELS where auto.</summary>
    public string Kernels { get; init; } = "auto";
    /// <summary>Threads that wait for the device: the read depth.</summary>
    public int IoThreads { get; init; } = 16;
    /// <summary>Bytes between two needed units that are read, and thrown away, rather than begun a second read for; null: <see cref="ReadPlanner.DefaultGapBytes"/>. What a device says: <see cref="DeviceProbe.Gaps"/>.</summary>
    public int? GapBytes { get; init; }
    /// <summary>Rows a merged wave may have.</summary>
    public int MaxWaveRows { get; init; } = 128;
    /// <summary>KV a layer may hold before least recently used sessions are dropped (they replay).</summary>
    public long KvLimitPerLayer { get; init; } = 256L << 20;
    /// <summary>Of that, KV that no session holds any more and that waits for one which begins the same way. With a budget all that sessions leave free is used so.</summary>
    public long KvCachedPerLayer { get; init; } = 32L << 20;
    /// <summary>Where keys and values are saved; null: nowhere.</summary>
    public KvDiskOptions? KvDisk { get; init; }
    /// <summary>A hard limit for all memory of the process; null: windows are a share (<see cref="LayerOptions.Window"/>), keys and values grow up to the limit above.</summary>
    public BudgetOptions? Budget { get; init; }
    /// <summary>A small model of the same vocabulary that guesses for the others: wholly in memory, and first in a budget. Null: none.</summary>
    public DraftModel? Draft { get; init; }
    /// <summary>Told when layers compute, wait and send; null: nobody is.</summary>
    public StepTrace? Trace { get; init; }
    /// <summary>False: the rows of a neuron are read one by one, to measure what bundles are worth.</summary>
    public bool Bundled { get; init; } = true;
    /// <summary>Multiply-adds up to which a job stays on the conductor: waking the other threads would cost more than they save. 0: always all threads.</summary>
    internal long ParallelWork { get; init; } = 4_000_000;
    /// <summary>Bytes of units summed at a time while others are on their way or decode waits: between such turns the conductor takes in what has arrived, asks for more, or lets decode pass.</summary>
    internal int TurnBytes { get; init; } = 4 << 20;
    /// <summary>Scratch for block sums that wait for their turn; there is always room for two blocks.</summary>
    internal long PartialBytes { get; init; } = Numerics.PartialBytes;
}

/// <summary>The model that drafts: where its package is, and what it says of itself.</summary>
public sealed record DraftModel(string Path, FlashOrleans.Flash.Manifest Manifest)
{
    /// <summary>Reads the manifest; a <see cref="FlashOrleans.Flash.FlashException"/> when there is none.</summary>
    public static DraftModel At(string path) => new(path, FlashOrleans.Flash.FlashPackage.ReadManifest(path));

    public bool Is(string hash) => Manifest.Hash == hash;

    /// <summary>Its layers read nothing while they compute: every neuron stays where the first steps brought it. Lean bundles cannot be computed densely.</summary>
    public static LayerOptions Resident(FlashOrleans.Flash.Manifest manifest, LayerOptions layer) => layer with { Mode = manifest.Lean ? FeedForwardMode.Exact : FeedForwardMode.Dense, Window = 1, Prefetch = false, Reuse = true };
}

/// <summary>What one layer runs with.</summary>
public sealed record LayerOptions
{
    public FeedForwardMode Mode { get; init; } = FeedForwardMode.Auto;
    /// <summary>Share of the layer's bundles that the window holds, 0..1; with a budget the plan says how many.</summary>
    public double Window { get; init; } = 0.25;
    public bool Prefetch { get; init; } = true;
    /// <summary>False: windows so small that nothing of a step is left for the next, to measure what they are worth.</summary>
    public bool Reuse { get; init; } = true;
    public KvType Kv { get; init; } = KvType.Auto;
    /// <summary>Set where there is a budget, when the layer is attached.</summary>
    internal BudgetPlan? Plan { get; init; }
    /// <summary>Shorter stretches of neighbours are not read whole (<see cref="Stretches"/>).</summary>
    internal int LeastStretchBytes { get; init; } = Stretches.LeastBytes;
    /// <summary>Another activation than the package names, in dense mode: to measure which one the model was trained with.</summary>
    internal Activation? Activation { get; init; }
    /// <summary>Count neurons whose value is exactly zero among those that are computed.</summary>
    internal bool CountZeros { get; init; }
}
