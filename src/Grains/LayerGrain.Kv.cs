using FlashOrleans.Abstractions;

namespace FlashOrleans.Grains;

// Keys and values beside waves: each turn puts a command into the conductor's queue, or waits for its answer.
internal sealed partial class LayerGrain
{
    /// <summary>How long a question waits for a layer that is being loaded; whoever asks asks again.</summary>
    private static readonly TimeSpan s_loadPatience = TimeSpan.FromSeconds(2);

    public async Task CloseSession(Guid session, KvChain chain)
    {
        _pump.Forget(session);
        // What is on disk is known once the layer is there.
        await _hosted.Ready.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing | ConfigureAwaitOptions.ContinueOnCapturedContext);
        if (_hosted.Layer is { } layer) host.Conductor.CloseSession(layer, session, chain.Hashes);
    }

    public Task ReleaseSession(Guid session)
    {
        if (_hosted.Layer is { } layer) host.Conductor.ReleaseSession(layer, session);
        _pump.Forget(session);
        return Task.CompletedTask;
    }

    public Task Settle(Guid session)
    {
        if (_hosted.Layer is { } layer) host.Conductor.Settle(layer, session);
        return Task.CompletedTask;
    }

    public async Task<int> Restore(Guid session, KvChain chain)
    {
        try
        {
            await _hosted.Ready.WaitAsync(s_loadPatience, host.Time);
        }
        catch (TimeoutException)
        {
            return KvChain.NotYet;
        }
        return _hosted.Layer is { } layer ? await host.Conductor.RestoreAsync(layer, session, chain.Hashes) : 0;
    }
}
