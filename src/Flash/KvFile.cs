using System.IO.Hashing;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Flash;

/// <summary>What a slot of a <see cref="KvFile"/> holds. Blittable: this is the format (docs/FORMAT.md).</summary>
[StructLayout(LayoutKind.Sequential, Size = 64)]
public struct KvEntry
{
    /// <summary>Start of the token chain, and its hash behind the block's last position.</summary>
    public ulong Start, End;
    /// <summary>Position behind the block's last one; 0: the slot is free.</summary>
    public int Position;
    private readonly int _reserved;
    /// <summary>The larger the later it was written.</summary>
    public long Written;
    /// <summary>Checksum of the block.</summary>
    public ulong Payload;
    /// <summary>The chain's hash before the block's first position.</summary>
    public ulong Begin;
    private readonly ulong _reserved1;
    /// <summary>Checksum of the bytes above, with the slot's number.</summary>
    public ulong Check;
}

/// <summary>
/// Saved keys and values of one layer: a file of fixed slots, each of one block, with a table of what they hold in front. A slot's entry is written behind its block and again in the table, so that a
/// torn write is a checksum that does not fit, and the slot free. A file of another version, or for another use, is begun anew. Only its owner may read it (0600), and one process at a time has it open.
/// Blocks are written through the page cache and their pages dropped; they are read directly, where the device does that. Loader and I/O threads; one thread at a time.
/// Errors are <see cref="IOException"/> or <see cref="FlashException"/>.
/// <code>header (4096): "FLASHKV1", version u32, payload bytes u32, slots u32, 0 u32, use u64, checksum u64 | entries of 64 bytes, to a page | slots: block, entry, to a page</code>
/// </summary>
public sealed unsafe class KvFile : IDisposable
{
    public const uint Version = 1;
    private const int Page = 4096, HeaderBytes = 48;
    private const ulong Magic = 0x3156_4B48_5341_4C46;
    private static readonly int s_entryBytes = sizeof(KvEntry);
    private readonly SafeFileHandle _handle;
    private readonly DirectFile? _direct;
    private readonly int _payloadBytes;
    private readonly long _table, _data;
    private long _written;

    private KvFile(SafeFileHandle handle, string path, int payloadBytes, int slots, ulong use)
    {
        _handle = handle;
        _payloadBytes = payloadBytes;
        Slots = slots;
        SlotBytes = SlotBytesFor(payloadBytes);
        _table = Page;
        _data = Page + RoundUp((long)slots * s_entryBytes);
        Begin(use);
        _direct = Libc.Supported ? DirectFile.Open(path) : null;
    }

    public int Slots { get; }
    public int SlotBytes { get; }

    /// <summary>Bytes of a slot for blocks of this size.</summary>
    public static int SlotBytesFor(int payloadBytes) => (int)RoundUp(payloadBytes + s_entryBytes);

