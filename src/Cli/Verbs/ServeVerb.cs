using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Models;
using FlashOrleans.Silo;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash serve`: a silo with the usual ports, until Ctrl-C.</summary>
internal static class ServeVerb
{
    private const int SiloPort = 11111, GatewayPort = 30000;

    public static Command Create(App app)
    {
        var models = Flags.Text("--models", "DIR", "Folder with NAME.flash packages (default: $FLASH_HOME/models)");
        var port = Flags.Int("--port", "N", $"Silo port on 127.0.0.1; 0 takes a free one (default {SiloPort})", 0, 65535);
        var gateway = Flags.Int("--gateway", "N", $"Port for clients on 127.0.0.1; 0 takes a free one (default {GatewayPort})", 0, 65535);
        var verbose = new Option<bool>("--verbose") { Description = "Log what happens, not only warnings" };
        var verb = new Verb("serve", "Run a silo that clients of other processes talk to", "The bundled models are imported first, unless --models names another folder.", "flash serve", "flash serve --models /data/models --window 10%", "flash serve --budget 4GiB --sessions 8 --context 1024") { models, port, gateway, verbose };
        var engine = new EngineFlags(verb, promises: true);
        verb.SetAction(async (parse, _) =>
        {
            string? folder = parse.GetValue(models);
            if (folder is null) ImportBundled(app);
            var options = new FlashSiloOptions
            {
                ModelsDirectory = Path.GetFullPath(folder ?? app.Store.Folder),
                SiloPort = parse.GetValue(port) ?? SiloPort,
                GatewayPort = parse.GetValue(gateway) ?? GatewayPort,
                Engine = engine.Engine(parse),
                Layer = engine.Layer(parse),
                Verbose = parse.GetValue(verbose),
            };
            SiloBudget.Enter(options, app.Screen.Remark);
            await using var silo = await FlashSilo.StartAsync(options, app.Interrupts.Stop);
            app.Screen.Out.WriteLine($"silo {silo.SiloEndpoint}, clients at {silo.GatewayEndpoint}; Ctrl-C stops it");
            await Task.Delay(Timeout.Infinite, app.Interrupts.Stop).ContinueWith(static _ => { }, TaskScheduler.Default);
            return app.Interrupts.ExitCode ?? 0;
        });
        return verb;
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
