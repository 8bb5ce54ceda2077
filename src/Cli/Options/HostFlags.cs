using System.CommandLine;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Grains;

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

    /// <param name="app">Where remarks go.</param>
    /// <param name="parse">The command line.</param>
    /// <param name="package">The package's folder.</param>
    /// <param name="context">Tokens of the one session, for a budget.</param>
    /// <param name="window">The verb's own --window; null: the flag's.</param>
    public Task<IModelHost> StartAsync(App app, ParseResult parse, string package, int context, double? window = null)
    {
        string path = parse.GetValue(_path)!;
        return StartAsync(app, package, path, _engine.Engine(parse, path == "engine" ? BudgetHost.Engine : BudgetHost.Grains, 1, context, window != null), _engine.Layer(parse, window));
    }

    /// <summary>The engine without a host: for what no turn can ask.</summary>
    public LocalEngine Engine(ParseResult parse, FlashPackage package, double? window = null)
    {
        var options = _engine.Engine(parse, window: window != null);
        if (options.Budget != null) throw new UsageException("--against holds two models: --budget plans for one");
        return new LocalEngine(package, options, _engine.Layer(parse, window));
    }

    /// <param name="app">Where remarks go.</param>
    /// <param name="package">The package's folder.</param>
    /// <param name="path">grains or engine.</param>
    /// <param name="engine">As the flags say.</param>
    /// <param name="layer">As the flags say.</param>
    /// <param name="tells">Also what reads were found to cost.</param>
    /// <param name="grains">How sessions run, where the verb says.</param>
    public static async Task<IModelHost> StartAsync(App app, string package, string path, EngineOptions engine, LayerOptions layer, bool tells = false, GrainOptions? grains = null)
    {
        if (DeviceProbe.Gaps(package, engine) is { } cost)
        {
            engine = engine with { GapBytes = cost.GapBytes };
            if (tells) app.Screen.Remark(BudgetFlags.Text(cost));
        }
        var plan = BudgetFlags.Enter(app, package, engine, layer);
        IModelHost host = path == "engine" ? new EngineHost(package, engine, layer) : await GrainHost.StartAsync(package, engine, layer, app.Interrupts.Stop, grains);
        BudgetFlags.Loaded(app, plan);
        return host;
    }
}
