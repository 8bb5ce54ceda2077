namespace FlashOrleans.Engine;

internal sealed unsafe partial class KvCache
{
    /// <summary>How far eviction looks for a block that costs little to bring back.</summary>
    private const int Cheaper = 64;

    /// <summary>A turn is over: what it computed may be taken up by others, the last block included.</summary>
    public void Settle(Guid session)
    {
        if (_sequences.TryGetValue(session, out var sequence)) Settle(sequence);
    }

    /// <summary>
    /// Finds what is computed of a chain (entry i is the hash of i tokens), in memory or on disk, and gives it to the session. <paramref name="done"/> hears how many positions of it
    /// the session holds from then on: at once, or when what is on disk was read.
    /// </summary>
    public void Restore(Guid session, ReadOnlyMemory<ulong> chain, Action<int> done)
    {
        var hashes = chain.Span;
        _sequences.TryGetValue(session, out var sequence);
        if (sequence?.Recall is { } running && running.Is(hashes))
        {
            running.Waiting.Add(done);
            return;
        }
        int held = sequence?.Agrees(hashes) ?? 0, at = held / BlockPositions * BlockPositions;
        List<KvPiece>? pieces = held == hashes.Length - 1 || sequence is { Pins: > 0 } ? null : Find(hashes, at);
        if (pieces == null || pieces.Count == 0 || pieces[^1].End <= held)
        {
            done(held);
            return;
        }
        if (sequence == null) _sequences.Add(session, sequence = new KvSequence(_hashOffset) { Start = hashes[0] });
        sequence.LastUse = ++_clock;
        // Held first: what the session lets go, and room for what is read, may push others out.
        foreach (var piece in pieces)
            if (piece.Slot == KvTable.None) Hold(piece.Id);
        var recall = new KvRecall(session, sequence, chain, at, pieces);
        recall.Waiting.Add(done);
        sequence.Recall = recall;
        if (!Load(recall)) Complete(recall);
    }

    /// <summary>Forgets what is computed of a chain, in memory and on disk, but for what sessions hold.</summary>
    public void Forget(ReadOnlySpan<ulong> chain)
    {
        for (int p = 1; p < chain.Length; p++)
        {
            int id = _table.Find(chain[0], chain[p], p);
            if (id != KvTable.None && _table[id].Refs > 0) continue;
            if (id != KvTable.None) Erase(id, _table[id].Slot);
            else if (FindSaved(chain, p) is var slot and not KvTable.None) Erase(id, slot);
            if (id == KvTable.None) continue;
            Unsave(id);
            Drop(id);
        }
    }

    /// <summary>The blocks that make up a chain, from a block's first position on: whole ones, then the longest beginning of one.</summary>
    private List<KvPiece> Find(ReadOnlySpan<ulong> chain, int at)
    {
        List<KvPiece> pieces = [];
        int last = chain.Length - 1;
        for (; at + BlockPositions <= last; at += BlockPositions)
        {
            int end = at + BlockPositions, id = _table.Find(chain[0], chain[end], end);
            if (id != KvTable.None && Common(_table[id].Data, chain, at) == BlockPositions) Add(id, KvTable.None, end, chain);
            else if (FindSaved(chain, end) is var slot and not KvTable.None) Add(KvTable.None, slot, end, chain);
            else break;
        }
        int most = FindBeginning(chain, at, out int best), sure = 0, saved = at < last && _store != null ? _store.FindBeginning(chain, at, out sure) : KvTable.None;
        if (saved != KvTable.None && (sure > most || most == 0)) Add(KvTable.None, saved, at + Math.Max(sure, 1), chain);
        else if (most > 0) Add(best, KvTable.None, at + most, chain);
        return pieces;

        void Add(int id, int slot, int end, ReadOnlySpan<ulong> chain)
        {
            var (hash, position) = slot != KvTable.None ? _store!.Of(slot) : (_table[id].End, _table[id].Position);
            pieces.Add(new KvPiece { Id = id, Slot = slot, Start = chain[0], Hash = hash, Position = position, At = at, End = end, Intact = slot == KvTable.None });
        }
    }

