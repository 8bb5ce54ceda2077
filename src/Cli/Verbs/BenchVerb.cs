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
        var drafts = Flags.Int("--drafts", "K", "Also measure with K drafts a step, in turn with none (default: as many as pay)", 1, 8);
        var acceptance = Flags.Float("--draft-acceptance", "Drafts come from a run before, each token right with this probability: for packages whose text is noise", 0, 1);
        var speculate = Flags.Choice("--speculate", "Also measure with drafts as in service, in turn with none", "off", "lookup", "auto");
        var json = Flags.Json();
        var verb = new Verb("bench", "Measure speed, latency and flash traffic", """
            A short run warms up first and is not shown. tok/s is generated tokens over the time from sending to the last token of the last session; per session it is the
            rate after the first token. first is the mean time to the first token; p50, p95 and p99 are times between tokens. flash/token counts prompt tokens too.
            compute, flash wait and other are shares of the time: layers computing, layers waiting for reads, and everything else (grain calls, sampling, streams, idle).
            Below, one step of decoding (from when every session has its first token): what it needed of memory, of multiply-adds and of flash, the times in which the machine could give each, as measured
            before the first run (reads after the last one, too: the better counts), which of them binds, and the share of the step's time that it explains (REACHED).
            AT ONCE: the share that memory and flash explain when they are used side by side, as far as this machine lets them: each keeps only a part of its rate beside the other. CPU A READ and READING: processor time of the thread that reads.
            With several sessions layers wait side by side: what their waits sum to beyond the time that is left counts once, so flash wait is then at most, other at least.
            --budget or --window, and --mode, may be lists: each with each starts anew and has a row for every number of sessions.
            With --drafts, --draft-acceptance or --speculate every row is followed by one with drafts, measured in turn with it; its ratio is to the rate without. The tokens are the same, or the run fails.
            With --path both, ratio is the rate through grains over the engine's alone: 1 - ratio is Orleans' share of a token.
            """,
            "flash bench emberling --prompt 64 --generate 128 --sessions 1,2,4", "flash bench emberling --prompt \"Tell me a story\" --window 10% --json", "flash bench emberling --path both --sessions 1,8", "flash bench ./big.flash --budget 50%", "flash bench ./big.flash --budget 50%,65%,80% --mode exact,predicted --sessions 1,4")
        { prompt, generate, sessions, repeat, path, drafts, acceptance, speculate, layers, trace, fio, buffered, unbundled, noReuse, json };
        var model = new ModelFlags(verb);
        var sampling = new SamplingFlags(verb);
        var engine = new EngineFlags(verb, several: true);
        var speculation = new SpeculationFlags(verb, speculate: false);
        verb.SetAction(async (parse, _) =>
        {
            string package = model.Path(app, parse), paths = parse.GetValue(path)!;
            int count = parse.GetValue(generate) ?? 64;
            int[] numbers = parse.GetValue(sessions) is { Length: > 0 } several ? several : [1];
            BenchPrompt words;
            SamplingOptions chosen;
            ActivityConfig? activity;
            string? drawn;
            RoutingConfig? routing;
            IReadOnlyList<(EngineOptions Engine, LayerOptions Layer)> settings;
            DeviceRates rates;
            BenchDrafts? guesses = null;
            StepShape[] shapes;
            using (var opened = FlashPackage.Open(package))
            {
                chosen = sampling.Over(opened, parse);
                chosen = chosen with { Seed = chosen.Seed ?? 1 };
                activity = opened.Manifest.Activity;
                routing = opened.Manifest.Routing;
                drawn = SynthVerb.Drawn(opened.Manifest);
                if (parse.GetValue(drafts) != null || parse.GetValue(acceptance) != null || parse.GetValue(speculate) != "off" || speculation.HasDraft(parse))
                {
                    if (paths != "grains") throw new UsageException("--drafts, --draft-acceptance and --speculate are for --path grains: sessions guess, the engine alone does not");
                    guesses = new BenchDrafts(parse.GetValue(speculate) == "lookup" ? Speculation.Lookup : Speculation.Auto, parse.GetValue(drafts) ?? 0, parse.GetValue(acceptance) is { } right ? Math.Round(right, 6) : null) { Vocabulary = opened.Config.VocabSize };
                }
                words = new BenchPrompt(parse.GetValue(prompt) ?? "64", opened, chosen.Seed.Value);
                Tokens.Demand(words.For(0), opened.Config, count);
                settings = engine.Each(parse, paths == "engine" ? BudgetHost.Engine : BudgetHost.Grains, numbers.Max(), words.Length + count);
                if (settings[0].Engine.Budget != null && paths == "both") throw new UsageException("--path both holds the model twice in one process: --budget plans for one, take --path grains or engine");
                if (!parse.GetValue(buffered) && !opened.Access.StartsWith("direct", StringComparison.Ordinal))
                    throw new CliException($"{package}: its files can only be read through the page cache here, so that memory would be measured and not flash: put it on a disk, or take --allow-buffered");
                if (speculation.HasDraft(parse)) settings = [.. settings.Select(s => (speculation.Over(app, parse, s.Engine, package), s.Layer))];
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
                    var measured = await MeasureAsync(app, hosts, words, numbers, count, parse.GetValue(repeat) ?? (hosts.Count > 1 || guesses != null ? 3 : 1), chosen, spans, guesses);
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
            if (drawn != null) app.Screen.Remark(drawn);
            var report = new BenchReport { Package = package, Activity = activity, Routing = routing, PromptTokens = words.Length, Generate = count, Bundled = settings[0].Engine.Bundled, Reuse = settings[0].Layer.Reuse, Rates = rates, Fio = beside, Rows = [.. rows.Select(r => r.Row with { Limits = BenchLimits.Of(r.Row.Run.Decoding, r.Shape, rates) })] };
            if (parse.GetValue(json)) app.Screen.Json(report.Json());
            else report.Print(app.Screen, parse.GetValue(layers));
        });
        return verb;
    }

    private static async Task<List<BenchRow>> MeasureAsync(App app, List<IModelHost> hosts, BenchPrompt prompt, int[] sessions, int generate, int repeat, SamplingOptions sampling, StepTrace? trace, BenchDrafts? drafts)
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
            if (drafts != null)
            {
                rows.AddRange(await PairsAsync(app, hosts[0], prompt, n, generate, repeat, sampling, drafts));
                continue;
            }
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

    /// <summary>Without drafts and with, in turn, so that a slow minute of the machine falls on both.</summary>
    private static async Task<BenchRow[]> PairsAsync(App app, IModelHost host, BenchPrompt prompt, int sessions, int generate, int repeat, SamplingOptions sampling, BenchDrafts drafts)
    {
        var pairs = new List<(BenchRun Plain, BenchRun Guessed)>();
        for (int r = 0; r < repeat; r++)
        {
            app.Screen.Progress($"measuring: {sessions} sessions, run {r + 1} of {repeat}, without drafts");
            var plain = await BenchRun.MeasureAsync(host, prompt, sessions, generate, sampling, app.Interrupts.Stop);
            app.Screen.Progress($"measuring: {sessions} sessions, run {r + 1} of {repeat}, {drafts}");
            var guessed = await BenchRun.MeasureAsync(host, prompt, sessions, generate, sampling, app.Interrupts.Stop, drafts with { Recorded = plain.Tokens });
            for (int i = 0; i < sessions; i++)
                if (!plain.Tokens[i].AsSpan().SequenceEqual(guessed.Tokens[i])) throw new CliException($"with drafts session {i} said something else than without: this is a defect, please report it");
            pairs.Add((plain, guessed));
        }
        app.Screen.EndLine();
        // By rates of decoding: what a prompt takes is the same for both.
        var (low, high) = pairs.OrderBy(static p => p.Guessed.SessionRate / p.Plain.SessionRate).ElementAt((repeat - 1) / 2);
        return [new(low, null), new(high, null) { OverPlain = high.SessionRate / low.SessionRate }];
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
