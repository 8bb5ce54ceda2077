using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Silo;

/// <summary>What a program that serves a folder does with its budget before it starts: every model is planned, and the collector's limit set for the one that asks for the largest heap.</summary>
public static class SiloBudget
{
    /// <summary>Tells <paramref name="refused"/> of every model that cannot be served within the budget; throws <see cref="FlashSiloException"/> when none can. Without a budget nothing happens.</summary>
    public static void Enter(FlashSiloOptions options, Action<string> refused)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(refused);
        EngineOptions engine = options.PlannedEngine;
        if (engine.Budget is null) return;
        long heap = 0;
        string? why = null;
        foreach (PackageInfo info in PackageStore.InFolder(options.ModelsDirectory).List())
        {
            if (info.Manifest is not { } manifest) continue;
            try
            {
                heap = Math.Max(heap, BudgetPlan.Of(manifest, PackageLayout.Page, engine, options.Layer).Demand().HeapLimit);
            }
            catch (FlashException e)
            {
                // Too large, or a mode that it has nothing for; others may be served.
                refused($"{manifest.Name} is not served: {why = e.Message}");
            }
        }
        if (heap == 0) throw new FlashSiloException(why ?? $"there is no model in {options.ModelsDirectory} to plan a budget for: import one first");
        HeapFence.Set(heap);
    }
}
