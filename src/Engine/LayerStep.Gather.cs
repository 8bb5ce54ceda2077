using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// How the needed units of a feed-forward come from flash, are summed and go. Units are acquired in ascending order as far as the window has slots, and cut into segments, one a
/// block of neurons. A segment is summed into its block's partial sum as soon as its units are there, in any order, and gives them back at once, so that reads
/// follow each other without a pause; finished blocks are added in ascending order. A block cut where the window was full goes on later with the same partial sum,
/// so neither window nor arrival order can change a bit.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Units [From, To) of the needed ones, of one block, that are summed together.</summary>
    private struct Segment
    {
        public int Block, From, To, Missing;
        public bool Cold, Done;
    }

    /// <summary>By index of needed unit: its slot, or -1 once given back (those of stretches are behind the window's); where it is, as <see cref="UnitStore.UnitBase"/>; segments that have yet to use it; the first of them.</summary>
    private int[] _neededSlot = new int[64];
    private nint[] _neededAt = new nint[64];
    private byte[] _uses = new byte[64];
    private int[] _segmentOf = new int[64];
    private bool[] _neededFailed = new bool[64];
    /// <summary>By index: the window did not hold it when the step began.</summary>
    private bool[] _neededCold = new bool[64];
    /// <summary>By index: its read is under way.</summary>
    private bool[] _late = new bool[64];
    /// <summary>By slot: the index that waits for its read, or -1; of a stretch the first one.</summary>
    private int[] _awaiting = [];
    private int _acquired, _opened;
    /// <summary>Acquired units whose reads are under way.</summary>
    private int _awaited;
    private bool _noSlot, _noStretch;
    /// <summary>Of experts no more than this is awaited at a time, enough for the device: the more slots are taken at once the fewer are left to choose from what the window gives away, and a step that needs most experts would leave it the last ones by number.</summary>
    private const int MostAwaitedBytes = 24 << 20;

    /// <summary>It has stopped for want of a slot.</summary>
    public bool WantsSlot => _noSlot;
    /// <summary>And that is one for a stretch.</summary>
    public bool WantsStretch => _noStretch;
    private readonly List<Segment> _segments = [];
    /// <summary>All segments before it are done.</summary>
    private int _firstLive;
    private readonly List<int> _ready = [];
    private readonly List<int> _freePartials = [];
    private int[] _partialOf = [];
    /// <summary>Rows from one partial sum to the next; whole groups where a dense feed-forward's activations lie beside them.</summary>
    private int _openRows;
    private int _nextFold;
    /// <summary>With fewer segments than this a step that waits for reads goes on waiting.</summary>
    private const int SegmentsPerThread = 8;
    /// <summary>Sums of all rows that a thread adds blocks to at a time: they stay in the first cache.</summary>
    private const int FoldColumns = 2048;
    private readonly List<int> _folding = [];
    private Action<int, int>? _segmentJob, _foldJob;

    private void BeginGather()
    {
        var bundles = _layer.Bundles!;
        if (_neededSlot.Length < _needed.Length)
        {
            _neededSlot = new int[_needed.Length];
            _neededAt = new nint[_needed.Length];
            _late = new bool[_needed.Length];
            _uses = new byte[_needed.Length];
            _segmentOf = new int[_needed.Length];
            _neededFailed = new bool[_needed.Length];
            _neededCold = new bool[_needed.Length];
        }
        Array.Clear(_uses, 0, _neededCount);
        Array.Clear(_neededFailed, 0, _neededCount);
        Array.Clear(_late, 0, _neededCount);
        int slots = bundles.Window.Slots + (_layer.Stretches?.Store.Window.Slots ?? 0);
        if (_awaiting.Length < slots) _awaiting = new int[slots];
        Array.Fill(_awaiting, -1);
        if (_partialOf.Length < _layer.Blocks)
        {
            _partialOf = new int[_layer.Blocks];
            _fresh = new bool[_layer.Blocks];
        }
        Array.Fill(_partialOf, -1);
        _freePartials.Clear();
        _freePartials.EnsureCapacity(_layer.Blocks);
        // The fewer the rows the more blocks may be open: one session's blocks are all summed at once.
        _openRows = IsDenseProduct ? (_rows + Kernels.TokenGroup - 1) / Kernels.TokenGroup * Kernels.TokenGroup : _rows;
        for (int i = (int)Math.Min(_layer.Blocks, _partialRows / _openRows) - 1; i >= 0; i--) _freePartials.Add(i);
        _segments.Clear();
        // A block may be cut, seldom more than once: what varies from step to step must not allocate in one of them.
        _segments.EnsureCapacity(2 * _layer.Blocks + 16);
        _ready.EnsureCapacity(2 * _layer.Blocks + 16);
        _folding.EnsureCapacity(_layer.Blocks);
        _itemFrom.EnsureCapacity(2 * _layer.Blocks + 17);
        _acquired = _awaited = _opened = _firstLive = _nextFold = 0;
        _noSlot = _noStretch = false;
        BeginStretches();
    }

    /// <summary>Goes as far as the units that are there allow; true when every needed neuron is summed. Prefill gives way to decode between two tiles.</summary>
    private bool AdvanceFeedForward()
    {
        for (int tile = 0; ; tile++)
        {
            if (tile > 0 && !IsDecode && GivesWay?.Invoke() == true)
            {
                Runnable = _gaveWay = true;
                return false;
            }
            Acquire();
            if (_acquired == _neededCount) _layer.ReadAhead(_rows);
            AddSharedExpert();
            Open();
            bool ran = RunReadySegments();
            Fold();
            if (_opened == _neededCount && _firstLive == _segments.Count) break;
            if (!ran && !FailRest()) return false;
            Poll?.Invoke();
        }
        Runnable = false;
        _layer.ObserveLookAhead(_rows, _neededCount, (int)(_layer.Bundles!.Cold - _coldBefore));
        _layer.ReadAhead(_rows);
        return true;
    }

    /// <summary>Pins the next units and starts the reads of those that are not there.</summary>
    private void Acquire()
    {
        var bundles = _layer.Bundles!;
        _noSlot = _noStretch = false;
        if (AcquireAgain())
        {
            int most = _layer.ByExpert ? Math.Max(2, Math.Min(MostAwaitedBytes / bundles.Region.SlotBytes, bundles.Window.Slots / 4)) : int.MaxValue;
            while (_acquired < _neededCount && _awaited < most)
            {
                if (_layer.Stretches?.IsWhole(_needed[_acquired]) == true ? AcquireStretch() : AcquireUnit()) continue;
                _noSlot = true;
                break;
            }
        }
        _layer.FlushReads();
    }

    private bool AcquireUnit()
    {
        int unit = _needed[_acquired];
        var bundles = _layer.Bundles!;
        long before = bundles.Cold;
        int slot = bundles.Acquire(unit, out bool ready, urgent: IsDecode, _layer.ByExpert ? _unitUses[unit] : 1);
        if (slot < 0) return false;
        _neededCold[_acquired] = bundles.Cold != before;
        if (!ready) _awaiting[slot] = _acquired;
        TakeAt(slot, bundles.UnitBase(slot, unit), ready);
        return true;
    }

    /// <summary>The next needed unit is in this slot, or will be.</summary>
    private void TakeAt(int slot, byte* at, bool ready)
    {
        _neededSlot[_acquired] = slot;
        _neededAt[_acquired] = (nint)at;
        if (!ready)
        {
            _late[_acquired] = true;
            _awaited++;
        }
        _acquired++;
    }

    /// <summary>Puts acquired units into segments as far as there are partial sums for their blocks.</summary>
    private void Open()
    {
        for (; _opened < _acquired; _opened++)
        {
            var (first, last) = BlocksOf(_needed[_opened]);
            if (_layer.ByExpert ? !OpenExpert(_opened) : !OpenBlocks(first, last)) return;
            bool missing = _late[_opened];
            for (int b = first; b <= last; b++)
            {
                int at = SegmentFor(b);
                ref var segment = ref CollectionsMarshal.AsSpan(_segments)[at];
                segment.To = _opened + 1;
                segment.Cold |= _neededCold[_opened];
                if (missing) segment.Missing++;
                if (_uses[_opened]++ == 0) _segmentOf[_opened] = at;
            }
        }
    }

    /// <summary>The segment of a block that a unit joins: the last one or, where a unit lies in two blocks, the one before it, unless it is summed already.</summary>
    private int SegmentFor(int block)
    {
        var segments = CollectionsMarshal.AsSpan(_segments);
        for (int s = segments.Length - 1; s >= 0 && segments[s].Block >= block; s--)
        {
            if (segments[s].Block == block && !segments[s].Done) return s;
        }
        _segments.Add(new Segment { Block = block, From = _opened });
        return _segments.Count - 1;
    }

    private (int First, int Last) BlocksOf(int unit)
    {
        int first = unit * _layer.Bundle.Group;
        int last = Math.Min(first + _layer.Bundle.Group, _layer.Neurons) - 1;
        return (first / _layer.BlockNeurons, last / _layer.BlockNeurons);
    }

    /// <summary>Gives each block a partial sum, from +0; false when none is free.</summary>
    private bool OpenBlocks(int first, int last)
    {
        for (int b = first; b <= last; b++)
        {
            if (_partialOf[b] >= 0) continue;
            if (_freePartials.Count == 0) return false;
            _partialOf[b] = _freePartials[^1];
            _freePartials.RemoveAt(_freePartials.Count - 1);
            // Cleared by the thread that first adds to it.
            _fresh[b] = true;
        }
        return true;
    }

    private float* Partial(int block) => _partials + (long)_partialOf[block] * _openRows * _layer.Config.HiddenSize;

    private void FeedForwardArrived(int slot, ReadFault fault)
    {
        Runnable |= _noSlot;
        int index = slot < _awaiting.Length ? _awaiting[slot] : -1;
        if (index < 0) return;
        _awaiting[slot] = -1;
        UnitArrived(index, fault);
    }

    private void UnitArrived(int index, ReadFault fault)
    {
        _late[index] = false;
        _awaited--;
        if (fault != ReadFault.None) FailUnit(index);
        if (index >= _opened) return;
        var segments = CollectionsMarshal.AsSpan(_segments);
        for (int s = _segmentOf[index], left = _uses[index]; left > 0; s++)
        {
            if (segments[s].From > index || index >= segments[s].To) continue;
            left--;
            if (--segments[s].Missing == 0) Runnable = true;
        }
    }

    /// <summary>Sums segments whose units are all there, those that give slots back first. False when there was none.</summary>
    private bool RunReadySegments()
    {
        var segments = CollectionsMarshal.AsSpan(_segments);
        bool tiles = !IsDecode && Tiles?.Invoke() == true, waiting = tiles || _acquired < _neededCount;
        long most = Math.Max(1, TurnBytes / _layer.Bundles!.Region.SlotBytes), units = 0;
        _ready.Clear();
        // Of experts one is enough to go on with: it is divided among the threads.
        if (_layer.ByExpert) most = Math.Max(most, (_slabwise ? 4 : 1) * pool.Threads);
        else if (_acquired == _neededCount && _again.Count == 0 && Gathers(segments)) return false;
        for (int i = _firstLive; i < segments.Length; i++)
        {
            if (segments[i].Missing > 0) waiting = true;
            else if (!segments[i].Done && segments[i].Cold && (!tiles || units < most)) units += Take(segments, i);
        }
        for (int i = _firstLive; i < segments.Length && (!waiting || units < most); i++)
        {
            if (!segments[i].Done && segments[i].Missing == 0) units += Take(segments, i);
        }
        if (_ready.Count == 0) return false;
        // An upper bound of the work: in exact mode a needed neuron serves few of the rows.
        long work = units * _layer.Bundle.Group * _rows * _layer.Config.HiddenSize * 2;
        _computedNeurons = _trueNeurons = _auditTrue = _auditMissed = 0;
        if (_layer.Mode == FeedForwardMode.Dense)
        {
            if (_layer.ByExpert) RunExperts(segments, units, work);
            else
            {
                CheckReady(segments, units);
                WithdrawWrong(segments);
                if (_ready.Count > 0) RunDense(work);
            }
        }
        else
        {
            Itemise(segments);
            pool.Run(_segmentJob ??= SegmentsItem, _itemFrom.Count - 1, work > ParallelWork / 8);
            WithdrawWrong(segments);
        }
        if (_ready.Count == 0) return _again.Count > 0;
        _layer.Count.Computed += _computedNeurons;
        _layer.Count.Active += _trueNeurons;
        _layer.Count.AuditActive += _auditTrue;
        _layer.Count.AuditMissed += _auditMissed;
        foreach (int i in _ready)
        {
            for (int k = segments[i].From; k < segments[i].To; k++)
            {
                if (--_uses[k] > 0) continue;
                if (IsPassing(k) && !_neededFailed[k]) _layer.Bundles!.Adopt(_needed[k], (byte*)_neededAt[k]);
                GiveBack(k);
            }
        }
        while (_firstLive < segments.Length && segments[_firstLive].Done) _firstLive++;
        return true;
    }

    /// <summary>True while it is better to wait: all reads are under way, and what is there is not worth dividing among the threads. Nothing else waits for it, and the device goes on meanwhile.</summary>
    private bool Gathers(ReadOnlySpan<Segment> segments)
    {
        int there = 0, missing = 0;
        for (int i = _firstLive; i < segments.Length; i++)
        {
            if (segments[i].Missing > 0) missing++;
            else if (!segments[i].Done) there++;
        }
        return missing > 0 && there < SegmentsPerThread * pool.Threads && pool.Threads > 1;
    }

    private int Take(Span<Segment> segments, int index)
    {
        segments[index].Done = true;
        _ready.Add(index);
        return segments[index].To - segments[index].From;
    }

    private void GiveBack(int index)
    {
        int slot = _neededSlot[index];
        if (slot < 0) return; // a unit of a stretch that nobody could read
        if (IsPassing(index)) _layer.Stretches!.GiveBack(slot - _layer.Bundles!.Window.Slots);
        else
        {
            _layer.Bundles!.Release(slot);
            if (_late[index]) _awaiting[slot] = -1;
        }
        if (_late[index])
        {
            _late[index] = false;
            _awaited--;
        }
        _neededSlot[index] = -1;
    }

    /// <summary>Adds finished blocks in ascending order, threads splitting the rows.</summary>
    private void Fold()
    {
        if (_layer.ByExpert)
        {
            FoldExperts();
            return;
        }
        int end = _firstLive < _segments.Count ? _segments[_firstLive].Block : _opened < _neededCount ? BlocksOf(_needed[_opened]).First : _layer.Blocks;
        _folding.Clear();
        for (int b = _nextFold; b < end; b++)
        {
            // y starts at +0 and a sum of finite floats never becomes -0 from there, so a block of zeros is neutral. A partial sum that was not begun is zero, or its block was added directly.
            if (_partialOf[b] >= 0 && !_fresh[b]) _folding.Add(b);
        }
        int columns = _rows * _layer.Config.HiddenSize;
        pool.Run(_foldJob ??= FoldItem, _folding.Count == 0 ? 0 : (columns + FoldColumns - 1) / FoldColumns, (long)columns * _folding.Count > ParallelWork / 8);
        for (; _nextFold < end; _nextFold++)
        {
            if (_partialOf[_nextFold] < 0) continue;
            _freePartials.Add(_partialOf[_nextFold]);
            _partialOf[_nextFold] = -1;
        }
    }

    private void FoldItem(int item, int worker)
    {
        int from = item * FoldColumns, n = Math.Min(FoldColumns, _rows * _layer.Config.HiddenSize - from);
        foreach (int block in _folding) kernels.Add(_y + from, Partial(block) + from, n);
    }

    /// <summary>Gives back everything that is still pinned: the step was broken off.</summary>
    private void AbandonGather()
    {
        for (int i = 0; i < _acquired; i++)
        {
            if (_neededSlot[i] >= 0) GiveBack(i);
        }
        _acquired = 0;
        _again.Clear();
    }
}
