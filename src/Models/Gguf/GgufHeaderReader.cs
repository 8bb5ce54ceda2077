using System.Buffers.Binary;
using System.Text;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// Reads the front of a GGUF file forwards through one small buffer. Every length is compared with what is left of the file, and of the limit set
/// for the front, before anything is allocated or skipped; nothing is trusted. One thread, only while a file is opened.
/// </summary>
internal sealed class GgufHeaderReader(BinaryFile file)
{
    private static readonly UTF8Encoding Strict = new(false, throwOnInvalidBytes: true);
    private readonly byte[] _buffer = new byte[Math.Min(64 * 1024, Math.Max(16, file.Length))];
    private long _bufferStart;
    private int _bufferLength;

    public BinaryFile File => file;

    /// <summary>The next byte to be read.</summary>
    public long Position { get; private set; }

    public long Left => file.Length - Position;

    /// <summary>The next <paramref name="count"/> bytes, at most 64 KiB; valid until the next call.</summary>
    public ReadOnlySpan<byte> Take(int count, string what)
    {
        Need((ulong)count, what);
        if (Position < _bufferStart || Position + count > _bufferStart + _bufferLength)
        {
            _bufferStart = Position;
            _bufferLength = (int)Math.Min(_buffer.Length, Left);
            file.Read(_bufferStart, _buffer.AsSpan(0, _bufferLength));
        }
        ReadOnlySpan<byte> bytes = _buffer.AsSpan((int)(Position - _bufferStart), count);
        Position += count;
        return bytes;
    }

    public uint U32(string what) => BinaryPrimitives.ReadUInt32LittleEndian(Take(4, what));
    public ulong U64(string what) => BinaryPrimitives.ReadUInt64LittleEndian(Take(8, what));

    public void Skip(ulong count, string what)
    {
        Need(count, what);
        Position += (long)count;
    }

    /// <summary>A name: 8 bytes of length, then UTF-8.</summary>
    public string Name(int most, string what)
    {
        long at = Position;
        ulong length = U64(what);
        if (length > (ulong)Left) throw Truncated(at, $"{what} of {length} bytes");
        if (length == 0 || length > (ulong)most) throw file.Error($"{what} at byte {at} has {length} bytes, 1 to {most} are allowed; the file is damaged");
        ReadOnlySpan<byte> bytes = Take((int)length, what);
        try
        {
            return Strict.GetString(bytes);
        }
        catch (DecoderFallbackException e)
        {
            throw new ModelFormatException(file.Path, $"{what} at byte {at} is not UTF-8; the file is damaged", e);
        }
    }

    private void Need(ulong count, string what)
    {
        if (count > (ulong)Left) throw Truncated(Position, what);
    }

    private ModelFormatException Truncated(long at, string what) =>
        file.Error($"{what} at byte {at} reaches beyond the end of the file ({file.Length} bytes); the file is damaged or incomplete, download it again");
}
