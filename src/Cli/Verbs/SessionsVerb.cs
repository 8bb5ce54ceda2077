using System.CommandLine;
using System.Net.Http.Headers;
using System.Text.Json;
using FlashOrleans.Cli.Options;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash sessions`: what a running server keeps of its sessions, and deleting them, over its /v1/sessions.</summary>
internal static class SessionsVerb
{
    private const string Details = """
        A session is named by its id, or by the key that requests have in x-session-id. KV says of how many of its tokens keys and values are in memory, and on the server's disk:
        they need not be computed again. What is neither is computed when the session goes on; - means that the model is not loaded there. Deleting cancels what runs.
        """;

    public static Command Create(App app)
    {
        var url = new Option<string>("--url") { HelpName = "URL", Description = "Where flash serve listens", DefaultValueFactory = static _ => "http://127.0.0.1:8080" };
        var key = Flags.Text("--api-key", "KEY", $"The server's key (default: ${ServeVerb.KeyVariable})");
        var limit = Flags.Int("--limit", "N", "List so many, last used first (default 100)", 1, 1000);
        var delete = new Option<string[]>("--delete") { HelpName = "ID", Description = "Delete a session; may be given several times", Arity = ArgumentArity.OneOrMore, AllowMultipleArgumentsPerToken = false };
        var json = Flags.Json();
        var verb = new Verb("sessions", "List or delete the sessions that a running flash serve keeps", Details, "flash sessions", "flash sessions --json --limit 10", "flash sessions --delete fox", "flash sessions --url http://127.0.0.1:9000 --delete 7a7ab1a4-5f2c-4f61-9d9e-0c2d8f1b4a11") { url, key, limit, delete, json };
        verb.SetAction(async (parse, _) =>
        {
            if (!Uri.TryCreate(parse.GetValue(url), UriKind.Absolute, out Uri? address) || address.Scheme is not ("http" or "https")) throw new UsageException($"--url: '{parse.GetValue(url)}' is not an address such as http://127.0.0.1:8080");
            using var http = new HttpClient { BaseAddress = address };
            if ((parse.GetValue(key) ?? Environment.GetEnvironmentVariable(ServeVerb.KeyVariable)) is { Length: > 0 } secret) http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", secret);
            if (parse.GetValue(delete) is { Length: > 0 } ids)
            {
                List<string> gone = [];
                foreach (string id in ids)
                {
                    JsonElement deleted = await AskAsync(http, HttpMethod.Delete, $"/v1/sessions/{Uri.EscapeDataString(id)}", app.Interrupts.Stop);
                    gone.Add(deleted.GetProperty("id").GetString()!);
                    if (!parse.GetValue(json)) app.Screen.Remark($"deleted {gone[^1]}");
                }
                if (parse.GetValue(json)) app.Screen.Json(new { Deleted = gone });
                return;
            }
            JsonElement list = await AskAsync(http, HttpMethod.Get, $"/v1/sessions?limit={parse.GetValue(limit) ?? 100}", app.Interrupts.Stop);
            if (parse.GetValue(json)) app.Screen.Json(list.GetProperty("data"));
            else Show(app, list);
        });
        return verb;
    }

    private static void Show(App app, JsonElement list)
    {
        var table = new Table { Border = TableBorder.None }.AddColumns("ID", "USER", "MODEL", "TOKENS", "IDLE", "KV");
        foreach (JsonElement s in list.GetProperty("data").EnumerateArray())
        {
            bool over = s.GetProperty("last_turn").GetProperty("over").GetBoolean();
            JsonElement kv = s.GetProperty("kv");
            string where = kv.ValueKind == JsonValueKind.Null ? "-" : $"{kv.GetProperty("memory").GetInt32()} in memory, {kv.GetProperty("disk").GetInt32()} on disk";
            TimeSpan idle = TimeProvider.System.GetUtcNow() - DateTimeOffset.FromUnixTimeSeconds(s.GetProperty("last_used_at").GetInt64());
            table.AddRow(new[] { s.GetProperty("id").GetString()!, s.GetProperty("user").GetString() ?? "-", s.GetProperty("model").GetString()!, Units.Number(s.GetProperty("tokens").GetInt32(), "0"), over ? Ago(idle) : "answering", where }
                .Select(Markup.Escape).ToArray());
        }
        app.Screen.Tables.Write(table);
        if (list.GetProperty("has_more").GetBoolean()) app.Screen.Remark("there are more: --limit lists up to 1000");
    }

    /// <summary>In the unit that tells enough.</summary>
    internal static string Ago(TimeSpan time) => time.TotalSeconds < 60 ? $"{Math.Max(0, (int)time.TotalSeconds)} s" : time.TotalMinutes < 60 ? $"{(int)time.TotalMinutes} min" : time.TotalHours < 48 ? $"{(int)time.TotalHours} h" : $"{(int)time.TotalDays} d";

    private static async Task<JsonElement> AskAsync(HttpClient http, HttpMethod method, string path, CancellationToken stop)
    {
        try
        {
            using var request = new HttpRequestMessage(method, path);
            using HttpResponseMessage response = await http.SendAsync(request, stop);
            using JsonDocument body = JsonDocument.Parse(await response.Content.ReadAsStringAsync(stop));
            if (response.IsSuccessStatusCode) return body.RootElement.Clone();
            throw new CliException(body.RootElement.TryGetProperty("error", out JsonElement error) ? error.GetProperty("message").GetString()! : $"{http.BaseAddress} answered {(int)response.StatusCode}");
        }
        catch (HttpRequestException e)
        {
            throw new CliException($"no server at {http.BaseAddress}: {e.Message}; start one with flash serve, or say with --url where it is");
        }
        catch (JsonException)
        {
            throw new CliException($"{http.BaseAddress} is no flash serve: its answer is not JSON");
        }
    }
}
