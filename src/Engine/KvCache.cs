using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

internal enum Admission { Accepted, Old, Miss }

/// <summary>
/// Keys and values of one layer, per session, in native blocks of 64 fixed positions. Conductor thread only. Applies the recovery rule: a slot that is
/// not newer than the last accepted one is old; one whose prefix hash matches at its position truncates and appends; anything else is a miss.
/// The cache is recomputable: sessions may be dropped at any time between steps (least recently used first), the position check notices.
/// <code>block: [K | V][kv head][64 positions][head dim] of f32 or f16</code>
/// </summary>
internal sealed unsafe class KvCache : IDisposable
{
    public const int BlockPositions = 64;
    private readonly Dictionary<Guid, KvSequence> _sequences = [];
    private readonly Stack<NativeBuffer> _free = new();
    private readonly MemoryLedger _ledger;
    private readonly string _name;
    private readonly int _blockBytes;
    private long _clock;
    private int _blocks;

    public KvCache(ModelConfig config, bool half, MemoryLedger ledger, string name)
    {
        Half = half;
        HeadDim = config.HeadDim;
        KvHeads = config.KvHeads;
        ElementBytes = half ? 2 : 4;
        _ledger = ledger;
        _name = name;
        _blockBytes = 2 * KvHeads * BlockPositions * HeadDim * ElementBytes;
    }

    public bool Half { get; }
    public int HeadDim { get; }
    public int KvHeads { get; }
    public int ElementBytes { get; }
    public long Bytes => (long)_blocks * _blockBytes;

    /// <summary>Admits a slot and makes room for its positions, or says why not. On a miss <paramref name="sequence"/> tells what is held (null: nothing).</summary>
    public Admission Admit(in Slot slot, ReadOnlySpan<int> tokens, out KvSequence? sequence)
    {
        _sequences.TryGetValue(slot.Session, out sequence);
        if (sequence != null && (slot.Epoch, slot.Step).CompareTo((sequence.Epoch, sequence.Step)) <= 0) return Admission.Old;
        if (sequence == null)
        {
            if (slot.Position != 0) return Admission.Miss;
            _sequences.Add(slot.Session, sequence = new KvSequence());
        }
        if (sequence.Length < slot.Position || sequence.HashAt(slot.Position) != slot.PrefixHash) return Admission.Miss;
        sequence.Epoch = slot.Epoch;
        sequence.Step = slot.Step;
        sequence.LastUse = ++_clock;
        sequence.Truncate(slot.Position);
        sequence.Append(tokens, slot.Length);
        while (sequence.BlockCount * BlockPositions < sequence.Length) sequence.AddBlock(Rent());
        return Admission.Accepted;
    }

    public byte* Key(KvSequence sequence, int kvHead, int position) =>
        sequence.Block(position / BlockPositions).Pointer + ((long)kvHead * BlockPositions + position % BlockPositions) * HeadDim * ElementBytes;

    public byte* Value(KvSequence sequence, int kvHead, int position) =>
        sequence.Block(position / BlockPositions).Pointer + ((long)(KvHeads + kvHead) * BlockPositions + position % BlockPositions) * HeadDim * ElementBytes;

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

    /// <summary>Drops least recently used sessions that no running step uses until at most <paramref name="limit"/> bytes are held.</summary>
    public void EvictTo(long limit)
    {
        while (Bytes - (long)_free.Count * _blockBytes > limit)
        {
            Guid victim = default;
            long oldest = long.MaxValue;
            foreach (var (id, sequence) in _sequences)
            {
                if (sequence.Pins == 0 && sequence.BlockCount > 0 && sequence.LastUse < oldest) (victim, oldest) = (id, sequence.LastUse);
            }
            if (oldest == long.MaxValue) break;
            Close(victim);
        }
        while (Bytes > limit && _free.TryPop(out var block))
        {
            block.Dispose();
            _blocks--;
        }
    }

    public void Dispose()
    {
        foreach (var sequence in _sequences.Values) Release(sequence);
        _sequences.Clear();
        while (_free.TryPop(out var block)) block.Dispose();
        _blocks = 0;
    }

    private NativeBuffer Rent()
    {
        if (_free.TryPop(out var block)) return block;
        _blocks++;
        return new NativeBuffer(_blockBytes, _ledger, _name, alignment: 64);
    }

    private void Release(KvSequence sequence)
    {
        for (int i = 0; i < sequence.BlockCount; i++) _free.Push(sequence.Block(i));
    }
}

/// <summary>One session in one layer: its blocks, its chained token hash per position and the last (epoch, step) accepted.</summary>
internal sealed class KvSequence
{
    private ulong[] _chain = new ulong[256];
    private NativeBuffer[] _blocks = new NativeBuffer[8];

    public int Epoch = -1;
    public long Step;
    public long LastUse;
    /// <summary>Running steps that read this sequence.</summary>
    public int Pins;
    /// <summary>Its session is closed; the last step that reads it frees it.</summary>
    public bool Orphaned;
    public int Length { get; private set; }
    public int BlockCount { get; private set; }

    public NativeBuffer Block(int index) => _blocks[index];

    public ulong HashAt(int length) => length == 0 ? TokenChain.Start : _chain[length - 1];

    public void Truncate(int length) => Length = Math.Min(Length, length);

    public void Append(ReadOnlySpan<int> tokens, int length)
    {
        if (Length + tokens.Length > _chain.Length) Array.Resize(ref _chain, Math.Max(_chain.Length * 2, Length + tokens.Length));
        foreach (int token in tokens)
        {
            ulong hash = TokenChain.Next(HashAt(Length), token, length);
            _chain[Length++] = hash;
        }
    }

    public void AddBlock(NativeBuffer block)
    {
        if (BlockCount == _blocks.Length) Array.Resize(ref _blocks, BlockCount * 2);
        _blocks[BlockCount++] = block;
    }
}
