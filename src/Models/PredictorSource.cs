using FlashOrleans.Flash;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Models.Pickle;

namespace FlashOrleans.Models;

/// <summary>Reads rows [first, first + count), row after row; refuses numbers that are not finite.</summary>
internal delegate void RowReader(int first, int count, Span<float> to);

/// <summary>Makes a stored row of numbers.</summary>
internal delegate void RowQuantizer(ReadOnlySpan<float> row, Span<byte> to);

/// <summary>One matrix of a predictor and the section of the slice that it becomes; <paramref name="Quantize"/> where its format alone does not say how rows are stored.</summary>
internal sealed record PredictorMatrix(string Section, int Rows, int Cols, RowReader ReadRows, RowQuantizer? Quantize = null)
{
    /// <summary>A row for each neuron: they stand in the order of the neurons.</summary>
    public bool IsByNeuron => !Section.EndsWith(".fc1", StringComparison.Ordinal);

    public WeightFormat FormatIn(WeightFormats formats, PredictorConfig config) => Section == PackageLayout.Sketch ? WeightFormat.Q4 : PackageLayout.PredictorFormat(formats, config, Cols);
}

/// <summary>
/// The predictors that an import brings along: a folder of trained ones, the fc1/fc2 tensors of a PowerInfer file, or what is made from the weights (a sketch, a low-rank form). Held against
/// the model's shape, so that what does not fit is one clear line before anything is written; rows are read on demand, by one of the import's threads at a time. Owns the folder's files, not the checkpoint's.
/// </summary>
internal sealed class PredictorSource : IDisposable
{
    private readonly PredictorFolder? _folder;
    private readonly Func<int, IEnumerable<PredictorMatrix>> _matrices;

    private PredictorSource(PredictorConfig config, Func<int, IEnumerable<PredictorMatrix>> matrices, PredictorFolder? folder = null)
    {
        Config = config;
        _matrices = matrices;
        _folder = folder;
    }

    /// <summary>Of those that are made, thresholds are known when the model was studied.</summary>
    public PredictorConfig Config { get; private set; }

    /// <summary>What a study found out.</summary>
    public void Calibrated(PredictorConfig config) => Config = config;

    /// <summary>Of sketches, by layer: the mean squares of what the deciding rows are multiplied with, once a study has measured them: an error counts as much as what it is multiplied with.</summary>
    public float[]?[] Squares { get; private init; } = [];

    /// <summary>Of svd, by layer: fc1 and fc2, once a study has computed them.</summary>
    public (Half[] Fc1, Half[] Fc2)[] Computed { get; private init; } = [];

    /// <summary>Files besides the checkpoint's.</summary>
    public IEnumerable<string> Files => _folder?.Files ?? [];

    /// <summary>The predictors of <paramref name="folder"/>, else those in the checkpoint, else null.</summary>
    public static PredictorSource? Open(Checkpoint checkpoint, string? folder, List<string> notes)
    {
        ModelConfig c = checkpoint.Config;
        if (folder == null && !IsIn(checkpoint)) return null;
        if (!c.HasSelector(0))
        {
            string why = c.Experts != null ? "it has experts" : $"activation {c.Activation} has no exact zeros";
            if (folder != null) throw new ModelFormatException(folder, $"predictors choose the neurons of a ReLU model that are not zero; {checkpoint.Path} is none ({why}): import it without --predictors");
            notes.Add($"the predictors in the file are left out: they choose the neurons of a ReLU model that are not zero ({why})");
            return null;
        }
        if (folder != null && Made(checkpoint, folder) is { } made) return made;
        return folder != null ? OpenFolder(c, folder) : new PredictorSource(OfFile(c, checkpoint.Gguf!), layer => Matrices(checkpoint.Gguf!, layer));
    }

    /// <summary>The checkpoint brings predictors of its own.</summary>
    public static bool IsIn(Checkpoint checkpoint) => checkpoint.Gguf is { } gguf && gguf.Has(Tensor(0, 1));

    /// <summary>Names predictors that are made from the weights, not a folder.</summary>
    public static bool IsMade(string what) => what is "sketch2" or "sketch3" or "sketch4" or "svd" || what.StartsWith("svd:", StringComparison.Ordinal);

