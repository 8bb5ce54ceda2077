using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

// Blocks to disk and back. A sealed block waits in a list until there is a buffer to copy it into, and is written behind everybody's back; what evicts it before that copies it now or never.
internal sealed unsafe partial class KvCache
{
    private KvDisk? _disk;
    private KvStore? _store;
    /// <summary>Blocks that were given up while they were written.</summary>
    private readonly List<(ulong Start, ulong End, int Position)> _doomed = [];
    private int _underWay;
    private bool _flushed;

    /// <summary>Loader thread, before anything else: blocks are saved there.</summary>
    public void SaveIn(KvDisk disk, FlashPackage package, int layer)
    {
        _store = disk.Open(package, layer, Type, _blockBytes);
        _disk = _store == null ? null : disk;
    }

    /// <summary>Told whenever something that was under way to or from disk is done.</summary>
    public Action? Settled { get; set; }
    /// <summary>Something is under way to or from disk, or waits to be.</summary>
    public bool IsBusy => _underWay > 0 || (Saves && _table.FirstToSave != KvTable.None);
    internal KvStore? Store => _store;
    private bool Saves => _disk is { IsOff: false };

    /// <summary>Everything that is computed is to be saved: the layer leaves. Once.</summary>
    public void Flush()
    {
        if (_flushed || !Saves) return;
        _flushed = true;
        foreach (var sequence in _sequences.Values) SealAll(sequence);
    }

    /// <summary>Leading tokens of a chain that are in memory, and that are on disk.</summary>
    public (int Memory, int Disk) Look(Guid session, ReadOnlySpan<ulong> chain)
    {
        int held = 0;
        if (_sequences.TryGetValue(session, out var sequence))
            for (held = Math.Min(sequence.Valid, chain.Length - 1); held >= 0 && sequence.HashAt(held) != chain[held];) held--;
        return (Math.Max(Math.Max(held, 0), Reach(chain, saved: false)), Reach(chain, saved: true));
    }

    private int Reach(ReadOnlySpan<ulong> chain, bool saved)
    {
        int reach = 0;
        while (reach < chain.Length - 1)
        {
            int end = Math.Min((reach / BlockPositions + 1) * BlockPositions, chain.Length - 1);
            if ((saved ? FindSaved(chain, end) : _table.Find(chain[0], chain[end], end)) != KvTable.None)
            {
                reach = end;
                continue;
            }
            // The last block of a turn ends where its last step did: a token or a few before the last one.
            if (end < chain.Length - 1) return reach;
            for (int last = end - 1; last > reach; last--)
                if ((saved ? FindSaved(chain, last) : _table.Find(chain[0], chain[last], last)) != KvTable.None) return last;
            return reach;
        }
        return reach;
    }

    private void Join()
    {
        if (_store != null && !_store.Folder.Caches.Contains(this)) _store.Folder.Caches.Add(this);
    }

    private int FindSaved(ReadOnlySpan<ulong> chain, int end) => _store?.Find(chain[0], chain[end], end) ?? KvTable.None;

    /// <summary>A block was sealed.</summary>
    private void Save(int id)
    {
        if (!Saves) return;
        Join();
        ref var b = ref _table[id];
        int slot = _store!.Find(b.Start, b.End, b.Position);
        if (slot != KvTable.None)
        {
            Own(slot, id);
            _store.Touch(slot);
            return;
        }
        _table.AddToSave(id);
        SaveWaiting();
    }

    /// <summary>As many as there are buffers.</summary>
    private bool SaveWaiting()
    {
        bool any = false;
        for (int id; (id = _table.FirstToSave) != KvTable.None && Saves && _store!.Folder.Free.Count > 0; any = true) Write(id);
        return any;
    }

    /// <summary>A block is being dropped from memory: its last chance.</summary>
    private void SaveNow(int id)
    {
        if (_table[id].ToBeSaved && Saves && _store!.Folder.Free.Count > 0) Write(id);
    }

    private void Write(int id)
    {
        _table.RemoveToSave(id);
        int slot = _store!.TakeSlot(out int disowned);
        if (disowned != KvTable.None) _table[disowned].Slot = KvTable.None;
        if (slot == KvTable.None) return;
        ref var b = ref _table[id];
        b.Slot = KvTable.Writing;
        var entry = new KvEntry { Start = b.Start, Begin = b.Begin, End = b.End, Position = b.Position, Written = ++_store.Written };
        byte* buffer = (byte*)_store.Folder.Free.Pop();
        Buffer.MemoryCopy(b.Data, buffer, _blockBytes, _blockBytes);
        new Span<byte>(buffer + _blockBytes, _store.File.SlotBytes - _blockBytes).Clear();
        _underWay++;
        _disk!.Write(_store, slot, entry, buffer, good => Written(slot, entry, id, good));
    }

