using System.Collections.Concurrent;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Grains;

/// <summary>
/// The packages a silo can serve: names, paths and hashes to opened packages, and each one's tokenizer. Every package is opened once and kept until it is
/// forgotten. Files are opened and checked on the loader thread alone, never in a grain turn; what was read is there for any thread. A name is looked up at
/// every turn: whether its manifest is still the file it was, on the host's other thread.
/// </summary>
internal sealed class PackageCatalog : IDisposable
{
    private readonly PackageStore _store;
    private readonly LoaderThread _loader, _looker;
    private readonly Dictionary<string, Opened> _byHash = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, Resolved> _resolved = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, TextCodec> _texts = new(StringComparer.Ordinal);

    public PackageCatalog(string models, LoaderThread loader, LoaderThread looker)
    {
        _store = PackageStore.InFolder(models);
        _loader = loader;
        _looker = looker;
    }

    /// <summary>The model that drafts: known by its hash wherever its package is.</summary>
    public DraftModel? Draft { get; init; }

    /// <summary>What a name, path or hash means now. Any thread.</summary>
    public async Task<ModelInfo> ResolveAsync(string model)
    {
        // A look at the manifest's stamp, and not on the loader, which may be busy with another package for minutes.
        if (_resolved.TryGetValue(model, out Resolved? known) && await _looker.RunAsync(known.IsCurrent)) return known.Info;
        return await _loader.RunAsync(() => Resolve(model));
    }

    private ModelInfo Resolve(string model)
    {
        Opened opened = Open(model, fresh: true);
        FlashPackage package = opened.Package;
        TextCodec? text = opened.Text();
        var info = new ModelInfo
        {
            Name = package.Name,
            Package = package.Hash,
            Path = package.Path,
            Architecture = package.Config.Architecture,
            Format = package.Format.ToString().ToLowerInvariant(),
            Layers = package.Config.Layers,
            HiddenSize = package.Config.HiddenSize,
            FfnSize = package.Config.FfnSize,
            VocabSize = package.Config.VocabSize,
            MaxPositions = package.Config.MaxPositions,
            Activation = package.Config.Activation.ToString().ToLowerInvariant(),
            Bytes = package.Bytes,
            BosToken = package.Config.BosToken,
            EosTokens = [.. package.Config.EosTokens.Union(text?.StopTokens ?? (IEnumerable<int>)[])],
            HasTokenizer = text is not null,
            HasChatTemplate = text?.ChatTemplate is not null,
            Access = package.Access,
            RopeLimit = package.Config.RopeByLength ? package.Config.Rope!.OriginalPositions : 0,
            RopePerLength = package.Config.Rope?.Scaling == RopeScaling.Dynamic,
            Sampling = Advice(package),
        };
        _resolved[model] = new Resolved(info, opened.Manifest);
        return info;
    }

    private static SamplingOptions Advice(FlashPackage package)
    {
        Sampling advice = SamplingAdvice.Of(package.SideFile(SamplingAdvice.FileName));
        return new SamplingOptions { Temperature = advice.Temperature, TopP = advice.TopP, MinP = advice.MinP, TopK = advice.TopK };
    }

    /// <summary>The tokenizer of a package, or null when it has none. Any thread.</summary>
    public Task<TextCodec?> TextAsync(string hash) => _texts.TryGetValue(hash, out TextCodec? known)
        ? Task.FromResult<TextCodec?>(known)
        : _loader.RunAsync(() =>
        {
            TextCodec? text = Open(hash, fresh: false).Text();
            return text is null ? null : _texts.GetOrAdd(hash, text);
        });

    /// <summary>Any thread: the next use opens it anew. What uses it now keeps it: a package holds no file open.</summary>
    public Task ForgetAsync(string hash) => _loader.RunAsync(() =>
    {
        _texts.TryRemove(hash, out _);
        _byHash.Remove(hash);
        return 0;
    });

    /// <summary>Loader thread: the package with this hash, opened and checked once.</summary>
    public FlashPackage Open(string hash) => Open(hash, fresh: false).Package;

    public void Dispose()
    {
        foreach (Opened opened in _byHash.Values) opened.Package.Dispose();
        _byHash.Clear();
    }

    private Opened Open(string what, bool fresh)
    {
        if (!fresh && _byHash.TryGetValue(what, out Opened? known)) return known;
        string path = fresh || _store.List().Any(p => p.Manifest?.Hash == what) ? _store.Find(what)
            : Draft?.Is(what) == true ? Draft.Path
            : throw new FlashException($"package {what} is no longer in {_store.Folder}: it was removed or imported again; send a new turn");
        // Before it is opened: a package that is replaced while it is being checked is looked at again.
        var manifest = Stamp.Of(Path.Combine(path, PackageLayout.ManifestPath));
        string hash = FlashPackage.ReadManifest(path).Hash;
        if (!_byHash.TryGetValue(hash, out Opened? opened))
        {
            opened = new Opened(FlashPackage.Open(path));
            _byHash.Add(opened.Package.Hash, opened);
        }
        opened.Manifest = manifest;
        return opened;
    }

    /// <summary>By which a file that was replaced is told from the one before.</summary>
    private readonly record struct Stamp(string Path, DateTime Born, DateTime Written, long Bytes)
    {
        public static Stamp Of(string path)
        {
            var file = new FileInfo(path);
            return file.Exists ? new Stamp(path, file.CreationTimeUtc, file.LastWriteTimeUtc, file.Length) : new Stamp(path, default, default, -1);
        }
    }

    private sealed record Resolved(ModelInfo Info, Stamp Manifest)
    {
        public bool IsCurrent() => Stamp.Of(Manifest.Path) == Manifest;
    }

    private sealed class Opened(FlashPackage package)
    {
        private TextCodec? _text;
        private bool _read;

        public FlashPackage Package { get; } = package;
        /// <summary>Its manifest when it was last looked up.</summary>
        public Stamp Manifest { get; set; }

        public TextCodec? Text()
        {
            if (_read) return _text;
            _text = TextCodec.FromFiles(Package.SideFile);
            _read = true;
            return _text;
        }
    }
}