    /// <summary>What was found becomes the session's, unless it went on by itself meanwhile; then it is there for whoever asks next.</summary>
    private void Complete(KvRecall recall)
    {
        var sequence = recall.Sequence;
        var chain = recall.Chain.Span;
        bool wanted = sequence.Recall == recall && sequence.Pins == 0;
        int good = recall.Pieces.FindIndex(static p => !p.Intact);
        if (good < 0) good = recall.Pieces.Count;
        if (wanted) Rewind(sequence, recall.At, recall.At / BlockPositions);
        for (int i = 0; i < good; i++)
        {
            var piece = recall.Pieces[i];
            if (!wanted) continue;
            sequence.AddBlock(piece.Id, _table[piece.Id].Data);
            sequence.Reach(piece.End);
            if (piece.End % BlockPositions == 0) sequence.Sealed = piece.End / BlockPositions;
        }
        if (wanted && good > 0) sequence.Start = chain[0];
        for (int i = recall.Pieces.Count - 1; i >= (wanted ? good : 0); i--) Let(recall.Pieces[i].Id, keep: true);
        if (wanted) sequence.Recall = null;
        int held = _sequences.TryGetValue(recall.Session, out var now) ? now.Agrees(chain) : 0;
        foreach (var done in recall.Waiting) done(held);
    }

    /// <summary>Of the blocks that go on from there the one that goes furthest along this chain, and how far: an answer that was asked for again, an edit.</summary>
    private int FindBeginning(ReadOnlySpan<ulong> chain, int at, out int best)
    {
        int most = 0;
        best = KvTable.None;
        if (at == chain.Length - 1) return 0;
        for (int id = _table.FirstWithBegin(chain[0], chain[at]); id != KvTable.None; id = _table[id].NextWithBegin)
        {
            ref var b = ref _table[id];
            if (b.Start != chain[0] || b.Begin != chain[at] || (b.Position - 1) / BlockPositions != at / BlockPositions) continue;
            int common = Math.Min(Common(b.Data, chain, at), b.Position - at);
            if (common > most) (most, best) = (common, id);
        }
        return most;
    }

    /// <summary>Positions of a block, from its first on, that are the chain's.</summary>
    private int Common(byte* block, ReadOnlySpan<ulong> chain, int at)
    {
        var rest = chain[(at + 1)..];
        return new ReadOnlySpan<ulong>(block + _hashOffset, Math.Min(BlockPositions, rest.Length)).CommonPrefixLength(rest);
    }

    private void Hold(int id)
    {
        if (_table[id].Refs++ == 0) _table.RemoveUnused(id);
    }

    private void Settle(KvSequence sequence)
    {
        sequence.Settles = sequence.Pins > 0;
        if (!sequence.Settles) SealAll(sequence);
    }

    private void SealAll(KvSequence sequence)
    {
        SealFull(sequence, sequence.Valid);
        if (sequence.Valid > 0 && sequence.Valid % BlockPositions != 0) Seal(sequence, sequence.Valid / BlockPositions, sequence.Valid);
        Touch(sequence);
    }

    private void SealFull(KvSequence sequence, int end)
    {
        for (; (sequence.Sealed + 1) * BlockPositions <= end; sequence.Sealed++) Seal(sequence, sequence.Sealed, (sequence.Sealed + 1) * BlockPositions);
    }

    /// <summary>Nobody writes into a block any more. Where another session computed the same, one of the two is enough: the bits are the same.</summary>
    private void Seal(KvSequence sequence, int index, int end)
    {
        int id = sequence.Id(index);
        if (_table[id].Position >= end) return;
        int same = _table.Find(sequence.Start, sequence.HashAt(end), end);
        if (same == KvTable.None)
        {
            Unseal(id);
            _table.Seal(id, sequence.Start, sequence.HashAt(index * BlockPositions), sequence.HashAt(end), end);
            Save(id);
            return;
        }
        Hold(same);
        sequence.Replace(index, same, _table[same].Data);
        Let(id, keep: false);
    }

    private void Unseal(int id)
    {
        if (!_table[id].IsSealed) return;
        Unsave(id);
        _table.Unseal(id);
    }

    /// <summary>A holder less. The last one leaves it to who comes next, where it is sealed and may be kept.</summary>
    private void Let(int id, bool keep)
    {
        if (--_table[id].Refs > 0) return;
        if (!keep || !_table[id].IsSealed)
        {
            if (_table[id].IsSealed) Erase(id, _table[id].Slot);
            Unseal(id);
            Free(id);
            return;
        }
        _table.AddUnused(id);
        while (CachedBytes > _cachedBytes && DropUnused()) { }
    }

    /// <summary>Drops one block that nobody holds: of those longest unused first one that is on disk, since the others would have to be computed again.</summary>
    private bool DropUnused()
    {
        int id = _table.Oldest;
        if (id == KvTable.None) return false;
        int other = id;
        for (int i = 0; i < Cheaper && other != KvTable.None && !_table[other].IsSaved; i++) other = _table[other].Unused.Behind;
        Drop(other != KvTable.None && _table[other].IsSaved ? other : id);
        return true;
    }

    private void Drop(int id)
    {
        _table.RemoveUnused(id);
        SaveNow(id);
        Unseal(id);
        Free(id);
    }
}
