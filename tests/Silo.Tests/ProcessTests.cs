using System.Net;
using System.Text.RegularExpressions;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;

namespace FlashOrleans.Silo.Tests;

/// <summary>A silo and its clients in processes of their own.</summary>
public sealed partial class ProcessTests(EmberlingFolder models)
{
    private const string Prompt = "Once upon a time, a fox found a lantern";

    private static async Task<(Child Silo, int Gateway)> StartSiloAsync(EmberlingFolder models, params string[] more)
    {
        Child silo = Child.Start("Silo", "FlashOrleans.Silo", ["--models", models.Folder, "--silo-port", "0", "--gateway-port", "0", .. more]);
        string ready = await silo.LineAsync("ready:");
        return (silo, int.Parse(Gateway().Match(ready).Groups[1].Value));
    }

    private static Child Hello(int gateway, int tokens) => Child.Start("HelloClient", "FlashOrleans.HelloClient", $"{gateway}", EmberlingFolder.Name, Prompt, $"{tokens}");

    [Fact]
    public async Task A_client_in_a_second_process_gets_the_text_that_the_engine_alone_makes()
    {
        (Child silo, int gateway) = await StartSiloAsync(models);
        using (silo)
        {
            using Child client = Hello(gateway, tokens: 40);
            string said = await client.Output.ReadToEndAsync();
            Assert.Equal(0, await client.ExitAsync());
            Assert.StartsWith(models.TextAlone(Prompt, 40), said, StringComparison.Ordinal);
            Assert.Matches(@"\(\d+ tokens in [\d.]+ s, (Length|Stop)\)", said);

            silo.Interrupt();
            Assert.Equal(0, await silo.ExitAsync());
        }
    }

    [Fact]
    public async Task Kill_9_of_a_client_pauses_its_turn_and_then_abandons_it_keeping_the_tokens()
    {
        (Child silo, int gateway) = await StartSiloAsync(models, "--reader-lease", "6");
        using (silo)
        {
            Guid id;
            using (Child client = Hello(gateway, tokens: 400))
            {
                // Something was said; then it dies.
                Assert.NotEqual(-1, client.Output.Read());
                client.Kill();
                await client.ExitAsync();
                id = Guid.Parse(SessionId().Match(client.Errors).Groups[1].Value);
            }
            await using FlashClient mine = await FlashClient.ConnectAsync(new FlashClientOptions { Gateways = [new IPEndPoint(IPAddress.Loopback, gateway)] });
            FlashSession session = mine.OpenSession(id);
            // It goes on until sixteen wait unread, and no further while somebody else's whole answer goes by.
            SessionReport paused = await UntilAsync(session, static r => r.Unread == 16);
            Assert.True(paused.Running);
            Assert.Equal(paused.Steps, paused.Generated);
            FlashSession other = mine.OpenSession();
            await foreach (TokenChunk _ in other.SendAsync(new TurnRequest { Model = EmberlingFolder.Name, Text = Prompt, MaxTokens = 20 })) { }
            SessionReport still = await session.GetReportAsync();
            Assert.Equal((paused.Steps, paused.Generated, 16, true), (still.Steps, still.Generated, still.Unread, still.Running));
            SessionReport report = await UntilAsync(session, static r => !r.Running);
            Assert.Equal(FinishReason.Abandoned, report.Finish);
            Assert.Equal(paused.Generated, report.Generated);
            Assert.InRange(report.Generated, 17, 399);
            Assert.Equal(report.Length, (await session.GetTokensAsync()).Length);
            List<string> kept = [];
            await foreach (TokenChunk chunk in session.ReadAsync(report.TurnId)) kept.Add(chunk.Text);
            Assert.StartsWith(string.Concat(kept).TrimEnd('\uFFFD'), models.TextAlone(Prompt, report.Generated + 4), StringComparison.Ordinal);
        }
    }

    /// <summary>Asks the silo, which has no event for it, until the answer is yes. A call is a round trip to another process: it needs no pause of its own.</summary>
    private static async Task<SessionReport> UntilAsync(FlashSession session, Func<SessionReport, bool> yes)
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromMinutes(2));
        SessionReport report;
        while (!yes(report = await session.GetReportAsync())) Assert.False(patience.IsCancellationRequested, $"waited too long; last answer: {report}");
        return report;
    }

    [Theory]
    [InlineData("--models", "/nowhere", 1, "models folder is \"/nowhere\"")]
    [InlineData("--window", "0%", 1, "window is \"0\"")]
    [InlineData("--window", "much", 2, "--window is \"much\"")]
    [InlineData("--threads", "0", 1, "threads is \"0\"")]
    [InlineData("--kernels", "magic", 1, "kernels is \"magic\"")]
    [InlineData("--layers", "3-1", 1, "layers is \"3-1\"")]
    [InlineData("--gateway-port", "70000", 1, "gateway port is \"70000\"")]
    [InlineData("--sessions-db", "redis://ann:sesame@127.0.0.1:1", 1, "sessions cannot be kept in redis://127.0.0.1:1/0: nothing answers there; see to that Redis")]
    [InlineData("--sessions-db", "redis://ann:sesame@127.0.0.1/x", 1, "sessions database is no address of Redis")]
    [InlineData("--colour", "blue", 2, "--colour is unknown")]
    public async Task A_wrong_option_is_one_clear_line_and_an_exit_code(string name, string value, int code, string line)
    {
        using Child silo = Child.Start("Silo", "FlashOrleans.Silo", ["--models", models.Folder, name, value]);
        Assert.Equal(code, await silo.ExitAsync());
        Assert.StartsWith(line, silo.Errors, StringComparison.Ordinal);
        if (code == 1) Assert.Single(silo.Errors.Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    [GeneratedRegex(@"gateway 127\.0\.0\.1:(\d+)")]
    private static partial Regex Gateway();

    [GeneratedRegex("session ([0-9a-f-]{36})")]
    private static partial Regex SessionId();
}
