using FlashOrleans.Flash;
using FlashOrleans.Models;

namespace FlashOrleans.Cli;

/// <summary>From NAME on a command line to a package folder: a path, a package of the store, or a bundled model that is imported now, with progress.</summary>
internal sealed class Library(PackageStore store, Screen screen)
{
    /// <summary>The package's folder. With a quantisation: the package of that name if it has it, else NAME-QUANT, imported from the bundled checkpoint on first use.</summary>
    public string Resolve(string name, string? quant, CancellationToken cancel)
    {
        try
        {
            if (quant is null or "auto") return ModelLibrary.Ensure(name, store, new ImportLine(name, screen), cancel);
            if (!PackageStore.IsValidName(name) || (store.Contains(name) && Is(FormatOf(name), quant))) return Demand(store.Find(name), quant);
            string variant = $"{name}-{quant}";
            if (store.Contains(variant)) return Demand(store.Find(variant), quant);
            if (BundledModels.Find(name) is not { } checkpoint) return Demand(store.Find(name), quant);
            Importer.Import(checkpoint, store.Target(variant), new ImportOptions { Name = variant, Quant = quant }, new ImportLine(variant, screen), cancel);
            return store.Find(variant);
        }
        finally
        {
            screen.EndLine();
        }
    }

    public FlashPackage Open(string name, string? quant, CancellationToken cancel) => FlashPackage.Open(Resolve(name, quant, cancel));

    private string? FormatOf(string name) => store.List().FirstOrDefault(p => p.Name == name)?.Manifest?.Quant;

    /// <summary>What an import made of a quantisation: q4 is q4k where rows come in 256.</summary>
    private static bool Is(string? format, string quant) => format == quant || (quant == "q4" && format == "q4k");

    private static string Demand(string path, string quant)
    {
        using var package = FlashPackage.Open(path);
        return Is(package.Manifest.Quant, quant)
            ? path
            : throw new CliException($"{path} is {package.Manifest.Quant}, not {quant}: import the checkpoint again (flash import PATH --name NAME --quant {quant})");
    }
}

/// <summary>An import's progress as one line on stderr.</summary>
internal sealed class ImportLine(string name, Screen screen) : IProgress<ImportProgress>
{
    public void Report(ImportProgress value) =>
        screen.Progress(value.Total > 0 ? $"importing {name}: {100 * value.Done / value.Total} % ({value.Step})" : $"importing {name}: {value.Step}");
}
