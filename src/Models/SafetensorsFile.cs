using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

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
    private readonly SafeFileHandle _handle;
    private readonly Dictionary<string, TensorInfo> _tensors;

    private SafetensorsFile(string path, SafeFileHandle handle, long length, Dictionary<string, TensorInfo> tensors)
    {
        Path = path;
        Length = length;
        _handle = handle;
        _tensors = tensors;
    }

    public string Path { get; }
    public long Length { get; }
    public IReadOnlyDictionary<string, TensorInfo> Tensors => _tensors;

    public static SafetensorsFile Open(string path)
    {
        SafeFileHandle handle;
        try
        {
            handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ModelFormatException(path, $"cannot be opened: {e.Message}", e);
        }
        try
        {
            long length = RandomAccess.GetLength(handle);
            byte[] header = ReadHeader(path, handle, length);
            var tensors = SafetensorsHeader.Parse(path, header, 8 + (long)header.Length, length);
            return new SafetensorsFile(path, handle, length, tensors);
        }
        catch
        {
            handle.Dispose();
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
        Fill(tensor.Offset, bytes);
        return bytes;
    }

    public void Dispose() => _handle.Dispose();

    private static long Columns(TensorInfo tensor) => tensor.Shape.Count == 0 ? 1 : tensor.Shape[^1];

    private void ReadFloats(TensorInfo tensor, long element, Span<float> destination)
    {
        int size = tensor.Type == "F32" ? 4 : 2;
        if (!IsFloat(tensor.Type))
            throw new ModelFormatException(Path, $"tensor {tensor.Name} has type {tensor.Type}; weights are F32, F16 or BF16");
        long offset = tensor.Offset + element * size;
        if (size == 4)
        {
            Fill(offset, MemoryMarshal.AsBytes(destination));
            return;
        }
        byte[] scratch = ArrayPool<byte>.Shared.Rent(Math.Min(ScratchBytes, destination.Length * 2));
        try
        {
            for (int done = 0; done < destination.Length;)
            {
                int n = Math.Min(destination.Length - done, scratch.Length / 2);
                Span<byte> bytes = scratch.AsSpan(0, n * 2);
                Fill(offset + done * 2L, bytes);
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

    private void Fill(long offset, Span<byte> bytes) => Fill(Path, _handle, offset, bytes);

    private static void Fill(string path, SafeFileHandle handle, long offset, Span<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int read;
            try
            {
                read = RandomAccess.Read(handle, bytes, offset);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new ModelFormatException(path, $"cannot be read at byte {offset}: {e.Message}", e);
            }
            if (read == 0) throw new ModelFormatException(path, $"ends at byte {offset}: the file became shorter while it was read");
            bytes = bytes[read..];
            offset += read;
        }
    }

    /// <summary>The JSON header: 8 bytes of length, little-endian, then as many bytes.</summary>
    private static byte[] ReadHeader(string path, SafeFileHandle handle, long length)
    {
        if (length < 8) throw new ModelFormatException(path, $"{length} bytes are too few for a safetensors file; download it again");
        Span<byte> prefix = stackalloc byte[8];
        Fill(path, handle, 0, prefix);
        if (prefix[..4].SequenceEqual("GGUF"u8)) throw new ModelFormatException(path, "is a GGUF file, not safetensors");
        ulong size = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (size > SafetensorsHeader.MaxBytes)
            throw new ModelFormatException(path, $"header length {size} at byte 0 is beyond the limit of {SafetensorsHeader.MaxBytes}; not a safetensors file, or damaged");
        if (size > (ulong)length - 8)
            throw new ModelFormatException(path, $"header length {size} at byte 0 is beyond the end of the file ({length} bytes); download it again");
        byte[] header = new byte[size];
        Fill(path, handle, 8, header);
        return header;
    }
}
