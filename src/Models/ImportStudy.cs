using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// What an import finds out about a ReLU model's neurons before it writes the package: the model as it is runs on a text (<see cref="LayerByLayer.Study"/>); how often each neuron is
/// active gives the order and the core, and at which score a predictor finds the stated share of what is active gives its threshold. Low-rank forms are computed here, since they depend on what
/// the feed-forward sees. The import's thread. Memory: the rows of one layer, and what was found. The figures are the same on every machine: they are part of the package's hash.
/// </summary>
internal sealed class ImportStudy
{
    /// <summary>For predictors that are made: what they miss costs less than a tenth of a percent of perplexity (docs/adr/0012).</summary>
    public const double DefaultRecall = 0.99;

    /// <summary>The core: at most this share of a layer's neurons, the most active ones, of those that are active on at least that share of the tokens. Others are left to the predictor: a core of
    /// neurons that are mostly zero is computed for nothing and takes slots of the window (docs/adr/0012).</summary>
    public const double DefaultCore = 0.05, DefaultCoreLeast = 0.5;

    private readonly Checkpoint _checkpoint;
    private readonly WeightFormats _formats;
    private readonly PredictorSource? _predictors;
    private readonly double _recall;
    private readonly int _core;
    private readonly double _coreLeast;
    private readonly int[][]? _orders, _cores;
    private readonly LowRank[]? _calibrated;

    private ImportStudy(Checkpoint checkpoint, WeightFormats formats, PredictorSource? predictors, ImportOptions options)
    {
        int layers = checkpoint.Config.Layers;
        _checkpoint = checkpoint;
        _formats = formats;
        _predictors = predictors;
        _recall = options.Recall ?? DefaultRecall;
        _orders = options.Order == PackageLayout.Popularity ? new int[layers][] : null;
        if (predictors == null) return;
        _core = Core(options, checkpoint.Config.FfnSize);
        _coreLeast = options.CoreLeast;
        _cores = new int[layers][];
        _calibrated = new LowRank[layers];
    }

    /// <summary>Something was asked for that only a study can tell.</summary>
    public static bool IsNeeded(ImportOptions options, PredictorSource? predictors) =>
        options.Order != PackageLayout.Identity || (predictors != null && (options.Recall != null || predictors.Config.GuessesActivation));

    /// <summary>Refuses, before anything is written, what no study could do.</summary>
    public static void Demand(Checkpoint checkpoint, ImportOptions options)
    {
        if (!checkpoint.Config.HasSelector(0)) throw new ModelFormatException(checkpoint.Path, "neurons are studied of ReLU models, where most are zero; this is none: import it without --order and --recall");
        if (checkpoint.Config.Experts != null) throw new ModelFormatException(checkpoint.Path, "neurons of experts are not studied: import it without --order and --recall");
        if (options.Recall is not (null or (> 0 and < 1))) throw new ModelFormatException(checkpoint.Path, $"a recall of {options.Recall} cannot be reached; it lies between 0 and 1");
        _ = Text(options.Calibration);
    }

    /// <summary>The shape that predictors will have after a study, at most.</summary>
    public static PredictorConfig Outline(PredictorConfig config, ImportOptions options, ModelConfig model) =>
        config with { Layers = [.. config.Layers.Select(l => l with { Core = Core(options, model.FfnSize) is > 0 and var core ? core : null })] };

    private static int Core(ImportOptions options, int neurons) => (int)(options.CoreShare * neurons);

    /// <summary>Neurons of the checkpoint in the order in which they are stored; null: as they are.</summary>
    public int[]? OrderOf(int layer) => _orders?[layer];

    /// <summary>Stored neurons that are always computed, ascending; null: there are none.</summary>
    public int[]? CoreOf(int layer) => _cores?[layer] is { Length: > 0 } core ? core : null;

