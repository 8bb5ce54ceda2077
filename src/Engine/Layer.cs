using System.Collections.Concurrent;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Looks at a row of logits. Conductor thread; the span is only valid during the call.</summary>
internal delegate void LogitsWatch(int position, ReadOnlySpan<float> logits);

/// <summary>Looks at the rows of a step. Conductor thread; the memory is only valid during the call.</summary>
internal delegate void FeedForwardWatch(FeedForwardRows rows);

/// <summary>A step's rows at its feed-forward: the layer's input, the stream that enters the feed-forward, that as its own rows see it (normalised), and what neurons are chosen by: in `exact` pre-activations.</summary>
internal readonly unsafe struct FeedForwardRows(float* entering, float* stream, float* input, float* values, int rows, int width, int neurons)
{
    public int Count => rows;
    public ReadOnlySpan<float> Entering => new(entering, rows * width);
    public ReadOnlySpan<float> Stream => new(stream, rows * width);
    public ReadOnlySpan<float> Input => new(input, rows * width);
    public ReadOnlySpan<float> Values => new(values, rows * neurons);
}

/// <summary>
/// One attached layer: its resident weights, its window over the flash slice, its KV and its inbox. Created by <see cref="Conductor.Attach"/>; the loader
/// thread fills it once; from then on the conductor thread alone touches the insides. The public face is a handle any thread may hold: identity, readiness,
/// counters. A layer whose load failed answers every wave with a fault.
/// </summary>
public sealed class Layer
{
    private readonly TaskCompletionSource _loaded = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _lastUseful;
    private long _lastIssued;

    internal Layer(FlashPackage package, int index, LayerOptions options, ILayerRouter router)
    {
        Package = package;
        Index = index;
        Options = options;
        Router = router;
        Pending = new Pending(package, index, package.Config.Layers);
        Prefill = new WaveQueue(fair: index == 0);
        Config = options.Activation is { } activation ? package.Config with { Activation = activation } : package.Config;
        Mode = ModeOf(package.Manifest, Config, index, options.Mode);
        Experts = Config.ExpertsOf(index);
        Neurons = Config.NeuronsOf(index);
        ByExpert = Experts is { ByNeuron: false };
        BlockNeurons = ByExpert ? Experts!.Size : Numerics.NeuronBlock;
        Window = Config.WindowOf(index);
        RopeByLength = Config.RopeByLength;
        // Nobody may await it: a failed load is also reported to every wave.
        _ = _loaded.Task.ContinueWith(static t => t.Exception, CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted, TaskScheduler.Default);
    }

    public int Index { get; }
    public FlashPackage Package { get; }
    public LayerOptions Options { get; }
    public bool IsFirst => Index == 0;
    public bool IsLast => Index == Config.Layers - 1;
    /// <summary>What it does, never <see cref="FeedForwardMode.Auto"/>.</summary>
    public FeedForwardMode Mode { get; }

    /// <summary>What a layer does when it is asked for this mode; a mode that the model has nothing for is a <see cref="FlashException"/>.</summary>
    internal static FeedForwardMode ModeOf(Manifest manifest, ModelConfig config, int index, FeedForwardMode mode)
    {
        string? unfit = config.Experts is { ByNeuron: false } ? "has experts" : config.IsSparse ? null : $"uses {config.Activation}";
        return mode switch
        {
            FeedForwardMode.Dense or FeedForwardMode.Auto when manifest.Lean && (mode == FeedForwardMode.Dense || !config.HasSelector(index)) =>
                throw new FlashException($"mode dense reads every row of a neuron; the bundles of {manifest.Name} are lean: take --mode exact, or import it again with --bundles whole"),
            FeedForwardMode.Dense => FeedForwardMode.Dense,
            FeedForwardMode.Exact or FeedForwardMode.Predicted when unfit != null =>
                throw new FlashException($"mode {mode.ToString().ToLowerInvariant()} needs a ReLU model; {manifest.Name} {unfit}: take --mode dense"),
            FeedForwardMode.Predicted when config.Experts != null => throw new FlashException($"mode predicted is of models without experts; {manifest.Name} has some: take --mode exact"),
            FeedForwardMode.Predicted when manifest.Predictors == null =>
                throw new FlashException($"mode predicted needs predictors; {manifest.Name} has none: import it again with --predictors DIR (trained ones) or --predictors sketch4, or take --mode exact"),
            FeedForwardMode.Predicted => FeedForwardMode.Predicted,
            _ => config.HasSelector(index) ? FeedForwardMode.Exact : FeedForwardMode.Dense,
        };
    }

