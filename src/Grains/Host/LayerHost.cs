using System.Collections.Concurrent;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;
using Microsoft.Extensions.Logging;
using Orleans.Runtime;

namespace FlashOrleans.Grains;

/// <summary>
/// One silo's engine and what hangs on it, a singleton beside the grains: the conductor, the loader thread, the opened packages and the layers
/// whose grains are active here. <b>A layer is here exactly while its grain is active.</b> Grain turns only enqueue: everything that computes or
/// reads files runs on the conductor's threads or the loader's. Starts with the silo before it takes grains, ends after the last of them.
/// </summary>
public sealed class LayerHost : ILifecycleParticipant<ISiloLifecycle>, ISiloStatusListener, IDisposable
{
    private readonly ConcurrentDictionary<LayerKey, HostedLayer> _layers = new();
    private readonly LoaderThread _loader = new("flash-opener");
    private readonly LoaderThread _text = new("flash-text");
    private readonly ISiloStatusOracle _silos;
    private readonly ILogger<LayerHost> _logger;
    private readonly ConcurrentDictionary<SiloAddress, bool> _active = new();
    private Conductor? _conductor;
    private bool _disposed;
    private int _sessions, _turns;

    public LayerHost(LayerHostOptions options, ILocalSiloDetails silo, ISiloStatusOracle silos, ILogger<LayerHost> logger)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(silo);
        Options = options;
        LayerOptions = options.Layer;
        Silo = silo.SiloAddress.ToString();
        _silos = silos;
        _logger = logger;
        Catalog = new PackageCatalog(options.ModelsDirectory, _loader, _text) { Draft = options.Engine.Draft };
    }

    public LayerHostOptions Options { get; }
    /// <summary>What layers are attached with from now on.</summary>
    public LayerOptions LayerOptions { get; set; }
    public TimeProvider Time => Options.Time;
    public string Silo { get; }
    public Conductor Conductor => _conductor ?? throw new InvalidOperationException("the layer host has not started");
    /// <summary>More than one silo is active: a next layer that is not here may be elsewhere.</summary>
    public bool ManySilos { get; private set; }
    internal PackageCatalog Catalog { get; }
    internal GrainOptions Grains => Options.Grains;
    /// <summary>What steps of each package take here, and what was guessed in them.</summary>
    internal ConcurrentDictionary<string, StepTimes> StepTimes { get; } = new();

    /// <summary>Guesses verified and right by package, since the silo started; any thread.</summary>
    public IReadOnlyList<(string Package, long Drafted, long Accepted)> Drafts => [.. StepTimes.Select(static p => (p.Key, p.Value.Drafts.Drafted, p.Value.Drafts.Accepted))];

    /// <summary>Sessions in memory, and turns under way in them.</summary>
    public (int Sessions, int Turns) Active => (Volatile.Read(ref _sessions), Volatile.Read(ref _turns));

    internal void Entered(int sessions = 0, int turns = 0)
    {
        if (sessions != 0) Interlocked.Add(ref _sessions, sessions);
        if (turns != 0) Interlocked.Add(ref _turns, turns);
    }

    public void Participate(ISiloLifecycle observer)
    {
        ArgumentNullException.ThrowIfNull(observer);
        observer.Subscribe(nameof(LayerHost), ServiceLifecycleStage.ApplicationServices, Start, Stop);
    }

    /// <summary>Keys of the layers here: "package/layer".</summary>
    public IReadOnlyList<string> LayerKeys => [.. _layers.Keys.Select(static k => k.ToString())];

    public HostReport Report() => new()
    {
        Silo = Silo,
        Kernels = Conductor.Kernels,
        Threads = Conductor.Options.Threads,
        NativeBytes = Conductor.Ledger.Total,
        FlashReads = Conductor.ReaderStats.Reads,
        FlashBytes = Conductor.ReaderStats.Bytes,
        FlashFaults = Conductor.ReaderStats.Faults,
        FlashNanos = Conductor.ReaderStats.RingNanos,
        FlashBusyNanos = Conductor.ReaderStats.BusyNanos,
        WavesHeld = Conductor.WavesHeld + _layers.Values.Sum(static l => (long)l.WavesHeld),
    };

    /// <summary>The layers here as they stand; any thread.</summary>
    public IReadOnlyList<LayerStatus> Status => [.. _layers.Values.Select(static l => new LayerStatus(
        l.Layer?.Package.Name ?? "", l.Key.Package, l.Key.Layer, l.Ready.IsCompletedSuccessfully, l.Error, l.Layer?.Stats))];

    /// <summary>The tokenizer of a package that is being served, or null when it has none; any thread.</summary>
    public Task<TextCodec?> TextAsync(string package) => Catalog.TextAsync(package);

    internal HostedLayer? Find(LayerKey key) => _layers.GetValueOrDefault(key);

    /// <summary>A grain turn: registers the layer and returns; opening and loading happen on the loader thread, waves wait meanwhile.</summary>
    internal HostedLayer Attach(LayerKey key)
    {
        var hosted = new HostedLayer(this, key, LayerOptions);
        if (!_layers.TryAdd(key, hosted)) throw new LayerUnavailableException($"layer {key.Layer} is still leaving this silo; submit again");
        _ = _loader.RunAsync(() =>
        {
            try
            {
                FlashPackage package = Catalog.Open(key.Package);
                if (key.Layer >= package.Config.Layers)
                    throw new FlashException($"{package.Path} has {package.Config.Layers} layers; layer {key.Layer} was asked for");
                hosted.Attached(Conductor.Attach(package, key.Layer, hosted.Options, hosted));
            }
            catch (Exception e)
            {
                hosted.Failed(e);
            }
            return 0;
        });
        return hosted;
    }

    /// <summary>Waits for an attach that is under way, takes the layer out of the map and says what the engine has to detach.</summary>
    internal async Task<Layer?> LeaveAsync(HostedLayer hosted)
    {
        await _loader.RunAsync(static () => 0);
        _layers.TryRemove(new KeyValuePair<LayerKey, HostedLayer>(hosted.Key, hosted));
        return hosted.Layer;
    }

    /// <summary>True while the step is anywhere in this host: in an inbox, a running step, or on its way out. Whoever hands a wave on holds it until the next one
    /// has it, but a look takes time and the step may hop behind its back, so a step is gone only after several looks: being wrong costs a resubmission.</summary>
    internal bool Holds(Guid session, int epoch, long step)
    {
        for (int look = 0; look < 4; look++)
        {
            if (Conductor.Holds(session, epoch, step)) return true;
            foreach ((_, HostedLayer layer) in _layers)
            {
                if (layer.Holds(session, epoch, step)) return true;
            }
        }
        return false;
    }

    /// <summary>Runs a tokenizer off the grain's turn.</summary>
    internal Task<T> RunAsync<T>(Func<T> work) => _text.RunAsync(work);

    /// <summary>Runs work on the thread that opens packages.</summary>
    internal Task<T> OnOpenerAsync<T>(Func<T> work) => _loader.RunAsync(work);

    public void SiloStatusChangeNotification(SiloAddress updatedSilo, SiloStatus status)
    {
        _active[updatedSilo] = status == SiloStatus.Active;
        ManySilos = _active.Values.Count(static a => a) > 1;
    }

    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _loader.Dispose();
        _text.Dispose();
        _conductor?.Dispose();
        Catalog.Dispose();
    }

    private Task Start(CancellationToken cancellationToken)
    {
        // The engine's threads belong to no call: without this each would carry the context of this one, and every task they start a copy.
        using (ExecutionContext.SuppressFlow()) _conductor = new Conductor(Logged(Options.PlannedEngine), Options.Time, Options.Reader?.Invoke());
        foreach ((SiloAddress silo, SiloStatus status) in _silos.GetApproximateSiloStatuses(onlyActive: true)) SiloStatusChangeNotification(silo, status);
        _silos.SubscribeToSiloStatusEvents(this);
        return Task.CompletedTask;
    }

    private EngineOptions Logged(EngineOptions engine) =>
        engine.KvDisk is { Log: null } disk ? engine with { KvDisk = disk with { Log = line => _logger.LogWarning("{Line}", line) } } : engine;

    private Task Stop(CancellationToken cancellationToken)
    {
        _silos.UnSubscribeFromSiloStatusEvents(this);
        // Joining threads may wait for a running step; not on a pool thread that the silo's shutdown shares.
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        new Thread(() =>
        {
            try { Dispose(); done.SetResult(); }
            catch (Exception e) { done.SetException(e); }
        })
        { IsBackground = true, Name = "flash-stop" }.Start();
        return done.Task;
    }
}

/// <summary>One layer of a silo at a moment: <paramref name="Error"/> says why it could not be loaded; without <paramref name="Stats"/> it is still being opened.</summary>
public sealed record LayerStatus(string Model, string Package, int Layer, bool Ready, string? Error, LayerStats? Stats);
