using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash show NAME`: what a package is, and what of it lies on flash and what in memory, layer by layer.</summary>
internal static class ShowVerb
{
    private sealed record Part(int? Layer, string File, long Bytes, long ResidentBytes, long PredictorBytes, long BundleBytes, int? Neurons, int? Group, int? Stride);

    public static Command Create(App app)
    {
        var json = Flags.Json();
        var verb = new Verb("show", "Show a model's architecture, its sizes on flash and in memory, and its layers", "", "flash show emberling", "flash show ./big.flash --json") { json };
        var model = new ModelFlags(verb);
        verb.SetAction(parse =>
        {
            using var package = model.Open(app, parse);
            var parts = Parts(package);
            if (parse.GetValue(json))
            {
                app.Screen.Json(Everything(package, parts));
                return;
            }
            if (package.Manifest.Provenance.SyntheticSeed is { } seed) app.Screen.Remark(SynthVerb.Noise(package.Name, seed));
            Print(app.Screen, package, parts);
        });
        return verb;
    }

    private static List<Part> Parts(FlashPackage package)
    {
        var parts = new List<Part>();
        for (int layer = -1; layer < package.Config.Layers; layer++)
        {
            using var file = layer < 0 ? package.OpenEdge() : package.OpenSlice(layer);
            parts.Add(new Part(layer < 0 ? null : layer, package.Manifest.Files[layer + 1].Path, package.Manifest.Files[layer + 1].Bytes, file.ResidentBytes,
                file.Sections.Where(static s => s.Name.StartsWith(PackageLayout.Predictor + ".", StringComparison.Ordinal) || s.Name.StartsWith(PackageLayout.Lookahead + ".", StringComparison.Ordinal)).Sum(static s => s.Bytes), file.Bundles?.Bytes ?? 0, file.Bundles?.Neurons, file.Bundles?.Group, file.Bundles?.Stride));
        }
        return parts;
    }

    /// <summary>Where the template is from, or why it is not used.</summary>
    private static string ChatTemplateOf(FlashPackage package)
    {
        try
        {
            var codec = TextCodec.FromFiles(package.SideFile);
            return codec?.TemplateNote ?? codec?.ChatTemplate?.Name ?? "none";
        }
        catch (ModelFormatException e)
        {
            return $"none: {e.Message}";
        }
    }

    /// <summary>Whether the activation that the configuration names is the one that foretells a text; null where no other one was tried.</summary>
    private static string? ActivationVerdict(FlashPackage package)
    {
        if (package.Manifest.Measured is not { Other: { } other } m) return null;
        string own = package.Config.Activation.ToString().ToLowerInvariant();
        return m.OtherFits ? Calibration.Verdict(m, package.Config.Activation) : $"{own}, as named (nll {Units.Number(m.Nll, "0.00")} of a text, with {other.ToString().ToLowerInvariant()} {Units.Number(m.OtherNll, "0.00")})";
    }

    private static object Everything(FlashPackage package, List<Part> parts) => new
    {
        package.Name,
        package.Path,
        package.Hash,
        package.Manifest.FormatVersion,
        package.Manifest.Quant,
        package.Access,
        package.Bytes,
        ResidentBytes = parts.Sum(static p => p.ResidentBytes),
        BundleBytes = parts.Sum(static p => p.BundleBytes),
        package.Manifest.Alignment,
        package.Manifest.Predictor,
        package.Manifest.Measured,
        package.Manifest.Predictors,
        package.Manifest.Permutation,
        Bundles = package.Manifest.Bundles ?? PackageLayout.WholeBundles,
        package.Manifest.Activity,
        package.Manifest.Routing,
        PredictorBytes = parts.Sum(static p => p.PredictorBytes),
        Model = package.Config,
        package.Manifest.SideFiles,
        ChatTemplate = ChatTemplateOf(package),
        package.Manifest.Provenance,
        Files = parts,
    };

    private static void Print(Screen screen, FlashPackage package, List<Part> parts)
    {
        var c = package.Config;
        long resident = parts.Sum(static p => p.ResidentBytes), bundles = parts.Sum(static p => p.BundleBytes);
        var facts = new Table { Border = TableBorder.None, ShowHeaders = false }.AddColumns("", "");
        void Fact(string name, string value) => facts.AddRow(Markup.Escape(name), Markup.Escape(value));
        Fact("name", package.Name);
        Fact("path", package.Path);
        Fact("architecture", $"{c.Architecture}, {c.Layers} layers, hidden {c.HiddenSize}, {c.Heads} heads of {c.HeadDim} ({c.KvHeads} key/value), feed-forward {c.FfnSize} ({(c.Gated ? "gated " : "")}{c.Activation.ToString().ToLowerInvariant()})");
        Fact("vocabulary", $"{c.VocabSize}{(c.TiedHead ? ", head tied to the embedding" : "")}");
        Fact("positions", $"{c.MaxPositions}, {(c.Positions == PositionKind.Rope ? "rotary" : "learned")}");
        Fact("format", $"{ImportVerb.Text(package.Manifest.Weights)}, version {package.Manifest.FormatVersion}, aligned to {package.Manifest.Alignment}, read {package.Access}");
        Fact("mode", ImportVerb.Mode(package.Config));
        Fact("zeros", ImportVerb.Zeros(package.Manifest.Measured));
        if (ActivationVerdict(package) is { } verdict) Fact("activation", verdict);
        if (package.Manifest.Predictors is { } predictors) Fact("predictors", $"{ImportVerb.Text(predictors)}; {Units.Bytes(parts.Sum(static p => p.PredictorBytes))} resident");
        if (SynthVerb.Drawn(package.Manifest) is { } drawn) Fact(package.Manifest.Routing != null ? "routing" : "activity", drawn);
        Fact("on flash", $"{Units.Bytes(package.Bytes)}, of it {(package.Manifest.Lean ? "lean " : "")}neuron bundles {Units.Bytes(bundles)}{(package.Manifest.Permutation == PackageLayout.Popularity ? ", by popularity" : "")}");
        Fact("resident", $"{Units.Bytes(resident)}, and the window's share of the bundles ({Units.Bytes(bundles / 4.0)} at 25%)");
        Fact("text", package.Manifest.SideFiles.Any(static f => TextCodec.FileNames.Contains(f.Name)) ? "tokenizer" : "token ids only (no tokenizer)");
        Fact("chat template", ChatTemplateOf(package));
        Fact("source", package.Manifest.Provenance.Source);
        Fact("hash", package.Hash);
        screen.Tables.Write(facts);
        screen.Out.WriteLine();

        var table = new Table { Border = TableBorder.None }.AddColumns("LAYER", "ON FLASH", "RESIDENT", "BUNDLES", "NEURONS", "A READ");
        foreach (var p in parts)
        {
            table.AddRow(p.Layer is { } layer ? Units.Number(layer, "0") : "edge", Units.Bytes(p.Bytes), Units.Bytes(p.ResidentBytes),
                p.Neurons is null ? "" : Units.Bytes(p.BundleBytes), Units.Number(p.Neurons, "0"), p.Stride is { } stride ? $"{stride} B{(p.Group > 1 ? $", {p.Group} neurons" : "")}" : "");
        }
        screen.Tables.Write(table);
    }
}
