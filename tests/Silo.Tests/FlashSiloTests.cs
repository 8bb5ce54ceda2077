using System.Net;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;

namespace FlashOrleans.Silo.Tests;

/// <summary>A silo in this process.</summary>
public sealed class FlashSiloTests(EmberlingFolder models)
{
    private FlashSiloOptions Options => new() { ModelsDirectory = models.Folder };

    private static async Task<string> TextAsync(FlashSession session, TurnRequest turn)
    {
        List<string> text = [];
        await foreach (TokenChunk chunk in session.SendAsync(turn))
        {
            Assert.Null(chunk.Error);
            text.Add(chunk.Text);
        }
        return string.Concat(text);
    }

    private static TurnRequest Continue(string text, int count) => new() { Model = EmberlingFolder.Name, Text = text, MaxTokens = count };

    [Fact]
    public async Task Two_silos_in_one_process_take_free_ports_and_do_not_meet()
    {
        await using FlashSilo a = await FlashSilo.StartAsync(Options), b = await FlashSilo.StartAsync(Options);
        Assert.Equal(4, new[] { a.SiloEndpoint.Port, a.GatewayEndpoint.Port, b.SiloEndpoint.Port, b.GatewayEndpoint.Port }.Distinct().Count());
        // What the system says listens there, not what the silo says of itself.
        IPEndPoint[] listening = System.Net.NetworkInformation.IPGlobalProperties.GetIPGlobalProperties().GetActiveTcpListeners();
        Assert.All(new[] { a.SiloEndpoint, a.GatewayEndpoint, b.SiloEndpoint, b.GatewayEndpoint },
            e => Assert.Equal([IPAddress.Loopback], listening.Where(l => l.Port == e.Port).Select(l => l.Address)));
        ModelReport ready = await FlashClient.Over(a.Grains).EnsureReadyAsync(EmberlingFolder.Name);
        Assert.Single(ready.Hosts);
        Assert.Empty(((Grains.LayerHost)b.Services.GetService(typeof(Grains.LayerHost))!).LayerKeys);
    }

    [Fact]
    public async Task A_taken_port_is_one_clear_line()
    {
        await using FlashSilo a = await FlashSilo.StartAsync(Options);
        var error = await Assert.ThrowsAsync<FlashSiloException>(() => FlashSilo.StartAsync(Options with { SiloPort = a.SiloEndpoint.Port }));
        Assert.Contains($"{a.SiloEndpoint.Port}", error.Message, StringComparison.Ordinal);
        Assert.Contains("in use", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Another_window_gives_the_same_story_without_a_restart()
    {
        await using FlashSilo silo = await FlashSilo.StartAsync(Options with { Layer = new LayerOptions { Window = 1 } });
        FlashClient client = FlashClient.Over(silo.Grains);
        FlashSession session = client.OpenSession();
        string first = await TextAsync(session, Continue("A bear and a drum", 30));
        long wide = (await client.GetReportAsync(EmberlingFolder.Name)).Layers.Sum(l => l.Counters.WindowBytes);
        await silo.ReconfigureAsync(silo.Layer with { Window = 0.1 });
        string second = await TextAsync(client.OpenSession(), Continue("A bear and a drum", 30));
        long narrow = (await client.GetReportAsync(EmberlingFolder.Name)).Layers.Sum(l => l.Counters.WindowBytes);
        Assert.Equal(first, second);
        Assert.InRange(narrow, 1, wide / 5);
        // The session from before goes on, replaying what the layers forgot.
        await TextAsync(session, Continue(" and then", 10));
        Assert.True((await session.GetReportAsync()).Replays > 0);
    }

    [Fact]
    public async Task A_chat_goes_on_in_its_session_as_if_the_whole_conversation_had_been_sent()
    {
        await using FlashSilo silo = await FlashSilo.StartAsync(Options);
        FlashClient client = FlashClient.Over(silo.Grains);
        ModelInfo info = await client.GetModelAsync(EmberlingFolder.Name);
        Assert.True(info.HasTokenizer && info.HasChatTemplate);

        TurnRequest Say(params ChatTurn[] messages) => new() { Model = EmberlingFolder.Name, Messages = messages, MaxTokens = 40 };
        FlashSession session = client.OpenSession();
        string one = await TextAsync(session, Say(new ChatTurn("user", "Tell me a story about a fox.")));
        int after = (await session.GetTokensAsync()).Length;
        TurnRequest next = Say(new ChatTurn("user", "And what did the fox do then?"));
        TurnAccepted accepted = await session.StartAsync(next);
        Assert.InRange(accepted.CachedTokens, after - 2, after);
        string two = await TextAsync(session, next);
        Assert.NotEmpty(one);
        Assert.NotEmpty(two);
        // The history itself, given as tokens to a new session, gives the same answer.
        int[] history = (await session.GetTokensAsync())[..accepted.PromptTokens];
        string again = await TextAsync(client.OpenSession(), new TurnRequest { Model = EmberlingFolder.Name, Tokens = history, MaxTokens = 40 });
        Assert.Equal(two, again);
    }

    [Fact]
    public async Task A_model_by_its_path_is_served_too()
    {
        string elsewhere = Directory.CreateTempSubdirectory("flash-elsewhere-").FullName;
        try
        {
            await using FlashSilo silo = await FlashSilo.StartAsync(Options with { ModelsDirectory = elsewhere });
            FlashClient client = FlashClient.Over(silo.Grains);
            string path = Path.Combine(models.Folder, EmberlingFolder.Name + ".flash");
            ModelReport report = await client.EnsureReadyAsync(path);
            Assert.All(report.Layers, l => Assert.True(l.Ready));
            await Assert.ThrowsAsync<ModelNotFoundException>(() => client.GetModelAsync(EmberlingFolder.Name));
        }
        finally
        {
            Directory.Delete(elsewhere, recursive: true);
        }
    }

    [Fact]
    public async Task Nobody_at_the_gateway_is_an_error_that_names_it()
    {
        var options = new FlashClientOptions { Gateways = [new IPEndPoint(IPAddress.Loopback, 1)], ConnectTimeout = TimeSpan.FromSeconds(1) };
        var error = await Assert.ThrowsAsync<FlashConnectionException>(() => FlashClient.ConnectAsync(options));
        Assert.Contains("127.0.0.1:1", error.Message, StringComparison.Ordinal);
    }
}
