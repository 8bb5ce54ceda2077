using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashOrleans.Bench;

/// <summary>
/// One user for as long as the test goes on: draws what it does next, does it, and checks what comes back. A request ends as answered (whole, with the reason why it ends), refused (a status that says so, and only where that
/// may be), or left by the visitor itself; anything else is wrong, and so is a server that says nothing for <see cref="Patience"/>. One task.
/// </summary>
internal sealed class Visitor
{
    /// <summary>Streams say at least a ping every ten seconds; the machine may be busy with something else for a while.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromMinutes(10);
    private const int MostTokens = 64;
    private static readonly string[] s_words = "the a fox river night garden small old bright quiet story king house road tree winter runs sleeps finds asks tells carries under over near because when then and but never always seven letters window bread music stone".Split(' ');
    /// <summary>Texts of requests that are made again and again, by all.</summary>
    private static readonly ConcurrentDictionary<int, string> s_known = new();
    private readonly int _number;
    private readonly Random _random;
    private readonly string _model;
    private readonly int _context;
    private readonly LoadClient _client;
    private readonly Tally _tally;
    private Guid _session;
    private JsonArray _talk = [];
    private int _words;

    public Visitor(int number, int seed, string model, int context, LoadClient client, Tally tally)
    {
        (_number, _model, _context, _client, _tally) = (number, model, context, client, tally);
        _random = new Random(unchecked(seed * 7919 + number));
        _session = NewSession();
    }

    public async Task LiveAsync(CancellationToken end)
    {
        while (!end.IsCancellationRequested)
        {
            if (_random.Next(3) == 0) await Task.Delay(_random.Next(1500), end).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            try
            {
                await (_random.Next(100) switch
                {
                    < 32 => TalkAsync(),
                    < 46 => AskAsync("stateless", Body(Say(_random.Next(5, 40)))),
                    < 54 => AskAsync("resent", Body(Again())),
                    < 62 => AskAsync("long", Body(Say(_random.Next(_context / 4, _context / 2)), most: 8)),
                    < 71 => LeaveAsync(),
                    < 78 => DisconnectAsync(),
                    < 83 => SeveralAsync(),
                    < 87 => DeleteAsync(),
                    < 93 => CanaryAsync(_random.Next(8)),
                    < 96 => ResumeAsync(),
                    < 98 => RefusedAsync("too long", Body(Say(20_000)), HttpStatusCode.BadRequest, "context_length_exceeded"),
                    _ => RefusedAsync("nonsense", _random.Next(3) switch { 0 => "{\"model\": ", 1 => "[]", _ => "{\"model\": \"no-such-model\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}" }, null, null),
                });
            }
            catch (OperationCanceledException)
            {
                _tally.Wrong("hung", $"visitor {_number}: nothing came for {Patience.TotalMinutes} minutes");
            }
            catch (Exception e) when (e is HttpRequestException or IOException or InvalidOperationException or JsonException or SocketException or KeyNotFoundException)
            {
                _tally.Wrong("lost", $"visitor {_number}: {e.GetType().Name}: {e.Message}");
            }
        }
    }

    /// <summary>One of a few requests that everybody makes: the text is the same whoever else is there.</summary>
    public async Task CanaryAsync(int which)
    {
        JsonObject body = Body([Message("user", $"Tell me a story about the number {which} and a fox.")], most: 24, stream: which % 2 == 0, seed: which);
        body["temperature"] = which < 4 ? 0 : 0.8;
        (string Text, int _)? answer = await AskAsync("compared", body);
        if (answer is not { } got) return;
        string known = s_known.GetOrAdd(which, got.Text);
        if (known != got.Text) _tally.Wrong("different", $"request {which} was answered with {JsonSerializer.Serialize(known)}, then with {JsonSerializer.Serialize(got.Text)}");
        else _tally.Ended("compared");
    }

    public static async Task<int> DeleteAllAsync(HttpClient http, Tally tally)
    {
        int deleted = 0;
        while (true)
        {
            using JsonDocument list = JsonDocument.Parse(await http.GetStringAsync("/v1/sessions?limit=1000"));
            string[] ids = [.. list.RootElement.GetProperty("data").EnumerateArray().Select(static s => s.GetProperty("id").GetString()!)];
            if (ids.Length == 0) return deleted;
            foreach (string id in ids)
            {
                using HttpResponseMessage gone = await http.DeleteAsync($"/v1/sessions/{id}");
                if (!gone.IsSuccessStatusCode) tally.Wrong("lost", $"a session could not be deleted: {(int)gone.StatusCode}");
                deleted++;
            }
        }
    }

