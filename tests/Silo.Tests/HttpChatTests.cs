using System.Globalization;
using System.Text.Json;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Silo.Http;

namespace FlashOrleans.Silo.Tests;

/// <summary>Completions over HTTP, as they look on the wire.</summary>
public sealed class HttpChatTests(HttpSilo silo, EmberlingFolder models) : IClassFixture<HttpSilo>
{
    private const string Greedy = "\"temperature\": 0";
    private const string Prompt = "Once upon a time, a fox found a lantern";
    private readonly HttpClient _http = silo.Http;

    [Fact]
    public async Task A_completion_is_the_text_that_the_engine_alone_makes()
    {
        JsonElement reply = await _http.AskAsync(Wire.Text, $$"""{"model": "emberling", "prompt": "{{Prompt}}", "max_tokens": 24, {{Greedy}}}""");
        Assert.Equal("text_completion", reply.GetProperty("object").GetString());
        Assert.Equal(models.TextAlone(Prompt, 24), reply.GetProperty("choices")[0].GetProperty("text").GetString());
        Assert.Equal("length", Wire.Finish(reply));
        Assert.Equal(24, reply.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Theory, InlineData("off"), InlineData("lookup"), InlineData("auto")]
    public async Task Whatever_is_guessed_the_text_is_that_of_the_engine_alone(string speculate)
    {
        JsonElement reply = await _http.AskAsync(Wire.Text, $$"""{"model": "emberling", "prompt": "{{Prompt}}", "max_tokens": 60, "speculate": "{{speculate}}", {{Greedy}}}""");
        Assert.Equal(models.TextAlone(Prompt, 60), reply.GetProperty("choices")[0].GetProperty("text").GetString());
        JsonElement details = reply.GetProperty("usage").GetProperty("completion_tokens_details");
        if (speculate == "off") Assert.Equal((0, 0), (details.GetProperty("accepted_prediction_tokens").GetInt32(), details.GetProperty("rejected_prediction_tokens").GetInt32()));
    }

    [Theory, InlineData("one"), InlineData("parts"), InlineData("another text")]
    public async Task A_prediction_changes_how_fast_an_answer_comes_and_nothing_of_it(string kind)
    {
        string answer = Wire.Content(await _http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 60, \"ignore_eos\": true, \"temperature\": 0.9, \"seed\": 3, \"speculate\": \"off\"")));
        string expected = kind == "another text" ? "\"Nothing like it, whatever comes.\"" : JsonSerializer.Serialize(answer);
        if (kind == "parts") expected = $$"""[{"type": "text", "text": {{expected}}}]""";
        JsonElement reply = await _http.AskAsync(Wire.Chat, Wire.Body($$"""
            "max_tokens": 60, "ignore_eos": true, "temperature": 0.9, "seed": 3, "prediction": {"type": "content", "content": {{expected}}}
            """));
        Assert.Equal(answer, Wire.Content(reply));
        JsonElement details = reply.GetProperty("usage").GetProperty("completion_tokens_details");
        int accepted = details.GetProperty("accepted_prediction_tokens").GetInt32(), rejected = details.GetProperty("rejected_prediction_tokens").GetInt32();
        Assert.Equal(60, reply.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        if (kind != "another text") Assert.True(accepted > 0, $"{accepted} accepted, {rejected} rejected");
    }

    [Theory]
    [InlineData("\"x\"", "prediction")]
    [InlineData("{\"content\": \"x\"}", "prediction.type")]
    [InlineData("{\"type\": \"tokens\", \"content\": \"x\"}", "prediction.type")]
    [InlineData("{\"type\": \"content\"}", "prediction.content")]
    [InlineData("{\"type\": \"content\", \"content\": [{\"type\": \"image_url\"}]}", "prediction.content[0].type")]
    public async Task A_prediction_that_is_none_is_refused_by_name(string prediction, string field)
    {
        var (status, error, response) = await _http.FailAsync(Wire.Chat, Wire.Body($"\"prediction\": {prediction}"));
        response.Dispose();
        Assert.Equal((400, field), ((int)status, error.GetProperty("param").GetString()));
    }

