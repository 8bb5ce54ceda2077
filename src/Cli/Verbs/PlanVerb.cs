using System.CommandLine;
using FlashOrleans.Cli.Bench;
using FlashOrleans.Cli.Options;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Synthetic;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash plan NAME --budget X`: where the memory would go and how fast it would be, before anything is loaded.</summary>
internal static class PlanVerb
{
    public static Command Create(App app)
    {
        var path = Flags.Choice("--path", "Through layer grains, with HTTP in front (flash serve), which takes more, or on the engine without Orleans, which takes less", "grains", "http", "engine");
        var memory = Flags.Float("--memory-rate", "GB/s that all threads read from memory together, instead of measuring", 0.01f, 10_000);
        var reads = Flags.Float("--read-rate", "Thousands of scattered reads of a unit a second, instead of measuring", 0.01f, 100_000);
        var flash = Flags.Float("--flash-rate", "GB/s of long reads, instead of measuring", 0.001f, 1_000);
        var compute = Flags.Float("--compute-rate", "Thousand millions of multiply-adds a second of all threads, whatever the number of tokens, instead of measuring", 0.01f, 1_000_000);
        var bundles = ImportVerb.Bundles();
        var json = Flags.Json();
        var verb = new Verb("plan", "Show where the memory of a budget would go, and the expected speed", """
            Nothing is loaded. Windows get what the rest leaves, so that every layer is expected to wait equally long for what it misses; a model that reads every neuron keeps
            the same share of every layer. Exit code 1 and what would do when the budget is too small.
            Expected tok/s: from (reading memory, multiplying and reading flash one after the other) to (all at once, as far as look-ahead works). All three are measured for
            a second or two unless given. For a model of experts there is one figure beside the two: a few layers of its rows, formats and experts are written (1.5 GB or three layers), run as this one would be, with windows as large, and deleted. Misses are expected by the zeros that the import measured, 95 % where it did not; they are an upper estimate. The name of a shape of `flash synth` that is no model here is planned for before anything is written: --quant says in which format (default q4), --bundles with which bundles.
            """,
            "flash plan emberling --budget 150MiB", "flash plan qwen3-30b-a3b --budget 8GiB", "flash plan prosparse-7b --bundles lean --budget 2.5GB", "flash plan ./big.flash --budget 50% --sessions 8 --context 1024", "flash plan ./big.flash --budget 4GiB --kv f16 --memory-rate 12.4 --read-rate 78 --flash-rate 1.5 --compute-rate 62 --json")
        { path, memory, reads, flash, compute, bundles, json };
        var model = new ModelFlags(verb);
        var budget = new BudgetFlags(verb, promises: true, required: true);
        var engine = new EngineFlags(verb, window: false, budget: false);
        var speculation = new SpeculationFlags(verb, speculate: false);
        verb.SetAction(async (parse, _) =>
        {
            // A shape that nothing was written of: what a download or `flash synth` would bring.
            string name = model.Name(parse);
            bool isShape = SyntheticModel.Shapes.Contains(name) && !Directory.Exists(app.Store.Target(name));
            bool lean = parse.GetValue(bundles) == PackageLayout.LeanBundles;
            using var package = isShape ? null : model.Open(app, parse);
            if (lean && package is { Manifest.Lean: false }) throw new CliException($"{package}: has whole bundles; --bundles is for a shape that is not written yet, import with --bundles lean");
            Manifest manifest = package?.Manifest ?? SyntheticModel.Plan(name, model.Format(parse), lean);
            var options = engine.Engine(parse) with { Budget = budget.Of(parse, parse.GetValue(path) switch { "engine" => BudgetHost.Engine, "http" => BudgetHost.Http, _ => BudgetHost.Grains }) };
            // What flash serve does unless it is told otherwise.
            if (options.Budget is { Host: BudgetHost.Http }) options = options with { KvDisk = ServeVerb.Saves(app, ServeVerb.DefaultDisk) };
            options = speculation.Over(app, parse, options, package is null ? [] : [package.Path]);
            var plan = BudgetPlan.Of(manifest, package?.DeviceAlignment ?? PackageLayout.Page, options, engine.Layer(parse));
            DeviceRates? rates = plan.Fits ? Rates(package, manifest, app.Store.Folder, options, parse.GetValue(memory), parse.GetValue(reads), parse.GetValue(flash), parse.GetValue(compute)) : null;
            int[] sessions = rates is null ? [] : [.. new[] { 1, plan.Options.Sessions }.Distinct()];
            // Who gives all rates wants an answer about another machine.
            StepTrial[] trials = rates is null || rates.Source == Given || manifest.Model.Experts == null ? [] : await PlanTrial.MeasureAsync(app, plan, options, engine.Layer(parse), parse.GetValue(path)!, sessions);
            Expectation[] speed = [.. sessions.Select(n => Expectation.Of(plan, rates!, n, trials.FirstOrDefault(t => t.Sessions == n)))];
            if (parse.GetValue(json)) app.Screen.Json(Everything(plan, rates, speed));
            else Print(app.Screen, plan, rates, speed);
            if (plan.Fits) return 0;
            app.Screen.Error.WriteLine($"flash: {plan.Refusal}");
            return Failure.Failed;
        });
        return verb;
    }

    private const string Given = "as given";

    private static DeviceRates Rates(FlashPackage? package, Manifest manifest, string folder, EngineOptions options, float? memory, float? reads, float? flash, float? compute)
    {
        const int longRead = 256 * 1024;
        int unit = PackageLayout.BundleSlots(manifest, 0, whole: true, package?.DeviceAlignment ?? PackageLayout.Page).PartBytes;
        DeviceRates? measured = memory is null || reads is null || flash is null || (package is null && compute is null) ? (package is null ? DeviceProbe.Measure(manifest, folder, options, unit) : DeviceProbe.Measure(package, options, unit)) : null;
        (double one, double many) = compute is { } rate ? (rate * 1e9, rate * 1e9) : measured is null ? DeviceProbe.Compute(package!, options) : (measured.OneToken, measured.ManyTokens);
        ReadCost Cost(int bytes, double? given) => new(bytes, given ?? ReadCost.Of(measured!.Reads, bytes));
        int given = new[] { memory, reads, flash, compute }.Count(static r => r != null);
        return new DeviceRates
        {
            Memory = memory * 1e9 ?? measured!.Memory,
            OneToken = one,
            ManyTokens = many,
            Reads = unit < longRead ? [Cost(unit, 1e-3 / reads), Cost(longRead, longRead / (flash * 1e9))] : [Cost(longRead, longRead / (flash * 1e9))],
            Source = given == 4 ? Given : given > 0 ? $"as given, the rest {measured?.Source ?? "measured"}" : measured!.Source,
        };
    }

    private static object Everything(BudgetPlan plan, DeviceRates? rates, Expectation[] speed) => new
    {
        plan.Manifest.Name,
        BudgetBytes = plan.Budget,
        plan.Fits,
        MinimumBytes = plan.Minimum,
        plan.Refusal,
        plan.Options.Sessions,
        plan.Context,
        Lines = plan.Lines.Select(static l => new { l.Kind, l.Bytes, l.Detail }),
        SumBytes = plan.Sum,
        LeftBytes = plan.Left,
        plan.HeapLimit,
        StreamedBytes = plan.Streamed,
        plan.WindowSlots,
        Rates = rates,
        Expected = speed.Select(static e => new
        {
            e.Sessions,
            e.Needs.MemoryBytes,
            e.Needs.MultiplyAdds,
            e.Needs.FlashBytes,
            e.Needs.FlashReads,
            e.Times.MemorySeconds,
            e.Times.ComputeSeconds,
            e.Times.FlashSeconds,
            e.Times.Limit,
            e.ExpectedTokensPerSecond,
            e.TokensPerSecond,
            e.LeastTokensPerSecond,
        }),
    };

    private static void Print(Screen screen, BudgetPlan plan, DeviceRates? rates, Expectation[] speed)
    {
        var table = new Table { Border = TableBorder.None }.AddColumns("MEMORY", "BYTES", "WHAT");
        foreach (var line in plan.Lines) table.AddRow(line.Kind, Units.Bytes(line.Bytes), Markup.Escape(line.Detail));
        table.AddRow("sum", Units.Bytes(plan.Sum), plan.Fits ? $"of {Units.Bytes(plan.Budget)}, {Units.Bytes(plan.Left)} left" : $"the least; the budget is {Units.Bytes(plan.Budget)}");
        screen.Tables.Write(table);
        if (rates is null) return;
        screen.Out.WriteLine();
        screen.Out.WriteLine($"memory {Units.Number(rates.Memory / 1e9)} GB/s, {Units.Number(rates.OneToken / 1e9)} thousand million multiply-adds a second with one token and {Units.Number(rates.ManyTokens / 1e9)} with {DeviceRates.Many}, "
            + $"{string.Join(", ", rates.Reads.Select(static r => $"{Units.Number(1e-3 / r.Seconds)} thousand reads of {r.Bytes} B a second"))} ({rates.Source})");
        foreach (var e in speed)
        {
            screen.Out.WriteLine($"{e.Sessions} session{(e.Sessions == 1 ? "" : "s")}: a step reads {Units.Bytes(e.Needs.MemoryBytes)} of memory, multiplies {Units.Number(e.Needs.MultiplyAdds / 1e9, "0.00")} thousand millions "
                + $"and reads {Units.Bytes(e.Needs.FlashBytes)} of flash in {Units.Number(e.Needs.FlashReads, "0")} reads: {Units.Number(1e3 * e.Times.MemorySeconds)}, {Units.Number(1e3 * e.Times.ComputeSeconds)} and {Units.Number(1e3 * e.Times.FlashSeconds)} ms; "
                + (e.ExpectedTokensPerSecond is { } tried ? $"expected {Units.Number(tried, "0.00")} tok/s by a step that was tried, {Units.Number(e.LeastTokensPerSecond, "0.00")} to {Units.Number(e.TokensPerSecond, "0.00")} by these limits"
                    : $"expected {Units.Number(e.LeastTokensPerSecond, "0.00")} to {Units.Number(e.TokensPerSecond, "0.00")} tok/s"));
        }
    }
}
