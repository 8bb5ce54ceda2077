using System.CommandLine;
using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Bench;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Cli.Options;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash bench NAME`: tokens per second at several numbers of sessions, through grains, on the engine alone, or both in turn.</summary>
internal static class BenchVerb
{
    private sealed record Row(BenchRun Run, double? Ratio);

    public static Command Create(App app)
    {
        var prompt = Flags.Text("--prompt", "P", "A number: so many tokens of a built-in text, another part of it for each session. Else the text itself (default 64)");
        var generate = Flags.Int("--generate", "G", "Tokens each session generates; end tokens do not stop it (default 64)", 1);
        var sessions = Flags.Ints("--sessions", "Numbers of sessions at once, a row each (default 1)", 1);
        var repeat = Flags.Int("--repeat", "N", "Runs per row, of which the one with the median rate is shown (default 1; with --path both 3)", 1, 100);
        var path = Flags.Choice("--path", "Through layer grains, on the engine without Orleans, or both in turn in this process with the ratio of their rates", "grains", "engine", "both");
        var layers = new Option<bool>("--layers") { Description = "Also show every layer of the last row" };
        var trace = Flags.Text("--trace", "FILE", "Write what every layer did when, in the last run, as JSON that chrome://tracing and Perfetto show");
        var json = Flags.Json();
        var verb = new Verb("bench", "Measure speed, latency and flash traffic", """
            A short run warms up first and is not shown. tok/s is generated tokens over the time from sending to the last token of the last session; per session it is the
            rate after the first token. first is the mean time to the first token; p50, p95 and p99 are times between tokens. flash/token counts prompt tokens too.
            compute, flash wait and other are shares of the time: layers computing, layers waiting for reads, and everything else (grain calls, sampling, streams, idle).
            With several sessions layers wait side by side: what their waits sum to beyond the time that is left counts once, so flash wait is then at most, other at least.
            With --path both, ratio is the rate through grains over the engine's alone: 1 - ratio is Orleans' share of a token.
            """,
            "flash bench emberling --prompt 64 --generate 128 --sessions 1,2,4", "flash bench emberling --prompt \"Tell me a story\" --window 10% --json", "flash bench emberling --path both --sessions 1,8", "flash bench ./big.flash --budget 50%")
        { prompt, generate, sessions, repeat, path, layers, trace, json };
        var model = new ModelFlags(verb);
        var sampling = new SamplingFlags(verb);
        var engine = new EngineFlags(verb);
        verb.SetAction(async (parse, _) =>
        {
            string package = model.Path(app, parse), paths = parse.GetValue(path)!;
            int count = parse.GetValue(generate) ?? 64;
            BenchPrompt words;
            SamplingOptions chosen;
            ActivityConfig? activity;
            using (var opened = FlashPackage.Open(package))
            {
                chosen = sampling.Over(SamplingFlags.Recommended(opened), parse);
                chosen = chosen with { Seed = chosen.Seed ?? 1 };
                activity = opened.Manifest.Activity;
                words = new BenchPrompt(parse.GetValue(prompt) ?? "64", opened, chosen.Seed.Value);
                Tokens.Demand(words.For(0), opened.Config, count);
            }
            // Before minutes of measuring, not after them.
            if (parse.GetValue(trace) is { } file && !Directory.Exists(Path.GetDirectoryName(Path.GetFullPath(file))))
                throw new CliException($"{file}: there is no such folder to write the trace to");
            var spans = parse.GetValue(trace) is null ? null : new StepTrace(1 << 16);
            int[] numbers = parse.GetValue(sessions) is { Length: > 0 } several ? several : [1];
            var options = engine.Engine(parse, paths == "engine" ? BudgetHost.Engine : BudgetHost.Grains, numbers.Max(), words.Length + count);
            if (options.Budget != null && paths == "both") throw new UsageException("--path both holds the model twice in one process: --budget plans for one, take --path grains or engine");
            var hosts = new List<IModelHost>();
            try
            {
                foreach (string p in paths == "both" ? ["grains", "engine"] : new[] { paths })
                    hosts.Add(await HostFlags.StartAsync(app, package, p, options with { Trace = spans }, engine.Layer(parse), tells: true));
                var rows = await MeasureAsync(app, hosts, words, numbers, count, parse.GetValue(repeat) ?? (hosts.Count > 1 ? 3 : 1), chosen, spans);
                if (spans != null) WriteTrace(app, spans, parse.GetValue(trace)!);
                if (activity is { } drawn) app.Screen.Remark(SynthVerb.Activity(drawn));
                if (parse.GetValue(json)) app.Screen.Json(Everything(package, activity, words, count, options.Budget, engine.Layer(parse).Window, rows));
                else Print(app.Screen, rows, parse.GetValue(layers));
            }
            finally
            {
                foreach (var host in hosts) await host.DisposeAsync();
            }
        });
        return verb;
    }

    private static async Task<List<Row>> MeasureAsync(App app, List<IModelHost> hosts, BenchPrompt prompt, int[] sessions, int generate, int repeat, SamplingOptions sampling, StepTrace? trace)
    {
        foreach (var host in hosts)
        {
            app.Screen.Progress($"warming up: {host.Path}");
            // Of a seed of its own: where activity is drawn, what is measured must not have been met before.
            await BenchRun.MeasureAsync(host, prompt, 1, Math.Min(generate, 8), sampling with { Seed = ~sampling.Seed }, app.Interrupts.Stop);
        }
        var rows = new List<Row>();
        foreach (int n in sessions)
        {
            var runs = new List<BenchRun>();
            for (int r = 0; r < repeat; r++)
            {
                // In turn, so that a slow minute of the machine falls on both.
                foreach (var host in hosts)
                {
                    trace?.Start();
                    app.Screen.Progress($"measuring: {n} sessions, {host.Path}, run {r + 1} of {repeat}");
                    runs.Add(await BenchRun.MeasureAsync(host, prompt, n, generate, sampling, app.Interrupts.Stop));
                }
            }
            var medians = hosts.Select(h => runs.Where(r => r.Path == h.Path).OrderBy(static r => r.AggregateRate).ElementAt((repeat - 1) / 2)).ToList();
            double? ratio = medians.Count > 1 ? medians[0].AggregateRate / medians[1].AggregateRate : null;
            rows.AddRange(medians.Select(m => new Row(m, m.Path == "grains" ? ratio : null)));
        }
        trace?.Stop();
        app.Screen.EndLine();
        return rows;
    }

    private static void WriteTrace(App app, StepTrace trace, string file)
    {
        try
        {
            using var to = new StreamWriter(file);
            trace.Write(to, TimeProvider.System);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CliException($"{file}: the trace cannot be written: {e.Message}");
        }
        app.Screen.Remark($"trace in {file}{(trace.Lost > 0 ? $"; {trace.Lost} spans more found no room: generate fewer tokens" : "")}");
    }

    private static object Everything(string package, ActivityConfig? activity, BenchPrompt prompt, int generate, BudgetOptions? budget, double window, List<Row> rows) => new
    {
        Package = package,
        PromptTokens = prompt.Length,
        GeneratePerSession = generate,
        Activity = activity,
        Budget = budget?.Size.ToString(),
        Window = budget == null ? window : (double?)null,
        rows[0].Run.Counters.Kernels,
        rows[0].Run.Counters.Threads,
        rows[0].Run.Counters.Access,
        Rows = rows.Select(static row => new
        {
            row.Run.Path,
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
            row.Run.Counters.NativeBytes,
            ManagedBytes = GC.GetTotalMemory(false),
            HeapBytes = GC.GetGCMemoryInfo().TotalCommittedBytes,
            ProcessBytes = Environment.WorkingSet,
            MostProcessBytes = HeapFence.Resident().Most,
            Layers = LayerTable.Json(row.Run.Counters),
        }),
    };

    private static void Print(Screen screen, List<Row> rows, bool layers)
    {
        var table = new Table { Border = TableBorder.None }
            .AddColumns("PATH", "SESSIONS", "TOK/S", "A SESSION", "FIRST", "P50", "P95", "P99", "FLASH/TOKEN", "ACCESS", "HITS", "COMPUTE", "FLASH WAIT", "OTHER", "RATIO");
        foreach (var (run, ratio) in rows)
        {
            table.AddRow(run.Path, Units.Number(run.Sessions, "0"), Units.Number(run.AggregateRate), Units.Number(run.SessionRate), Ms(run.TimeToFirst),
                Ms(run.Percentile(0.50)), Ms(run.Percentile(0.95)), Ms(run.Percentile(0.99)),
                run.Counters.FlashBytesPerToken is { } bytes ? Units.Bytes(bytes) : "-", run.Counters.Access, Units.Percent(run.Counters.HitRate),
                Units.Percent(run.ComputeShare), Units.Percent(run.FlashWaitShare), Units.Percent(run.OtherShare), Units.Number(ratio, "0.000"));
        }
        screen.Tables.Write(table);
        if (!layers) return;
        screen.Out.WriteLine();
        LayerTable.Write(screen, rows[^1].Run.Counters);
    }

    private static string Ms(double milliseconds) => Units.Number(milliseconds, milliseconds < 10 ? "0.00" : "0.0") + " ms";
}
