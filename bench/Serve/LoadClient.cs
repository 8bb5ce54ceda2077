using System.Diagnostics;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json;

namespace FlashOrleans.Bench;

/// <summary>When one token came after the one before, in the clock's ticks; several in one event share its gap.</summary>
internal readonly record struct Gap(long At, double Milliseconds);

/// <summary>One answer as its reader saw it.</summary>
internal sealed record Answer(long Asked, long First, long Last, int Tokens, int Cached, string Text, IReadOnlyList<Gap> Gaps)
{
    /// <summary>Answers that said why they end, of several to one question; and the stream said that it does.</summary>
    public int Finished { get; init; }
    public bool Done { get; init; }

    public double Milliseconds(long at) => Stopwatch.GetElapsedTime(Asked, at).TotalMilliseconds;

    /// <summary>Tokens that came within a time.</summary>
    public int Between(long from, long to) => Gaps.Count(g => g.At > from && g.At <= to);
}

/// <summary>Asks a server for completions and notes when what came. Any thread.</summary>
internal sealed class LoadClient : IDisposable
{
    private readonly string _model;
    private readonly int _vocabulary, _seed;

    public LoadClient(string url, string model, int vocabulary, int seed)
    {
        // Nobody drains what it does not want to read: leaving closes the connection.
        Http = new HttpClient(new SocketsHttpHandler { MaxConnectionsPerServer = 1024, ResponseDrainTimeout = TimeSpan.Zero, MaxResponseDrainSize = 0 }) { BaseAddress = new Uri(url), Timeout = Timeout.InfiniteTimeSpan };
        _model = model;
        _vocabulary = vocabulary;
        _seed = seed;
    }

    public HttpClient Http { get; }

    /// <summary>Asks for tokens behind the prompt of this number, seeded token ids; <paramref name="begun"/> is told of the first token.</summary>
    public async Task<Answer> AskAsync(int number, int prompt, int generate, Action? begun)
    {
        var random = new Random(unchecked(_seed * 1_000_003 + number));
        int[] ids = [.. Enumerable.Range(0, prompt).Select(_ => random.Next(10, _vocabulary))];
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        {
            Content = JsonContent.Create(new
            {
                model = _model,
                prompt = ids,
                max_tokens = generate,
                temperature = 0,
                // Drawn activity and routing follow it, too.
                seed = number < 0 ? 0 : number,
                ignore_eos = true,
                stream = true,
                stream_options = new { include_usage = true },
            }),
        };
        long asked = Stopwatch.GetTimestamp();
        using HttpResponseMessage response = await Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        if (!response.IsSuccessStatusCode) throw new InvalidOperationException($"{(int)response.StatusCode}: {await response.Content.ReadAsStringAsync()}");
        Answer answer = await ReadAsync(response, asked, begun);
        return answer.First != 0 ? answer : throw new InvalidOperationException("no token came");
    }

    /// <summary>Reads a stream, of chat or plain text, to its end or until so many pieces of text came. <paramref name="heard"/> is told of every line, pings too.</summary>
    public static async Task<Answer> ReadAsync(HttpResponseMessage response, long asked, Action? begun = null, int most = int.MaxValue, Action<string>? heard = null, CancellationToken cancellationToken = default)
    {
        long first = 0, last = 0;
        using var reader = new StreamReader(await response.Content.ReadAsStreamAsync(cancellationToken));
        var text = new StringBuilder();
        var events = new List<Gap>();
        int tokens = 0, cached = 0, finished = 0;
        bool done = false;
        while (events.Count + (first == 0 ? 0 : 1) < most && await reader.ReadLineAsync(cancellationToken) is { } line)
        {
            heard?.Invoke(line);
            done |= line == "data: [DONE]";
            if (!line.StartsWith("data: ", StringComparison.Ordinal) || done) continue;
            long now = Stopwatch.GetTimestamp();
            using var json = JsonDocument.Parse(line.AsMemory(6));
            if (json.RootElement.TryGetProperty("error", out JsonElement error)) throw new InvalidOperationException(error.ToString());
            if (json.RootElement.TryGetProperty("usage", out JsonElement usage) && usage.ValueKind == JsonValueKind.Object)
            {
                tokens = usage.GetProperty("completion_tokens").GetInt32();
                if (usage.TryGetProperty("prompt_tokens_details", out JsonElement details) && details.ValueKind == JsonValueKind.Object
                    && details.TryGetProperty("cached_tokens", out JsonElement already)) cached = already.GetInt32();
            }
            if (!json.RootElement.TryGetProperty("choices", out JsonElement choices) || choices.GetArrayLength() == 0) continue;
            bool ends = choices[0].TryGetProperty("finish_reason", out JsonElement finish) && finish.ValueKind == JsonValueKind.String;
            if (ends) finished++;
            string? piece = choices[0].TryGetProperty("text", out JsonElement plain) ? plain.GetString()
                : choices[0].TryGetProperty("delta", out JsonElement delta) && delta.TryGetProperty("content", out JsonElement content) ? content.GetString() : null;
            // The head of a chat, and the end, are no tokens.
            if (string.IsNullOrEmpty(piece) && (ends || piece is null || plain.ValueKind == JsonValueKind.Undefined)) continue;
            text.Append(piece);
            if (first == 0)
            {
                first = now;
                begun?.Invoke();
            }
            else events.Add(new Gap(now, Stopwatch.GetElapsedTime(last, now).TotalMilliseconds));
            last = now;
        }
        return new Answer(asked, first, last, tokens, cached, text.ToString(), events) { Finished = finished, Done = done };
    }

    public void Dispose() => Http.Dispose();
}
