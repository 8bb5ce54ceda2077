namespace FlashOrleans.Engine;

/// <summary>What the conductor does with keys and values beside steps. Any thread may ask; the conductor thread does it, between steps or while one waits for flash.</summary>
public sealed partial class Conductor
{
    private readonly KvDisk? _kvDisk;

    /// <summary>Bytes of keys and values that were saved, and brought back, so far.</summary>
    public (long Written, long Read) KvDiskBytes => (_kvDisk?.BytesWritten ?? 0, _kvDisk?.BytesRead ?? 0);

    /// <summary>Finds what a layer has of a chain (entry i is the hash of i tokens: <see cref="SessionTimeline.Chain"/>), computed by this session or by another of the same start, in memory or
    /// on disk, and gives it to the session: positions that the layer holds for it now. A layer that is not there holds none.</summary>
    public Task<int> RestoreAsync(Layer layer, Guid session, ReadOnlyMemory<ulong> chain)
    {
        ArgumentOutOfRangeException.ThrowIfZero(chain.Length, nameof(chain));
        var done = new TaskCompletionSource<int>(TaskCreationOptions.RunContinuationsAsynchronously);
        Command(() =>
        {
            try
            {
                if (layer is { IsReady: true, Closing: false, Kv: { } kv }) kv.Restore(session, chain, held => done.TrySetResult(held));
                else done.TrySetResult(0);
            }
            catch (Exception e)
            {
                done.TrySetException(e);
                throw;
            }
        });
        if (_stop) done.TrySetResult(0);
        return done.Task;
    }

    /// <summary>How many of a chain's first tokens a layer has in memory, held by the session or by nobody, and on disk; changes nothing. Null: the layer is not there.</summary>
    public Task<(int Memory, int Disk)?> LookAsync(Layer layer, Guid session, ReadOnlyMemory<ulong> chain)
    {
        ArgumentOutOfRangeException.ThrowIfZero(chain.Length, nameof(chain));
        var done = new TaskCompletionSource<(int, int)?>(TaskCreationOptions.RunContinuationsAsynchronously);
        Command(() => done.TrySetResult(layer is { IsReady: true, Closing: false, Kv: { } kv } ? kv.Look(session, chain.Span) : null));
        if (_stop) done.TrySetResult(null);
        return done.Task;
    }

    /// <summary>A layer that leaves has all it computed saved first.</summary>
    private bool StillSaves(Layer layer)
    {
        if (layer.Kv is not { } kv) return false;
        kv.Settled = () => TryClose(layer);
        kv.Flush();
        return kv.IsBusy;
    }

    /// <summary>The session's turn is over: what a layer computed for it may be taken up by others, its last block included.</summary>
    public void Settle(Layer layer, Guid session) => Command(() => layer.Kv?.Settle(session));

    /// <summary>The session is over and forgotten: its KV is freed in every layer of this host, but for what others hold too.</summary>
    public void CloseSession(Guid session) => Command(() =>
    {
        _cancelled.Remove(session);
        foreach (var layer in _layers) layer.Kv?.Close(session);
    });

    /// <summary>The session is over and forgotten in this layer, and so is what is left of its chain.</summary>
    public void CloseSession(Layer layer, Guid session, ReadOnlyMemory<ulong> chain) => Command(() =>
    {
        layer.Kv?.Close(session);
        layer.Kv?.Forget(chain.Span);
    });

    /// <summary>The session is over; what a layer computed for it stays, while there is room, for whoever begins the same way.</summary>
    public void ReleaseSession(Layer layer, Guid session) => Command(() => layer.Kv?.Close(session, keep: true));
}
