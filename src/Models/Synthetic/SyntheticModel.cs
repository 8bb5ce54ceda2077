using System.Globalization;
using FlashOrleans.Flash;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models.Synthetic;

/// <summary>What a synthetic model should be.</summary>
public sealed record SyntheticOptions
{
    /// <summary>A name of <see cref="SyntheticModel.Shapes"/>, or a file in the layout of config.json.</summary>
    public required string Shape { get; init; }
    /// <summary>q4, q8, bf16 or f32.</summary>
    public string Quant { get; init; } = "q4";
    /// <summary>Another number of layers than the shape has.</summary>
    public int? Layers { get; init; }
    public ulong Seed { get; init; }
    /// <summary>How active neurons are made out to be (<see cref="SyntheticActivity"/>): none (as the random weights have it), auto, paper, oracle or a file.</summary>
    public string Activity { get; init; } = "none";
    /// <summary><see cref="PackageLayout.Identity"/>, or <see cref="PackageLayout.Popularity"/>: neurons lie by how often they are active in a session that is drawn for it.</summary>
    public string Order { get; init; } = PackageLayout.Identity;
    /// <summary>Bundles without the rows that decide (<see cref="ImportOptions.Lean"/>), and no predictors.</summary>
    public bool Lean { get; init; }
    /// <summary>Name of the package; null takes it from the package's folder.</summary>
    public string? Name { get; init; }
    /// <summary>Where the same tensors go as a GGUF file; null: nowhere.</summary>
    public string? Gguf { get; init; }
}

/// <summary>
/// A model of a real shape whose weights are random, for measuring sizes and speeds; what it writes is noise, and its package and its GGUF file say so. The package comes from the
/// <see cref="Importer"/>, as every other. The GGUF file holds, number for number, the same tensors: <c>ffn_down</c>, which GGUF stores the other way round, too.
/// The caller's thread waits, workers compute. An error or a cancellation leaves nothing behind, neither package nor file.
/// </summary>
public static class SyntheticModel
{
    private const int BlockBytes = 4 << 20;
    /// <summary>By which neurons are ordered: about as many as an import's built-in text has.</summary>
    private const int CalibrationTokens = 256;
    /// <summary>Bytes of text, one token of two, one that begins and one that ends.</summary>
    private const int LeastVocabulary = 256 + 3;

    public static IReadOnlyList<string> Shapes => SyntheticShapes.Names;

    /// <summary>Makes the package <paramref name="packagePath"/> (…/name.flash), and the GGUF file where one is asked for. What lies there is treated as an import treats it.</summary>
    public static ImportResult Create(string packagePath, SyntheticOptions options, IProgress<ImportProgress>? progress = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        ThreadRole.AssertNotGrainTurn("making a model");
        (GgufType type, WeightFormat format) = options.Quant switch
        {
            "q4" => (GgufType.Q4_0, WeightFormat.Q4),
            "q8" => (GgufType.Q8_0, WeightFormat.Q8),
            "bf16" => (GgufType.BF16, WeightFormat.BF16),
            "f32" => (GgufType.F32, WeightFormat.F32),
            _ => throw new ModelFormatException($"quantisation \"{options.Quant}\" is none that random weights have; there are q4, q8, bf16 and f32"),
        };
        ModelConfig config = SyntheticShapes.Read(options.Shape, options.Layers);
        TensorNames names = NamesOf(config);
        string name = string.Create(CultureInfo.InvariantCulture, $"{Path.GetFileName(options.Shape)}, random weights of seed {options.Seed}");
        PackageLayout.Validate(config, format);
        if (options.Lean) config = Importer.LeanOf(options.Shape, config);
        RoutingConfig? routing = SyntheticRouting.Read(options.Activity, config, options.Seed);
        ActivityConfig? activity = config.Experts != null ? null : SyntheticActivity.Read(options.Activity, options.Shape, config, options.Seed);
        if (options.Order == PackageLayout.Popularity)
            activity = (activity ?? throw new ModelFormatException($"--order popularity is for neurons whose activity is drawn; {options.Shape} has none")) with { Ordered = CalibrationTokens };
        activity?.Check(config);
        PredictorConfig? predictors = activity == null || options.Lean ? null : SyntheticActivity.Predictors(config);
        var weights = new SyntheticWeights(name, config, TensorMaps.For(config, names, "").Shapes, type, options.Seed, Vocabulary(config, name));
        using GgufWriter? gguf = options.Gguf is { } path ? Declare(path, config, name, names, weights) : null;
        if (gguf != null)
        {
            // Room for both before the first byte of either.
            gguf.Begin();
            PackageWriter.DemandRoom(packagePath, config, format, options.Lean);
        }
        using Checkpoint checkpoint = Checkpoint.Open(name, config, names, weights, "the shape says");
        if (gguf != null) Write(gguf, names, weights, progress, cancel);
        ImportResult result = Importer.Import(checkpoint, packagePath, new ImportOptions { Name = options.Name, Formats = _ => format, Drawn = activity, Routing = routing, RandomPredictors = predictors, Lean = options.Lean }, progress, cancel);
        gguf?.Complete();
        return result;
    }

