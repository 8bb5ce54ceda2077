using FlashOrleans.Engine;
using FlashOrleans.Flash;
using Spectre.Console;

namespace FlashOrleans.Cli.Bench;

/// <summary>The run with the median rate of one setting, path and number of sessions.</summary>
internal sealed record BenchRow(BenchRun Run, double? Ratio)
{
    /// <summary>As it was given; null where windows are a share.</summary>
    public string? Budget { get; init; }
    /// <summary>Null with a budget.</summary>
    public double? Window { get; init; }
    public FeedForwardMode Mode { get; init; }
    public BenchLimits? Limits { get; init; }
    /// <summary>Tokens a second with drafts over those without, the median of pairs that were run in turn.</summary>
    public double? OverPlain { get; init; }
    public string Path => Run.Drafts is null ? Run.Path : $"{Run.Path}, {Run.Drafts}";
}

/// <summary>What `flash bench` says in the end: tables for people, or JSON with all of it. Rows are never empty.</summary>
internal sealed class BenchReport
{
    public required string Package { get; init; }
    public required ActivityConfig? Activity { get; init; }
    public required RoutingConfig? Routing { get; init; }
    public required int PromptTokens { get; init; }
    public required int Generate { get; init; }
    public required bool Bundled { get; init; }
    public required bool Reuse { get; init; }
    public required DeviceRates Rates { get; init; }
    /// <summary>The same reads by fio; null where it was not asked for.</summary>
    public IReadOnlyList<ReadCost>? Fio { get; init; }
    public required IReadOnlyList<BenchRow> Rows { get; init; }

    /// <summary>A device whose reads cost so many times more in one of two measurements is not one device.</summary>
    private const double Doubtful = 1.5;

    public object Json() => new
    {
        Package,
        PromptTokens,
        GeneratePerSession = Generate,
        Activity,
        Routing,
        // Of all rows, where they have one in common.
        Budget = Rows.All(r => r.Budget == Rows[0].Budget) ? Rows[0].Budget : null,
        Window = Rows.All(r => r.Window == Rows[0].Window) ? Rows[0].Window : null,
        Rows[0].Run.Counters.Kernels,
        Rows[0].Run.Counters.Threads,
        Rows[0].Run.Counters.Access,
        Bundled,
        Reuse,
        Rates = new
        {
            MemoryBytesS = Rates.Memory,
            MultiplyAddsSOneToken = Rates.OneToken,
            MultiplyAddsSManyTokens = Rates.ManyTokens,
            DeviceRates.Many,
            Reads = Rates.Reads.Select(static r => new { r.Bytes, Micros = 1e6 * r.Seconds }),
            Fio = Fio?.Select(static r => new { r.Bytes, Micros = 1e6 * r.Seconds }),
            Rates.ReadsChanged,
            AtOnce = Rates.AtOnce is { } both ? new { both.Memory, both.Flash } : null,
            Rates.Source,
        },
        Rows = Rows.Select(static row => new
        {
            row.Run.Path,
            row.Budget,
            row.Window,
            Mode = Word(row.Mode),
            row.Run.Counters.Access,
            row.Run.Sessions,
            TokS = row.Run.AggregateRate,
            SessionTokS = row.Run.SessionRate,
            TtftMs = row.Run.TimeToFirst,
            P50Ms = row.Run.Percentile(0.50),
            P95Ms = row.Run.Percentile(0.95),
            P99Ms = row.Run.Percentile(0.99),
            row.Run.Counters.FlashBytesPerToken,
            row.Run.Counters.HitRate,
            row.Run.Counters.ZeroNeurons,
            row.Run.Counters.FalseNegativeRate,
            row.Run.Counters.ChosenRight,
            row.Run.ComputeShare,
            row.Run.FlashWaitShare,
            row.Run.OtherShare,
            GrainsOverEngine = row.Ratio,
            Drafts = row.Run.Drafts?.ToString(),
            DraftsAStep = row.Run.Drafts?.Count,
            SyntheticAcceptance = row.Run.Drafts?.Acceptance,
            DraftedTokens = row.Run.Drafted,
            AcceptedTokens = row.Run.Accepted,
            OverNoDrafts = row.OverPlain,
            row.Run.Counters.NativeBytes,
            row.Run.Memory.ManagedBytes,
            row.Run.Memory.HeapBytes,
            row.Run.Memory.ProcessBytes,
            row.Run.Memory.MostProcessBytes,
            Limits = row.Limits?.Json(),
            Layers = LayerTable.Json(row.Run.Counters),
        }),
    };

