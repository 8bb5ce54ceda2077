using System.Globalization;
using System.Net;
using System.Text.RegularExpressions;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;

namespace FlashOrleans.Cli.Tests;

public sealed partial class ServeTests(FlashHome home)
{
    [Fact]
    public async Task A_client_of_another_process_talks_to_a_bundled_model_until_ctrl_C()
    {
        using var flash = Flash.Start(home, "serve", "--port", "0", "--silo-port", "0", "--gateway", "0");
        await flash.SeeAsync("Ctrl-C stops it");
        int port = int.Parse(Gateway().Match(flash.Seen).Groups[1].Value, CultureInfo.InvariantCulture);

        await using (var client = await FlashClient.ConnectAsync(new FlashClientOptions { Gateways = [new IPEndPoint(IPAddress.Loopback, port)] }))
        {
            var turn = new TurnRequest { Model = "emberling", Text = "Once upon a time", MaxTokens = 5, StopTokens = [] };
            var ids = new List<int>();
            await foreach (var chunk in client.OpenSession().SendAsync(turn)) ids.Add(chunk.TokenId);
            Assert.Equal(5, ids.Count);
        }
        // And one that knows OpenAI's interface: where it is, is said.
        using (var http = new HttpClient { BaseAddress = new Uri(Address().Match(flash.Seen).Value) })
        {
            using var asked = new StringContent("""{"model": "emberling", "prompt": "Once upon a time", "max_tokens": 3}""");
            using var answer = await http.PostAsync("/v1/completions", asked);
            Assert.Contains("\"completion_tokens\":3", await answer.Content.ReadAsStringAsync(), StringComparison.Ordinal);
        }
        // What is kept is listed and deleted from beside.
        string url = Address().Match(flash.Seen).Value;
        using (var http = new HttpClient { BaseAddress = new Uri(url) })
        {
            using var asked = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = new StringContent("""{"model": "emberling", "prompt": "Once upon a time", "max_tokens": 3, "user": "anna"}""") };
            asked.Headers.Add("x-session-id", "fox");
            using var answer = await http.SendAsync(asked);
            Assert.True(answer.IsSuccessStatusCode);
        }
        var listed = (await Flash.RunAsync(home, "sessions", "--url", url, "--json")).Json.EnumerateArray().Single(static s => s.GetProperty("user").GetString() == "anna");
        Assert.True(listed.GetProperty("tokens").GetInt32() > 3);
        string id = listed.GetProperty("id").GetString()!;
        string table = (await Flash.RunAsync(home, "sessions", "--url", url)).Out;
        Assert.Matches($@"{id}\s+anna\s+emberling\s+\d+\s+\d+ s\s+\d+ in memory, \d+ on disk", table);
        Assert.Equal(id, (await Flash.RunAsync(home, "sessions", "--url", url, "--delete", "fox", "--json")).Json.GetProperty("deleted")[0].GetString());
        Outcome gone = await Flash.RunAsync(home, "sessions", "--url", url, "--delete", "fox");
        Assert.Equal(1, gone.Code);
        Assert.Contains("there is no such session", gone.Error, StringComparison.Ordinal);
        flash.Signal(2);
        Assert.Equal(130, (await flash.EndAsync()).Code);
    }

    [Fact]
    public async Task Sessions_of_a_server_that_is_not_there_are_one_line()
    {
        Outcome outcome = await Flash.RunAsync(home, "sessions", "--url", "http://127.0.0.1:1");
        Assert.Equal(1, outcome.Code);
        Assert.Contains("no server at http://127.0.0.1:1/", outcome.Error, StringComparison.Ordinal);
    }

    [GeneratedRegex(@"http://127\.0\.0\.1:\d+(?=/v1:)")]
    private static partial Regex Address();

    [GeneratedRegex(@"clients at 127\.0\.0\.1:(\d+)")]
    private static partial Regex Gateway();
}
