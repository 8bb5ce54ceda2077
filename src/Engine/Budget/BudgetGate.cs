using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Admission of layers to one engine's budget: it is planned for one package at a time, whole, so a second one is refused until the layers of the first have left. The model that drafts is no second one: every plan holds it.
/// Any thread; a refusal is a <see cref="FlashException"/> that says what would do.
/// </summary>
internal sealed class BudgetGate(EngineOptions options)
{
    private readonly Lock _gate = new();
    private FlashPackage? _package;
    private (FeedForwardMode, bool, KvType) _asked;
    private BudgetPlan? _plan;
    private int _layers;

    /// <summary>Of the package that has the budget, or had it last.</summary>
    public BudgetPlan? Plan
    {
        get { lock (_gate) return _plan; }
    }

    public LayerOptions Admit(FlashPackage package, LayerOptions layer)
    {
        if (options.Draft?.Is(package.Hash) == true) return layer with { Plan = BudgetPlan.OfDraft(package.Manifest, package.DeviceAlignment, options, layer) };
        lock (_gate)
        {
            if (_layers > 0 && _package!.Hash != package.Hash)
                throw new FlashException($"{package.Name} is refused: {_package.Name} has the whole budget of {options.Budget!.Size}; serve one model, or give each a silo and a budget of its own");
            var asked = (layer.Mode, layer.Prefetch, layer.Kv);
            if (_plan == null || _package!.Hash != package.Hash || asked != _asked)
            {
                BudgetPlan plan = BudgetPlan.Of(package, options, layer).Demand();
                (_package, _asked, _plan) = (package, asked, plan);
            }
            _layers++;
            return layer with { Plan = _plan, Prefetch = layer.Prefetch && _plan.LooksAhead };
        }
    }

    /// <summary>A layer that was admitted is gone.</summary>
    public void Leave(FlashPackage package)
    {
        if (options.Draft?.Is(package.Hash) == true) return;
        lock (_gate) _layers--;
    }
}
