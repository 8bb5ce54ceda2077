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
            TensorNames names = family.Names(config);
            string prefix = names.Prefixes.FirstOrDefault(p => weights.Has(p + names.Embedding + ".weight")) ?? names.Prefixes[0];
            (IReadOnlyList<TensorMap> maps, IReadOnlyList<SourceShape> shapes) = TensorMaps.For(config, names, prefix);
            foreach (SourceShape shape in shapes) Check(weights, shape);
            return new Checkpoint(folder, config, weights, maps.ToDictionary(m => m.Name, StringComparer.Ordinal));
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
        else ReadRuns(map, first, count, destination);
        if (map.Offset != 0)
            for (int i = 0; i < destination.Length; i++) destination[i] += map.Offset;
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
        string? read = null;
        float[] all = [];
        foreach (Run run in map.Runs)
        {
            if (run.Source != read)
            {
                (SafetensorsFile file, TensorInfo tensor) = _weights.Find(run.Source);
                all = new float[tensor.Elements];
                int cols = (int)tensor.Shape[^1];
                file.ReadRows(tensor, 0, all.Length / cols, all);
                CheckFinite(file, run.Source, 0, all.Length, all);
                read = run.Source;
            }
            for (int k = 0; k < run.Count; k++) destination[k] = all[run.First + k * run.Step];
            destination = destination[run.Count..];
        }
    }

    private void ReadRuns(TensorMap map, int first, int count, Span<float> destination)
    {
        foreach (Run run in map.Runs)
        {
            if (count == 0) return;
            if (first >= run.Count)
            {
                first -= run.Count;
                continue;
            }
            int n = Math.Min(count, run.Count - first);
            Span<float> part = destination[..(n * map.Cols)];
            if (run.Transposed) ReadColumns(run, map.Cols, first, n, part);
            else ReadRowsOf(run, map.Cols, first, n, part);
            destination = destination[part.Length..];
            count -= n;
            first = 0;
        }
    }

    private void ReadRowsOf(Run run, int cols, int first, int count, Span<float> destination)
    {
        (SafetensorsFile file, TensorInfo tensor) = _weights.Find(run.Source);
        int row = run.First + first * run.Step;
        if (run.Step == 1) file.ReadRows(tensor, row, count, destination);
        else
        {
            for (int k = 0; k < count; k++) file.ReadRows(tensor, row + k * run.Step, 1, destination.Slice(k * cols, cols));
        }
        CheckFinite(file, run.Source, row, cols, destination);
    }

    /// <summary>Rows of ours are columns of the file's: reads strips of 16 file rows and scatters them, so that each cache line is written whole.</summary>
    private void ReadColumns(Run run, int cols, int first, int count, Span<float> destination)
    {
        const int Strip = 16;
        (SafetensorsFile file, TensorInfo tensor) = _weights.Find(run.Source);
        int column = run.First + first * run.Step, width = (count - 1) * run.Step + 1;
        float[] strip = new float[Strip * width];
        for (int r = 0; r < cols; r += Strip)
        {
            int n = Math.Min(Strip, cols - r);
            Span<float> block = strip.AsSpan(0, n * width);
            file.ReadBlock(tensor, run.Base + r, n, column, width, block);
            CheckFinite(file, tensor.Name, run.Base + r, width, block);
            for (int j = 0; j < count; j++)
            {
                Span<float> row = destination.Slice(j * cols + r, n);
                for (int k = 0; k < n; k++) row[k] = block[k * width + j * run.Step];
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

    private static void Check(WeightFiles weights, SourceShape shape)
    {
        if (!weights.Has(shape.Name)) throw new ModelFormatException(weights.Name, $"tensor {shape.Name} is missing");
        (SafetensorsFile file, TensorInfo tensor) = weights.Find(shape.Name);
        if (!tensor.Shape.SequenceEqual(shape.Shape))
            throw new ModelFormatException(file.Path, $"tensor {shape.Name} is {tensor.ShapeText}, config.json says [{string.Join(", ", shape.Shape)}]");
        if (!SafetensorsFile.IsFloat(tensor.Type))
            throw new ModelFormatException(file.Path, $"tensor {shape.Name} has type {tensor.Type}; weights are F32, F16 or BF16");
    }
}