    /// <summary>"sketch4", "sketch3", "sketch2", "svd", "svd:RANK": what is made from the weights; anything else is a folder, null.</summary>
    private static PredictorSource? Made(Checkpoint checkpoint, string what)
    {
        ModelConfig c = checkpoint.Config;
        LowRank[] Layers(int rank) => [.. Enumerable.Repeat(new LowRank(rank, 0), c.Layers)];
        if (what is "sketch2" or "sketch3" or "sketch4")
        {
            if (c.HiddenSize % WeightLayout.Block != 0) throw new ModelFormatException(checkpoint.Path, $"a sketch needs rows in blocks of {WeightLayout.Block}; the model's have {c.HiddenSize} numbers: take --predictors svd");
            int bits = what[^1] - '0';
            float[]?[] squares = new float[]?[c.Layers];
            return new PredictorSource(new PredictorConfig { Kind = PredictorConfig.SketchKind, Bits = bits, Layers = Layers(0) }, layer =>
            {
                string tensor = $"layers.{layer}.{(c.Gated ? "ffn.gate" : "ffn.up")}";
                return [new PredictorMatrix(PackageLayout.Sketch, c.FfnSize, c.HiddenSize, (first, count, to) => checkpoint.ReadRows(tensor, first, count, to), (row, to) => SketchRows.Quantize(bits, row, to, squares[layer]))];
            })
            { Squares = squares };
        }
        if (!IsMade(what))
        {
            string last = Path.GetFileName(what);
            if (last.StartsWith("sketch", StringComparison.Ordinal) && !Path.Exists(what)) throw new ModelFormatException(checkpoint.Path, $"--predictors {last}: the sketches are sketch4, sketch3 and sketch2, and there is no folder of that name");
            return null;
        }
        int rank = c.HiddenSize / 4;
        if (what != "svd" && !int.TryParse(what.AsSpan(4), System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out rank)) rank = 0;
        int most = Math.Min(c.HiddenSize, c.FfnSize);
        if (rank < 1 || rank > most) throw new ModelFormatException(checkpoint.Path, $"--predictors {what}: the rank must be 1 to {most}");
        var computed = new (Half[] Fc1, Half[] Fc2)[c.Layers];
        IEnumerable<PredictorMatrix> Forms(int layer) =>
        [
            new PredictorMatrix(PackageLayout.Predictor + ".fc1", rank, c.HiddenSize, Rows(computed[layer].Fc1, c.HiddenSize)),
            new PredictorMatrix(PackageLayout.Predictor + ".fc2", c.FfnSize, rank, Rows(computed[layer].Fc2, rank)),
        ];
        return new PredictorSource(new PredictorConfig { Kind = PredictorConfig.SvdKind, Layers = Layers(rank) }, Forms) { Computed = computed };

        static RowReader Rows(Half[] from, int cols) => (first, count, to) =>
        {
            for (int i = 0; i < to.Length; i++) to[i] = (float)from[first * cols + i];
        };
    }

    /// <summary>Of random numbers, which predict nothing: for models whose activity is drawn, where a prediction must cost what it costs.</summary>
    public static PredictorSource Random(ModelConfig c, PredictorConfig config)
    {
        return new PredictorSource(config, layer => Layer(layer));

        IEnumerable<PredictorMatrix> Layer(int layer)
        {
            IEnumerable<PredictorMatrix> own = Two(PackageLayout.Predictor, config.Layers[layer].Rank);
            return config.LookaheadOf(layer) is { } ahead ? own.Concat(Two(PackageLayout.Lookahead, ahead.Rank)) : own;
        }

        IEnumerable<PredictorMatrix> Two(string section, int rank) => [new(section + ".fc1", rank, c.HiddenSize, Noise(c.HiddenSize)), new(section + ".fc2", c.FfnSize, rank, Noise(rank))];

        static RowReader Noise(int cols) => (first, count, to) =>
        {
            ulong state = ((ulong)first + 1) * 0x9E3779B97F4A7C15;
            float scale = 1 / MathF.Sqrt(cols) / int.MaxValue;
            for (int i = 0; i < to.Length; i++)
            {
                state = state * 6364136223846793005 + 1442695040888963407;
                to[i] = (int)(state >> 32) * scale;
            }
        };
    }

    /// <summary>What a layer's slice gets.</summary>
    public IEnumerable<PredictorMatrix> Matrices(int layer) => _matrices(layer);

    public void Dispose() => _folder?.Dispose();

