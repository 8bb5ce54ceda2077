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
}

/// <summary>What `flash bench` says in the end: tables for people, or JSON with all of it. Rows are never empty.</summary>
internal sealed class BenchReport
{
    public required string Package { get; init; }
    public required ActivityConfig? Activity { get; init; }
    public required int PromptTokens { get; init; }
    public required int Generate { get; init; }
    public required IReadOnlyList<BenchRow> Rows { get; init; }

    public object Json() => new
    {
        Package,
        PromptTokens,
        GeneratePerSession = Generate,
        Activity,
        // Of all rows, where they have one in common.
        Budget = Rows.All(r => r.Budget == Rows[0].Budget) ? Rows[0].Budget : null,
        Window = Rows.All(r => r.Window == Rows[0].Window) ? Rows[0].Window : null,
        Rows[0].Run.Counters.Kernels,
        Rows[0].Run.Counters.Threads,
        Rows[0].Run.Counters.Access,
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
            row.Run.ComputeShare,
            row.Run.FlashWaitShare,
            row.Run.OtherShare,
            GrainsOverEngine = row.Ratio,
            row.Run.Counters.NativeBytes,
            row.Run.Memory.ManagedBytes,
            row.Run.Memory.HeapBytes,
            row.Run.Memory.ProcessBytes,
            row.Run.Memory.MostProcessBytes,
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
            table.AddRow([.. Setting(row, several), run.Path, Units.Number(run.Sessions, "0"), Units.Number(run.AggregateRate), Units.Number(run.SessionRate), Ms(run.TimeToFirst),
                Ms(run.Percentile(0.50)), Ms(run.Percentile(0.95)), Ms(run.Percentile(0.99)),
                run.Counters.FlashBytesPerToken is { } bytes ? Units.Bytes(bytes) : "-", run.Counters.Access, Units.Percent(run.Counters.HitRate),
                Units.Percent(run.ComputeShare), Units.Percent(run.FlashWaitShare), Units.Percent(run.OtherShare), Units.Number(row.Ratio, "0.000")]);
        }
        screen.Tables.Write(table);
        if (!layers) return;
        screen.Out.WriteLine();
        LayerTable.Write(screen, Rows[^1].Run.Counters);
    }

    private static string[] Setting(BenchRow row, bool several) => several ? [row.Budget ?? Units.Percent(row.Window), Word(row.Mode)] : [];

    private static string Word(FeedForwardMode mode) => mode.ToString().ToLowerInvariant();

    private static string Ms(double milliseconds) => Units.Number(milliseconds, milliseconds < 10 ? "0.00" : "0.0") + " ms";
}