    /// <summary>A turn of the visitor's own conversation, in its session.</summary>
    private async Task TalkAsync()
    {
        JsonObject said = Message("user", Words(_random.Next(4, 30)));
        if (_words > _context / 3) Forget();
        JsonArray messages = [.. _talk.Select(static m => m!.DeepClone()), said.DeepClone()];
        if (await AskAsync("session", Body(messages), ("x-session-id", _session.ToString())) is not { } answer) return;
        _talk.Add(said);
        _talk.Add(Message("assistant", answer.Text));
        _words += 40 + answer.Tokens;
    }

    private async Task DeleteAsync()
    {
        _tally.Asked("delete");
        using HttpResponseMessage response = await _client.Http.DeleteAsync($"/v1/sessions/{_session}", Late());
        if (response.StatusCode is HttpStatusCode.OK) _tally.Ended("deleted");
        else if (response.StatusCode is HttpStatusCode.NotFound) _tally.Ended("refused");
        else _tally.Wrong("delete", $"{(int)response.StatusCode}");
        Forget();
    }

    /// <summary>Reads a few tokens and goes.</summary>
    private async Task LeaveAsync()
    {
        _tally.Asked("left");
        bool own = _random.Next(2) == 0;
        JsonObject body = Body(own ? Again() : Say(_random.Next(5, 60)), stream: true);
        using HttpRequestMessage request = Request(body, own ? [("x-session-id", _session.ToString())] : []);
        using var impatient = new CancellationTokenSource(_random.Next(4) == 0 ? TimeSpan.FromMilliseconds(_random.Next(1, 3000)) : Patience);
        try
        {
            using HttpResponseMessage response = await _client.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, impatient.Token);
            if (await RefusedAsync(response, own)) return;
            await LoadClient.ReadAsync(response, Stopwatch.GetTimestamp(), most: _random.Next(1, 20), cancellationToken: impatient.Token);
        }
        catch (OperationCanceledException)
        {
        }
        _tally.Ended("left");
        // What the session holds now nobody knows.
        if (own) Forget();
    }

    /// <summary>A connection that breaks: in the head, in the body, behind it, or in the middle of the answer.</summary>
    private async Task DisconnectAsync()
    {
        _tally.Asked("disconnected");
        string body = Body(Say(_random.Next(5, 60)), stream: _random.Next(2) == 0).ToJsonString();
        byte[] bytes = Encoding.UTF8.GetBytes($"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {Encoding.UTF8.GetByteCount(body)}\r\n\r\n{body}");
        using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { LingerState = new LingerOption(true, 0) };
        await socket.ConnectAsync(_client.Http.BaseAddress!.Host, _client.Http.BaseAddress.Port);
        int stage = _random.Next(4), sent = stage == 0 ? _random.Next(1, 60) : stage == 1 ? _random.Next(120, bytes.Length) : bytes.Length;
        await socket.SendAsync(bytes.AsMemory(0, sent));
        if (stage == 2) await Task.Delay(_random.Next(500));
        if (stage == 3)
        {
            using var late = new CancellationTokenSource(TimeSpan.FromSeconds(30));
            try { await socket.ReceiveAsync(new byte[_random.Next(1, 2000)], late.Token); }
            catch (OperationCanceledException) { }
        }
        _tally.Ended("disconnected");
    }

    private async Task SeveralAsync()
    {
        _tally.Asked("several");
        int n = _random.Next(2, 4);
        JsonObject body = Body(Say(_random.Next(5, 40)), most: 24);
        body["n"] = n;
        using HttpRequestMessage request = Request(body);
        using HttpResponseMessage response = await _client.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Late());
        if (await RefusedAsync(response, false)) return;
        if (body["stream"]!.GetValue<bool>())
        {
            Answer answer = await ReadAsync(response);
            if (answer.Finished != n || !answer.Done) _tally.Wrong("broken", $"{answer.Finished} of {n} answers came to their end");
            _tally.Served(answer.Tokens, 0, answer.Cached);
        }
        else
        {
            using JsonDocument reply = JsonDocument.Parse(await response.Content.ReadAsStringAsync(Late()));
            if (reply.RootElement.GetProperty("choices").GetArrayLength() != n) _tally.Wrong("broken", $"not {n} answers");
            Serve(reply.RootElement);
        }
        _tally.Ended("answered");
        _tally.Ended("several");
    }

    /// <summary>An answer with an id of its own: read in part, and the rest with another connection, nothing twice and nothing lost.</summary>
    private async Task ResumeAsync()
    {
        _tally.Asked("resumed");
        string turn = Guid.NewGuid().ToString(), session = Guid.NewGuid().ToString();
        JsonObject body = Body(Say(_random.Next(5, 40)), most: 24, stream: true, seed: _random.Next(1000));
        var ids = new List<int>();
        var whole = new StringBuilder();
        for (int part = 0; part < 2; part++)
        {
            using HttpRequestMessage request = Request(body, ("x-session-id", session), ("x-turn-id", turn));
            if (ids.Count > 0) request.Headers.Add("Last-Event-ID", $"{ids[^1]}");
            using HttpResponseMessage response = await _client.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Late());
            if (await RefusedAsync(response, false)) return;
            Answer answer = await LoadClient.ReadAsync(response, Stopwatch.GetTimestamp(), most: part == 0 ? _random.Next(1, 12) : int.MaxValue, heard: line =>
            {
                if (line.StartsWith("id: ", StringComparison.Ordinal)) ids.Add(int.Parse(line[4..]));
            }, cancellationToken: Late());
            whole.Append(answer.Text);
            if (part == 1 && !answer.Done) _tally.Wrong("broken", "a resumed answer has no end");
        }
        // The last chunk may come as text and as an end.
        if (!ids.SequenceEqual(ids.Order())) _tally.Wrong("broken", $"events of a resumed answer: {string.Join(' ', ids)}");
        JsonObject again = (JsonObject)body.DeepClone();
        again["stream"] = false;
        again.Remove("stream_options");
        using HttpRequestMessage plain = Request(again, ("x-session-id", session), ("x-turn-id", turn));
        using HttpResponseMessage reply = await _client.Http.SendAsync(plain, Late());
        string text = await reply.Content.ReadAsStringAsync(Late());
        if (!reply.IsSuccessStatusCode) throw new InvalidOperationException($"an answer that was there is not given again, {(int)reply.StatusCode}: {text}");
        using JsonDocument json = JsonDocument.Parse(text);
        string expected = Text(json.RootElement);
        if (expected != whole.ToString()) _tally.Wrong("different", $"a resumed answer is {JsonSerializer.Serialize(whole.ToString())}, in one {JsonSerializer.Serialize(expected)}");
        Serve(json.RootElement);
        _tally.Ended("answered");
        _tally.Ended("resumed");
    }

    private async Task RefusedAsync(string kind, object body, HttpStatusCode? expected, string? code)
    {
        _tally.Asked(kind);
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/chat/completions") { Content = new StringContent(body.ToString()!, Encoding.UTF8, "application/json") };
        if (body is JsonObject json) request.Content = new StringContent(json.ToJsonString(), Encoding.UTF8, "application/json");
        using HttpResponseMessage response = await _client.Http.SendAsync(request, Late());
        string text = await response.Content.ReadAsStringAsync(Late());
        bool right = (expected is { } status ? response.StatusCode == status : (int)response.StatusCode is 400 or 404) && (code is null || text.Contains(code, StringComparison.Ordinal));
        // Who asked for a stream and had to queue has the status of one already: then the refusal is an event of it.
        right |= response.StatusCode == HttpStatusCode.OK && code is not null && text.Contains($"\"code\":\"{code}\"", StringComparison.Ordinal);
        if (right || response.StatusCode is HttpStatusCode.TooManyRequests) _tally.Ended("refused");
        else _tally.Wrong(kind, $"{(int)response.StatusCode}: {text}");
    }

    private async Task<(string Text, int Tokens)?> AskAsync(string kind, JsonObject body, params (string, string)[] headers)
    {
        _tally.Asked(kind);
        using HttpRequestMessage request = Request(body, headers);
        long asked = Stopwatch.GetTimestamp();
        using HttpResponseMessage response = await _client.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Late());
        if (await RefusedAsync(response, headers.Length > 0)) return null;
        string text;
        int tokens;
        if (body["stream"]!.GetValue<bool>())
        {
            Answer answer = await ReadAsync(response, asked);
            if (answer is not { Done: true, Finished: 1 }) _tally.Wrong("broken", $"{kind}: a stream ended without its end");
            _tally.Times(answer);
            _tally.Served(answer.Tokens, 0, answer.Cached);
            (text, tokens) = (answer.Text, answer.Tokens);
        }
        else
        {
            using JsonDocument reply = JsonDocument.Parse(await response.Content.ReadAsStringAsync(Late()));
            tokens = Serve(reply.RootElement);
            text = Text(reply.RootElement);
        }
        _tally.Ended("answered");
        return (text, tokens);
    }

    /// <summary>Reads to the end; a stream that says nothing for too long, not even a ping, is cancelled.</summary>
    private static async Task<Answer> ReadAsync(HttpResponseMessage response, long asked = 0)
    {
        using var silence = new CancellationTokenSource(Patience);
        return await LoadClient.ReadAsync(response, asked, heard: _ => silence.CancelAfter(Patience), cancellationToken: silence.Token);
    }

    /// <summary>A refusal that may be: no room, with a time to come again, or, in a session that somebody has just left, still busy.</summary>
    private async Task<bool> RefusedAsync(HttpResponseMessage response, bool session)
    {
        if (response.IsSuccessStatusCode) return false;
        string text = await response.Content.ReadAsStringAsync(Late());
        bool may = response.StatusCode is HttpStatusCode.TooManyRequests or HttpStatusCode.ServiceUnavailable || (session && response.StatusCode is HttpStatusCode.Conflict);
        if (may && response.Headers.RetryAfter is not null) _tally.Ended("refused");
        else _tally.Wrong("refused", $"{(int)response.StatusCode}: {text}");
        return true;
    }

    private int Serve(JsonElement reply)
    {
        JsonElement usage = reply.GetProperty("usage");
        int tokens = usage.GetProperty("completion_tokens").GetInt32();
        _tally.Served(tokens, usage.GetProperty("prompt_tokens").GetInt32(), usage.GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32());
        return tokens;
    }

    private static string Text(JsonElement reply) => reply.GetProperty("choices")[0].GetProperty("message").GetProperty("content").GetString()!;

    private static HttpRequestMessage Request(JsonObject body, params (string Name, string Value)[] headers)
    {
        var request = new HttpRequestMessage(HttpMethod.Post, "/v1/chat/completions") { Content = new StringContent(body.ToJsonString(), Encoding.UTF8, "application/json") };
        foreach ((string name, string value) in headers) request.Headers.Add(name, value);
        return request;
    }

    private JsonObject Body(JsonArray messages, int most = 0, bool? stream = null, int? seed = null)
    {
        bool streams = stream ?? _random.Next(10) < 6;
        var body = new JsonObject { ["model"] = _model, ["messages"] = messages, ["max_tokens"] = most > 0 ? most : _random.Next(1, MostTokens), ["stream"] = streams, ["seed"] = seed ?? _random.Next(1 << 20) };
        if (streams) body["stream_options"] = new JsonObject { ["include_usage"] = true };
        if (_random.Next(3) == 0) body["user"] = $"visitor-{_number}";
        return body;
    }

    private JsonArray Say(int words) => [Message("user", Words(words))];

    /// <summary>The conversation so far and a question behind it, as a client without sessions sends it.</summary>
    private JsonArray Again() => [.. _talk.Select(static m => m!.DeepClone()), Message("user", Words(_random.Next(4, 20)))];

    private static JsonObject Message(string role, string content) => new() { ["role"] = role, ["content"] = content };

    private string Words(int count) => string.Join(' ', Enumerable.Range(0, count).Select(_ => s_words[_random.Next(s_words.Length)]));

    private void Forget()
    {
        _talk = [];
        _words = 0;
        _session = NewSession();
    }

    private Guid NewSession()
    {
        byte[] bytes = new byte[16];
        _random.NextBytes(bytes);
        return new Guid(bytes);
    }

    private static CancellationToken Late() => new CancellationTokenSource(Patience).Token;
}
