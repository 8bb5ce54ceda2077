using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

internal enum Admission { Accepted, Old, Miss, Full }

/// <summary>
/// Keys and values of one layer, in native blocks of 64 fixed positions. Conductor thread only. Applies the recovery rule: a slot that is
/// not newer than the last accepted one is old; one whose prefix hash matches at its position truncates and appends; anything else is a miss.
/// <para>A full block whose positions a later step stands on is sealed: it is known by its chain (start, and hash behind its last position), nobody writes into it again, and every
/// sequence with that beginning holds the same one. Whoever truncates into it goes on in a copy. A block that nobody holds any more stays until its memory is needed.</para>
/// The cache is recomputable: blocks that nobody holds, then sessions, may be dropped at any time between steps (longest unused first); the position check notices.
/// With a budget the blocks are one buffer of planned size, there from the start: who needs more than it has left drops others, and is refused when
/// they are all in use. Blocks and all that grows with a session are native, so that a step which opens a block makes nothing for the collector. This file: sessions and memory;
/// <c>KvCache.Sharing.cs</c>: sealing, and what a session finds that others computed; <c>KvCache.Disk.cs</c>: blocks to disk and back.
/// <code>block: [K | V][kv head][64 positions][key's or value's numbers] of f32, f16 or int8 | int8: [K | V][kv head][64 positions] scales f32 | 64 chained token hashes u64</code>
/// </summary>
internal sealed unsafe partial class KvCache : IDisposable
{
    public const int BlockPositions = 64;
    private readonly Dictionary<Guid, KvSequence> _sequences = [];
    private readonly MemoryLedger _ledger;
    private readonly string _name;
    private readonly int _valueOffset;
    private readonly int _scaleOffset;
    private readonly int _hashOffset;
    private readonly int _blockBytes;
    private readonly long _cachedBytes;
    private readonly NativeBuffer? _slab;
    private readonly KvTable _table;
    private readonly int[] _free = [];
    private int _freeCount;
    private long _clock;
    private int _blocks;

    /// <param name="config">Shape of keys and values.</param>
    /// <param name="type">How they are kept, never <see cref="KvType.Auto"/>.</param>
    /// <param name="ledger">Counts the memory.</param>
    /// <param name="name">Its name there.</param>
    /// <param name="blocks">All that there will be, taken now; 0: as sessions need them.</param>
    /// <param name="cachedBytes">Bytes of blocks that nobody holds, at most, where blocks are taken as they are needed.</param>
    public KvCache(ModelConfig config, KvType type, MemoryLedger ledger, string name, int blocks = 0, long cachedBytes = long.MaxValue)
    {
        Type = type;
        HeadDim = config.HeadDim;
        ValueDim = config.ValueHeadDim;
        KvHeads = config.KvHeads;
        ElementBytes = BytesOf(type);
        _ledger = ledger;
        _name = name;
        _valueOffset = KvHeads * BlockPositions * HeadDim * ElementBytes;
        _scaleOffset = _valueOffset + KvHeads * BlockPositions * ValueDim * ElementBytes;
        _hashOffset = _scaleOffset + (type == KvType.Q8 ? 2 * KvHeads * BlockPositions * sizeof(float) : 0);
        _blockBytes = (int)BlockBytes(config, type);
        _cachedBytes = blocks == 0 ? cachedBytes : long.MaxValue;
        Blocks = blocks;
        if (blocks > 0)
        {
            _slab = new NativeBuffer((long)blocks * _blockBytes, ledger, name, 64);
            _free = new int[blocks];
            for (int i = 0; i < blocks; i++) _free[i] = blocks - 1 - i;
            _freeCount = blocks;
        }
        _table = new KvTable(blocks);
    }

    /// <summary>What is meant by a type, for a package of mostly this format.</summary>
    public static KvType TypeOf(KvType type, WeightFormat weights) => type != KvType.Auto ? type : weights == WeightFormat.F32 ? KvType.F32 : KvType.F16;

    public static long BlockBytes(ModelConfig config, KvType type) =>
        (long)config.KvHeads * BlockPositions * ((config.HeadDim + config.ValueHeadDim) * BytesOf(type) + (type == KvType.Q8 ? 2 * sizeof(float) : 0)) + BlockPositions * sizeof(ulong);

    private static int BytesOf(KvType type) => type switch { KvType.F32 => 4, KvType.F16 => 2, KvType.Q8 => 1, _ => throw new ArgumentOutOfRangeException(nameof(type)) };

