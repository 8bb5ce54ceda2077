using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using Orleans.Concurrency;
using Orleans.Placement;

namespace FlashOrleans.Grains;

/// <summary>
/// The mailbox of one layer. Activation asks the host to attach the layer and returns at once; deactivation drains it and frees its memory. A wave comes in
/// by <see cref="Forward"/> (claim and enqueue) and leaves by the pump below, which runs on this grain's scheduler and sends without
/// awaiting acknowledgements in line. A send that fails becomes a fault to the session of every slot. Nothing here computes or waits for it.
/// </summary>
[KeepAlive, Immovable, LayerPlacement]
internal sealed class LayerGrain(LayerHost host, IGrainFactory grains) : Grain, ILayerGrain
{
    private const int MaxKnownSessions = 1024;
    private readonly Dictionary<Guid, ISessionGrain> _sessions = [];
    private Action<ReadOnlyMemory<Slot>, Exception> _sendFailed = null!;
    private HostedLayer _hosted = null!;
    private ILayerGrain _next = null!;
    private IPrefetchGrain _nextPrefetch = null!;
    private Task _pump = Task.CompletedTask;

    public override Task OnActivateAsync(CancellationToken cancellationToken)
    {
        LayerKey key = LayerKey.Parse(this.GetPrimaryKeyString());
        _sendFailed = SendFailed;
        _hosted = host.Attach(key);
        string next = (key with { Layer = key.Layer + 1 }).ToString();
        _next = grains.GetGrain<ILayerGrain>(next);
        _nextPrefetch = grains.GetGrain<IPrefetchGrain>(next);
        _pump = PumpAsync();
        return Task.CompletedTask;
    }

    public override async Task OnDeactivateAsync(DeactivationReason reason, CancellationToken cancellationToken)
    {
        if (_hosted is null) return;
        await _hosted.CloseAsync();
        await _pump;
    }

    public ValueTask Forward(WaveMessage wave)
    {
        if (_hosted.Error is not null) DeactivateOnIdle();
        _hosted.Accept(wave);
        return default;
    }

    public Task<bool> Holds(Guid session, int epoch, long step) => Task.FromResult(host.Holds(session, epoch, step));

    public Task Cancel(Guid session, int epoch, long step)
    {
        host.Conductor.Cancel(session, epoch, step);
        return Task.CompletedTask;
    }

    public Task CloseSession(Guid session)
    {
        host.Conductor.CloseSession(session);
        _sessions.Remove(session);
        return Task.CompletedTask;
    }

    public async Task Ready()
    {
        try
        {
            await _hosted.Ready;
        }
        catch (LayerUnavailableException)
        {
            // Whoever asks next gets a fresh attempt: the package may have been repaired.
            DeactivateOnIdle();
            throw;
        }
    }

    public Task<LayerReport> Report() => Task.FromResult(new LayerReport
    {
        Layer = _hosted.Key.Layer,
        Silo = host.Silo,
        Ready = _hosted.Ready.IsCompletedSuccessfully,
        Error = _hosted.Error,
        NativeBytes = _hosted.Layer?.NativeBytes ?? 0,
        WavesIn = _hosted.WavesIn,
        WavesOut = _hosted.WavesOut,
        Hints = _hosted.Hints,
        Counters = _hosted.Layer is { } layer ? Steps.ToWire(layer.Stats) : new LayerCounters(),
        Host = host.Report(),
    });

    public Task Deactivate()
    {
        DeactivateOnIdle();
        return Task.CompletedTask;
    }

    private async Task PumpAsync()
    {
        Outbox outbox = _hosted.Outbox;
        while (await outbox.WaitAsync())
        {
            // An item is taken out only after it was sent: at no moment is a step in nobody's hands.
            while (outbox.TryPeek(out OutboxItem item))
            {
                Send(in item);
                outbox.RemoveFirst();
            }
        }
    }

    private void Send(in OutboxItem item)
    {
        switch (item.Kind)
        {
            case OutboxKind.Wave:
                if (_hosted.Next is not null) _hosted.Outgoing.Send(_next, item.Wave, _sendFailed);
                else foreach (Wave part in WaveSplitter.Split(item.Wave)) _hosted.Outgoing.Send(_next, part, _sendFailed);
                break;
            case OutboxKind.Result:
                Ignore(Session(item.Result.Session).Deliver(Steps.ToWire(item.Result)));
                break;
            case OutboxKind.Fault:
                Ignore(Session(item.Fault.Session).Fault(Steps.ToWire(item.Fault)));
                break;
            case OutboxKind.Hint:
                Ignore(_nextPrefetch.Hint(item.Hint!));
                break;
        }
    }

    private void SendFailed(ReadOnlyMemory<Slot> slots, Exception error)
    {
        foreach (ref readonly Slot slot in slots.Span)
        {
            var fault = new SlotFault(slot.Session, slot.Epoch, slot.Step, FaultKind.Unavailable, $"layer {_hosted.Key.Layer + 1}: {error.Message}");
            Ignore(Session(slot.Session).Fault(Steps.ToWire(fault)));
        }
    }

    private ISessionGrain Session(Guid id)
    {
        if (_sessions.TryGetValue(id, out ISessionGrain? session)) return session;
        if (_sessions.Count == MaxKnownSessions) _sessions.Clear();
        return _sessions[id] = grains.GetGrain<ISessionGrain>(id);
    }

    // One-way messages: what they cannot deliver the session's watchdog notices.
    private static void Ignore(Task sent)
    {
        if (!sent.IsCompletedSuccessfully) _ = sent.ContinueWith(static t => _ = t.Exception, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
    }
}
