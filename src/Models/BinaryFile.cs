using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Models;

/// <summary>
/// A file of a checkpoint, open for positional reads: any thread may read, nothing is mapped or loaded. Whatever the system says is one <see cref="ModelFormatException"/> with the path and, for a
/// read, the byte.
/// </summary>
internal sealed class BinaryFile : IDisposable
{
    private readonly SafeFileHandle _handle;

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

    public ModelFormatException Error(string reason) => new(Path, reason);

    public void Dispose() => _handle.Dispose();
}
