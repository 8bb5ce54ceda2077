using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// A Hugging Face folder, opened: its configuration, and its tensors under the names of a package (<see cref="Family"/>), each checked for presence, type
/// and shape before anything is read. Reads rows on demand: fused tensors (q, k, v) appear as one, and <c>ffn.down</c> is turned neuron-major,
/// a strip of columns at a time. Memory is what the caller asks for. Any thread, one caller at a time.
/// </summary>
public sealed class Checkpoint : IDisposable
{
    private readonly WeightFiles _weights;
    private readonly Dictionary<string, TensorMap> _tensors;

    private Checkpoint(string folder, ModelConfig config, WeightFiles weights, Dictionary<string, TensorMap> tensors)
    {
        Folder = folder;
        Config = config;
        _weights = weights;
        _tensors = tensors;
    }

    public string Folder { get; }
    public ModelConfig Config { get; }
    /// <summary>Paths of the weight files.</summary>
    public IReadOnlyList<string> Files => _weights.Paths;
    /// <summary>Bytes of the weight files.</summary>
    public long Bytes => _weights.Bytes;
    /// <summary>Names under which tensors can be read.</summary>
    public IReadOnlyCollection<string> Tensors => _tensors.Keys;

    public static Checkpoint Open(string folder, string configFile = "config.json")
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (File.Exists(folder))
            throw new ModelFormatException(folder, "is a file; a checkpoint is a folder with config.json and model.safetensors");
        if (!Directory.Exists(folder)) throw new ModelFormatException(folder, "no such folder");
        (ModelConfig config, Family family) = ConfigReader.ReadWithFamily(folder, configFile);
        WeightFiles weights = WeightFiles.Open(folder);
        try
        {
            string prefix = family.Prefixes.FirstOrDefault(p => weights.Has(p + family.Embedding)) ?? family.Prefixes[0];
            var tensors = new Dictionary<string, TensorMap>(StringComparer.Ordinal);
            foreach (TensorMap map in family.Tensors(config, prefix))
            {
                Check(weights, map);
                tensors.Add(map.Name, map);
            }
            return new Checkpoint(folder, config, weights, tensors);
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    public bool Has(string name) => _tensors.ContainsKey(name);

    /// <summary>Rows and columns of a tensor; a vector is one row.</summary>
    public (int Rows, int Cols) Shape(string name) => (Map(name).Rows, Map(name).Cols);

    /// <summary>Rows [first, first + count) of a tensor, row after row. Refuses numbers that are not finite.</summary>
    public void ReadRows(string name, int first, int count, Span<float> destination)
    {
        TensorMap map = Map(name);
        if (first < 0 || count < 0 || first > map.Rows - count || destination.Length != (long)count * map.Cols)
            throw new ArgumentOutOfRangeException(nameof(first), $"rows {first}..{first + count} of {name} ({map.Rows} x {map.Cols}) into {destination.Length} numbers");
        if (map.IsVector) ReadVector(map, destination);
        else if (map.Transposed) ReadTransposed(map, first, count, destination);
        else ReadParts(map, first, count, destination);
    }

    /// <summary>A whole tensor, for models that fit in memory (<c>ReferenceModel</c>).</summary>
    public float[] Read(string name)
    {
        (int rows, int cols) = Shape(name);
        float[] all = new float[checked(rows * cols)];
        ReadRows(name, 0, rows, all);
        return all;
    }

    public void Dispose() => _weights.Dispose();

    private TensorMap Map(string name) => _tensors.TryGetValue(name, out TensorMap? map) ? map : throw new ArgumentException($"the model has no tensor {name}", nameof(name));

    private void ReadVector(TensorMap map, Span<float> destination)
    {
        foreach ((string source, int size) in map.Parts)
        {
            (SafetensorsFile file, TensorInfo tensor) = _weights.Find(source);
            file.ReadRows(tensor, 0, 1, destination[..size]);
            CheckFinite(file, source, 0, size, destination[..size]);
            destination = destination[size..];
        }
    }

    private void ReadParts(TensorMap map, int first, int count, Span<float> destination)
    {
        foreach ((string source, int size) in map.Parts)
        {
            int begin = Math.Min(first, size), n = Math.Min(count, size - begin);
            if (n > 0)
            {
                (SafetensorsFile file, TensorInfo tensor) = _weights.Find(source);
                Span<float> part = destination[..(n * map.Cols)];
                file.ReadRows(tensor, begin, n, part);
                CheckFinite(file, source, begin, map.Cols, part);
                destination = destination[part.Length..];
            }
            first -= begin;
            count -= n;
            if (begin < size) first = 0;
            if (count == 0) return;
        }
    }

    /// <summary>Rows of ours are columns of the file's: reads strips of 16 file rows and scatters them, so that each cache line is written whole.</summary>
    private void ReadTransposed(TensorMap map, int first, int count, Span<float> destination)
    {
        const int Strip = 16;
        (SafetensorsFile file, TensorInfo tensor) = _weights.Find(map.Parts[0].Source);
        float[] strip = new float[Strip * count];
        for (int r = 0; r < map.Cols; r += Strip)
        {
            int n = Math.Min(Strip, map.Cols - r);
            Span<float> block = strip.AsSpan(0, n * count);
            file.ReadBlock(tensor, r, n, first, count, block);
            CheckFinite(file, tensor.Name, r, count, block);
            for (int j = 0; j < count; j++)
            {
                Span<float> row = destination.Slice(j * map.Cols + r, n);
                for (int k = 0; k < n; k++) row[k] = block[k * count + j];
            }
        }
    }

    /// <summary>One NaN or infinity makes every logit NaN: better said here than sampled from.</summary>
    private static void CheckFinite(SafetensorsFile file, string tensor, int firstRow, int cols, ReadOnlySpan<float> numbers)
    {
        for (int i = 0; i < numbers.Length; i++)
            if (!float.IsFinite(numbers[i]))
                throw new ModelFormatException(file.Path, $"tensor {tensor} holds {numbers[i]} in row {firstRow + i / cols}; the checkpoint is damaged or diverged in training");
    }

    private static void Check(WeightFiles weights, TensorMap map)
    {
        foreach ((string source, int size) in map.Parts)
        {
            if (!weights.Has(source)) throw new ModelFormatException(weights.Name, $"tensor {source} is missing");
            (SafetensorsFile file, TensorInfo tensor) = weights.Find(source);
            long[] expected = map.IsVector ? [size] : map.Transposed ? [map.Cols, size] : [size, map.Cols];
            if (!tensor.Shape.SequenceEqual(expected))
                throw new ModelFormatException(file.Path, $"tensor {source} is {tensor.ShapeText}, config.json says [{string.Join(", ", expected)}]");
            if (!SafetensorsFile.IsFloat(tensor.Type))
                throw new ModelFormatException(file.Path, $"tensor {source} has type {tensor.Type}; weights are F32, F16 or BF16");
        }
    }
}