    internal bool Exact => Mode == FeedForwardMode.Exact;
    /// <summary>Only neurons with a value above <see cref="Cut"/> are read and computed: their pre-activation in `exact`, their score in `predicted`.</summary>
    internal bool Sparse => Mode != FeedForwardMode.Dense;
    /// <summary>Its steps need a part of its units, which look-ahead may foresee.</summary>
    internal bool Chooses => Sparse || Experts != null;
    internal float Cut { get; private set; }
    /// <summary>Random weights: what says which neurons are active; null: the weights do.</summary>
    internal ActivityModel? Activity { get; private set; }
    /// <summary>Random weights: what says which experts a token uses; null: the router does.</summary>
    internal RoutingModel? Routing { get; private set; }
    /// <summary>Completes when the resident part is in memory; faults with <see cref="FlashException"/>.</summary>
    public Task Loaded => _loaded.Task;
    public PrefetchPolicy Policy { get; } = new();

    /// <summary>True: every step needs every unit, a cyclic scan.</summary>
    internal bool Scans => Sweep.Scans(Config, Index, Mode);

    /// <summary>It does not keep all of its units and reads the others, or stretches of them, in long reads: they take turns in the slots of <see cref="Sweep"/>.</summary>
    internal bool Sweeps => Kept < Units && (Scans || Stretches.Of(Package.Manifest, Index, Package.DeviceAlignment, Options).Count > 0);

    /// <summary>Units of the slice, and how many of them may be in memory for good.</summary>
    private int Units => BudgetNeeds.Slots(Package.Manifest, Index, Package.DeviceAlignment, Mode).Units;
    private int Kept => !Options.Reuse ? 0 : Options.Plan?.WindowSlots[Index] ?? (int)Math.Ceiling(Options.Window * Units);

    /// <summary>A scan's units are joined into long ones, as long as a layer has at least so many.</summary>
    internal const int ScanLeast = 128;

    internal ModelConfig Config { get; }
    internal ExpertConfig? Experts { get; }
    /// <summary>A unit is an expert, and is used whole.</summary>
    internal bool ByExpert { get; }
    /// <summary>Neurons, those of all experts together.</summary>
    internal int Neurons { get; }
    /// <summary>Neurons whose down rows make one sum: an expert's that is used whole, else <see cref="Numerics.NeuronBlock"/>.</summary>
    internal int BlockNeurons { get; }
    internal int Blocks => (Neurons + BlockNeurons - 1) / BlockNeurons;
    /// <summary>Angles depend on the sequence's length: they are computed for each row.</summary>
    internal bool RopeByLength { get; }
    /// <summary>Positions that attention sees, a row's own included.</summary>
    internal int Window { get; }
    internal ILayerRouter Router { get; }
    internal LayerWeights? Weights { get; private set; }
    internal EdgeWeights? Edge { get; private set; }
    internal RopeTable? Rope { get; private set; }
    internal KvCache? Kv { get; private set; }
    internal UnitStore? Bundles { get; private set; }
    /// <summary>Stretches of a sparse layer's units that a step may read whole; null where it keeps all units, or none is long enough.</summary>
    internal Stretches? Stretches { get; private set; }
    /// <summary>Where what is read in long reads and not kept passes through; null where there is nothing of the kind.</summary>
    internal Sweep? Sweep { get; private set; }
    internal UnitStore? Embeddings { get; private set; }
    internal BundleLayout Bundle { get; private set; } = null!;
    internal RowOffsets Offsets { get; private set; }
    internal PackageFile? Slice { get; private set; }
    internal Exception? LoadError { get; private set; }
    internal bool IsReady { get; private set; }

    private Func<UnitStore>? _makeEmbeddings;

