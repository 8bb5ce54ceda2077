using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Units of one flash region and the window that holds some of them: the neuron bundles of a layer, or embedding rows. Conductor thread only,
/// except <see cref="IReadCompletion.Completed"/>, which an I/O thread calls and which only enqueues. A step acquires the units it needs; those that are
/// neither held nor on their way are read as demand, merged with their neighbours. A unit never has two reads at once. The store counts what it did.
/// </summary>
internal sealed unsafe class UnitStore : IReadCompletion, IDisposable
{
    private readonly IFlashReader _reader;
    private readonly Action<UnitStore, ReadRequest> _completed;
    /// <summary>Room from the start: how many wait at once depends on the device, and a step must not allocate because it is slow.</summary>
    private const int Waiting = 256;
    /// <summary>Reads of one store that are under way or wait, at most: far more than the device takes, and memory that can be planned for.</summary>
    internal const int MostRequests = 512;
    /// <summary>Requests that nobody uses; the conductor's stores share them, since seldom more than one or two read at a time.</summary>
    public Stack<ReadRequest> Idle { private get; init; } = new(Waiting);
    private readonly Queue<ReadRequest> _unsentDemand = new(Waiting);
    /// <summary>A list, since one in the middle may turn into demand.</summary>
    private readonly List<ReadRequest> _unsentLater = new(Waiting);
    /// <summary>What is read ahead and not settled.</summary>
    private readonly List<ReadRequest> _ahead = new(Waiting);
    private readonly ReadRequest?[] _requestOf;
    private readonly Trust[] _trust;
    private readonly bool[] _unsound;
    private ReadRequest? _open;
    /// <summary>That a read of several units brings.</summary>
    private readonly int _mostBytes;

    /// <summary>Whether what a slot holds has been checked against the unit's checksum.</summary>
    private enum Trust : byte { Checked, Unchecked, Wrong }

    /// <param name="region">The units.</param>
    /// <param name="slots">That its window has.</param>
    /// <param name="reader">Reads them.</param>
    /// <param name="ledger">Counts the window.</param>
    /// <param name="name">Its name there.</param>
    /// <param name="completed">Told of every request that is done, by an I/O thread.</param>
    /// <param name="pool">Where there is one, units below <paramref name="slots"/> stay once they are there, and the others pass through it.</param>
    /// <param name="retention">Which units stay; null: as for neurons.</param>
    public UnitStore(UnitRegion region, int slots, IFlashReader reader, MemoryLedger ledger, string name, Action<UnitStore, ReadRequest> completed, SlotPool? pool = null, Retention? retention = null)
    {
        Region = region;
        Window = new Window(region.Count, slots, region.SlotBytes, ledger, name, pool, retention);
        _reader = reader;
        _completed = completed;
        _requestOf = new ReadRequest?[Window.Slots];
        _mostBytes = region.PartBytes < ReadPlanner.GatherBytes ? ReadPlanner.GatherBytes : ReadPlanner.DefaultMaxBytes;
        _trust = new Trust[Window.Slots];
        _unsound = new bool[Window.Slots];
        if (Lends) _reader.Lend(Window.Buffer.Pointer, Window.Buffer.Length);
    }

    /// <summary>What is never read into as pinned memory is not pinned: of gigabytes that takes seconds.</summary>
    private bool Lends => Window.Own > 0 && !Region.IsLong;

    public UnitRegion Region { get; }
    public Window Window { get; }
    /// <summary>Requests handed out and not yet settled; the store may be disposed only at 0.</summary>
    public int Outstanding { get; private set; }
    public object? Owner { get; init; }
    /// <summary>Units are checked by who uses them first (<see cref="Check"/>), on the compute threads: they have to fetch them anyway, and one I/O thread that hashes everything it reads is slower than the device.</summary>
    public bool ChecksLate { get; init; }
    /// <summary>Gaps up to this are read across.</summary>
    public int GapBytes { get; init; } = ReadPlanner.DefaultGapBytes;
    /// <summary>Units below this id stay once they are there.</summary>
    public int Resident { get; init; }

