using System.Text.RegularExpressions;

namespace FlashOrleans.Flash;

/// <summary>A package as a list shows it; <see cref="Fault"/> says why one cannot be used.</summary>
public sealed record PackageInfo(string Name, string Path, Manifest? Manifest, string? Fault);

/// <summary>
/// The models folder: packages at HOME/models/NAME.flash, HOME being $FLASH_HOME or ~/.flash. Listing reads manifests only.
/// Stateless; any thread but a grain turn.
/// </summary>
public sealed partial class PackageStore
{
    public const string Extension = ".flash";

    public PackageStore(string home)
    {
        Home = Path.GetFullPath(home);
        Folder = Path.Combine(Home, "models");
    }

    private PackageStore(string home, string folder) => (Home, Folder) = (home, folder);

    /// <summary>Packages of any folder: what a silo serves.</summary>
    public static PackageStore InFolder(string folder)
    {
        folder = Path.GetFullPath(folder);
        return new PackageStore(Path.GetDirectoryName(folder) ?? folder, folder);
    }

    public static PackageStore Default()
    {
        string? home = Environment.GetEnvironmentVariable("FLASH_HOME");
        return new PackageStore(string.IsNullOrEmpty(home) ? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".flash") : home);
    }

    public string Home { get; }
    public string Folder { get; }

    /// <summary>Where an import of this name goes.</summary>
    public string Target(string name) => IsValidName(name) ? Path.Combine(Folder, name + Extension) : throw new FlashException(NameRule(name));

    public bool Contains(string name) => IsValidName(name) && File.Exists(Path.Combine(Target(name), PackageLayout.ManifestPath));

    /// <summary>All packages by name, the unusable ones with their fault.</summary>
    public IReadOnlyList<PackageInfo> List()
    {
        if (!Directory.Exists(Folder)) return [];
        List<PackageInfo> found = [];
        foreach (string path in Directory.EnumerateDirectories(Folder, "*" + Extension))
        {
            string name = Path.GetFileNameWithoutExtension(path);
            if (IsValidName(name)) found.Add(Describe(name, path));
        }
        found.Sort(static (a, b) => string.CompareOrdinal(a.Name, b.Name));
        return found;
    }

    /// <summary>The folder of the package that a name, a path or a hash (32 hex digits) means.</summary>
    public string Find(string nameOrPathOrHash)
    {
        string what = nameOrPathOrHash;
        if (Contains(what)) return Target(what);
        if (HashPattern().IsMatch(what) && List().FirstOrDefault(p => p.Manifest?.Hash == what) is { } byHash) return byHash.Path;
        bool path = what.Contains(Path.DirectorySeparatorChar, StringComparison.Ordinal) || what.EndsWith(Extension, StringComparison.Ordinal);
        if (what.Length > 0 && path)
        {
            string full = Path.GetFullPath(what);
            if (File.Exists(Path.Combine(full, PackageLayout.ManifestPath))) return full;
            throw new FlashException($"{full}: there is no package here (a folder with {PackageLayout.ManifestPath})");
        }
        string[] known = [.. List().Select(static p => p.Name)];
        throw new FlashException($"there is no model '{Manifest.OneLine(what)}' in {Folder}"
            + (known.Length > 0 ? $"; there are: {string.Join(", ", known)}" : "; import one (flash import PATH --name NAME)"));
    }

    public FlashPackage Open(string nameOrPathOrHash) => FlashPackage.Open(Find(nameOrPathOrHash));

    /// <summary>Deletes a package of this folder, by name only.</summary>
    public void Remove(string name)
    {
        string path = Target(name);
        if (!Directory.Exists(path)) throw new FlashException($"there is no model '{name}' in {Folder}");
        try
        {
            PackageFolder.Remove(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new FlashException($"{path}: cannot be removed: {Manifest.OneLine(e.Message)}", e);
        }
    }

    /// <summary>1 to 100 of A-Z a-z 0-9 . _ -, the first a letter or digit: a name is never a path.</summary>
    public static bool IsValidName(string name) => NamePattern().IsMatch(name);

    internal static string NameRule(string name) =>
        $"'{Manifest.OneLine(name)}' cannot be a name: letters, digits, '.', '_' and '-' (at most 100, the first a letter or digit, not ending in {Extension})";

    private static PackageInfo Describe(string name, string path)
    {
        try
        {
            return new PackageInfo(name, path, FlashPackage.ReadManifest(path), null);
        }
        catch (FlashException e)
        {
            return new PackageInfo(name, path, null, e.Message);
        }
    }

    [GeneratedRegex(@"\A(?!.*\.flash\z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}\z")]
    private static partial Regex NamePattern();

    [GeneratedRegex(@"\A[0-9a-f]{32}\z")]
    private static partial Regex HashPattern();
}
