namespace FlashOrleans.Models.Hub;

/// <summary>
/// The folder of one download, held by one pull at a time: a file beside it, kept open, is the lock, and the system releases it when its process dies. What is
/// in the folder belongs to the download: files that it does not name are of another state of the repository, and would be imported with it.
/// </summary>
public sealed class PullFolder : IDisposable
{
    private readonly FileStream _lock;

    private PullFolder(string path, FileStream @lock) => (Path, _lock) = (path, @lock);

    public string Path { get; }

    internal static PullFolder Open(string path, IEnumerable<string> names)
    {
        PartFile.Disk(path, () => Directory.CreateDirectory(path));
        FileStream held;
        try
        {
            held = new FileStream(path + ".lock", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 1, FileOptions.DeleteOnClose);
        }
        catch (IOException e)
        {
            throw new HubException($"{path}: another flash pull is at work here ({e.Message}); wait for it", e);
        }
        var folder = new PullFolder(path, held);
        try
        {
            folder.Sweep(names);
            return folder;
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    /// <summary>Deletes the download.</summary>
    public void Remove() => PartFile.Disk(Path, () =>
    {
        Directory.Delete(Path, recursive: true);
        return true;
    });

    public void Dispose() => _lock.Dispose();

    private void Sweep(IEnumerable<string> names)
    {
        var known = new HashSet<string>(StringComparer.Ordinal);
        foreach (string name in names)
        {
            string file = RemotePath.Under(Path, name);
            known.UnionWith([file, file + PartFile.Ending, file + PartFile.JournalEnding]);
        }
        PartFile.Disk(Path, () =>
        {
            foreach (string file in Directory.EnumerateFiles(Path, "*", SearchOption.AllDirectories))
                if (!known.Contains(file)) File.Delete(file);
            return true;
        });
    }
}
