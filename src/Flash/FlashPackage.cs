using System.IO.Hashing;

namespace FlashOrleans.Flash;

/// <summary>
/// An opened package: manifest, edge file, slices. Opening checks structure, the resident parts and, below 1 GiB, every byte.
/// Any thread but a grain turn; each malformation is one <see cref="FlashException"/> that names file and offset. Holds no file open:
/// those that <see cref="OpenEdge"/> and <see cref="OpenSlice"/> hand out belong to the caller and are checked against the manifest again.
/// </summary>
public sealed class FlashPackage : IDisposable
{
    private readonly Func<string, FlashFile> _open;
    private bool _disposed;

    private FlashPackage(string path, Manifest manifest, Func<string, FlashFile> open)
    {
        Path = path;
        Manifest = manifest;
        _open = open;
        Format = manifest.Weights.Most;
        Bytes = manifest.Bytes;
    }

    /// <param name="path">The package's folder.</param>
    /// <param name="open">Opens one file of it; the default reads the device. Tests put in-memory twins here.</param>
    public static FlashPackage Open(string path, Func<string, FlashFile>? open = null) => Open(path, open, everything: null, progress: null);

    internal static FlashPackage Open(string path, Func<string, FlashFile>? open, bool? everything, Action<long, long>? progress)
    {
        ThreadRole.AssertNotGrainTurn("opening a package");
        path = System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(path));
        FlashPackage package = new(path, ReadManifest(path), open ?? OpenOnDevice);
        package.Check(everything ?? package.Bytes < PackageLayout.CheckEverythingBelow, progress);
        return package;
    }

    public Manifest Manifest { get; }
    public string Path { get; }
    public string Name => Manifest.Name;
    /// <summary>32 hex digits over the manifest, which holds every checksum: the identity of layer grains.</summary>
    public string Hash => Manifest.Hash;
    public ModelConfig Config => Manifest.Model;
    /// <summary>Format of most matrices ("q8"); <see cref="Manifest.Weights"/> knows the exceptions.</summary>
    public WeightFormat Format { get; }
    /// <summary>"direct (512)" or "buffered": how this package's files are read.</summary>
    public string Access { get; private set; } = "";
    /// <summary>What reads of this package's files must be aligned to.</summary>
    public int DeviceAlignment { get; private set; } = PackageLayout.Page;
    /// <summary>Bytes of all files.</summary>
    public long Bytes { get; }

    /// <summary>Content of a side file (tokenizer.json, tokenizer_config.json, generation_config.json), or null.</summary>
    public byte[]? SideFile(string name)
    {
        ThreadRole.AssertNotGrainTurn("reading a side file");
        ManifestSideFile? side = Manifest.SideFiles.FirstOrDefault(f => f.Name == name);
        if (side is null) return null;
        string file = System.IO.Path.Combine(Path, side.Name);
        byte[] bytes = ReadSmall(file, side.Bytes);
        if (bytes.Length != side.Bytes) throw new FlashException(file, Math.Min(bytes.Length, side.Bytes), $"the file does not have the {side.Bytes} bytes that the manifest says");
        string hash = Convert.ToHexStringLower(XxHash128.Hash(bytes));
        return hash == side.Xxh128 ? bytes : throw new FlashException(file, 0, $"the file is damaged (hash {hash}, expected {side.Xxh128})");
    }

    /// <summary>Opens edge.bin; the caller disposes.</summary>
    public PackageFile OpenEdge() => OpenFile(0);

    /// <summary>Opens layers/NNN.slice; the caller disposes.</summary>
    public PackageFile OpenSlice(int layer)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(layer);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(layer, Config.Layers);
        return OpenFile(layer + 1);
    }

    public void Dispose() => _disposed = true;

    /// <summary>The manifest of a package folder, checked by itself.</summary>
    public static Manifest ReadManifest(string path)
    {
        if (!Directory.Exists(path)) throw new FlashException($"{path}: there is no package folder here");
        string file = System.IO.Path.Combine(path, PackageLayout.ManifestPath);
        byte[] bytes = ReadSmall(file, Manifest.MaxBytes);
        if (bytes.Length > Manifest.MaxBytes) throw new FlashException(file, Manifest.MaxBytes, "the manifest is absurdly large");
        return Manifest.Decode(bytes, file);
    }

    private static DirectFile OpenOnDevice(string file) => File.Exists(file) ? DirectFile.Open(file) : throw new FileNotFoundException(null, file);

    private PackageFile OpenFile(int index)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        using FileScan scan = new(new MemoryLedger(), PackageFile.ScanChunk(Manifest));
        return OpenFile(index, scan);
    }

    private PackageFile OpenFile(int index, FileScan scan)
    {
        string relative = Manifest.Files[index].Path, file = System.IO.Path.Combine(Path, relative);
        try
        {
            return PackageFile.Open(_open(file), Manifest, index, scan);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new FlashException($"{file}: {relative} is missing from package {Name}; import it again (flash import PATH --name {Name})", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            throw new FlashException($"{file}: cannot be opened: {Manifest.OneLine(e.Message)}", e);
        }
    }

    private void Check(bool everything, Action<long, long>? progress)
    {
        foreach (ManifestSideFile side in Manifest.SideFiles) SideFile(side.Name);
        using FileScan scan = new(new MemoryLedger(), PackageFile.ScanChunk(Manifest));
        ScanProgress? scanProgress = progress is null ? null : new ScanProgress(Bytes, progress);
        for (int i = 0; i < Manifest.Files.Count; i++)
        {
            using PackageFile file = OpenFile(i, scan);
            if (i == 0) (Access, DeviceAlignment) = (file.File.Access, file.File.Alignment);
            file.Check(scan, everything, scanProgress);
        }
    }

    /// <summary>A file's bytes, at most one more than expected.</summary>
    private static byte[] ReadSmall(string file, long most)
    {
        try
        {
            using FileStream stream = new(file, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, bufferSize: 1);
            byte[] bytes = new byte[Math.Min(stream.Length, most + 1)];
            int got = stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
            return got == bytes.Length ? bytes : bytes[..got];
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new FlashException($"{file}: the file is missing", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            throw new FlashException($"{file}: cannot be read: {Manifest.OneLine(e.Message)}", e);
        }
    }
}
