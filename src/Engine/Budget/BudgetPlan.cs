using System.Globalization;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>One line of the plan: a kind of memory and its bytes.</summary>
public sealed record BudgetLine(string Kind, string Detail, long Bytes);

/// <summary>
/// Where a process's memory goes under a budget, before anything is loaded: what is resident, each layer's window, keys and values for the promised sessions, buffers, the process
/// itself. A pure function of the package's manifest, of options and of the device's alignment: whoever plans the same gets the same. The sum is at most the budget; a budget
/// that is too small is a plan that does not fit and says what would (<see cref="Refusal"/>, <see cref="Minimum"/>). Immutable; any thread.
/// <code>budget = resident + windows + sweep + keys and values + buffers (native) + process (code, stacks) + managed heap + margin</code>
/// </summary>
public sealed class BudgetPlan
{
    private BudgetPlan(Manifest manifest, BudgetOptions options, BudgetNeeds needs)
    {
        Manifest = manifest;
        Options = options;
        Needs = needs;
        Budget = options.Size.Of(manifest.Bytes);
        // margin(B) = least + B / 256, so B - margin(B) >= needed asks for B >= (needed + least) * 256 / 255.
        Minimum = (needs.Bytes + BudgetNeeds.LeastMargin + 254) / 255 * 256;
        Fits = Budget >= Minimum;
        long room = Fits ? Budget - Margin - needs.Fixed : needs.LeastWindows + needs.SweepBytes(needs.SweepSlots(0));
        SweepSlots = room >= needs.AllWindows ? 0 : needs.SweepSlots(room);
        Sweep = needs.SweepBytes(SweepSlots);
        int[] slots = WindowPlan.Solve(needs.Layers, room - Sweep, options.Sessions);
        int[] byLayer = new int[manifest.Model.Layers];
        for (int i = 0; i < slots.Length; i++) byLayer[needs.Layers[i].Layer] = slots[i];
        WindowSlots = byLayer;
        Windows = needs.Layers.Select((l, i) => (l.SlotCost - BudgetNeeds.ManagedPerSlot) * slots[i]).Sum();
        Heap = needs.Heap + slots.Sum(static s => (long)s) * BudgetNeeds.ManagedPerSlot;
    }

    public Manifest Manifest { get; }
    public BudgetOptions Options { get; }
    internal BudgetNeeds Needs { get; }
    /// <summary>Bytes that the process may take.</summary>
    public long Budget { get; }
    /// <summary>The smallest budget with which it would start, with these options.</summary>
    public long Minimum { get; private init; }
    public bool Fits { get; }
    /// <summary>Slots of each layer's window; 0 for layers that run elsewhere.</summary>
    public IReadOnlyList<int> WindowSlots { get; }
    /// <summary>Blocks of 64 positions in each layer.</summary>
    public int KvBlocks => Needs.KvBlocks;
    /// <summary>False: nothing looks ahead, though it was asked for, since the weights for it are worth more as windows.</summary>
    public bool LooksAhead { get; private init; } = true;
    /// <summary>Tokens of a session that are promised.</summary>
    public int Context => Needs.Context;

    public long Windows { get; }
    /// <summary>Slots in which layers take turns with what they read in long reads and do not keep.</summary>
    public long Sweep { get; }
    internal int SweepSlots { get; }
    /// <summary>Planned managed heap.</summary>
    public long Heap { get; }
    /// <summary>For what grows unseen: page tables, code compiled later, fragments.</summary>
    public long Margin => BudgetNeeds.LeastMargin + Budget / 256;
    /// <summary>Everything a <see cref="MemoryLedger"/> counts, at most.</summary>
    public long Native => Needs.Resident + Needs.Edge + Needs.Rope + Windows + Sweep + Needs.Kv + Needs.Buffers + Needs.Draft;
    public long Sum => Native + Needs.Process + Heap + Margin;
    /// <summary>What the collector must stay below: the last fence. Admission keeps away from it.</summary>
    public long HeapLimit => Heap + Margin;
    public long Left => Budget - Sum;
    /// <summary>Bytes of all units that stream through the windows.</summary>
    public long Streamed => Needs.Streamed;

