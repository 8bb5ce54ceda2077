using System.Diagnostics;

namespace FlashOrleans.Flash;

/// <summary>
/// Reads units from flash into window slots on dedicated I/O threads: one over io_uring for files read past the page cache where the kernel has it (<see cref="RingReader"/>), else a pool of
/// threads that each do one blocking read at a time. The conductor submits, an I/O thread reads and checks, and tells the
/// request's completion; nothing on that path allocates. Two bounded queues: demand is always taken before prefetch, and only a few
/// prefetch reads are in the device at a time, because what is submitted cannot be overtaken. Idle threads are parked.
/// A request is the submitter's again when its completion is told (the completion may submit it anew at once). Failures are values on the
/// request: a read is tried twice (<see cref="RequestReader"/>), then the units it really affects carry a <see cref="ReadFault"/>; no exception leaves an
/// I/O thread. Dispose from any thread but a completion: queued requests end as Cancelled, those in the device finish first.
/// </summary>
public sealed unsafe class FlashReader : IFlashReader, IDisposable
{
    /// <summary>What keeps this class of device busy; a thread that waits costs a stack and no processor (docs/adr/0005-flash-io.md).</summary>
    public const int DefaultThreads = 16;
    public const int DefaultQueue = 256;
    public const int DefaultPrefetchDepth = 8;
    private const int StackBytes = 256 * 1024;

    private readonly object _lock = new();
    private readonly Thread[] _threads;
    private readonly RequestReader[] _readers;
    private readonly NativeBuffer _sink;
    private readonly RingReader? _ring;
    private readonly ReadQueues _waiting;
    private readonly int _prefetchDepth;
    private int _prefetchInDevice, _inDevice;
    private long _busyTicks, _busySince;
    private int _parked;
    private long _reads, _units, _bytes, _retries, _faults, _prefetchReads;