    /// <summary>Opens or makes the file. <paramref name="use"/> says what its blocks are of; one that says something else is begun anew.</summary>
    public static KvFile Open(string path, ulong use, int payloadBytes, int slots)
    {
        SafeFileHandle handle;
        try
        {
            string folder = Path.GetDirectoryName(path)!;
            if (OperatingSystem.IsWindows()) Directory.CreateDirectory(folder);
            else Directory.CreateDirectory(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            // Made with a mode, since between making and changing it somebody else could open it.
            if (!File.Exists(path))
            {
                var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
                if (!OperatingSystem.IsWindows()) options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
                new FileStream(path, options).Dispose();
            }
            handle = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
        }
        catch (Exception e) when (e is UnauthorizedAccessException)
        {
            throw new IOException(e.Message, e);
        }
        try
        {
            return new KvFile(handle, path, payloadBytes, slots, use);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>What the slots hold; those that are free, or were torn, have position 0.</summary>
    public KvEntry[] Scan()
    {
        var entries = new KvEntry[Slots];
        Span<byte> bytes = MemoryMarshal.AsBytes(entries.AsSpan());
        int got = 0;
        for (int n; got < bytes.Length && (n = RandomAccess.Read(_handle, bytes[got..], _table + got)) > 0;) got += n;
        for (int slot = 0; slot < Slots; slot++)
        {
            ref var entry = ref entries[slot];
            if ((slot + 1) * s_entryBytes > got || entry.Position <= 0 || entry.Check != CheckOf(entry, slot)) entry = default;
        }
        return entries;
    }

    /// <summary>Writes a block, which lies at the beginning of a buffer of a slot's size, and what it is.</summary>
    public void Write(int slot, KvEntry entry, byte* buffer)
    {
        entry.Payload = XxHash3.HashToUInt64(new ReadOnlySpan<byte>(buffer, _payloadBytes), (long)entry.End);
        entry.Check = CheckOf(entry, slot);
        *(KvEntry*)(buffer + _payloadBytes) = entry;
        long at = _data + (long)slot * SlotBytes;
        RandomAccess.Write(_handle, new ReadOnlySpan<byte>(buffer, SlotBytes), at);
        Put(slot, entry);
        if (!Libc.Supported) return;
        // Only what the kernel has written back can be dropped: the one before this.
        Libc.Advise(_handle, _written, SlotBytes, Libc.PosixFadvDontNeed);
        _written = at;
    }

    /// <summary>The slot is free again; its block is no longer found.</summary>
    public void Erase(int slot)
    {
        byte[] none = new byte[s_entryBytes];
        Put(slot, default);
        RandomAccess.Write(_handle, none, _data + (long)slot * SlotBytes + _payloadBytes);
    }

    /// <summary>Reads neighbouring slots into a buffer of as many slots on a page boundary; slots that were read whole.</summary>
    public int Read(int slot, int count, byte* buffer)
    {
        long at = _data + (long)slot * SlotBytes, wanted = (long)count * SlotBytes, got = 0;
        while (got < wanted)
        {
            long n;
            if (_direct == null) n = RandomAccess.Read(_handle, new Span<byte>(buffer + got, (int)(wanted - got)), at + got);
            else
            {
                IoVector part = new() { Base = buffer + got, Length = (nuint)(wanted - got) };
                n = _direct.Read(at + got, new ReadOnlySpan<IoVector>(in part));
                if (n == -Libc.EINTR) continue;
            }
            if (n <= 0) break;
            // A short direct read may end anywhere; what follows it begins at a page.
            got += n == wanted - got ? n : n & -Page;
            if (n < Page) break;
        }
        return (int)(got / SlotBytes);
    }

    /// <summary>True when a slot that was read holds just this block, whole.</summary>
    public bool IsIntact(int slot, byte* buffer, ulong start, ulong end, int position)
    {
        var entry = *(KvEntry*)(buffer + _payloadBytes);
        return entry.Start == start && entry.End == end && entry.Position == position && entry.Check == CheckOf(entry, slot)
            && entry.Payload == XxHash3.HashToUInt64(new ReadOnlySpan<byte>(buffer, _payloadBytes), (long)entry.End);
    }

    public void Dispose()
    {
        _direct?.Dispose();
        _handle.Dispose();
    }

    private void Begin(ulong use)
    {
        byte[] header = new byte[Page], found = new byte[Page];
        BitConverter.TryWriteBytes(header.AsSpan(0), Magic);
        BitConverter.TryWriteBytes(header.AsSpan(8), Version);
        BitConverter.TryWriteBytes(header.AsSpan(12), _payloadBytes);
        BitConverter.TryWriteBytes(header.AsSpan(16), Slots);
        BitConverter.TryWriteBytes(header.AsSpan(24), use);
        BitConverter.TryWriteBytes(header.AsSpan(HeaderBytes - 8), XxHash3.HashToUInt64(header.AsSpan(0, HeaderBytes - 8)));
        long length = _data + (long)Slots * SlotBytes;
        if (RandomAccess.Read(_handle, found, 0) == Page && found.AsSpan().SequenceEqual(header))
        {
            // One that was cut lacks its last slots, which their checksums tell.
            if (RandomAccess.GetLength(_handle) != length) RandomAccess.SetLength(_handle, length);
            return;
        }
        RandomAccess.SetLength(_handle, 0);
        RandomAccess.SetLength(_handle, length);
        RandomAccess.Write(_handle, header, 0);
    }

    private void Put(int slot, KvEntry entry) => RandomAccess.Write(_handle, MemoryMarshal.AsBytes(new ReadOnlySpan<KvEntry>(in entry)), _table + (long)slot * s_entryBytes);

    private static ulong CheckOf(KvEntry entry, int slot)
    {
        entry.Check = 0;
        return XxHash3.HashToUInt64(MemoryMarshal.AsBytes(new ReadOnlySpan<KvEntry>(in entry)), slot + 1);
    }

    private static long RoundUp(long bytes) => (bytes + Page - 1) & -Page;
}
