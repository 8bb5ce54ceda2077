using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;

[assembly: AssemblyFixture(typeof(FlashOrleans.Silo.Tests.EmberlingFolder))]

namespace FlashOrleans.Silo.Tests;

/// <summary>A models folder with the bundled model, imported once for all tests here.</summary>
public sealed class EmberlingFolder : IDisposable
{
    public const string Name = "emberling";

    public EmberlingFolder()
    {
        Folder = Directory.CreateTempSubdirectory("flash-silo-").FullName;
        string checkpoint = BundledModels.Find(Name) ?? throw new InvalidOperationException("the bundled model is missing");
        Importer.Import(checkpoint, Path.Combine(Folder, Name + PackageStore.Extension), new ImportOptions { Name = Name });
    }

    public string Folder { get; }

    /// <summary>What the engine without grains continues a text with, greedily, stop tokens included.</summary>
    public string TextAlone(string prompt, int count)
    {
        using FlashPackage package = PackageStore.InFolder(Folder).Open(Name);
        TextCodec codec = TextCodec.FromFiles(package.SideFile)!;
        using var engine = new LocalEngine(package);
        using EngineSession session = engine.OpenSession();
        var stops = package.Config.EosTokens.Union(codec.StopTokens).ToHashSet();
        int[] tokens = [.. session.Generate(codec.Encode(prompt, parseSpecial: false, addSpecial: true), count, Sampling.Greedy, stops).Select(r => r.Token)];
        if (stops.Contains(tokens[^1])) tokens = tokens[..^1];
        return codec.Decode(tokens, skipSpecial: true);
    }

    public void Dispose() => Directory.Delete(Folder, recursive: true);
}