    private void Written(int slot, KvEntry entry, int id, bool good)
    {
        _underWay--;
        ref var b = ref _table[id];
        bool here = b.Data != null && b.Slot == KvTable.Writing && b.Start == entry.Start && b.End == entry.End && b.Position == entry.Position;
        if (here) b.Slot = KvTable.None;
        int doomed = _doomed.IndexOf((entry.Start, entry.End, entry.Position));
        if (doomed >= 0) _doomed.RemoveAt(doomed);
        if (!good) _store!.GiveBack(slot);
        else if (_store!.Find(entry.Start, entry.End, entry.Position) != KvTable.None)
        {
            // Twice under way: the first is enough.
            _store.GiveBack(slot);
            EraseOnDisk(slot);
        }
        else
        {
            _store.Put(slot, entry);
            if (here) Own(slot, id);
            else if (doomed >= 0) Erase(KvTable.None, slot);
        }
        // Of all layers one has waited for the buffer: each in its turn.
        var caches = _store.Folder.Caches;
        int mine = caches.IndexOf(this);
        for (int i = 1; i <= caches.Count; i++) caches[(mine + i) % caches.Count].SaveWaiting();
        Settled?.Invoke();
    }

    /// <summary>A slot is the copy of a block, of this one alone.</summary>
    private void Own(int slot, int id)
    {
        ref int owner = ref _store!.Owner(slot);
        if (owner != KvTable.None && owner != id) _table[owner].Slot = KvTable.None;
        owner = id;
        _table[id].Slot = slot;
    }

    /// <summary>A block is no longer what it was, or no longer here; what is on disk stays.</summary>
    private void Unsave(int id)
    {
        ref var b = ref _table[id];
        if (b.ToBeSaved) _table.RemoveToSave(id);
        if (b.IsSaved && _store != null) _store.Owner(b.Slot) = KvTable.None;
        b.Slot = KvTable.None;
    }

    /// <summary>A block goes on behind where it was sealed: what was saved of it is of little use.</summary>
    private void Outdate(int id)
    {
        if (_table[id].IsSaved) _store!.Outdate(_table[id].Slot);
    }

    /// <summary>A block is forgotten on disk, too.</summary>
    private void Erase(int id, int slot)
    {
        if (slot == KvTable.Writing) _doomed.Add((_table[id].Start, _table[id].End, _table[id].Position));
        if (slot < 0 || _store == null) return;
        _store.Remove(slot);
        if (id != KvTable.None) _table[id].Slot = KvTable.None;
        EraseOnDisk(slot);
    }

    private void EraseOnDisk(int slot)
    {
        _underWay++;
        _disk!.Erase(_store!, slot, () =>
        {
            _underWay--;
            Settled?.Invoke();
        });
    }

    /// <summary>Beginnings last: without them the rest is of no use.</summary>
    private void Touch(KvSequence sequence)
    {
        for (int i = sequence.BlockCount - 1; i >= 0 && _store != null; i--)
            if (_table[sequence.Id(i)].IsSaved) _store.Touch(_table[sequence.Id(i)].Slot);
    }

    /// <summary>Has what is on disk read; false: nothing is, or there is no memory for it.</summary>
    private bool Load(KvRecall recall)
    {
        var pieces = recall.Pieces;
        KvPiece[] wanted = [.. pieces.Where(static p => p.Slot != KvTable.None)];
        if (wanted.Length == 0) return false;
        foreach (var piece in wanted) _store!.Hold(piece.Slot);
        int loads = 0;
        for (; loads < wanted.Length && MakeFree(1, recall.Sequence); loads++)
        {
            var piece = wanted[loads];
            piece.Id = NewBlock();
            _table[piece.Id].Refs = 1;
            piece.Block = _table[piece.Id].Data;
        }
        if (loads < wanted.Length)
        {
            // What does not fit is left where it is, and so is all behind it.
            int cut = pieces.IndexOf(wanted[loads]);
            for (int i = pieces.Count - 1; i >= cut; i--)
            {
                if (pieces[i].Slot == KvTable.None) Let(pieces[i].Id, keep: true);
                else _store!.Let(pieces[i].Slot);
            }
            pieces.RemoveRange(cut, pieces.Count - cut);
            wanted = wanted[..loads];
            if (loads == 0) return false;
        }
        _underWay++;
        _disk!.Read(_store!, wanted, _blockBytes, () =>
        {
            _underWay--;
            foreach (var piece in pieces) Loaded(piece, recall.Chain.Span);
            Complete(recall);
            Settled?.Invoke();
        });
        return true;
    }

    /// <summary>A block came from disk, or did not: then it is not there any more either.</summary>
    private void Loaded(KvPiece piece, ReadOnlySpan<ulong> chain)
    {
        if (piece.Slot == KvTable.None) return;
        bool found = _store!.Find(piece.Start, piece.Hash, piece.Position) == piece.Slot;
        if (!piece.Intact && found)
        {
            _store.Remove(piece.Slot);
            EraseOnDisk(piece.Slot);
            found = false;
        }
        if (piece.Intact) piece.End = piece.At + Math.Min(Common(piece.Block, chain, piece.At), piece.Position - piece.At);
        // Who deleted it meanwhile does not want to find it again.
        piece.Intact &= piece.End > piece.At && found;
        _store.Let(piece.Slot);
        if (!piece.Intact) return;
        int same = _table.Find(piece.Start, piece.Hash, piece.Position);
        if (same != KvTable.None)
        {
            Hold(same);
            Let(piece.Id, keep: false);
            piece.Id = same;
            return;
        }
        _table.Seal(piece.Id, piece.Start, chain[piece.At], piece.Hash, piece.Position);
        if (found) Own(piece.Slot, piece.Id);
    }
}
