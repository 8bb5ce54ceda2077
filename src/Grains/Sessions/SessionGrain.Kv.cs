using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

// Keys and values that need not be computed: before a turn's first step, and where a layer lost some, every layer is asked what it has of the session's tokens, its own or others'
// in memory or on disk. The step begins where the poorest of them ends; those that have more truncate by the one recovery rule. Whatever goes wrong here costs computing, nothing else.
internal sealed partial class SessionGrain
{
    /// <summary>Fewer tokens are one step anyway.</summary>
    private const int WorthAsking = 64;
    private const int MaxAsked = 3;
    private bool _recovering, _retires;
    private int _recovery;

    public async Task Retire()
    {
        _retires = true;
        try
        {
            await Close();
        }
        finally
        {
            _retires = false;
        }
    }

    /// <summary>A turn says whose it is; one that does not leaves the session where it was, at first by itself. Layers are told apart by the start of the chain, and know no users.</summary>
    private void Enter(TurnRequest request)
    {
        ulong stored = _state.Start is TokenChain.Start ? TokenChain.StartOf($"session:{_id}") : _state.Start;
        _timeline.Move(_state.Start = _options.SharePrefixes ? TokenChain.Start : request.Scope is { Length: > 0 } scope ? TokenChain.StartOf(scope) : stored);
    }

    /// <summary>Goes on, after the layers were asked where that is worth a round.</summary>
    private void Recover(bool first = false)
    {
        _recovery++;
        _recovering = false;
        if (_turn is not { Over: false } turn) return;
        // What is scored has to run.
        if (_timeline.Length - _timeline.Computed <= WorthAsking || turn.Request.Score) Advance();
        else Ignore(RecoverAsync(turn, _recovery, first));
    }

    private async Task RecoverAsync(Turn turn, int recovery, bool first)
    {
        _recovering = true;
        // The last token runs in any case: something has to come out.
        var chain = new KvChain(_timeline.Chain[.._timeline.Length].ToArray());
        int?[] held = await Task.WhenAll(_layers.Select(layer => AskAsync(layer, chain)));
        if (recovery != _recovery) return;
        _recovering = false;
        if (_timeline.InFlight || turn.Over || !ReferenceEquals(turn, _turn)) return;
        int least = held.Min() ?? 0;
        // Who did not say may still have what it had.
        _timeline.Resume(held.Contains(null) ? Math.Min(least, _timeline.Computed) : least);
        turn.Cached(first ? _timeline.Computed : Math.Min(turn.Record.CachedTokens, _timeline.Computed));
        Advance();
    }

    /// <summary>Positions that a layer holds of the chain; null: it did not say.</summary>
    private async Task<int?> AskAsync(ILayerGrain layer, KvChain chain)
    {
        for (int lost = 0; lost < MaxAsked;)
        {
            try
            {
                int held = await layer.Restore(_id, chain);
                if (held != KvChain.NotYet) return held;
            }
            catch (TimeoutException)
            {
                lost++;
            }
            catch (Exception)
            {
                // It cannot be loaded, or its silo is gone: the next step hears that too, and what to do.
                return null;
            }
        }
        return null;
    }

    private void SettleInLayers()
    {
        if (_timeline.Computed < WorthAsking) return;
        foreach (ILayerGrain layer in _layers) Ignore(layer.Settle(_id));
    }
}
