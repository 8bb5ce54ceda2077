using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Models;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash list`: packages of the store, and bundled models that are not imported yet.</summary>
internal static class ListVerb
{
    public static Command Create(App app)
    {
        var json = Flags.Json();
        var verb = new Verb("list", "List the models in $FLASH_HOME", "", "flash list", "flash list --json") { json };
        verb.Aliases.Add("ls");
        verb.SetAction(parse =>
        {
            var packages = app.Store.List();
            string[] bundled = [.. BundledModels.Names().Where(n => packages.All(p => p.Name != n))];
            if (parse.GetValue(json))
            {
                app.Screen.Json(packages.Select(static p => new { p.Name, p.Path, p.Manifest?.Model.Architecture, p.Manifest?.Quant, p.Manifest?.Model.Layers, p.Manifest?.Bytes, p.Manifest?.Hash, p.Fault, Imported = true })
                    .Concat(bundled.Select(static n => new { Name = n, Path = BundledModels.Find(n)!, Architecture = (string?)null, Quant = (string?)null, Layers = (int?)null, Bytes = (long?)null, Hash = (string?)null, Fault = (string?)null, Imported = false })));
                return;
            }
            var table = new Table { Border = TableBorder.None }.AddColumns("NAME", "ARCHITECTURE", "QUANT", "LAYERS", "SIZE", "");
            foreach (var p in packages)
            {
                table.AddRow(new[]
                {
                    p.Name, p.Manifest?.Model.Architecture ?? "", p.Manifest?.Quant ?? "", p.Manifest is { } m ? Units.Number(m.Model.Layers, "0") : "",
                    p.Manifest is { } s ? Units.Bytes(s.Bytes) : "", p.Fault ?? "",
                }.Select(Markup.Escape).ToArray());
            }
            foreach (string name in bundled) table.AddRow(Markup.Escape(name), "", "", "", "", "bundled, imported on first use");
            app.Screen.Tables.Write(table);
        });
        return verb;
    }
}
