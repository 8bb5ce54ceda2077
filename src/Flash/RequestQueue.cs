namespace FlashOrleans.Flash;

/// <summary>First in, first out, through the requests' own links; any one can leave. Under the reader's lock.</summary>
internal struct RequestQueue
{
    private ReadRequest? _first, _last;
    public int Count;

    public void Append(ReadRequest request)
    {
        request.Next = null;
        request.Previous = _last;
        if (_last == null) _first = request;
        else _last.Next = request;
        _last = request;
        Count++;
    }

    public ReadRequest? TakeFirst()
    {
        ReadRequest? request = _first;
        if (request != null) Remove(request);
        return request;
    }

    /// <summary>Hands over everything; nothing of it can be promoted any more.</summary>
    public RequestQueue TakeAll()
    {
        RequestQueue all = this;
        this = default;
        for (ReadRequest? request = all._first; request != null; request = request.Next) request.Phase = ReadPhase.InDevice;
        return all;
    }

    public void Remove(ReadRequest request)
    {
        if (request.Previous == null) _first = request.Next;
        else request.Previous.Next = request.Next;
        if (request.Next == null) _last = request.Previous;
        else request.Next.Previous = request.Previous;
        request.Next = request.Previous = null;
        Count--;
    }
}