    public long DemandBytes { get; private set; }
    public long PrefetchBytes { get; private set; }
    public long DemandReads { get; private set; }
    public long PrefetchIssued { get; private set; }
    /// <summary>Of the issued ones: they were refuted before their read began.</summary>
    public long PrefetchWithdrawn { get; private set; }
    /// <summary>Units that were read ahead; those that a step waited for in the end among them.</summary>
    public long PrefetchRead { get; private set; }
    public long PrefetchUseful { get; private set; }
    public long Needed { get; private set; }
    public long Hits { get; private set; }
    public long Late { get; private set; }
    /// <summary>Needed units that the window would not have held without look-ahead.</summary>
    public long Cold { get; private set; }
    /// <summary>First error in words since the last one was taken.</summary>
    public string? LastError { get; private set; }

    /// <summary>Address of a unit's part in its slot, as if the whole unit were there: add an offset inside the unit.</summary>
    public byte* UnitBase(int slot, int unit) => Window.Memory(slot) + Region.Delta(unit) - Region.PartOffset;

    /// <summary>
    /// Pins a unit for the running step: its slot, or -1 when every slot is pinned or being read, or as many reads are under way as may be: then one of them will end. <paramref name="ready"/> is false while its bytes
    /// are on their way; <see cref="Flush"/> sends the reads. Call in ascending order so that neighbours share a read. Others' demand goes before reads that are not <paramref name="urgent"/>. <paramref name="uses"/>: what the step's tokens make of it, as in <see cref="Window.Touch"/>.
    /// </summary>
    public int Acquire(int unit, out bool ready, bool urgent = true, float uses = 1)
    {
        int slot = Window.Find(unit);
        if (slot >= 0)
        {
            Window.Pin(slot);
            Window.Touch(slot, uses);
            ready = Window.State(slot) == SlotState.Ready;
            Needed++;
            if (Window.TakePrefetched(slot))
            {
                PrefetchUseful++;
                Cold++;
            }
            if (ready) Hits++;
            else
            {
                Late++;
                if (urgent && _requestOf[slot] is { } request) Promote(request);
            }
            return slot;
        }
        ready = false;
        if (Outstanding >= MostRequests) return -1;
        slot = Window.Reserve(unit);
        if (slot < 0) return -1;
        Needed++;
        Cold++;
        Window.Touch(slot, uses);
        Add(unit, slot, urgent ? ReadClass.Demand : ReadClass.Sweep);
        return slot;
    }

    /// <summary>Units of this store that a step has elsewhere (<see cref="Stretches"/>): they count as used and, where they are there already, as hits.</summary>
    public void Passes(int unit, bool ready)
    {
        Window.Use(unit);
        Needed++;
        if (ready) Hits++;
    }

    /// <summary>Copies a checked unit into the window if it deserves a slot more than what would have to go. <paramref name="at"/> as <see cref="UnitBase"/>.</summary>
    public void Adopt(int unit, byte* at)
    {
        int slot = Window.Admit(unit);
        if (slot < 0) return;
        Buffer.MemoryCopy(at + Region.PartOffset, Window.Memory(slot) + Region.Delta(unit), Region.PartBytes, Region.PartBytes);
        _trust[slot] = Trust.Checked;
        Window.Filled(slot);
    }

    /// <summary>Keeps a unit that is held already for the step that is predicted to want it.</summary>
    public void Expect(int unit)
    {
        if ((uint)unit >= (uint)Region.Count) return;
        int slot = Window.Find(unit);
        if (slot >= 0) Window.Expect(slot);
    }

    /// <summary>Keeps a unit that is held already until this step has come to it.</summary>
    public void Need(int unit)
    {
        int slot = Window.Find(unit);
        if (slot >= 0) Window.Need(slot);
    }

    /// <summary>Reads a unit ahead if it is not held and a slot can be spared. False: no slot. Ids that do not exist (a hint is only a hint) are passed over.</summary>
    public bool Prefetch(int unit)
    {
        if ((uint)unit >= (uint)Region.Count) return true;
        if (Window.Find(unit) >= 0) return true;
        if (Outstanding >= MostRequests) return false;
        int slot = Window.ReservePrefetch(unit);
        if (slot < 0) return false;
        PrefetchIssued++;
        Add(unit, slot, ReadClass.Prefetch);
        return true;
    }

