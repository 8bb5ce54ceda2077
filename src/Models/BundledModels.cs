using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>The checkpoints that come with the program: beside the executable, in <c>./models</c>, or, when run from a working copy, in the repository.</summary>
public static class BundledModels
{
    private const string Folder = "models";

    /// <summary>The checkpoint folder of a bundled model, or null.</summary>
    public static string? Find(string name) => Find(name, AppContext.BaseDirectory, Environment.CurrentDirectory);

    /// <summary>Names of all bundled models.</summary>
    public static IReadOnlyList<string> Names() => Names(AppContext.BaseDirectory, Environment.CurrentDirectory);

    internal static string? Find(string name, string executable, string current) =>
        // A name is never a path: what it could reach outside is not looked at.
        PackageStore.IsValidName(name) ? Places(executable, current).Select(p => Path.Combine(p, name)).FirstOrDefault(IsCheckpoint) : null;

    internal static IReadOnlyList<string> Names(string executable, string current) =>
        [.. Places(executable, current).Where(Directory.Exists).SelectMany(Directory.EnumerateDirectories).Where(IsCheckpoint)
            .Select(p => Path.GetFileName(p)).Where(PackageStore.IsValidName).Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)];

    private static bool IsCheckpoint(string folder) => File.Exists(Path.Combine(folder, "config.json"));

    private static IEnumerable<string> Places(string executable, string current)
    {
        yield return Path.Combine(executable, Folder);
        yield return Path.Combine(current, Folder);
        for (DirectoryInfo? d = new(executable); d != null; d = d.Parent)
            if (File.Exists(Path.Combine(d.FullName, "FlashOrleans.sln"))) yield return Path.Combine(d.FullName, Folder);
    }
}
