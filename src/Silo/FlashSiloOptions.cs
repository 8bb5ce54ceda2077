using FlashOrleans.Engine;
using FlashOrleans.Grains;

namespace FlashOrleans.Silo;

/// <summary>What one silo runs with. Checked at start: a wrong value is one line that names it.</summary>
public sealed record FlashSiloOptions
{
    /// <summary>Folder with packages (<c>NAME.flash</c>).</summary>
    public required string ModelsDirectory { get; init; }
    /// <summary>0 takes a free port.</summary>
    public int SiloPort { get; init; }
    /// <summary>0 takes a free port.</summary>
    public int GatewayPort { get; init; }
    /// <summary>Silo port of the first silo on this machine when this one joins it; null: this is the first.</summary>
    public int? PrimaryPort { get; init; }
    public string ClusterId { get; init; } = "flashorleans";
    public string ServiceId { get; init; } = "flashorleans";
    /// <summary>Layers this silo runs ("0-3", "0,2,4"); null: any.</summary>
    public string? Layers { get; init; }
    public EngineOptions Engine { get; init; } = new();
    public LayerOptions Layer { get; init; } = new();
    public GrainOptions Grains { get; init; } = new();
    /// <summary>Sessions share what they begin with in common (docs/HTTP.md): true: whoever they belong to; null: those of one user, and on this machine's own address whoever names no
    /// user is one; false: those of one named user alone.</summary>
    public bool? SharePrefixes { get; init; }
    /// <summary>Where sessions are kept, how long, and how many.</summary>
    public SessionStoreOptions Sessions { get; init; } = new();
    /// <summary>Null: no HTTP.</summary>
    public HttpOptions? Http { get; init; }
    /// <summary>Logs at information level instead of warnings.</summary>
    public bool Verbose { get; init; }

    internal LayerHostOptions Host => new() { ModelsDirectory = ModelsDirectory, Layers = Layers, Engine = Engine, Layer = Layer, Grains = Grains with { SharePrefixes = SharePrefixes ?? Grains.SharePrefixes }, Sessions = Sessions };
    /// <summary>The engine's options; a budget is for the layers that run here.</summary>
    internal EngineOptions PlannedEngine => Host.PlannedEngine;

    internal void Validate()
    {
        Port(SiloPort, "silo port");
        Port(GatewayPort, "gateway port");
        if (SiloPort != 0 && SiloPort == GatewayPort) throw Wrong("gateway port", GatewayPort, "it must differ from the silo port");
        if (PrimaryPort is { } primary && primary is < 1 or > 65535) throw Wrong("primary port", PrimaryPort, "it must be between 1 and 65535");
        if (!Directory.Exists(ModelsDirectory)) throw Wrong("models folder", ModelsDirectory, "it does not exist; import a model first or create it");
        if (string.IsNullOrWhiteSpace(ClusterId)) throw Wrong("cluster id", ClusterId, "it must not be empty");
        if (Layers is { } layers)
        {
            try { LayerHostOptions.CheckLayers(layers); }
            catch (FormatException) { throw Wrong("layers", layers, "it must be ranges like \"0-3\" or \"0,2,4\""); }
        }
        if (Engine.Threads is < 1 or > 1024) throw Wrong("threads", Engine.Threads, "it must be between 1 and 1024");
        if (Engine.IoThreads is < 1 or > 1024) throw Wrong("io threads", Engine.IoThreads, "it must be between 1 and 1024");
        if (Engine.MaxWaveRows is < 1 or > 65536) throw Wrong("max wave rows", Engine.MaxWaveRows, "it must be between 1 and 65536");
        if (Engine.Budget is { } budget)
        {
            if (budget.Sessions is < 1 or > 4096) throw Wrong("sessions", budget.Sessions, "it must be between 1 and 4096");
            if (budget.Context < 1) throw Wrong("context", budget.Context, "it must be at least 1");
        }
        if (Engine.Kernels is not ("auto" or "scalar" or "avx2" or "avx512")) throw Wrong("kernels", Engine.Kernels, "it must be auto, scalar, avx2 or avx512");
        if (Grains.PrefillChunk < 1) throw Wrong("prefill chunk", Grains.PrefillChunk, "it must be at least 1");
        if (Grains.MaxUnread < 1) throw Wrong("max unread", Grains.MaxUnread, "it must be at least 1");
        if (Grains.ReaderLease <= TimeSpan.Zero) throw Wrong("reader lease", Grains.ReaderLease, "it must be positive");
        if (Grains.WatchdogMinDelay <= TimeSpan.Zero) throw Wrong("watchdog delay", Grains.WatchdogMinDelay, "it must be positive");
        if (Grains.RetryDelay <= TimeSpan.Zero) throw Wrong("retry delay", Grains.RetryDelay, "it must be positive");
        if (Grains.MaxAttempts < 1) throw Wrong("max attempts", Grains.MaxAttempts, "it must be at least 1");
        if (Sessions.TimeToLive <= TimeSpan.Zero) throw Wrong("session ttl", Sessions.TimeToLive, "it must be positive");
        if (Sessions.MaxSessions < 1) throw Wrong("most sessions", Sessions.MaxSessions, "it must be at least 1");
        if (RedisAddress.Is(Sessions.Path))
        {
            // The text may hold a password.
            if (!RedisAddress.TryParse(Sessions.Path, out _)) throw new FlashSiloException($"sessions database is no address of Redis; it must be {RedisAddress.Rule}");
        }
        else if (Sessions.Path is { } database && (database.Length == 0 || Directory.Exists(database))) throw Wrong("sessions database", database, $"it must be a file, or {RedisAddress.Rule}");
        Validate(Layer);
        if (Http is { } http) Validate(http);
    }

    private static void Validate(HttpOptions http)
    {
        Port(http.Port, "HTTP port");
        if (http.MaxRunning is < 1) throw Wrong("most running answers", http.MaxRunning, "it must be at least 1");
        if (http.MaxWaiting < 0) throw Wrong("most waiting answers", http.MaxWaiting, "it must be at least 0");
        if (http.MaxWait <= TimeSpan.Zero) throw Wrong("longest wait", http.MaxWait, "it must be positive");
        if (http.MaxBodyBytes < 1) throw Wrong("largest body", http.MaxBodyBytes, "it must be at least 1");
        if (http.BodyTimeout <= TimeSpan.Zero) throw Wrong("body timeout", http.BodyTimeout, "it must be positive");
        if (http.PingInterval <= TimeSpan.Zero) throw Wrong("ping interval", http.PingInterval, "it must be positive");
        if (http.DrainTimeout <= TimeSpan.Zero) throw Wrong("drain timeout", http.DrainTimeout, "it must be positive");
        if (http.ApiKey is { } key && (key.Length == 0 || key.Any(char.IsWhiteSpace))) throw Wrong("API key", "", "it must not be empty, nor have spaces in it");
    }

    internal static void Validate(LayerOptions layer)
    {
        if (!(layer.Window > 0 && layer.Window <= 1)) throw Wrong("window", layer.Window, "it must be above 0 and at most 100%");
    }

    private static void Port(int port, string name)
    {
        if (port is < 0 or > 65535) throw Wrong(name, port, "it must be between 0 (any free port) and 65535");
    }

    private static FlashSiloException Wrong(string name, object? value, string rule) =>
        new(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{name} is \"{value}\"; {rule}"));
}
