using FlashOrleans.Flash;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models;

/// <summary>Neurons of a layer, and the rows of the checkpoint whose columns they are.</summary>
internal sealed record TurnedPart(int First, int Count, IReadOnlyList<HeldRows> Rows);

/// <summary>
/// A Hugging Face folder or a GGUF file, opened: its configuration, and its tensors under the names of a package (<see cref="Family"/>), each checked for presence, type
/// and shape before anything is read. Reads rows on demand: fused tensors (q, k, v) appear as one, and <c>ffn.down</c> is turned neuron-major,
/// a strip of columns at a time. Memory is what the caller asks for. Any thread.
/// </summary>
public sealed class Checkpoint : IDisposable
{
    private readonly WeightSource _weights;
    private readonly Dictionary<string, TensorMap> _tensors;

    private Checkpoint(string path, ModelConfig config, WeightSource weights, Dictionary<string, TensorMap> tensors)
    {
        Path = path;
        Config = config;
        _weights = weights;
        _tensors = tensors;
    }

    /// <summary>The folder, or the GGUF file.</summary>
    public string Path { get; }
    public bool IsGguf => _weights is GgufWeights;
    /// <summary>A GGUF file's own tensors, or null.</summary>
    internal GgufWeights? Gguf => _weights as GgufWeights;
    /// <summary>A folder, whose side files say what is not in the weights.</summary>
    internal bool IsFolder => _weights is WeightFiles;
    /// <summary>The vocabulary that comes with the weights (a GGUF file's), or null.</summary>
    internal VocabularySource? Vocabulary => _weights.Vocabulary;
    /// <summary>Of random weights the seed.</summary>
    internal ulong? SyntheticSeed => _weights.SyntheticSeed;
    public ModelConfig Config { get; private set; }
    /// <summary>Paths of the weight files.</summary>
    public IReadOnlyList<string> Files => _weights.Paths;
    /// <summary>Bytes of the weight files.</summary>
    public long Bytes => _weights.Bytes;
    /// <summary>Names under which tensors can be read.</summary>
    public IReadOnlyCollection<string> Tensors => _tensors.Keys;

