using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace FlashOrleans.Models;

/// <summary>One tensor of a checkpoint file: element type as the file spells it, shape (outermost first), and where its bytes are.</summary>
public sealed record TensorInfo(string Name, string Type, IReadOnlyList<long> Shape, long Offset, long Bytes)
{
    public long Elements => Shape.Aggregate(1L, static (a, b) => a * b);
    public string ShapeText => $"[{string.Join(", ", Shape)}]";
}

/// <summary>
/// A safetensors file, read strictly: the header is checked whole at open (every byte of the data belongs to exactly one tensor), the data are
/// read on demand, some rows at a time, so that memory does not depend on the size of the file. F32, F16 and BF16 become float.
/// Any thread may read; nothing is cached. What is wrong with a file is one <see cref="ModelFormatException"/>.
/// </summary>
public sealed class SafetensorsFile : IDisposable
{
    private const int ScratchBytes = 256 * 1024;
    private readonly BinaryFile _file;
    private readonly Dictionary<string, TensorInfo> _tensors;

    private SafetensorsFile(BinaryFile file, Dictionary<string, TensorInfo> tensors)
    {
        _file = file;
        _tensors = tensors;
    }

    public string Path => _file.Path;
    public long Length => _file.Length;
    public IReadOnlyDictionary<string, TensorInfo> Tensors => _tensors;

    public static SafetensorsFile Open(string path)
    {
        BinaryFile file = BinaryFile.Open(path);
        try
        {
            byte[] header = ReadHeader(file);
            return new SafetensorsFile(file, SafetensorsHeader.Parse(path, header, 8 + (long)header.Length, file.Length));
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>True for the element types that can be weights.</summary>
    public static bool IsFloat(string type) => type is "F32" or "F16" or "BF16";

    /// <summary>Rows [firstRow, firstRow + count) of a tensor as floats, row after row. A vector is one row.</summary>
    public void ReadRows(TensorInfo tensor, long firstRow, int count, Span<float> destination)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        long cols = Columns(tensor);
        long rows = cols == 0 ? 0 : tensor.Elements / cols;
        if (firstRow < 0 || count < 0 || firstRow > rows - count || destination.Length != count * cols)
            throw new ArgumentOutOfRangeException(nameof(firstRow), $"rows {firstRow}..{firstRow + count} of {tensor.Name} {tensor.ShapeText} into {destination.Length} numbers");
        ReadFloats(tensor, firstRow * cols, destination);
    }

    /// <summary>A rectangle of a matrix: rows [firstRow, firstRow + rows) x columns [firstCol, firstCol + cols), row after row.</summary>
    public void ReadBlock(TensorInfo tensor, long firstRow, int rows, long firstCol, int cols, Span<float> destination)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        long width = Columns(tensor);
        if (firstCol < 0 || cols < 0 || firstCol > width - cols || firstRow < 0 || rows < 0 || firstRow > tensor.Elements / Math.Max(width, 1) - rows
            || destination.Length != (long)rows * cols)
            throw new ArgumentOutOfRangeException(nameof(firstRow), $"block {firstRow}+{rows} x {firstCol}+{cols} of {tensor.Name} {tensor.ShapeText} into {destination.Length} numbers");
        for (int r = 0; r < rows; r++)
            ReadFloats(tensor, (firstRow + r) * width + firstCol, destination.Slice(r * cols, cols));
    }

    /// <summary>A whole tensor's bytes as they are in the file.</summary>
    public byte[] ReadBytes(TensorInfo tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        byte[] bytes = new byte[tensor.Bytes];
        _file.Read(tensor.Offset, bytes);
        return bytes;
    }

    /// <summary>Bytes of a tensor as they are in the file, from byte <paramref name="from"/> of it on.</summary>
    internal void ReadRaw(TensorInfo tensor, long from, Span<byte> destination)
    {
        if (from < 0 || from > tensor.Bytes - destination.Length)
            throw new ArgumentOutOfRangeException(nameof(from), $"bytes {from}..{from + destination.Length} of {tensor.Name}, which has {tensor.Bytes}");
        _file.Read(tensor.Offset + from, destination);
    }

    internal static int ElementBytes(string type) => type == "F32" ? 4 : 2;

    /// <summary>Stored numbers as floats.</summary>
    internal static void Widen(string type, ReadOnlySpan<byte> from, Span<float> to)
    {
        if (type == "F32") from.CopyTo(MemoryMarshal.AsBytes(to));
        else Widen(type, MemoryMarshal.Cast<byte, ushort>(from), to);
    }

    public void Dispose() => _file.Dispose();

    private static long Columns(TensorInfo tensor) => tensor.Shape.Count == 0 ? 1 : tensor.Shape[^1];

    private void ReadFloats(TensorInfo tensor, long element, Span<float> destination)
    {
        int size = ElementBytes(tensor.Type);
        if (!IsFloat(tensor.Type))
            throw new ModelFormatException(Path, $"tensor {tensor.Name} has type {tensor.Type}; weights are F32, F16 or BF16");
        long offset = tensor.Offset + element * size;
        if (size == 4)
        {
            _file.Read(offset, MemoryMarshal.AsBytes(destination));
            return;
        }
        byte[] scratch = ArrayPool<byte>.Shared.Rent(Math.Min(ScratchBytes, destination.Length * 2));
        try
        {
            for (int done = 0; done < destination.Length;)
            {
                int n = Math.Min(destination.Length - done, scratch.Length / 2);
                Span<byte> bytes = scratch.AsSpan(0, n * 2);
                _file.Read(offset + done * 2L, bytes);
                Widen(tensor.Type, MemoryMarshal.Cast<byte, ushort>(bytes), destination.Slice(done, n));
                done += n;
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(scratch);
        }
    }

    private static void Widen(string type, ReadOnlySpan<ushort> from, Span<float> to)
    {
        if (type == "BF16")
            for (int i = 0; i < from.Length; i++) to[i] = BitConverter.UInt32BitsToSingle((uint)from[i] << 16);
        else
            for (int i = 0; i < from.Length; i++) to[i] = (float)BitConverter.UInt16BitsToHalf(from[i]);
    }

    /// <summary>The JSON header: 8 bytes of length, little-endian, then as many bytes.</summary>
    private static byte[] ReadHeader(BinaryFile file)
    {
        (string path, long length) = (file.Path, file.Length);
        if (length < 8) throw new ModelFormatException(path, $"{length} bytes are too few for a safetensors file; download it again");
        Span<byte> prefix = stackalloc byte[8];
        file.Read(0, prefix);
        if (prefix[..4].SequenceEqual("GGUF"u8)) throw new ModelFormatException(path, "is a GGUF file, not safetensors");
        ulong size = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (size > SafetensorsHeader.MaxBytes)
            throw new ModelFormatException(path, $"header length {size} at byte 0 is beyond the limit of {SafetensorsHeader.MaxBytes}; not a safetensors file, or damaged");
        if (size > (ulong)length - 8)
            throw new ModelFormatException(path, $"header length {size} at byte 0 is beyond the end of the file ({length} bytes); download it again");
        byte[] header = new byte[size];
        file.Read(8, header);
        return header;
    }
}
