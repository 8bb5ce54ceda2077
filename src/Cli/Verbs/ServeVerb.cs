using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using FlashOrleans.Cli.Options;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Grains;
using FlashOrleans.Models;
using FlashOrleans.Silo;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash serve`: a silo with HTTP on the usual ports, until Ctrl-C.</summary>
internal static class ServeVerb
{
    private const int HttpPort = 8080, SiloPort = 11111, GatewayPort = 30000;
    public const long DefaultDisk = 4L << 30;
    public const string KeyVariable = "FLASH_API_KEY";

    public static Command Create(App app)
    {
        var models = Flags.Text("--models", "DIR", "Folder with NAME.flash packages (default: $FLASH_HOME/models)");
        var port = Flags.Int("--port", "N", $"Port for HTTP; 0 takes a free one (default {HttpPort})", 0, 65535);
        var host = new Option<IPAddress?>("--host")
        {
            HelpName = "ADDRESS",
            Description = "Address for HTTP (default 127.0.0.1); 0.0.0.0 is every one of this machine",
            CustomParser = Address,
        };
        var key = Flags.Text("--api-key", "KEY", $"Ask for this key under /v1 (default: ${KeyVariable}, which no list of processes shows; else none)");
        var silo = Flags.Int("--silo-port", "N", $"Silo port on 127.0.0.1; 0 takes a free one (default {SiloPort})", 0, 65535);
        var gateway = Flags.Int("--gateway", "N", $"Port for .NET clients on 127.0.0.1; 0 takes a free one (default {GatewayPort})", 0, 65535);
        var database = Flags.Text("--sessions-db", "FILE", $"Keep sessions here: a file, which silos of one machine may share, or {RedisAddress.Rule}, which silos of many machines may (default: ${SessionStoreOptions.Variable}, which no list of processes shows; else $FLASH_HOME/sessions.db)");
        var ttl = new Option<TimeSpan?>("--session-ttl")
        {
            HelpName = "TIME",
            Description = "Forget sessions that nobody used for so long: 7d, 12h, 30m (default 7d)",
            CustomParser = Time,
        };
        var most = Flags.Int("--max-sessions", "N", $"Keep so many sessions; those used longest ago go first (default {new SessionStoreOptions().MaxSessions})", 1);
        var verbose = new Option<bool>("--verbose") { Description = "Log what happens, not only warnings" };
        var share = Flags.Choice("--share-prefixes", "Compute what requests begin with in common once: for everybody (on: then one user can tell from the time to the first token what another sent before), within a user and for all who name none (auto; where --host is not this machine alone, only for those who name a user), or only within a named user (off)", "auto", "on", "off");
        var disk = new Option<long>("--kv-disk")
        {
            HelpName = "4GiB|0",
            Description = "Most that keys and values may take in $FLASH_HOME/kv, from which sessions go on after a restart without computing (default 4GiB); 0: none are saved",
            CustomParser = Disk,
            DefaultValueFactory = static _ => DefaultDisk,
        };
        var verb = new Verb("serve", "Serve models over HTTP (OpenAI's interface) and to .NET clients", "The bundled models are imported first, unless --models names another folder.", "flash serve", "flash serve --port 9000 --models /data/models --window 10%", "flash serve --budget 4GiB --sessions 8 --context 1024") { port, host, key, models, silo, gateway, database, ttl, most, share, disk, verbose };
        var engine = new EngineFlags(verb, promises: true);
        var speculation = new SpeculationFlags(verb);
        verb.SetAction(async (parse, _) =>
        {
            string? folder = parse.GetValue(models);
            if (folder is null) ImportBundled(app);
            var http = new HttpOptions
            {
                Port = parse.GetValue(port) ?? HttpPort,
                Address = parse.GetValue(host) ?? IPAddress.Loopback,
                ApiKey = parse.GetValue(key) ?? (Environment.GetEnvironmentVariable(KeyVariable) is { Length: > 0 } secret ? secret : null),
            };
            var options = new FlashSiloOptions
            {
                ModelsDirectory = Path.GetFullPath(folder ?? app.Store.Folder),
                Http = http,
                SiloPort = parse.GetValue(silo) ?? SiloPort,
                GatewayPort = parse.GetValue(gateway) ?? GatewayPort,
                Engine = speculation.Over(app, parse, engine.Engine(parse, BudgetHost.Http), PackageStore.InFolder(Path.GetFullPath(folder ?? app.Store.Folder)).List().Where(static p => p.Manifest is not null).Select(static p => p.Path)) with { KvDisk = Saves(app, parse.GetValue(disk)) },
                Grains = new GrainOptions { Speculate = speculation.Speculate(parse) },
                Layer = engine.Layer(parse),
                SharePrefixes = parse.GetValue(share) switch { "on" => true, "off" => false, _ => null },
                Sessions = Sessions(parse.GetValue(database) ?? SessionStoreOptions.FromEnvironment() ?? Path.Combine(app.Store.Home, "sessions.db"), parse.GetValue(ttl), parse.GetValue(most)),
                Verbose = parse.GetValue(verbose),
            };
            SiloBudget.Enter(options, app.Screen.Remark);
            await using var running = await FlashSilo.StartAsync(options, app.Interrupts.Stop);
            if (!IPAddress.IsLoopback(http.Address) && http.ApiKey is null) app.Screen.Remark($"everybody who can reach {http.Address} can use this server: --api-key asks for a key");
            Tell(app, running, options);
            // Ours alone: the host's own signals would race with the exit code.
            await Task.Delay(Timeout.Infinite, app.Interrupts.Stop).ContinueWith(static _ => { }, TaskScheduler.Default);
            app.Screen.Remark("stopping; answers in the making come to their end, a second Ctrl-C ends all at once");
            return app.Interrupts.ExitCode ?? 0;
        });
        return verb;
    }

    /// <summary>Where it is, and a first request to paste.</summary>
    private static void Tell(App app, FlashSilo silo, FlashSiloOptions options)
    {
        // Every address of a machine is no address to call.
        var address = silo.HttpEndpoint!.Address;
        var end = new IPEndPoint(address.Equals(IPAddress.Any) ? IPAddress.Loopback : address.Equals(IPAddress.IPv6Any) ? IPAddress.IPv6Loopback : address, silo.HttpEndpoint.Port);
        string model = PackageStore.InFolder(options.ModelsDirectory).List().FirstOrDefault(static p => p.Manifest is not null)?.Name ?? "NAME";
        string header = options.Http!.ApiKey is null ? "" : $" -H \"Authorization: Bearer ${KeyVariable}\"";
        app.Screen.Out.WriteLine($"http://{end}/v1: OpenAI's interface, /metrics, /health/ready");
        app.Screen.Out.WriteLine($$"""curl http://{{end}}/v1/chat/completions{{header}} -d '{"model": "{{model}}", "messages": [{"role": "user", "content": "Tell me a story about a fox"}], "stream": true}'""");
        app.Screen.Out.WriteLine($"silo {silo.SiloEndpoint}, clients at {silo.GatewayEndpoint}; Ctrl-C stops it");
    }

    /// <summary>Where keys and values are saved; null: nowhere.</summary>
    public static KvDiskOptions? Saves(App app, long bytes) => bytes == 0 ? null : new KvDiskOptions { Folder = Path.Combine(app.Store.Home, "kv"), Bytes = bytes };

    private static long Disk(ArgumentResult result)
    {
        string text = result.Tokens.Count > 0 ? result.Tokens[0].Value : "";
        if (text == "0") return 0;
        if (BudgetSize.TryParse(text, out BudgetSize size) && size.Share == 0) return size.Bytes;
        result.AddError($"--kv-disk: '{text}' is not an amount of disk such as 4GiB, or 0");
        return 0;
    }

    private static SessionStoreOptions Sessions(string path, TimeSpan? ttl, int? most)
    {
        var options = new SessionStoreOptions { Path = RedisAddress.Is(path) ? path : Path.GetFullPath(path) };
        return options with { TimeToLive = ttl ?? options.TimeToLive, MaxSessions = most ?? options.MaxSessions };
    }

    private static TimeSpan? Time(ArgumentResult result)
    {
        string text = result.Tokens.Count > 0 ? result.Tokens[0].Value : "";
        if (SessionStoreOptions.TryParseTime(text, out TimeSpan time)) return time;
        result.AddError($"--session-ttl: '{text}' is not {SessionStoreOptions.TimeRule}");
        return null;
    }

    private static IPAddress? Address(ArgumentResult result)
    {
        string text = result.Tokens.Count > 0 ? result.Tokens[0].Value : "";
        if (text == "localhost") return IPAddress.Loopback;
        if (IPAddress.TryParse(text, out var address)) return address;
        result.AddError($"--host: '{text}' is not an address of this machine: 127.0.0.1, 0.0.0.0, ::1 or the like");
        return null;
    }

    /// <summary>So that a client can ask for them by name: what other verbs do when they are given one.</summary>
    private static void ImportBundled(App app)
    {
        Directory.CreateDirectory(app.Store.Folder);
        foreach (string name in BundledModels.Names())
        {
            try
            {
                app.Library.Resolve(name, null, app.Interrupts.Stop);
            }
            catch (ModelFormatException e)
            {
                app.Screen.Remark($"{name} is not served: {Failure.Line(e)}");
            }
        }
    }
}
