using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Microsoft.Extensions.Time.Testing;

namespace FlashOrleans.Silo.Tests;

/// <summary>What is refused over HTTP, and how.</summary>
public sealed class HttpErrorTests(HttpSilo silo, EmberlingFolder models) : IClassFixture<HttpSilo>
{
    private const string Image = """{"model": "emberling", "messages": [{"role": "user", "content": [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "x"}}]}]}""";

    private static string Chat(string more) => Wire.Body(more);

    public static TheoryData<string, int, string?, string?> Refused => new()
    {
        { Wire.Body().Replace("emberling", "nobody", StringComparison.Ordinal), 404, "model", "model_not_found" },
        // A path of this machine is not a name.
        { Wire.Body().Replace("emberling", "/etc/passwd", StringComparison.Ordinal), 404, "model", "model_not_found" },
        { """{"messages": [{"role": "user", "content": "hello"}]}""", 400, "model", null },
        { """{"model": "emberling"}""", 400, "messages", null },
        { """{"model": "emberling", "messages": []}""", 400, "messages", null },
        { "", 400, null, null },
        { "[1, 2", 400, null, null },
        { Image, 400, "messages[0].content[1].type", "unsupported_value" },
        { """{"model": "emberling", "messages": [{"role": "tool", "content": "42"}]}""", 400, "messages[0].role", "unsupported_value" },
        { """{"model": "emberling", "messages": [{"role": "user"}]}""", 400, "messages[0].content", null },
        { """{"model": "emberling", "messages": [{"role": 1, "content": "x"}]}""", 400, "messages[0].role", null },
        { Chat("\"tools\": [{\"type\": \"function\"}]"), 400, "tools", "unsupported_parameter" },
        { Chat("\"tool_choice\": \"required\""), 400, "tool_choice", "unsupported_parameter" },
        { Chat("\"response_format\": {\"type\": \"json_object\"}"), 400, "response_format", "unsupported_parameter" },
        { Chat("\"logit_bias\": {\"1\": 5}"), 400, "logit_bias", "unsupported_parameter" },
        { Chat("\"frequency_penalty\": 0.5"), 400, "frequency_penalty", "unsupported_parameter" },
        { Chat("\"temperature\": -1"), 400, "temperature", null },
        { Chat("\"temperature\": \"hot\""), 400, "temperature", null },
        { Chat("\"top_p\": 0"), 400, "top_p", null },
        { Chat("\"min_p\": 2"), 400, "min_p", null },
        { Chat("\"top_k\": -7"), 400, "top_k", null },
        { Chat("\"speculate\": \"always\""), 400, "speculate", null },
        { Chat("\"n\": 9"), 400, "n", null },
        { Chat("\"max_tokens\": 0"), 400, "max_tokens", null },
        { Chat("\"max_completion_tokens\": -5"), 400, "max_completion_tokens", null },
        { Chat("\"stop\": [\"a\", \"b\", \"c\", \"d\", \"e\"]"), 400, "stop", null },
        { Chat("\"stop\": [\"\"]"), 400, "stop", null },
        { Chat("\"stop\": 5"), 400, "stop", null },
        { Chat("\"top_logprobs\": 3"), 400, "top_logprobs", null },
        { Chat("\"logprobs\": true, \"top_logprobs\": 21"), 400, "top_logprobs", null },
        { Chat("\"stream_options\": {\"include_usage\": true}"), 400, "stream_options", null },
        { Wire.Body(say: string.Concat(Enumerable.Repeat("a very long story ", 600))), 400, "messages", "context_length_exceeded" },
    };

    [Theory]
    [MemberData(nameof(Refused))]
    public async Task A_request_that_cannot_be_served_says_why_and_about_what(string body, int status, string? param, string? code)
    {
        foreach (bool stream in new[] { false, true })
        {
            string asked = stream && body.EndsWith('}') && !body.Contains("stream", StringComparison.Ordinal) ? body[..^1] + ", \"stream\": true}" : body;
            var (got, error, response) = await silo.Http.FailAsync(Wire.Chat, asked);
            response.Dispose();
            Assert.Equal((status, param, code), ((int)got, error.GetProperty("param").GetString(), error.GetProperty("code").GetString()));
            Assert.NotEmpty(error.GetProperty("message").GetString()!);
            Assert.Equal("invalid_request_error", error.GetProperty("type").GetString());
        }
    }

