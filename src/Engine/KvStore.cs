using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Which of a layer's blocks are on disk, and where: an index over the slots of a <see cref="KvFile"/>, the longest unused first to be overwritten. Made by the loader thread, then the
/// conductor thread's alone; the file is the I/O thread's (<see cref="KvDisk"/>). A slot under way, to or from disk, is held and in nobody's way.
/// </summary>
internal sealed unsafe class KvStore : IDisposable
{
    private readonly KvTable _slots;
    private readonly int _count;
    private int _free;

    public KvStore(KvFile file, KvFolder folder)
    {
        File = file;
        Folder = folder;
        _count = file.Slots;
        _slots = new KvTable(_count);
        var entries = file.Scan();
        for (int slot = 0; slot < _count; slot++) _slots.Take((byte*)1);
        for (int slot = _count - 1; slot >= 0; slot--)
        {
            if (entries[slot].Position > 0) continue;
            _slots.Give(slot);
            _free++;
        }
        int[] kept = [.. Enumerable.Range(0, _count).Where(s => entries[s].Position > 0).OrderBy(s => entries[s].Written)];
        foreach (int slot in kept)
        {
            ref var entry = ref entries[slot];
            Written = Math.Max(Written, entry.Written);
            // The same twice: a crash between writing it anew and erasing the old one.
            if (_slots.Find(entry.Start, entry.End, entry.Position) != KvTable.None)
            {
                _slots.Give(slot);
                _free++;
                continue;
            }
            _slots.Seal(slot, entry.Start, entry.Begin, entry.End, entry.Position);
            _slots.AddUnused(slot);
        }
    }

    public KvFile File { get; }
    public KvFolder Folder { get; }
    /// <summary>Of the latest write.</summary>
    public long Written { get; set; }
    /// <summary>Blocks on disk.</summary>
    public int Used => _slots.Indexed;

    public int Find(ulong start, ulong end, int position) => _slots.Find(start, end, position);

    /// <summary>
    /// Of the blocks that go on from a point of a chain the one that may go furthest along it: at least as far as one that is sealed on the chain itself. How far the others really go
    /// only their bytes tell.
    /// </summary>
    public int FindBeginning(ReadOnlySpan<ulong> chain, int at, out int sure)
    {
        int best = KvTable.None, may = 0;
        sure = 0;
        for (int slot = _slots.FirstWithBegin(chain[0], chain[at]); slot != KvTable.None; slot = _slots[slot].NextWithBegin)
        {
            ref var b = ref _slots[slot];
            if (b.Start != chain[0] || b.Begin != chain[at] || (b.Position - 1) / KvCache.BlockPositions != at / KvCache.BlockPositions) continue;
            int reach = Math.Min(b.Position, chain.Length - 1) - at, certain = b.Position < chain.Length && chain[b.Position] == b.End ? reach : 0;
            if (certain < sure || (certain == sure && reach <= may)) continue;
            (best, may, sure) = (slot, reach, certain);
        }
        return best;
    }

    /// <summary>What a slot holds.</summary>
    public (ulong End, int Position) Of(int slot) => (_slots[slot].End, _slots[slot].Position);

    /// <summary>The block in memory that a slot is a copy of, or <see cref="KvTable.None"/>.</summary>
    public ref int Owner(int slot) => ref _slots[slot].Slot;

    /// <summary>A slot to write into, held: a free one, else the longest unused, whose block in memory is told by <paramref name="disowned"/> that it is no longer saved.</summary>
    public int TakeSlot(out int disowned)
    {
        disowned = KvTable.None;
        int slot = _slots.Oldest;
        if (_free > 0)
        {
            _free--;
            slot = _slots.Take((byte*)1);
        }
        else if (slot != KvTable.None)
        {
            disowned = Owner(slot);
            _slots.RemoveUnused(slot);
            _slots.Unseal(slot);
        }
        else return slot;
        _slots[slot].Refs = 1;
        Owner(slot) = KvTable.None;
        return slot;
    }

    /// <summary>A block is in its slot now.</summary>
    public void Put(int slot, in KvEntry entry)
    {
        _slots[slot].Refs = 0;
        _slots.Seal(slot, entry.Start, entry.Begin, entry.End, entry.Position);
        _slots.AddUnused(slot);
        Owner(slot) = KvTable.None;
    }

    /// <summary>A block did not get into its slot.</summary>
    public void GiveBack(int slot)
    {
        _slots[slot].Refs = 0;
        _slots.Give(slot);
        _free++;
    }

    /// <summary>A slot is being read.</summary>
    public void Hold(int slot)
    {
        if (_slots[slot].Refs++ == 0) _slots.RemoveUnused(slot);
    }

    public void Let(int slot)
    {
        if (--_slots[slot].Refs > 0) return;
        if (_slots[slot].IsSealed) _slots.AddUnused(slot);
        else GiveBack(slot);
    }

    /// <summary>Used just now.</summary>
    public void Touch(int slot)
    {
        if (_slots[slot].Refs > 0) return;
        _slots.RemoveUnused(slot);
        _slots.AddUnused(slot);
    }

    /// <summary>Something longer is to come in its place: the next to be overwritten.</summary>
    public void Outdate(int slot)
    {
        Owner(slot) = KvTable.None;
        if (_slots[slot].Refs > 0) return;
        _slots.RemoveUnused(slot);
        _slots.AddUnusedFirst(slot);
    }

    /// <summary>What a slot holds is not to be found any more.</summary>
    public void Remove(int slot)
    {
        _slots.Unseal(slot);
        Owner(slot) = KvTable.None;
        if (_slots[slot].Refs > 0) return;
        _slots.RemoveUnused(slot);
        GiveBack(slot);
    }

    public void Dispose()
    {
        _slots.Dispose();
        File.Dispose();
    }
}
