using System.Buffers.Binary;
using System.Text;

namespace FlashOrleans.Models.Pickle;

/// <summary>
/// The directory of a zip archive whose entries are stored, not compressed, as torch writes them: name → where the bytes are. Read without
/// extracting anything; names are only looked up, never used as paths. Every count and offset is checked against the file first. Zip64 included.
/// </summary>
internal static class ZipDirectory
{
    private const int MaxEntries = 65_536;
    private const int MaxDirectoryBytes = 16 << 20;
    private const int EndBytes = 22;
    private const int EntryBytes = 46;
    private const int LocalBytes = 30;

    public static Dictionary<string, (long Offset, long Bytes)> Read(BinaryFile file)
    {
        (long start, long bytes, long count) = FindDirectory(file);
        if (count > MaxEntries || bytes > MaxDirectoryBytes) throw file.Error($"claims {count} zip entries in {bytes} bytes, at most {MaxEntries} in {MaxDirectoryBytes} are read; the file is damaged");
        if (start < 0 || bytes < 0 || start > file.Length - bytes || count > bytes / EntryBytes) throw Damaged(file, start);
        byte[] directory = new byte[bytes];
        file.Read(start, directory);
        var entries = new Dictionary<string, (long, long)>((int)count, StringComparer.Ordinal);
        int at = 0;
        for (long i = 0; i < count; i++)
        {
            if (directory.Length - at < EntryBytes || BinaryPrimitives.ReadUInt32LittleEndian(directory.AsSpan(at)) != 0x02014b50) throw Damaged(file, start + at);
            ReadOnlySpan<byte> entry = directory.AsSpan(at);
            int name = U16(entry, 28), extra = U16(entry, 30), comment = U16(entry, 32);
            if (entry.Length - EntryBytes < name + extra + comment) throw Damaged(file, start + at);
            string text = Encoding.UTF8.GetString(entry.Slice(EntryBytes, name));
            if ((U16(entry, 8) & 1) != 0) throw file.Error($"zip entry {text} is encrypted; save the model as safetensors");
            if (U16(entry, 10) != 0) throw file.Error($"zip entry {text} is compressed, which torch never does; save the model as safetensors");
            (long size, long local) = Place(entry, entry.Slice(EntryBytes + name, extra)) ?? throw Damaged(file, start + at);
            if (!entries.TryAdd(text, (DataOffset(file, text, local, size), size))) throw file.Error($"zip entry {text} is given twice; the file is damaged");
            at += EntryBytes + name + extra + comment;
        }
        return entries;
    }

    /// <summary>Size and offset of the local header, from the entry or, where that says 2^32 - 1, from its zip64 extra field.</summary>
    private static (long Size, long Local)? Place(ReadOnlySpan<byte> entry, ReadOnlySpan<byte> extra)
    {
        ulong stored = U32(entry, 20), size = U32(entry, 24), local = U32(entry, 42);
        for (int at = 0; at + 4 <= extra.Length;)
        {
            int id = U16(extra, at), length = U16(extra, at + 2);
            if (length > extra.Length - at - 4) return null;
            if (id == 1)
            {
                ReadOnlySpan<byte> wide = extra.Slice(at + 4, length);
                if (!Widen(ref size, ref wide) || !Widen(ref stored, ref wide) || !Widen(ref local, ref wide)) return null;
            }
            at += 4 + length;
        }
        return stored == size && size <= long.MaxValue && local <= long.MaxValue ? ((long)size, (long)local) : null;
    }

    private static bool Widen(ref ulong number, ref ReadOnlySpan<byte> wide)
    {
        if (number != uint.MaxValue) return true;
        if (wide.Length < 8) return false;
        number = BinaryPrimitives.ReadUInt64LittleEndian(wide);
        wide = wide[8..];
        return true;
    }

    /// <summary>The local header repeats the name and has an extra field of its own length (torch pads with it).</summary>
    private static long DataOffset(BinaryFile file, string name, long local, long size)
    {
        if (local > file.Length - LocalBytes) throw file.Error($"zip entry {name} is said to be at byte {local}, beyond the end of the file ({file.Length} bytes); download it again");
        Span<byte> header = stackalloc byte[LocalBytes];
        file.Read(local, header);
        if (U32(header, 0) != 0x04034b50) throw Damaged(file, local);
        long data = local + LocalBytes + U16(header, 26) + U16(header, 28);
        return data <= file.Length - size ? data : throw file.Error($"zip entry {name} of {size} bytes at byte {data} reaches beyond the end of the file ({file.Length} bytes); download it again");
    }

    private static (long Start, long Bytes, long Count) FindDirectory(BinaryFile file)
    {
        // The end record is last but for a comment, which torch does not write; a short one is allowed for.
        byte[] tail = new byte[Math.Min(file.Length, EndBytes + 1024)];
        file.Read(file.Length - tail.Length, tail);
        int end = tail.Length - EndBytes;
        while (end >= 0 && U32(tail, end) != 0x06054b50) end--;
        if (end < 0) throw file.Error("is not a zip archive as torch.save writes it, or it is incomplete; download it again, or save the model as safetensors");
        (long start, long bytes, long count) = (U32(tail, end + 16), U32(tail, end + 12), U16(tail, end + 10));
        int locator = end - 20;
        if (locator < 0 || U32(tail, locator) != 0x07064b50) return (start, bytes, count);
        ulong at = BinaryPrimitives.ReadUInt64LittleEndian(tail.AsSpan(locator + 8));
        if (file.Length < 56 || at > (ulong)file.Length - 56) throw Damaged(file, file.Length - tail.Length + locator);
        Span<byte> wide = stackalloc byte[56];
        file.Read((long)at, wide);
        if (U32(wide, 0) != 0x06064b50) throw Damaged(file, (long)at);
        return (BinaryPrimitives.ReadInt64LittleEndian(wide[48..]), BinaryPrimitives.ReadInt64LittleEndian(wide[40..]), Math.Max(0, BinaryPrimitives.ReadInt64LittleEndian(wide[32..])));
    }

    private static ModelFormatException Damaged(BinaryFile file, long at) => file.Error($"the zip directory is damaged at byte {at}; download it again");
    private static ushort U16(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);
    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);
}