    /// <summary>As PowerInfer stores them, a row of down for each neuron: the package's order, read as fast as it is made.</summary>
    private static TensorNames NamesOf(ModelConfig config) => TensorNames.Gguf with
    {
        // llama.cpp turns neighbours in what descends from Llama, halves in the other architectures.
        Rotation = config.Architecture is "olmoe" or "qwen3-moe" or "gpt-oss" ? RotationOrder.Halves : RotationOrder.Neighbours,
        Positions = "position_embd",
        ProjectIn = "project_in",
        ProjectOut = "project_out",
        AttnOutNorm = "post_attention_norm",
        FfnOutNorm = "post_ffw_norm",
        // The norm before gpt-oss's experts is called by what it comes after.
        FfnNorm = config.Architecture == "gpt-oss" ? "post_attention_norm" : TensorNames.Gguf.FfnNorm,
        Sinks = "attn_sinks.weight",
        Down = "ffn_down_t",
        DownByNeuron = true,
    };

    /// <summary>A model with the rows, formats, attention and experts of another one, to be run for its times: a few of its layers, a part of its vocabulary. Its experts are drawn as the other's are, or as a synthetic model's would be.</summary>
    public static void CreateSample(string packagePath, Manifest like, int layers, int vocabulary, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(like);
        ExpertConfig e = like.Model.Experts ?? throw new ArgumentException("a model of experts is expected", nameof(like));
        LayerTraits traits = like.Model.LayerTraits.LastOrDefault(static t => !t.HasFlag(LayerTraits.Dense));
        ModelConfig config = like.Model with
        {
            Layers = layers,
            LayerTraits = traits == LayerTraits.None ? [] : [.. Enumerable.Repeat(traits, layers)],
            VocabSize = vocabulary,
            BosToken = null,
            EosTokens = [],
            Experts = e with { Groups = 0, UsedGroups = 0, GroupBest = 0 },
        };
        var formats = new WeightFormats(like.Weights.Most, like.Weights.Exceptions.Where(static x => !x.Key.StartsWith("layers.", StringComparison.Ordinal)));
        GgufType type = formats.Most switch { WeightFormat.F32 => GgufType.F32, WeightFormat.BF16 => GgufType.BF16, WeightFormat.Q8 => GgufType.Q8_0, _ => GgufType.Q4_0 };
        TensorNames names = NamesOf(config);
        var weights = new SyntheticWeights("sample", config, TensorMaps.For(config, names, "").Shapes, type, 0, null);
        using Checkpoint checkpoint = Checkpoint.Open("sample", config, names, weights, "the model says");
        Importer.Import(checkpoint, packagePath, new ImportOptions { Formats = _ => formats, Routing = like.Routing ?? new RoutingConfig(), Lean = like.Lean }, null, cancel);
    }

