using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>A clock that moves only when told. One tick is a nanosecond.</summary>
internal sealed class VirtualClock : TimeProvider
{
    private long _now;
    public long Now => _now;
    public override long TimestampFrequency => 1_000_000_000;
    public override long GetTimestamp() => _now;
    public void MoveTo(long time) => _now = Math.Max(_now, time);
}

/// <summary>
/// A device on a virtual clock: one server with a bandwidth, demand before prefetch, what is being served cannot be overtaken. The bytes are really read (from
/// the file beneath) at the moment of completion. Single-threaded: the test pumps the conductor and moves the clock.
/// At most <paramref name="queue"/> requests of a class wait; more are refused.
/// </summary>
internal sealed unsafe class VirtualFlash(VirtualClock clock, double bytesPerNano, int queue = int.MaxValue) : IFlashReader
{
    private readonly Queue<ReadRequest> _demand = new();
    private readonly List<ReadRequest> _prefetch = [];
    private ReadRequest? _serving;
    private long _finishes;
    private long _reads, _bytes, _demandReads, _prefetchReads;

    /// <summary>Time the conductor had nothing to do but wait for this device.</summary>
    public long Stall { get; private set; }
    public long Bytes => _bytes;

    public ReaderStats Stats => new(_reads, 0, _bytes, 0, 0, _demandReads, _prefetchReads);

    public bool TrySubmit(ReadRequest request)
    {
        if ((request.Class == ReadClass.Demand ? _demand.Count : _prefetch.Count) >= queue) return false;
        if (request.Class == ReadClass.Demand) _demand.Enqueue(request);
        else _prefetch.Add(request);
        Serve();
        return true;
    }

    public void Promote(ReadRequest request)
    {
        if (_prefetch.Remove(request)) _demand.Enqueue(request);
    }

    /// <summary>False: what is queued is read, whoever wants it.</summary>
    public bool TakesBack { get; init; } = true;

    public bool TryTakeBack(ReadRequest request) => TakesBack && _prefetch.Remove(request);

    /// <summary>Lets the device work for a while, as it does behind computation.</summary>
    public void Elapse(long nanos)
    {
        long until = clock.Now + nanos;
        while (_serving != null && _finishes <= until) Complete();
        clock.MoveTo(until);
    }

    /// <summary>The conductor is idle: on to the next completion. False when the device is idle too.</summary>
    public bool WaitForOne()
    {
        if (_serving == null) return false;
        Stall += _finishes - clock.Now;
        Complete();
        return true;
    }

    private void Serve()
    {
        if (_serving != null) return;
        if (!_demand.TryDequeue(out _serving))
        {
            if (_prefetch.Count == 0) return;
            _serving = _prefetch[0];
            _prefetch.RemoveAt(0);
        }
        _finishes = clock.Now + (long)(_serving.Count * (double)_serving.Region.PartBytes / bytesPerNano);
    }

    private void Complete()
    {
        var request = _serving!;
        clock.MoveTo(_finishes);
        _serving = null;
        Read(request);
        _reads++;
        _bytes += request.BytesRead;
        if (request.Class == ReadClass.Demand) _demandReads++;
        else _prefetchReads++;
        request.Completion.Completed(request);
        Serve();
    }

    /// <summary>Really reads a request, from the file beneath.</summary>
    internal static void Read(ReadRequest request)
    {
        request.BytesRead = 0;
        for (int i = 0; i < request.Count; i++)
        {
            var region = request.Region;
            int unit = request.Units[i];
            byte* slot = (byte*)request.Memory[i];
            var part = new IoVector { Base = slot, Length = (nuint)region.SlotBytes };
            region.File.Read(region.Start(unit) - region.Delta(unit), [part]);
            request.Faults[i] = region.Verify(unit, slot + region.Delta(unit));
            request.BytesRead += region.PartBytes;
        }
    }
}
