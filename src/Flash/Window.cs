namespace FlashOrleans.Flash;

public enum SlotState : byte { Free, Reading, Ready }

/// <summary>
/// The DRAM window of one layer: native slots that hold the bundles (units) of recently active neurons.
/// Owned by the conductor thread alone (no locks); I/O threads only fill the memory of slots in state Reading.
/// Id↔slot maps and slot memory are allocated once; rows are never copied or moved. Eviction takes the unpinned Ready slot
/// with the lowest <see cref="WindowScore"/>; of short units from a batch chosen in one pass over the slots, so that one eviction
/// costs O(log) and not O(slots). A unit's history outlives its stay: one that comes back is not a stranger.
/// With a <see cref="SlotPool"/> nothing is evicted: units below <see cref="Own"/> have a slot of their own, the others borrow one and give it back with their last pin.
/// Misuse (a slot in the wrong state, a second slot for a unit) is an exception: it is a bug of the caller, and going on would serve wrong rows.
/// </summary>
public sealed unsafe class Window : IDisposable
{
    /// <summary>Steps for which a prefetched slot is kept for the step that it was fetched for.</summary>
    public const int PrefetchHold = 2;
    private const byte Prefetched = 1, Used = 2, Expected = 4, Needed = 8;
    /// <summary>Of units so long every slot is looked at for an eviction: they are few, so that a batch would be a large part of them that does not know what has been used since, and reading one takes far longer than the look.</summary>
    public const int LongUnit = 128 << 10;
    /// <summary>Above every score.</summary>
    private const float NeededScore = 1e9f;

    private readonly NativeBuffer _memory;
    private readonly SlotPool? _pool;
    private readonly int _slotBytes;
    private readonly int[] _slotOf;
    private readonly int[] _unitOf;
    private readonly SlotState[] _state;
    private readonly int[] _pins;
    private readonly byte[] _flags;
    private readonly int[] _prefetchStep;
    private readonly int[] _free;
    private readonly WindowScore _score;
    private readonly EvictionBatch _batch;
    private EvictableList _evictable;
    private int _freeCount;
    private int _step, _batchStep = -1;
    /// <summary>Borrowed slots with a pin: their user goes on and gives them back.</summary>
    private int _borrowedInUse;

    /// <param name="units">Units of the layer.</param>
    /// <param name="own">Slots to hold in DRAM; 0 only with a pool.</param>
    /// <param name="slotBytes"><see cref="UnitRegion.SlotBytes"/> of the region read into it: a multiple of the device's alignment, so every slot is aligned.</param>
    /// <param name="ledger">Counts the memory.</param>
    /// <param name="name">Its name there.</param>
    /// <param name="pool">Lends slots to the units that have none of their own.</param>
    /// <param name="retention">How uses age; of neurons where it is null.</param>
    public Window(int units, int own, int slotBytes, MemoryLedger ledger, string name, SlotPool? pool = null, Retention? retention = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(units);
        ArgumentOutOfRangeException.ThrowIfLessThan(own, pool == null ? 1 : 0);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(slotBytes);
        if (pool != null) ArgumentOutOfRangeException.ThrowIfGreaterThan(slotBytes, pool.SlotBytes);
        _memory = new NativeBuffer((long)own * slotBytes, ledger, name);
        _pool = pool;
        _slotBytes = slotBytes;
        Own = own;
        int slots = own + (pool?.Count ?? 0);
        _slotOf = new int[units];
        Array.Fill(_slotOf, -1);
        _unitOf = new int[slots];
        Array.Fill(_unitOf, -1);
        _state = new SlotState[slots];
        _pins = new int[slots];
        _flags = new byte[slots];
        _prefetchStep = new int[slots];
        _free = new int[own];
        for (int i = 0; i < own; i++) _free[i] = own - 1 - i;
        _freeCount = own;
        Retention = retention ?? Retention.Neurons;
        PrefetchScoreLimit = Retention.DoubtfulGuess;
        _score = new WindowScore(units, Retention);
        _batch = new EvictionBatch(Math.Min(slots, Math.Max(8, slots / 8)));
        _evictable = new EvictableList(slots);
    }

