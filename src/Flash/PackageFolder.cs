using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.RegularExpressions;

namespace FlashOrleans.Flash;

/// <summary>
/// The temporary folder beside a package in which an import grows, and its change into the package: everything is on the device before the
/// name appears, and readers see the old package or the new one. A lock file inside, held open, tells a living import from the remains
/// of a dead one, which the next import of the same package removes. One thread.
/// </summary>
internal sealed partial class PackageFolder : IDisposable
{
    private const string LockName = ".importing";
    private const string Temporary = ".tmp-", Aside = ".old-";
    private readonly FileStream _lock;
    private bool _gone;

    private PackageFolder(string target, string path, FileStream @lock)
    {
        Target = target;
        Path = path;
        _lock = @lock;
    }

    public string Target { get; }
    public string Path { get; }

    public static PackageFolder Create(string target)
    {
        target = System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(target));
        Directory.CreateDirectory(System.IO.Path.GetDirectoryName(target) ?? throw new FlashException($"{target}: a package cannot be the root folder"));
        RemoveStale(target);
        for (int attempt = 0; ; attempt++)
        {
            string path = target + Temporary + Random();
            Directory.CreateDirectory(path);
            try
            {
                return new PackageFolder(target, path, Lock(path, FileMode.CreateNew));
            }
            catch (IOException) when (attempt < 16)
            {
                // Another import took the folder for a dead one in the moment before it was locked.
                DeleteQuietly(path);
            }
            catch
            {
                DeleteQuietly(path);
                throw;
            }
        }
    }

    /// <summary>Removes what dead imports of this package left; puts back a package that one of them had set aside.</summary>
    public static void RemoveStale(string target)
    {
        string parent = System.IO.Path.GetDirectoryName(target)!, name = System.IO.Path.GetFileName(target);
        foreach (string path in Directory.EnumerateDirectories(parent, name + ".*"))
        {
            string suffix = System.IO.Path.GetFileName(path)[name.Length..];
            if (!Suffix().IsMatch(suffix)) continue;
            try
            {
                if (suffix.StartsWith(Aside, StringComparison.Ordinal))
                {
                    if (Directory.Exists(target)) Directory.Delete(path, recursive: true);
                    else Directory.Move(path, target);
                }
                else if (File.Exists(System.IO.Path.Combine(path, LockName)))
                {
                    using FileStream held = Lock(path, FileMode.Open);
                    Directory.Delete(path, recursive: true);
                }
                else
                {
                    RemoveUnlocked(path);
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // Locked: its import lives.
            }
        }
    }

    /// <summary>Deletes a package so that nobody sees half of one.</summary>
    public static void Remove(string target)
    {
        string path = target + Temporary + Random();
        Directory.Move(target, path);
        Directory.Delete(path, recursive: true);
    }

    /// <summary>The folder becomes the package. Its files must be flushed.</summary>
    public void Publish()
    {
        string layers = System.IO.Path.Combine(Path, "layers");
        if (Directory.Exists(layers)) FlushFolder(layers);
        FlushFolder(Path);
        string? old = null;
        if (!Directory.Exists(Target))
        {
            Directory.Move(Path, Target);
        }
        else if (Exchange(Path, Target))
        {
            old = Path;
        }
        else
        {
            old = Target + Aside + Random();
            Directory.Move(Target, old);
            try
            {
                Directory.Move(Path, Target);
            }
            catch
            {
                Directory.Move(old, Target);
                throw;
            }
        }
        _gone = true;
        FlushFolder(System.IO.Path.GetDirectoryName(Target)!);
        File.Delete(System.IO.Path.Combine(Target, LockName));
        _lock.Dispose();
        if (old is not null) DeleteQuietly(old);
    }

    public void Dispose()
    {
        if (!_gone)
        {
            _gone = true;
            DeleteQuietly(Path);
        }
        _lock.Dispose();
    }

    /// <summary>An empty folder may belong to an import that is about to lock it (and tries again if it is gone); one with content and no lock is a package that was replaced or removed.</summary>
    private static void RemoveUnlocked(string path)
    {
        try
        {
            Directory.Delete(path);
        }
        catch (IOException) when (!File.Exists(System.IO.Path.Combine(path, LockName)))
        {
            Directory.Delete(path, recursive: true);
        }
    }

    /// <summary>What cannot be deleted now, the next import of this package removes.</summary>
    private static void DeleteQuietly(string path)
    {
        try
        {
            Directory.Delete(path, recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Said above.
        }
    }

    private static FileStream Lock(string path, FileMode mode) =>
        new(System.IO.Path.Combine(path, LockName), mode, FileAccess.ReadWrite, FileShare.None, bufferSize: 1);

    private static string Random() => Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(8));

    /// <summary>Swaps two folders in one step, where kernel and file system can.</summary>
    private static bool Exchange(string a, string b)
    {
        const int currentFolder = -100, exchange = 2;
        if (!OperatingSystem.IsLinux()) return false;
        try
        {
            return renameat2(currentFolder, a, currentFolder, b, exchange) == 0;
        }
        catch (EntryPointNotFoundException)
        {
            return false;
        }
    }

    /// <summary>Makes the names in a folder durable; file systems that cannot are none the worse for asking.</summary>
    private static void FlushFolder(string path)
    {
        if (!OperatingSystem.IsLinux()) return;
        int fd = open(path, 0);
        if (fd < 0) return;
        _ = fsync(fd);
        _ = close(fd);
    }

    [GeneratedRegex(@"\A\.(tmp|old)-[0-9a-f]{16}\z")]
    private static partial Regex Suffix();

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int renameat2(int oldFolder, string oldPath, int newFolder, string newPath, uint flags);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc")]
    private static partial int fsync(int fd);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}