    /// <summary>Blocks of the budget, or 0: no limit here.</summary>
    public int Blocks { get; }

    public KvType Type { get; }
    public int HeadDim { get; }
    public int ValueDim { get; }
    public int KvHeads { get; }
    public int ElementBytes { get; }
    public long Bytes => _slab?.Length ?? UsedBytes;
    /// <summary>Bytes of blocks with something in them.</summary>
    public long UsedBytes => (long)_blocks * _blockBytes;
    public long CachedBytes => (long)_table.Cached * _blockBytes;
    /// <summary>Bytes of blocks that are on disk.</summary>
    public long SavedBytes => _store is { } store ? (long)store.Used * store.File.SlotBytes : 0;
    internal KvTable Table => _table;
    internal IReadOnlyDictionary<Guid, KvSequence> Sequences => _sequences;

    /// <summary>Admits a slot and makes room for its positions, or says why not. On a miss <paramref name="sequence"/> tells what is held (null: nothing).</summary>
    public Admission Admit(in Slot slot, ReadOnlySpan<int> tokens, out KvSequence? sequence)
    {
        _sequences.TryGetValue(slot.Session, out sequence);
        if (sequence != null && (slot.Epoch, slot.Step).CompareTo((sequence.Epoch, sequence.Step)) <= 0) return Admission.Old;
        // At position 0 there is nothing to agree with: the slot says where its chain starts.
        if (slot.Position > 0 && (sequence == null || sequence.Length < slot.Position || sequence.HashAt(slot.Position) != slot.PrefixHash)) return Admission.Miss;
        if (!MakeRoom(sequence, slot.Position, slot.Position + tokens.Length)) return Admission.Full;
        if (sequence == null) _sequences.Add(slot.Session, sequence = new KvSequence(_hashOffset));
        sequence.Epoch = slot.Epoch;
        sequence.Step = slot.Step;
        sequence.LastUse = ++_clock;
        if (slot.Position == 0) sequence.Start = slot.PrefixHash;
        while (sequence.BlockCount * BlockPositions < slot.Position + tokens.Length) AddBlock(sequence, NewBlock());
        sequence.Append(tokens, slot.Length);
        return Admission.Accepted;
    }

    public byte* Key(KvSequence sequence, int kvHead, int position) =>
        sequence.Block(position / BlockPositions) + ((long)kvHead * BlockPositions + position % BlockPositions) * HeadDim * ElementBytes;

    public byte* Value(KvSequence sequence, int kvHead, int position) =>
        sequence.Block(position / BlockPositions) + _valueOffset + ((long)kvHead * BlockPositions + position % BlockPositions) * ValueDim * ElementBytes;

    /// <summary>8 bits: scales of a head's keys, from this position on to the end of its block.</summary>
    public float* KeyScale(KvSequence sequence, int kvHead, int position) =>
        (float*)(sequence.Block(position / BlockPositions) + _scaleOffset) + (long)kvHead * BlockPositions + position % BlockPositions;

    public float* ValueScale(KvSequence sequence, int kvHead, int position) => KeyScale(sequence, KvHeads + kvHead, position);

    /// <summary>A session ends. What it computed is forgotten, but for what others hold too, or stays for whoever begins the same way. A running step that still reads it lets go first (<see cref="Unpin"/>).</summary>
    public void Close(Guid session, bool keep = false)
    {
        if (!_sequences.Remove(session, out var sequence)) return;
        sequence.Keep = keep;
        sequence.Recall = null;
        if (sequence.Pins == 0) Release(sequence);
        else sequence.Orphaned = true;
    }

    /// <summary>A step lets go of a sequence, whose keys and values it has stored up to a position (0: it did not).</summary>
    public void Unpin(KvSequence sequence, int stored = 0)
    {
        if (stored > 0) sequence.Stored(stored);
        if (--sequence.Pins > 0) return;
        if (sequence.Orphaned) Release(sequence);
        else if (sequence.Settles) Settle(sequence);
    }

    /// <summary>Drops what nobody holds, then least recently used sessions that no running step uses, until at most <paramref name="limit"/> bytes are held; a planned buffer holds what it holds.</summary>
    public void EvictTo(long limit)
    {
        while (_slab == null && UsedBytes > limit && (DropUnused() || DropOldest(null))) { }
    }

