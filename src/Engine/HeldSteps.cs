namespace FlashOrleans.Engine;

/// <summary>
/// Which (session, epoch, step) this host holds, in an inbox or a running step: what a session's watchdog asks before it believes a step lost. Any thread; a
/// dictionary under a lock, since it must not allocate per step.
/// </summary>
internal sealed class HeldSteps
{
    private readonly Dictionary<(Guid, int, long), int> _held = new(64);
    // Not a Lock: that one makes its event on the thread that first finds it taken, in the middle of a step.
    private readonly object _gate = new();

    public void Add(Wave wave)
    {
        lock (_gate)
        {
            foreach (ref readonly var slot in wave.Slots) Count(slot, 1);
        }
    }

    public void Remove(Wave wave)
    {
        lock (_gate)
        {
            foreach (ref readonly var slot in wave.Slots) Count(slot, -1);
        }
    }

    public void Add(in Slot slot)
    {
        lock (_gate) Count(slot, 1);
    }

    public void Remove(in Slot slot)
    {
        lock (_gate) Count(slot, -1);
    }

    public bool Holds(Guid session, int epoch, long step)
    {
        lock (_gate) return _held.ContainsKey((session, epoch, step));
    }

    private void Count(in Slot slot, int by)
    {
        var key = (slot.Session, slot.Epoch, slot.Step);
        int now = _held.GetValueOrDefault(key) + by;
        if (now == 0) _held.Remove(key);
        else _held[key] = now;
    }
}
