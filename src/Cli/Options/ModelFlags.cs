using System.CommandLine;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Options;

/// <summary>NAME and --quant: which package.</summary>
internal sealed class ModelFlags
{
    private readonly Argument<string> _name;
    private readonly Option<string> _quant = Quant("Use (and import on first use) the bundled model in this format");

    public ModelFlags(Command command, string? names = null)
    {
        _name = names is null ? Flags.Name() : Flags.Name(names);
        command.Add(_name);
        command.Add(_quant);
    }

    public static Option<string> Quant(string description) =>
        Flags.Choice("--quant", description, "auto", "q4", "q4b", "q4k", "q8", "bf16", "f32");

    /// <summary>For imports: also `keep`.</summary>
    public static Option<string> QuantOfImport() =>
        Flags.Choice("--quant", "Format of the matrices. keep: as near to the source's as there is, without loss for q8_0, q4_0, q4_1 and q4_K. q4: q4k where rows come in blocks of 256. auto: keep for GGUF files, else q8 where rows come in blocks of 32, else f32",
            "auto", "keep", "q4", "q4b", "q4k", "q8", "bf16", "f32");

    public string Name(ParseResult parse) => parse.GetRequiredValue(_name);

    /// <summary>The format asked for, q4 unless it was.</summary>
    public string Format(ParseResult parse) => parse.GetValue(_quant) is { } quant and not "auto" ? quant : "q4";

    public string Path(App app, ParseResult parse) => app.Library.Resolve(Name(parse), parse.GetValue(_quant), app.Interrupts.Stop);

    public FlashPackage Open(App app, ParseResult parse) => FlashPackage.Open(Path(app, parse));
}
