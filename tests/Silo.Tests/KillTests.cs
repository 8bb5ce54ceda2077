using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Tests;

namespace FlashOrleans.Silo.Tests;

/// <summary>
/// A silo process that is killed while several clients read, and started anew on the same sessions: every transcript is the one of a silo that nobody kills, token for token. Half of the clients are
/// .NET clients and resume by turn id and index, half speak HTTP and resume by x-turn-id and Last-Event-ID. KILLS says how often (bench/Kills).
/// </summary>
public sealed partial class KillTests(EmberlingFolder models, ITestOutputHelper output)
{
    private const int Clients = 6, Turns = 2, Tokens = 40;

    [Theory]
    [InlineData("file")]
    [InlineData("redis")]
    public async Task Whatever_the_moment_of_a_kill_no_token_is_lost_or_told_twice(string place)
    {
        using RedisServer? redis = place == "redis" ? RedisServer.Start() : null;
        int kills = int.TryParse(Environment.GetEnvironmentVariable("KILLS"), NumberStyles.None, CultureInfo.InvariantCulture, out int asked) ? asked : 5;
        int sessions = Math.Max(1, kills / 5);
        int total = Clients * sessions * Turns * Tokens;
        string folder = Directory.CreateTempSubdirectory("flash-kills-").FullName;
        try
        {
            Transcript[] expected = await ExpectedAsync(sessions);
            var random = new Random(20261126);
            // The last one while there is still something to lose.
            int[] moments = [.. Enumerable.Range(0, kills).Select(_ => random.Next(1, total * 9 / 10)).Order()];
            await using var server = new Server(models.Folder, folder, redis?.Fresh() ?? Path.Combine(folder, "sessions.db"), moments);
            await server.StartAsync();
            Transcript[][] told = await Task.WhenAll(Enumerable.Range(0, Clients).Select(c => TalkAsync(server, c, sessions)));

            Transcript[] all = [.. told.SelectMany(static t => t)];
            int wrong = 0;
            for (int i = 0; i < all.Length; i++) wrong += all[i].Wrong(expected[i]);
            Assert.NotEmpty(Directory.GetFiles(Path.Combine(folder, "kv"), "*.kv", SearchOption.AllDirectories));
            output.WriteLine($"kills {server.Kills}, sessions {all.Length / Turns}, tokens delivered {server.Delivered} of {total}, sessions lost {all.Count(static t => t.Lost)}, wrong tokens {wrong}, turns resumed {all.Sum(static t => t.Resumed)}");
            Assert.Equal((kills, total, 0, 0), (server.Kills, server.Delivered, all.Count(static t => t.Lost), wrong));
            Assert.True(all.Sum(static t => t.Resumed) >= kills);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static string Prompt(int client, int session, int turn) => $"{(turn == 0 ? "Once upon a time" : " And then")}, {new[] { "a fox", "a bear", "two owls", "the rain", "a drum", "a lantern" }[client]} number {session}";

    /// <summary>HTTP sends all of it again, as OpenAI's clients do.</summary>
    private static string Prompts(int client, int session, int turn) => turn == 0 ? Prompt(client, session, 0) : Prompt(client, session, 0) + Prompt(client, session, 1);

    private static TurnRequest Turn(int client, int session, int turn) => new()
    {
        Model = EmberlingFolder.Name,
        Text = client % 2 == 0 ? Prompt(client, session, turn) : Prompts(client, session, turn),
        Input = client % 2 == 0 ? InputMode.Append : InputMode.Replace,
        MaxTokens = Tokens,
        StopTokens = [],
        Sampling = new SamplingOptions { Temperature = client % 3 == 0 ? 0 : 0.9f, Seed = (ulong)(100 * client + session) },
        CancelOnDisconnect = false,
    };

    /// <summary>A silo that nobody kills, asked one after the other.</summary>
    private async Task<Transcript[]> ExpectedAsync(int sessions)
    {
        await using FlashSilo silo = await FlashSilo.StartAsync(new FlashSiloOptions { ModelsDirectory = models.Folder });
        FlashClient client = FlashClient.Over(silo.Grains);
        List<Transcript> all = [];
        for (int c = 0; c < Clients; c++)
        {
            for (int s = 0; s < sessions; s++)
            {
                FlashSession session = client.OpenSession();
                for (int t = 0; t < Turns; t++)
                {
                    var transcript = new Transcript();
                    await foreach (TokenChunk chunk in session.SendAsync(Turn(c, s, t))) transcript.Add(chunk.TokenId, chunk.Text);
                    all.Add(transcript);
                }
            }
        }
        return [.. all];
    }

    private static async Task<Transcript[]> TalkAsync(Server server, int client, int sessions)
    {
        List<Transcript> all = [];
        for (int s = 0; s < sessions; s++)
        {
            Guid session = Guid.NewGuid();
            for (int t = 0; t < Turns; t++)
            {
                var transcript = new Transcript();
                TurnRequest turn = Turn(client, s, t);
                all.Add(transcript);
                if (client % 2 == 0) await ReadAsync(server, session, turn, transcript);
                else await ReadHttpAsync(server, session, turn, transcript);
            }
        }
        return [.. all];
    }

    private static async Task ReadAsync(Server server, Guid session, TurnRequest turn, Transcript transcript)
    {
        while (true)
        {
            Life life = await server.LifeAsync();
            try
            {
                // A client that knows nothing but the session's id, the turn, and how far it has come.
                await using FlashClient client = await FlashClient.ConnectAsync(new FlashClientOptions { Gateways = [new IPEndPoint(IPAddress.Loopback, life.Gateway)] }, life.Dead);
                await foreach (TokenChunk chunk in client.OpenSession(session).ResumeAsync(turn, transcript.Count, life.Dead))
                {
                    Assert.Equal(transcript.Count, chunk.Index);
                    Assert.Null(chunk.Error);
                    transcript.Add(chunk.TokenId, chunk.Text);
                    await server.DeliveredAsync();
                    if (chunk.Finish != FinishReason.None) return;
                }
            }
            catch (Exception e) when (e is not Xunit.Sdk.XunitException)
            {
                await DiedAsync(life, e);
                transcript.Resumed++;
            }
        }
    }

    private static async Task ReadHttpAsync(Server server, Guid session, TurnRequest turn, Transcript transcript)
    {
        string body = JsonSerializer.Serialize(new Dictionary<string, object>
        {
            ["model"] = turn.Model,
            ["prompt"] = turn.Text!,
            ["max_tokens"] = turn.MaxTokens,
            ["ignore_eos"] = true,
            ["temperature"] = turn.Sampling.Temperature,
            ["top_p"] = 1,
            ["seed"] = turn.Sampling.Seed!,
            ["stream"] = true,
        });
        int last = -1;
        while (true)
        {
            Life life = await server.LifeAsync();
            try
            {
                using var http = new HttpClient { BaseAddress = new Uri($"http://127.0.0.1:{life.Http}"), Timeout = TimeSpan.FromMinutes(5) };
                using HttpRequestMessage request = Wire.Request(Wire.Text, body, ("x-session-id", session.ToString()), ("x-turn-id", turn.TurnId.ToString()));
                if (last >= 0) request.Headers.Add("Last-Event-ID", $"{last}");
                using HttpResponseMessage response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, life.Dead);
                Assert.Equal(HttpStatusCode.OK, response.StatusCode);
                using var lines = new StreamReader(await response.Content.ReadAsStreamAsync(life.Dead));
                int id = last;
                while (await lines.ReadLineAsync(life.Dead) is { } line)
                {
                    if (line == "data: [DONE]") return;
                    if (line.StartsWith("id: ", StringComparison.Ordinal)) id = int.Parse(line.AsSpan(4), NumberStyles.None, CultureInfo.InvariantCulture);
                    if (!line.StartsWith("data: ", StringComparison.Ordinal)) continue;
                    JsonElement choice = JsonDocument.Parse(line[6..]).RootElement.GetProperty("choices")[0];
                    transcript.Text.Append(choice.GetProperty("text").GetString());
                    // Tokens without text of their own come with the next that has some.
                    for (; last < id; last++) await server.DeliveredAsync();
                }
            }
            catch (Exception e) when (e is not Xunit.Sdk.XunitException)
            {
                await DiedAsync(life, e);
            }
            transcript.Resumed++;
        }
    }

    /// <summary>Why a connection broke, which is heard before the process is seen to be gone; whatever else broke it is an error.</summary>
    private static async Task DiedAsync(Life life, Exception why)
    {
        var died = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        using CancellationTokenRegistration _ = life.Dead.Register(died.SetResult);
        if (await Task.WhenAny(died.Task, Task.Delay(TimeSpan.FromMinutes(1))) != died.Task) throw new InvalidOperationException("the silo was not killed, and yet", why);
    }

    /// <summary>What one turn said.</summary>
    private sealed class Transcript
    {
        private readonly List<int> _tokens = [];

        public StringBuilder Text { get; } = new();
        public int Count => _tokens.Count;
        public int Resumed { get; set; }
        public bool Lost => Text.Length == 0;

        public void Add(int token, string text)
        {
            _tokens.Add(token);
            Text.Append(text);
        }

        /// <summary>Tokens that differ; over HTTP, which has no ids, characters.</summary>
        public int Wrong(Transcript expected)
        {
            if (_tokens.Count == 0) return Text.Equals(expected.Text) ? 0 : Math.Max(1, Math.Abs(Text.Length - expected.Text.Length));
            return Math.Abs(_tokens.Count - expected._tokens.Count) + _tokens.Zip(expected._tokens).Count(static p => p.First != p.Second) + (Text.Equals(expected.Text) ? 0 : 1);
        }
    }

    /// <summary>The silo between two kills.</summary>
    private sealed record Life(Child Silo, int Gateway, int Http, CancellationToken Dead);

    /// <summary>The silo's process, killed when so many tokens were delivered in all, and started again.</summary>
    private sealed class Server(string models, string folder, string database, int[] moments) : IAsyncDisposable
    {
        private readonly SemaphoreSlim _one = new(1);
        private CancellationTokenSource _dead = new();
        private TaskCompletionSource<Life> _life = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private int _delivered;

        public int Kills { get; private set; }
        public int Delivered => _delivered;

        public Task<Life> LifeAsync() => _life.Task;

        public async Task StartAsync()
        {
            // Keys and values are on disk, too: whole, half written, or of tokens that were never told.
            Child silo = Child.StartIn(folder, "Silo", "FlashOrleans.Silo", "--kv-disk", "64MiB", "--models", models, "--silo-port", "0", "--gateway-port", "0", "--http-port", "0", "--sessions-db", database);
            Match ready = Ready().Match(await silo.LineAsync("ready:"));
            _life.SetResult(new Life(silo, int.Parse(ready.Groups[1].Value, CultureInfo.InvariantCulture), int.Parse(ready.Groups[2].Value, CultureInfo.InvariantCulture), _dead.Token));
        }

        public async Task DeliveredAsync()
        {
            await _one.WaitAsync();
            try
            {
                _delivered++;
                while (Kills < moments.Length && moments[Kills] <= _delivered)
                {
                    Kills++;
                    Life life = await _life.Task;
                    life.Silo.Kill();
                    await life.Silo.ExitAsync();
                    life.Silo.Dispose();
                    CancellationTokenSource dead = _dead;
                    (_dead, _life) = (new CancellationTokenSource(), new TaskCompletionSource<Life>(TaskCreationOptions.RunContinuationsAsynchronously));
                    await dead.CancelAsync();
                    await StartAsync();
                }
            }
            finally
            {
                _one.Release();
            }
        }

        public async ValueTask DisposeAsync()
        {
            if (_life.Task.IsCompletedSuccessfully) (await _life.Task).Silo.Dispose();
            _one.Dispose();
            _dead.Dispose();
        }
    }

    [GeneratedRegex(@"gateway 127\.0\.0\.1:(\d+).*http://127\.0\.0\.1:(\d+)")]
    private static partial Regex Ready();
}