    [Fact]
    public async Task A_conversation_that_is_too_long_goes_on_where_that_was_asked_for()
    {
        string words = string.Concat(Enumerable.Repeat("the fox and the bear ", 400));
        string body = $$"""{"model": "emberling", "max_tokens": 8, {{Greedy}}, "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{{words}}"}, {"role": "assistant", "content": "{{words}}"}, {"role": "user", "content": "And then?"}]""";
        var (status, error, response) = await _http.FailAsync(Wire.Chat, body + "}");
        response.Dispose();
        Assert.Equal((400, "context_length_exceeded"), ((int)status, error.GetProperty("code").GetString()));
        JsonElement reply = await _http.AskAsync(Wire.Chat, body + ", \"context_shift\": true}"), again = await _http.AskAsync(Wire.Chat, body + ", \"context_shift\": true}");
        Assert.Equal(Wire.Content(reply), Wire.Content(again));
        // What was kept is computed once.
        Assert.True(Wire.Cached(again) > 0);
    }

    [Fact]
    public async Task A_reply_has_the_fields_that_clients_read()
    {
        JsonElement reply = await _http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 8, \"seed\": 7"));
        Assert.StartsWith("chatcmpl-", reply.GetProperty("id").GetString(), StringComparison.Ordinal);
        Assert.Equal("chat.completion", reply.GetProperty("object").GetString());
        Assert.Equal("emberling", reply.GetProperty("model").GetString());
        Assert.StartsWith("fp_", reply.GetProperty("system_fingerprint").GetString(), StringComparison.Ordinal);
        JsonElement choice = Assert.Single(reply.GetProperty("choices").EnumerateArray());
        Assert.Equal("assistant", choice.GetProperty("message").GetProperty("role").GetString());
        Assert.NotEmpty(choice.GetProperty("message").GetProperty("content").GetString()!);
        Assert.Equal(JsonValueKind.Null, choice.GetProperty("logprobs").ValueKind);
        Assert.Equal("length", choice.GetProperty("finish_reason").GetString());
        JsonElement usage = reply.GetProperty("usage");
        Assert.Equal(8, usage.GetProperty("completion_tokens").GetInt32());
        Assert.Equal(usage.GetProperty("prompt_tokens").GetInt32() + 8, usage.GetProperty("total_tokens").GetInt32());
        Assert.Equal(0, Wire.Cached(reply));
    }

    [Fact]
    public async Task A_stream_begins_with_the_role_and_ends_with_the_reason_the_usage_and_DONE()
    {
        // How much is guessed depends on what steps take, and usage says it.
        const string options = "\"max_tokens\": 12, \"seed\": 7, \"speculate\": \"off\"";
        JsonElement whole = await _http.AskAsync(Wire.Chat, Wire.Body(options));
        JsonElement[] events = Wire.Events(await _http.StreamAsync(Wire.Chat, Wire.Body(options + ", \"stream\": true, \"stream_options\": {\"include_usage\": true}")));
        Assert.All(events, static e => Assert.Equal("chat.completion.chunk", e.GetProperty("object").GetString()));
        JsonElement first = events[0].GetProperty("choices")[0].GetProperty("delta");
        Assert.Equal(("assistant", ""), (first.GetProperty("role").GetString(), first.GetProperty("content").GetString()));
        Assert.All(events[1..^2], static e => Assert.False(e.GetProperty("choices")[0].GetProperty("delta").TryGetProperty("role", out _)));
        Assert.All(events[..^2], static e => Assert.Null(Wire.Finish(e)));
        Assert.Equal("length", Wire.Finish(events[^2]));
        Assert.Empty(events[^2].GetProperty("choices")[0].GetProperty("delta").EnumerateObject());
        Assert.Empty(events[^1].GetProperty("choices").EnumerateArray());
        Assert.Equal(whole.GetProperty("usage").GetRawText(), events[^1].GetProperty("usage").GetRawText());
        Assert.All(events[..^1], static e => Assert.Equal(JsonValueKind.Null, e.GetProperty("usage").ValueKind));
        Assert.Single(events.Select(static e => e.GetProperty("id").GetString()).Distinct());
        // The same seed, the same story, streamed or not.
        Assert.Equal(Wire.Content(whole), Wire.Streamed(events));
    }

    [Fact]
    public async Task Usage_that_was_not_asked_for_is_not_there()
    {
        JsonElement[] events = Wire.Events(await _http.StreamAsync(Wire.Chat, Wire.Body("\"max_tokens\": 3, \"stream\": true")));
        Assert.All(events, static e => Assert.False(e.TryGetProperty("usage", out _)));
        Assert.Equal("length", Wire.Finish(events[^1]));
    }

    [Fact]
    public async Task A_stop_string_ends_the_answer_and_no_part_of_it_is_shown()
    {
        string whole = Wire.Content(await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 40, {Greedy}")));
        // From the middle of one word into the middle of another: it spans tokens.
        int at = whole.IndexOf(' ', whole.Length / 2) - 2;
        string stop = whole.Substring(at, 6);
        string options = $"\"max_tokens\": 40, {Greedy}, \"stop\": [\"never said\", {JsonSerializer.Serialize(stop)}]";
        JsonElement cut = await _http.AskAsync(Wire.Chat, Wire.Body(options));
        Assert.Equal(whole[..whole.IndexOf(stop, StringComparison.Ordinal)], Wire.Content(cut));
        Assert.Equal("stop", Wire.Finish(cut));
        JsonElement[] events = Wire.Events(await _http.StreamAsync(Wire.Chat, Wire.Body(options + ", \"stream\": true")));
        Assert.Equal(Wire.Content(cut), Wire.Streamed(events));
        Assert.Equal("stop", Wire.Finish(events[^1]));
    }

    [Fact]
    public async Task What_is_held_back_for_a_stop_string_comes_out_at_the_end()
    {
        string whole = Wire.Content(await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 10, {Greedy}")));
        string almost = whole[^3..] + "\u0001";
        JsonElement reply = await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 10, {Greedy}, \"stop\": {JsonSerializer.Serialize(almost)}"));
        Assert.Equal((whole, "length"), (Wire.Content(reply), Wire.Finish(reply)));
    }

    [Fact]
    public async Task A_stop_token_ends_the_answer_without_its_text()
    {
        const string logs = "\"logprobs\": true";
        JsonElement whole = await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 12, {Greedy}, {logs}"));
        string[] tokens = Tokens(whole);
        int[] ids = await IdsAsync(12);
        int stop = ids[8], first = Array.IndexOf(ids, stop);
        JsonElement cut = await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 12, {Greedy}, {logs}, \"stop_token_ids\": [{stop}]"));
        Assert.Equal("stop", Wire.Finish(cut));
        Assert.Equal(tokens[..first], Tokens(cut));
        Assert.Equal(string.Concat(tokens[..first]).TrimStart(), Wire.Content(cut).TrimStart());
    }

    [Fact]
    public async Task Log_probabilities_are_of_the_distribution_and_their_tokens_are_the_text()
    {
        JsonElement reply = await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 6, {Greedy}, \"logprobs\": true, \"top_logprobs\": 5"));
        JsonElement[] tokens = [.. reply.GetProperty("choices")[0].GetProperty("logprobs").GetProperty("content").EnumerateArray()];
        Assert.Equal(6, tokens.Length);
        Assert.Equal(Wire.Content(reply), string.Concat(Tokens(reply)));
        foreach (JsonElement token in tokens)
        {
            JsonElement[] top = [.. token.GetProperty("top_logprobs").EnumerateArray()];
            Assert.Equal(5, top.Length);
            // Greedy takes the best.
            Assert.Equal(token.GetProperty("token").GetString(), top[0].GetProperty("token").GetString());
            Assert.Equal(token.GetProperty("logprob").GetSingle(), top[0].GetProperty("logprob").GetSingle(), 1e-4);
            Assert.InRange(top.Sum(static t => Math.Exp(t.GetProperty("logprob").GetDouble())), 0.0, 1.0001);
            Assert.Equal(token.GetProperty("token").GetString(), System.Text.Encoding.UTF8.GetString([.. token.GetProperty("bytes").EnumerateArray().Select(static b => b.GetByte())]));
        }
        JsonElement text = await _http.AskAsync(Wire.Text, $$"""{"model": "emberling", "prompt": "{{Prompt}}", "max_tokens": 3, "logprobs": 2, {{Greedy}}}""");
        JsonElement logs = text.GetProperty("choices")[0].GetProperty("logprobs");
        Assert.Equal(3, logs.GetProperty("tokens").GetArrayLength());
        Assert.Equal(2, logs.GetProperty("top_logprobs")[0].EnumerateObject().Count());
        Assert.Equal(logs.GetProperty("tokens")[0].GetString()!.Length, logs.GetProperty("text_offset")[1].GetInt32());
    }

    [Fact]
    public async Task Several_answers_are_those_of_the_seeds_that_follow()
    {
        JsonElement three = await _http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 10, \"temperature\": 1, \"seed\": 11, \"n\": 3"));
        Assert.Equal([0, 1, 2], three.GetProperty("choices").EnumerateArray().Select(static c => c.GetProperty("index").GetInt32()));
        for (int i = 0; i < 3; i++)
        {
            JsonElement one = await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 10, \"temperature\": 1, \"seed\": {11 + i}"));
            Assert.Equal(Wire.Content(one), Wire.Content(three, i));
        }
        Assert.Equal(30, three.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        JsonElement[] events = Wire.Events(await _http.StreamAsync(Wire.Chat, Wire.Body("\"max_tokens\": 10, \"temperature\": 1, \"seed\": 11, \"n\": 3, \"stream\": true")));
        for (int i = 0; i < 3; i++)
            Assert.Equal(Wire.Content(three, i), Wire.Streamed([.. events.Where(e => e.GetProperty("choices")[0].GetProperty("index").GetInt32() == i)]));
    }

    [Theory]
    [InlineData("metadata")]
    [InlineData("header")]
    [InlineData("prompt_cache_key")]
    public async Task A_conversation_that_comes_back_with_its_key_is_computed_only_from_where_it_is_new(string kind)
    {
        string key = $"{kind}-{Guid.NewGuid()}";
        (string, string)[] header = kind == "header" ? [("x-session-id", key)] : [];
        string named = kind switch
        {
            "metadata" => $", \"metadata\": {{\"session_id\": \"{key}\"}}",
            "prompt_cache_key" => $", \"prompt_cache_key\": \"{key}\"",
            _ => "",
        };
        string say = "Tell me a story about a fox.";
        JsonElement one = await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 12, {Greedy}{named}", say), header);
        Assert.Equal(0, Wire.Cached(one));
        string history = $$"""
            {"model": "emberling", "max_tokens": 8, {{Greedy}}{{named}}, "messages": [{"role": "user", "content": "{{say}}"},
             {"role": "assistant", "content": {{JsonSerializer.Serialize(Wire.Content(one))}}}, {"role": "user", "content": "And then?"}]}
            """;
        JsonElement two = await _http.AskAsync(Wire.Chat, history, header);
        Assert.InRange(Wire.Cached(two), one.GetProperty("usage").GetProperty("prompt_tokens").GetInt32() - 1, two.GetProperty("usage").GetProperty("prompt_tokens").GetInt32() - 1);
        // Without the key: the same answer, computed anew.
        JsonElement alone = await _http.AskAsync(Wire.Chat, history.Replace(named.Length > 0 ? named : "\u0001", "", StringComparison.Ordinal));
        Assert.Equal((0, Wire.Content(two)), (Wire.Cached(alone), Wire.Content(alone)));
    }

    [Fact]
    public async Task Without_a_key_nothing_is_kept()
    {
        // The second finds the id of the first's session again, closed.
        for (int i = 0; i < 2; i++) Assert.Equal(0, Wire.Cached(await _http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 4"))));
    }

    [Fact]
    public async Task The_id_of_a_session_is_the_same_for_every_kind_of_client()
    {
        Guid id = Guid.NewGuid();
        using HttpRequestMessage request = Wire.Request(Wire.Chat, Wire.Body("\"max_tokens\": 4"), ("x-session-id", $"{id}"));
        using HttpResponseMessage response = await _http.SendAsync(request);
        Assert.Equal($"{id}", Assert.Single(response.Headers.GetValues("x-session-id")));
        SessionReport report = await silo.Client.OpenSession(id).GetReportAsync();
        Assert.Equal(4, report.Generated);
    }

    [Fact]
    public async Task A_busy_session_is_a_409_and_a_busy_cache_another_session()
    {
        Guid id = Guid.NewGuid();
        string key = $"{Guid.NewGuid()}";
        // Nobody reads: after sixteen tokens they wait, and are busy until they are cancelled.
        var turn = new TurnRequest { Model = EmberlingFolder.Name, Text = Prompt, MaxTokens = 400, StopTokens = [], CancelOnDisconnect = false };
        FlashSession busy = silo.Client.OpenSession(id), cache = silo.Client.OpenSession(RequestReader.SessionOf("cache", $"emberling\n{key}"));
        await busy.StartAsync(turn);
        await cache.StartAsync(turn);
        try
        {
            var (status, error, response) = await _http.FailAsync(Wire.Chat, Wire.Body("\"max_tokens\": 4"), ("x-session-id", $"{id}"));
            using (response)
            {
                Assert.Equal((409, "session_busy"), ((int)status, error.GetProperty("code").GetString()));
                Assert.Equal(TimeSpan.FromSeconds(1), response.Headers.RetryAfter?.Delta);
            }
            JsonElement reply = await _http.AskAsync(Wire.Chat, Wire.Body($"\"max_tokens\": 4, \"prompt_cache_key\": \"{key}\""));
            Assert.NotEmpty(Wire.Content(reply));
        }
        finally
        {
            await busy.CloseAsync();
            await cache.CloseAsync();
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_client_that_leaves_cancels_its_turn(bool stream)
    {
        Guid id = Guid.NewGuid();
        FlashSession session = silo.Client.OpenSession(id);
        using var left = new CancellationTokenSource();
        using HttpRequestMessage request = Wire.Request(Wire.Chat, Wire.Body($"\"ignore_eos\": true, \"stream\": {(stream ? "true" : "false")}"), ("x-session-id", $"{id}"));
        Task<HttpResponseMessage> asked = _http.SendAsync(request, stream ? HttpCompletionOption.ResponseHeadersRead : HttpCompletionOption.ResponseContentRead, left.Token);
        if (stream)
        {
            using HttpResponseMessage response = await asked;
            using var reader = new StreamReader(await response.Content.ReadAsStreamAsync());
            Assert.StartsWith("data: ", await reader.ReadLineAsync(), StringComparison.Ordinal);
        }
        else
        {
            await UntilAsync(session, static r => r.Generated > 0);
            await left.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => asked);
        }
        SessionReport report = await UntilAsync(session, static r => r.Generated > 0 && !r.Running);
        Assert.Equal(FinishReason.Cancelled, report.Finish);
        while (silo.Silo.Http!.Admission.Running > 0) await session.GetReportAsync();
    }

    [Fact]
    public async Task Messages_may_be_parts_of_text_and_a_developer_is_the_system()
    {
        string plain = Wire.Content(await _http.AskAsync(Wire.Chat, $$"""
            {"model": "emberling", "max_completion_tokens": 8, {{Greedy}}, "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "A fox\nand a hen"}]}
            """));
        string parts = Wire.Content(await _http.AskAsync(Wire.Chat, $$"""
            {"model": "emberling", "max_completion_tokens": 8, {{Greedy}}, "tools": [], "response_format": {"type": "text"}, "presence_penalty": 0, "unheard_of": 1, "messages":
             [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "A fox"}, {"type": "text", "text": "and a hen"}]}]}
            """));
        Assert.Equal(plain, parts);
    }

    [Fact]
    public async Task Models_are_listed_and_found_by_name()
    {
        JsonElement list = JsonDocument.Parse(await _http.GetStringAsync("/v1/models")).RootElement;
        JsonElement model = Assert.Single(list.GetProperty("data").EnumerateArray());
        Assert.Equal(("list", "emberling", "model"), (list.GetProperty("object").GetString(), model.GetProperty("id").GetString(), model.GetProperty("object").GetString()));
        Assert.Equal(model.GetRawText(), await _http.GetStringAsync("/v1/models/emberling"));
    }

    [Fact]
    public async Task Metrics_tell_of_requests_and_of_flash_layer_by_layer()
    {
        await _http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 6"));
        string text = await _http.GetStringAsync("/metrics");
        foreach (string name in new[]
        {
            "flashorleans_time_to_first_token_seconds_bucket", "flashorleans_inter_token_latency_seconds_bucket", "flashorleans_e2e_request_latency_seconds_sum", "flashorleans_prompt_tokens_total",
            "flashorleans_prompt_tokens_cached_total", "flashorleans_generation_tokens_total", "flashorleans_draft_tokens_total", "flashorleans_draft_tokens_accepted_total", "flashorleans_request_success_total", "flashorleans_num_requests_running", "flashorleans_num_requests_waiting",
            "flashorleans_http_requests_total", "flashorleans_flash_read_bytes_total", "flashorleans_native_memory_bytes",
        }) Assert.Matches($@"(?m)^{name}\b.* [0-9.E+-]+", text);
        string[] layers = ["window_hits_total", "window_misses_total", "window_hit_ratio", "window_occupancy", "demand_read_bytes_total", "prefetch_useful_total", "prefetch_wasted_total", "flash_stall_seconds_total"];
        foreach (string name in layers)
        {
            string[] lines = [.. text.Split('\n').Where(l => l.StartsWith($"flashorleans_layer_{name}{{", StringComparison.Ordinal))];
            Assert.Equal(6, lines.Length);
            Assert.All(lines, static l => Assert.Contains("model=\"emberling\"", l, StringComparison.Ordinal));
        }
        Assert.Contains(text.Split('\n'), static l => l.StartsWith("flashorleans_layer_demand_read_bytes_total{", StringComparison.Ordinal)
            && double.Parse(l.Split(' ')[1], CultureInfo.InvariantCulture) > 0);
    }

    private static string[] Tokens(JsonElement reply) =>
        [.. reply.GetProperty("choices")[0].GetProperty("logprobs").GetProperty("content").EnumerateArray().Select(static t => t.GetProperty("token").GetString()!)];

    /// <summary>Ids of the greedy answer, from another kind of client.</summary>
    private async Task<int[]> IdsAsync(int count)
    {
        List<int> ids = [];
        await foreach (TokenChunk chunk in silo.Client.OpenSession().SendAsync(new TurnRequest
        {
            Model = EmberlingFolder.Name,
            Messages = [new ChatTurn("user", "Tell me a story about a fox.")],
            MaxTokens = count,
        })) ids.Add(chunk.TokenId);
        return [.. ids];
    }

    private static async Task<SessionReport> UntilAsync(FlashSession session, Func<SessionReport, bool> yes)
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromMinutes(2));
        SessionReport report;
        while (!yes(report = await session.GetReportAsync())) Assert.False(patience.IsCancellationRequested, $"waited too long; last answer: {report}");
        return report;
    }

    [Fact]
    public async Task What_a_request_begins_with_is_computed_once_for_each_user_and_once_for_all_who_name_none()
    {
        string story = string.Join(' ', Enumerable.Range(0, 120).Select(static i => $"day {i}"));
        string Ask(string end, string user) => $$"""{"model": "emberling", "prompt": "{{story}} {{end}}", "max_tokens": 2, {{Greedy}}{{user}}}""";
        Assert.Equal(0, Wire.Cached(await _http.AskAsync(Wire.Text, Ask("a fox", ", \"user\": \"ada\""))));
        Assert.Equal(0, Wire.Cached(await _http.AskAsync(Wire.Text, Ask("a fox", ", \"user\": \"bob\""))));
        Assert.Equal(0, Wire.Cached(await _http.AskAsync(Wire.Text, Ask("a fox", ""))));
        Assert.True(Wire.Cached(await _http.AskAsync(Wire.Text, Ask("an owl", ", \"user\": \"ada\""))) >= 128);
        Assert.True(Wire.Cached(await _http.AskAsync(Wire.Text, Ask("an owl", ""))) >= 128);
    }

    [Fact]
    public async Task The_answers_to_one_question_compute_it_once()
    {
        string story = string.Join(' ', Enumerable.Range(0, 120).Select(static i => $"night {i}"));
        long before = silo.Rows();
        JsonElement reply = await _http.AskAsync(Wire.Text, $$"""{"model": "emberling", "prompt": "{{story}}", "max_tokens": 3, "n": 4, "seed": 3, "user": "carla"}""");
        Assert.Equal(4, reply.GetProperty("choices").GetArrayLength());
        int prompt = reply.GetProperty("usage").GetProperty("prompt_tokens").GetInt32();
        Assert.InRange(silo.Rows() - before, prompt, 2 * prompt);
    }
}