    /// <summary>Now that it is known which units are needed (by unit): reads ahead of none of them are taken back, as far as the device has not begun with them, and their slots are free. True: there is room in the reader's queue, which other stores may wait for.</summary>
    public bool WithdrawGuesses(ReadOnlySpan<bool> needed)
    {
        CloseOpen();
        long before = PrefetchWithdrawn;
        for (int i = _ahead.Count - 1; i >= 0; i--)
        {
            var request = _ahead[i];
            if (IsWanted(request, needed)) continue;
            if (!_unsentLater.Remove(request) && !_reader.TryTakeBack(request)) continue;
            _ahead.RemoveAt(i);
            for (int k = 0; k < request.Count; k++)
            {
                _requestOf[request.Slots[k]] = null;
                Window.Failed(request.Slots[k]);
            }
            PrefetchWithdrawn += request.Count;
            Outstanding--;
            Idle.Push(request);
        }
        return PrefetchWithdrawn > before;
    }

    private bool IsWanted(ReadRequest request, ReadOnlySpan<bool> needed)
    {
        for (int k = 0; k < request.Count; k++)
            if (needed[request.Units[k]] || Window.Pins(request.Slots[k]) > 0) return true;
        return false;
    }

    /// <summary>A unit that got no slot would get one now.</summary>
    public bool HasRoom => Outstanding < MostRequests && Window.HasRoom;

    /// <summary>Reads ahead what a scan will miss, in its order, as far as there are slots; false when there are no more.</summary>
    public bool ReadAhead()
    {
        bool room = true;
        for (int unit = 0; unit < Region.Count && room; unit++) room = Window.Find(unit) >= 0 || Prefetch(unit);
        Flush();
        return room;
    }

    /// <summary>Sends what <see cref="Acquire"/> and <see cref="Prefetch"/> gathered, and what the reader's full queue held back before, demand first.
    /// The queue is shared with other stores: whoever settles any read must flush all of them, or one whose requests were all refused waits for ever.</summary>
    public void Flush()
    {
        CloseOpen();
        while (_unsentDemand.TryPeek(out var request) && _reader.TrySubmit(request)) _unsentDemand.Dequeue();
        int sent = 0;
        while (sent < _unsentLater.Count && _reader.TrySubmit(_unsentLater[sent])) sent++;
        _unsentLater.RemoveRange(0, sent);
    }

    /// <summary>True when the unit in a slot has yet to be checked.</summary>
    public bool IsUnchecked(int slot) => _trust[slot] != Trust.Checked;

    /// <summary>Compute threads: checks a ready unit if nobody has since it was read; false when it is wrong (<see cref="RereadIfWrong"/>).</summary>
    public bool Check(int unit, int slot)
    {
        if (_trust[slot] == Trust.Unchecked) _trust[slot] = Region.Verify(unit, Window.Memory(slot) + Region.Delta(unit)) == ReadFault.None ? Trust.Checked : Trust.Wrong;
        return _trust[slot] == Trust.Checked;
    }

    /// <summary>Compute threads: checks one span of an unchecked unit; several threads may check those of one. <see cref="Checked"/> follows.</summary>
    public void CheckSpan(int unit, int slot, int span)
    {
        if (_trust[slot] == Trust.Unchecked && !Region.IsSound(unit, Window.Memory(slot) + Region.Delta(unit), span)) Volatile.Write(ref _unsound[slot], true);
    }

    /// <summary>Compute threads: what one span of an unchecked unit hashes to, for who reads it anyway. <see cref="Checked"/> follows.</summary>
    public void Hashed(int unit, int slot, int span, ulong hash)
    {
        if (!Region.Matches(unit, span, hash)) Volatile.Write(ref _unsound[slot], true);
    }