    /// <summary>A folder with config.json and safetensors files, or a GGUF file (any part of a split one).</summary>
    public static Checkpoint Open(string path, string configFile = "config.json")
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        if (File.Exists(path)) return OpenGguf(path);
        if (!Directory.Exists(path)) throw new ModelFormatException(path, "no such folder or file");
        (ModelConfig config, Family family) = ConfigReader.ReadWithFamily(path, configFile);
        return Open(path, config, family.Names(config), WeightFiles.Open(path), "config.json says");
    }

    private static Checkpoint OpenGguf(string path)
    {
        if (!GgufFile.IsGguf(path)) throw new ModelFormatException(path, "is no GGUF file; a checkpoint is a GGUF file, or a folder with config.json and model.safetensors");
        GgufFile file = GgufFile.Open(path);
        var weights = new GgufWeights(file);
        try
        {
            (ModelConfig config, TensorNames names, GgufKeys keys) = GgufConfig.Read(file);
            Checkpoint checkpoint = Open(path, config, names, weights, "the metadata say");
            keys.DemandNoOtherTensors(checkpoint._tensors.Values.SelectMany(static t => t.Runs).Select(static r => r.Source));
            return checkpoint;
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    /// <summary>Tensors of any source; owns it from here on.</summary>
    internal static Checkpoint Open(string path, ModelConfig config, TensorNames names, WeightSource weights, string authority)
    {
        try
        {
            string prefix = names.Prefixes.FirstOrDefault(p => weights.Has(p + names.Embedding + ".weight")) ?? names.Prefixes[0];
            (IReadOnlyList<TensorMap> maps, _) = TensorMaps.For(config, names, prefix, shape =>
            {
                if (!weights.Has(shape.Name)) throw new ModelFormatException(weights.Name, $"tensor {shape.Name} is missing");
                if (!weights.Shape(shape.Name).SequenceEqual(shape.Shape))
                    throw new ModelFormatException(weights.PathOf(shape.Name), $"tensor {shape.Name} is [{string.Join(", ", weights.Shape(shape.Name))}], {authority} [{string.Join(", ", shape.Shape)}]");
                weights.DemandWeights(shape.Name);
            });
            return new Checkpoint(path, config, weights, maps.ToDictionary(m => m.Name, StringComparer.Ordinal));
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    /// <summary>The package's formats that are nearest to how the rows of a tensor are stored, and whether all of them come without loss. Rows that are columns there are not.</summary>
    internal IReadOnlyList<(WeightFormat Format, bool Lossless)> Nearest(string name, int first, int count)
    {
        var found = new List<(WeightFormat, bool)>();
        int at = 0;
        foreach (Run run in Map(name).Runs)
        {
            if (at < first + count && at + run.Count > first)
            {
                (WeightFormat format, bool lossless) = _weights.Nearest(run.Source);
                found.Add((format, lossless && !run.Transposed));
            }
            at += run.Count;
        }
        return found;
    }

    /// <summary>Rows of the tensor are columns in the file.</summary>
    internal bool IsTurned(string name) => Map(name).Runs.Any(static r => r.Transposed);

    /// <summary>Rows in the package's format as the checkpoint stores them: only where <see cref="Nearest"/> says that all of them are lossless in it.</summary>
    internal void ReadStored(string name, int first, int count, WeightFormat format, byte[] to, int stride, int offset)
    {
        TensorMap map = Map(name);
        int at = 0;
        foreach (Run run in map.Runs)
        {
            int from = Math.Max(first - at, 0), end = Math.Min(run.Count, first + count - at), each = run.Step == 1 ? Math.Max(end - from, 1) : 1;
            for (int k = from; k < end; k += each) _weights.ReadStored(run.Source, run.First + (long)k * run.Step, each, format, to.AsSpan((at + k - first) * stride + offset), stride);
            at += run.Count;
        }
    }

    /// <summary>
    /// The format in which slabs hold without loss what the checkpoint stores; null: none does. They have the neurons as columns, as the checkpoint may have them, so its blocks fit where they are of
    /// 32 numbers and no slab ends within one.
    /// </summary>
    internal WeightFormat? KeptInSlabs(string name, int unit)
    {
        WeightFormat? kept = null;
        foreach (Run run in Map(name).Runs)
        {
            (WeightFormat format, bool lossless) = _weights.Nearest(run.Source);
            if (!(run.Transposed || _weights.TurnsBlocks) || !lossless || format is not (WeightFormat.Q8 or WeightFormat.Q4 or WeightFormat.Q4B) || format != (kept ?? format)) return null;
            if (unit % BundleLayout.SlabNeurons != 0 || run.Step != 1 || run.First % WeightLayout.Block != 0 || run.Count % BundleLayout.SlabNeurons != 0) return null;
            kept = format;
        }
        return kept;
    }

    /// <summary>Columns of the checkpoint that are neurons [first, first + a slab's) as rows of a slab, <paramref name="stride"/> bytes apart: only in the format that <see cref="KeptInSlabs"/> says.</summary>
    internal void ReadStoredSlab(string name, int first, WeightFormat format, byte[] to, int stride)
    {
        TensorMap map = Map(name);
        foreach (Run run in map.Runs)
        {
            if (first < run.Count)
            {
                if (run.Transposed) _weights.ReadStoredBlock(run.Source, run.Base, map.Cols, run.First + first, BundleLayout.SlabNeurons, format, to, stride);
                else _weights.ReadStoredTurned(run.Source, run.First + first, BundleLayout.SlabNeurons, format, to, stride);
                return;
            }
            first -= run.Count;
        }
    }

    /// <summary>Another activation than the configuration names: "relu", "silu", "fatrelu:0.01".</summary>
    internal void Override(string activation)
    {
        string[] parts = activation.Split(':');
        float threshold = 0.01f;
        Activation? kind = (parts[0], parts.Length) switch
        {
            ("relu", 1) => Activation.Relu,
            ("silu", 1) => Activation.Silu,
            ("fatrelu", 1) => Activation.FatRelu,
            ("fatrelu", 2) when float.TryParse(parts[1], System.Globalization.CultureInfo.InvariantCulture, out threshold) && float.IsFinite(threshold) && threshold >= 0 => Activation.FatRelu,
            _ => null,
        };
        if (kind is not { } known) throw new ModelFormatException($"activation \"{activation}\" is none that can be chosen; there are relu, silu and fatrelu:THRESHOLD");
        Config = Config with { Activation = known, ActivationParameter = known == Activation.FatRelu ? threshold : 0 };
    }

    /// <summary>For lean bundles.</summary>
    internal void TakeLean() => Config = Importer.LeanOf(Path, Config);

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

    /// <summary>
    /// Rows [0, <paramref name="rows"/>) of some tensors, cut into parts whose columns in the checkpoint can be held together. Cut only where another matrix begins there, as each expert has one of its
    /// own; one part where nothing is turned.
    /// </summary>
    internal IReadOnlyList<TurnedPart> Turned(int rows, IEnumerable<string> names, long most = WeightSource.MostHeld / 2)
    {
        var turned = new List<(int First, int End, HeldRows Rows)>();
        foreach (TensorMap map in names.Where(Has).Select(Map))
        {
            int at = 0;
            foreach (Run run in map.Runs)
            {
                if (run.Transposed) turned.Add((at, at + run.Count, new HeldRows(run.Source, run.Base, map.Cols)));
                at += run.Count;
            }
        }
        int[] cuts = [.. turned.Select(static t => t.First).Append(0).Append(rows).Distinct().Order()];
        var parts = new List<TurnedPart>();
        var held = new List<HeldRows>();
        long bytes = 0;
        int first = 0;
        for (int i = 0; i + 1 < cuts.Length; i++)
        {
            HeldRows[] added = [.. turned.Where(t => t.First < cuts[i + 1] && t.End > cuts[i]).Select(static t => t.Rows).Distinct()];
            long more = added.Sum(_weights.HeldBytes);
            if (cuts[i] > first && bytes + more > most)
            {
                parts.Add(new TurnedPart(first, cuts[i] - first, held));
                (first, bytes, held) = (cuts[i], 0, []);
            }
            foreach (HeldRows rowsOf in added)
            {
                int before = held.FindIndex(h => h.Tensor == rowsOf.Tensor && h.First + h.Count == rowsOf.First);
                if (before >= 0) held[before] = held[before] with { Count = held[before].Count + rowsOf.Count };
                else held.Add(rowsOf);
            }
            bytes += more;
        }
        parts.Add(new TurnedPart(first, rows - first, held));
        return parts;
    }

    /// <summary>Holds what a part needs (<see cref="WeightSource.Hold"/>).</summary>
    internal void Hold(TurnedPart part, int room, CancellationToken cancel) => _weights.Hold(part.Rows, room, cancel);

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
                IReadOnlyList<long> shape = _weights.Shape(run.Source);
                all = new float[shape.Aggregate(1L, static (a, b) => a * b)];
                _weights.ReadRows(run.Source, 0, all.Length / (int)shape[^1], all);
                CheckFinite(run.Source, 0, all.Length, all);
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
        int row = run.First + first * run.Step;
        if (run.Step == 1) _weights.ReadRows(run.Source, row, count, destination);
        else
        {
            for (int k = 0; k < count; k++) _weights.ReadRows(run.Source, row + k * run.Step, 1, destination.Slice(k * cols, cols));
        }
        CheckFinite(run.Source, row, cols, destination);
    }

    /// <summary>Rows of ours are columns of the file's: reads strips of 16 file rows and scatters them, so that each cache line is written whole.</summary>
    private void ReadColumns(Run run, int cols, int first, int count, Span<float> destination)
    {
        const int Strip = 16;
        int column = run.First + first * run.Step, width = (count - 1) * run.Step + 1;
        float[] strip = new float[Strip * width];
        for (int r = 0; r < cols; r += Strip)
        {
            int n = Math.Min(Strip, cols - r);
            Span<float> block = strip.AsSpan(0, n * width);
            _weights.ReadBlock(run.Source, run.Base + r, n, column, width, block);
            CheckFinite(run.Source, run.Base + r, width, block);
            for (int j = 0; j < count; j++)
            {
                Span<float> row = destination.Slice(j * cols + r, n);
                for (int k = 0; k < n; k++) row[k] = block[k * width + j * run.Step];
            }
        }
    }

    /// <summary>One NaN or infinity makes every logit NaN: better said here than sampled from.</summary>
    private void CheckFinite(string tensor, int firstRow, int cols, ReadOnlySpan<float> numbers)
    {
        for (int i = 0; i < numbers.Length; i++)
            if (!float.IsFinite(numbers[i]))
                throw new ModelFormatException(_weights.PathOf(tensor), $"tensor {tensor} holds {numbers[i]} in row {firstRow + i / cols}; the checkpoint is damaged or diverged in training");
    }
}
