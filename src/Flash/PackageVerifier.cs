namespace FlashOrleans.Flash;

/// <summary>`flash verify`: reads every byte of a package, whatever its size, and compares it with the checksums. Any thread but a grain turn.</summary>
public static class PackageVerifier
{
    /// <summary>Returns the manifest of a package that is whole; else the first fault as <see cref="FlashException"/>.</summary>
    /// <param name="path">The package's folder.</param>
    /// <param name="progress">Bytes checked and bytes in all, from time to time.</param>
    /// <param name="open">As in <see cref="FlashPackage.Open(string, Func{string, FlashFile}?)"/>.</param>
    public static Manifest Verify(string path, Action<long, long>? progress = null, Func<string, FlashFile>? open = null)
    {
        using FlashPackage package = FlashPackage.Open(path, open, everything: true, progress);
        return package.Manifest;
    }
}