    public static ImportStudy Run(Checkpoint checkpoint, FlashPackage plain, WeightFormats formats, PredictorSource? predictors, ImportOptions options, List<string> notes, Action<string> step, CancellationToken cancel)
    {
        ModelConfig c = checkpoint.Config;
        long memory = LayerByLayer.MemoryFor(plain);
        if (memory > Calibration.MostMemory)
            throw new ModelFormatException(checkpoint.Path, $"the neurons cannot be studied: the largest layer takes {memory >> 20} MiB of memory, an import has {Calibration.MostMemory >> 20} for it");
        (IReadOnlyList<int[]> texts, bool isText) = Calibration.StudyTexts(plain, Text(options.Calibration));
        if (!isText) notes.Add("the model cannot read text: its neurons were studied on random tokens, which says little about how it will be used");
        var study = new ImportStudy(checkpoint, formats, predictors, options);
        try
        {
            LayerByLayer.Study(plain, texts, study.Take, layer => step($"studying layer {layer + 1} of {c.Layers}"), cancel);
        }
        catch (StepFaultException e)
        {
            throw new ModelFormatException(checkpoint.Path, $"the neurons cannot be studied: {e.Message}", e);
        }
        predictors?.Calibrated(predictors.Config with { Recall = study._recall, Tokens = texts.Sum(static t => t.Length), Layers = study._calibrated! });
        return study;
    }

