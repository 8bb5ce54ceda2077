using System.CommandLine;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Options;

/// <summary>--budget and what is promised within it. A verb whose own options say how many sessions or tokens there are passes them on instead of taking the flags.</summary>
internal sealed class BudgetFlags
{
    private readonly Option<BudgetSize[]?> _budget;
    private readonly Option<int?> _sessions = Flags.Int("--sessions", "N", "With --budget: sessions whose keys and values are held at once (default 1)", 1, 4096);
    private readonly Option<int?> _context = Flags.Int("--context", "T", $"With --budget: tokens of each session (default {BudgetOptions.DefaultContext}, at most the model's)", 1, 1 << 24);
    private readonly bool _promises;

    /// <param name="command">Gets the options.</param>
    /// <param name="promises">--sessions and --context too.</param>
    /// <param name="required">There is nothing to do without a budget.</param>
    /// <param name="several">--budget may be a list (<see cref="Each"/>).</param>
    public BudgetFlags(Command command, bool promises, bool required = false, bool several = false)
    {
        _promises = promises;
        _budget = new Option<BudgetSize[]?>("--budget")
        {
            HelpName = several ? "1.8GiB|50%,…" : "1.8GiB|50%",
            Description = "Hard limit of memory for the whole process, in bytes or as a share of the package's: windows are what it leaves. Without it --window says how large they are",
            Required = required,
            CustomParser = result => Flags.List(result, "--budget", BudgetSize.Rule, several, static text => (BudgetSize.TryParse(text, out BudgetSize size), size)),
        };
        command.Add(_budget);
        if (!promises) return;
        command.Add(_sessions);
        command.Add(_context);
    }

    public bool Given(ParseResult parse) => parse.GetValue(_budget) is { Length: > 0 };

    /// <summary>Null without --budget.</summary>
    public BudgetOptions? Of(ParseResult parse, BudgetHost host, int sessions = 1, int? context = null) => Each(parse, host, sessions, context).FirstOrDefault();

    /// <summary>One for each size of --budget; none without it.</summary>
    public BudgetOptions[] Each(ParseResult parse, BudgetHost host, int sessions = 1, int? context = null)
    {
        int? n = _promises ? parse.GetValue(_sessions) : null, t = _promises ? parse.GetValue(_context) : null;
        if (parse.GetValue(_budget) is { Length: > 0 } sizes)
            return [.. sizes.Select(size => new BudgetOptions { Size = size, Sessions = n ?? sessions, Context = t ?? context ?? BudgetOptions.DefaultContext, Host = host })];
        if (n != null || t != null) throw new UsageException("--sessions and --context say what --budget is to hold: give one");
        return [];
    }

    /// <summary>Plans, refuses what does not fit, and sets the collector's limit: before anything is loaded.</summary>
    public static BudgetPlan? Enter(App app, string package, EngineOptions engine, LayerOptions layer)
    {
        if (engine.Budget == null) return null;
        using var opened = FlashPackage.Open(package);
        var plan = BudgetPlan.Of(opened, engine, layer).Demand();
        if (!HeapFence.Set(plan.HeapLimit)) app.Screen.Remark($"the managed heap is above the planned {BudgetSize.Text(plan.HeapLimit)} already: no limit is set for it");
        return plan;
    }

    /// <summary>"a read costs 12.3 µs and 0.21 µs a KiB here: gaps of up to 58.6 kB are read across".</summary>
    public static string Text(GapCost cost) =>
        $"a read costs {Units.Number(1e6 * cost.SecondsPerRead)} µs and {Units.Number(1e6 * 1024 * cost.SecondsPerByte, "0.00")} µs a KiB here: gaps of up to {Units.Bytes(cost.GapBytes)} are read across";

    /// <summary>When all is loaded: what loading left goes back, and what the process really takes is compared with the plan.</summary>
    public static void Loaded(App app, BudgetPlan? plan)
    {
        if (plan == null) return;
        HeapFence.Trim();
        if (HeapFence.Excess(plan) is { } excess) app.Screen.Remark($"warning: {excess}");
    }
}
