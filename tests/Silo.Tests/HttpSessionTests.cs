using System.Net;
using System.Net.Http.Json;
using System.Text.Json;

namespace FlashOrleans.Silo.Tests;

/// <summary>Sessions over HTTP: turns that outlive a connection, lists, deletion.</summary>
public sealed class HttpSessionTests(EmberlingFolder models) : IAsyncLifetime
{
    private readonly HttpSilo _silo = new(models);
    private readonly string _session = Guid.NewGuid().ToString(), _turn = Guid.NewGuid().ToString();

    private HttpClient Http => _silo.Http;

    public ValueTask InitializeAsync() => _silo.InitializeAsync();
    public ValueTask DisposeAsync() => _silo.DisposeAsync();

    private const string Ask = "\"max_tokens\": 30, \"ignore_eos\": true, \"seed\": 5, \"stream\": true";

    private (string, string)[] Headers(string? last = null) => last is null ? [("x-session-id", _session), ("x-turn-id", _turn)] : [("x-session-id", _session), ("x-turn-id", _turn), ("Last-Event-ID", last)];

    private static (int? Id, JsonElement Data)[] Parse(string[] events) =>
    [
        .. events.Where(static e => !e.EndsWith("[DONE]", StringComparison.Ordinal)).Select(static e =>
        {
            string[] lines = e.Split('\n');
            return (lines.Length == 2 ? int.Parse(lines[0]["id: ".Length..]) : (int?)null, JsonDocument.Parse(lines[^1]["data: ".Length..]).RootElement);
        }),
    ];

    [Fact]
    public async Task A_turn_sent_again_attaches_and_goes_on_behind_the_last_event_that_came()
    {
        (int? Id, JsonElement Data)[] first = Parse(await Http.StreamAsync(Wire.Chat, Wire.Body(Ask), Headers()));
        string whole = Wire.Streamed([.. first.Select(static e => e.Data)]);
        Assert.NotEmpty(whole);
        int[] ids = [.. first.Where(static e => e.Id is not null).Select(static e => e.Id!.Value)];
        Assert.Equal(ids.Order(), ids);
        Assert.Equal(29, ids[^1]);

        // Whole, in one, and from every place.
        Assert.Equal(whole, Wire.Content(await Http.AskAsync(Wire.Chat, Wire.Body(Ask.Replace("true", "false", StringComparison.Ordinal)), Headers())));
        foreach (int last in ids.Distinct())
        {
            (int? Id, JsonElement Data)[] rest = Parse(await Http.StreamAsync(Wire.Chat, Wire.Body(Ask), Headers($"{last}")));
            string before = Wire.Streamed([.. first.Where(e => e.Id <= last).Select(static e => e.Data)]);
            Assert.Equal(whole, before + Wire.Streamed([.. rest.Select(static e => e.Data)]));
            Assert.Equal("length", Wire.Finish(rest[^1].Data));
            Assert.Equal(first[0].Data.GetProperty("id").GetString(), rest[^1].Data.GetProperty("id").GetString());
        }
    }