    public void Print(Screen screen, bool layers)
    {
        bool several = Rows.Select(static r => (r.Budget, r.Window, r.Mode)).Distinct().Skip(1).Any();
        var table = new Table { Border = TableBorder.None };
        if (several) table.AddColumns(Rows[0].Budget == null ? "WINDOW" : "BUDGET", "MODE");
        table.AddColumns("PATH", "SESSIONS", "TOK/S", "A SESSION", "FIRST", "P50", "P95", "P99", "FLASH/TOKEN", "ACCESS", "HITS", "COMPUTE", "FLASH WAIT", "OTHER", "RATIO");
        foreach (var row in Rows)
        {
            var run = row.Run;
            table.AddRow([.. Setting(row, several), row.Path, Units.Number(run.Sessions, "0"), Units.Number(run.AggregateRate), Units.Number(run.SessionRate), Ms(run.TimeToFirst),
                Ms(run.Percentile(0.50)), Ms(run.Percentile(0.95)), Ms(run.Percentile(0.99)),
                run.Counters.FlashBytesPerToken is { } bytes ? Units.Bytes(bytes) : "-", run.Counters.Access, Units.Percent(run.Counters.HitRate),
                Units.Percent(run.ComputeShare), Units.Percent(run.FlashWaitShare), Units.Percent(run.OtherShare), Units.Number(row.OverPlain ?? row.Ratio, "0.000")]);
        }
        screen.Tables.Write(table);
        foreach (var row in Rows.Where(static r => r.Run.Drafts != null))
            screen.Out.WriteLine($"{row.Path}, sessions {row.Run.Sessions}: {row.Run.Accepted} of {row.Run.Drafted} drafts were right; {Units.Number(row.OverPlain, "0.00")} times the rate without, the same tokens");
        screen.Out.WriteLine();
        PrintLimits(screen, several);
        if (!layers) return;
        screen.Out.WriteLine();
        LayerTable.Write(screen, Rows[^1].Run.Counters);
    }

    /// <summary>What the machine gave, then a step of each row against it.</summary>
    private void PrintLimits(Screen screen, bool several)
    {
        if (!Bundled) screen.Out.WriteLine("rows of a neuron are read one by one");
        if (!Reuse) screen.Out.WriteLine("nothing is kept in the windows");
        screen.Out.WriteLine($"memory {Units.Number(Rates.Memory / 1e9)} GB/s; {Units.Number(Rates.OneToken / 1e9)} thousand million multiply-adds a second with one token, {Units.Number(Rates.ManyTokens / 1e9)} with {DeviceRates.Many}; a read of "
            + $"{string.Join(", ", Rates.Reads.Select(static r => $"{Units.Bytes(r.Bytes)} {Units.Number(1e6 * r.Seconds)} µs"))} ({Rates.Source})");
        if (Rates.AtOnce is { } both) screen.Out.WriteLine($"both at once: memory keeps {Units.Percent(both.Memory)} of its rate and flash {Units.Percent(both.Flash)}");
        if (Fio is { } fio) screen.Out.WriteLine($"fio, the same reads: {string.Join(", ", fio.Select(f => $"{Units.Bytes(f.Bytes)} {Units.Number(1e6 * f.Seconds)} µs ({Units.Percent(f.Seconds / ReadCost.Of(Rates.Reads, f.Bytes))} of its rate reached)"))}");
        if (Rates.ReadsChanged > Doubtful) screen.Out.WriteLine($"the device changed by {Units.Number(Rates.ReadsChanged, "0.0")} times between the start and the end of this run (a host's cache, or other work): limits of flash are of its better moment");
        var table = new Table { Border = TableBorder.None };
        if (several) table.AddColumns(Rows[0].Budget == null ? "WINDOW" : "BUDGET", "MODE");
        table.AddColumns("PATH", "SESSIONS", "STEP", "TOKENS", "MEMORY", "", "MULTIPLY-ADDS", "", "FLASH", "READS", "", "LIMIT", "REACHED", "AT ONCE", "CPU A READ", "READING");
        foreach (var row in Rows)
        {
            if (row.Limits is not { } l) continue;
            table.AddRow([.. Setting(row, several), row.Path, Units.Number(row.Run.Sessions, "0"), Ms(1e3 * l.Seconds), Units.Number(l.Needs.Tokens), Units.Bytes(l.Needs.MemoryBytes), Ms(1e3 * l.Times.MemorySeconds),
                $"{Units.Number(l.Needs.MultiplyAdds / 1e9, "0.000")} G", Ms(1e3 * l.Times.ComputeSeconds), Units.Bytes(l.Needs.FlashBytes), Units.Number(l.Needs.FlashReads, "0"), Ms(1e3 * l.Times.FlashSeconds),
                l.Times.Limit, Units.Percent(l.Fraction), Units.Percent(l.Together), l.ProcessorOfRead is { } cpu ? $"{Units.Number(1e6 * cpu)} µs" : "-", Units.Percent(l.ReadShare)]);
        }
        screen.Tables.Write(table);
    }

    private static string[] Setting(BenchRow row, bool several) => several ? [row.Budget ?? Units.Percent(row.Window), Word(row.Mode)] : [];

    private static string Word(FeedForwardMode mode) => mode.ToString().ToLowerInvariant();

    private static string Ms(double milliseconds) => Units.Number(milliseconds, milliseconds < 10 ? "0.00" : "0.0") + " ms";
}
