using System.Runtime.InteropServices;

namespace FlashOrleans.Flash;

/// <summary>
/// One io_uring of the kernel (5.19 and newer, for its single-issuer mode), by raw calls: reads are queued, handed over in one call and their results taken from shared memory. Used by the
/// thread that opened it and by no other. Containers often refuse the call: then <see cref="TryOpen"/> gives null and reads stay with threads. The layout of what is shared is the kernel's ABI
/// (linux/io_uring.h).
/// </summary>
internal sealed unsafe class IoRing : IDisposable
{
    private const int SetupCall = 425, EnterCall = 426, RegisterCall = 427;
    private const uint SingleIssuer = 1 << 12, DeferTaskRun = 1 << 13, SingleMmap = 1 << 0;
    private const uint GetEvents = 1;
    private const byte ReadvOp = 1, ReadFixedOp = 4, ReadOp = 22;
    private const int UpdateFiles = 6, RegisterFiles = 13, RegisterBuffers = 15, UpdateBuffers = 16;
    private const byte FixedFile = 1;
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
        long fd = Libc.Syscall(SetupCall, (nint)entries, (nint)(&p), 0, 0, 0, 0);
        if (fd < 0) return null;
        nuint ringBytes = Math.Max(p.SubmitArray + p.SubmitEntries * 4u, p.DoneEntries + p.DoneCount * 16u), entriesBytes = p.SubmitEntries * EntryBytes;
        byte* ring = (p.Features & SingleMmap) == 0 ? null : Libc.Share((int)fd, ringBytes, 0);
        byte* table = ring == null ? null : Libc.Share((int)fd, entriesBytes, 0x10000000);
        if (table == null)
        {
            if (ring != null) Libc.Unmap(ring, (long)ringBytes);
            _ = Libc.Close((int)fd);
            return null;
        }
        return new IoRing((int)fd, p, ring, ringBytes, table, entriesBytes);
    }

    /// <summary>
    /// Queues a scattered read; the list of parts and their memory stay put until its result is taken. The caller has no more under way than the ring has room for.
    /// </summary>
    /// <param name="file">A descriptor, or the place of a registered file.</param>
    /// <param name="registered">Which of them.</param>
    /// <param name="offset">In the file.</param>
    /// <param name="parts">Where to.</param>
    /// <param name="count">Of them.</param>
    /// <param name="buffer">The number of the registered memory in which the only part lies, or -1.</param>
    /// <param name="token">Comes back with the result.</param>
    public void Read(int file, bool registered, long offset, IoVector* parts, int count, int buffer, ulong token)
    {
        byte flags = registered ? FixedFile : (byte)0;
        if (count > 1) Queue(ReadvOp, file, offset, (byte*)parts, (uint)count, token, flags);
        else Queue(buffer >= 0 ? ReadFixedOp : ReadOp, file, offset, parts->Base, (uint)parts->Length, token, flags, (ushort)Math.Max(buffer, 0));
    }

    /// <summary>Makes a table for so many registered buffers, all empty; false where the kernel has none (before 5.19).</summary>
    public bool TryMakeBuffers(int count) => TryMake(RegisterBuffers, count);

    /// <summary>The same for files.</summary>
    public bool TryMakeFiles(int count) => TryMake(RegisterFiles, count);

    private bool TryMake(int what, int count)
    {
        // struct io_uring_rsrc_register: nr, flags (sparse), then nothing.
        uint* table = stackalloc uint[8] { (uint)count, 1, 0, 0, 0, 0, 0, 0 };
        return Libc.Syscall(RegisterCall, _fd, what, (nint)table, 32, 0, 0) >= 0;
    }

    /// <summary>Pins memory under a number, or, with null, lets go of what has it. False where more may not be pinned (RLIMIT_MEMLOCK).</summary>
    public bool TryRegister(int buffer, byte* start, long bytes)
    {
        IoVector part = new() { Base = start, Length = (nuint)bytes };
        // struct io_uring_rsrc_update2: offset, -, data, tags, nr, -.
        ulong* update = stackalloc ulong[4] { (uint)buffer, (ulong)&part, 0, 1 };
        return Libc.Syscall(RegisterCall, _fd, UpdateBuffers, (nint)update, 32, 0, 0) == 1;
    }

    /// <summary>Puts a file into a place of the table, or, with -1, lets go of the one that is there.</summary>
    public bool TryRegister(int place, int fd)
    {
        // struct io_uring_files_update: offset, -, where the descriptors are.
        ulong* update = stackalloc ulong[2] { (uint)place, (ulong)&fd };
        return Libc.Syscall(RegisterCall, _fd, UpdateFiles, (nint)update, 1, 0, 0) == 1;
    }

    /// <summary>Queues a read of the 8 bytes of an eventfd.</summary>
    public void ReadEvent(int fd, ulong* value, ulong token) => Queue(ReadOp, fd, 0, (byte*)value, 8, token);

    /// <summary>Hands over what is queued and waits until so many results are there; fewer when a signal comes between.</summary>
    public void SubmitAndWait(uint least)
    {
        while (true)
        {
            long sent = Libc.Syscall(EnterCall, _fd, (nint)_unsent, (nint)least, (nint)GetEvents, 0, 0);
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
        Libc.Unmap(_entries, (long)_entriesBytes);
        Libc.Unmap(_ring, (long)_ringBytes);
        _ = Libc.Close(_fd);
    }

    private void Queue(byte op, int fd, long offset, byte* address, uint length, ulong token, byte flags = 0, ushort buffer = 0)
    {
        uint tail = *_tail;
        if (tail - Volatile.Read(ref *_head) >= _size) throw new InvalidOperationException("more reads than the ring has room for");
        byte* entry = _entries + (tail & _mask) * EntryBytes;
        new Span<byte>(entry, EntryBytes).Clear();
        entry[0] = op;
        entry[1] = flags;
        *(int*)(entry + 4) = fd;
        *(long*)(entry + 8) = offset;
        *(ulong*)(entry + 16) = (ulong)address;
        *(uint*)(entry + 24) = length;
        *(ulong*)(entry + 32) = token;
        *(ushort*)(entry + 40) = buffer;
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
}
