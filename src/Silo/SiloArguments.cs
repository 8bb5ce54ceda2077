using System.Globalization;
using System.Net;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Grains;

namespace FlashOrleans.Silo;

/// <summary>The command line of the silo program: <c>--name value</c> pairs into options. One clear line for what is wrong.</summary>
internal static class SiloArguments
{
    private const string Usage = """
        usage: FlashOrleans.Silo --models DIR [--silo-port N] [--gateway-port N] [--primary-port N] [--layers 0-3] [--http-port N] [--http-host ADDRESS]
               [--window 25% | --budget 1.8GiB|50% [--sessions N] [--context TOKENS]] [--mode auto|dense|exact|predicted] [--kv auto|f32|f16|q8] [--prefetch on|off] [--draft NAME] [--speculate auto|lookup|off] [--threads N] [--kernels auto|scalar|avx2|avx512]
               [--share-prefixes on|off] [--kv-disk 4GiB|0] [--reader-lease SECONDS] [--sessions-db FILE|redis://HOST] [--session-ttl 7d|12h|30m] [--max-sessions N] [--verbose on|off]
         several silos share one --sessions-db, or a session that moves is without its history
         (default: $FLASH_SESSIONS_DB, which no list of processes shows; else memory)
        $FLASH_API_KEY, where it is set, is asked for over HTTP
        """;

    public static FlashSiloOptions Parse(string[] args)
    {
        var options = new FlashSiloOptions { ModelsDirectory = "", SiloPort = 11111, GatewayPort = 30000, Sessions = new SessionStoreOptions { Path = SessionStoreOptions.FromEnvironment() } };
        BudgetSize? budget = null;
        int? sessions = null, context = null;
        bool window = false;
        string? draft = null;
        int? port = null;
        IPAddress host = IPAddress.Loopback;
        for (int i = 0; i < args.Length; i += 2)
        {
            string name = args[i];
            if (name is "--help" or "-h") throw new SiloUsageException(Usage);
            string value = i + 1 < args.Length ? args[i + 1] : throw new SiloUsageException($"{name} needs a value\n{Usage}");
            switch (name)
            {
                case "--budget": budget = BudgetSize.TryParse(value, out BudgetSize size) ? size : throw Wrong(name, value, BudgetSize.Rule); continue;
                case "--sessions": sessions = Number(name, value); continue;
                case "--context": context = Number(name, value); continue;
                case "--http-port": port = Number(name, value); continue;
                case "--http-host": host = IPAddress.TryParse(value, out IPAddress? address) ? address : throw Wrong(name, value, "an address of this machine"); continue;
                case "--kv-disk": options = options with { Engine = options.Engine with { KvDisk = Disk(name, value) } }; continue;
                case "--draft": draft = value; continue;
                case "--window": window = true; break;
            }
            options = name switch
            {
                "--models" => options with { ModelsDirectory = value },
                "--silo-port" => options with { SiloPort = Number(name, value) },
                "--gateway-port" => options with { GatewayPort = Number(name, value) },
                "--primary-port" => options with { PrimaryPort = Number(name, value) },
                "--layers" => options with { Layers = value },
                "--window" => options with { Layer = options.Layer with { Window = Share(name, value) } },
                "--mode" => options with { Layer = options.Layer with { Mode = Choice<FeedForwardMode>(name, value) } },
                "--kv" => options with { Layer = options.Layer with { Kv = Choice<KvType>(name, value) } },
                "--speculate" => options with { Grains = options.Grains with { Speculate = Choice<Speculation>(name, value) is not Speculation.Default and var speculate ? speculate : throw Wrong(name, value, "off, lookup or auto") } },
                "--prefetch" => options with { Layer = options.Layer with { Prefetch = Switch(name, value) } },
                "--threads" => options with { Engine = options.Engine with { Threads = Number(name, value) } },
                "--kernels" => options with { Engine = options.Engine with { Kernels = value } },
                "--reader-lease" => options with { Grains = options.Grains with { ReaderLease = TimeSpan.FromSeconds(Number(name, value)) } },
                "--share-prefixes" => options with { SharePrefixes = Switch(name, value) },
                "--sessions-db" => options with { Sessions = options.Sessions with { Path = value } },
                "--session-ttl" => options with { Sessions = options.Sessions with { TimeToLive = SessionStoreOptions.TryParseTime(value, out TimeSpan ttl) ? ttl : throw Wrong(name, value, SessionStoreOptions.TimeRule) } },
                "--max-sessions" => options with { Sessions = options.Sessions with { MaxSessions = Number(name, value) } },
                "--verbose" => options with { Verbose = Switch(name, value) },
                _ => throw new SiloUsageException($"{name} is unknown\n{Usage}"),
            };
        }
        if (budget != null && window) throw new SiloUsageException("--budget sizes the windows: give it or --window, not both");
        if (budget == null && (sessions ?? context) != null) throw new SiloUsageException("--sessions and --context say what --budget is to hold: give one");
        if (budget is { } b)
            options = options with { Engine = options.Engine with { Budget = new BudgetOptions { Size = b, Sessions = sessions ?? 1, Context = context ?? BudgetOptions.DefaultContext, Host = port is null ? BudgetHost.Grains : BudgetHost.Http } } };
        if (port is { } http)
            options = options with { Http = new HttpOptions { Port = http, Address = host, ApiKey = Environment.GetEnvironmentVariable("FLASH_API_KEY") is { Length: > 0 } key ? key : null } };
        if (options.ModelsDirectory.Length == 0) throw new SiloUsageException($"--models is missing\n{Usage}");
        return draft is null ? options : options with { Engine = WithDraft(options, draft) };
    }

