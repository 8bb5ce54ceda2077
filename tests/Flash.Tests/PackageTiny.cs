using System.IO.Hashing;

namespace FlashOrleans.Flash.Tests;

/// <summary>Makes tiny packages with reproducible numbers: byte k of a section is a function of seed, file, section and k.</summary>
internal static class PackageTiny
{
    public static readonly ModelConfig Gated = new()
    {
        Architecture = "llama",
        VocabSize = 37,
        HiddenSize = 32,
        Layers = 2,
        Heads = 2,
        KvHeads = 1,
        HeadDim = 16,
        FfnSize = 21,
        MaxPositions = 24,
        Norm = NormKind.Rms,
        NormEps = 1e-5f,
        Positions = PositionKind.Rope,
        Activation = Activation.Relu,
        Gated = true,
        TiedHead = true,
        BosToken = 1,
        EosTokens = [2],
    };

    public static readonly ModelConfig Ungated = Gated with
    {
        Architecture = "opt",
        HiddenSize = 64,
        HeadDim = 32,
        KvHeads = 2,
        Norm = NormKind.Layer,
        Positions = PositionKind.Learned,
        PositionOffset = 2,
        Gated = false,
        AttentionBias = true,
        FfnBias = true,
        TiedHead = false,
    };

    /// <summary>Bundles of at least a sector at f32: one neuron a unit.</summary>
    public static ModelConfig Wide(ModelConfig config) => config with { HiddenSize = 256, Heads = 4, KvHeads = 2, HeadDim = 64 };

    /// <summary>For models of two layers; one rank that q8 can take and one that it cannot.</summary>
    public static readonly PredictorConfig Predictors = new() { Layers = [new LowRank(32, 0.5f), new LowRank(5, -1)], Lookahead = [new LowRank(7, 0.25f)] };

    public static PackageSpec Spec(ModelConfig config, WeightFormats format, string name = "tiny", PredictorConfig? predictors = null, bool lean = false) => new()
    {
        Name = name,
        Config = config,
        Format = format,
        Alignment = 512,
        Predictors = predictors,
        Lean = lean,
        Provenance = new Provenance { Source = "made by the tests", Tool = "flash 0.1.0", Files = [new SourceFile("model.safetensors", 3, new string('a', 64))] },
    };

    public static string Write(string path, ModelConfig config, WeightFormats format, int seed = 1, string name = "tiny", PredictorConfig? predictors = null, bool lean = false)
    {
        using PackageWriter writer = PackageWriter.Create(path, Spec(config, format, name, predictors, lean));
        Fill(writer, config, format, seed, predictors);
        return writer.Complete();
    }

    public static void Fill(PackageWriter writer, ModelConfig config, WeightFormats format, int seed, PredictorConfig? predictors = null, bool permuted = false)
    {
        writer.BeginEdge();
        foreach (SectionEntry s in PackageLayout.Edge(config, format)) Section(writer, s, seed, "edge");
        for (int layer = 0; layer < config.Layers; layer++)
        {
            writer.BeginSlice(layer);
            foreach (SectionEntry s in PackageLayout.Slice(config, format, layer, predictors, permuted)) Section(writer, s, seed, "slice" + layer);
        }
        writer.AddSideFile("tokenizer.json", "{}\n"u8);
    }

    /// <summary>What section <paramref name="section"/> of a file holds.</summary>
    public static byte[] Bytes(int seed, string file, string section, long count)
    {
        byte[] bytes = new byte[count];
        new Random((int)XxHash32.HashToUInt32(System.Text.Encoding.ASCII.GetBytes($"{seed}/{file}/{section}"))).NextBytes(bytes);
        return bytes;
    }

    public static byte[] Bundle(int seed, string file, int neuron, BundleLayout layout) => Bytes(seed, file, "neuron" + neuron, layout.BundleBytes);

    public static byte[] Slab(int seed, string file, int neuron, BundleLayout layout) => Bytes(seed, file, "slab" + neuron, layout.SlabBytes);

    public static void Write(BundleWriter bundles, int seed, string file)
    {
        BundleLayout layout = bundles.Layout;
        for (int i = 0, n = 1; i < layout.Neurons; i += n)
        {
            if (layout.Slabs) n = Math.Min(BundleLayout.SlabNeurons, layout.Group - i % layout.Group);
            if (layout.Slabs) bundles.WriteSlab(Slab(seed, file, i, layout));
            else bundles.WriteNeuron(Bundle(seed, file, i, layout));
        }
    }

    private static void Section(PackageWriter writer, SectionEntry s, int seed, string file)
    {
        if (s.Kind == SectionKind.Hashes) return;
        if (s.Kind == SectionKind.Bundles)
        {
            using BundleWriter bundles = writer.BeginBundles();
            Write(bundles, seed, file);
            return;
        }
        byte[] bytes = Bytes(seed, file, s.Name, s.Bytes);
        using SectionWriter section = writer.BeginSection(s.Name, s.Format, s.Rows, s.Cols);
        // In uneven pieces: the writer must not care.
        for (int at = 0, piece = 1; at < bytes.Length; at += piece, piece = piece * 3 % 1013 + 1) section.Write(bytes.AsSpan(at, Math.Min(piece, bytes.Length - at)));
    }
}

/// <summary>A folder that goes away.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("flash-test-").FullName;
    public string this[string name] => System.IO.Path.Combine(Path, name);
    public void Dispose() => Directory.Delete(Path, recursive: true);
}