    [Fact]
    public async Task A_connection_that_breaks_does_not_end_the_turn()
    {
        string body = Wire.Body(Ask.Replace("30", "200", StringComparison.Ordinal));
        List<string> seen = [];
        string? last = null;
        using (HttpRequestMessage request = Wire.Request(Wire.Chat, body, Headers()))
        using (HttpResponseMessage response = await Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead))
        {
            Assert.Equal(_turn, Assert.Single(response.Headers.GetValues("x-turn-id")));
            using var lines = new StreamReader(await response.Content.ReadAsStreamAsync());
            while (last is null || seen.Count < 12)
            {
                string line = (await lines.ReadLineAsync())!;
                if (line.StartsWith("id: ", StringComparison.Ordinal)) last = line[4..];
                else if (line.StartsWith("data: ", StringComparison.Ordinal)) seen.Add(line);
            }
        }
        (int? Id, JsonElement Data)[] rest = Parse(await Http.StreamAsync(Wire.Chat, body, Headers(last)));
        string text = Wire.Streamed([.. seen.Select(static e => JsonDocument.Parse(e["data: ".Length..]).RootElement)]) + Wire.Streamed([.. rest.Select(static e => e.Data)]);
        Assert.Equal(Wire.Content(await Http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 200, \"ignore_eos\": true, \"seed\": 5"))), text);
    }

    [Fact]
    public async Task Sessions_are_listed_shown_and_deleted_and_requests_without_one_leave_none()
    {
        await Http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 3"));
        Assert.Empty((await Http.GetFromJsonAsync<JsonElement>("/v1/sessions")).GetProperty("data").EnumerateArray());
        await Http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 3, \"ignore_eos\": true"), Headers());
        await Http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 3"), ("x-session-id", "some text"));
        JsonElement page = await Http.GetFromJsonAsync<JsonElement>("/v1/sessions?limit=1");
        Assert.True(page.GetProperty("has_more").GetBoolean());
        string newest = Assert.Single(page.GetProperty("data").EnumerateArray()).GetProperty("id").GetString()!;
        JsonElement second = Assert.Single((await Http.GetFromJsonAsync<JsonElement>($"/v1/sessions?after={newest}")).GetProperty("data").EnumerateArray());
        Assert.Equal(_session, second.GetProperty("id").GetString());

        JsonElement shown = await Http.GetFromJsonAsync<JsonElement>($"/v1/sessions/{_session}");
        Assert.Equal(("session", "emberling", true), (shown.GetProperty("object").GetString(), shown.GetProperty("model").GetString(), shown.GetProperty("last_turn").GetProperty("over").GetBoolean()));
        Assert.Equal(_turn, shown.GetProperty("last_turn").GetProperty("id").GetString());
        Assert.True(shown.GetProperty("tokens").GetInt32() > 3);
        foreach (string key in new[] { _session, "some%20text" })
        {
            using HttpResponseMessage deleted = await Http.DeleteAsync(new Uri($"/v1/sessions/{key}", UriKind.Relative)), gone = await Http.GetAsync($"/v1/sessions/{key}");
            Assert.Equal((HttpStatusCode.OK, HttpStatusCode.NotFound), (deleted.StatusCode, gone.StatusCode));
        }
        Assert.Empty((await Http.GetFromJsonAsync<JsonElement>("/v1/sessions")).GetProperty("data").EnumerateArray());
    }

    [Fact]
    public async Task A_session_says_whose_it_is_and_where_its_keys_and_values_are()
    {
        await Http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 100, \"ignore_eos\": true, \"user\": \"anna\""), ("x-session-id", "named"));
        await Http.AskAsync(Wire.Chat, Wire.Body("\"max_tokens\": 3, \"ignore_eos\": true"), ("x-session-id", "nobody"));
        JsonElement named = await Http.GetFromJsonAsync<JsonElement>("/v1/sessions/named"), nobody = await Http.GetFromJsonAsync<JsonElement>("/v1/sessions/nobody");
        Assert.Equal(("anna", null), (named.GetProperty("user").GetString(), nobody.GetProperty("user").GetString()));
        // All but the last token, which is computed when somebody goes on; nothing is saved here.
        Assert.Equal((named.GetProperty("tokens").GetInt32() - 1, 0), (named.GetProperty("kv").GetProperty("memory").GetInt32(), named.GetProperty("kv").GetProperty("disk").GetInt32()));
    }

    [Theory]
    [InlineData("not-an-id", "x", null, "UUID")]
    [InlineData("7a7ab1a4-5f2c-4f61-9d9e-111111111111", null, null, "x-session-id")]
    [InlineData("7a7ab1a4-5f2c-4f61-9d9e-111111111111", "x", "many", "Last-Event-ID")]
    public async Task A_turn_id_that_means_nothing_is_refused(string turn, string? session, string? last, string says)
    {
        List<(string, string)> headers = [("x-turn-id", turn)];
        if (session is not null) headers.Add(("x-session-id", session));
        if (last is not null) headers.Add(("Last-Event-ID", last));
        var (status, error, response) = await Http.FailAsync(Wire.Chat, Wire.Body(), [.. headers]);
        using (response)
        {
            Assert.Equal(HttpStatusCode.BadRequest, status);
            Assert.Contains(says, error.GetProperty("message").GetString(), StringComparison.Ordinal);
        }
    }
}
