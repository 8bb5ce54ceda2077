namespace FlashOrleans.Models.Tests.Hub;

/// <summary>
/// A clock on which every wait is over at once, and noted: what the test waits for is the wait that was asked for, not its end. Waits of exactly
/// <see cref="Silence"/> are the watch over a connection: those end when the test says so.
/// </summary>
internal sealed class HurriedClock : TimeProvider
{
    public static readonly TimeSpan Silence = TimeSpan.FromSeconds(61);
    private readonly Lock _gate = new();
    private readonly List<TimeSpan> _waits = [];
    private readonly HashSet<WaitingTimer> _watching = [];
    private DateTimeOffset _now = new(2026, 1, 1, 0, 0, 0, TimeSpan.Zero);

    public IReadOnlyList<TimeSpan> Waits
    {
        get { lock (_gate) return [.. _waits]; }
    }

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public override DateTimeOffset GetUtcNow()
    {
        lock (_gate) return _now;
    }

    public override long GetTimestamp() => GetUtcNow().Ticks;

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = new WaitingTimer(this, callback, state);
        timer.Change(dueTime, period);
        return timer;
    }

    /// <summary>Every connection that is watched has been silent for too long.</summary>
    public void EndSilence()
    {
        WaitingTimer[] timers;
        lock (_gate)
        {
            timers = [.. _watching];
            _watching.Clear();
        }
        foreach (WaitingTimer timer in timers) timer.Fire();
    }

    private sealed class WaitingTimer(HurriedClock clock, TimerCallback callback, object? state) : ITimer
    {
        public void Fire() => ThreadPool.UnsafeQueueUserWorkItem(static t => t.Call(), this, preferLocal: false);

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            lock (clock._gate)
            {
                clock._watching.Remove(this);
                if (dueTime == Timeout.InfiniteTimeSpan) return true;
                if (dueTime == Silence)
                {
                    clock._watching.Add(this);
                    return true;
                }
                clock._waits.Add(dueTime);
                clock._now += dueTime;
            }
            Fire();
            return true;
        }

        public void Dispose() => Change(Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);

        public ValueTask DisposeAsync()
        {
            Dispose();
            return ValueTask.CompletedTask;
        }

        private void Call() => callback(state);
    }
}
