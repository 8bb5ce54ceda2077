using System.Threading.Tasks.Sources;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

internal enum OutboxKind : byte { Wave, Ahead, Result, Fault, Hint, OwnHint }

/// <summary>One thing that leaves a layer.</summary>
internal readonly struct OutboxItem
{
    public OutboxKind Kind { get; init; }
    public Wave Wave { get; init; }
    /// <summary>A message that goes ahead of its wave, among the outgoing calls already.</summary>
    public OutgoingCalls.Entry? Ahead { get; init; }
    public StepResult Result { get; init; }
    public SlotFault Fault { get; init; }
    public PrefetchHint? Hint { get; init; }
}

/// <summary>
/// What leaves a layer, between the conductor thread that posts and the pump of the layer's grain that takes. Not bounded here: a session has at most
/// one step in flight, so it is bounded by the sessions. Taking and posting cost a lock; waiting costs no allocation. One waiter.
/// What is here counts as held, so that a slow pump is never taken for a lost step.
/// </summary>
internal sealed class Outbox : IValueTaskSource<bool>
{
    private readonly Lock _gate = new();
    private readonly Queue<OutboxItem> _items = new();
    private ManualResetValueTaskSourceCore<bool> _signal = new() { RunContinuationsAsynchronously = true };
    private bool _waiting;
    private bool _closed;
    private int _waves;

    /// <summary>Waves among the items.</summary>
    public int Waves => Volatile.Read(ref _waves);

    /// <summary>Any thread. False once closed: the caller keeps what it wanted to post.</summary>
    public bool Post(in OutboxItem item)
    {
        lock (_gate)
        {
            if (_closed) return false;
            _items.Enqueue(item);
            if (item.Kind == OutboxKind.Wave) _waves++;
            if (!_waiting) return true;
            _waiting = false;
        }
        _signal.SetResult(true);
        return true;
    }

    /// <summary>The next item, which stays until <see cref="RemoveFirst"/>.</summary>
    public bool TryPeek(out OutboxItem item)
    {
        lock (_gate) return _items.TryPeek(out item);
    }

    /// <summary>Whoever takes an item out has put the step into other hands before, and the array of its wave is still untouched.</summary>
    public void RemoveFirst()
    {
        lock (_gate)
        {
            if (_items.Dequeue().Kind == OutboxKind.Wave) _waves--;
        }
    }

    /// <summary>Completes with true when something can be taken, with false when the box is closed and empty.</summary>
    public ValueTask<bool> WaitAsync()
    {
        lock (_gate)
        {
            if (_items.Count > 0) return new(true);
            if (_closed) return new(false);
            _signal.Reset();
            _waiting = true;
            return new(this, _signal.Version);
        }
    }

    public void Close()
    {
        lock (_gate)
        {
            if (_closed) return;
            _closed = true;
            if (!_waiting) return;
            _waiting = false;
        }
        // Only an empty box has a waiter.
        _signal.SetResult(false);
    }

    public bool Holds(Guid session, int epoch, long step)
    {
        lock (_gate)
        {
            foreach (OutboxItem item in _items)
            {
                if (item.Kind == OutboxKind.Wave && Steps.Contains(item.Wave.Slots, session, epoch, step)) return true;
                if (item.Kind == OutboxKind.Result && item.Result.Session == session && item.Result.Epoch == epoch && item.Result.Step == step) return true;
                if (item.Kind == OutboxKind.Fault && item.Fault.Session == session && item.Fault.Epoch == epoch && item.Fault.Step == step) return true;
            }
            return false;
        }
    }

    bool IValueTaskSource<bool>.GetResult(short token) => _signal.GetResult(token);
    ValueTaskSourceStatus IValueTaskSource<bool>.GetStatus(short token) => _signal.GetStatus(token);
    void IValueTaskSource<bool>.OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) =>
        _signal.OnCompleted(continuation, state, token, flags);
}
