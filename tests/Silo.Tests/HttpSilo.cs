using System.Net;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json;
using FlashOrleans.Client;
using FlashOrleans.Grains;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Silo.Tests;

/// <summary>A silo with HTTP on a free port, for the tests of one class.</summary>
public sealed class HttpSilo(EmberlingFolder models) : IAsyncLifetime
{
    public FlashSilo Silo { get; private set; } = null!;
    public HttpClient Http { get; private set; } = null!;
    public FlashClient Client { get; private set; } = null!;

    public static FlashSiloOptions Options(EmberlingFolder models, HttpOptions? http = null) => new() { ModelsDirectory = models.Folder, Http = http ?? new HttpOptions() };

    /// <summary>A client of a silo; nothing of it waits longer than a test may.</summary>
    public static HttpClient Of(FlashSilo silo) => new() { BaseAddress = new Uri($"http://{silo.HttpEndpoint}"), Timeout = TimeSpan.FromMinutes(2) };

    public async ValueTask InitializeAsync()
    {
        Silo = await FlashSilo.StartAsync(Options(models));
        Http = Of(Silo);
        Client = FlashClient.Over(Silo.Grains);
    }

    /// <summary>Tokens that the first layer has computed so far.</summary>
    public long Rows() => Silo.Services.GetRequiredService<LayerHost>().Status.Where(static s => s.Layer == 0).Sum(static s => s.Stats?.Rows ?? 0);

    public async ValueTask DisposeAsync()
    {
        Http.Dispose();
        await Silo.DisposeAsync();
    }
}

/// <summary>Requests and what comes back, as text and JSON: the wire itself is what these tests look at.</summary>
internal static class Wire
{
    public const string Chat = "/v1/chat/completions", Text = "/v1/completions";

    public static HttpRequestMessage Request(string path, string json, params (string Name, string Value)[] headers)
    {
        var request = new HttpRequestMessage(HttpMethod.Post, path) { Content = new StringContent(json, Encoding.UTF8, "application/json") };
        foreach ((string name, string value) in headers) request.Headers.Add(name, value);
        return request;
    }

    public static async Task<JsonElement> AskAsync(this HttpClient http, string path, string json, params (string Name, string Value)[] headers)
    {
        using HttpRequestMessage request = Request(path, json, headers);
        using HttpResponseMessage response = await http.SendAsync(request);
        string body = await response.Content.ReadAsStringAsync();
        Assert.True(response.IsSuccessStatusCode, body);
        return JsonDocument.Parse(body).RootElement;
    }

    public static async Task<(HttpStatusCode Status, JsonElement Error, HttpResponseMessage Response)> FailAsync(this HttpClient http, string path, string json, params (string Name, string Value)[] headers)
    {
        using HttpRequestMessage request = Request(path, json, headers);
        HttpResponseMessage response = await http.SendAsync(request);
        JsonElement body = await response.Content.ReadFromJsonAsync<JsonElement>();
        return (response.StatusCode, body.GetProperty("error"), response);
    }

    /// <summary>The lines of a stream, without the empty ones between events.</summary>
    public static async Task<string[]> StreamAsync(this HttpClient http, string path, string json, params (string Name, string Value)[] headers)
    {
        using HttpRequestMessage request = Request(path, json, headers);
        using HttpResponseMessage response = await http.SendAsync(request);
        string body = await response.Content.ReadAsStringAsync();
        Assert.True(response.IsSuccessStatusCode, body);
        Assert.Equal("text/event-stream", response.Content.Headers.ContentType?.MediaType);
        Assert.EndsWith("\n\n", body, StringComparison.Ordinal);
        return body.Split("\n\n", StringSplitOptions.RemoveEmptyEntries);
    }

    /// <summary>The events of a stream that came to its end.</summary>
    public static JsonElement[] Events(string[] lines)
    {
        Assert.Equal("data: [DONE]", lines[^1]);
        return [.. lines[..^1].Select(static line =>
        {
            Assert.StartsWith("data: {", line, StringComparison.Ordinal);
            return JsonDocument.Parse(line["data: ".Length..]).RootElement;
        })];
    }

    public static string Content(JsonElement reply, int choice = 0) => reply.GetProperty("choices")[choice].GetProperty("message").GetProperty("content").GetString()!;

    public static string Streamed(JsonElement[] events) => string.Concat(events.Where(static e => e.GetProperty("choices").GetArrayLength() > 0)
        .Select(static e => e.GetProperty("choices")[0].GetProperty("delta").TryGetProperty("content", out JsonElement text) ? text.GetString() : ""));

    public static string? Finish(JsonElement reply, int choice = 0) => reply.GetProperty("choices")[choice].GetProperty("finish_reason").GetString();

    public static int Cached(JsonElement reply) => reply.GetProperty("usage").GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32();

    /// <summary>A chat of one message to the bundled model, greedy unless <paramref name="more"/> says otherwise.</summary>
    public static string Body(string more = "", string say = "Tell me a story about a fox.") =>
        $$"""{"model": "emberling", "messages": [{"role": "user", "content": {{JsonSerializer.Serialize(say)}}}]{{(more.Length > 0 ? ", " + more : "")}}}""";
}
