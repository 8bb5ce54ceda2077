using System.Buffers;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// A GGUF model, read strictly: one file, or all parts of a split one (<c>name-00001-of-00003.gguf</c>, opened through any of them; the others are
/// looked for in the same folder, under those names and no other). The fronts are checked whole at open, the data are read on demand, some rows at
/// a time: memory does not depend on the size of the model. PowerInfer's files (magic PWRI) are the same but for the magic and their tensors.
/// Any thread may read. What is wrong with a file is one <see cref="ModelFormatException"/> with the file and, where there is one, the byte.
/// </summary>
internal sealed partial class GgufFile : IDisposable
{
    private const int ScratchBytes = 256 * 1024;
    private const int MaxParts = 1_000;
    private readonly List<BinaryFile> _parts = [];
    private readonly List<GgufHeader> _headers = [];
    private readonly Dictionary<string, GgufTensor> _tensors = new(StringComparer.Ordinal);

    private GgufFile()
    {
    }

    /// <summary>The file, or the first part of a split one.</summary>
    public string Path => _parts[0].Path;
    public IReadOnlyList<string> Paths => [.. _parts.Select(static p => p.Path)];
    public long Bytes => _parts.Sum(static p => p.Length);
    public uint Version => _headers[0].Version;

    /// <summary>True for PowerInfer's files: feed-forward rows by neuron (<c>ffn_down_t</c>) and trained predictors (<c>blk.N.fc1</c>, <c>blk.N.fc2</c>).</summary>
    public bool IsPowerInfer => _headers[0].IsPowerInfer;

    public GgufMetadata Metadata => new(_parts[0], _headers[0].Values);
    public IReadOnlyDictionary<string, GgufTensor> Tensors => _tensors;

    /// <summary>True when the file begins like a GGUF file; false also when there is no such file.</summary>
    public static bool IsGguf(string path)
    {
        if (!File.Exists(path)) return false;
        using BinaryFile file = BinaryFile.Open(path);
        if (file.Length < 4) return false;
        Span<byte> magic = stackalloc byte[4];
        file.Read(0, magic);
        return GgufHeader.HasMagic(magic);
    }

