using System.Net;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Grains;
using FlashOrleans.Silo.Http;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Orleans.Configuration;
using Orleans.Hosting;

namespace FlashOrleans.Silo;

/// <summary>
/// A silo in this process: the generic host around Orleans and the layer host, on 127.0.0.1. Several fit in one process. What `flash run` starts
/// and what the silo program is a thin shell around. Any thread may use it; <see cref="DisposeAsync"/> stops it gracefully.
/// </summary>
public sealed class FlashSilo : IAsyncDisposable
{
    private readonly IHost _host;
    private readonly LayerHost _layers;
    private HttpFront? _http;

    private FlashSilo(IHost host, int siloPort, int gatewayPort)
    {
        _host = host;
        _layers = host.Services.GetRequiredService<LayerHost>();
        Grains = host.Services.GetRequiredService<IGrainFactory>();
        SiloEndpoint = new IPEndPoint(IPAddress.Loopback, siloPort);
        GatewayEndpoint = new IPEndPoint(IPAddress.Loopback, gatewayPort);
    }

    /// <summary>Grains of this cluster: <c>FlashClient.Over(silo.Grains)</c>.</summary>
    public IGrainFactory Grains { get; }
    public IPEndPoint SiloEndpoint { get; }
    public IPEndPoint GatewayEndpoint { get; }
    /// <summary>Where HTTP is served, if the options ask for that.</summary>
    public IPEndPoint? HttpEndpoint => _http?.Endpoint;
    internal HttpFront? Http => _http;
    public IServiceProvider Services => _host.Services;
    /// <summary>What layers are attached with.</summary>
    public LayerOptions Layer => _layers.LayerOptions;

    /// <summary>Starts and returns when the silo is active. Throws <see cref="FlashSiloException"/> with one clear line for a wrong option, a taken port, or a place that sessions cannot be kept in.</summary>
    public static async Task<FlashSilo> StartAsync(FlashSiloOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        foreach ((int port, string option) in new[] { (options.SiloPort, "--silo-port"), (options.GatewayPort, "--gateway-port") })
        {
            if (port != 0 && LoopbackPorts.IsListening(port))
                throw new FlashSiloException($"port {port} on 127.0.0.1 is in use or not permitted: choose another with {option}, or 0 for any");
        }
        try
        {
            // Before Orleans, which would tell four times over what is wrong here.
            SessionStore.Check(options.Sessions);
        }
        catch (SessionStoreException e)
        {
            throw new FlashSiloException(e.Message, e);
        }
        // A free port is found, not reserved: somebody else may be faster, so free ports are tried again.
        bool free = options.SiloPort == 0 || options.GatewayPort == 0;
        FlashSilo started;
        for (int attempt = 1; ; attempt++)
        {
            (int silo, int gateway) = LoopbackPorts.Fill(options.SiloPort, options.GatewayPort);
            IHost? host = null;
            try
            {
                host = Build(options, silo, gateway);
                await host.StartAsync(cancellationToken);
                started = new FlashSilo(host, silo, gateway);
                break;
            }
            catch (Exception e) when (e is not OperationCanceledException)
            {
                host?.Dispose();
                if (LoopbackPorts.IsTaken(e))
                {
                    if (free && attempt < 5) continue;
                    throw new FlashSiloException($"port {silo} or {gateway} on 127.0.0.1 is in use: choose others with --silo-port and --gateway-port, or 0 for any", e);
                }
                throw new FlashSiloException($"the silo could not start: {Root(e).Message}", e);
            }
        }
        await started.OpenHttpAsync(options, cancellationToken);
        return started;
    }

    private async Task OpenHttpAsync(FlashSiloOptions options, CancellationToken cancellationToken)
    {
        if (options.Http is not { } http) return;
        try
        {
            _http = await HttpFront.StartAsync(http, options, FlashClient.Over(Grains), Services, cancellationToken);
        }
        catch (Exception e)
        {
            await DisposeAsync();
            if (e is OperationCanceledException) throw;
            throw new FlashSiloException(LoopbackPorts.IsTaken(e)
                ? $"port {http.Port} on {http.Address} is in use or not permitted: choose another with --port, or 0 for any"
                : $"HTTP could not be served on {http.Address}:{http.Port}: {Root(e).Message}", e);
        }
    }

    /// <summary>New options for layers: every layer leaves memory and comes back with them at its next wave; sessions replay.</summary>
    public async Task ReconfigureAsync(LayerOptions layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        FlashSiloOptions.Validate(layer);
        _layers.LayerOptions = layer;
        await Task.WhenAll(_layers.LayerKeys.Select(key => Grains.GetGrain<ILayerGrain>(key).Deactivate()));
    }

    /// <summary>Completes when the silo is to stop (Ctrl-C, SIGTERM, or by itself), or the token is cancelled; disposing stops it.</summary>
    public async Task WaitForShutdownAsync(CancellationToken cancellationToken = default)
    {
        using var either = CancellationTokenSource.CreateLinkedTokenSource(Services.GetRequiredService<IHostApplicationLifetime>().ApplicationStopping, cancellationToken);
        await Task.Delay(Timeout.Infinite, either.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
    }

    /// <summary>Graceful stop: first HTTP, whose running answers come to their end, then the silo.</summary>
    public async ValueTask DisposeAsync()
    {
        if (_http is not null) await _http.DisposeAsync();
        await _host.StopAsync();
        _host.Dispose();
    }

    private static IHost Build(FlashSiloOptions options, int siloPort, int gatewayPort)
    {
        HostApplicationBuilder builder = Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        Log(builder.Logging, options.Verbose);
        // Orleans tries placement again by itself while a cluster comes and goes.
        builder.Logging.AddFilter("Polly", LogLevel.None);
        builder.Logging.AddFilter("Orleans", options.Verbose ? LogLevel.Information : LogLevel.Error);
        builder.Services.Configure<HostOptions>(static o => o.ShutdownTimeout = TimeSpan.FromSeconds(30));
        builder.UseOrleans(silo => silo
            .UseLocalhostClustering(siloPort, gatewayPort, options.PrimaryPort is { } primary ? new IPEndPoint(IPAddress.Loopback, primary) : null,
                options.ServiceId, options.ClusterId)
            .Configure<EndpointOptions>(static o => o.AdvertisedIPAddress = IPAddress.Loopback)
            // Compute threads keep the processors busy; that is no reason to shed clients.
            .Configure<LoadSheddingOptions>(static o => o.LoadSheddingEnabled = false)
            .AddFlashOrleans(options.Host));
        return builder.Build();
    }

    internal static void Log(ILoggingBuilder logging, bool verbose)
    {
        logging.SetMinimumLevel(verbose ? LogLevel.Information : LogLevel.Warning);
        // One line on standard error per warning: standard output belongs to the program.
        logging.AddSimpleConsole(static o => o.SingleLine = true);
        logging.Services.Configure<Microsoft.Extensions.Logging.Console.ConsoleLoggerOptions>(static o => o.LogToStandardErrorThreshold = LogLevel.Trace);
    }

    private static Exception Root(Exception e)
    {
        while (e is AggregateException && e.InnerException is { } inner) e = inner;
        return e;
    }
}

/// <summary>The silo could not start: one line, what and what to do.</summary>
public sealed class FlashSiloException : Exception
{
    public FlashSiloException() : this("the silo could not start") { }
    public FlashSiloException(string message) : base(message) { }
    public FlashSiloException(string message, Exception inner) : base(message, inner) { }
}
