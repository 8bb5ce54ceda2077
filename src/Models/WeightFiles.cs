using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// The safetensors files of a folder as one set of tensors: <c>model.safetensors</c>, or the shards that <c>model.safetensors.index.json</c> names. A shard
/// must be a plain file name: no index reaches outside its folder. Other weight formats are named and refused, never read.
/// </summary>
internal sealed class WeightFiles : WeightSource
{
    private const string Single = "model.safetensors";
    private const string Index = "model.safetensors.index.json";
    private readonly List<SafetensorsFile> _files = [];
    private readonly Dictionary<string, (SafetensorsFile File, TensorInfo Tensor)> _tensors = new(StringComparer.Ordinal);

    private WeightFiles(string name) => Name = name;

    public override string Name { get; }
    public override IReadOnlyList<string> Paths => [.. _files.Select(f => f.Path)];
    public override long Bytes => _files.Sum(f => f.Length);

    public override bool Has(string tensor) => _tensors.ContainsKey(tensor);
    public override IReadOnlyList<long> Shape(string tensor) => _tensors[tensor].Tensor.Shape;
    public override string PathOf(string tensor) => _tensors[tensor].File.Path;

    public override void DemandWeights(string tensor)
    {
        (SafetensorsFile file, TensorInfo info) = _tensors[tensor];
        if (!SafetensorsFile.IsFloat(info.Type)) throw new ModelFormatException(file.Path, $"tensor {tensor} has type {info.Type}; weights are F32, F16 or BF16");
    }

    public override void ReadRows(string tensor, long firstRow, int count, Span<float> destination) => _tensors[tensor].File.ReadRows(_tensors[tensor].Tensor, firstRow, count, destination);

    public override void ReadBlock(string tensor, long firstRow, int rows, long firstCol, int cols, Span<float> destination)
    {
        (SafetensorsFile file, TensorInfo info) = _tensors[tensor];
        if (HeldOf(tensor, firstRow, rows) is not { } held)
        {
            file.ReadBlock(info, firstRow, rows, firstCol, cols, destination);
            return;
        }
        int size = SafetensorsFile.ElementBytes(info.Type);
        for (int r = 0; r < rows; r++)
            SafetensorsFile.Widen(info.Type, held.Row(firstRow + r).Slice((int)firstCol * size, cols * size), destination.Slice(r * cols, cols));
    }

    protected override long RowBytes(string tensor) => _tensors[tensor].Tensor is var info ? info.Shape[^1] * SafetensorsFile.ElementBytes(info.Type) : 0;

    protected override void ReadRaw(string tensor, long firstRow, int count, Span<byte> destination) =>
        _tensors[tensor].File.ReadRaw(_tensors[tensor].Tensor, firstRow * RowBytes(tensor), destination);

    /// <summary>Half precision has no format of its own: bfloat16 takes as much room and loses three bits.</summary>
    public override (WeightFormat Format, bool Lossless) Nearest(string tensor) => (_tensors[tensor].Tensor.Type == "F32" ? WeightFormat.F32 : WeightFormat.BF16, false);

    public override void ReadStored(string tensor, long firstRow, int count, WeightFormat format, Span<byte> destination, int stride) => throw new InvalidOperationException("safetensors rows are read as floats");

    public static WeightFiles Open(string folder)
    {
        string single = Path.Combine(folder, Single), index = Path.Combine(folder, Index);
        if (!File.Exists(single) && !File.Exists(index)) throw new ModelFormatException(folder, NoWeights(folder));
        var files = new WeightFiles(File.Exists(single) ? single : index);
        try
        {
            if (File.Exists(single)) files.AddAll(single);
            else files.AddIndexed(folder, index);
            return files;
        }
        catch
        {
            files.Dispose();
            throw;
        }
    }

    public override void Dispose()
    {
        foreach (SafetensorsFile file in _files) file.Dispose();
    }

    private void AddAll(string path)
    {
        SafetensorsFile file = SafetensorsFile.Open(path);
        _files.Add(file);
        foreach (TensorInfo tensor in file.Tensors.Values) _tensors.Add(tensor.Name, (file, tensor));
    }

    private void AddIndexed(string folder, string index)
    {
        using JsonDocument document = ConfigReader.Parse(index);
        if (!document.RootElement.TryGetProperty("weight_map", out JsonElement map) || map.ValueKind != JsonValueKind.Object)
            throw new ModelFormatException(index, "has no weight_map");
        var shards = new Dictionary<string, SafetensorsFile>(StringComparer.Ordinal);
        foreach (JsonProperty entry in map.EnumerateObject())
        {
            string shard = entry.Value.ValueKind == JsonValueKind.String ? entry.Value.GetString()! : throw new ModelFormatException(index, $"the shard of tensor {entry.Name} is not a string");
            if (!shards.TryGetValue(shard, out SafetensorsFile? file))
            {
                // A file name and nothing else, whatever the system's separators are.
                if (shard.Length == 0 || shard is "." or ".." || shard.AsSpan().IndexOfAny("/\\:\0") >= 0)
                    throw new ModelFormatException(index, $"tensor {entry.Name} is said to be in \"{shard}\"; a shard is a file name in the same folder");
                string path = Path.Combine(folder, shard);
                if (!File.Exists(path)) throw new ModelFormatException(index, $"the shard {shard} is missing; download it again");
                file = SafetensorsFile.Open(path);
                shards.Add(shard, file);
                _files.Add(file);
            }
            if (!file.Tensors.TryGetValue(entry.Name, out TensorInfo? tensor))
                throw new ModelFormatException(index, $"tensor {entry.Name} is not in {shard}, where the index puts it");
            _tensors.Add(entry.Name, (file, tensor));
        }
    }

    private static string NoWeights(string folder)
    {
        string? other = Directory.EnumerateFiles(folder).Select(Path.GetFileName)
            .Where(f => f!.EndsWith(".bin", StringComparison.Ordinal) || f.EndsWith(".pt", StringComparison.Ordinal) || f.EndsWith(".pth", StringComparison.Ordinal)
                || f.EndsWith(".gguf", StringComparison.Ordinal) || f.EndsWith(".safetensors", StringComparison.Ordinal) || f.EndsWith(".h5", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal).FirstOrDefault();
        string found = other switch
        {
            null => "",
            _ when other.EndsWith(".gguf", StringComparison.Ordinal) => $"; {other} is a GGUF file: import that file itself",
            _ when other.EndsWith(".safetensors", StringComparison.Ordinal) => $"; {other} is not named so and no index names it",
            _ => $"; {other} is a pickle or another format that could run code, so it is not read: convert the checkpoint with save_pretrained(safe_serialization=True)",
        };
        return $"holds no {Single} and no {Index}{found}";
    }
}
