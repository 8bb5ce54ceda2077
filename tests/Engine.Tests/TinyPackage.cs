using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>
/// A random model written as a package into a temporary folder: any shape, seeded, small enough that a step takes microseconds. Embeddings lean one way
/// in a few columns and gate rows the other, so that ReLU leaves a sparse set, as in real checkpoints.
/// </summary>
internal sealed class TinyPackage : IDisposable
{
    private TinyPackage(string folder, FlashPackage package)
    {
        Folder = folder;
        Package = package;
    }

    public string Folder { get; }
    public FlashPackage Package { get; }

    public static ModelConfig Llama(Activation activation = Activation.Relu, int layers = 3, int hidden = 64, int ffn = 320, bool tied = true) => new()
    {
        Architecture = "llama",
        VocabSize = 200,
        HiddenSize = hidden,
        Layers = layers,
        Heads = 4,
        KvHeads = 2,
        HeadDim = hidden / 4,
        FfnSize = ffn,
        MaxPositions = 256,
        Norm = NormKind.Rms,
        NormEps = 1e-5f,
        Positions = PositionKind.Rope,
        Activation = activation,
        Gated = true,
        TiedHead = tied,
        EosTokens = [2],
    };

    public static ModelConfig Opt(int layers = 3) => new()
    {
        Architecture = "opt",
        VocabSize = 150,
        HiddenSize = 64,
        Layers = layers,
        Heads = 4,
        KvHeads = 4,
        HeadDim = 16,
        FfnSize = 288,
        MaxPositions = 256,
        Norm = NormKind.Layer,
        NormEps = 1e-5f,
        Positions = PositionKind.Learned,
        PositionOffset = 2,
        Activation = Activation.Relu,
        Gated = false,
        AttentionBias = true,
        FfnBias = true,
        TiedHead = true,
        EosTokens = [2],
    };

    /// <summary>Random predictors for a model: about a third of the scores reach the threshold.</summary>
    public static PredictorConfig LowRanks(ModelConfig config, int rank = 32, bool lookahead = true) => new()
    {
        Layers = [.. Enumerable.Range(0, config.Layers).Select(i => new LowRank(rank + i, 0.25f))],
        Lookahead = lookahead ? [.. Enumerable.Range(1, config.Layers - 1).Select(i => new LowRank(rank, 0.125f))] : null,
    };

    /// <summary>Predictors of a kind (<see cref="PredictorConfig.Kind"/>); "core": low-rank ones, and a few neurons that are always computed.</summary>
    public static PredictorConfig OfKind(string kind, ModelConfig config) => kind switch
    {
        "core" => LowRanks(config) with { Layers = [.. LowRanks(config).Layers.Select(static l => l with { Core = 9 })] },
        PredictorConfig.SketchKind => new() { Kind = kind, Bits = 4, Layers = [.. Enumerable.Range(0, config.Layers).Select(static i => new LowRank(0, 0.25f) { Core = i == 0 ? null : 5 })] },
        PredictorConfig.SvdKind => LowRanks(config, lookahead: false) with { Kind = kind },
        _ => LowRanks(config),
    };

    public static TinyPackage Create(ModelConfig config, WeightFormat format, int seed = 1, Func<string, FlashFile>? open = null, float residual = 1, PredictorConfig? predictors = null, Func<string, int, int, float>? lowRank = null, ActivityConfig? activity = null, int version = 0, bool lean = false)
    {
        string folder = Directory.CreateTempSubdirectory("flash-engine-").FullName;
        string path = Path.Combine(folder, "tiny.flash");
        var random = new Random(seed);
        var spec = new PackageSpec { Name = "tiny", Config = config, Format = format, Predictors = predictors, Activity = activity, Version = version, Lean = lean, Provenance = new Provenance { Source = "random", Tool = "tests" } };
        using (var writer = PackageWriter.Create(path, spec))
        {
            int d = config.HiddenSize;
            writer.BeginEdge();
            Panels(writer, "embed", format, Rows(format, config.VocabSize, d, random, 1f, lean: 0.25f), d);
            if (config.Positions == PositionKind.Learned) Plain(writer, "positions", config.MaxPositions + config.PositionOffset, d, random, 0.3f, 0);
            Norm(writer, "final_norm", config, random);
            if (!config.TiedHead) Matrix(writer, "head", format, config.VocabSize, d, random, 1f);
            for (int layer = 0; layer < config.Layers; layer++)
            {
                Slice(writer, layer, config, format, random, residual);
                // Numbers of their own: the model is the same with and without them.
                var apart = new Random(1000 * seed + layer);
                if (predictors?.Layers[layer].Core is { } core) Numbers(writer, PackageLayout.Core, [.. Enumerable.Range(0, core).Select(i => (float)(7 * i % config.FfnSize))]);
                if (predictors?.Kind == PredictorConfig.SketchKind) Panels(writer, PackageLayout.Sketch, WeightFormat.Q4, Rows(WeightFormat.Q4, config.FfnSize, d, apart, 0.5f), d);
                else if (predictors != null) LowRank(writer, "predictor", config, format, predictors, predictors.Layers[layer].Rank, apart, lowRank);
                if (predictors?.LookaheadOf(layer) is { } ahead) LowRank(writer, "lookahead", config, format, predictors, ahead.Rank, apart, lowRank);
            }
            writer.Complete();
        }
        return new TinyPackage(folder, FlashPackage.Open(path, open));
    }

