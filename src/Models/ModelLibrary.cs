using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>From the name a user gives to a package: what is in the store, or a bundled model imported on first use. Any thread but a grain turn.</summary>
public static class ModelLibrary
{
    /// <summary>
    /// The package folder for a name, a path or a hash. A bundled model that is not in the store yet is imported; of several processes that want it at once one
    /// imports and the others wait for it. Throws what <see cref="PackageStore.Find"/> and <see cref="Importer.Import"/> throw.
    /// </summary>
    public static string Ensure(string name, PackageStore store, IProgress<ImportProgress>? progress = null, CancellationToken cancel = default) =>
        Ensure(name, store, BundledModels.Find(name), progress, cancel);

    internal static string Ensure(string name, PackageStore store, string? checkpoint, IProgress<ImportProgress>? progress, CancellationToken cancel)
    {
        ArgumentNullException.ThrowIfNull(store);
        if (checkpoint == null || store.Contains(name)) return store.Find(name);
        using FileStream held = Lock(name, store, progress, cancel);
        // Whoever held the lock before may have done it.
        if (!store.Contains(name)) Importer.Import(checkpoint, store.Target(name), new ImportOptions { Name = name }, progress, cancel);
        return store.Find(name);
    }

    /// <summary>A file held open is the lock: the system releases it when its process dies, however that happens.</summary>
    private static FileStream Lock(string name, PackageStore store, IProgress<ImportProgress>? progress, CancellationToken cancel)
    {
        const int linuxLocked = 11, macLocked = 35, windowsLocked = unchecked((int)0x80070020);
        string path = store.Target(name) + ".lock";
        bool said = false;
        while (true)
        {
            try
            {
                Directory.CreateDirectory(store.Folder);
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 1, FileOptions.DeleteOnClose);
            }
            catch (IOException e) when (e.HResult is linuxLocked or macLocked or windowsLocked)
            {
                if (!said) progress?.Report(new ImportProgress($"waiting for another import of {name}", 0, 0));
                said = true;
                cancel.WaitHandle.WaitOne(TimeSpan.FromMilliseconds(50));
                cancel.ThrowIfCancellationRequested();
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new FlashException($"{store.Folder}: cannot be written: {e.Message.ReplaceLineEndings(" ")}", e);
            }
        }
    }
}
