using System.Runtime.InteropServices;

namespace FlashOrleans.Flash;

/// <summary>
/// One io_uring of the kernel (5.19 and newer, for its single-issuer mode), by raw calls: reads are queued, handed over in one call and their results taken from shared memory. Used by the
/// thread that opened it and by no other. Containers often refuse the call: then <see cref="TryOpen"/> gives null and reads stay with threads. The layout of what is shared is the kernel's ABI
/// (linux/io_uring.h).
/// </summary>
internal sealed unsafe partial class IoRing : IDisposable
{
    private const int SetupCall = 425, EnterCall = 426;
    private const uint SingleIssuer = 1 << 12, DeferTaskRun = 1 << 13, SingleMmap = 1 << 0;
    private const uint GetEvents = 1;
    private const byte ReadvOp = 1, ReadOp = 22;
    private const int EntryBytes = 64;

    private readonly int _fd;
    private readonly byte* _ring, _entries;
    private readonly nuint _ringBytes, _entriesBytes;
    private readonly uint* _head, _tail, _doneHead, _doneTail;
    private readonly uint _mask, _doneMask, _size;
    private readonly byte* _done;
    private uint _unsent;

    private IoRing(int fd, in Parameters p, byte* ring, nuint ringBytes, byte* entries, nuint entriesBytes)
    {
        _fd = fd;
        _ring = ring;
        _ringBytes = ringBytes;
        _entries = entries;
        _entriesBytes = entriesBytes;
        _head = (uint*)(ring + p.SubmitHead);
        _tail = (uint*)(ring + p.SubmitTail);
        _mask = *(uint*)(ring + p.SubmitMask);
        _size = p.SubmitEntries;
        uint* order = (uint*)(ring + p.SubmitArray);
        for (uint i = 0; i < p.SubmitEntries; i++) order[i] = i;
        _doneHead = (uint*)(ring + p.DoneHead);
        _doneTail = (uint*)(ring + p.DoneTail);
        _doneMask = *(uint*)(ring + p.DoneMask);
        _done = ring + p.DoneEntries;
    }

    /// <summary>A ring with room for so many reads at a time (a power of two), or null where there is none to be had.</summary>
    public static IoRing? TryOpen(uint entries)
    {
        if (!Libc.Supported) return null;
        Parameters p = new() { Flags = SingleIssuer | DeferTaskRun };
        long fd = Syscall(SetupCall, (nint)entries, (nint)(&p), 0, 0, 0, 0);
        if (fd < 0) return null;
        nuint ringBytes = Math.Max(p.SubmitArray + p.SubmitEntries * 4u, p.DoneEntries + p.DoneCount * 16u), entriesBytes = p.SubmitEntries * EntryBytes;
        byte* ring = (p.Features & SingleMmap) == 0 ? (byte*)-1 : Map(0, ringBytes, 3, 0x8001, (int)fd, 0);
        byte* table = ring == (byte*)-1 ? ring : Map(0, entriesBytes, 3, 0x8001, (int)fd, 0x10000000);
        if (table == (byte*)-1)
        {
            if (ring != (byte*)-1) _ = Unmap(ring, ringBytes);
            _ = Close((int)fd);
            return null;
        }
        return new IoRing((int)fd, p, ring, ringBytes, table, entriesBytes);
    }

    /// <summary>Queues a scattered read; the list of parts and their memory stay put until its result is taken. The caller has no more under way than the ring has room for.</summary>
    public void Read(int fd, long offset, IoVector* parts, int count, ulong token) =>
        Queue(count == 1 ? ReadOp : ReadvOp, fd, offset, count == 1 ? parts->Base : (byte*)parts, count == 1 ? (uint)parts->Length : (uint)count, token);

    /// <summary>Queues a read of the 8 bytes of an eventfd.</summary>
    public void ReadEvent(int fd, ulong* value, ulong token) => Queue(ReadOp, fd, 0, (byte*)value, 8, token);

    /// <summary>Hands over what is queued and waits until so many results are there; fewer when a signal comes between.</summary>
    public void SubmitAndWait(uint least)
    {
        while (true)
        {
            long sent = Syscall(EnterCall, _fd, (nint)_unsent, (nint)least, (nint)GetEvents, 0, 0);
            if (sent >= 0) _unsent -= (uint)sent;
            if (Volatile.Read(ref *_doneTail) != *_doneHead) return;
            if (sent >= 0 || Marshal.GetLastPInvokeError() is Libc.EINTR or Busy or Again) continue;
            throw new FlashException($"io_uring: {Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError())}");
        }
    }

    private const int Again = 11, Busy = 16;

    /// <summary>Takes one result: bytes or minus errno.</summary>
    public bool TryTake(out ulong token, out int result)
    {
        uint head = *_doneHead;
        if (head == Volatile.Read(ref *_doneTail))
        {
            token = 0;
            result = 0;
            return false;
        }
        byte* entry = _done + (head & _doneMask) * 16;
        token = *(ulong*)entry;
        result = *(int*)(entry + 8);
        Volatile.Write(ref *_doneHead, head + 1);
        return true;
    }

    public void Dispose()
    {
        _ = Unmap(_entries, _entriesBytes);
        _ = Unmap(_ring, _ringBytes);
        _ = Close(_fd);
    }

    private void Queue(byte op, int fd, long offset, byte* address, uint length, ulong token)
    {
        uint tail = *_tail;
        if (tail - Volatile.Read(ref *_head) >= _size) throw new InvalidOperationException("more reads than the ring has room for");
        byte* entry = _entries + (tail & _mask) * EntryBytes;
        new Span<byte>(entry, EntryBytes).Clear();
        entry[0] = op;
        *(int*)(entry + 4) = fd;
        *(long*)(entry + 8) = offset;
        *(ulong*)(entry + 16) = (ulong)address;
        *(uint*)(entry + 24) = length;
        *(ulong*)(entry + 32) = token;
        Volatile.Write(ref *_tail, tail + 1);
        _unsent++;
    }

    /// <summary>struct io_uring_params, flat.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Parameters
    {
        public uint SubmitEntries, DoneCount, Flags, Cpu, Idle, Features, Worker, R0, R1, R2;
        public uint SubmitHead, SubmitTail, SubmitMask, SubmitCount, SubmitFlags, SubmitDropped, SubmitArray, SubmitReserved;
        public ulong SubmitAddress;
        public uint DoneHead, DoneTail, DoneMask, DoneCountAt, DoneOverflow, DoneEntries, DoneFlags, DoneReserved;
        public ulong DoneAddress;
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint Syscall(nint number, nint a, nint b, nint c, nint d, nint e, nint f);

    [LibraryImport("libc", EntryPoint = "mmap")]
    private static partial byte* Map(nint address, nuint bytes, int protection, int flags, int fd, nint offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(byte* address, nuint bytes);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);
}