    /// <summary>The manifest that a package of a shape would have, before anything of it is written: for planning. Of its files it knows the sizes alone.</summary>
    public static Manifest Plan(string shape, string quant, bool lean = false)
    {
        ModelConfig config = SyntheticShapes.Read(shape, null);
        if (lean) config = Importer.LeanOf(shape, config);
        WeightFormat format = quant switch { "q8" => WeightFormat.Q8, "bf16" => WeightFormat.BF16, "f32" => WeightFormat.F32, _ => WeightFormat.Q4 };
        ActivityConfig? activity = config.Experts != null ? null : SyntheticActivity.Read("auto", shape, config, 0);
        PredictorConfig? predictors = activity == null || lean ? null : SyntheticActivity.Predictors(config);
        return PackageWriter.Plan(new PackageSpec { Name = shape, Config = config, Format = format, Lean = lean, Activity = activity, Predictors = predictors, Routing = SyntheticRouting.Read("auto", config, 0), Provenance = new Provenance { Source = shape, Tool = "plan" } });
    }

    /// <summary>What a package of random weights draws, beside what is published; empty where the weights decide.</summary>
    public static IReadOnlyList<ActivityFigure> Activity(Manifest manifest) => manifest.Activity is { } activity ? SyntheticActivity.Measure(activity, manifest.Model)
        : manifest.Routing is { } routing ? SyntheticRouting.Measure(routing, manifest.Model) : [];

    /// <summary>The front of the file: what llama.cpp wants to know of a Llama, and the activation under the private key that <see cref="GgufConfig"/> reads.</summary>
    private static GgufWriter Declare(string path, ModelConfig c, string name, TensorNames names, SyntheticWeights weights)
    {
        string arch = GgufName(c) ?? throw new ModelFormatException($"--gguf writes the architectures llama, olmoe, qwen3moe and gpt-oss, none of which can say what a model of architecture {c.Architecture} with these options computes; leave it out");
        if (weights.Vocabulary is not { } vocabulary) throw new ModelFormatException($"a GGUF file needs a vocabulary of at least {LeastVocabulary} tokens; the shape has {c.VocabSize}");
        if ((File.Exists(path) && !GgufFile.IsGguf(path)) || Directory.Exists(path)) throw new ModelFormatException(path, "exists and is not a GGUF file; choose another name");
        var gguf = new GgufWriter(path);
        gguf.Key("general.architecture", arch).Key("general.name", name).Key(GgufWeights.SyntheticSeedKey, weights.SyntheticSeed!.Value)
            .Key("general.quantization_version", 2u)
            .Key(arch + ".context_length", (uint)c.MaxPositions).Key(arch + ".embedding_length", (uint)c.HiddenSize).Key(arch + ".block_count", (uint)c.Layers)
            .Key(arch + ".feed_forward_length", (uint)c.FfnSize).Key(arch + ".attention.head_count", (uint)c.Heads).Key(arch + ".attention.head_count_kv", (uint)c.KvHeads)
            .Key(arch + ".attention.key_length", (uint)c.HeadDim).Key(arch + ".attention.value_length", (uint)c.HeadDim).Key(arch + ".rope.dimension_count", (uint)c.HeadDim)
            .Key(arch + ".rope.freq_base", (float)c.RopeTheta).Key(arch + ".attention.layer_norm_rms_epsilon", c.NormEps).Key(arch + ".vocab_size", (uint)c.VocabSize);
        if (c.Activation is not (Activation.Silu or Activation.ClampedSwiglu)) gguf.Key(arch + ".hidden_activation", c.Activation.ToString().ToLowerInvariant());
        if (c.Activation == Activation.FatRelu) gguf.Key(arch + ".hidden_activation_threshold", c.ActivationParameter);
        if (c.Experts is { } experts)
        {
            gguf.Key(arch + ".expert_count", (uint)experts.Count).Key(arch + ".expert_used_count", (uint)experts.Active);
            if (arch is "qwen3moe" or "gpt-oss") gguf.Key(arch + ".expert_feed_forward_length", (uint)experts.Size);
        }
        if (c.SlidingWindow > 0) gguf.Key(arch + ".attention.sliding_window", (uint)c.SlidingWindow);
        if (c.Rope is { Scaling: RopeScaling.Yarn } yarn)
        {
            gguf.Key(arch + ".rope.scaling.type", "yarn").Key(arch + ".rope.scaling.factor", (float)yarn.Factor).Key(arch + ".rope.scaling.original_context_length", (uint)yarn.OriginalPositions)
                .Key(arch + ".rope.scaling.yarn_beta_fast", (float)yarn.BetaFast).Key(arch + ".rope.scaling.yarn_beta_slow", (float)yarn.BetaSlow);
        }
        gguf.Key("tokenizer.ggml.model", vocabulary.Model).Key("tokenizer.ggml.pre", vocabulary.Pre!).Key("tokenizer.ggml.tokens", vocabulary.Tokens)
            .Key("tokenizer.ggml.token_type", vocabulary.TokenTypes).Key("tokenizer.ggml.merges", vocabulary.Merges)
            .Key("tokenizer.ggml.bos_token_id", (uint)vocabulary.Bos!).Key("tokenizer.ggml.eos_token_id", (uint)vocabulary.Eos!).Key("tokenizer.ggml.add_bos_token", vocabulary.AddBos!.Value)
            .Key("tokenizer.chat_template", vocabulary.ChatTemplate!);
        foreach (string tensor in weights.Tensors)
        {
            long[] dims = [.. weights.Shape(tensor).Reverse()];
            if (IsTurned(tensor, names)) dims = [dims[1], dims[0], .. dims[2..]];
            gguf.Declare(tensor.Replace(names.Down, TensorNames.Gguf.Down, StringComparison.Ordinal), weights.StoredAs(tensor), dims);
        }
        return gguf;
    }

