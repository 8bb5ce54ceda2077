using System.Buffers;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Http;

namespace FlashOrleans.Silo.Http;

/// <summary>
/// A response of server-sent events. Its head goes out with the first event or the first ping, whichever comes first: an error before that still has a status of its own, and a client
/// that waits for a long prompt or in a queue hears that somebody is there. One request at a time; not thread-safe.
/// </summary>
internal sealed class EventStream(HttpResponse response, TimeProvider time, TimeSpan pingInterval) : IDisposable
{
    private static readonly JsonWriterOptions s_json = new() { Encoder = WireJson.Shared.Options.Encoder, SkipValidation = true };
    private readonly CancellationTokenSource _end = new();
    private Utf8JsonWriter? _json;
    private long _written = time.GetTimestamp();
    private Task? _ping;

    public bool Begun { get; private set; }
    /// <summary>What a ping says: one line.</summary>
    public Func<string> Comment { get; init; } = static () => "ping";

    /// <summary>Waits for what comes next, sending a comment whenever nothing was sent for the interval.</summary>
    public async ValueTask<bool> NextAsync(ValueTask<bool> next)
    {
        if (next.IsCompleted) return await next;
        Task<bool> coming = next.AsTask();
        while (true)
        {
            _ping ??= Task.Delay(pingInterval - time.GetElapsedTime(_written) is { Ticks: > 0 } left ? left : TimeSpan.Zero, time, _end.Token);
            if (await Task.WhenAny(coming, _ping) == coming) return await coming;
            _ping = null;
            if (time.GetElapsedTime(_written) < pingInterval) continue;
            Begin();
            response.BodyWriter.Write(Encoding.UTF8.GetBytes($": {Comment()}\n\n"));
            try
            {
                await FlushAsync();
            }
            catch
            {
                // Whoever makes what comes next ends with the request; until then it must not be disposed of.
                await ((Task)coming).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                throw;
            }
        }
    }

    /// <summary>The next event gets this id; SSE's own way of saying how far a client has come.</summary>
    public int? NextId { get; set; }

    /// <summary>One event; it leaves with the next <see cref="FlushAsync"/>.</summary>
    public void Write<T>(T value, JsonTypeInfo<T> type)
    {
        Begin();
        if (NextId is { } id)
        {
            response.BodyWriter.Write("id: "u8);
            System.Buffers.Text.Utf8Formatter.TryFormat(id, response.BodyWriter.GetSpan(16), out int written);
            response.BodyWriter.Advance(written);
            response.BodyWriter.Write("\n"u8);
            NextId = null;
        }
        response.BodyWriter.Write("data: "u8);
        if (_json is null) _json = new Utf8JsonWriter(response.BodyWriter, s_json);
        else _json.Reset(response.BodyWriter);
        JsonSerializer.Serialize(_json, value, type);
        _json.Flush();
        response.BodyWriter.Write("\n\n"u8);
    }

    public void WriteDone()
    {
        Begin();
        response.BodyWriter.Write("data: [DONE]\n\n"u8);
    }

    public async ValueTask FlushAsync()
    {
        // A chunk may have nothing to tell, and flushing nothing would send a head without a type.
        if (!Begun) return;
        await response.BodyWriter.FlushAsync(response.HttpContext.RequestAborted);
        _written = time.GetTimestamp();
    }

    public void Dispose()
    {
        _end.Cancel();
        _end.Dispose();
        _json?.Dispose();
    }

    private void Begin()
    {
        if (Begun) return;
        Begun = true;
        response.ContentType = "text/event-stream";
        response.Headers.CacheControl = "no-cache";
        // Proxies that collect answers would make a stream of it no more.
        response.Headers["X-Accel-Buffering"] = "no";
    }
}
