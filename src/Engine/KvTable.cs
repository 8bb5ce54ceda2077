using System.Runtime.InteropServices;

namespace FlashOrleans.Engine;

/// <summary>One block of keys and values: where it is, who holds it, and what it is once nobody writes into it any more (sealed).</summary>
internal unsafe struct KvBlock
{
    public byte* Data;
    /// <summary>Sealed: start of its chain, and the chain's hash behind its last position. What is before is in the chain, so that the two say all of it.</summary>
    public ulong Start, End;
    /// <summary>Sealed: the chain's hash before its first position, by which those that go on from the same point find one another.</summary>
    public ulong Begin;
    /// <summary>Sealed: absolute position behind its last one; 0: not sealed, somebody writes.</summary>
    public int Position;
    /// <summary>Sequences, and restores under way, that hold it. None: it is cached, if it is sealed.</summary>
    public int Refs;
    /// <summary>Where it is on disk; <see cref="KvTable.None"/>: nowhere, <see cref="KvTable.Writing"/>: on its way there.</summary>
    public int Slot;
    /// <summary>It waits to be written.</summary>
    public bool ToBeSaved;
    public int NextInBucket, NextWithBegin;
    public KvLink Unused, ToSave;

    public readonly bool IsSealed => Position > 0;
    public readonly bool IsSaved => Slot >= 0;
}

internal struct KvLink
{
    public int Before, Behind;
}

/// <summary>
/// The blocks of one layer by number: a native array with a free list, an index by content and two lists, of those that nobody holds (longest unused first) and of those to be written.
/// Native, so that a step which opens a block makes nothing for the collector. Knows nothing of sessions. Conductor thread only.
/// </summary>
internal sealed unsafe class KvTable : IDisposable
{
    public const int None = -1, Writing = -2;
    /// <summary>Native bytes for each block of a table of fixed size.</summary>
    public static readonly int BytesPerBlock = sizeof(KvBlock) + 4 * sizeof(int);
    private KvBlock* _blocks;
    private int* _buckets, _begins;
    private int _capacity, _made, _mask;
    private int _free = None;
    private KvLink _unused = new() { Before = None, Behind = None }, _toSave = new() { Before = None, Behind = None };

    public KvTable(int capacity) => Grow(Math.Max(capacity, 16));

    /// <summary>Sealed blocks.</summary>
    public int Indexed { get; private set; }
    /// <summary>Blocks that nobody holds.</summary>
    public int Cached { get; private set; }
    /// <summary>Of those that nobody holds the longest unused, of those to be saved the first.</summary>
    public int Oldest => _unused.Behind;
    public int FirstToSave => _toSave.Behind;

    public ref KvBlock this[int id] => ref _blocks[id];

    /// <summary>A number for a block of this memory.</summary>
    public int Take(byte* data)
    {
        int id = _free;
        if (id != None) _free = _blocks[id].NextInBucket;
        else
        {
            if (_made == _capacity) Grow(_capacity * 2);
            id = _made++;
        }
        _blocks[id] = new KvBlock { Data = data, Slot = None };
        return id;
    }

    public void Give(int id)
    {
        _blocks[id].Data = null;
        _blocks[id].NextInBucket = _free;
        _free = id;
    }

    public int Find(ulong start, ulong end, int position)
    {
        for (int id = _buckets[Bucket(start, end)]; id != None; id = _blocks[id].NextInBucket)
        {
            ref var b = ref _blocks[id];
            if (b.Start == start && b.End == end && b.Position == position) return id;
        }
        return None;
    }

    /// <summary>The first of the sealed blocks that may begin where this chain is, the next with <see cref="KvBlock.NextWithBegin"/>; some of them may be others.</summary>
    public int FirstWithBegin(ulong start, ulong begin) => _begins[Bucket(start, begin)];

    public void Seal(int id, ulong start, ulong begin, ulong end, int position)
    {
        ref var b = ref _blocks[id];
        (b.Start, b.Begin, b.End, b.Position) = (start, begin, end, position);
        Link(id);
        Indexed++;
    }

    public void Unseal(int id)
    {
        ref var b = ref _blocks[id];
        int* at = &_buckets[Bucket(b.Start, b.End)];
        while (*at != id) at = &_blocks[*at].NextInBucket;
        *at = b.NextInBucket;
        at = &_begins[Bucket(b.Start, b.Begin)];
        while (*at != id) at = &_blocks[*at].NextWithBegin;
        *at = b.NextWithBegin;
        b.Position = 0;
        Indexed--;
    }

    public void AddUnused(int id)
    {
        int last = _unused.Before;
        _blocks[id].Unused = new KvLink { Before = last, Behind = None };
        if (last == None) _unused.Behind = id;
        else _blocks[last].Unused.Behind = id;
        _unused.Before = id;
        Cached++;
    }

    public void AddUnusedFirst(int id)
    {
        int first = _unused.Behind;
        _blocks[id].Unused = new KvLink { Before = None, Behind = first };
        if (first == None) _unused.Before = id;
        else _blocks[first].Unused.Before = id;
        _unused.Behind = id;
        Cached++;
    }

    public void RemoveUnused(int id)
    {
        var link = _blocks[id].Unused;
        if (link.Before == None) _unused.Behind = link.Behind;
        else _blocks[link.Before].Unused.Behind = link.Behind;
        if (link.Behind == None) _unused.Before = link.Before;
        else _blocks[link.Behind].Unused.Before = link.Before;
        Cached--;
    }

    public void AddToSave(int id)
    {
        int last = _toSave.Before;
        _blocks[id].ToSave = new KvLink { Before = last, Behind = None };
        _blocks[id].ToBeSaved = true;
        if (last == None) _toSave.Behind = id;
        else _blocks[last].ToSave.Behind = id;
        _toSave.Before = id;
    }

    public void RemoveToSave(int id)
    {
        var link = _blocks[id].ToSave;
        if (link.Before == None) _toSave.Behind = link.Behind;
        else _blocks[link.Before].ToSave.Behind = link.Behind;
        if (link.Behind == None) _toSave.Before = link.Before;
        else _blocks[link.Behind].ToSave.Before = link.Before;
        _blocks[id].ToBeSaved = false;
    }

    public void Dispose()
    {
        NativeMemory.Free(_blocks);
        NativeMemory.Free(_buckets);
        NativeMemory.Free(_begins);
        _blocks = null;
        _buckets = _begins = null;
    }

    private int Bucket(ulong start, ulong end) => (int)(end ^ start * 0x9E3779B97F4A7C15) & _mask;

    private void Grow(int capacity)
    {
        _blocks = (KvBlock*)NativeMemory.Realloc(_blocks, (nuint)capacity * (nuint)sizeof(KvBlock));
        _capacity = capacity;
        int buckets = (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)capacity);
        _buckets = (int*)NativeMemory.Realloc(_buckets, (nuint)buckets * sizeof(int));
        _mask = buckets - 1;
        _begins = (int*)NativeMemory.Realloc(_begins, (nuint)buckets * sizeof(int));
        for (int i = 0; i < buckets; i++) _buckets[i] = _begins[i] = None;
        for (int id = 0; id < _made; id++)
            if (_blocks[id].Data != null && _blocks[id].IsSealed) Link(id);
    }

    private void Link(int id)
    {
        ref var b = ref _blocks[id];
        ref int bucket = ref _buckets[Bucket(b.Start, b.End)];
        b.NextInBucket = bucket;
        bucket = id;
        ref int begin = ref _begins[Bucket(b.Start, b.Begin)];
        b.NextWithBegin = begin;
        begin = id;
    }
}
