using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

namespace FlashOrleans.Tests;

/// <summary>What the fake hub was asked.</summary>
internal sealed record FakeRequest(string Path, string Query, IReadOnlyDictionary<string, string> Headers)
{
    public string? Token => Headers.GetValueOrDefault("authorization");

    /// <summary>[from, to) of a Range header.</summary>
    public (long From, long To)? Range
    {
        get
        {
            if (!Headers.TryGetValue("range", out string? value)) return null;
            string[] ends = value["bytes=".Length..].Split('-');
            return (long.Parse(ends[0], CultureInfo.InvariantCulture), long.Parse(ends[1], CultureInfo.InvariantCulture) + 1);
        }
    }
}

/// <summary>What it answers. The body may be cut, and its length lied about.</summary>
internal sealed record FakeReply(int Status, byte[] Body)
{
    public Dictionary<string, string> Headers { get; init; } = [];
    /// <summary>The connection is reset after so many bytes of the body.</summary>
    public int? CutAfter { get; init; }
    /// <summary>Content-Length, if it is not the body's; -1 leaves it out: the end of the connection is the end of the body.</summary>
    public long? Announced { get; init; }
    /// <summary>After the bytes of <see cref="CutAfter"/> nothing more is said, and nothing closed, until the hub is disposed.</summary>
    public bool FallSilent { get; init; }
}

