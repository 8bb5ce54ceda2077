using System.CommandLine;
using FlashOrleans.Engine;

namespace FlashOrleans.Cli.Options;

/// <summary>How a model is computed: shared by every verb that computes.</summary>
internal sealed class EngineFlags
{
    private readonly Option<double[]> _window;
    private readonly Option<string[]> _mode;
    private readonly Option<int?> _threads = Flags.Int("--threads", "N", "Compute threads (default: all processors)", 1, 1024);
    private readonly Option<string> _prefetch = Flags.Choice("--prefetch", "Read the next layer's neurons ahead", "on", "off");
    private readonly Option<string> _kernels = Flags.Choice("--kernels", "Instruction set; auto is FLASH_KERNELS or the best here", "auto", "scalar", "avx2", "avx512");
    private readonly Option<string> _kv = Flags.Choice("--kv", "Keys and values; auto is f32 for f32 packages, else f16. q8: 8 bits and a scale for each head's row, half of f16, nearly the same result", "auto", "f32", "f16", "q8");

    private readonly bool _hasWindow;
    private readonly BudgetFlags? _budget;

    /// <param name="command">Gets the options.</param>
    /// <param name="window">False: no --window; the verb has a --window of its own (perplexity's counts tokens, too).</param>
    /// <param name="promises">--sessions and --context say what a budget is to hold; else the verb knows.</param>
    /// <param name="budget">False: the verb has a --budget of its own.</param>
    /// <param name="several">--budget, --window and --mode may be lists (<see cref="Each"/>).</param>
    public EngineFlags(Command command, bool window = true, bool promises = false, bool budget = true, bool several = false)
    {
        _hasWindow = window;
        _window = Flags.Shares("--window", "Share of each layer's neurons that may be in memory", new LayerOptions().Window, several);
        _mode = Flags.Choices("--mode", "Neurons computed: all (dense), the non-zero ones (exact: the same result), or those that predictors choose (predicted: nearly the same result, and what is missed is measured and shown); auto is exact for ReLU models", several, "auto", "dense", "exact", "predicted");
        if (budget) _budget = new BudgetFlags(command, promises, several: several);
        if (window) command.Add(_window);
        foreach (Option option in new Option[] { _mode, _threads, _prefetch, _kernels, _kv }) command.Add(option);
    }

    /// <param name="parse">The command line.</param>
    /// <param name="host">Where it will run: decides what a budget counts for the process.</param>
    /// <param name="sessions">Sessions at once, where the verb knows.</param>
    /// <param name="context">Tokens of each, where the verb knows.</param>
    /// <param name="window">The verb's own --window was given.</param>
    public EngineOptions Engine(ParseResult parse, BudgetHost host = BudgetHost.Grains, int sessions = 1, int? context = null, bool window = false)
    {
        var options = new EngineOptions { Kernels = parse.GetValue(_kernels)!, Budget = _budget?.Of(parse, host, sessions, context) };
        if (options.Budget != null && (window || (_hasWindow && parse.GetResult(_window) is { Implicit: false })))
            throw new UsageException("--budget sizes the windows: give it or --window, not both");
        return parse.GetValue(_threads) is { } threads ? options with { Threads = threads } : options;
    }

    public LayerOptions Layer(ParseResult parse, double? window = null) => new()
    {
        Window = window ?? (_hasWindow ? parse.GetValue(_window)![0] : new LayerOptions().Window),
        Mode = Mode(parse.GetValue(_mode)![0]),
        Prefetch = parse.GetValue(_prefetch) == "on",
        Kv = Enum.Parse<KvType>(parse.GetValue(_kv)!, ignoreCase: true),
    };

    /// <summary>Every budget or window with every mode, in the order they were given.</summary>
    public IReadOnlyList<(EngineOptions Engine, LayerOptions Layer)> Each(ParseResult parse, BudgetHost host, int sessions, int context)
    {
        EngineOptions engine = Engine(parse, host, sessions, context);
        LayerOptions layer = Layer(parse);
        FeedForwardMode[] modes = [.. parse.GetValue(_mode)!.Select(Mode)];
        if (engine.Budget == null) return [.. parse.GetValue(_window)!.SelectMany(w => modes.Select(m => (engine, layer with { Window = w, Mode = m })))];
        return [.. _budget!.Each(parse, host, sessions, context).SelectMany(b => modes.Select(m => (engine with { Budget = b }, layer with { Mode = m })))];
    }

    private static FeedForwardMode Mode(string word) => Enum.Parse<FeedForwardMode>(word, ignoreCase: true);
}
