using System.Collections.Concurrent;
using FlashOrleans.Abstractions;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Grains;

/// <summary>
/// The packages a silo can serve: names, paths and hashes to opened packages, and each one's tokenizer. Every package is opened once and kept until it is
/// forgotten. Files are opened and checked on the loader thread alone, never in a grain turn; what was read is there for any thread.
/// </summary>
internal sealed class PackageCatalog : IDisposable
{
    private readonly PackageStore _store;
    private readonly LoaderThread _loader;
    private readonly Dictionary<string, Opened> _byHash = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, TextCodec> _texts = new(StringComparer.Ordinal);

    public PackageCatalog(string models, LoaderThread loader)
    {
        _store = PackageStore.InFolder(models);
        _loader = loader;
    }

    /// <summary>What a name, path or hash means now. Any thread.</summary>
    public Task<ModelInfo> ResolveAsync(string model) => _loader.RunAsync(() =>
    {
        Opened opened = Open(model, fresh: true);
        FlashPackage package = opened.Package;
        TextCodec? text = opened.Text();
        return new ModelInfo
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
        };
    });

    /// <summary>The tokenizer of a package, or null when it has none. Any thread.</summary>
    public Task<TextCodec?> TextAsync(string hash) => _texts.TryGetValue(hash, out TextCodec? known)
        ? Task.FromResult<TextCodec?>(known)
        : _loader.RunAsync(() =>
        {
            TextCodec? text = Open(hash, fresh: false).Text();
            return text is null ? null : _texts.GetOrAdd(hash, text);
        });

    /// <summary>Any thread: the next use opens it anew.</summary>
    public Task ForgetAsync(string hash) => _loader.RunAsync(() =>
    {
        _texts.TryRemove(hash, out _);
        if (_byHash.Remove(hash, out Opened? opened)) opened.Package.Dispose();
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
        string path = _store.Find(what);
        string hash = FlashPackage.ReadManifest(path).Hash;
        if (!_byHash.TryGetValue(hash, out Opened? opened))
        {
            opened = new Opened(FlashPackage.Open(path));
            _byHash.Add(opened.Package.Hash, opened);
        }
        return opened;
    }

    private sealed class Opened(FlashPackage package)
    {
        private TextCodec? _text;
        private bool _read;

        public FlashPackage Package { get; } = package;

        public TextCodec? Text()
        {
            if (_read) return _text;
            _text = TextCodec.FromFiles(Package.SideFile);
            _read = true;
            return _text;
        }
    }
}
