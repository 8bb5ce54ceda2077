using System.Diagnostics;
namespace FlashOrleans.Engine;

/// <summary>
/// The dedicated compute threads. The conductor is worker 0 and the only caller of <see cref="Run"/>; the others take items of the current job by an atomic counter. A job splits rows, columns, heads or
/// tokens, never a sum, so the number of threads cannot change a bit. A job is over when its items are done: a worker that comes too late finds nothing and holds up nobody. Waking a parked thread takes
/// longer than many a job, so a worker looks for the next one for <see cref="PatienceMicroseconds"/> before it parks; nobody spins longer than that, since cores may be shared.
/// An exception in an item is rethrown on the conductor after all running items ended.
/// </summary>
internal sealed class ComputePool : IDisposable
{
    /// <summary>Jobs of one step follow each other within microseconds; a parked thread needs some fifty to come.</summary>
    private const int PatienceMicroseconds = 50;

    private readonly object _gate = new();
    private readonly Thread[] _workers;
    private readonly long[] _taken;
    private Action<int, int> _job = static (_, _) => { };
    private int _items;
    /// <summary>Number of the job in the upper half, how many of its items nobody has taken in the lower: one is taken by exchanging both. What says that a job has no more is the ticket alone, so a late worker
    /// cannot take anything of another job, not even while that is prepared; and who has taken one keeps the job from ending, so <see cref="_job"/> and <see cref="_items"/> are that job's until it is done.</summary>
    private long _ticket;
    private int _done;
    private int _parked;
    private bool _joining;
    private Exception? _failure;
    private volatile bool _stop;

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

    /// <summary>Calls job(item, worker) for every item in [0, items) and returns when all are done. Handing over costs some
    /// microseconds: callers pass <paramref name="parallel"/> = false for less work than that, with the same bits.</summary>
    public void Run(Action<int, int> job, int items, bool parallel = true)
    {
        if (!parallel || _workers.Length == 0 || items < 2)
        {
            for (int i = 0; i < items; i++) job(i, 0);
            return;
        }
        long round = unchecked((int)Round + 1);
        Prepare(job, items);
        // Publishes what was prepared: who sees the ticket sees it. Full fence, before looking for parked workers.
        Interlocked.Exchange(ref _ticket, round << 32 | (uint)items);
        if (Volatile.Read(ref _parked) > 0)
        {
            lock (_gate) Monitor.PulseAll(_gate);
        }
        while (OthersFirst && (uint)Volatile.Read(ref _ticket) == (uint)items) Thread.Yield();
        Take(round, 0);
        Join(items);
        if (_failure is { } failure) throw new InvalidOperationException("a compute thread failed: " + failure.Message, failure);
    }

    /// <summary>The caller takes nothing of a job before a worker has: for tests of what threads do together, on machines whose other work would let one of them do everything.</summary>
    internal bool OthersFirst { get; set; }

    /// <summary>Number of the last job.</summary>
    internal long Round => Volatile.Read(ref _ticket) >> 32;

    /// <summary>The next job, which nobody may take from yet: a worker that has just found the last one's end may still be looking.</summary>
    internal void Prepare(Action<int, int> job, int items)
    {
        _job = job;
        _items = items;
        _done = 0;
        _failure = null;
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
            long round = Next(seen);
            if (_stop) return;
            seen = round;
            Take(round, worker);
        }
    }

    /// <summary>Waits for a job after the one seen.</summary>
    private long Next(long seen)
    {
        long start = Stopwatch.GetTimestamp();
        do
        {
            long round = Volatile.Read(ref _ticket) >> 32;
            if (round != seen || _stop) return round;
            Thread.SpinWait(16);
        }
        while (Stopwatch.GetElapsedTime(start).TotalMicroseconds < PatienceMicroseconds);
        lock (_gate)
        {
            // Full fence: either the conductor sees that somebody is parked, or this thread sees its job.
            Interlocked.Increment(ref _parked);
            while (Volatile.Read(ref _ticket) >> 32 == seen && !_stop) Monitor.Wait(_gate);
            _parked--;
            return Volatile.Read(ref _ticket) >> 32;
        }
    }

    /// <summary>Conductor: until every item is done. The last ones are with other workers, for about as long as an item takes.</summary>
    private void Join(int items)
    {
        long start = Stopwatch.GetTimestamp();
        while (Volatile.Read(ref _done) < items)
        {
            if (Stopwatch.GetElapsedTime(start).TotalMicroseconds < PatienceMicroseconds)
            {
                Thread.SpinWait(16);
                continue;
            }
            lock (_gate)
            {
                _joining = true;
                while (Volatile.Read(ref _done) < items) Monitor.Wait(_gate);
                _joining = false;
            }
        }
    }

    internal void Take(long round, int worker)
    {
        while (true)
        {
            long ticket = Volatile.Read(ref _ticket);
            int left = (int)ticket;
            if (ticket >> 32 != round || left == 0) return;
            if (Interlocked.CompareExchange(ref _ticket, ticket - 1, ticket) != ticket) continue;
            var job = _job;
            int items = _items, item = items - left;
            Volatile.Write(ref _taken[worker], _taken[worker] + 1);
            try
            {
                if (_failure == null) job(item, worker);
            }
            catch (Exception e)
            {
                _failure = e;
            }
            if (Interlocked.Increment(ref _done) < items || worker == 0) continue;
            lock (_gate)
            {
                if (_joining) Monitor.PulseAll(_gate);
            }
        }
    }
}
