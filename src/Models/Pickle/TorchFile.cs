using System.Buffers;
using System.Runtime.InteropServices;
using FlashOrleans.Models.Gguf;

namespace FlashOrleans.Models.Pickle;

/// <summary>
/// A file that torch.save wrote (a zip with <c>data.pkl</c> and one entry per storage) and that holds a dict of plain tensors, read as data: the
/// pickle by <see cref="PickleReader"/>, which runs nothing, the numbers on demand, some rows at a time. F32, F16 and BF16 become float.
/// Any thread may read; nothing is cached. What is wrong with a file is one <see cref="ModelFormatException"/>.
/// </summary>
internal sealed class TorchFile : IDisposable
{
    private const int ScratchBytes = 256 * 1024;
    private readonly BinaryFile _file;
    private readonly Dictionary<string, TensorInfo> _tensors = new(StringComparer.Ordinal);

    private TorchFile(BinaryFile file) => _file = file;

    public string Path => _file.Path;

    /// <summary>By name, in the order of the file; types are spelled as in safetensors, shapes are outermost first.</summary>
    public IReadOnlyDictionary<string, TensorInfo> Tensors => _tensors;

    public static TorchFile Open(string path)
    {
        var torch = new TorchFile(BinaryFile.Open(path));
        try
        {
            torch.ReadTensors();
            return torch;
        }
        catch
        {
            torch.Dispose();
            throw;
        }
    }

    /// <summary>Rows [firstRow, firstRow + count) of a tensor as floats, row after row. A vector is one row.</summary>
    public void ReadRows(TensorInfo tensor, long firstRow, int count, Span<float> destination)
    {
        long cols = tensor.Shape.Count == 0 ? 1 : tensor.Shape[^1];
        long rows = cols == 0 ? 0 : tensor.Elements / cols;
        if (firstRow < 0 || count < 0 || firstRow > rows - count || (Int128)count * cols != destination.Length)
            throw new ArgumentOutOfRangeException(nameof(firstRow), $"rows {firstRow}..{firstRow + count} of {tensor.Name} {tensor.ShapeText} into {destination.Length} numbers");
        int size = ElementBytes(tensor.Type);
        long offset = tensor.Offset + firstRow * cols * size;
        if (size == 4)
        {
            _file.Read(offset, MemoryMarshal.AsBytes(destination));
            return;
        }
        GgufType type = tensor.Type == "F16" ? GgufType.F16 : GgufType.BF16;
        byte[] scratch = ArrayPool<byte>.Shared.Rent(Math.Min(ScratchBytes, destination.Length * 2));
        try
        {
            for (int done = 0; done < destination.Length;)
            {
                int n = Math.Min(destination.Length - done, scratch.Length / 2);
                _file.Read(offset + done * 2L, scratch.AsSpan(0, n * 2));
                GgufDequantizer.Dequantize(type, scratch.AsSpan(0, n * 2), destination.Slice(done, n));
                done += n;
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(scratch);
        }
    }

    public void Dispose() => _file.Dispose();

    private void ReadTensors()
    {
        Dictionary<string, (long Offset, long Bytes)> entries = Entries();
        string? pickleName = entries.Keys.FirstOrDefault(static n => n.EndsWith("/data.pkl", StringComparison.Ordinal));
        if (pickleName == null) throw _file.Error("is a zip archive without data.pkl: torch.save did not write it; save the model as safetensors");
        string root = pickleName[..^"data.pkl".Length];
        if (entries.ContainsKey(root + "constants.pkl")) throw _file.Error("is a TorchScript archive, which holds code; save the state dict as safetensors");
        if (entries.TryGetValue(root + "byteorder", out (long Offset, long Bytes) order) && !Small(order).SequenceEqual("little"u8))
            throw _file.Error($"is not little-endian ({root}byteorder at byte {order.Offset}); save it again on a little-endian machine");
        (long offset, long bytes) = entries[pickleName];
        if (bytes > PickleReader.MaxBytes) throw _file.Error($"{pickleName} at byte {offset} has {bytes} bytes, at most {PickleReader.MaxBytes} are read; save the model as safetensors");
        byte[] pickle = new byte[bytes];
        _file.Read(offset, pickle);
        foreach ((string name, PickledTensor tensor) in PickleReader.Read(Path, pickle))
        {
            string storage = $"{root}data/{tensor.Storage}";
            if (!entries.TryGetValue(storage, out (long Offset, long Bytes) data)) throw _file.Error($"has no entry {storage}, where tensor {name} should be; download it again");
            int size = ElementBytes(tensor.Type);
            if ((Int128)tensor.StorageElements * size != data.Bytes)
                throw _file.Error($"entry {storage} at byte {data.Offset} has {data.Bytes} bytes for {tensor.StorageElements} numbers of type {tensor.Type} (tensor {name}); download it again");
            long elements = 1;
            foreach (long n in tensor.Shape) elements *= n;
            _tensors.Add(name, new TensorInfo(name, tensor.Type, tensor.Shape, data.Offset + tensor.First * size, elements * size));
        }
    }

    private Dictionary<string, (long Offset, long Bytes)> Entries()
    {
        Span<byte> start = stackalloc byte[2];
        if (_file.Length >= 2) _file.Read(0, start);
        // Before the zip archives there were files that begin with a pickle.
        if (start[0] == 0x80) throw _file.Error("is a bare pickle, not a zip archive as torch.save writes it since 1.6; no code is ever run: load it where you trust it and save it with safetensors.torch.save_file");
        return ZipDirectory.Read(_file);
    }

    private byte[] Small((long Offset, long Bytes) entry)
    {
        byte[] bytes = new byte[Math.Min(entry.Bytes, 16)];
        _file.Read(entry.Offset, bytes);
        return bytes;
    }

    private static int ElementBytes(string type) => type == "F32" ? 4 : 2;
}