/// <summary>
/// The hub's protocol on a free port of this machine: tree listings and files of the repositories that were put in, with ranges, and <see cref="Answer"/> to do
/// something else. A raw socket: HTTP servers do not lie. Each connection has its own task; requests are kept in the order of their arrival.
/// </summary>
internal sealed class FakeHub : IDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource _end = new();
    private readonly Lock _gate = new();
    private readonly List<FakeRequest> _requests = [];
    private readonly List<TcpClient> _clients = [];
    private readonly TaskCompletionSource _silent = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public FakeHub()
    {
        _listener.Start();
        Url = new($"http://127.0.0.1:{((IPEndPoint)_listener.LocalEndpoint).Port}");
        _ = AcceptAsync();
    }

    public Uri Url { get; }

    /// <summary>"owner/model" → path → content.</summary>
    public Dictionary<string, Dictionary<string, byte[]>> Repositories { get; } = [];

    /// <summary>Asked first; null leaves the answer to the hub. Called by one connection at a time.</summary>
    public Func<FakeRequest, FakeReply?>? Answer { get; set; }

    /// <summary>Files up to here are git's own, larger ones LFS.</summary>
    public int LargestGitFile { get; set; } = 4096;

    /// <summary>Entries on a page of a listing.</summary>
    public int PageEntries { get; set; } = 1000;

    /// <summary>Where files are redirected to, with the query that a signed address has.</summary>
    public FakeHub? Storage { get; set; }

    /// <summary>Completes when an answer has fallen silent.</summary>
    public Task Silent => _silent.Task;

    public IReadOnlyList<FakeRequest> Requests
    {
        get { lock (_gate) return [.. _requests]; }
    }

    public static FakeReply File(byte[] content, FakeRequest request)
    {
        if (request.Range is not var (from, to)) return new FakeReply(200, content);
        if (from >= content.Length) return new FakeReply(416, []) { Headers = { ["Content-Range"] = $"bytes */{content.Length}" } };
        to = Math.Min(to, content.Length);
        return new FakeReply(206, content[(int)from..(int)to]) { Headers = { ["Content-Range"] = $"bytes {from}-{to - 1}/{content.Length}" } };
    }

    public static FakeReply Json(object value) => new(200, JsonSerializer.SerializeToUtf8Bytes(value));

    public Dictionary<string, byte[]> Add(string repository, string? folder = null)
    {
        Dictionary<string, byte[]> files = [];
        if (folder != null)
            foreach (string path in Directory.EnumerateFiles(folder)) files.Add(Path.GetFileName(path), System.IO.File.ReadAllBytes(path));
        Repositories.Add(repository, files);
        return files;
    }

    /// <summary>How the tree lists a file.</summary>
    public object Entry(string path, byte[] content) => content.Length <= LargestGitFile
        ? new { type = "file", path, size = content.Length, oid = GitOid(content) }
        : new { type = "file", path, size = content.Length, oid = GitOid("a pointer"u8), lfs = new { oid = Convert.ToHexStringLower(SHA256.HashData(content)), size = content.Length, pointerSize = 130 } };

    public void Dispose()
    {
        if (_end.IsCancellationRequested) return;
        _end.Cancel();
        _listener.Dispose();
        lock (_gate)
            foreach (TcpClient client in _clients) client.Dispose();
    }

    private static string GitOid(ReadOnlySpan<byte> content)
    {
#pragma warning disable CA5350 // git's own
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA1);
#pragma warning restore CA5350
        hash.AppendData(Encoding.ASCII.GetBytes($"blob {content.Length}\0"));
        hash.AppendData(content);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private FakeReply Reply(FakeRequest request)
    {
        lock (_gate)
        {
            _requests.Add(request);
            if (Answer?.Invoke(request) is { } reply) return reply;
        }
        string[] parts = request.Path.Trim('/').Split('/');
        if (parts is ["api", "models", var owner, var model, "tree", ..] && Repositories.TryGetValue($"{owner}/{model}", out var listed)) return Page(request, listed);
        if (parts is [var owner2, var model2, "resolve", _, .. var rest] && Repositories.TryGetValue($"{owner2}/{model2}", out var files) && files.TryGetValue(string.Join('/', rest), out byte[]? content))
        {
            if (Storage == null || content.Length <= LargestGitFile) return File(content, request);
            return new FakeReply(302, [])
            {
                Headers =
                {
                    ["Location"] = $"{Storage.Url}{request.Path[1..]}?signature=x",
                    ["X-Linked-Size"] = content.Length.ToString(CultureInfo.InvariantCulture),
                    ["X-Linked-ETag"] = $"\"{Convert.ToHexStringLower(SHA256.HashData(content))}\"",
                },
            };
        }
        return new FakeReply(404, []) { Headers = { ["X-Error-Code"] = "RepoNotFound" } };
    }

    private FakeReply Page(FakeRequest request, Dictionary<string, byte[]> files)
    {
        const string cursor = "cursor=";
        int at = request.Query.IndexOf(cursor, StringComparison.Ordinal);
        int first = at < 0 ? 0 : int.Parse(request.Query[(at + cursor.Length)..], CultureInfo.InvariantCulture);
        object[] entries = [.. files.Skip(first).Take(PageEntries).Select(f => Entry(f.Key, f.Value)), .. first == 0 ? new object[] { new { type = "directory", path = "onnx", oid = GitOid([]), size = 0 } } : []];
        FakeReply reply = Json(entries);
        if (first + PageEntries < files.Count) reply.Headers["Link"] = $"<{Url}{request.Path[1..]}?recursive=true&expand=false&{cursor}{first + PageEntries}>; rel=\"next\"";
        return reply;
    }

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                TcpClient client = await _listener.AcceptTcpClientAsync(_end.Token);
                lock (_gate) _clients.Add(client);
                _ = ServeAsync(client);
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // The hub is disposed.
        }
    }

    private async Task ServeAsync(TcpClient client)
    {
        try
        {
            using (client)
            {
                client.NoDelay = true;
                NetworkStream stream = client.GetStream();
                using var reader = new StreamReader(stream, Encoding.ASCII, leaveOpen: true);
                while (await ReadAsync(reader) is { } request)
                    if (!await WriteAsync(client, stream, Reply(request))) return;
            }
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException or OperationCanceledException)
        {
            // The client went away, or the hub is disposed.
        }
    }

    private static async Task<FakeRequest?> ReadAsync(StreamReader reader)
    {
        if (await reader.ReadLineAsync() is not { Length: > 0 } first) return null;
        var headers = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
        while (await reader.ReadLineAsync() is { Length: > 0 } line)
        {
            int colon = line.IndexOf(':', StringComparison.Ordinal);
            headers[line[..colon]] = line[(colon + 1)..].Trim();
        }
        string target = first.Split(' ')[1];
        int question = target.IndexOf('?', StringComparison.Ordinal);
        return new FakeRequest(Uri.UnescapeDataString(question < 0 ? target : target[..question]), question < 0 ? "" : target[(question + 1)..], headers);
    }

    /// <summary>False when the connection has ended.</summary>
    private async Task<bool> WriteAsync(TcpClient client, NetworkStream stream, FakeReply reply)
    {
        long announced = reply.Announced ?? reply.Body.Length;
        var head = new StringBuilder($"HTTP/1.1 {reply.Status} X\r\n");
        foreach ((string name, string value) in reply.Headers) head.Append(CultureInfo.InvariantCulture, $"{name}: {value}\r\n");
        if (announced >= 0) head.Append(CultureInfo.InvariantCulture, $"Content-Length: {announced}\r\n");
        else head.Append("Connection: close\r\n");
        await stream.WriteAsync(Encoding.ASCII.GetBytes(head.Append("\r\n").ToString()), _end.Token);
        await stream.WriteAsync(reply.Body.AsMemory(0, Math.Min(reply.CutAfter ?? int.MaxValue, reply.Body.Length)), _end.Token);
        if (reply.FallSilent)
        {
            _silent.TrySetResult();
            await Task.Delay(Timeout.Infinite, _end.Token);
        }
        return announced == reply.Body.Length && reply.CutAfter == null;
    }
}