    [Fact]
    public async Task What_is_not_there_is_a_404_in_the_same_words()
    {
        using HttpResponseMessage page = await silo.Http.GetAsync("/v1/embeddings"), model = await silo.Http.GetAsync("/v1/models/nobody");
        Assert.Equal((404, 404), ((int)page.StatusCode, (int)model.StatusCode));
        Assert.Contains("unknown_url", await page.Content.ReadAsStringAsync(), StringComparison.Ordinal);
        Assert.Contains("model_not_found", await model.Content.ReadAsStringAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_body_that_is_too_large_or_too_slow_or_no_room_are_errors_of_their_own()
    {
        var time = new FakeTimeProvider();
        var options = new HttpOptions { MaxBodyBytes = 2000, MaxRunning = 1, MaxWaiting = 0, Time = time };
        await using FlashSilo small = await FlashSilo.StartAsync(HttpSilo.Options(models, options));
        using HttpClient http = HttpSilo.Of(small);

        var (large, error, response) = await http.FailAsync(Wire.Chat, Wire.Body(say: new string('x', 3000)));
        response.Dispose();
        Assert.Equal((413, "request_too_large"), ((int)large, error.GetProperty("code").GetString()));

        (large, error, response) = await http.FailAsync(Wire.Chat, Chat("\"n\": 2"));
        response.Dispose();
        Assert.Equal((400, "n"), ((int)large, error.GetProperty("param").GetString()));

        using (await small.Http!.Admission.EnterAsync("a", 1, default))
        {
            (var full, error, response) = await http.FailAsync(Wire.Chat, Chat("\"max_tokens\": 1"));
            using (response)
            {
                Assert.Equal((429, "rate_limit_exceeded"), ((int)full, error.GetProperty("code").GetString()));
                Assert.NotNull(response.Headers.RetryAfter?.Delta);
            }
        }

        using var connection = new TcpClient();
        await connection.ConnectAsync(small.HttpEndpoint!);
        NetworkStream wire = connection.GetStream();
        await wire.WriteAsync(Encoding.ASCII.GetBytes("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"model\":"));
        byte[] buffer = new byte[4096];
        Task<int> reading = wire.ReadAsync(buffer).AsTask();
        // The clock of the body begins when the server has seen the head; nobody tells when that is.
        while (!reading.IsCompleted)
        {
            time.Advance(options.BodyTimeout);
            await Task.Yield();
        }
        Assert.StartsWith("HTTP/1.1 408 ", Encoding.ASCII.GetString(buffer, 0, await reading), StringComparison.Ordinal);
    }

    [Theory, InlineData(true), InlineData(false)]
    public async Task Who_breaks_off_in_the_middle_of_a_request_has_gone_and_nothing_failed(bool resets)
    {
        await using FlashSilo silo = await FlashSilo.StartAsync(HttpSilo.Options(models, new HttpOptions()));
        using HttpClient http = HttpSilo.Of(silo);
        using (var connection = new TcpClient { LingerState = new LingerOption(resets, 0) })
        {
            await connection.ConnectAsync(silo.HttpEndpoint!);
            NetworkStream wire = connection.GetStream();
            await wire.WriteAsync(Encoding.ASCII.GetBytes("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"));
            // The server says so when it begins to read the body.
            byte[] buffer = new byte[4096];
            Assert.StartsWith("HTTP/1.1 100 ", Encoding.ASCII.GetString(buffer, 0, await wire.ReadAsync(buffer)), StringComparison.Ordinal);
            await wire.WriteAsync(Encoding.ASCII.GetBytes("{\"model\":"));
        }
        string counted = "";
        while (!counted.Contains("status=", StringComparison.Ordinal))
            counted = string.Join('\n', (await http.GetStringAsync("/metrics")).Split('\n').Where(static l => l.StartsWith("flashorleans_http_requests", StringComparison.Ordinal) && l.Contains("completions", StringComparison.Ordinal)));
        Assert.True(counted.Contains("status=\"499\"", StringComparison.Ordinal), counted);
    }

    [Fact]
    public async Task A_key_that_was_set_is_asked_for_under_v1_alone()
    {
        await using FlashSilo locked = await FlashSilo.StartAsync(HttpSilo.Options(models, new HttpOptions { ApiKey = "sesame" }));
        using HttpClient http = HttpSilo.Of(locked);
        foreach ((string, string)[] headers in new (string, string)[][] { [], [("Authorization", "Bearer open")], [("Authorization", "Basic sesame")] })
        {
            var (status, error, response) = await http.FailAsync(Wire.Chat, Wire.Body(), headers);
            response.Dispose();
            Assert.Equal((401, "invalid_api_key"), ((int)status, error.GetProperty("code").GetString()));
        }
        JsonElement reply = await http.AskAsync(Wire.Chat, Chat("\"max_tokens\": 2"), ("Authorization", "Bearer sesame"));
        Assert.NotEmpty(Wire.Content(reply));
        Assert.Contains("ready", await http.GetStringAsync("/health/ready"), StringComparison.Ordinal);
    }
}