    /// <summary>The architecture whose graph llama.cpp computes such a model with; null: there is none that is written here.</summary>
    private static string? GgufName(ModelConfig c)
    {
        bool basic = c is { Norm: NormKind.Rms, NormPlacement: NormPlacement.Pre, FinalNorm: true, Parallel: false, Gated: true, HeadBias: false, EmbeddingSize: 0, Positions: PositionKind.Rope, SlidingRope: null }
            && c is { EmbeddingScale: 1, ResidualScale: 1, LogitScale: 1, AttentionScale: 0, AttentionSoftcap: 0, LogitSoftcap: 0 };
        if (basic && IsGptOss(c)) return "gpt-oss";
        bool common = basic && c is { Rope: null, SlidingWindow: 0, Sinks: false, AttentionBias: false, HasOutputBias: false, FfnBias: false }
            && c.Activation is Activation.Silu or Activation.Relu or Activation.FatRelu or Activation.DRelu && c.LayerTraits.All(static t => t == LayerTraits.None);
        if (!common || (c.Experts != null && (c.Activation != Activation.Silu || c.Experts.RouterBias || c.Experts.Size % WeightLayout.Block != 0))) return null;
        return (c.QkNorm, c.Experts?.Normalised) switch
        {
            (QkNorm.None, null or true) => "llama",
            (QkNorm.Head, true) when c.Architecture == "qwen3-moe" => "qwen3moe",
            (QkNorm.Whole, false) when c.Architecture == "olmoe" => "olmoe",
            _ => null,
        };
    }

    /// <summary>What that graph takes for granted: biases everywhere, sinks, every second layer sliding from the first on, a gate clamped at 7.</summary>
    private static bool IsGptOss(ModelConfig c) =>
        c is { Architecture: "gpt-oss", QkNorm: QkNorm.None, Sinks: true, AttentionBias: true, HasOutputBias: true, FfnBias: true, SlidingWindow: > 0, Activation: Activation.ClampedSwiglu, ActivationParameter: 7 }
        && c.Experts is { Normalised: true, RouterBias: true, SharedSize: 0 } && c.Experts.Size % WeightLayout.Block == 0
        && c.Rope is null or { Scaling: RopeScaling.Yarn, Dims: 0, Truncate: false }
        && c.LayerTraits.Count == c.Layers && c.LayerTraits.Select(static (t, i) => t == (i % 2 == 0 ? LayerTraits.Sliding : LayerTraits.None)).All(static same => same);

