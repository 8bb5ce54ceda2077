using System.Diagnostics;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Flash;

/// <summary>
/// The part of <see cref="FlashReader"/> that reads through io_uring: one thread keeps up to <see cref="Depth"/> reads in the device, hands over new ones in one call and checks what
/// came back, so that a small read costs a few microseconds of processor and not a thread's wake-up. Same rules as the threads': demand before prefetch, few prefetch reads in the device, failures
/// are values, a read that went wrong is tried once more (by a plain call). Only files that are read past the page cache.
/// </summary>
internal sealed unsafe class RingReader : IDisposable
{
    public const int Depth = 64;
    /// <summary>Results waited for at a time, at most: reads handed over together cost a third of the processor time of reads handed over one by one (docs/adr/0005).</summary>
    private const int MostAtOnce = 16;
    /// <summary>Of prefetch in the device, unless one read is more: what keeps the device at its rate. Experts are megabytes, and demand would wait behind all that were guessed.</summary>
    private const long MostPrefetchBytes = 4 << 20;
    private const ulong WakeToken = ulong.MaxValue;
    private const int StackBytes = 256 * 1024;
    /// <summary>Room for reads that go into several slots.</summary>
    internal const int GatherRoom = Depth * ReadPlanner.GatherBytes;
    public const int BufferBytes = ReadPlanner.GapLimit + Depth * RequestReader.PartBytes + 64 + GatherRoom;

    private readonly object _lock = new();
    private readonly FlashReader _owner;
    private readonly int _prefetchDepth;
    private readonly ReadQueues _waiting;
    private readonly LentMemory _lent = new();
    private readonly RingFiles _held;
    private readonly NativeBuffer _memory;
    private readonly RequestReader[] _readers = new RequestReader[Depth];
    private readonly ReadRequest?[] _requests = new ReadRequest?[Depth];
    private readonly SafeFileHandle?[] _files = new SafeFileHandle?[Depth];
    private readonly long[] _from = new long[Depth];
    private readonly bool[] _isPrefetch = new bool[Depth];
    /// <summary>By read: room for one whose units lie in several slots. A device is as fast as for one piece then; told of a dozen pieces of 4 KiB it is half as fast (docs/adr/0005).</summary>
    private readonly NativeBuffer _gather;
    private readonly bool[] _gathers = new bool[Depth];
    private readonly int[] _free = new int[Depth];
    private readonly int _wakeFd;
    private readonly ulong* _wakeValue;
    private readonly Thread _thread;
    private int _freeCount, _prefetchInDevice;
    private long _prefetchBytes;
    private bool _asleep;
    private long _cpuNanos, _busyTicks, _busySince;

    private RingReader(FlashReader owner, int queue, int prefetchDepth, MemoryLedger ledger, int wakeFd, ManualResetEventSlim opened, bool[] works)
    {
        _owner = owner;
        _waiting = new ReadQueues(queue);
        _held = new RingFiles(Attend);
        _prefetchDepth = prefetchDepth;
        _wakeFd = wakeFd;
        _memory = new NativeBuffer(BufferBytes - GatherRoom, ledger, "reader");
        _gather = new NativeBuffer(GatherRoom, ledger, "reader");
        _lent.Lend(_gather.Pointer, _gather.Length);
        _wakeValue = (ulong*)(_memory.Pointer + ReadPlanner.GapLimit + Depth * RequestReader.PartBytes);
        for (int i = 0; i < Depth; i++)
        {
            _readers[i] = new RequestReader(_memory.Pointer, (IoVector*)(_memory.Pointer + ReadPlanner.GapLimit + i * RequestReader.PartBytes));
            _free[_freeCount++] = Depth - 1 - i;
        }
        _thread = new Thread(() => Live(opened, works), StackBytes) { IsBackground = true, Name = "flash-ring" };
        _thread.Start();
    }

    /// <summary>Null where the kernel or a container offers no io_uring.</summary>
    public static RingReader? TryStart(FlashReader owner, int queue, int prefetchDepth, MemoryLedger ledger)
    {
        if (!Libc.Supported) return null;
        int wake = Libc.OpenEvent();
        if (wake < 0) return null;
        using var opened = new ManualResetEventSlim();
        bool[] works = new bool[1];
        var reader = new RingReader(owner, queue, prefetchDepth, ledger, wake, opened, works);
        opened.Wait();
        if (works[0]) return reader;
        reader._thread.Join();
        reader.Free();
        return null;
    }