    /// <summary>Waves handed over by any thread, not yet looked at.</summary>
    internal ConcurrentQueue<Wave> Arriving { get; } = new();
    internal WaveQueue Decode { get; } = new(fair: false);
    internal WaveQueue Prefill { get; }
    internal LayerStep? Running { get; set; }
    internal Pending Pending { get; }

    /// <summary>Conductor thread: tells the scheduler what there is to do. A parked step that can go on is the only thing its layer can do.</summary>
    internal void Describe(bool canStart)
    {
        bool able = (IsReady && canStart) || LoadError != null;
        Pending.Idle = Running == null;
        // Another layer may have given back the slot that this one waits for.
        if (Sweep != null && Running is { Runnable: false, WantsSlot: true } waits) waits.Runnable = (waits.WantsStretch ? Stretches!.Store : Bundles!).HasRoom;
        Pending.Decode = Running is { } step ? step.Runnable && step.IsDecode : able && Decode.Count > 0;
        Pending.Prefill = Running is { } other ? other.Runnable && !other.IsDecode : able && Prefill.Count > 0;
        Pending.Rows = Running is { IsDecode: true } running ? running.Rows : 0;
        if (!IsReady) return;
        foreach (var wave in Decode) Pending.Rows += wave.RowCount;
    }

    /// <summary>Refuses new waves; any thread.</summary>
    internal volatile bool Closing;
    /// <summary>Its loader is done with it: it may be freed as soon as nothing runs or reads in it. Conductor thread.</summary>
    internal bool Draining { get; set; }
    /// <summary>Completes when all of it is freed; everybody who detaches it waits for this one.</summary>
    internal TaskCompletionSource Closed { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    internal string Label => $"{Package.Name}/{Index}";

    /// <summary>Told every (position, neuron) that is chosen, in `exact` those that are active; tests compare them with what they should be.</summary>
    internal Action<int, int>? Watch { get; set; }

    /// <summary>Shown every step's rows as they enter the feed-forward, before it computes.</summary>
    internal FeedForwardWatch? WatchFeedForward { get; set; }

    /// <summary>Shown every row of logits that the head computes, with the row's position, in ascending order for a session.</summary>
    internal LogitsWatch? WatchLogits { get; set; }

    /// <summary>When the layer before sent a wave on its way here; for the trace.</summary>
    internal long SentAt { get; set; }

    internal Counters Count;
    /// <summary>Units predicted by the latest look-ahead, and how many have been made since the last step that needed units: one, if nobody else is under way close behind.</summary>
    internal bool[] Predicted { get; private set; } = [];
    internal int Predictions { get; set; }

    internal struct Counters
    {
        public long WavesIn, Waves, Rows, Slots, Active, Computed, Zeros, Dense, Compute, Predict, FlashWait, PredictedUnits, PredictedHit, PredictedFor, AuditActive, AuditMissed;
    }

    /// <summary>Native bytes this layer holds (weights, window, KV); the shared head and tables are not counted.</summary>
    public long NativeBytes => (Weights?.Bytes ?? 0) + WindowBytes + (Kv?.Bytes ?? 0);

    public LayerStats Stats => new()
    {
        Layer = Index,
        WavesIn = Count.WavesIn,
        Waves = Count.Waves,
        Rows = Count.Rows,
        Slots = Count.Slots,
        NeuronsActive = Count.Active,
        NeuronsComputed = Count.Computed,
        NeuronsDense = Count.Dense,
        UnitsNeeded = Bundles?.Needed ?? 0,
        UnitsHit = Bundles?.Hits ?? 0,
        UnitsLate = Bundles?.Late ?? 0,
        DemandBytes = (Bundles?.DemandBytes ?? 0) + (Stretches?.Store.DemandBytes ?? 0) + (Embeddings?.DemandBytes ?? 0),
        DemandReads = (Bundles?.DemandReads ?? 0) + (Stretches?.Store.DemandReads ?? 0) + (Embeddings?.DemandReads ?? 0),
        PrefetchBytes = (Bundles?.PrefetchBytes ?? 0) + (Stretches?.Store.PrefetchBytes ?? 0),
        PrefetchIssued = (Bundles?.PrefetchRead ?? 0) + (Stretches?.Store.PrefetchRead ?? 0),
        PrefetchUseful = (Bundles?.PrefetchUseful ?? 0) + (Stretches?.Store.PrefetchUseful ?? 0),
        PrefetchWasted = (Bundles?.Window.PrefetchEvictedUnused ?? 0) + (Stretches?.Store.Window.PrefetchEvictedUnused ?? 0),
        PredictedUnits = Count.PredictedUnits,
        PredictedHit = Count.PredictedHit,
        PredictedFor = Count.PredictedFor,
        AuditActive = Count.AuditActive,
        AuditMissed = Count.AuditMissed,
        ComputeNanos = Count.Compute,
        PredictNanos = Count.Predict,
        FlashWaitNanos = Count.FlashWait,
        WindowSlots = Bundles?.Window.Own ?? 0,
        WindowUsed = Bundles?.Window.Occupied ?? 0,
        WindowBytes = WindowBytes,
        KvBytes = Kv?.Bytes ?? 0,
        KvSessions = Kv?.Sequences.Count ?? 0,
        KvHeldBytes = Kv is { } kv ? kv.UsedBytes - kv.CachedBytes : 0,
        KvCachedBytes = Kv?.CachedBytes ?? 0,
        KvSavedBytes = Kv?.SavedBytes ?? 0,
        Busy = Running != null,
        ResidentBytes = Weights?.Bytes ?? 0,
    };

    private long WindowBytes => Bundles is { } b ? (long)b.Window.Own * b.Region.SlotBytes : 0;

    /// <summary>Loader thread: opens the slice and reads what is resident.</summary>
    internal void Load(Func<Layer, (EdgeWeights? Edge, RopeTable? Rope, Sweep? Sweep)> shared, IFlashReader reader, MemoryLedger ledger, int embeddingSlots, int gapBytes, long kvCachedBytes, KvDisk? kvDisk, Action<UnitStore, ReadRequest> completed, Stack<ReadRequest> idle)
    {
        ThreadRole.AssertNotGrainTurn("loading a layer");
        Slice = Package.OpenSlice(Index);
        Weights = LayerWeights.Load(Slice, Package.Manifest, Index, Mode, Options.Prefetch, ledger, Label);
        Cut = Exact ? Config.Threshold : Weights.Predictor.Cut;
        if (Sparse && Package.Manifest.Activity is { } activity)
        {
            Activity = new ActivityModel(activity, Index, Neurons);
            if (!Exact) Cut = 0;
        }
        if (Experts is { } experts && Package.Manifest.Routing is { } routing) Routing = new RoutingModel(routing, Index, experts);
        (Edge, Rope, Sweep) = shared(this);
        Kv = new KvCache(Config, KvCache.TypeOf(Options.Kv, Package.Format), ledger, Label, Options.Plan?.KvBlocks ?? 0, kvCachedBytes);
        if (kvDisk != null) Kv.SaveIn(kvDisk, Package, Index);
        Bundle = Slice.Bundles ?? throw new FlashException($"{Package.Path}: layer {Index} has no bundles");
        if (Scans) Bundle = Bundle.Joined(ScanLeast, Numerics.NeuronBlock);
        Offsets = new RowOffsets(Bundle);
        var region = Slice.BundleUnits(whole: !Exact, Bundle);
        // A cyclic scan defeats every order of eviction: a share of the units stays, the rest takes turns in slots that the layers share.
        int slots = Scans ? Math.Min(Kept, region.Count) : Math.Clamp(Options.Plan?.WindowSlots[Index] ?? (int)Math.Ceiling(Options.Window * region.Count), 1, region.Count);
        if (!Options.Reuse && !Scans) slots = Math.Min(slots, Math.Max(2, BudgetNeeds.LeastWindowBytes / region.SlotBytes));
        Bundles = new UnitStore(region, slots, reader, ledger, Label, completed, Scans ? Sweep?.Slots : null, ByExpert ? Retention.Experts : null) { Owner = this, Idle = idle, ChecksLate = true, GapBytes = gapBytes, Resident = Scans ? slots : 0 };
        if (Sparse && Sweep is { } sweep)
        {
            var stretches = Slice.BundleUnits(whole: true, Stretches.Join(Bundle));
            Stretches = new Stretches(stretches, region, new UnitStore(stretches, 0, reader, ledger, Label, completed, sweep.Slots) { Owner = this, Idle = idle, ChecksLate = true, GapBytes = 0 }, gapBytes);
        }
        Policy.MaxUnits = slots;
        Predicted = new bool[region.Count];
        if (IsFirst)
        {
            var rows = Edge!.EmbeddingUnits();
            _makeEmbeddings = () => new UnitStore(rows, Math.Min(rows.Count, embeddingSlots), reader, ledger, Label, completed) { Owner = this, Idle = idle, GapBytes = gapBytes };
        }
    }

    /// <summary>Conductor thread: the store of embedding rows, made when a step needs it: where the tied head is resident none does.</summary>
    internal UnitStore OpenEmbeddings() => Embeddings ??= _makeEmbeddings!();

    /// <summary>Conductor thread, with a budget: takes what else the layer will ever hold.</summary>
    internal void TakeAll()
    {
        if (Options.Plan is not { } plan) return;
        if (!RopeByLength) Rope?.Ensure(Math.Min(Config.MaxPositions, plan.KvBlocks * KvCache.BlockPositions));
        bool lastIsHere = plan.Needs.Layers.Any(l => l.Layer == Config.Layers - 1);
        if (IsFirst && !(Config.TiedHead && lastIsHere)) OpenEmbeddings();
    }

    /// <summary>Conductor thread, after the loader.</summary>
    internal void FinishLoading(Exception? error)
    {
        LoadError = error;
        IsReady = error == null;
        if (IsReady) Sweep?.Add(this);
        if (error == null) _loaded.TrySetResult();
        else _loaded.TrySetException(error);
    }

    /// <summary>Conductor thread: a step of so many rows that has asked for all of its units reads on into the next layer's.</summary>
    internal void ReadAhead(int rows)
    {
        if (Options.Prefetch) Sweep?.ReadAhead(this, rows);
    }

    /// <summary>Conductor thread: sends what the reader's full queue held back.</summary>
    internal void FlushReads()
    {
        Bundles?.Flush();
        Stretches?.Store.Flush();
        Embeddings?.Flush();
    }

    internal int OutstandingReads => (Bundles?.Outstanding ?? 0) + (Stretches?.Store.Outstanding ?? 0) + (Embeddings?.Outstanding ?? 0);

    /// <summary>Conductor thread: a read is done; the running step is told what arrived.</summary>
    internal void Settle(UnitStore store, ReadRequest request)
    {
        _settling = store;
        store.Settle(request, _arrived ??= (unit, slot, fault) => Running?.Arrived(_settling!, unit, slot, fault));
    }

    private UnitStore? _settling;
    private Action<int, int, ReadFault>? _arrived;

    /// <summary>Conductor thread: remembers what look-ahead predicted, for recall and precision.</summary>
    internal void RecordPrediction(ReadOnlySpan<int> units)
    {
        Array.Clear(Predicted);
        foreach (int unit in units) Predicted[unit] = true;
        Predictions++;
        Count.PredictedUnits += units.Length;
    }

    /// <summary>Conductor thread, once a step knows what it needs and what it did not find: feedback for look-ahead.</summary>
    internal void ObserveLookAhead(int rows, int needed, int missing)
    {
        // What was refuted in time has cost nothing.
        long now = Bundles!.PrefetchIssued - Bundles.PrefetchWithdrawn, issued = now - _lastIssued;
        long useful = Bundles.PrefetchUseful - _lastUseful;
        _lastIssued = now;
        _lastUseful = Bundles.PrefetchUseful;
        Policy.Observe(rows, needed, missing, (int)issued, (int)useful);
    }

    /// <summary>Conductor thread: frees everything but the shared edge and rope tables.</summary>
    internal void Free()
    {
        IsReady = false;
        Sweep?.Remove(this);
        Weights?.Dispose();
        Kv?.Dispose();
        Bundles?.Dispose();
        Stretches?.Store.Dispose();
        Embeddings?.Dispose();
        Slice?.Dispose();
        Weights = null;
        Kv = null;
        Bundles = null;
        Stretches = null;
        Embeddings = null;
        Slice = null;
    }
}
