using FlashOrleans.Cli.Tests;

[assembly: AssemblyFixture(typeof(FlashHome))]

namespace FlashOrleans.Cli.Tests;

/// <summary>A FLASH_HOME that all tests share and that is gone afterwards. What is in it first is imported by whichever test comes first.</summary>
public sealed class FlashHome : IDisposable
{
    public string Folder { get; } = Directory.CreateTempSubdirectory("flash-cli-").FullName;

    /// <summary>What `flash` finds in its environment besides.</summary>
    public Dictionary<string, string> Environment { get; } = [];

    public void Dispose() => Directory.Delete(Folder, recursive: true);
}