    public void Dispose()
    {
        // Nothing is under way any more, and what is on disk stays there.
        if (_store != null)
        {
            _store.Folder.Caches.Remove(this);
            _disk!.Close(_store);
        }
        (_disk, _store) = (null, null);
        for (int id; (id = _table.FirstToSave) != KvTable.None;) _table.RemoveToSave(id);
        foreach (var sequence in _sequences.Values)
        {
            sequence.Keep = false;
            Release(sequence);
        }
        _sequences.Clear();
        while (_table.Oldest != KvTable.None) Drop(_table.Oldest);
        _slab?.Dispose();
        _table.Dispose();
    }

    /// <summary>Truncates a sequence to a position and sees to it that it can be written from there on to the end: true when the blocks it lacks are to be had.</summary>
    private bool MakeRoom(KvSequence? sequence, int position, int end)
    {
        int kept = (position + BlockPositions - 1) / BlockPositions, needed = (end + BlockPositions - 1) / BlockPositions;
        if (_slab != null && needed > Blocks) return false;
        if (sequence != null) Rewind(sequence, position, kept);
        int more = needed - (sequence?.BlockCount ?? 0);
        // Somebody else may want to go on from the block that it truncates into.
        bool copies = position % BlockPositions != 0 && !MayWrite(sequence!.Id(kept - 1), position);
        if (copies && MakeFree(more + 1, sequence))
        {
            int block = NewBlock(), shared = sequence!.Id(kept - 1);
            Buffer.MemoryCopy(_table[shared].Data, _table[block].Data, _blockBytes, _blockBytes);
            sequence.Replace(kept - 1, block, _table[block].Data);
            _table[block].Refs = 1;
            Let(shared, keep: true);
            return true;
        }
        // Where there is no room for a copy the only holder takes the block itself.
        if (copies && _table[sequence!.Id(kept - 1)].Refs > 1) return false;
        if (position % BlockPositions != 0)
        {
            Outdate(sequence!.Id(kept - 1));
            Unseal(sequence.Id(kept - 1));
        }
        return MakeFree(more, sequence);
    }

    /// <summary>What is sealed is there for others, even when they are still to come; behind the end of a turn goes on whoever goes on.</summary>
    private bool MayWrite(int id, int position) => _table[id].Refs == 1 && (!_table[id].IsSealed || _table[id].Position == position);

    /// <summary>A step stands on what is before its position: that is sealed; what is behind is let go.</summary>
    private void Rewind(KvSequence sequence, int position, int kept)
    {
        sequence.Recall = null;
        SealFull(sequence, Math.Min(position, sequence.Valid));
        sequence.Truncate(position);
        while (sequence.BlockCount > kept) Let(sequence.TakeLast(), keep: true);
    }

    private bool MakeFree(int blocks, KvSequence? spared)
    {
        if (_slab == null) return true;
        while (_freeCount < blocks)
            if (!DropUnused() && !DropOldest(spared)) return false;
        return true;
    }

    /// <summary>Drops the session that was not used for longest; what it computed is dropped block by block, as memory is needed.</summary>
    private bool DropOldest(KvSequence? spared)
    {
        Guid victim = default;
        long oldest = long.MaxValue;
        foreach (var (id, sequence) in _sequences)
        {
            if (sequence.Pins == 0 && sequence != spared && sequence.LastUse < oldest) (victim, oldest) = (id, sequence.LastUse);
        }
        if (oldest == long.MaxValue) return false;
        Close(victim, keep: true);
        return true;
    }

    private int NewBlock()
    {
        byte* data;
        if (_slab != null) data = _slab.Pointer + (long)_free[--_freeCount] * _blockBytes;
        else
        {
            data = (byte*)NativeMemory.AlignedAlloc((nuint)_blockBytes, 64);
            NativeMemory.Clear(data, (nuint)_blockBytes);
            _ledger.Add(_name, _blockBytes);
        }
        _blocks++;
        return _table.Take(data);
    }

    private void AddBlock(KvSequence sequence, int id)
    {
        _table[id].Refs = 1;
        sequence.AddBlock(id, _table[id].Data);
    }

    private void Free(int id)
    {
        byte* data = _table[id].Data;
        _table.Give(id);
        _blocks--;
        if (_slab != null) _free[_freeCount++] = (int)((data - _slab.Pointer) / _blockBytes);
        else
        {
            NativeMemory.AlignedFree(data);
            _ledger.Add(_name, -_blockBytes);
        }
    }

    private void Release(KvSequence sequence)
    {
        if (sequence.Keep) SealAll(sequence);
        // From the end: what is let go first is dropped first, and without its beginning a block is of no use.
        while (sequence.BlockCount > 0) Let(sequence.TakeLast(), sequence.Keep);
        sequence.Free();
    }
}