    public static GgufFile Open(string path)
    {
        var file = new GgufFile();
        try
        {
            file.AddPart(path);
            int count = file._headers[0].Values.ContainsKey("split.count") ? file.Metadata.RequireInt32("split.count") : 1;
            Match name = PartName().Match(System.IO.Path.GetFileName(path));
            if (count > 1 || (name.Success && int.Parse(name.Groups["count"].Value, CultureInfo.InvariantCulture) > 1)) file.OpenSplit(path, count, name);
            foreach (GgufHeader header in file._headers)
                foreach (GgufTensor tensor in header.Tensors)
                    if (!file._tensors.TryAdd(tensor.Name, tensor))
                        throw file._parts[tensor.Part].Error($"tensor {tensor.Name} is also in {System.IO.Path.GetFileName(file._parts[file._tensors[tensor.Name].Part].Path)}; the parts do not belong together");
            if (file._parts.Count > 1) file.CheckTensorCount();
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The tensor of that name; refuses when it is missing or, if <paramref name="dims"/> are given, of another shape (in the file's order, row length first).</summary>
    public GgufTensor Require(string name, params ReadOnlySpan<long> dims)
    {
        if (!_tensors.TryGetValue(name, out GgufTensor? tensor)) throw _parts[0].Error($"tensor {name} is missing; the file is incomplete or of a model that this version does not know");
        bool same = dims.IsEmpty || dims.Length == tensor.Dims.Count;
        for (int i = 0; same && i < dims.Length; i++) same = dims[i] == tensor.Dims[i];
        return same ? tensor : throw _parts[tensor.Part].Error($"tensor {name} is {tensor.DimsText}, the metadata ask for [{string.Join(", ", dims.ToArray())}]; the file is damaged");
    }

    /// <summary>Rows [firstRow, firstRow + count) as floats, row after row.</summary>
    public void ReadRows(GgufTensor tensor, long firstRow, int count, Span<float> destination)
    {
        CheckRange(tensor, firstRow, count, destination.Length, tensor.Columns);
        if (!GgufTypes.IsWeight(tensor.Type)) throw _parts[tensor.Part].Error($"tensor {tensor.Name} at byte {tensor.Offset} is of type {tensor.Type}, which holds no weights");
        long offset = tensor.Offset + firstRow * tensor.RowBytes;
        if (tensor.Type == GgufType.F32)
        {
            _parts[tensor.Part].Read(offset, MemoryMarshal.AsBytes(destination));
            return;
        }
        (int values, int bytes) = GgufTypes.Block(tensor.Type);
        int blocks = destination.Length / values, most = ScratchBytes / bytes;
        byte[] scratch = ArrayPool<byte>.Shared.Rent(Math.Min(most, blocks) * bytes);
        try
        {
            for (int done = 0; done < blocks;)
            {
                int n = Math.Min(most, blocks - done);
                Span<byte> stored = scratch.AsSpan(0, n * bytes);
                _parts[tensor.Part].Read(offset + (long)done * bytes, stored);
                GgufDequantizer.Dequantize(tensor.Type, stored, destination.Slice(done * values, n * values));
                done += n;
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(scratch);
        }
    }

    /// <summary>Rows [firstRow, firstRow + count) as they are stored: whole blocks, row after row.</summary>
    public void ReadRaw(GgufTensor tensor, long firstRow, int count, Span<byte> destination)
    {
        CheckRange(tensor, firstRow, count, destination.Length, tensor.RowBytes);
        _parts[tensor.Part].Read(tensor.Offset + firstRow * tensor.RowBytes, destination);
    }

    /// <summary>Blocks of one row as they are stored, from <paramref name="firstBlock"/> on.</summary>
    public void ReadBlocks(GgufTensor tensor, long row, int firstBlock, Span<byte> destination)
    {
        long at = (long)firstBlock * GgufTypes.Block(tensor.Type).Bytes;
        if (row < 0 || row >= tensor.Rows || firstBlock < 0 || at > tensor.RowBytes - destination.Length)
            throw new ArgumentOutOfRangeException(nameof(row), $"row {row} of {tensor.Name} {tensor.DimsText}, {destination.Length} bytes from block {firstBlock} on");
        _parts[tensor.Part].Read(tensor.Offset + row * tensor.RowBytes + at, destination);
    }

    public void Dispose()
    {
        foreach (BinaryFile part in _parts) part.Dispose();
    }

    private static void CheckRange(GgufTensor tensor, long firstRow, int count, int length, long perRow)
    {
        if (firstRow < 0 || count < 0 || firstRow > tensor.Rows - count || (Int128)count * perRow != length)
            throw new ArgumentOutOfRangeException(nameof(firstRow), $"rows {firstRow}..{firstRow + count} of {tensor.Name} {tensor.DimsText} into {length} elements");
    }

    private void AddPart(string path)
    {
        BinaryFile part = BinaryFile.Open(path);
        _parts.Add(part);
        _headers.Add(GgufHeader.Read(part, _parts.Count - 1));
    }

    /// <summary>The part at hand says that there are more: all are opened, in order, by the names that it implies.</summary>
    private void OpenSplit(string path, int count, Match name)
    {
        string given = System.IO.Path.GetFileName(path);
        if (count is < 1 or > MaxParts) throw _parts[0].Error($"says that it is one of {count} parts (metadata split.count), 1 to {MaxParts} are read; the file is damaged");
        if (!name.Success) throw _parts[0].Error($"is one of {count} parts (metadata split.count); name it like model-00001-of-{count:D5}.gguf and put all parts into one folder");
        if (int.Parse(name.Groups["count"].Value, CultureInfo.InvariantCulture) != count)
            throw _parts[0].Error($"is one of {count} parts by its metadata (split.count), but not by its name; give it back the name it was published under");
        Dispose();
        _parts.Clear();
        _headers.Clear();
        string folder = System.IO.Path.GetDirectoryName(path) ?? "", stem = name.Groups["stem"].Value;
        for (int i = 1; i <= count; i++)
        {
            string file = $"{stem}-{i:D5}-of-{count:D5}.gguf", part = System.IO.Path.Combine(folder, file);
            if (!File.Exists(part)) throw new ModelFormatException(path, $"the part {file} is missing beside {given}; download it into the same folder");
            AddPart(part);
            CheckPart(i - 1, count);
        }
    }

    private void CheckPart(int index, int count)
    {
        var metadata = new GgufMetadata(_parts[index], _headers[index].Values);
        int said = metadata.RequireInt32("split.count"), number = metadata.RequireInt32("split.no");
        if (said != count || number != index)
            throw _parts[index].Error($"is part {number + 1} of {said} by its metadata (split.no, split.count), but {index + 1} of {count} by its name; the parts do not belong together");
        if (_headers[index].IsPowerInfer != _headers[0].IsPowerInfer) throw _parts[index].Error("has another magic than the first part; the parts do not belong together");
    }

    private void CheckTensorCount()
    {
        if (Metadata.Int64("split.tensors.count") is { } said && said != _tensors.Count)
            throw _parts[0].Error($"says that the model has {said} tensors (metadata split.tensors.count), its {_parts.Count} parts have {_tensors.Count}; download them again");
    }

    [GeneratedRegex(@"^(?<stem>.+)-(?<number>\d{5})-of-(?<count>\d{5})\.gguf$", RegexOptions.CultureInvariant | RegexOptions.ExplicitCapture)]
    private static partial Regex PartName();
}