    /// <summary>Its own slots, which lie one after the other.</summary>
    public NativeBuffer Buffer => _memory;
    public int Units => _slotOf.Length;
    /// <summary>Slots that its units can be in: its own, and with a pool the pool's behind them.</summary>
    public int Slots => _unitOf.Length;
    public int Own { get; }
    public Retention Retention { get; }
    /// <summary>Slots that could be handed out now: free or evictable.</summary>
    public int Available => _freeCount + _evictable.Count;
    /// <summary>Own slots with a unit in them, or one on its way.</summary>
    public int Occupied => Own - _freeCount;
    /// <summary>A unit that got no slot would get one now.</summary>
    public bool HasRoom => _pool == null ? Available > 0 : _pool.Free > 0 || (MayReclaim && _pool.HasUnused);
    /// <summary>Units that left the window to make room.</summary>
    public long Evictions { get; private set; }
    /// <summary>Prefetched units that were evicted before anyone used them.</summary>
    public long PrefetchEvictedUnused { get; private set; }
    /// <summary>Prefetch takes no slot whose score is above this.</summary>
    public float PrefetchScoreLimit { get; set; }

    /// <summary>Slot of a unit, or -1. The slot may still be Reading.</summary>
    public int Find(int unit) => _slotOf[unit];
    public SlotState State(int slot) => _state[slot];
    public int UnitOf(int slot) => _unitOf[slot];
    public int Pins(int slot) => _pins[slot];
    public byte* Memory(int slot) =>
        (uint)slot < (uint)Own ? _memory.Pointer + (long)slot * _slotBytes
        : (uint)slot < (uint)Slots ? _pool!.Memory(slot - Own)
        : throw Misuse(slot, "does not exist");
    /// <summary>Score of a slot's unit now: lowest is evicted first.</summary>
    public float Score(int slot) => _score.Of(_unitOf[slot]) + (IsNeeded(slot) ? NeededScore : HeldForPrefetch(slot) ? PrefetchScoreLimit : 0);

    /// <summary>Takes a slot for a unit that has none (free, else by eviction) and puts it in state Reading with one pin. -1 when all slots are pinned or being read.</summary>
    public int Reserve(int unit)
    {
        int slot = _pool == null ? TakeSlot(unit, float.PositiveInfinity) : TakeOrBorrow(unit, demand: true);
        if (slot < 0) return -1;
        _pins[slot] = 1;
        if (slot >= Own) _borrowedInUse++;
        return slot;
    }

    /// <summary>
    /// Like <see cref="Reserve"/> for a guess: no pin, and room comes only from free slots or from unpinned ones whose score is at most
    /// <see cref="PrefetchScoreLimit"/>; a prefetched slot nobody used yet is safe for <see cref="PrefetchHold"/> steps, then it goes like any other (with no
    /// history: first). -1 when there is none; then the guess is not worth a slot. The slot is Reading without a pin: it cannot be evicted before the
    /// read ends, and whoever needs the unit meanwhile pins it.
    /// </summary>
    public int ReservePrefetch(int unit)
    {
        int slot = _pool == null ? TakeSlot(unit, PrefetchScoreLimit) : TakeOrBorrow(unit, demand: false);
        if (slot < 0) return -1;
        _flags[slot] = Prefetched;
        _prefetchStep[slot] = _step;
        return slot;
    }

    /// <summary>
    /// A slot, in state Reading without a pin, for a unit whose bytes are in memory already; -1 where it deserves none: it has to have been used more often than what would go, however long ago that was, or what a step that needs most units
    /// brings would push out what it is about to need.
    /// </summary>
    public int Admit(int unit) => _slotOf[unit] >= 0 ? -1 : TakeSlot(unit, _score.Of(unit) - Retention.RecentBonus);

    /// <summary>Counts a use of a unit that need not be held.</summary>
    public void Use(int unit) => _score.Use(unit);

    /// <summary>A unit that is held is expected by the next step: like a prefetched one it is safe for <see cref="PrefetchHold"/> steps or until it is used,
    /// so that reading its neighbours ahead does not push it out.</summary>
    public void Expect(int slot)
    {
        if (_unitOf[slot] < 0) throw Misuse(slot, "holds no unit to expect");
        _flags[slot] |= Expected;
        _prefetchStep[slot] = _step;
    }