    /// <summary>Of layers that read what they choose: the share of their units that windows hold, in the mean, and the bytes that all units of the largest have. 0 without such layers.</summary>
    public (double Share, long LayerBytes) Chosen
    {
        get
        {
            LayerUnits[] layers = [.. Needs.Layers.Where(static l => !l.Scan)];
            return layers.Length == 0 ? default : (layers.Average(l => (double)WindowSlots[l.Layer] / l.Units), layers.Max(static l => (long)l.Units * l.PartBytes));
        }
    }

    /// <summary>Share of what a step needs that the windows are expected to hold.</summary>
    private double Hits
    {
        get
        {
            double needed = Needs.Layers.Sum(l => (double)l.PartBytes * l.Units * l.Firing.Needed(Options.Sessions));
            return 1 - Needs.Layers.Sum(l => l.PartBytes * l.Units * l.Firing.MissedWith((double)WindowSlots[l.Layer] / l.Units, Options.Sessions)) / needed;
        }
    }

    /// <summary>
    /// What looks ahead may have weights, which are as many bytes less of windows. They go where windows without them hold nearly all that a step needs, so that there is little to wait for, and where windows beside them would not even hold
    /// what one token needs, so that what is read ahead pushes out what is read (measured: ADR 0009).
    /// </summary>
    private bool PrefersWindows(BudgetPlan without)
    {
        if (!Fits) return true;
        return without.Hits >= EnoughHits || Windows < Needs.Layers.Sum(static l => l.SlotCost * l.Units * l.Firing.Density);
    }

    private const double EnoughHits = 0.9;

    /// <summary>Why it does not fit and what would, in one line; null when it fits.</summary>
    public string? Refusal { get; private init; }

    public IReadOnlyList<BudgetLine> Lines =>
    [
        new("resident", $"attention, norms and what chooses neurons, {Needs.Layers.Count} layers", Needs.Resident),
        new("head", "output head, final norm, positions", Needs.Edge),
        new("rotary", $"angles of {Math.Min(Manifest.Model.MaxPositions, KvBlocks * KvCache.BlockPositions)} positions", Needs.Rope),
        new("windows", WindowsInWords(), Windows),
        .. Sweep > 0 ? [new BudgetLine("sweep", "units that layers do not keep, on their way and in use, layer after layer", Sweep)] : Array.Empty<BudgetLine>(),
        new("kv", $"{Options.Sessions} x {Context} tokens, {Needs.KvType.ToString().ToLowerInvariant()}", Needs.Kv),
        new("buffers", $"{Needs.Steps} steps of {Needs.Rows} rows, logits, reads", Needs.Buffers),
        .. Needs.Draft > 0 ? [new BudgetLine("draft", "the model that drafts: all of it, its keys, values and buffers", Needs.Draft)] : Array.Empty<BudgetLine>(),
        new("process", $"code and stacks of {Options.Host switch { BudgetHost.Engine => "the runtime and the engine", BudgetHost.Grains => "the runtime, Orleans and the engine", _ => "the runtime, HTTP, Orleans and the engine" }}", Needs.Process),
        new("heap", $"managed heap; the collector's limit is {BudgetSize.Text(HeapLimit)}", Heap),
        new("margin", "page tables, fragments", Margin),
    ];

    /// <summary>Plans; never throws for a budget that is too small.</summary>
    public static BudgetPlan Of(Manifest manifest, int deviceAlignment, EngineOptions engine, LayerOptions layer) => Of(manifest, deviceAlignment, engine, layer, nested: false);