    public void Dispose()
    {
        Package.Dispose();
        Directory.Delete(Folder, recursive: true);
    }

    private static void Slice(PackageWriter writer, int layer, ModelConfig c, WeightFormat format, Random random, float residual)
    {
        int d = c.HiddenSize, wide = c.AttendedSize;
        writer.BeginSlice(layer);
        Norm(writer, "attn_norm", c, random);
        Norm(writer, "ffn_norm", c, random);
        Matrix(writer, "attn.qkv", format, c.QkvRows, d, random, 1.2f);
        if (c.AttentionBias) Plain(writer, "attn.qkv.bias", 1, c.QkvRows, random, 0.2f, 0);
        if (c.Sinks) Plain(writer, "attn.sinks", 1, c.Heads, random, 1f, 1);
        Matrix(writer, "attn.o", format, d, wide, random, 0.7f * residual);
        if (c.AttentionBias) Plain(writer, "attn.o.bias", 1, d, random, 0.2f, 0);
        if (c.FfnBias)
        {
            Plain(writer, "ffn.up.bias", 1, c.FfnSize, random, 0.2f, c.Gated ? 0 : -0.9f);
            if (c.Gated) Plain(writer, "ffn.gate.bias", 1, c.FfnSize, random, 0.2f, 0);
            Plain(writer, "ffn.down.bias", 1, d, random, 0.2f, 0);
        }
        int neurons = c.NeuronsOf(layer);
        if (c.ExpertsOf(layer) is { } experts) Matrix(writer, experts.RouterSection, PackageLayout.RouterFormat(format), experts.Count, d, random, 2f);
        var up = Rows(format, neurons, d, random, 1f);
        var down = Rows(format, neurons, d, random, 0.3f * residual);
        var gate = c.Gated ? Rows(format, neurons, d, random, 0.5f, lean: -0.07f * MathF.Min(1, MathF.Sqrt(64f / d))) : null;
        if (c.HasSelector(layer)) Panels(writer, "ffn.selector", format, gate ?? up, d);
        using var bundles = writer.BeginBundles();
        if (bundles.Layout.Slabs)
        {
            Slabs(bundles, c.ExpertsOf(layer)?.Size ?? c.FfnSize, gate, up, down);
            return;
        }
        int rowBytes = WeightLayout.RowBytes(format, d);
        byte[] bundle = new byte[c.RowsPerNeuron * rowBytes];
        for (int i = 0; i < neurons; i++)
        {
            up[i].CopyTo(bundle, 0);
            down[i].CopyTo(bundle, rowBytes);
            gate?[i].CopyTo(bundle, 2 * rowBytes);
            // The row that decides is the first where there is no gate, else the last; lean bundles have all others.
            bundles.WriteNeuron(bundle.AsSpan(bundles.Layout.Rows == 1 ? rowBytes : 0, bundles.Layout.BundleBytes));
        }
    }

