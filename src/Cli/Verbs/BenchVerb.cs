using System.CommandLine;
using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Bench;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Cli.Options;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash bench NAME`: tokens per second at several numbers of sessions, through grains, on the engine alone, or both in turn.</summary>
internal static class BenchVerb
{
    public static Command Create(App app)
    {
        var prompt = Flags.Text("--prompt", "P", "A number: so many tokens of a built-in text, another part of it for each session. Else the text itself (default 64)");
        var generate = Flags.Int("--generate", "G", "Tokens each session generates; end tokens do not stop it (default 64)", 1);
        var sessions = Flags.Ints("--sessions", "Numbers of sessions at once, a row each (default 1)", 1);
        var repeat = Flags.Int("--repeat", "N", "Runs per row, of which the one with the median rate is shown (default 1; with --path both 3)", 1, 100);
        var path = Flags.Choice("--path", "Through layer grains, on the engine without Orleans, or both in turn in this process with the ratio of their rates", "grains", "engine", "both");
        var layers = new Option<bool>("--layers") { Description = "Also show every layer of the last row" };
        var buffered = new Option<bool>("--allow-buffered") { Description = "Measure a package that can only be read through the page cache here: then memory is measured, not flash, and every row says so" };
        var unbundled = new Option<bool>("--unbundled") { Description = "Read the rows of a neuron one by one, to measure what bundles are worth" };
        var noReuse = new Option<bool>("--no-reuse") { Description = "Windows so small that nothing of a step is left for the next, to measure what they are worth" };
        var fio = new Option<bool>("--fio") { Description = "Have fio measure the same reads of this package beside the probe, a second for each size" };
        var trace = Flags.Text("--trace", "FILE", "Write what every layer did when, in the last run, as JSON that chrome://tracing and Perfetto show");
        var json = Flags.Json();
        var verb = new Verb("bench", "Measure speed, latency and flash traffic", """
            A short run warms up first and is not shown. tok/s is generated tokens over the time from sending to the last token of the last session; per session it is the
            rate after the first token. first is the mean time to the first token; p50, p95 and p99 are times between tokens. flash/token counts prompt tokens too.
            compute, flash wait and other are shares of the time: layers computing, layers waiting for reads, and everything else (grain calls, sampling, streams, idle).
            Below, one step of decoding (from when every session has its first token): what it needed of memory, of multiply-adds and of flash, the times in which the machine could give each, as measured
            before the first run (reads after the last one, too: the better counts), which of them binds, and the share of the step's time that it explains (REACHED). CPU A READ and READING: processor time of the thread that reads.
            With several sessions layers wait side by side: what their waits sum to beyond the time that is left counts once, so flash wait is then at most, other at least.
            --budget or --window, and --mode, may be lists: each with each starts anew and has a row for every number of sessions.
            With --path both, ratio is the rate through grains over the engine's alone: 1 - ratio is Orleans' share of a token.
            """,
            "flash bench emberling --prompt 64 --generate 128 --sessions 1,2,4", "flash bench emberling --prompt \"Tell me a story\" --window 10% --json", "flash bench emberling --path both --sessions 1,8", "flash bench ./big.flash --budget 50%", "flash bench ./big.flash --budget 50%,65%,80% --mode exact,predicted --sessions 1,4")
        { prompt, generate, sessions, repeat, path, layers, trace, fio, buffered, unbundled, noReuse, json };
        var model = new ModelFlags(verb);
        var sampling = new SamplingFlags(verb);
        var engine = new EngineFlags(verb, several: true);
        verb.SetAction(async (parse, _) =>
        {
            string package = model.Path(app, parse), paths = parse.GetValue(path)!;
            int count = parse.GetValue(generate) ?? 64;
            int[] numbers = parse.GetValue(sessions) is { Length: > 0 } several ? several : [1];
            BenchPrompt words;
            SamplingOptions chosen;
            ActivityConfig? activity;
            IReadOnlyList<(EngineOptions Engine, LayerOptions Layer)> settings;
            DeviceRates rates;
            StepShape[] shapes;
            using (var opened = FlashPackage.Open(package))
            {
                chosen = sampling.Over(opened, parse);
                chosen = chosen with { Seed = chosen.Seed ?? 1 };
                activity = opened.Manifest.Activity;
                words = new BenchPrompt(parse.GetValue(prompt) ?? "64", opened, chosen.Seed.Value);
                Tokens.Demand(words.For(0), opened.Config, count);
                settings = engine.Each(parse, paths == "engine" ? BudgetHost.Engine : BudgetHost.Grains, numbers.Max(), words.Length + count);
                if (settings[0].Engine.Budget != null && paths == "both") throw new UsageException("--path both holds the model twice in one process: --budget plans for one, take --path grains or engine");
                if (!parse.GetValue(buffered) && !opened.Access.StartsWith("direct", StringComparison.Ordinal))
                    throw new CliException($"{package}: its files can only be read through the page cache here, so that memory would be measured and not flash: put it on a disk, or take --allow-buffered");
                settings = [.. settings.Select(s => (s.Engine with { Bundled = !parse.GetValue(unbundled) }, s.Layer with { Reuse = !parse.GetValue(noReuse) }))];
                // Before minutes of measuring, not after them; and all of them fit, or nothing is measured.
                if (parse.GetValue(trace) is { } file && !Directory.Exists(Path.GetDirectoryName(Path.GetFullPath(file))))
                    throw new CliException($"{file}: there is no such folder to write the trace to");
                foreach (var (options, layer) in settings)
                    if (options.Budget != null) BudgetPlan.Of(opened, options, layer).Demand();
                shapes = [.. settings.Select(s => StepShape.Of(opened.Manifest, s.Layer))];
                app.Screen.Progress("measuring the machine");
                rates = DeviceProbe.Measure(opened, settings[0].Engine);
            }
            var spans = parse.GetValue(trace) is null ? null : new StepTrace(1 << 16);
            var rows = new List<(BenchRow Row, StepShape Shape)>();
            foreach (var ((options, layer), shape) in settings.Zip(shapes))
            {
                var hosts = new List<IModelHost>();
                // What the setting before left is not this one's.
                if (options.Budget != null) HeapFence.Trim();
                HeapFence.Forget();
                try
                {
                    foreach (string p in paths == "both" ? ["grains", "engine"] : new[] { paths })
                        hosts.Add(await HostFlags.StartAsync(app, package, p, options with { Trace = spans }, layer, tells: true));
                    var measured = await MeasureAsync(app, hosts, words, numbers, count, parse.GetValue(repeat) ?? (hosts.Count > 1 ? 3 : 1), chosen, spans);
                    rows.AddRange(measured.Select(r => (r with
                    {
                        Budget = options.Budget?.Size.ToString(),
                        Window = options.Budget == null ? layer.Window : null,
                        Mode = layer.Mode,
                    }, shape)));
                }
                finally
                {
                    foreach (var host in hosts) await host.DisposeAsync();
                }
            }
            IReadOnlyList<ReadCost>? beside = null;
            using (var opened = FlashPackage.Open(package))
            {
                app.Screen.Progress("measuring the machine again");
                rates = DeviceProbe.Again(opened, settings[0].Engine, rates);
                if (parse.GetValue(fio)) beside = FioProbe.Measure(package, rates.Reads.Select(static r => r.Bytes));
                app.Screen.EndLine();
            }
            if (spans != null) WriteTrace(app, spans, parse.GetValue(trace)!);
            if (activity is { } drawn) app.Screen.Remark(SynthVerb.Activity(drawn));
            var report = new BenchReport { Package = package, Activity = activity, PromptTokens = words.Length, Generate = count, Bundled = settings[0].Engine.Bundled, Reuse = settings[0].Layer.Reuse, Rates = rates, Fio = beside, Rows = [.. rows.Select(r => r.Row with { Limits = BenchLimits.Of(r.Row.Run.Decoding, r.Shape, rates) })] };
            if (parse.GetValue(json)) app.Screen.Json(report.Json());
            else report.Print(app.Screen, parse.GetValue(layers));
        });
        return verb;
    }

    private static async Task<List<BenchRow>> MeasureAsync(App app, List<IModelHost> hosts, BenchPrompt prompt, int[] sessions, int generate, int repeat, SamplingOptions sampling, StepTrace? trace)
    {
        foreach (var host in hosts)
        {
            app.Screen.Progress($"warming up: {host.Path}");
            // Of a seed of its own: where activity is drawn, what is measured must not have been met before.
            await BenchRun.MeasureAsync(host, prompt, 1, Math.Min(generate, 8), sampling with { Seed = ~sampling.Seed }, app.Interrupts.Stop);
        }
        var rows = new List<BenchRow>();
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
            rows.AddRange(medians.Select(m => new BenchRow(m, m.Path == "grains" ? ratio : null)));
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
}