    private static void Write(GgufWriter gguf, TensorNames names, SyntheticWeights weights, IProgress<ImportProgress>? progress, CancellationToken cancel)
    {
        long written = 0;
        var blocks = new OrderedBlocks<Scratch<byte>>(static () => new());
        foreach (string tensor in weights.Tensors)
        {
            IReadOnlyList<long> shape = weights.Shape(tensor);
            bool turned = IsTurned(tensor, names);
            int experts = shape.Count == 3 ? (int)shape[0] : 1, high = shape.Count == 1 ? 1 : (int)shape[^2], wide = (int)shape[^1];
            // Of the transpose of each expert's rows, one below the other.
            (int rows, int cols) = turned ? (experts * wide, high) : (experts * high, wide);
            (int values, int blockBytes) = GgufTypes.Block(weights.StoredAs(tensor));
            int rowBytes = cols / values * blockBytes, each = Math.Max(1, BlockBytes / rowBytes / WeightLayout.Block) * WeightLayout.Block;
            int Count(int block) => Math.Min(each, rows - block * each);
            blocks.Run((rows + each - 1) / each, (block, scratch) =>
            {
                Span<byte> to = scratch.Of(Count(block) * rowBytes).AsSpan(0, Count(block) * rowBytes);
                for (int r = 0; r < Count(block); r += turned ? WeightLayout.Block : 1)
                {
                    int row = block * each + r;
                    if (turned) weights.ReadTransposed(tensor, row / wide, row % wide, to[(r * rowBytes)..]);
                    else weights.ReadRow(tensor, row, to.Slice(r * rowBytes, rowBytes));
                }
            }, (block, scratch) =>
            {
                int bytes = Count(block) * rowBytes;
                gguf.Write(scratch.Of(bytes).AsMemory(0, bytes));
                written += bytes;
                progress?.Report(new ImportProgress("gguf", written, gguf.Bytes));
            }, cancel);
        }
    }

    private static bool IsTurned(string tensor, TensorNames names) => tensor.Contains(names.Down, StringComparison.Ordinal) && tensor.EndsWith(".weight", StringComparison.Ordinal);

    /// <summary>Nobody taught such a model how to talk, but programs that talk can be tried on it.</summary>
    private const string ChatTemplate = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

    /// <summary>A byte-level BPE of the model's size: all bytes, one merge, tokens that end and begin; what is beyond has its number for a name.</summary>
    private static VocabularySource? Vocabulary(ModelConfig c, string name)
    {
        if (c.VocabSize < LeastVocabulary) return null;
        int eos = c.EosTokens.Count > 0 ? c.EosTokens[0] : c.BosToken == 2 ? 1 : 2, bos = c.BosToken ?? (eos == 1 ? 2 : 1);
        string[] tokens = new string[c.VocabSize];
        int[] types = new int[c.VocabSize];
        int plain = 0;
        for (int id = 0; id < tokens.Length; id++)
        {
            bool special = id == bos || id == eos;
            types[id] = special ? 3 : 1;
            tokens[id] = id == bos ? "<s>" : id == eos ? "</s>" : plain switch
            {
                < 256 => ByteAlphabet.Char((byte)plain).ToString(),
                256 => ByteAlphabet.Write(" t"),
                _ => string.Create(CultureInfo.InvariantCulture, $"<{id}>"),
            };
            if (!special) plain++;
        }
        return new VocabularySource
        {
            Model = "gpt2",
            Pre = "gpt-2",
            Name = name,
            Tokens = tokens,
            TokenTypes = types,
            ChatTemplate = ChatTemplate,
            Merges = [$"{ByteAlphabet.Write(" ")} t"],
            Bos = bos,
            Eos = eos,
            AddBos = c.BosToken != null,
        };
    }
}
