using System.Diagnostics;
using System.Text;
using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Hosts;

namespace FlashOrleans.Cli.Chat;

/// <summary>What /set can change while a chat runs.</summary>
internal sealed record ChatSettings
{
    public required SamplingOptions Sampling { get; init; }
    public required int MaxTokens { get; init; }
    public string? System { get; init; }
    /// <summary>Plain text instead of messages.</summary>
    public bool Raw { get; init; }
}

/// <summary>A session and its settings: says something, streams the answer, measures it. One caller at a time; <see cref="Cancel"/> from any thread.</summary>
internal sealed class Conversation(GrainHost host, ChatSettings settings) : IAsyncDisposable
{
    private GrainHost.Session _session = (GrainHost.Session)host.OpenSession();
    private bool _begun;
    private volatile TurnRequest? _turn;

    public ChatSettings Settings { get; set; } = settings;

    /// <summary>Streams the answer's text to <paramref name="write"/> as it comes. A cancelled answer, by <see cref="Cancel"/> or the token, keeps what it has.</summary>
    public async Task<Answer> SayAsync(string text, Action<string>? write, CancellationToken stop)
    {
        var before = await host.MeasureAsync();
        var turn = Turn(text);
        var answer = new StringBuilder();
        var ids = new List<int>();
        long start = Stopwatch.GetTimestamp();
        TimeSpan first = default, last = default;
        TokenChunk? end = null;
        _turn = turn;
        // Not as the stream's own token: it is to end with what it has, in order.
        using var stopping = stop.Register(() => Cancel());
        try
        {
            await foreach (var chunk in _session.SendAsync(turn, CancellationToken.None))
            {
                if (chunk.TokenId >= 0)
                {
                    last = Stopwatch.GetElapsedTime(start);
                    if (ids.Count == 0) first = last;
                    ids.Add(chunk.TokenId);
                }
                answer.Append(chunk.Text);
                if (chunk.Text.Length > 0) write?.Invoke(chunk.Text);
                if (chunk.Finish != FinishReason.None) end = chunk;
            }
        }
        finally
        {
            _turn = null;
        }
        _begun = true;
        if (end is { Finish: FinishReason.Failed }) throw new CliException(end.Error ?? "the answer failed");
        return new Answer
        {
            Text = answer.ToString(),
            Tokens = ids,
            Finish = end?.Finish ?? FinishReason.Cancelled,
            Usage = end?.Usage,
            First = ids.Count > 0 ? first : null,
            Decoding = last - first,
            Counters = await host.MeasureAsync() - before,
            ManagedBytes = GC.GetTotalMemory(forceFullCollection: false),
            ProcessBytes = Environment.WorkingSet,
        };
    }

    /// <summary>Stops the answer under way, if there is one.</summary>
    public bool Cancel()
    {
        if (_turn is not { } turn) return false;
        _ = StopAsync(turn.TurnId);
        return true;
    }

    /// <summary>Forgets everything said.</summary>
    public async Task ClearAsync()
    {
        await _session.DisposeAsync();
        _session = (GrainHost.Session)host.OpenSession();
        _begun = false;
    }

    public ValueTask DisposeAsync() => _session.DisposeAsync();

    private TurnRequest Turn(string text)
    {
        var turn = new TurnRequest { Model = host.Model, MaxTokens = Settings.MaxTokens, Sampling = Settings.Sampling };
        if (Settings.Raw) return turn with { Text = text };
        var said = new ChatTurn("user", text);
        return turn with { Messages = _begun || Settings.System is null ? [said] : [new ChatTurn("system", Settings.System), said] };
    }

    private async Task StopAsync(Guid turn)
    {
        try
        {
            await _session.CancelAsync(turn);
        }
        catch (Exception)
        {
            // It ended by itself, or the stream brings the error.
        }
    }
}
