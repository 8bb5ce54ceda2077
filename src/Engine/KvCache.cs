using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

internal enum Admission { Accepted, Old, Miss, Full }

/// <summary>
/// Keys and values of one layer, per session, in native blocks of 64 fixed positions. Conductor thread only. Applies the recovery rule: a slot that is
/// not newer than the last accepted one is old; one whose prefix hash matches at its position truncates and appends; anything else is a miss.
/// The cache is recomputable: sessions may be dropped at any time between steps (least recently used first), the position check notices.
/// With a budget the blocks are one buffer of planned size, there from the start: who needs more than it has left drops the least recently used sessions, and is refused when
/// the others are all in use. Blocks and all that grows with a session are native, so that a step which opens a block makes nothing for the collector; a dropped session's memory goes
/// back at once.
/// <code>block: [K | V][kv head][64 positions][head dim] of f32, f16 or int8 | int8: [K | V][kv head][64 positions] scales f32 | 64 chained token hashes u64</code>
/// </summary>
internal sealed unsafe class KvCache : IDisposable
{
    public const int BlockPositions = 64;
    private readonly Dictionary<Guid, KvSequence> _sequences = [];
    private readonly MemoryLedger _ledger;
    private readonly string _name;
    private readonly int _scaleOffset;
    private readonly int _hashOffset;
    private readonly int _blockBytes;
    private readonly NativeBuffer? _slab;
    private readonly int[] _free = [];
    private int _freeCount;
    private long _clock;
    private int _blocks;

    /// <param name="config">Shape of keys and values.</param>
    /// <param name="type">How they are kept, never <see cref="KvType.Auto"/>.</param>
    /// <param name="ledger">Counts the memory.</param>
    /// <param name="name">Its name there.</param>
    /// <param name="blocks">All that there will be, taken now; 0: as sessions need them.</param>
    public KvCache(ModelConfig config, KvType type, MemoryLedger ledger, string name, int blocks = 0)
    {
        Type = type;
        HeadDim = config.HeadDim;
        KvHeads = config.KvHeads;
        ElementBytes = BytesOf(type);
        _ledger = ledger;
        _name = name;
        _scaleOffset = 2 * KvHeads * BlockPositions * HeadDim * ElementBytes;
        _hashOffset = _scaleOffset + (type == KvType.Q8 ? 2 * KvHeads * BlockPositions * sizeof(float) : 0);
        _blockBytes = (int)BlockBytes(config, type);
        Blocks = blocks;
        if (blocks == 0) return;
        _slab = new NativeBuffer((long)blocks * _blockBytes, ledger, name, 64);
        _free = new int[blocks];
        for (int i = 0; i < blocks; i++) _free[i] = blocks - 1 - i;
        _freeCount = blocks;
    }

    /// <summary>What is meant by a type, for a package of mostly this format.</summary>
    public static KvType TypeOf(KvType type, WeightFormat weights) => type != KvType.Auto ? type : weights == WeightFormat.F32 ? KvType.F32 : KvType.F16;

    public static long BlockBytes(ModelConfig config, KvType type) =>
        2L * config.KvHeads * BlockPositions * (config.HeadDim * BytesOf(type) + (type == KvType.Q8 ? sizeof(float) : 0)) + BlockPositions * sizeof(ulong);

    private static int BytesOf(KvType type) => type switch { KvType.F32 => 4, KvType.F16 => 2, KvType.Q8 => 1, _ => throw new ArgumentOutOfRangeException(nameof(type)) };

    /// <summary>Blocks of the budget, or 0: no limit here.</summary>
    public int Blocks { get; }

    public KvType Type { get; }
    public int HeadDim { get; }
    public int KvHeads { get; }
    public int ElementBytes { get; }
    public long Bytes => _slab?.Length ?? (long)_blocks * _blockBytes;

    /// <summary>Admits a slot and makes room for its positions, or says why not. On a miss <paramref name="sequence"/> tells what is held (null: nothing).</summary>
    public Admission Admit(in Slot slot, ReadOnlySpan<int> tokens, out KvSequence? sequence)
    {
        _sequences.TryGetValue(slot.Session, out sequence);
        if (sequence != null && (slot.Epoch, slot.Step).CompareTo((sequence.Epoch, sequence.Step)) <= 0) return Admission.Old;
        int held = sequence?.Length ?? 0;
        ulong hash = sequence != null && slot.Position <= held ? sequence.HashAt(slot.Position) : TokenChain.Start;
        if (held < slot.Position || hash != slot.PrefixHash) return Admission.Miss;
        int more = (slot.Position + tokens.Length + BlockPositions - 1) / BlockPositions - (sequence?.BlockCount ?? 0);
        if (_slab != null && more > _freeCount && !MakeRoom(more, sequence)) return Admission.Full;
        if (sequence == null) _sequences.Add(slot.Session, sequence = new KvSequence(_hashOffset));
        sequence.Epoch = slot.Epoch;
        sequence.Step = slot.Step;
        sequence.LastUse = ++_clock;
        sequence.Truncate(slot.Position);
        while (sequence.BlockCount * BlockPositions < slot.Position + tokens.Length) sequence.AddBlock(NewBlock());
        sequence.Append(tokens, slot.Length);
        return Admission.Accepted;
    }

