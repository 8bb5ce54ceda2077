using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using Microsoft.Extensions.Logging;

namespace FlashOrleans.Grains;

/// <summary>
/// Takes what leaves a layer out of its outbox and sends it: waves to the next layer, outcomes and failures to their sessions, hints to the next layer's prefetch grain, those of the first layer for itself to its own.
/// Runs on the layer grain's scheduler from activation until the outbox is closed and empty, and awaits no acknowledgement in line. A step is put among the
/// <see cref="OutgoingCalls"/> before it leaves the outbox, so that it is never in nobody's hands. A send that fails, whenever, becomes a fault to
/// the session of every slot; nothing ends the pump.
/// </summary>
internal sealed class LayerPump
{
    private const int MaxKnownSessions = 1024;
    private readonly HostedLayer _hosted;
    private readonly ILayerGrain _next;
    private readonly IPrefetchGrain _nextPrefetch;
    private readonly IPrefetchGrain? _ownPrefetch;
    private readonly Func<Guid, ISessionGrain> _find;
    private readonly ILogger _logger;
    private readonly Action<ReadOnlyMemory<Slot>, Exception> _sendFailed;
    private readonly Dictionary<Guid, ISessionGrain> _sessions = [];

    public LayerPump(HostedLayer hosted, ILayerGrain next, IPrefetchGrain nextPrefetch, Func<Guid, ISessionGrain> find, ILogger logger, IPrefetchGrain? ownPrefetch = null)
    {
        _hosted = hosted;
        _next = next;
        _nextPrefetch = nextPrefetch;
        _ownPrefetch = ownPrefetch;
        _find = find;
        _logger = logger;
        _sendFailed = SendFailed;
    }

    public async Task RunAsync()
    {
        Outbox outbox = _hosted.Outbox;
        while (await outbox.WaitAsync())
        {
            while (outbox.TryPeek(out OutboxItem item))
            {
                bool taken = false;
                try
                {
                    Send(in item, ref taken);
                }
                catch (Exception e)
                {
                    if (!taken) outbox.RemoveFirst();
                    Failed(in item, taken, e);
                }
            }
        }
    }

    /// <summary>The session is closed; its reference is found again when it comes back.</summary>
    public void Forget(Guid session) => _sessions.Remove(session);

    private void Send(in OutboxItem item, ref bool taken)
    {
        switch (item.Kind)
        {
            case OutboxKind.Wave:
                SendWave(item.Wave, ref taken);
                break;
            case OutboxKind.Ahead:
                Take(ref taken);
                item.Ahead!.Send(_next, _sendFailed);
                break;
            case OutboxKind.Result:
                SendResult(item.Result, ref taken);
                break;
            case OutboxKind.Fault:
                SendFault(item.Fault, ref taken);
                break;
            case OutboxKind.Hint or OutboxKind.OwnHint:
                Take(ref taken);
                Task sent = (item.Kind == OutboxKind.Hint ? _nextPrefetch : _ownPrefetch!).Hint(item.Hint!);
                if (!sent.IsCompletedSuccessfully) _ = sent.ContinueWith(static t => _ = t.Exception, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
                break;
        }
    }

    private void SendWave(Wave wave, ref bool taken)
    {
        if (_hosted.Next is not null || WaveSplitter.Fits(wave))
        {
            OutgoingCalls.Entry entry = _hosted.Outgoing.Add(wave);
            Take(ref taken);
            entry.Send(_next, _sendFailed);
            return;
        }
        Wave[] parts = WaveSplitter.Split(wave);
        OutgoingCalls.Entry[] entries = Array.ConvertAll(parts, part => _hosted.Outgoing.Add(part));
        Take(ref taken);
        wave.Return();
        foreach (OutgoingCalls.Entry entry in entries) entry.Send(_next, _sendFailed);
    }

    private void SendResult(in StepResult result, ref bool taken)
    {
        OutgoingCalls.Entry entry = _hosted.Outgoing.Add(result.Session, result.Epoch, result.Step);
        Take(ref taken);
        try
        {
            entry.Watch(Session(result.Session).Deliver(Steps.ToWire(result)));
        }
        catch
        {
            entry.Drop();
            throw;
        }
    }

    private void SendFault(in SlotFault fault, ref bool taken)
    {
        OutgoingCalls.Entry entry = _hosted.Outgoing.Add(fault.Session, fault.Epoch, fault.Step);
        Take(ref taken);
        try
        {
            entry.Watch(Session(fault.Session).Fault(Steps.ToWire(fault)));
        }
        catch
        {
            entry.Drop();
            throw;
        }
    }

    private void Take(ref bool taken)
    {
        if (taken) return;
        _hosted.Outbox.RemoveFirst();
        taken = true;
    }

    /// <summary>An item could not be sent at all: whoever waits for it is told.</summary>
    private void Failed(in OutboxItem item, bool taken, Exception error)
    {
        _logger.LogError(error, "layer {Layer}: a {Kind} could not be sent on", _hosted.Key.Layer, item.Kind);
        switch (item.Kind)
        {
            case OutboxKind.Wave when !taken:
                SendFailed(item.Wave.Slots.ToArray(), error);
                item.Wave.Return();
                break;
            case OutboxKind.Result:
                Tell(new SlotFault(item.Result.Session, item.Result.Epoch, item.Result.Step, FaultKind.Unavailable, $"layer {_hosted.Key.Layer}: {error.Message}"));
                break;
            case OutboxKind.Hint or OutboxKind.OwnHint:
                item.Hint!.TryReturn();
                break;
        }
    }

    private void SendFailed(ReadOnlyMemory<Slot> slots, Exception error)
    {
        foreach (ref readonly Slot slot in slots.Span)
            Tell(new SlotFault(slot.Session, slot.Epoch, slot.Step, FaultKind.Unavailable, $"layer {_hosted.Key.Layer + 1}: {error.Message}"));
    }

    private void Tell(in SlotFault fault)
    {
        bool taken = true;
        try
        {
            SendFault(fault, ref taken);
        }
        catch (Exception e)
        {
            // The session's watchdog notices.
            _logger.LogError(e, "layer {Layer}: a session could not be told of a failure", _hosted.Key.Layer);
        }
    }

    private ISessionGrain Session(Guid id)
    {
        if (_sessions.TryGetValue(id, out ISessionGrain? session)) return session;
        if (_sessions.Count == MaxKnownSessions) _sessions.Clear();
        return _sessions[id] = _find(id);
    }
}
