namespace FlashOrleans.Flash;

/// <summary>
/// The files that the kernel holds for the ring (registered files of io_uring), so that a read need not look its descriptor up: each from its first read until it is closed. The ring's thread alone, but for
/// <see cref="Forget"/>, which comes from whoever closes a file and only leaves word: a file that is held stays open and keeps its room on the disk. What finds no place is read by its descriptor.
/// </summary>
/// <param name="attend">Wakes the ring's thread, any thread.</param>
internal sealed class RingFiles(Action attend)
{
    /// <summary>Slices of a few models of 80 layers.</summary>
    private const int Most = 256;

    private readonly Lock _gate = new();
    private readonly List<DirectFile> _closed = [];
    private readonly Dictionary<DirectFile, int> _places = [];
    private readonly Stack<int> _free = new();
    private bool _made;
    private volatile bool _pending;

    public bool Pending => _pending;
    /// <summary>Files in the table; any thread.</summary>
    public int Held { get; private set; }

    /// <summary>The place of a file, which is open, or -1.</summary>
    public int Find(IoRing ring, DirectFile file, int fd)
    {
        if (_places.TryGetValue(file, out int place)) return place;
        if (!_made)
        {
            _made = true;
            if (ring.TryMakeFiles(Most))
                for (int i = Most - 1; i >= 0; i--) _free.Push(i);
        }
        if (!_free.TryPeek(out place) || !ring.TryRegister(place, fd)) place = -1;
        else
        {
            _free.Pop();
            Held++;
        }
        // One without a place is remembered too: asking again would cost a call a read.
        _places.Add(file, place);
        file.Closing += Forget;
        if (file.Direct!.IsClosed) Forget(file);
        return place;
    }

    /// <summary>The ring's thread: lets go of what was closed.</summary>
    public void Apply(IoRing ring)
    {
        lock (_gate)
        {
            foreach (DirectFile file in _closed)
            {
                file.Closing -= Forget;
                if (!_places.Remove(file, out int place) || place < 0) continue;
                ring.TryRegister(place, -1);
                _free.Push(place);
                Held--;
            }
            _closed.Clear();
            _pending = false;
        }
    }

    /// <summary>After the ring: files that live on do not keep it.</summary>
    public void Leave()
    {
        foreach (DirectFile file in _places.Keys) file.Closing -= Forget;
    }

    private void Forget(DirectFile file)
    {
        lock (_gate)
        {
            _closed.Add(file);
            _pending = true;
        }
        attend();
    }
}