    private static EngineOptions WithDraft(FlashSiloOptions options, string draft)
    {
        PackageStore store = PackageStore.InFolder(options.ModelsDirectory);
        string path = PackageStore.IsValidName(draft) ? store.Target(draft) : Path.GetFullPath(draft);
        if (!Directory.Exists(path)) throw new SiloUsageException($"--draft is \"{draft}\", of which there is no package in {options.ModelsDirectory}: import it first");
        return SiloDraft.Over(options.Engine, draft, path, store.List().Where(static p => p.Manifest is not null).Select(static p => p.Path));
    }

    private static int Number(string name, string value) =>
        int.TryParse(value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int number) ? number : throw Wrong(name, value, "a whole number");

    private static KvDiskOptions? Disk(string name, string value) =>
        value == "0" ? null : BudgetSize.TryParse(value, out BudgetSize size) && size.Share == 0 ? new KvDiskOptions { Folder = Path.Combine(PackageStore.Default().Home, "kv"), Bytes = size.Bytes }
            : throw Wrong(name, value, "an amount of disk such as 4GiB, or 0");

    private static double Share(string name, string value)
    {
        bool percent = value.EndsWith('%');
        return double.TryParse(percent ? value[..^1] : value, NumberStyles.Float, CultureInfo.InvariantCulture, out double number)
            ? percent ? number / 100 : number
            : throw Wrong(name, value, "a share like 25% or 0.25");
    }

    private static bool Switch(string name, string value) => value switch { "on" => true, "off" => false, _ => throw Wrong(name, value, "on or off") };

    private static T Choice<T>(string name, string value) where T : struct, Enum =>
        Enum.TryParse(value, ignoreCase: true, out T choice) && Enum.IsDefined(choice) && !char.IsAsciiDigit(value[0]) ? choice
            : throw Wrong(name, value, string.Join(", ", Enum.GetNames<T>()).ToLowerInvariant());

    private static SiloUsageException Wrong(string name, string value, string expected) => new($"{name} is \"{value}\"; expected {expected}");
}

/// <summary>Wrong usage of the program.</summary>
internal sealed class SiloUsageException(string message) : Exception(message);