    /// <param name="threads">I/O threads: reads in the device at a time.</param>
    /// <param name="queue">Requests that may wait, per class.</param>
    /// <param name="prefetchDepth">Prefetch reads in the device at a time.</param>
    /// <param name="ledger">Counts the reader's own buffers, under "reader".</param>
    /// <param name="ring">False: threads alone (to compare, and where io_uring is refused).</param>
    public FlashReader(int threads = DefaultThreads, int queue = DefaultQueue, int prefetchDepth = DefaultPrefetchDepth, MemoryLedger? ledger = null, bool ring = true)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(threads);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(queue);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(prefetchDepth);
        _waiting = new ReadQueues(queue);
        _prefetchDepth = prefetchDepth;
        // Gaps of all threads land in one place that nobody reads, then each thread has its list of parts.
        _sink = new NativeBuffer(ThreadBytes(threads), ledger ?? new MemoryLedger(), "reader");
        _threads = new Thread[threads];
        _readers = new RequestReader[threads];
        for (int i = 0; i < threads; i++)
        {
            RequestReader reader = new(_sink.Pointer, (IoVector*)(_sink.Pointer + ReadPlanner.GapLimit + i * RequestReader.PartBytes));
            _readers[i] = reader;
            _threads[i] = new Thread(() => Run(reader), StackBytes) { IsBackground = true, Name = $"flash-io-{i}" };
        }
        foreach (Thread thread in _threads) thread.Start();
        if (ring) _ring = RingReader.TryStart(this, queue, prefetchDepth, ledger ?? new MemoryLedger());
    }

    /// <summary>Called on an I/O thread after it told one or several completions, which only enqueue: their owner is woken here, once for all of them. Set before the first read.</summary>
    public Action? Told { get; set; }

    /// <summary>How files are read that are read past the page cache.</summary>
    public string Method => _ring != null ? "io_uring" : "threads";
    /// <summary>Bytes of lent memory that the kernel has pinned for the ring.</summary>
    public long PinnedBytes => _ring?.PinnedBytes ?? 0;
    internal int HeldFiles => _ring?.HeldFiles ?? 0;
    /// <summary>What a reader with so many threads takes.</summary>
    public static long BufferBytes(int threads) => ThreadBytes(threads) + RingReader.BufferBytes;

    private static long ThreadBytes(int threads) => ReadPlanner.GapLimit + (long)threads * RequestReader.PartBytes;

    public ReaderStats Stats
    {
        get
        {
            long reads = Volatile.Read(ref _reads), prefetch = Volatile.Read(ref _prefetchReads);
            return new ReaderStats(reads, Volatile.Read(ref _units), Volatile.Read(ref _bytes), Volatile.Read(ref _retries),
                Volatile.Read(ref _faults), reads - prefetch, prefetch, _ring?.CpuNanos ?? 0,
                Stopwatch.GetElapsedTime(0, (_ring?.BusyTicks ?? 0) + Volatile.Read(ref _busyTicks)).Ticks * 100);
        }
    }

    /// <summary>Requests waiting now, both classes.</summary>
    public int Queued
    {
        get
        {
            int others = _ring?.Queued ?? 0;
            lock (_lock) return others + _waiting.Count;
        }
    }

    /// <summary>Threads that wait for work and that nobody has woken yet.</summary>
    internal int Parked
    {
        get { lock (_lock) return _parked; }
    }

    public bool TrySubmit(ReadRequest request)
    {
        if (request.Count is <= 0 or > ReadRequest.MaxUnits) throw new ArgumentException($"a read of {request.Count} units", nameof(request));
        if (OverRing(request)) return _ring!.TrySubmit(request);
        lock (_lock)
        {
            if (!_waiting.TryAppend(request)) return false;
            WakeOne();
            return true;
        }
    }

    public void Promote(ReadRequest request)
    {
        if (OverRing(request))
        {
            _ring!.Promote(request);
            return;
        }
        lock (_lock)
        {
            if (_waiting.Promote(request)) WakeOne(); // the limit of prefetch no longer holds it back
        }
    }

    public bool TryTakeBack(ReadRequest request)
    {
        if (OverRing(request)) return _ring!.TryTakeBack(request);
        lock (_lock) return _waiting.TryTakeBack(request);
    }

    public void Lend(byte* memory, long bytes) => _ring?.Lend(memory, bytes);

    public void Withdraw(byte* memory) => _ring?.Withdraw(memory);

    public void Dispose()
    {
        _ring?.Dispose();
        RequestQueue demand, prefetch;
        lock (_lock)
        {
            if (_waiting.Closed) return;
            (demand, prefetch) = _waiting.Close();
            _parked = 0;
            Monitor.PulseAll(_lock);
        }
        while ((demand.TakeFirst() ?? prefetch.TakeFirst()) is { } request)
            Cancel(request);
        Told?.Invoke();
        foreach (Thread thread in _threads) thread.Join();
        _sink.Dispose();
    }

    private bool OverRing(ReadRequest request) => _ring != null && request.Region.File is DirectFile { Direct: not null };

    internal void Cancel(ReadRequest request)
    {
        Array.Fill(request.Faults, ReadFault.Cancelled, 0, request.Count);
        request.Error = $"{request.Region.File.Name}: {request.Region.Name}: the reader was closed before the read began";
        Complete(request);
    }

    internal void Retried(int reads) => Interlocked.Add(ref _retries, reads);

    /// <summary>An I/O thread's life.</summary>
    private void Run(RequestReader reader)
    {
        bool prefetch = false, reading = false;
        while (Next(ref prefetch, reading) is { } request)
        {
            reading = true;
            int retries = reader.Retries;
            try
            {
                reader.Read(request);
            }
            catch (Exception e)
            {
                // A file closed under us, a region that does not fit its file: whatever it is, it ends this request and not the thread.
                Array.Fill(request.Faults, ReadFault.Io, 0, request.Count);
                request.Error = $"{request.Region?.File?.Name}: {request.Region?.Name}: {e.Message}";
            }
            Retried(reader.Retries - retries);
            Complete(request);
            Told?.Invoke();
        }
    }

    /// <summary>The waker takes the thread off the count, so that one thread is never woken for two requests. Under the lock.</summary>
    private void WakeOne()
    {
        if (_parked == 0) return;
        _parked--;
        Monitor.Pulse(_lock);
    }

    /// <summary>Returns the place of the last prefetch, then waits for work; null when closed and empty.</summary>
    private ReadRequest? Next(ref bool prefetch, bool reading)
    {
        lock (_lock)
        {
            if (reading && --_inDevice == 0) Volatile.Write(ref _busyTicks, _busyTicks + Stopwatch.GetTimestamp() - _busySince);
            if (prefetch) _prefetchInDevice--;
            while (true)
            {
                ReadRequest? request = _waiting.Take(_prefetchInDevice < _prefetchDepth, out prefetch);
                if (request != null)
                {
                    if (prefetch) _prefetchInDevice++;
                    if (_inDevice++ == 0) _busySince = Stopwatch.GetTimestamp();
                    return request;
                }
                if (_waiting.Closed) return null;
                _parked++;
                Monitor.Wait(_lock);
            }
        }
    }

    internal void Complete(ReadRequest request)
    {
        int faults = 0;
        for (int k = 0; k < request.Count; k++)
            if (request.Faults[k] != ReadFault.None) faults++;
        Interlocked.Increment(ref _reads);
        if (request.Class == ReadClass.Prefetch) Interlocked.Increment(ref _prefetchReads);
        Interlocked.Add(ref _units, request.Count);
        Interlocked.Add(ref _bytes, request.BytesRead);
        if (faults > 0) Interlocked.Add(ref _faults, faults);
        request.Phase = ReadPhase.Idle;
        try
        {
            request.Completion.Completed(request);
        }
        catch (Exception e)
        {
            // Completions only enqueue; one that throws has lost a request, and the thread must outlive that.
            Trace.TraceError($"a read's completion threw: {e}");
        }
    }
}