    /// <summary>The same rows as slabs; down's are turned and stored anew.</summary>
    private static void Slabs(BundleWriter bundles, int unit, byte[][]? gate, byte[][] up, byte[][] down)
    {
        BundleLayout layout = bundles.Layout;
        const int most = BundleLayout.SlabNeurons;
        byte[] slab = new byte[layout.SlabBytes], turned = new byte[layout.Cols * WeightLayout.RowBytes(layout.Down, most)];
        float[] row = new float[layout.Cols];
        for (int first = 0, n; first < up.Length; first += n)
        {
            n = Math.Min(most, unit - first % unit);
            Array.Clear(slab);
            if (gate != null) Panel.PackAll(layout.Gate, gate[first..(first + n)].SelectMany(static r => r).ToArray(), n, layout.Cols, slab);
            Panel.PackAll(layout.Up, up[first..(first + n)].SelectMany(static r => r).ToArray(), n, layout.Cols, slab.AsSpan(layout.SlabGateBytes));
            float[][] columns = [.. Enumerable.Range(0, layout.Cols).Select(static _ => new float[most])];
            for (int i = 0; i < n; i++)
            {
                Quantizer.DequantizeRow(layout.Up, down[first + i], layout.Cols, row);
                for (int k = 0; k < row.Length; k++) columns[k][i] = row[k];
            }
            int bytes = turned.Length / layout.Cols;
            for (int k = 0; k < columns.Length; k++) Quantizer.QuantizeRow(layout.Down, columns[k], turned.AsSpan(k * bytes, bytes));
            Panel.PackAll(layout.Down, turned, layout.Cols, most, slab.AsSpan(layout.SlabGateBytes + layout.SlabUpBytes));
            bundles.WriteSlab(slab);
        }
    }

    private static void LowRank(PackageWriter writer, string name, ModelConfig c, WeightFormat format, PredictorConfig predictors, int rank, Random random, Func<string, int, int, float>? number)
    {
        foreach (var (part, rows, cols) in new[] { (".fc1", rank, c.HiddenSize), (".fc2", c.FfnSize, rank) })
        {
            WeightFormat stored = PackageLayout.PredictorFormat(format, predictors, cols);
            byte[][] made = Rows(stored, rows, cols, random, 1f);
            for (int r = 0; r < rows && number != null; r++) Quantizer.QuantizeRow(stored, [.. Enumerable.Range(0, cols).Select(i => number(part, r, i))], made[r]);
            Panels(writer, name + part, stored, made, cols);
        }
    }

    private static void Norm(PackageWriter writer, string name, ModelConfig c, Random random)
    {
        Plain(writer, name + ".weight", 1, c.HiddenSize, random, 0.1f, 1);
        if (c.Norm == NormKind.Layer) Plain(writer, name + ".bias", 1, c.HiddenSize, random, 0.1f, 0);
    }

    private static void Plain(PackageWriter writer, string name, int rows, int cols, Random random, float spread, float mean)
    {
        var values = new float[rows * cols];
        for (int i = 0; i < values.Length; i++) values[i] = mean + spread * Gauss(random);
        Numbers(writer, name, values, rows);
    }

    private static void Numbers(PackageWriter writer, string name, float[] values, int rows = 1)
    {
        using var section = writer.BeginSection(name, WeightFormat.F32, rows, values.Length / rows);
        section.Write(System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()));
    }

    private static void Matrix(PackageWriter writer, string name, WeightFormat format, int rows, int cols, Random random, float spread) =>
        Panels(writer, name, format, Rows(format, rows, cols, random, spread), cols);

    private static void Panels(PackageWriter writer, string name, WeightFormat format, byte[][] rows, int cols)
    {
        using var section = writer.BeginSection(name, format, rows.Length, cols);
        byte[] panel = new byte[WeightLayout.PanelBytes(format, cols)];
        for (int p = 0; p < WeightLayout.Panels(rows.Length); p++)
        {
            var chosen = rows.Skip(p * WeightLayout.PanelRows).Take(WeightLayout.PanelRows).ToArray();
            Panel.Pack(format, chosen.SelectMany(r => r).ToArray(), chosen.Length, cols, panel);
            section.Write(panel);
        }
    }

    private static byte[][] Rows(WeightFormat format, int rows, int cols, Random random, float spread, float lean = 0)
    {
        float scale = spread / MathF.Sqrt(cols);
        var result = new byte[rows][];
        float[] row = new float[cols];
        for (int r = 0; r < rows; r++)
        {
            for (int i = 0; i < cols; i++) row[i] = scale * Gauss(random) + (i < 8 ? lean : 0);
            result[r] = new byte[WeightLayout.RowBytes(format, cols)];
            Quantizer.QuantizeRow(format, row, result[r]);
        }
        return result;
    }

    private static float Gauss(Random random) =>
        (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
}