    /// <summary>A unit that is held is needed later in this step: until it is used everything else goes first.</summary>
    public void Need(int slot)
    {
        if (_unitOf[slot] < 0) throw Misuse(slot, "holds no unit to need");
        _flags[slot] |= Needed;
        _prefetchStep[slot] = _step;
    }

    /// <summary>True once for a slot that prefetch brought and whose use has not been counted: call it before or after <see cref="Touch"/> when a step uses the slot.</summary>
    public bool TakePrefetched(int slot)
    {
        bool prefetched = (_flags[slot] & Prefetched) != 0;
        _flags[slot] = 0;
        return prefetched;
    }

    /// <summary>The read of a Reading slot is done: Ready. Its pins stay.</summary>
    public void Filled(int slot)
    {
        if (_state[slot] != SlotState.Reading) throw Misuse(slot, "is not being read");
        _state[slot] = SlotState.Ready;
        if (_pins[slot] == 0) _evictable.AddFirst(slot);
    }

    /// <summary>What a Ready slot holds is wrong: its unit is read once more, into the same slot. Its pins stay.</summary>
    public void Refill(int slot)
    {
        if (_state[slot] != SlotState.Ready || _pins[slot] == 0) throw Misuse(slot, "is not ready and pinned");
        _state[slot] = SlotState.Reading;
    }

    /// <summary>The read failed: the unit leaves the window, the slot is free once its pins are gone.</summary>
    public void Failed(int slot)
    {
        if (_state[slot] != SlotState.Reading) throw Misuse(slot, "is not being read");
        Forget(slot);
        if (_pins[slot] == 0) GiveBack(slot);
    }

    public void Pin(int slot)
    {
        if (_unitOf[slot] < 0) throw Misuse(slot, "holds no unit to pin");
        if (_pins[slot]++ > 0) return;
        if (_state[slot] == SlotState.Ready) _evictable.Remove(slot);
        if (slot >= Own) _borrowedInUse++;
    }

    public void Unpin(int slot)
    {
        if (_pins[slot] <= 0) throw Misuse(slot, "is not pinned");
        if (--_pins[slot] > 0) return;
        if (slot >= Own) _borrowedInUse--;
        if (_state[slot] == SlotState.Free) GiveBack(slot);
        else if (_state[slot] == SlotState.Ready)
        {
            if (slot < Own)
            {
                _evictable.AddFirst(slot);
                return;
            }
            Forget(slot);
            GiveBack(slot);
        }
    }

    /// <summary>The pool's slot of this number holds a unit of this window that was read ahead and has no user.</summary>
    internal bool IsUnused(int borrowed) => _state[Own + borrowed] == SlotState.Ready && _pins[Own + borrowed] == 0;

    /// <summary>Gives such a slot back.</summary>
    internal bool GiveUp(int borrowed)
    {
        if (!IsUnused(borrowed)) return false;
        Evict(Own + borrowed);
        GiveBack(Own + borrowed);
        return true;
    }

    /// <summary>Counts a use at the current tick, or what several are worth by now.</summary>
    public void Touch(int slot, float uses = 1)
    {
        if (_unitOf[slot] < 0) throw Misuse(slot, "holds no unit to use");
        _score.Use(_unitOf[slot], uses);
        _flags[slot] = (byte)((_flags[slot] & ~(Expected | Needed)) | Used);
        if (_state[slot] == SlotState.Ready && _pins[slot] == 0)
        {
            _evictable.Remove(slot);
            _evictable.AddFirst(slot);
        }
    }

    /// <summary>A step begins, of so many tokens in a row: ages every score.</summary>
    public void Tick(int tokens = 1)
    {
        _step++;
        _score.Tick(tokens);
    }

    /// <summary>Nothing may be on its way or pinned any more but what stays.</summary>
    public void Dispose()
    {
        for (int i = Own; i < Slots; i++)
            if (_unitOf[i] >= 0) _pool!.Give(i - Own);
        _memory.Dispose();
    }

    private void GiveBack(int slot)
    {
        if (slot < Own) _free[_freeCount++] = slot;
        else _pool!.Give(slot - Own);
    }

