using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using FlashOrleans.Grains;
using FlashOrleans.Silo;

namespace FlashOrleans.Cli.Hosts;

/// <summary>A silo in this process on free loopback ports, and a client on top of it.</summary>
internal sealed class GrainHost : IModelHost
{
    private readonly FlashSilo _silo;
    private readonly FlashClient _client;

    private GrainHost(FlashSilo silo, string model)
    {
        _silo = silo;
        _client = FlashClient.Over(silo.Grains);
        Model = model;
    }

    public string Path => "grains";
    public string Model { get; }
    public LayerOptions Layer => _silo.Layer;
    /// <summary>The budget that sizes the windows, or null.</summary>
    public BudgetOptions? Budget { get; private init; }

    /// <summary>Returns when all layers are in memory.</summary>
    public static async Task<GrainHost> StartAsync(string package, EngineOptions engine, LayerOptions layer, CancellationToken cancel, GrainOptions? grains = null)
    {
        // The model is asked for by its path, so that a package outside the store serves as well.
        string folder = System.IO.Path.GetDirectoryName(package)!;
        var silo = await FlashSilo.StartAsync(new FlashSiloOptions { ModelsDirectory = folder, Engine = engine, Layer = layer, Grains = grains ?? new GrainOptions() }, cancel);
        var host = new GrainHost(silo, package) { Budget = engine.Budget };
        try
        {
            await host._client.EnsureReadyAsync(package, cancel);
            if (engine.Draft is { } draft) await host._client.EnsureReadyAsync(draft.Path, cancel);
            return host;
        }
        catch
        {
            await host.DisposeAsync();
            throw;
        }
    }

    public IModelSession OpenSession() => new Session(_client.OpenSession());

    public async Task<Snapshot> MeasureAsync()
    {
        var report = await _client.GetReportAsync(Model);
        return new Snapshot
        {
            Layers = [.. report.Layers.Select(static l => l.Counters)],
            Kernels = report.Hosts.Length > 0 ? report.Hosts[0].Kernels : "",
            Threads = report.Hosts.Sum(static h => h.Threads),
            Access = report.Info.Access,
            NativeBytes = report.Hosts.Sum(static h => h.NativeBytes),
            Reads = report.Hosts.Sum(static h => h.FlashReads),
            ReadNanos = report.Hosts.Sum(static h => h.FlashNanos),
            ReadBusyNanos = report.Hosts.Sum(static h => h.FlashBusyNanos),
        };
    }

    /// <summary>Other options for all layers; running sessions replay what they need.</summary>
    public Task ReconfigureAsync(LayerOptions layer) => _silo.ReconfigureAsync(layer);

    public async ValueTask DisposeAsync()
    {
        await _client.DisposeAsync();
        await _silo.DisposeAsync();
    }

    internal sealed class Session(FlashSession session) : IModelSession
    {
        public IAsyncEnumerable<TokenChunk> SendAsync(TurnRequest turn, CancellationToken cancel) => session.SendAsync(turn, cancel);

        /// <summary>Ends the turn; its stream ends with <see cref="FinishReason.Cancelled"/>.</summary>
        public Task CancelAsync(Guid turn) => session.CancelAsync(turn);

        public async ValueTask DisposeAsync() => await session.CloseAsync();
    }
}