    public int Queued
    {
        get { lock (_lock) return _waiting.Count; }
    }

    /// <summary>Processor time of the thread: submitting, kernel and device driver, checking.</summary>
    public long CpuNanos => Volatile.Read(ref _cpuNanos);

    /// <summary>Time with at least one read in the device, in ticks of the stopwatch.</summary>
    public long BusyTicks => Volatile.Read(ref _busyTicks);

    public bool TrySubmit(ReadRequest request)
    {
        bool wake;
        lock (_lock)
        {
            if (!_waiting.TryAppend(request)) return false;
            wake = Rouse();
        }
        if (wake) Libc.Signal(_wakeFd);
        return true;
    }

    public void Promote(ReadRequest request)
    {
        bool wake;
        lock (_lock) wake = _waiting.Promote(request) && Rouse();
        if (wake) Libc.Signal(_wakeFd);
    }

    public bool TryTakeBack(ReadRequest request)
    {
        lock (_lock) return _waiting.TryTakeBack(request);
    }

    /// <summary>Any thread: many reads will go into this memory, until it is withdrawn.</summary>
    public void Lend(byte* start, long bytes)
    {
        _lent.Lend(start, bytes);
        Attend();
    }

    /// <summary>Any thread: the memory will be freed; no read into it is under way.</summary>
    public void Withdraw(byte* start)
    {
        _lent.Withdraw(start);
        Attend();
    }

    /// <summary>Bytes of lent memory that the kernel has pinned, <see cref="GatherRoom"/> among them.</summary>
    public long PinnedBytes => _lent.Bytes;

    /// <summary>Open files that the kernel holds for the ring.</summary>
    public int HeldFiles => _held.Held;

    private void Attend()
    {
        bool wake;
        lock (_lock) wake = !_waiting.Closed && Rouse();
        if (wake) Libc.Signal(_wakeFd);
    }

    public void Dispose()
    {
        RequestQueue demand, prefetch;
        lock (_lock)
        {
            if (_waiting.Closed) return;
            (demand, prefetch) = _waiting.Close();
        }
        Libc.Signal(_wakeFd);
        while ((demand.TakeFirst() ?? prefetch.TakeFirst()) is { } request) _owner.Cancel(request);
        _owner.Told?.Invoke();
        _thread.Join();
        _held.Leave();
        Free();
    }

    private void Free()
    {
        _ = Libc.Close(_wakeFd);
        _memory.Dispose();
        _gather.Dispose();
    }

    /// <summary>Under the lock: true once for a thread that waits and has not been told.</summary>
    private bool Rouse()
    {
        bool asleep = _asleep;
        _asleep = false;
        return asleep;
    }

    /// <summary>A ring belongs to the thread that opens it.</summary>
    private void Live(ManualResetEventSlim opened, bool[] works)
    {
        using IoRing? ring = IoRing.TryOpen(2 * Depth);
        works[0] = ring != null;
        opened.Set();
        if (ring != null) Run(ring);
    }

    private void Run(IoRing ring)
    {
        ring.ReadEvent(_wakeFd, _wakeValue, WakeToken);
        while (true)
        {
            while (Next(ring) is { } request) Begin(ring, request);
            CountBusy();
            lock (_lock)
            {
                if (_waiting.Closed && _freeCount == Depth) return;
                // What came in since is begun first: its submitter saw nobody asleep and woke nobody.
                if (_lent.Pending || _held.Pending || (_freeCount > 0 && (_waiting.HasDemand || (_waiting.HasPrefetch && MayPrefetch)))) continue;
                _asleep = true;
            }
            // A quarter of what is in the device: the rest keeps it busy while these are checked and others begun.
            ring.SubmitAndWait((uint)Math.Clamp((Depth - _freeCount) / 4, 1, MostAtOnce));
            TakeResults(ring);
            CountBusy();
            Volatile.Write(ref _cpuNanos, Libc.ThreadNanos());
        }
    }

    private void CountBusy()
    {
        long now = Stopwatch.GetTimestamp();
        if (_busySince != 0) Volatile.Write(ref _busyTicks, _busyTicks + now - _busySince);
        _busySince = _freeCount < Depth ? now : 0;
    }

