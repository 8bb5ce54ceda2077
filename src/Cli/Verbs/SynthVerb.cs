using System.CommandLine;
using System.Diagnostics;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Synthetic;

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
        var gguf = Flags.Text("--gguf", "OUT.gguf", "Write the same tensors as a GGUF file as well (Llama shapes)");
        var name = Flags.Text("--name", "NAME", "Name in $FLASH_HOME (default: shape, quantisation and -synth)");
        var json = Flags.Json();
        var verb = new Verb("synth", "Make a model of a published shape with random weights", "What such a model writes is noise; its sizes and reads are those of the real one.",
            "flash synth --shape llama-2-7b", "flash synth --shape opt-6.7b --quant q8 --layers 4 --name opt4", "flash synth --shape tinyllama-1.1b --gguf ./tinyllama.gguf", "flash synth --shape ./config.json --seed 7")
        {
            shape, quant, layers, seed, gguf, name, json,
        };
        verb.SetAction(parse =>
        {
            string what = parse.GetRequiredValue(shape), format = parse.GetValue(quant)!;
            string target = parse.GetValue(name) ?? $"{Path.GetFileNameWithoutExtension(SyntheticModel.Shapes.Contains(what) ? what + "." : what)}-{format}-synth";
            if (!PackageStore.IsValidName(target))
                throw new UsageException($"'{target}' cannot be a model's name; give one with --name (letters, digits, '.', '_', '-'; the first a letter or digit, not ending in {PackageStore.Extension})");
            string? file = parse.GetValue(gguf) is { } path ? Path.GetFullPath(path) : null;
            var options = new SyntheticOptions { Shape = what, Quant = format, Layers = parse.GetValue(layers), Seed = parse.GetValue(seed) ?? 0, Name = target, Gguf = file };
            var watch = Stopwatch.StartNew();
            var result = SyntheticModel.Create(app.Store.Target(target), options, new ImportLine(target, app.Screen), app.Interrupts.Stop);
            long? fileBytes = file is null ? null : new FileInfo(file).Length;
            app.Screen.EndLine();
            if (parse.GetValue(json))
            {
                app.Screen.Json(new { result.Name, result.Path, result.Hash, Quant = format, Mode = ImportVerb.Mode(result.Config), options.Seed, result.Bytes, Gguf = file, GgufBytes = fileBytes, Seconds = watch.Elapsed.TotalSeconds });
                return;
            }
            app.Screen.Remark(Noise(result.Name, options.Seed));
            app.Screen.Out.WriteLine($"{result.Name}: {format}, {Units.Bytes(result.Bytes)} in {result.Path}{(file is null ? "" : $", {Units.Bytes(fileBytes!.Value)} in {file}")}, {Units.Seconds(watch.Elapsed)}");
            app.Screen.Out.WriteLine(ImportVerb.Mode(result.Config));
        });
        return verb;
    }

    /// <summary>What has to be said wherever a model of random weights is shown or used.</summary>
    public static string Noise(string name, ulong seed) => $"{name} has random weights (seed {seed}): what it writes is noise";
}
