using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Models;

/// <summary>
/// A file of a checkpoint, open for positional reads: any thread may read, nothing is mapped or loaded but what <see cref="Hold"/> is told. Whatever the system says is one
/// <see cref="ModelFormatException"/> with the path and, for a read, the byte.
/// </summary>
internal sealed class BinaryFile : IDisposable
{
    /// <summary>The largest range that is held: a feed-forward matrix of a 7B model in 16 bits, of a 13B model in 8.</summary>
    private const int MostHeld = 128 << 20;
    private const int ReadAtOnce = 4 << 20;
    private readonly SafeFileHandle _handle;
    private readonly Scratch<byte> _room = new();
    private volatile Held? _held;

    private sealed record Held(long Offset, byte[] Bytes, int Length);

    private BinaryFile(string path, SafeFileHandle handle, long length)
    {
        Path = path;
        _handle = handle;
        Length = length;
    }

    public string Path { get; }
    public long Length { get; }

    public static BinaryFile Open(string path)
    {
        SafeFileHandle? handle = null;
        try
        {
            handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read);
            return new BinaryFile(path, handle, RandomAccess.GetLength(handle));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException)
        {
            handle?.Dispose();
            throw new ModelFormatException(path, $"cannot be opened: {e.Message}", e);
        }
    }

    /// <summary>Fills <paramref name="bytes"/> from <paramref name="offset"/> on, or throws.</summary>
    public void Read(long offset, Span<byte> bytes)
    {
        if (_held is { } held && offset >= held.Offset && offset + bytes.Length <= held.Offset + held.Length)
        {
            held.Bytes.AsSpan((int)(offset - held.Offset), bytes.Length).CopyTo(bytes);
            return;
        }
        while (!bytes.IsEmpty)
        {
            int read;
            try
            {
                read = RandomAccess.Read(_handle, bytes, offset);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new ModelFormatException(Path, $"cannot be read at byte {offset}: {e.Message}", e);
            }
            if (read == 0) throw new ModelFormatException(Path, $"ends at byte {offset}: the file became shorter while it was read");
            bytes = bytes[read..];
            offset += read;
        }
    }

    /// <summary>
    /// Reads a range into memory, in the place of the one before: from now on pieces of it are copied from there. For what is read in small pieces from all over, which no disk likes.
    /// A range above <see cref="MostHeld"/> is left on the disk. One caller at a time; it must not read the range before meanwhile.
    /// </summary>
    public void Hold(long offset, long bytes, CancellationToken cancel)
    {
        _held = null;
        if (bytes > MostHeld) return;
        byte[] room = _room.Of((int)bytes);
        for (int done = 0; done < bytes; done += ReadAtOnce)
        {
            cancel.ThrowIfCancellationRequested();
            Read(offset + done, room.AsSpan(done, (int)Math.Min(ReadAtOnce, bytes - done)));
        }
        _held = new Held(offset, room, (int)bytes);
    }

    public ModelFormatException Error(string reason) => new(Path, reason);

    public void Dispose() => _handle.Dispose();
}
