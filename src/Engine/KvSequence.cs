using System.Runtime.InteropServices;

namespace FlashOrleans.Engine;

/// <summary>
/// One session in one layer: its blocks, its chained token hash per position and the last (epoch, step) accepted. The first <see cref="Sealed"/> blocks are full and may be
/// shared with other sequences; only the last one is written into. Conductor thread; compute threads read the blocks of a running step.
/// </summary>
internal sealed unsafe class KvSequence(int hashOffset)
{
    private byte** _blocks;
    private int* _ids;
    private int _room;

    public int Epoch = -1;
    public long Step;
    public long LastUse;
    /// <summary>Hash of no token: what keeps one user's chains apart from another's.</summary>
    public ulong Start = TokenChain.Start;
    /// <summary>Running steps that read this sequence.</summary>
    public int Pins;
    /// <summary>Its session is closed; the last step that reads it frees it.</summary>
    public bool Orphaned;
    /// <summary>What an orphan computed stays cached.</summary>
    public bool Keep;
    /// <summary>Its turn ended while a step was still reading it.</summary>
    public bool Settles;
    /// <summary>What is being brought back for it; whatever it does meanwhile makes that void.</summary>
    public KvRecall? Recall;
    public int Length { get; private set; }
    /// <summary>Positions whose keys and values are there: a step that is on its way, or died, has appended hashes alone.</summary>
    public int Valid { get; private set; }
    /// <summary>Leading blocks that are sealed and full.</summary>
    public int Sealed;
    public int BlockCount { get; private set; }

    public byte* Block(int index) => _blocks[index];

    public int Id(int index) => _ids[index];

    public ulong HashAt(int length) => length == 0 ? Start : *Hash(length - 1);

    /// <summary>Forgets positions; the blocks behind them are the caller's to take.</summary>
    public void Truncate(int length)
    {
        Length = Math.Min(Length, length);
        Valid = Math.Min(Valid, length);
        Sealed = Math.Min(Sealed, length / KvCache.BlockPositions);
    }

    public void Append(ReadOnlySpan<int> tokens, int length)
    {
        foreach (int token in tokens)
        {
            *Hash(Length) = TokenChain.Next(HashAt(Length), token, length);
            Length++;
        }
    }

    /// <summary>Keys and values up to here are stored.</summary>
    public void Stored(int length) => Valid = Math.Min(length, Length);

    /// <summary>Its last blocks came as they are, hashes and all.</summary>
    public void Reach(int length) => Length = Valid = length;

    public void AddBlock(int id, byte* block)
    {
        if (BlockCount == _room)
        {
            _room = Math.Max(8, _room * 2);
            _blocks = (byte**)NativeMemory.Realloc(_blocks, (nuint)_room * (nuint)sizeof(byte*));
            _ids = (int*)NativeMemory.Realloc(_ids, (nuint)_room * sizeof(int));
        }
        _ids[BlockCount] = id;
        _blocks[BlockCount++] = block;
    }

    public void Replace(int index, int id, byte* block)
    {
        _ids[index] = id;
        _blocks[index] = block;
    }

    public int TakeLast() => _ids[--BlockCount];

    /// <summary>Positions that are computed and that this chain has as well (its entry i is the hash of i tokens).</summary>
    public int Agrees(ReadOnlySpan<ulong> chain)
    {
        if (chain[0] != Start) return 0;
        // What agrees at a position agrees before it.
        int most = Math.Min(Valid, chain.Length - 1), least = 0;
        while (least < most)
        {
            int middle = (least + most + 1) / 2;
            if (HashAt(middle) == chain[middle]) least = middle;
            else most = middle - 1;
        }
        return least;
    }

    /// <summary>Frees the list of blocks, after the cache took the blocks.</summary>
    public void Free()
    {
        NativeMemory.Free(_blocks);
        NativeMemory.Free(_ids);
        _blocks = null;
        _ids = null;
        Length = Valid = Sealed = BlockCount = _room = 0;
    }

    private ulong* Hash(int position) => (ulong*)(_blocks[position / KvCache.BlockPositions] + hashOffset) + position % KvCache.BlockPositions;
}
