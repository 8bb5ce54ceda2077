using FlashOrleans.Abstractions;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Orleans.Configuration;
using Orleans.Hosting;

namespace FlashOrleans.Client;

/// <summary>
/// The way in for .NET programs: opens sessions on a FlashOrleans cluster, from another process (<see cref="ConnectAsync"/>) or inside the silo's
/// own (<see cref="Over"/>). Thread-safe; keep one per process.
/// </summary>
public sealed class FlashClient : IAsyncDisposable
{
    private readonly IHost? _host;
    private readonly Resilience _resilience;

    private FlashClient(IGrainFactory grains, IHost? host, Resilience resilience)
    {
        Grains = grains;
        _host = host;
        _resilience = resilience;
    }

    /// <summary>The cluster's grains, for what this class does not cover.</summary>
    public IGrainFactory Grains { get; }

    /// <summary>Connects to the gateways of a running cluster, trying again for <see cref="FlashClientOptions.ConnectTimeout"/> when none answers;
    /// then throws a <see cref="FlashConnectionException"/> that names them.</summary>
    public static async Task<FlashClient> ConnectAsync(FlashClientOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        var resilience = new Resilience(options);
        IHost host = await resilience.ConnectAsync(async token =>
        {
            IHost built = Build(options);
            try
            {
                await built.StartAsync(token);
                return built;
            }
            catch
            {
                built.Dispose();
                throw;
            }
        }, cancellationToken);
        return new FlashClient(host.Services.GetRequiredService<IClusterClient>(), host, resilience);
    }

    /// <summary>A client over grains that are already reachable: a host in this process (<c>FlashSilo.Grains</c>). Disposing it leaves the host alone.</summary>
    public static FlashClient Over(IGrainFactory grains)
    {
        ArgumentNullException.ThrowIfNull(grains);
        return new FlashClient(grains, null, new Resilience(new FlashClientOptions()));
    }

    /// <summary>A session by id; a new one when no id is given. Nothing is sent until its first turn.</summary>
    public FlashSession OpenSession(Guid? id = null)
    {
        Guid key = id ?? Guid.NewGuid();
        return new FlashSession(key, Grains.GetGrain<ISessionGrain>(key), _resilience);
    }

    /// <summary>What a model name means. Throws <see cref="ModelNotFoundException"/>.</summary>
    public Task<ModelInfo> GetModelAsync(string model, CancellationToken cancellationToken = default) =>
        Grains.GetGrain<IModelGrain>(model).Info().WaitAsync(cancellationToken);

    /// <summary>Activates all layers of a model and completes when they are in memory.</summary>
    public Task<ModelReport> EnsureReadyAsync(string model, CancellationToken cancellationToken = default) =>
        Grains.GetGrain<IModelGrain>(model).EnsureReady().WaitAsync(cancellationToken);

    /// <summary>Counters and placement of a model's layers.</summary>
    public Task<ModelReport> GetReportAsync(string model, CancellationToken cancellationToken = default) =>
        Grains.GetGrain<IModelGrain>(model).Report().WaitAsync(cancellationToken);

    /// <summary>Takes a model's layers out of memory; the next turn brings them back.</summary>
    public Task UnloadAsync(string model, CancellationToken cancellationToken = default) =>
        Grains.GetGrain<IModelGrain>(model).Unload().WaitAsync(cancellationToken);

    public async ValueTask DisposeAsync()
    {
        if (_host is null) return;
        await _host.StopAsync();
        _host.Dispose();
    }

    private static IHost Build(FlashClientOptions options)
    {
        HostApplicationBuilder builder = Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        builder.Logging.SetMinimumLevel(LogLevel.Critical);
        builder.UseOrleansClient(client => client
            .UseStaticClustering([.. options.Gateways])
            .Configure<ClusterOptions>(o => (o.ClusterId, o.ServiceId) = (options.ClusterId, options.ServiceId)));
        return builder.Build();
    }
}
