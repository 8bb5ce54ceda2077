using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash import PATH`: a checkpoint folder becomes a package of the store.</summary>
internal static class ImportVerb
{
    public static Command Create(App app)
    {
        var path = new Argument<string>("PATH") { Description = "Folder with config.json and safetensors files, or a .gguf file (any part of a split one)" };
        var name = Flags.Text("--name", "NAME", "Name in $FLASH_HOME (default: that of the folder or file)");
        var quant = ModelFlags.QuantOfImport();
        var activation = Flags.Text("--activation", "KIND", "relu, silu or fatrelu:THRESHOLD, where the configuration names another one than the model was trained with");
        var predictors = Flags.Text("--predictors", "DIR|KIND", "For --mode predicted: a folder of trained predictors (model_0.pt, model_1.pt, ...; a PowerInfer file brings its own), or made from the weights: sketch4, sketch3, sketch2 (the deciding rows in so few bits), svd or svd:RANK (low rank)");
        var recall = new Option<string>("--recall") { HelpName = "SHARE", Description = "Thresholds of the predictors, each layer's so that on the calibration text so much of what is active is found, such as 97% (default: 99% for those that are made; trained ones keep theirs)" };
        recall.Validators.Add(static result =>
        {
            foreach (var token in result.Tokens)
                if (!Units.TryShare(token.Value, out double share) || share is not (> 0 and < 1)) result.AddError($"--recall: '{token.Value}' is no share such as 97%");
        });
        var order = new Option<string>("--order") { HelpName = "ORDER", DefaultValueFactory = static _ => PackageLayout.Identity, Description = "Order of a layer's neurons on flash: identity, or popularity (most often active on the calibration text first)" };
        order.AcceptOnlyFromAmong(PackageLayout.Identity, PackageLayout.Popularity);
        var bundles = Bundles();
        var calibration = Flags.Text("--calibration", "FILE", "UTF-8 text like that the model will see, for --recall, --order and predictors that are made (default: a short tale)");
        var dry = new Option<bool>("--dry-run") { Description = "Say what would be written and, from a sample, what it would lose; write nothing" };
        var json = Flags.Json();
        var verb = new Verb("import", "Convert a checkpoint into a flash package", "", "flash import ./models/emberling", "flash import ~/opt-125m --name opt --quant q4", "flash import ./smollm2-135m-instruct-q4_1.gguf --name smollm2", "flash import ~/model.gguf --dry-run", "flash import ~/prosparse-7b --predictors ~/prosparse-7b-predictor", "flash import ~/prosparse-7b --predictors sketch4 --recall 99% --calibration mine.txt", "flash import ~/bamboo-7b --bundles lean")
        {
            path, name, quant, activation, predictors, recall, order, bundles, calibration, dry, json,
        };
        verb.SetAction(parse =>
        {
            string source = Path.GetFullPath(parse.GetRequiredValue(path));
            string target = parse.GetValue(name) ?? (File.Exists(source) ? Path.GetFileNameWithoutExtension(source) : Path.GetFileName(Path.TrimEndingDirectorySeparator(source)));
            if (!PackageStore.IsValidName(target))
                throw new UsageException($"'{target}' cannot be a model's name; give one with --name (letters, digits, '.', '_', '-'; the first a letter or digit, not ending in {PackageStore.Extension})");
            if (!Path.Exists(source)) throw new CliException($"{source}: there is no such folder or file; give the folder that holds config.json and the safetensors files, or a .gguf file");
            var options = new ImportOptions
            {
                Name = target,
                Quant = parse.GetValue(quant)!,
                Activation = parse.GetValue(activation),
                Predictors = parse.GetValue(predictors) is not { } what ? null : PredictorSource.IsMade(what) ? what : Path.GetFullPath(what),
                Recall = parse.GetValue(recall) is { } share && Units.TryShare(share, out double stated) ? stated : null,
                Order = parse.GetValue(order)!,
                Lean = parse.GetValue(bundles) == PackageLayout.LeanBundles,
                Calibration = parse.GetValue(calibration) is { } text ? Path.GetFullPath(text) : null,
            };
            if (parse.GetValue(dry))
            {
                Show(app.Screen, Importer.Plan(source, options, app.Interrupts.Stop), parse.GetValue(json));
                return;
            }
            var result = Importer.Import(source, app.Store.Target(target), options, new ImportLine(target, app.Screen), app.Interrupts.Stop);
            app.Screen.EndLine();
            if (parse.GetValue(json))
            {
                app.Screen.Json(new { result.Name, result.Path, result.Hash, Quant = Text(result.Formats), Mode = Mode(result.Config), result.Predictors, result.SourceBytes, result.Bytes, ResidentBytes = result.Bytes - result.StreamedBytes, result.StreamedBytes, result.Errors, result.Measured, result.Notes });
                return;
            }
            foreach (string note in result.Notes) app.Screen.Remark(note);
            app.Screen.Out.WriteLine($"{result.Name}: {Text(result.Formats)}, {Units.Bytes(result.SourceBytes)} became {Units.Bytes(result.Bytes)} in {result.Path}: {Units.Bytes(result.Bytes - result.StreamedBytes)} resident, {Units.Bytes(result.StreamedBytes)} read as they are needed");
            app.Screen.Out.WriteLine(Mode(result.Config));
            if (result.Predictors is { } stored) app.Screen.Out.WriteLine($"predictors: {Text(stored)}; --mode predicted uses them");
            app.Screen.Out.WriteLine($"zeros in the feed-forward: {Zeros(result.Measured)}");
            ShowErrors(app.Screen, result.Errors);
        });
        return verb;
    }

    public static Option<string> Bundles()
    {
        var bundles = new Option<string>("--bundles") { HelpName = "KIND", DefaultValueFactory = static _ => PackageLayout.WholeBundles, Description = "What of a ReLU model is read for a neuron: whole (all of its rows, for every mode), or lean (without the row that decides whether it is active, which is resident: less to store and to read, for mode exact alone, without predictors; of ReLU experts single neurons are then read)" };
        bundles.AcceptOnlyFromAmong(PackageLayout.WholeBundles, PackageLayout.LeanBundles);
        return bundles;
    }

    /// <summary>Mean and range over the layers.</summary>
    public static string Zeros(Measured? m) => m is { Zeros.Count: > 0 }
        ? $"{Units.Percent(m.Zeros.Average())} ({Units.Percent(m.Zeros.Min())} to {Units.Percent(m.Zeros.Max())} by layer), measured over {m.Tokens} tokens"
        : "not measured";

    private static void ShowErrors(Screen screen, IReadOnlyList<QuantizationError> errors)
    {
        if (errors.Count == 0) return;
        var table = new Table { Border = TableBorder.None }.AddColumns("MATRIX", "ERROR", "WORST ROW");
        foreach (var e in errors) table.AddRow(Markup.Escape(e.Kind), Units.Number(100 * e.Mean, "0.000") + " %", Units.Number(100 * e.WorstRow, "0.000") + " %");
        screen.Tables.Write(table);
    }

    /// <summary>"q4b (embed q8, ffn.up bf16)"; many layers that differ are counted.</summary>
    public static string Text(WeightFormats formats)
    {
        string[] kinds = [.. formats.Exceptions.Where(static e => !e.Key.StartsWith("layers.", StringComparison.Ordinal)).Select(static e => $"{e.Key} {PackageLayout.FormatName(e.Value)}")];
        int layers = formats.Exceptions.Count - kinds.Length;
        if (layers > 0) kinds = [.. kinds, $"{layers} matrices of single layers otherwise"];
        return PackageLayout.FormatName(formats.Most) + (kinds.Length == 0 ? "" : $" ({string.Join(", ", kinds)})");
    }

    /// <summary>"lowrank, rank 128, threshold 0; look-ahead rank 256, threshold 0"; what differs between layers as a range.</summary>
    public static string Text(PredictorConfig predictors)
    {
        static string Range<T>(IEnumerable<T> values) where T : IFormattable
        {
            string Of(T value) => value.ToString(null, System.Globalization.CultureInfo.InvariantCulture);
            return Equals(values.Min(), values.Max()) ? Of(values.Min()!) : $"{Of(values.Min()!)}..{Of(values.Max()!)}";
        }
        static string Ranks(IReadOnlyList<LowRank> all) => (all[0].Rank == 0 ? "" : $"rank {Range(all.Select(static p => p.Rank))}, ") + $"threshold {Range(all.Select(static p => p.Threshold))}";
        string text = predictors.Kind + (predictors.Bits is { } bits ? $" of {bits} bits" : "") + $", {Ranks(predictors.Layers)}";
        if (predictors.Recall is { } recall)
        {
            text += $", recall {Units.Percent(recall)} on {predictors.Tokens} tokens";
            if (predictors.Layers.All(static l => l.Taken != null)) text += $" with {Range(predictors.Layers.Select(static l => Math.Round(l.Taken!.Value, 2)))} times what is active";
        }
        if (predictors.Layers.Any(static l => l.Core != null)) text += $", {Range(predictors.Layers.Select(static l => l.Core ?? 0))} neurons always";
        return text + (predictors.Lookahead is { Count: > 0 } ahead ? $"; look-ahead {Ranks(ahead)}" : "");
    }

    /// <summary>Which feed-forward mode the model will run in, and why.</summary>
    public static string Mode(ModelConfig c) => c switch
    {
        { Experts: { ByNeuron: true } e } => $"mode exact: {e.Active} of {e.Count} experts are computed for each token, of them the neurons that activation {c.Activation} does not make zero are read",
        { Experts: { } e } => $"mode dense: {e.Active} of {e.Count} experts are read for each token",
        { IsSparse: true } => $"mode exact: activation {c.Activation} gives exact zeros, which are not read",
        _ => $"mode dense: activation {c.Activation} gives no exact zeros, so every neuron is read",
    };

    private static void Show(Screen screen, ImportPlan plan, bool json)
    {
        if (json)
        {
            screen.Json(new { plan.Config.Architecture, Quant = Text(plan.Formats), Mode = Mode(plan.Config), plan.Predictors, plan.SourceBytes, plan.Bytes, plan.ResidentBytes, plan.StreamedBytes, plan.Errors, plan.Sampled, plan.Notes });
            return;
        }
        foreach (string note in plan.Notes) screen.Remark(note);
        screen.Out.WriteLine($"{plan.Config.Architecture}: {Text(plan.Formats)}, {Units.Bytes(plan.SourceBytes)} would become {Units.Bytes(plan.Bytes)}: {Units.Bytes(plan.ResidentBytes)} resident, {Units.Bytes(plan.StreamedBytes)} read as they are needed");
        screen.Out.WriteLine(Mode(plan.Config));
        if (plan.Predictors is { } predictors) screen.Out.WriteLine($"predictors: {Text(predictors)}");
        if (plan.Sampled < 1) screen.Out.WriteLine($"errors are sampled, from {Units.Percent(plan.Sampled)} of the numbers that change");
        ShowErrors(screen, plan.Errors);
    }
}
