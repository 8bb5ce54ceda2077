namespace FlashOrleans.Engine;

/// <summary>
/// Which layer runs next, and whether its decode or its prefill work: a pure choice over what is ready, called by the conductor before every step.
/// Decode before prefill; among equals the shallowest layer, so that a half-full wave catches up with the one ahead and they merge instead of chasing each
/// other. Nobody starves: work that was ready and passed over <see cref="Patience"/> times in a row goes first, the longest waiting of it.
/// </summary>
internal sealed class Scheduler
{
    /// <summary>Choices that ready work may lose in a row: a few passes over a deep model, long enough to merge, short enough to bound the wait.</summary>
    public const int Patience = 256;

    /// <summary>Times passed over since it last ran, per layer: decode, prefill.</summary>
    private readonly Dictionary<Layer, (int Decode, int Prefill)> _waited = [];

    /// <summary>What a layer could do now: decode, prefill, both or neither. A parked step that can go on is the only thing its layer can do.</summary>
    /// <param name="layer">Which.</param>
    /// <param name="canStart">False: as many steps run as there may be; only those go on.</param>
    public static (bool Decode, bool Prefill) Ready(Layer layer, bool canStart = true)
    {
        if (layer.Running is { } step) return (step.Runnable && step.IsDecode, step.Runnable && !step.IsDecode);
        bool able = (layer.IsReady && canStart) || layer.LoadError != null;
        return (able && layer.Decode.Count > 0, able && layer.Prefill.Count > 0);
    }

    /// <summary>The layer to run, or null when none is ready.</summary>
    public Layer? Choose(List<Layer> layers, out bool prefill, bool canStart = true)
    {
        Layer? best = null, starved = null;
        bool bestPrefill = false, starvedPrefill = false;
        int longest = Patience - 1;
        foreach (var layer in layers)
        {
            var ready = Ready(layer, canStart);
            var waited = _waited.GetValueOrDefault(layer);
            if (ready.Decode && (best == null || bestPrefill || layer.Index < best.Index)) (best, bestPrefill) = (layer, false);
            if (ready.Prefill && (best == null || (bestPrefill && layer.Index < best.Index))) (best, bestPrefill) = (layer, true);
            if (ready.Decode && waited.Decode > longest) (starved, starvedPrefill, longest) = (layer, false, waited.Decode);
            if (ready.Prefill && waited.Prefill > longest) (starved, starvedPrefill, longest) = (layer, true, waited.Prefill);
        }
        var chosen = starved ?? best;
        prefill = starved != null ? starvedPrefill : bestPrefill;
        foreach (var layer in layers)
        {
            var ready = Ready(layer, canStart);
            if (!ready.Decode && !ready.Prefill) continue;
            bool mine = ReferenceEquals(layer, chosen);
            var waited = _waited.GetValueOrDefault(layer);
            _waited[layer] = (!ready.Decode || (mine && !prefill) ? 0 : waited.Decode + 1, !ready.Prefill || (mine && prefill) ? 0 : waited.Prefill + 1);
        }
        return chosen;
    }

    public void Forget(Layer layer) => _waited.Remove(layer);
}