    public byte* Key(KvSequence sequence, int kvHead, int position) =>
        sequence.Block(position / BlockPositions) + ((long)kvHead * BlockPositions + position % BlockPositions) * HeadDim * ElementBytes;

    public byte* Value(KvSequence sequence, int kvHead, int position) =>
        sequence.Block(position / BlockPositions) + ((long)(KvHeads + kvHead) * BlockPositions + position % BlockPositions) * HeadDim * ElementBytes;

    /// <summary>8 bits: scales of a head's keys, from this position on to the end of its block.</summary>
    public float* KeyScale(KvSequence sequence, int kvHead, int position) =>
        (float*)(sequence.Block(position / BlockPositions) + _scaleOffset) + (long)kvHead * BlockPositions + position % BlockPositions;

    public float* ValueScale(KvSequence sequence, int kvHead, int position) => KeyScale(sequence, KvHeads + kvHead, position);

    /// <summary>Forgets a session. Blocks that a running step still reads are freed when it lets go (<see cref="Unpin"/>).</summary>
    public void Close(Guid session)
    {
        if (!_sequences.Remove(session, out var sequence)) return;
        if (sequence.Pins == 0) Release(sequence);
        else sequence.Orphaned = true;
    }

    public void Unpin(KvSequence sequence)
    {
        if (--sequence.Pins == 0 && sequence.Orphaned) Release(sequence);
    }

    /// <summary>Drops least recently used sessions that no running step uses until at most <paramref name="limit"/> bytes are held; a planned buffer holds what it holds.</summary>
    public void EvictTo(long limit)
    {
        while (_slab == null && Bytes > limit && DropOldest(null)) { }
    }

    private bool MakeRoom(int blocks, KvSequence? spared)
    {
        if (blocks > Blocks) return false;
        while (_freeCount < blocks)
            if (!DropOldest(spared)) return false;
        return true;
    }

    private bool DropOldest(KvSequence? spared)
    {
        Guid victim = default;
        long oldest = long.MaxValue;
        foreach (var (id, sequence) in _sequences)
        {
            if (sequence.Pins == 0 && sequence != spared && sequence.LastUse < oldest) (victim, oldest) = (id, sequence.LastUse);
        }
        if (oldest == long.MaxValue) return false;
        Close(victim);
        return true;
    }

    public void Dispose()
    {
        foreach (var sequence in _sequences.Values) Release(sequence);
        _sequences.Clear();
        _slab?.Dispose();
    }

    private byte* NewBlock()
    {
        if (_slab != null)
        {
            byte* next = _slab.Pointer + (long)_free[--_freeCount] * _blockBytes;
            _blocks++;
            return next;
        }
        byte* block = (byte*)NativeMemory.AlignedAlloc((nuint)_blockBytes, 64);
        NativeMemory.Clear(block, (nuint)_blockBytes);
        _blocks++;
        _ledger.Add(_name, _blockBytes);
        return block;
    }

    private void Release(KvSequence sequence)
    {
        _blocks -= sequence.BlockCount;
        if (_slab != null)
        {
            for (int i = 0; i < sequence.BlockCount; i++) _free[_freeCount++] = (int)((sequence.Block(i) - _slab.Pointer) / _blockBytes);
            sequence.Free();
            return;
        }
        for (int i = 0; i < sequence.BlockCount; i++) NativeMemory.AlignedFree(sequence.Block(i));
        _ledger.Add(_name, -(long)sequence.BlockCount * _blockBytes);
        sequence.Free();
    }
}

/// <summary>One session in one layer: its blocks, its chained token hash per position and the last (epoch, step) accepted.</summary>
internal sealed unsafe class KvSequence(int hashOffset)
{
    private byte** _blocks;
    private int _room;

    public int Epoch = -1;
    public long Step;
    public long LastUse;
    /// <summary>Running steps that read this sequence.</summary>
    public int Pins;
    /// <summary>Its session is closed; the last step that reads it frees it.</summary>
    public bool Orphaned;
    public int Length { get; private set; }
    public int BlockCount { get; private set; }

    public byte* Block(int index) => _blocks[index];

    public ulong HashAt(int length) => length == 0 ? TokenChain.Start : *Hash(length - 1);

    public void Truncate(int length) => Length = Math.Min(Length, length);

    public void Append(ReadOnlySpan<int> tokens, int length)
    {
        foreach (int token in tokens)
        {
            *Hash(Length) = TokenChain.Next(HashAt(Length), token, length);
            Length++;
        }
    }

    public void AddBlock(byte* block)
    {
        if (BlockCount == _room)
        {
            _room = Math.Max(8, _room * 2);
            _blocks = (byte**)NativeMemory.Realloc(_blocks, (nuint)_room * (nuint)sizeof(byte*));
        }
        _blocks[BlockCount++] = block;
    }

    /// <summary>Frees the list of blocks, after the cache freed the blocks.</summary>
    public void Free()
    {
        NativeMemory.Free(_blocks);
        _blocks = null;
        Length = BlockCount = _room = 0;
    }

    private ulong* Hash(int position) => (ulong*)(_blocks[position / KvCache.BlockPositions] + hashOffset) + position % KvCache.BlockPositions;
}