    /// <summary>A demand may take what somebody read ahead: with nothing in use it has nothing to wait for, and with little the device would be idle.</summary>
    private bool MayReclaim => _borrowedInUse < (_pool!.Count + 3) / 4;

    /// <summary>With a pool.</summary>
    private int TakeOrBorrow(int unit, bool demand)
    {
        if (unit < Own) return TakeSlot(unit, float.NegativeInfinity);
        if (_slotOf[unit] >= 0) throw new InvalidOperationException($"unit {unit} already has slot {_slotOf[unit]}");
        int borrowed = _pool!.Take(this);
        if (borrowed < 0 && demand && MayReclaim && _pool.TryReclaim()) borrowed = _pool.Take(this);
        return borrowed < 0 ? -1 : Fill(Own + borrowed, unit);
    }

    private int TakeSlot(int unit, float limit)
    {
        if (_slotOf[unit] >= 0) throw new InvalidOperationException($"unit {unit} already has slot {_slotOf[unit]}");
        int slot;
        if (_freeCount > 0)
        {
            slot = _free[--_freeCount];
        }
        else
        {
            slot = LowestScore(limit);
            if (slot < 0) return -1;
            Evict(slot);
        }
        return Fill(slot, unit);
    }

    private int Fill(int slot, int unit)
    {
        _state[slot] = SlotState.Reading;
        _unitOf[slot] = unit;
        _slotOf[unit] = slot;
        _flags[slot] = 0;
        return slot;
    }

    /// <summary>
    /// The evictable slot with the lowest score, or -1 when that is above the limit. Candidates come from the last batch as long as they
    /// are unpinned, hold the same unit and score no higher than when they were chosen (not used since); others age alike, so their
    /// order holds well enough between passes.
    /// </summary>
    private int LowestScore(float limit)
    {
        if (_slotBytes >= LongUnit) return Lowest(limit);
        while (true)
        {
            while (_batch.Peek(out int slot, out int unit, out float score))
            {
                float now;
                if (_unitOf[slot] == unit && _state[slot] == SlotState.Ready && _pins[slot] == 0 && (now = Score(slot)) <= score)
                {
                    if (now > limit) break; // it stays for a demand read
                    _batch.Skip();
                    return slot;
                }
                _batch.Skip();
            }
            // A full pass finds nothing new twice in a step, unless the batch is used up and slots were unpinned since.
            bool exhausted = !_batch.Peek(out _, out _, out _);
            if (_evictable.Count == 0 || (!exhausted && _batchStep == _step)) return -1;
            FillBatch();
            if (exhausted && !_batch.Peek(out _, out _, out _)) return -1;
        }
    }

    /// <summary>By a look at every evictable slot, the oldest of equals.</summary>
    private int Lowest(float limit)
    {
        int lowest = -1;
        float least = float.PositiveInfinity;
        for (int slot = _evictable.Last; slot >= 0; slot = _evictable.Before(slot))
        {
            float score = Score(slot);
            if (score >= least) continue;
            least = score;
            lowest = slot;
        }
        return least <= limit ? lowest : -1;
    }

    private void FillBatch()
    {
        _batchStep = _step;
        _batch.Begin();
        // Oldest first, so that of equal scores the oldest stay candidates.
        for (int slot = _evictable.Last; slot >= 0; slot = _evictable.Before(slot)) _batch.Offer(slot, _unitOf[slot], Score(slot));
        _batch.End();
    }

    private void Evict(int slot)
    {
        _evictable.Remove(slot);
        Evictions++;
        if ((_flags[slot] & (Prefetched | Used)) == Prefetched) PrefetchEvictedUnused++;
        Forget(slot);
    }

    private void Forget(int slot)
    {
        _slotOf[_unitOf[slot]] = -1;
        _unitOf[slot] = -1;
        _state[slot] = SlotState.Free;
        _flags[slot] = 0;
    }

    private bool IsNeeded(int slot) => (_flags[slot] & Needed) != 0 && _prefetchStep[slot] == _step;

    private bool HeldForPrefetch(int slot) => ((_flags[slot] & Expected) != 0 || _flags[slot] == Prefetched) && _step - _prefetchStep[slot] <= PrefetchHold;

    private static InvalidOperationException Misuse(int slot, string what) => new($"slot {slot} {what}");
}