    private static BudgetPlan Of(Manifest manifest, int deviceAlignment, EngineOptions engine, LayerOptions layer, bool nested)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentNullException.ThrowIfNull(layer);
        BudgetOptions options = engine.Budget ?? throw new ArgumentException("there is no budget to plan for", nameof(engine));
        BudgetNeeds needs = BudgetNeeds.Of(manifest, deviceAlignment, engine, layer, options);
        if (engine.Draft is { } draft && !draft.Is(manifest.Hash))
        {
            BudgetPlan beside = OfDraft(draft.Manifest, deviceAlignment, engine, layer);
            needs = needs with { Draft = beside.Native, Heap = needs.Heap + beside.Heap - BudgetNeeds.HeapOf(options.Host) };
        }
        BudgetPlan plan = new(manifest, options, needs);
        if (!nested && layer.Prefetch && Of(manifest, deviceAlignment, engine, layer with { Prefetch = false }, nested: true) is var without && without.Needs.Resident < needs.Resident)
            plan = plan.PrefersWindows(without) ? new BudgetPlan(manifest, options, without.Needs) { LooksAhead = false } : new BudgetPlan(manifest, options, needs) { Minimum = without.Minimum };
        if (plan.Fits || nested) return plan;
        return new BudgetPlan(manifest, options, plan.Needs) { LooksAhead = plan.LooksAhead, Minimum = plan.Minimum, Refusal = $"{manifest.Name} does not fit a budget of {Size(options, manifest)}: it needs at least {BudgetSize.Text(plan.Minimum)}{Cheaper(plan, deviceAlignment, engine, layer)}" };
    }

    /// <summary>What the model that drafts takes, whatever the budget: all of its weights, keys and values for the same sessions, its buffers.</summary>
    internal static BudgetPlan OfDraft(Manifest manifest, int deviceAlignment, EngineOptions engine, LayerOptions layer)
    {
        BudgetOptions all = engine.Budget! with { Size = BudgetSize.OfBytes(1L << 50), Layers = null };
        return new BudgetPlan(manifest, all, BudgetNeeds.Of(manifest, deviceAlignment, engine, DraftModel.Resident(manifest, layer), all));
    }

    public static BudgetPlan Of(FlashPackage package, EngineOptions engine, LayerOptions layer)
    {
        ArgumentNullException.ThrowIfNull(package);
        return Of(package.Manifest, package.DeviceAlignment, engine, layer);
    }

    /// <summary>This plan, or a <see cref="FlashException"/> with what would do.</summary>
    public BudgetPlan Demand() => Refusal == null ? this : throw new FlashException(Refusal);

    private static string Size(BudgetOptions options, Manifest manifest) =>
        options.Size.Share > 0 ? $"{options.Size} ({BudgetSize.Text(options.Size.Of(manifest.Bytes))})" : options.Size.ToString();

    /// <summary>What needs less: each change alone, those that would do first.</summary>
    private static string Cheaper(BudgetPlan plan, int alignment, EngineOptions engine, LayerOptions layer)
    {
        List<(string How, EngineOptions Engine, LayerOptions Layer)> ways = [];
        BudgetOptions options = plan.Options;
        if (!plan.LooksAhead) layer = layer with { Prefetch = false };
        if (options.Sessions > 1) ways.Add(("--sessions 1", engine with { Budget = options with { Sessions = 1 } }, layer));
        if (plan.Context > 256) ways.Add(("--context 256", engine with { Budget = options with { Context = 256 } }, layer));
        if (plan.Needs.KvType == KvType.F32) ways.Add(("--kv f16", engine, layer with { Kv = KvType.F16 }));
        if (plan.Needs.KvType != KvType.Q8) ways.Add(("--kv q8 (keys and values of 8 bits)", engine, layer with { Kv = KvType.Q8 }));
        if (plan.Manifest.Model.IsSparse && !plan.Manifest.Lean && layer.Mode != FeedForwardMode.Dense) ways.Add(("--mode dense (no resident copy of the rows that choose neurons, but every neuron is read)", engine, layer with { Mode = FeedForwardMode.Dense }));
        if (engine.Draft != null) ways.Add(("no --draft", engine with { Draft = null }, layer));
        string[] words = [.. ways.Select(w => (w.How, Of(plan.Manifest, alignment, w.Engine, w.Layer, nested: true).Needs))
            .Select(w => (w.How, Minimum: (w.Needs.Bytes + BudgetNeeds.LeastMargin + 254) / 255 * 256))
            .Where(w => w.Minimum < plan.Minimum - (plan.Minimum >> 6)).OrderBy(static w => w.Minimum)
            .Select(w => $"{w.How}: {BudgetSize.Text(w.Minimum)}")];
        return words.Length > 0 ? $", or less with {string.Join("; ", words)}" : "";
    }

    private string WindowsInWords()
    {
        if (Needs.Layers.Count == 0) return "none";
        double[] shares = [.. Needs.Layers.Select(l => (double)WindowSlots[l.Layer] / l.Units)];
        return string.Create(CultureInfo.InvariantCulture, $"{100 * shares.Min():0.#} to {100 * shares.Max():0.#} % of each layer's units, {Streamed / 1e6:0.0} MB in all{(LooksAhead ? "" : "; nothing looks ahead: weights for that are worth less")}");
    }
}
