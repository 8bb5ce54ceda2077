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
        var path = new Argument<string>("PATH") { Description = "Folder with config.json and safetensors files (Llama and OPT families; f32, f16 or bf16)" };
        var name = Flags.Text("--name", "NAME", "Name in $FLASH_HOME (default: the folder's)");
        var quant = ModelFlags.Quant("Format of the matrices; auto is q8 where rows come in blocks of 32, else f32");
        var json = Flags.Json();
        var verb = new Verb("import", "Convert a checkpoint into a flash package", "", "flash import ./models/emberling", "flash import ~/opt-125m --name opt --quant q4") { path, name, quant, json };
        verb.SetAction(parse =>
        {
            string folder = Path.GetFullPath(parse.GetRequiredValue(path));
            string target = parse.GetValue(name) ?? Path.GetFileName(Path.TrimEndingDirectorySeparator(folder));
            if (!PackageStore.IsValidName(target))
                throw new UsageException($"'{target}' cannot be a model's name; give one with --name (letters, digits, '.', '_', '-'; the first a letter or digit, not ending in {PackageStore.Extension})");
            if (!Directory.Exists(folder)) throw new CliException($"{folder}: there is no such folder; give the folder that holds config.json and the safetensors files");
            var result = Importer.Import(folder, app.Store.Target(target), new ImportOptions { Name = target, Quant = parse.GetValue(quant)! }, new ImportLine(target, app.Screen), app.Interrupts.Stop);
            app.Screen.EndLine();
            if (parse.GetValue(json))
            {
                app.Screen.Json(new { result.Name, result.Path, result.Hash, Quant = PackageLayout.FormatName(result.Format), result.SourceBytes, result.Bytes, result.Errors, result.Notes });
                return;
            }
            foreach (string note in result.Notes) app.Screen.Remark(note);
            app.Screen.Out.WriteLine($"{result.Name}: {PackageLayout.FormatName(result.Format)}, {Units.Bytes(result.SourceBytes)} became {Units.Bytes(result.Bytes)} in {result.Path}");
            if (result.Errors.Count == 0) return;
            var table = new Table { Border = TableBorder.None }.AddColumns("MATRIX", "ERROR", "WORST ROW");
            foreach (var e in result.Errors) table.AddRow(Markup.Escape(e.Kind), Units.Number(100 * e.Mean, "0.000") + " %", Units.Number(100 * e.WorstRow, "0.000") + " %");
            app.Screen.Tables.Write(table);
        });
        return verb;
    }
}
