using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Hub;

/// <summary>The files of a repository: the hub's tree listing, page by page, and small files read at once. What the listing says is checked here, once.</summary>
internal sealed partial class HubTree(HubClient client, HubOptions options, HubRetries retries, Action<HubException, TimeSpan>? again)
{
    private const int MostPages = 1000, MostFiles = 200_000, MostPageBytes = 32 << 20;
    private const long MostFileBytes = 1L << 50;

    public async Task<IReadOnlyList<HubFile>> ListAsync(HubReference reference, CancellationToken cancel)
    {
        string repository = reference.Repository!, what = repository;
        string root = options.Endpoint.AbsoluteUri.TrimEnd('/');
        var files = new List<HubFile>();
        var paths = new HashSet<string>(StringComparer.Ordinal);
        Uri? page = new($"{root}/api/models/{RemotePath.Escape(repository)}/tree/{Uri.EscapeDataString(reference.Revision)}?recursive=true&expand=false");
        for (int pages = 0; page != null; pages++)
        {
            if (pages == MostPages) throw new HubException($"{what}: its list of files has no end");
            (byte[] json, page) = await PageAsync(what, page, cancel);
            try
            {
                using JsonDocument document = JsonDocument.Parse(json, new JsonDocumentOptions { MaxDepth = 16 });
                if (document.RootElement.ValueKind != JsonValueKind.Array) throw new HubException($"{what}: its list of files is not one; is {options.Endpoint} a hub?");
                foreach (JsonElement entry in document.RootElement.EnumerateArray())
                {
                    if (Text(entry, "type") != "file") continue;
                    HubFile file = Entry(entry, what, path => new Uri($"{root}/{RemotePath.Escape(repository)}/resolve/{Uri.EscapeDataString(reference.Revision)}/{RemotePath.Escape(path)}"));
                    if (!paths.Add(file.Path)) throw new HubException($"{what}: '{file.Path}' is listed twice");
                    if (files.Count == MostFiles) throw new HubException($"{what} has more than {MostFiles} files");
                    files.Add(file);
                }
            }
            catch (Exception e) when (e is JsonException or InvalidOperationException)
            {
                throw new HubException($"{what}: its list of files is not JSON; is {options.Endpoint} a hub?", e);
            }
        }
        return files;
    }

    /// <summary>A small file's content, checked like every other.</summary>
    public ValueTask<byte[]> ReadAsync(HubFile file, int most, CancellationToken cancel)
    {
        string what = file.Label;
        if (file.Size > most) throw new HubException($"{what}: {file.Size} bytes are too many for a file of its kind");
        return retries.RunAsync(async token =>
        {
            await using HubResponse response = await client.GetAsync(what, file.Url, null, token);
            byte[] content = await response.ReadAllAsync(most);
            return content.Length == file.Size && file.Sum?.Matches(content) != false
                ? content
                : throw new HubException($"{what} arrived damaged") { MayPass = true };
        }, again, cancel);
    }

    /// <summary>A file that stands in no listing: how long it is, and what its server calls it.</summary>
    public ValueTask<HubFile> ProbeAsync(Uri url, CancellationToken cancel) => retries.RunAsync(async token =>
    {
        string path = HubReference.FileName(url), label = url.GetLeftPart(UriPartial.Path);
        await using HubResponse response = await client.GetAsync(label, url, (0, 1), token);
        long? length = response.Status == System.Net.HttpStatusCode.PartialContent ? response.Range?.Length : response.Length;
        if (length is not > 0) throw new HubException($"{label}: the server does not say how long the file is; download it by hand");
        return new HubFile(label, RemotePath.IsSafe(path) ? path : throw RemotePath.Refusal(path), url, length.Value, Checksum.Sha256(response.LinkedETag), response.ETag);
    }, again, cancel);

    private ValueTask<(byte[] Json, Uri? Next)> PageAsync(string what, Uri page, CancellationToken cancel) => retries.RunAsync(async token =>
    {
        await using HubResponse response = await client.GetAsync(what, page, null, token);
        Uri? next = null;
        foreach (string link in response.Links)
            if (NextLink().Match(link) is { Success: true } match && !Uri.TryCreate(page, match.Groups[1].Value, out next)) throw new HubException($"{what}: the next page of its files has no address");
        if (next != null && !client.IsHub(next)) throw new HubException($"{what}: the next page of its files is said to be at {next.Authority}, which is not {options.Endpoint.Authority}; refused");
        return (await response.ReadAllAsync(MostPageBytes), next);
    }, again, cancel);

    private static HubFile Entry(JsonElement entry, string what, Func<string, Uri> url)
    {
        string path = Text(entry, "path") ?? throw new HubException($"{what}: its list of files has one without a path");
        if (!RemotePath.IsSafe(path)) throw RemotePath.Refusal(path);
        bool large = entry.TryGetProperty("lfs", out JsonElement lfs) && lfs.ValueKind == JsonValueKind.Object;
        JsonElement said = large ? lfs : entry;
        if (!said.TryGetProperty("size", out JsonElement number) || number.ValueKind != JsonValueKind.Number || !number.TryGetInt64(out long size) || size is < 0 or > MostFileBytes)
            throw new HubException(string.Create(CultureInfo.InvariantCulture, $"{what}/{path} is listed without a size that makes sense"));
        Checksum? sum = large ? Checksum.Sha256(Text(lfs, "oid")) : Checksum.GitBlob(Text(entry, "oid"));
        return new HubFile($"{what}/{path}", path, url(path), size, sum ?? throw new HubException($"{what}/{path} is listed without a checksum; what arrives could not be verified"));
    }

    private static string? Text(JsonElement entry, string name) =>
        entry.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;

    [GeneratedRegex("<([^<>]+)>\\s*;[^,]*rel\\s*=\\s*\"?next\"?")]
    private static partial Regex NextLink();
}
