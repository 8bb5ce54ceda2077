using System.CommandLine;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Options;

/// <summary>--path: grains, or the engine alone as oracle.</summary>
internal sealed class HostFlags
{
    private readonly EngineFlags _engine;
    private readonly Option<string> _path = Flags.Choice("--path", "Through layer grains, or on the engine without Orleans", "grains", "engine");

    public HostFlags(Command command, bool window = true)
    {
        command.Add(_path);
        _engine = new EngineFlags(command, window);
    }

    public Task<IModelHost> StartAsync(App app, ParseResult parse, string package, double? window = null) =>
        StartAsync(app, package, parse.GetValue(_path)!, _engine.Engine(parse), _engine.Layer(parse, window));

    /// <summary>The engine without a host: for what no turn can ask.</summary>
    public LocalEngine Engine(ParseResult parse, FlashPackage package, double? window = null) => new(package, _engine.Engine(parse), _engine.Layer(parse, window));

    public static async Task<IModelHost> StartAsync(App app, string package, string path, EngineOptions engine, LayerOptions layer) => path == "engine"
        ? new EngineHost(package, engine, layer)
        : await GrainHost.StartAsync(package, engine, layer, app.Interrupts.Stop);
}
