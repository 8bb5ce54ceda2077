namespace FlashOrleans.Flash;

/// <summary>
/// The two bounded queues of a reader: demand is taken before prefetch and sweeps, which share one. Any thread, but always under the lock of the reader that owns it (<see cref="FlashReader"/> for its threads,
/// <see cref="RingReader"/> for its ring). Closed, it takes nothing more.
/// </summary>
internal sealed class ReadQueues(int most)
{
    private RequestQueue _demand, _prefetch;

    public int Count => _demand.Count + _prefetch.Count;
    public bool HasDemand => _demand.Count > 0;
    public bool HasPrefetch => _prefetch.Count > 0;
    public bool Closed { get; private set; }

    /// <summary>False when the queue of its class is full, or closed. A request that is under way already is a bug of its submitter.</summary>
    public bool TryAppend(ReadRequest request)
    {
        if (request.Phase != ReadPhase.Idle) throw new InvalidOperationException("the request is already on its way");
        bool prefetch = request.Class != ReadClass.Demand;
        if (Closed || (prefetch ? _prefetch.Count : _demand.Count) >= most) return false;
        request.Error = null;
        request.BytesRead = 0;
        request.Phase = prefetch ? ReadPhase.PrefetchQueue : ReadPhase.DemandQueue;
        if (prefetch) _prefetch.Append(request);
        else _demand.Append(request);
        return true;
    }

    /// <summary>Somebody waits for a read that had time; false when it is not queued as such any more.</summary>
    public bool Promote(ReadRequest request)
    {
        if (request.Phase != ReadPhase.PrefetchQueue) return false;
        _prefetch.Remove(request);
        request.Phase = ReadPhase.DemandQueue;
        _demand.Append(request);
        return true;
    }

    /// <summary>Nobody waits for it after all: true when it had still been queued as something that has time, and is its submitter's again.</summary>
    public bool TryTakeBack(ReadRequest request)
    {
        if (request.Phase != ReadPhase.PrefetchQueue) return false;
        _prefetch.Remove(request);
        request.Phase = ReadPhase.Idle;
        return true;
    }

    /// <summary>The next read for the device, and whether it is a prefetch.</summary>
    public ReadRequest? Take(bool mayPrefetch, out bool prefetch)
    {
        ReadRequest? request = _demand.TakeFirst() ?? (mayPrefetch ? _prefetch.TakeFirst() : null);
        prefetch = request?.Phase == ReadPhase.PrefetchQueue;
        if (request != null) request.Phase = ReadPhase.InDevice;
        return request;
    }

    /// <summary>Takes nothing more; what waited is the caller's to end.</summary>
    public (RequestQueue Demand, RequestQueue Prefetch) Close()
    {
        Closed = true;
        return (_demand.TakeAll(), _prefetch.TakeAll());
    }
}
