using System.Net;
using System.Net.Http.Headers;

namespace FlashOrleans.Models.Hub;

/// <summary>
/// An answer after all redirects, its body still on the way. Reading fails as <see cref="HubException"/> when the connection is cut or says nothing for too
/// long; cancellation stays cancellation. One reader at a time; disposing drops the connection if the body was not read to its end.
/// </summary>
internal sealed class HubResponse(HttpResponseMessage message, HubSilence silence) : IAsyncDisposable
{
    private Stream? _body;

    public HttpStatusCode Status => message.StatusCode;
    public Uri Url => message.RequestMessage!.RequestUri!;
    /// <summary>What the hub says of the file before it redirects to where the bytes are.</summary>
    public long? LinkedSize { get; init; }
    public string? LinkedETag { get; init; }
    /// <summary>Only strong ones: a weak tag may stand for other bytes.</summary>
    public string? ETag => message.Headers.ETag is { IsWeak: false } tag ? tag.Tag : null;
    public long? Length => message.Content.Headers.ContentLength;
    public ContentRangeHeaderValue? Range => message.Content.Headers.ContentRange;
    public IEnumerable<string> Links => message.Headers.TryGetValues("Link", out IEnumerable<string>? values) ? values : [];

    /// <summary>0 at the end of the body.</summary>
    public async ValueTask<int> ReadAsync(Memory<byte> buffer)
    {
        silence.Restart();
        try
        {
            _body ??= await message.Content.ReadAsStreamAsync(silence.Token);
            return await _body.ReadAsync(buffer, silence.Token);
        }
        catch (Exception e) when (HubClient.IsOfTheNetwork(e))
        {
            throw HubClient.Cut(Url, e, silence);
        }
    }

    /// <summary>A body that belongs into memory.</summary>
    public async Task<byte[]> ReadAllAsync(int most)
    {
        using var all = new MemoryStream();
        byte[] buffer = new byte[64 << 10];
        int read;
        while ((read = await ReadAsync(buffer)) > 0)
        {
            if (all.Length + read > most) throw new HubException($"{Url.Host} answers with more than {most >> 20} MiB where a short answer belongs; refused");
            all.Write(buffer, 0, read);
        }
        return all.ToArray();
    }

    public async ValueTask DisposeAsync()
    {
        if (_body != null) await _body.DisposeAsync();
        message.Dispose();
        silence.Dispose();
    }
}

/// <summary>Cancels when asked, or when nothing came for a while.</summary>
internal sealed class HubSilence : IDisposable
{
    private readonly TimeSpan _most;
    private readonly CancellationToken _asked;
    private readonly CancellationTokenSource _source;
    private readonly CancellationTokenRegistration _registration;

    public HubSilence(HubOptions options, CancellationToken asked)
    {
        _most = options.Silence;
        _asked = asked;
        _source = new CancellationTokenSource(_most, options.Time);
        _registration = asked.UnsafeRegister(static s => ((CancellationTokenSource)s!).Cancel(), _source);
    }

    public CancellationToken Token => _source.Token;
    public TimeSpan Most => _most;

    public void Restart() => _source.CancelAfter(_most);
    public void ThrowIfAsked() => _asked.ThrowIfCancellationRequested();

    public void Dispose()
    {
        _registration.Dispose();
        _source.Dispose();
    }
}
