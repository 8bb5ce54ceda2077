using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace FlashOrleans.Models.Hub;

/// <summary>What will be downloaded, and where to.</summary>
public sealed record PullPlan
{
    public required HubReference Reference { get; init; }
    /// <summary>The download's own folder.</summary>
    public required string Folder { get; init; }
    /// <summary>What the importer is given: the folder, or the first file of a GGUF model in it.</summary>
    public required string Checkpoint { get; init; }
    public required bool IsGguf { get; init; }
    public IReadOnlyList<string> Paths => [.. Files.Select(static f => f.Path)];
    public long Bytes => Files.Sum(static f => f.Size);
    /// <summary>Files whose content nobody vouches for.</summary>
    public IReadOnlyList<string> Unverified => [.. Files.Where(static f => f.Sum == null).Select(static f => f.Path)];
    internal IReadOnlyList<HubFile> Files { get; init; } = [];
}

/// <summary>
/// From a reference to a checkpoint on this machine, in two steps: <see cref="PlanAsync"/> asks what there is and chooses, <see cref="DownloadAsync"/> brings it. Both
/// can be cancelled and repeated; a repeated download goes on where the last one stopped. Every failure is a <see cref="HubException"/>. Its caller is a
/// command line; nothing here is for a grain turn.
/// </summary>
public sealed class HubPull : IDisposable
{
    private const int MostIndexBytes = 64 << 20;
    private readonly HubOptions _options;
    private readonly HubClient _client;
    private readonly HubRetries _retries;
    private readonly HubTree _tree;
    private readonly PullMeter _meter;

    public HubPull(HubOptions options, IProgress<PullProgress>? progress = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        _options = options;
        _client = new HubClient(options);
        _retries = new HubRetries(options);
        _meter = new PullMeter(progress, options.Time);
        _tree = new HubTree(_client, options, _retries, (e, wait) => _meter.Step(string.Create(CultureInfo.InvariantCulture, $"waiting {wait.TotalSeconds:0.#} s, {e.Message}")));
    }

    public void Dispose() => _client.Dispose();

    /// <param name="downloads">The folder of all downloads.</param>
    public async Task<PullPlan> PlanAsync(HubReference reference, string downloads, CancellationToken cancel)
    {
        ArgumentNullException.ThrowIfNull(reference);
        _meter.Step("looking it up");
        if (reference.Url != null) return Plan(reference, downloads, await PartsAsync(reference.Url, cancel), null);
        IReadOnlyList<HubFile> tree = await _tree.ListAsync(reference, cancel);
        ModelFiles chosen = FileChoice.Choose(reference, tree);
        IReadOnlyList<HubFile> files = chosen.Files;
        if (chosen.Index is { } index) files = [.. files, .. FileChoice.Shards(reference, tree, await _tree.ReadAsync(index, MostIndexBytes, cancel))];
        return Plan(reference, downloads, files, chosen);
    }

    /// <param name="packageBytes">What importing it will need on the same disk.</param>
    /// <param name="lean">It is to be imported with lean bundles.</param>
    /// <exception cref="ModelFormatException">What the repository says of the model cannot be imported; known before the weights are asked for, and nothing is left.</exception>
    /// <returns>The folder, still held: the caller imports, removes it or not, and disposes it.</returns>
    public async Task<PullFolder> DownloadAsync(PullPlan plan, long packageBytes, bool lean, CancellationToken cancel)
    {
        ArgumentNullException.ThrowIfNull(plan);
        PullFolder folder = PullFolder.Open(plan.Folder, plan.Paths);
        try
        {
            await new Downloader(_client, _options, _retries).RunAsync(plan.Files, plan.Folder, packageBytes, () => PulledModel.CheckConfig(plan, lean), _meter, cancel);
            return folder;
        }
        catch (ModelFormatException)
        {
            // No other attempt will make it a model that can be imported.
            using (folder) folder.Remove();
            throw;
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    private static PullPlan Plan(HubReference reference, string downloads, IReadOnlyList<HubFile> files, ModelFiles? chosen)
    {
        string? gguf = chosen == null ? files[0].Path : chosen.Gguf;
        // Not two states or two quantisations in one folder: what is removed after an import must not be what another pull kept.
        string name = reference.Repository?.Replace("/", "--", StringComparison.Ordinal) ?? $"{reference.ModelName}--{Short(reference.Url!.AbsoluteUri)}";
        if (reference.Revision != "main") name += "--" + reference.Revision;
        if (chosen?.Variant is { } variant) name += "--" + (name.Length + variant.Length < 200 ? variant : Short(variant));
        string folder = Path.GetFullPath(Path.Combine(downloads, name));
        return new PullPlan
        {
            Reference = reference,
            Folder = folder,
            Files = files,
            IsGguf = gguf != null,
            Checkpoint = gguf == null ? folder : RemotePath.Under(folder, gguf),
        };
    }

    /// <summary>A file by its address; of a split model all parts, which lie beside each other.</summary>
    private async Task<IReadOnlyList<HubFile>> PartsAsync(Uri url, CancellationToken cancel)
    {
        const int most = 1000;
        string file = HubReference.FileName(url);
        GgufName name = GgufName.Parse(file);
        if (name.Parts > most) throw new HubException($"{url.GetLeftPart(UriPartial.Path)}: {name.Parts} parts are more than any model has");
        var files = new List<HubFile>();
        for (int part = 1; part <= name.Parts; part++)
        {
            Uri address = name.Parts == 1 ? url : new Uri(url.GetLeftPart(UriPartial.Authority) + string.Concat(url.Segments[..^1]) + Uri.EscapeDataString(name.PathOfPart(part)) + url.Query);
            files.Add(await _tree.ProbeAsync(address, cancel));
        }
        return files;
    }

    private static string Short(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)))[..12];
}
