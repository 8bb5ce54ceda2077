namespace FlashOrleans.Engine;

/// <summary>
/// The dedicated compute threads. The conductor is worker 0 and the only caller of <see cref="Run"/>; the others are parked on a monitor
/// (never spinning: spinning collapses when cores are shared) and take items of the current job by an atomic counter. A job splits rows, columns, heads or
/// tokens, never a sum, so the number of threads cannot change a bit. An exception in an item is rethrown on the conductor after all workers stopped.
/// </summary>
internal sealed class ComputePool : IDisposable
{
    private readonly object _gate = new();
    private readonly Thread[] _workers;
    private readonly long[] _taken;
    private Action<int, int>? _job;
    private int _items;
    private int _next;
    private long _round;
    private int _running;
    private Exception? _failure;
    private bool _stop;

    public ComputePool(int threads)
    {
        Threads = Math.Max(1, threads);
        _workers = new Thread[Threads - 1];
        _taken = new long[Threads];
        for (int i = 0; i < _workers.Length; i++)
        {
            int worker = i + 1;
            _workers[i] = new Thread(() => Work(worker), 1 << 20) { IsBackground = true, Name = $"flash-compute-{worker}" };
            _workers[i].Start();
        }
    }

    public int Threads { get; }

    /// <summary>Items of split jobs that a worker has taken since it started.</summary>
    public long Taken(int worker) => Volatile.Read(ref _taken[worker]);

    /// <summary>Calls job(item, worker) for every item in [0, items) and returns when all are done. Waking threads costs some ten
    /// microseconds: callers pass <paramref name="parallel"/> = false for less work than that, with the same bits.</summary>
    public void Run(Action<int, int> job, int items, bool parallel = true)
    {
        if (!parallel || _workers.Length == 0 || items < 2)
        {
            for (int i = 0; i < items; i++) job(i, 0);
            return;
        }
        lock (_gate)
        {
            _job = job;
            _items = items;
            _next = 0;
            _running = _workers.Length;
            _failure = null;
            _round++;
            Monitor.PulseAll(_gate);
        }
        Take(job, 0);
        lock (_gate)
        {
            while (_running > 0) Monitor.Wait(_gate);
            _job = null;
            if (_failure is { } failure) throw new InvalidOperationException("a compute thread failed: " + failure.Message, failure);
        }
    }

    /// <summary>Managed bytes each worker has allocated since it started. The counters are the threads' own, so every worker must answer.</summary>
    public long[] AllocatedBytes()
    {
        var bytes = new long[Threads];
        int arrived = 0;
        Run((_, worker) =>
        {
            bytes[worker] = GC.GetAllocatedBytesForCurrentThread();
            Interlocked.Increment(ref arrived);
            // A barrier that allocates nothing itself: no worker may take a second item.
            while (Volatile.Read(ref arrived) < Threads) Thread.Yield();
        }, Threads);
        return bytes;
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _stop = true;
            Monitor.PulseAll(_gate);
        }
        foreach (var worker in _workers) worker.Join();
    }

    private void Work(int worker)
    {
        long seen = 0;
        while (true)
        {
            Action<int, int> job;
            lock (_gate)
            {
                while (_round == seen && !_stop) Monitor.Wait(_gate);
                if (_stop) return;
                seen = _round;
                job = _job!;
            }
            Take(job, worker);
            lock (_gate)
            {
                if (--_running == 0) Monitor.PulseAll(_gate);
            }
        }
    }

    private void Take(Action<int, int> job, int worker)
    {
        try
        {
            for (int i = Interlocked.Increment(ref _next) - 1; i < _items; i = Interlocked.Increment(ref _next) - 1)
            {
                Volatile.Write(ref _taken[worker], _taken[worker] + 1);
                job(i, worker);
            }
        }
        catch (Exception e)
        {
            _failure = e;
            Volatile.Write(ref _next, _items);
        }
    }
}