    private static PredictorSource OpenFolder(ModelConfig c, string path)
    {
        PredictorFolder folder = PredictorFolder.Open(path);
        try
        {
            // The folder has made sure that its layers are alike and without a gap.
            foreach (PredictorFolder part in folder.Lookahead == null ? [folder] : (PredictorFolder[])[folder, folder.Lookahead])
                Fits(c, part.Path, folder.Layers.Count, part.Layers[0].Inputs, part.Layers[0].Neurons);
            return new PredictorSource(new PredictorConfig { Layers = Ranks(folder), Lookahead = folder.Lookahead == null ? null : Ranks(folder.Lookahead) }, layer => Matrices(folder, layer), folder);
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    private static LowRank[] Ranks(PredictorFolder folder) => [.. folder.Layers.Select(l => new LowRank(l.Rank, folder.SparseThreshold))];

    private static PredictorConfig OfFile(ModelConfig c, GgufWeights gguf)
    {
        var layers = new LowRank[c.Layers];
        for (int i = 0; i < c.Layers; i++)
        {
            string fc1 = Tensor(i, 1), fc2 = Tensor(i, 2);
            foreach (string tensor in (string[])[fc1, fc2])
            {
                if (!gguf.Has(tensor)) throw new ModelFormatException(gguf.Name, $"has predictors, but no tensor {tensor}");
                if (gguf.Shape(tensor).Count != 2) throw new ModelFormatException(gguf.PathOf(tensor), $"tensor {tensor} is [{string.Join(", ", gguf.Shape(tensor))}]; a matrix is expected");
                gguf.DemandWeights(tensor);
            }
            IReadOnlyList<long> one = gguf.Shape(fc1), two = gguf.Shape(fc2);
            if (one[0] != two[1]) throw new ModelFormatException(gguf.PathOf(fc1), $"tensors {fc1} [{string.Join(", ", one)}] and {fc2} [{string.Join(", ", two)}] do not fit: the rows of fc2 must be as long as fc1 has rows");
            Fits(c, gguf.PathOf(fc1), c.Layers, one[1], two[0]);
            layers[i] = new LowRank((int)one[0], gguf.SparseThreshold);
        }
        if (gguf.Has(Tensor(c.Layers, 1))) throw new ModelFormatException(gguf.Name, $"has a predictor of layer {c.Layers}, the model has {c.Layers} layers");
        if (!float.IsFinite(gguf.SparseThreshold)) throw new ModelFormatException(gguf.Name, "metadata powerinfer.sparse_threshold is not a number of use");
        return new PredictorConfig { Layers = layers };
    }

    private static void Fits(ModelConfig c, string path, int layers, long inputs, long neurons)
    {
        if (layers != c.Layers || inputs != c.HiddenSize || neurons != c.FfnSize)
            throw new ModelFormatException(path, $"the predictors are for {layers} layers, {inputs} inputs and {neurons} neurons; the model has {c.Layers}, {c.HiddenSize} and {c.FfnSize}: they were trained for another model");
    }

    private static string Tensor(int layer, int matrix) => $"blk.{layer}.fc{matrix}.weight";

    private static IEnumerable<PredictorMatrix> Matrices(string section, PredictorLayer p) =>
    [
        new(section + ".fc1", p.Rank, p.Inputs, Finite(p.Path, "fc1.weight", p.Inputs, p.ReadFc1)),
        new(section + ".fc2", p.Neurons, p.Rank, Finite(p.Path, "fc2.weight", p.Rank, p.ReadFc2)),
    ];

    private static IEnumerable<PredictorMatrix> Matrices(PredictorFolder folder, int layer)
    {
        IEnumerable<PredictorMatrix> own = Matrices(PackageLayout.Predictor, folder.Layers[layer]);
        return layer == 0 || folder.Lookahead == null ? own : own.Concat(Matrices(PackageLayout.Lookahead, folder.Lookahead.Layers[layer - 1]));
    }

    private static IEnumerable<PredictorMatrix> Matrices(GgufWeights gguf, int layer) => Enumerable.Range(1, 2).Select(matrix =>
    {
        string tensor = Tensor(layer, matrix);
        IReadOnlyList<long> shape = gguf.Shape(tensor);
        return new PredictorMatrix($"{PackageLayout.Predictor}.fc{matrix}", (int)shape[0], (int)shape[1],
            Finite(gguf.PathOf(tensor), tensor, (int)shape[1], (first, count, to) => gguf.ReadRows(tensor, first, count, to)));
    });

    private static RowReader Finite(string path, string tensor, int cols, RowReader read) => (first, count, to) =>
    {
        read(first, count, to);
        for (int i = 0; i < to.Length; i++)
            if (!float.IsFinite(to[i])) throw new ModelFormatException(path, $"tensor {tensor} holds {to[i]} in row {first + i / cols}; the predictor is damaged or diverged in training");
    };
}