    /// <summary>A quarter of the depth beside demand, which must not wait behind much; as many as keep the device busy while nobody waits for any.</summary>
    private bool MayPrefetch => _prefetchBytes < MostPrefetchBytes && _prefetchInDevice < Math.Max(_prefetchDepth, Depth - _freeCount == _prefetchInDevice ? Depth * 3 / 4 : Depth / 4);

    private void TakeResults(IoRing ring)
    {
        bool told = false;
        while (ring.TryTake(out ulong token, out int result))
        {
            if (token == WakeToken)
            {
                // Closing, nobody wakes it again: what is in the device ends by itself.
                if (!Closed) ring.ReadEvent(_wakeFd, _wakeValue, WakeToken);
                continue;
            }
            End((int)token, result);
            told = true;
        }
        if (told) _owner.Told?.Invoke();
    }

    private bool Closed
    {
        get { lock (_lock) return _waiting.Closed; }
    }

    private ReadRequest? Next(IoRing ring)
    {
        ReadRequest? request = null;
        if (_freeCount > 0)
        {
            lock (_lock) request = _waiting.Take(MayPrefetch, out _isPrefetch[_free[_freeCount - 1]]);
            if (request != null && _isPrefetch[_free[_freeCount - 1]])
            {
                _prefetchInDevice++;
                _prefetchBytes += ReadPlanner.Bytes(request);
            }
        }
        // What was lent or withdrawn before this read was submitted.
        if (_lent.Pending) _lent.Apply(ring);
        if (_held.Pending) _held.Apply(ring);
        return request;
    }

    private void Begin(IoRing ring, ReadRequest request)
    {
        int at = _free[--_freeCount];
        _requests[at] = request;
        bool held = false;
        try
        {
            DirectFile direct = (DirectFile)request.Region.File;
            SafeFileHandle file = direct.Direct!;
            int parts = _readers[at].Scatter(request);
            file.DangerousAddRef(ref held);
            _files[at] = file;
            _from[at] = ReadPlanner.Low(request.Region, request.Units[0]);
            IoVector* to = _readers[at].Parts;
            _gathers[at] = parts > 1 && ReadPlanner.Bytes(request) <= ReadPlanner.GatherBytes;
            if (_gathers[at])
            {
                *to = new IoVector { Base = _gather.Pointer + at * ReadPlanner.GatherBytes, Length = (nuint)ReadPlanner.Bytes(request) };
                parts = 1;
            }
            int fd = (int)file.DangerousGetHandle(), place = _held.Find(ring, direct, fd);
            ring.Read(place >= 0 ? place : fd, place >= 0, _from[at], to, Math.Min(parts, Libc.MaxParts), parts == 1 ? _lent.Find(*to) : -1, (ulong)at);
        }
        catch (Exception e) when (e is ObjectDisposedException or ArgumentException)
        {
            if (held) _files[at]!.DangerousRelease();
            _files[at] = null;
            Fail(request, e);
            Over(at);
            _owner.Told?.Invoke();
        }
    }

    private void End(int at, int result)
    {
        ReadRequest request = _requests[at]!;
        _files[at]!.DangerousRelease();
        _files[at] = null;
        int retries = _readers[at].Retries;
        try
        {
            if (result < 0) _readers[at].Read(request);
            else
            {
                request.BytesRead = result;
                if (_gathers[at]) RequestReader.HandOut(request, _gather.Pointer + at * ReadPlanner.GatherBytes, _from[at], _from[at] + result);
                _readers[at].Finish(request, _from[at] + result);
            }
        }
        catch (Exception e)
        {
            Fail(request, e);
        }
        _owner.Retried(_readers[at].Retries - retries);
        Over(at);
    }

    private void Over(int at)
    {
        ReadRequest request = _requests[at]!;
        _requests[at] = null;
        if (_isPrefetch[at])
        {
            _prefetchInDevice--;
            _prefetchBytes -= ReadPlanner.Bytes(request);
        }
        _free[_freeCount++] = at;
        _owner.Complete(request);
    }

    private static void Fail(ReadRequest request, Exception e)
    {
        Array.Fill(request.Faults, ReadFault.Io, 0, request.Count);
        request.Error = $"{request.Region?.File?.Name}: {request.Region?.Name}: {e.Message}";
    }
}
