using System.IO.Hashing;

namespace FlashOrleans.Flash;

/// <summary>What an import says about the package before it writes the first byte.</summary>
public sealed record PackageSpec
{
    public required string Name { get; init; }
    public required ModelConfig Config { get; init; }
    /// <summary>Formats of the matrices.</summary>
    public required WeightFormats Format { get; init; }
    public required Provenance Provenance { get; init; }
    /// <summary>Trained predictors, or null.</summary>
    public PredictorConfig? Predictors { get; init; }
    /// <summary>Order of the neurons: <see cref="PackageLayout.Identity"/> or <see cref="PackageLayout.Popularity"/>.</summary>
    public string Permutation { get; init; } = PackageLayout.Identity;
    /// <summary>Bundles lack the rows that decide, which the selector has (<see cref="BundleLayout.Lean"/>). Of ReLU models without predictors; experts in them are <see cref="ExpertConfig.ByNeuron"/>.</summary>
    public bool Lean { get; init; }
    /// <summary>How the sets of active neurons are drawn, for random weights; else null.</summary>
    public ActivityConfig? Activity { get; init; }
    /// <summary>How the experts are drawn, for random weights; else null.</summary>
    public RoutingConfig? Routing { get; init; }
    /// <summary>Version of the format: the oldest that can say what is in the package. Tests write old ones.</summary>
    internal int Version { get => field > 0 ? field : Manifest.VersionOf(Config, Lean); init; }
    internal long Bytes => PackageLayout.EstimateBytes(Config, Format, Alignment, Predictors, Permutation != PackageLayout.Identity, Lean);
    /// <summary>Sections start at multiples of this: 4096, or 512 for tiny packages.</summary>
    public int Alignment { get; init; } = PackageLayout.Page;
}

/// <summary>
/// Writes a package, streaming: memory stays at a few MiB whatever the model. One thread at a time. Files grow in a temporary folder beside the
/// target, which <see cref="Complete"/> turns into the package; disposing without it (an error, Ctrl-C) leaves nothing behind. Files come one
/// after another, sections of a file in any order, several open at a time; each must get exactly the bytes its shape demands.
/// A full disk or a failing device is one <see cref="FlashException"/>; misuse by the caller an <see cref="InvalidOperationException"/>.
/// </summary>
public sealed class PackageWriter : IDisposable
{
    private readonly PackageSpec _spec;
    private readonly PackageFolder _folder;
    private readonly Action<long, long>? _progress;
    private readonly ManifestFile?[] _files;
    private readonly List<ManifestSideFile> _sideFiles = [];
    private readonly long _total;
    private PackageFileWriter? _current;
    private Task _flushing = Task.CompletedTask;
    private long _written;

    private PackageWriter(PackageSpec spec, PackageFolder folder, long total, Action<long, long>? progress, CancellationToken cancel)
    {
        _spec = spec;
        _folder = folder;
        _total = total;
        _progress = progress;
        _files = new ManifestFile?[spec.Config.Layers + 1];
        Cancel = cancel;
        Provenance = spec.Provenance;
    }

    /// <summary>May be replaced until <see cref="Complete"/>: checksums of the source are often known only after reading it.</summary>
    public Provenance Provenance { get; set; }

    /// <summary>What was found out about the package between <see cref="Open"/> and <see cref="Complete"/>.</summary>
    public Measured? Measured { get; set; }

    internal int Version => _spec.Version;
    internal CancellationToken Cancel { get; }
    internal string FolderPath => _folder.Path;
    /// <summary>How a piece reaches its file; tests put a failing device here.</summary>
    internal Action<Microsoft.Win32.SafeHandles.SafeFileHandle, ReadOnlyMemory<byte>, long> Sink { get; init; } = static (file, bytes, offset) => RandomAccess.Write(file, bytes.Span, offset);

    /// <param name="path">The package's folder, "…/name.flash"; replaced if it exists, once the new one is complete.</param>
    /// <param name="spec">What is written.</param>
    /// <param name="progress">Bytes written and bytes in all, from time to time.</param>
    /// <param name="cancel">Ends the import at the next write.</param>
    public static PackageWriter Create(string path, PackageSpec spec, Action<long, long>? progress = null, CancellationToken cancel = default) =>
        Create(path, spec, progress, FreeSpace, null, cancel);

