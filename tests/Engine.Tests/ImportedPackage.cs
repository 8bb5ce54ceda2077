using FlashOrleans.Flash;
using FlashOrleans.Models;

namespace FlashOrleans.Engine.Tests;

/// <summary>A checkpoint imported into a temporary package.</summary>
internal sealed class ImportedPackage : IDisposable
{
    private readonly string _folder;

    private ImportedPackage(string folder) => _folder = folder;

    public required FlashPackage Package { get; init; }

    public static ImportedPackage Create(string checkpoint, string quant, string? activation = null, bool lean = false)
    {
        string folder = Directory.CreateTempSubdirectory("flash-golden-").FullName;
        string path = Path.Combine(folder, "m.flash");
        Importer.Import(checkpoint, path, new ImportOptions { Name = "m", Quant = quant, Activation = activation, Lean = lean });
        return new ImportedPackage(folder) { Package = FlashPackage.Open(path) };
    }

    public void Dispose()
    {
        Package.Dispose();
        Directory.Delete(_folder, recursive: true);
    }
}
