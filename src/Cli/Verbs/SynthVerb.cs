using System.CommandLine;
using System.Diagnostics;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Synthetic;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash synth --shape NAME`: a model of a published shape with random weights, to measure sizes and speeds with.</summary>
internal static class SynthVerb
{
    public static Command Create(App app)
    {
        var shape = new Option<string>("--shape") { HelpName = "NAME|FILE", Required = true, Description = $"{string.Join(", ", SyntheticModel.Shapes)}, or a file in the layout of config.json" };
        var quant = Flags.Choice("--quant", "Format of the matrices", "q4", "q8", "bf16", "f32");
        var layers = Flags.Int("--layers", "N", "Another number of layers than the shape has", 1, 1 << 12);
        var seed = Flags.Seed();
        seed.Description = "Another seed, other weights (default 0)";
        var activity = Flags.Text("--activity", "A", "Which neurons of a ReLU model are active: drawn as published (paper), the same with a prediction that is right (oracle), with what a JSON file says differently, or none: as the random weights have it (default paper for ReLU models); of a model of experts how they follow each other");
        var order = new Option<string>("--order") { HelpName = "ORDER", DefaultValueFactory = static _ => PackageLayout.Identity, Description = "Order of a ReLU layer's neurons on flash: identity, or popularity (most often active in 256 tokens of another session first)" };
        order.AcceptOnlyFromAmong(PackageLayout.Identity, PackageLayout.Popularity);
        var bundles = ImportVerb.Bundles();
        var gguf = Flags.Text("--gguf", "OUT.gguf", "Write the same tensors as a GGUF file as well (Llama, OLMoE, Qwen3, Mixtral and gpt-oss shapes)");
        var name = Flags.Text("--name", "NAME", "Name in $FLASH_HOME (default: shape, quantisation and -synth)");
        var json = Flags.Json();
        var verb = new Verb("synth", "Make a model of a published shape with random weights", """
            What such a model writes is noise; its sizes and reads are those of the real one. Random weights are not sparse, so which neurons of a ReLU model are active is drawn, for each
            session and token, with the statistics that are published for trained models. A layer learns its set only after it has done its selector's or predictor's arithmetic, and pays for all of it.
            A file for --activity holds what differs: {"mean":0.05,"predicted":3,"recall":0.97,"popularity":0.3,"persistence":0.3,"burst":0.8,"drift":0.2,"topic":128,"aheadRecall":0.95,"aheadPrecision":0.8}
            """,
            "flash synth --shape llama-2-7b", "flash synth --shape opt-6.7b --activity oracle --name opt-oracle", "flash synth --shape opt-6.7b --quant q8 --layers 4 --name opt4", "flash synth --shape olmoe-7b --gguf ./olmoe.gguf", "flash synth --shape tinyllama-1.1b --gguf ./tinyllama.gguf", "flash synth --shape ./config.json --seed 7")
        {
            shape, quant, activity, order, bundles, layers, seed, gguf, name, json,
        };
        verb.SetAction(parse =>
        {
            string what = parse.GetRequiredValue(shape), format = parse.GetValue(quant)!;
            string target = parse.GetValue(name) ?? $"{Path.GetFileNameWithoutExtension(SyntheticModel.Shapes.Contains(what) ? what + "." : what)}-{format}-synth";
            if (!PackageStore.IsValidName(target))
                throw new UsageException($"'{target}' cannot be a model's name; give one with --name (letters, digits, '.', '_', '-'; the first a letter or digit, not ending in {PackageStore.Extension})");
            string? file = parse.GetValue(gguf) is { } path ? Path.GetFullPath(path) : null;
            var options = new SyntheticOptions { Shape = what, Quant = format, Layers = parse.GetValue(layers), Seed = parse.GetValue(seed) ?? 0, Activity = parse.GetValue(activity) ?? "auto", Order = parse.GetValue(order)!, Lean = parse.GetValue(bundles) == PackageLayout.LeanBundles, Name = target, Gguf = file };
            var watch = Stopwatch.StartNew();
            var result = SyntheticModel.Create(app.Store.Target(target), options, new ImportLine(target, app.Screen), app.Interrupts.Stop);
            long? fileBytes = file is null ? null : new FileInfo(file).Length;
            app.Screen.EndLine();
            using var package = FlashPackage.Open(result.Path);
            var figures = SyntheticModel.Activity(package.Manifest);
            if (parse.GetValue(json))
            {
                app.Screen.Json(new { result.Name, result.Path, result.Hash, Quant = format, Mode = ImportVerb.Mode(result.Config), options.Seed, result.Bytes, package.Manifest.Activity, package.Manifest.Routing, Figures = figures, Gguf = file, GgufBytes = fileBytes, Seconds = watch.Elapsed.TotalSeconds });
                return;
            }
            app.Screen.Remark(Noise(result.Name, options.Seed));
            app.Screen.Out.WriteLine($"{result.Name}: {format}, {Units.Bytes(result.Bytes)} in {result.Path}{(file is null ? "" : $", {Units.Bytes(fileBytes!.Value)} in {file}")}, {Units.Seconds(watch.Elapsed)}");
            app.Screen.Out.WriteLine(ImportVerb.Mode(result.Config));
            if (Drawn(package.Manifest) is not { } drawn) return;
            app.Screen.Out.WriteLine(drawn);
            var table = new Table { Border = TableBorder.None }.AddColumns(package.Manifest.Routing != null ? "PERCENT OF THE EXPERTS" : "PERCENT OF THE NEURONS", "DRAWN", "PUBLISHED");
            foreach (var f in figures) table.AddRow(Markup.Escape(f.What), Units.Number(f.Measured, "0.00"), Units.Number(f.Published, "0.00"));
            app.Screen.Tables.Write(table);
        });
        return verb;
    }

    /// <summary>What has to be said wherever such a model is measured; null where nothing is drawn.</summary>
    public static string? Drawn(Manifest manifest) => manifest.Activity is { } a ? Activity(a) : manifest.Routing is { } r ? Routing(r) : null;

    private static string Routing(RoutingConfig r) =>
        $"synthetic routing ({r.Name}): experts follow each other as is reported of trained models; a layer ahead recall {Units.Percent(r.AheadRecall)} is an assumption";

    private static string Activity(ActivityConfig a) => Sets(a) + (a.Ordered > 0 ? $"; on flash by how often they were active in {a.Ordered} tokens of another session" : "");

    private static string Sets(ActivityConfig a) => a.IsOracle
        ? $"synthetic activity ({a.Name}): {Units.Percent(a.MeanDensity)} of the neurons, and the prediction is right: an upper bound"
        : $"synthetic activity ({a.Name}): {Units.Percent(a.MeanDensity)} of the neurons; predicted {Units.Number(a.Predicted, "0.##")} times as many with recall {Units.Percent(a.Recall)}; a layer ahead recall {Units.Percent(a.AheadRecall)}, precision {Units.Percent(a.AheadPrecision)}";

    /// <summary>What has to be said wherever a model of random weights is shown or used.</summary>
    public static string Noise(string name, ulong seed) => $"{name} has random weights (seed {seed}): what it writes is noise";
}