    /// <summary>All spans of a unit have been checked; false when one is wrong (<see cref="RereadIfWrong"/>).</summary>
    public bool Checked(int slot)
    {
        if (_trust[slot] == Trust.Unchecked) _trust[slot] = _unsound[slot] ? Trust.Wrong : Trust.Checked;
        _unsound[slot] = false;
        return _trust[slot] == Trust.Checked;
    }

    /// <summary>True for a pinned unit that failed its check: it is being read once more, by a reader that checks, and becomes ready or fails like any other.</summary>
    public bool RereadIfWrong(int unit, int slot)
    {
        if (_trust[slot] != Trust.Wrong) return false;
        if (Window.State(slot) != SlotState.Ready) return true;
        Window.Refill(slot);
        CloseOpen();
        Add(unit, slot, ReadClass.Demand);
        _open!.Verify = true;
        CloseOpen();
        return true;
    }

    public void Release(int slot)
    {
        // A resident unit keeps the pin of the step that brought it; one that a broken-off step leaves on its way may still fail, and then its slot must come back.
        if (Window.Pins(slot) == 1 && Window.State(slot) == SlotState.Ready && (uint)Window.UnitOf(slot) < (uint)Resident) return;
        Window.Unpin(slot);
    }

    void IReadCompletion.Completed(ReadRequest request) => _completed(this, request);

    /// <summary>
    /// Settles a completed request: slots become ready or fail; <paramref name="arrived"/> is told each (unit, slot, fault). Then the request is reused; the
    /// caller flushes.
    /// </summary>
    public void Settle(ReadRequest request, Action<int, int, ReadFault>? arrived)
    {
        if (request.Class != ReadClass.Prefetch)
        {
            DemandBytes += request.BytesRead;
            DemandReads++;
        }
        else
        {
            PrefetchBytes += request.BytesRead;
            PrefetchRead += request.Count;
            _ahead.Remove(request);
        }
        for (int i = 0; i < request.Count; i++)
        {
            int slot = request.Slots[i];
            _requestOf[slot] = null;
            _trust[slot] = request.Verify ? Trust.Checked : Trust.Unchecked;
            if (request.Faults[i] == ReadFault.None) Window.Filled(slot);
            else
            {
                LastError = request.Error;
                Window.Failed(slot);
            }
            arrived?.Invoke(request.Units[i], slot, request.Faults[i]);
        }
        Outstanding--;
        Idle.Push(request);
    }

    public void Dispose()
    {
        if (Outstanding != 0) throw new InvalidOperationException("reads are still under way");
        if (Lends) _reader.Withdraw(Window.Buffer.Pointer);
        Window.Dispose();
    }

    private void Add(int unit, int slot, ReadClass kind)
    {
        byte* memory = Window.Memory(slot);
        if (_open is { } open && (open.Class != kind || !open.TryAdd(unit, slot, memory, GapBytes, _mostBytes))) CloseOpen();
        if (_open == null)
        {
            if (!Idle.TryPop(out var request)) request = new ReadRequest();
            request.Reset(Region, kind, this);
            request.Verify = !ChecksLate;
            request.TryAdd(unit, slot, memory);
            _open = request;
            Outstanding++;
        }
        _requestOf[slot] = _open;
    }

    private void CloseOpen()
    {
        if (_open is not { } open) return;
        _open = null;
        if (open.Class == ReadClass.Demand) _unsentDemand.Enqueue(open);
        else _unsentLater.Add(open);
        if (open.Class == ReadClass.Prefetch) _ahead.Add(open);
    }

    /// <summary>A step waits for a unit that is on its way: what had time is demand now, wherever it is.</summary>
    private void Promote(ReadRequest request)
    {
        bool open = ReferenceEquals(request, _open);
        if (!open && !_unsentLater.Remove(request))
        {
            _reader.Promote(request);
            return;
        }
        if (request.Class == ReadClass.Prefetch)
        {
            PrefetchRead += request.Count;
            _ahead.Remove(request);
        }
        request.Class = ReadClass.Demand;
        if (!open) _unsentDemand.Enqueue(request);
    }
}