    internal static PackageWriter Create(string path, PackageSpec spec, Action<long, long>? progress, Func<string, long> freeSpace,
        Action<Microsoft.Win32.SafeHandles.SafeFileHandle, ReadOnlyMemory<byte>, long>? sink, CancellationToken cancel = default)
    {
        if (!PackageStore.IsValidName(spec.Name)) throw new FlashException(PackageStore.NameRule(spec.Name));
        if (spec.Alignment is not (512 or 4096)) throw new ArgumentException("the alignment of a package is 512 or 4096", nameof(spec));
        spec.Activity?.Check(spec.Config);
        spec.Routing?.Check(spec.Config);
        long total = spec.Bytes;
        PackageFolder folder;
        try
        {
            folder = PackageFolder.Create(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new FlashException($"{path}: the package cannot be written here: {Manifest.OneLine(e.Message)}", e);
        }
        try
        {
            DemandRoom(path, total, freeSpace(folder.Path));
            return sink is null
                ? new PackageWriter(spec, folder, total, progress, cancel)
                : new PackageWriter(spec, folder, total, progress, cancel) { Sink = sink };
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    /// <summary>Refuses when there is no room for the package, before anything is begun.</summary>
    public static void DemandRoom(string path, ModelConfig config, WeightFormats formats, bool lean = false)
    {
        string? folder = Path.GetDirectoryName(Path.GetFullPath(path));
        while (folder != null && !Directory.Exists(folder)) folder = Path.GetDirectoryName(folder);
        if (folder != null) DemandRoom(path, PackageLayout.EstimateBytes(config, formats, lean: lean), FreeSpace(folder));
    }

    private static void DemandRoom(string path, long total, long free)
    {
        // The manifest and what the file system adds are small change: 1 MiB of reserve.
        long needed = total + (1 << 20);
        if (free < needed)
            throw new FlashException($"{path}: the package needs {Megabytes(needed)} and the disk has {Megabytes(free)} free: make room, or choose another folder with FLASH_HOME, and import again");
    }

    public void BeginEdge() => Begin(SectionTable.Edge);

    public void BeginSlice(int layer)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(layer);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(layer, _spec.Config.Layers);
        Begin(layer);
    }

    /// <summary>Starts a section of the current file; name and shape must be what the model's shape demands (docs/FORMAT.md), and the caller writes all its bytes.</summary>
    public SectionWriter BeginSection(string name, WeightFormat format, int rows, int cols)
    {
        SectionEntry entry = Current.Entry(name);
        if (entry.Kind is SectionKind.Hashes or SectionKind.Bundles) throw new InvalidOperationException($"section {name} is not written by BeginSection");
        if (entry.Format != format || entry.Rows != rows || entry.Cols != cols)
            throw new FlashException($"{Current.Path}: section {name} of this model is {entry}; {rows} x {cols} {format} was offered");
        return new SectionWriter(Current, entry);
    }

    /// <summary>Starts the neuron bundles of the current slice.</summary>
    public BundleWriter BeginBundles() => new(Current, Current.Entry(PackageLayout.Bundles), BundleLayout.For(_spec.Config, _spec.Format, Current.Layer, _spec.Lean));

    /// <summary>Carries a small file along unread (tokenizer.json …).</summary>
    public void AddSideFile(string name, ReadOnlySpan<byte> bytes)
    {
        string path = Path.Combine(_folder.Path, name);
        if (!PackageStore.IsValidName(name) || name is PackageLayout.ManifestPath or PackageLayout.EdgePath or "layers" || _sideFiles.Any(f => string.Equals(f.Name, name, StringComparison.OrdinalIgnoreCase)))
            throw new FlashException($"'{name}' cannot be the name of a side file");
        if (bytes.Length > Manifest.MaxSideFileBytes) throw new FlashException($"{name} has {bytes.Length} bytes; a side file has at most {Manifest.MaxSideFileBytes}");
        WriteWhole(path, bytes.ToArray());
        _sideFiles.Add(new ManifestSideFile(name, bytes.Length, Convert.ToHexStringLower(XxHash128.Hash(bytes))));
    }

    /// <summary>The package, whole but still without its name, for measuring it; the caller disposes it before <see cref="Complete"/>, which writes the manifest anew.</summary>
    public FlashPackage Open()
    {
        WriteManifest();
        return FlashPackage.Open(_folder.Path, open: null, everything: false, progress: null);
    }

    /// <summary>Finishes the last file, writes the manifest and gives the package its name. Returns the package's hash.</summary>
    public string Complete()
    {
        string hash = WriteManifest();
        Guard(Path.Combine(_folder.Path, PackageLayout.ManifestPath), 0, _folder.Publish);
        _progress?.Invoke(_total, _total);
        return hash;
    }

    public void Dispose()
    {
        _current?.Dispose();
        _current = null;
        Task.WhenAny(_flushing).Wait();
        _ = _flushing.Exception;
        _folder.Dispose();
    }

    internal void Wrote(long bytes) => _progress?.Invoke(Math.Min(_written += bytes, _total), _total);

    /// <summary>Runs a piece of writing; what the device refuses becomes one clear line.</summary>
    internal void Guard(string file, long offset, Action write)
    {
        const int enospc = 28, edquot = 122, windowsDiskFull = unchecked((int)0x80070070);
        Cancel.ThrowIfCancellationRequested();
        try
        {
            write();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw e.HResult is enospc or edquot or windowsDiskFull
                ? new FlashException($"{file} at byte {offset}: the disk is full; the package needs {Megabytes(_total)} in all: make room and import again (what was written is removed)", e)
                : new FlashException($"{file} at byte {offset}: cannot be written: {Manifest.OneLine(e.Message)}", e);
        }
    }

    private PackageFileWriter Current => _current ?? throw new InvalidOperationException("no file was begun");

    private void Begin(int layer)
    {
        EndFile();
        if (_files[layer + 1] is not null) throw new InvalidOperationException($"file {layer + 1} of the package is written already");
        string relative = layer < 0 ? PackageLayout.EdgePath : PackageLayout.SlicePath(layer);
        string path = Path.Combine(_folder.Path, relative);
        PackageFileWriter? file = null;
        Guard(path, 0, () =>
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            file = new PackageFileWriter(this, path, layer, layer < 0 ? PackageLayout.Edge(_spec.Config, _spec.Format) : PackageLayout.Slice(_spec.Config, _spec.Format, layer, _spec.Predictors, _spec.Permutation != PackageLayout.Identity, _spec.Lean), _spec.Alignment);
        });
        _current = file;
    }

    private void EndFile()
    {
        if (_current is not { } file) return;
        string header = file.Complete();
        AwaitFlush();
        // The device takes a file while the next one is made.
        _flushing = Task.Run(file.Flush);
        _files[file.Layer + 1] = new ManifestFile(file.Layer < 0 ? PackageLayout.EdgePath : PackageLayout.SlicePath(file.Layer), file.Bytes, header);
        _current = null;
    }

    private void AwaitFlush()
    {
        Task flushing = _flushing;
        _flushing = Task.CompletedTask;
        flushing.GetAwaiter().GetResult();
    }

    private void WriteWhole(string path, byte[] bytes) => Guard(path, 0, () =>
    {
        using Microsoft.Win32.SafeHandles.SafeFileHandle file = File.OpenHandle(path, FileMode.CreateNew, FileAccess.Write);
        Sink(file, bytes, 0);
        RandomAccess.FlushToDisk(file);
    });

    /// <summary>The manifest of such a package without anything being written: to plan with. Its files have their sizes, no checksums.</summary>
    public static Manifest Plan(PackageSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        return ManifestOf(spec) with { Files = [new ManifestFile(PackageLayout.EdgePath, spec.Bytes, "")], Provenance = spec.Provenance };
    }

    private static Manifest ManifestOf(PackageSpec spec)
    {
        BundleLayout bundles = BundleLayout.For(spec.Config, spec.Format, 0, spec.Lean);
        return new Manifest
        {
            FormatVersion = spec.Version,
            Name = spec.Name,
            Model = spec.Config,
            Quant = PackageLayout.FormatName(spec.Format.Most),
            Formats = spec.Format.Exceptions.Count == 0 ? null : spec.Format.Exceptions.ToDictionary(static f => f.Key, static f => PackageLayout.FormatName(f.Value)),
            Alignment = spec.Alignment,
            Group = bundles.Group,
            Stride = bundles.Stride,
            Predictor = Manifest.PredictorOf(spec.Config),
            Predictors = spec.Predictors,
            Activity = spec.Activity,
            Routing = spec.Routing,
            Permutation = spec.Permutation,
            Bundles = spec.Lean ? PackageLayout.LeanBundles : null,
            SideFiles = [],
            Files = [],
            Provenance = spec.Provenance,
        };
    }

    private string WriteManifest()
    {
        EndFile();
        AwaitFlush();
        int missing = Array.IndexOf(_files, null);
        if (missing >= 0) throw new InvalidOperationException($"{(missing == 0 ? PackageLayout.EdgePath : PackageLayout.SlicePath(missing - 1))} was not written");
        byte[] manifest = (ManifestOf(_spec) with { SideFiles = _sideFiles, Files = _files!, Provenance = Provenance, Measured = Measured }).Encode();
        string path = Path.Combine(_folder.Path, PackageLayout.ManifestPath);
        // What this build would refuse to open must not get a name.
        string hash = Manifest.Decode(manifest, path).Hash;
        Guard(path, 0, () => File.Delete(path));
        WriteWhole(path, manifest);
        return hash;
    }

    private static long FreeSpace(string folder)
    {
        try
        {
            return new DriveInfo(OperatingSystem.IsWindows() ? Path.GetPathRoot(folder)! : folder).AvailableFreeSpace;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return long.MaxValue; // a file system that does not tell; a full one is noticed while writing
        }
    }

    private static string Megabytes(long bytes) => $"{(bytes + (1 << 20) - 1) >> 20} MiB";
}