    private static string? Text(string? file)
    {
        if (file == null) return null;
        try
        {
            return File.ReadAllText(file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ModelFormatException(file, $"cannot be read: {e.Message}", e);
        }
    }

    private void Take(LayerRows rows)
    {
        int n = rows.Neurons, layer = rows.Layer;
        bool[] active = Array.ConvertAll(rows.Values, v => v > _checkpoint.Config.Threshold);
        int[] counts = new int[n];
        for (int t = 0; t < rows.Tokens; t++)
            for (int i = 0; i < n; i++) counts[i] += active[t * n + i] ? 1 : 0;
        int[] popular = [.. Enumerable.Range(0, n).OrderByDescending(i => counts[i])];
        if (_orders != null) _orders[layer] = popular;
        if (_predictors == null) return;
        int core = popular.Take(_core).Count(i => counts[i] > 0 && counts[i] >= _coreLeast * rows.Tokens);
        _cores![layer] = _orders != null ? [.. Enumerable.Range(0, core)] : [.. popular.Take(core).Order()];
        if (_predictors.Computed.Length > 0) _predictors.Computed[layer] = LowRankForm(_checkpoint, rows, _predictors.Config.Layers[layer].Rank);
        if (_predictors.Squares.Length > 0) _predictors.Squares[layer] = Squares(rows);
        PredictorMatrix[] matrices = [.. _predictors.Matrices(layer).Where(static m => !m.Section.StartsWith(PackageLayout.Lookahead, StringComparison.Ordinal))];
        float[] scores = Scores(_checkpoint, _formats, _predictors.Config, matrices, rows);
        bool[] always = new bool[n];
        foreach (int i in popular.AsSpan(0, core)) always[i] = true;
        _calibrated![layer] = Calibrate(scores, active, always, _recall, _predictors.Config.Layers[layer].Rank, core);
    }

    /// <summary>Mean squares of the inputs' numbers, by column.</summary>
    internal static float[] Squares(LayerRows rows)
    {
        double[] sums = new double[rows.Width];
        for (int t = 0; t < rows.Tokens; t++)
            for (int i = 0; i < sums.Length; i++) sums[i] += (double)rows.Input[t * sums.Length + i] * rows.Input[t * sums.Length + i];
        return Array.ConvertAll(sums, s => (float)(s / Math.Max(1, rows.Tokens)));
    }

    /// <summary>The highest threshold at which so much of what is active is taken, the core included.</summary>
    internal static LowRank Calibrate(float[] scores, bool[] active, bool[] always, double recall, int rank, int core)
    {
        int n = always.Length;
        long truly = 0, found = 0, taken = 0;
        var of = new List<float>();
        for (int k = 0; k < scores.Length; k++)
        {
            if (always[k % n]) taken++;
            if (!active[k]) continue;
            truly++;
            if (always[k % n]) found++;
            else of.Add(scores[k]);
        }
        of.Sort();
        // From above; at least one, so that there is a threshold.
        int needed = (int)Math.Clamp(Math.Ceiling(recall * truly) - found, Math.Min(1, of.Count), of.Count);
        float threshold = of.Count == 0 ? 0 : of[^needed];
        for (int k = 0; k < scores.Length; k++)
        {
            if (always[k % n] || !(scores[k] >= threshold)) continue;
            taken++;
            if (active[k]) found++;
        }
        return new LowRank(rank, threshold) { Core = core > 0 ? core : null, Recall = Share(found), Taken = Share(taken) };

        double? Share(long count) => truly == 0 ? null : Math.Round((double)count / truly, 4);
    }

    /// <summary>Scores of a layer's predictor, of the numbers as they will be stored.</summary>
    internal static float[] Scores(Checkpoint checkpoint, WeightFormats formats, PredictorConfig config, PredictorMatrix[] matrices, LayerRows rows, float[]? inputs = null)
    {
        ModelConfig c = checkpoint.Config;
        bool guesses = config.GuessesActivation;
        string biasOf = $"layers.{rows.Layer}.{(c.Gated ? "ffn.gate.bias" : "ffn.up.bias")}";
        float[]? bias = guesses && checkpoint.Has(biasOf) ? checkpoint.Read(biasOf) : null;
        float[] x = inputs ?? (guesses ? rows.Input : rows.Stream);
        for (int i = 0; i < matrices.Length; i++)
        {
            float[] to = new float[(long)rows.Tokens * matrices[i].Rows];
            FloatProducts.RowsByRows(x, Stored(formats, config, matrices[i]), matrices[i].Cols, to, i == matrices.Length - 1 ? bias : null);
            for (int k = 0; !guesses && i < matrices.Length - 1 && k < to.Length; k++) to[k] = MathF.Max(to[k], 0);
            x = to;
        }
        return x;
    }

    private static float[] Stored(WeightFormats formats, PredictorConfig config, PredictorMatrix matrix)
    {
        WeightFormat format = matrix.FormatIn(formats, config);
        float[] numbers = new float[(long)matrix.Rows * matrix.Cols];
        matrix.ReadRows(0, matrix.Rows, numbers);
        byte[] row = new byte[WeightLayout.RowBytes(format, matrix.Cols)];
        for (int i = 0; i < matrix.Rows; i++)
        {
            Span<float> of = numbers.AsSpan(i * matrix.Cols, matrix.Cols);
            if (matrix.Quantize != null) matrix.Quantize(of, row);
            else Quantizer.QuantizeRow(format, of, row);
            Quantizer.DequantizeRow(format, row, matrix.Cols, of);
        }
        return numbers;
    }

    /// <summary>Of the mean square of the inputs' numbers: directions that the text does not show count a little, too.</summary>
    private const float Ridge = 0.01f;
    private const int Iterations = 6;

    /// <summary>
    /// The deciding rows W through a few numbers, so that pre-activations are met as nearly as their rank allows in the mean over the text: fc2 spans the main directions of the pre-activations,
    /// eigenvectors of W (C + ridge) Wᵀ with C the inputs' second moments (singular vectors of the whitened W, without taking a root of C), fc1 = fc2ᵀ W. Found by subspace iteration from a fixed start.
    /// </summary>
    internal static (Half[] Fc1, Half[] Fc2) LowRankForm(Checkpoint checkpoint, LayerRows rows, int rank)
    {
        ModelConfig c = checkpoint.Config;
        int n = rows.Neurons, d = rows.Width;
        float[] w = checkpoint.Read($"layers.{rows.Layer}.{(c.Gated ? "ffn.gate" : "ffn.up")}"), turned = FloatProducts.Transposed(w, d), columns = FloatProducts.Transposed(rows.Input, d);
        float[] moments = new float[(long)d * d];
        FloatProducts.RowsByRows(columns, columns, rows.Tokens, moments);
        float trace = 0;
        for (int i = 0; i < d; i++) trace += moments[i * d + i];
        for (int i = 0; i < d; i++) moments[i * d + i] += Ridge * trace / d;
        float[] u = new float[rank * n], through = new float[rank * d], whitened = new float[rank * d];
        var random = new Random(1);
        for (int i = 0; i < u.Length; i++) u[i] = random.NextSingle() - 0.5f;
        for (int pass = 0; ; pass++)
        {
            FloatProducts.MakeOrthonormal(u, n);
            FloatProducts.RowsByRows(u, turned, n, through);
            if (pass == Iterations) break;
            FloatProducts.RowsByRows(through, moments, d, whitened);
            FloatProducts.RowsByRows(whitened, w, d, u);
        }
        return (Array.ConvertAll(through, static v => (Half)v), Array.ConvertAll(FloatProducts.Transposed(u, n), static v => (Half)v));
    }
}
