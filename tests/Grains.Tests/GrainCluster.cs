using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Orleans.Hosting;
using Orleans.Runtime;
using Orleans.TestingHost;

namespace FlashOrleans.Grains.Tests;

/// <summary>A cluster of silos in this process over one models folder.</summary>
internal sealed class GrainCluster : IAsyncDisposable
{
    private readonly Dictionary<string, int> _numbers = [];
    private readonly string? _shared;

    private GrainCluster(InProcessTestClusterBuilder builder, bool many, string models, Func<int, LayerHostOptions, LayerHostOptions>? options, Action<ISiloBuilder>? configure)
    {
        // A session that moves finds its history where it was written.
        if (many) _shared = Directory.CreateTempSubdirectory("flash-cluster-").FullName;
        builder.ConfigureSilo((silo, siloBuilder) =>
        {
            int number;
            lock (_numbers)
            {
                if (!_numbers.TryGetValue(silo.SiloName, out number)) _numbers.Add(silo.SiloName, number = _numbers.Count);
            }
            var host = new LayerHostOptions { ModelsDirectory = models, Engine = new EngineOptions { Threads = 1, IoThreads = 2 }, Grains = new GrainOptions { Speculate = Speculation.Off }, Sessions = new SessionStoreOptions { Path = _shared is null ? null : Path.Combine(_shared, "sessions.db") } };
            siloBuilder.AddFlashOrleans(options?.Invoke(number, host) ?? host);
            configure?.Invoke(siloBuilder);
        });
        builder.ConfigureSiloHost(static (_, host) => host.Logging.SetMinimumLevel(LogLevel.Error));
        Cluster = builder.Build();
    }

    public InProcessTestCluster Cluster { get; }
    public FlashClient Client { get; private set; } = null!;
    public IGrainFactory Grains => Cluster.Client;
    public IEnumerable<LayerHost> Hosts => Cluster.Silos.Where(static s => s.IsActive).Select(static s => s.ServiceProvider.GetRequiredService<LayerHost>());
    public LayerHost Host => Hosts.Single();

    public static async Task<GrainCluster> StartAsync(string models, short silos = 1, Func<int, LayerHostOptions, LayerHostOptions>? options = null, Action<ISiloBuilder>? configure = null)
    {
        var cluster = new GrainCluster(new InProcessTestClusterBuilder(silos), silos > 1, models, options, configure);
        await cluster.Cluster.DeployAsync();
        cluster.Client = FlashClient.Over(cluster.Cluster.Client);
        return cluster;
    }

    public LayerHost HostOf(InProcessSiloHandle silo) => silo.ServiceProvider.GetRequiredService<LayerHost>();

    public ILayerGrain Layer(TestModel model, int layer) => Grains.GetGrain<ILayerGrain>(new LayerKey(model.Package.Hash, layer).ToString());

    public bool IsOn(InProcessSiloHandle silo, IAddressable grain) =>
        Cluster.TryGetGrainContext(grain.GetGrainId(), out IGrainContext? context) && context.Address.SiloAddress!.Equals(silo.SiloAddress);

    public async ValueTask DisposeAsync()
    {
        await Cluster.DisposeAsync();
        if (_shared is not null) Directory.Delete(_shared, recursive: true);
    }
}

internal static class Turns
{
    public static TurnRequest Of(int[] tokens, int count, SamplingFacts? sampling = null, int topLogits = 0) => new()
    {
        Model = TestModel.Name,
        Tokens = tokens,
        MaxTokens = count,
        Sampling = (sampling ?? SamplingFacts.Greedy).ToTurn(),
        StopTokens = [],
        TopLogits = topLogits,
        CancelOnDisconnect = false,
    };

    public static async Task<List<TokenChunk>> AllAsync(this IAsyncEnumerable<TokenChunk> chunks)
    {
        List<TokenChunk> all = [];
        await foreach (TokenChunk chunk in chunks) all.Add(chunk);
        return all;
    }

    public static int[] Tokens(this IEnumerable<TokenChunk> chunks) => [.. chunks.Where(static c => c.TokenId >= 0).Select(static c => c.TokenId)];

    /// <summary>Asks until the answer is yes; what the test waits for has no event of its own. Missing evidence fails with the last answer.</summary>
    public static async Task<T> UntilAsync<T>(Func<Task<T>> ask, Func<T, bool> yes, string what)
    {
        T answer = default!;
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (!patience.IsCancellationRequested)
        {
            answer = await ask();
            if (yes(answer)) return answer;
            await Task.Delay(5);
        }
        throw new TimeoutException($"waited for: {what}; last answer: {answer}");
    }
}
