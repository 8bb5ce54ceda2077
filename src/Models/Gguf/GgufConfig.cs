using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The metadata of a GGUF file → <see cref="ModelConfig"/>, names of tensors and vocabulary. Architectures whose conventions were checked against reference logits
/// are supported, others are refused by name: a file that is read wrongly computes nonsense without a word.
/// </summary>
internal static class GgufConfig
{
    private const string Supported = "llama (Llama, Mistral, SmolLM2 and their like, Mixtral), qwen2, bamboo (PowerInfer)";

    public static (ModelConfig Config, TensorNames Names) Read(GgufFile file)
    {
        GgufMetadata m = file.Metadata;
        string arch = m.Architecture;
        ModelFormatException Wrong(string reason) => new(file.Path, reason);
        if (arch is not ("llama" or "qwen2" or "bamboo") || (arch == "bamboo" && !file.IsPowerInfer))
            throw Wrong($"architecture {arch} is not supported as GGUF; supported: {Supported}. The safetensors checkpoint of the model may be");
        int Size(string key, int most) => m.RequireInt32($"{arch}.{key}") is var n && n >= 1 && n <= most ? n : throw Wrong($"metadata {arch}.{key} is {n}; a whole number from 1 to {most} is expected");
        int SizeOr(string key, int most, int absent) => m.Has($"{arch}.{key}") ? Size(key, most) : absent;

        int hidden = Size("embedding_length", 1 << 18), layers = Size("block_count", 1 << 14), heads = Size("attention.head_count", 1 << 16);
        if (hidden % heads != 0 && !m.Has($"{arch}.attention.key_length")) throw Wrong($"{arch}.embedding_length {hidden} does not divide among {heads} heads");
        int headDim = SizeOr("attention.key_length", 1 << 16, hidden / heads), kv = SizeOr("attention.head_count_kv", 1 << 16, heads);
        if (SizeOr("attention.value_length", 1 << 16, headDim) != headDim) throw Wrong($"{arch}.attention.value_length differs from key_length, which is not supported");
        if (heads % kv != 0) throw Wrong($"{heads} attention heads do not divide among {kv} key/value heads");
        if (headDim % 2 != 0) throw Wrong($"rotary positions need an even head size, not {headDim}");
        float eps = m.RequireFloat32($"{arch}.attention.layer_norm_rms_epsilon");
        if (!float.IsFinite(eps) || eps < 0) throw Wrong($"metadata {arch}.attention.layer_norm_rms_epsilon is {eps}");
        GgufTensor embedding = file.Require("token_embd.weight");
        if (embedding.Dims.Count != 2 || embedding.Rows > 1 << 24) throw Wrong($"tensor token_embd.weight is {embedding.DimsText}; a matrix is expected");
        int vocabulary = (int)embedding.Rows, positions = Size("context_length", 1 << 24);
        int ffn = Size("feed_forward_length", 1 << 24);
        int experts = m.Int32($"{arch}.expert_count") ?? 0;
        if (experts is < 0 or > 1 << 12) throw Wrong($"metadata {arch}.expert_count is {experts}");

        (Activation activation, float parameter) = Activate(m, file, arch, Wrong);
        var config = new ModelConfig
        {
            Architecture = experts > 0 ? "mixtral" : arch,
            VocabSize = vocabulary,
            HiddenSize = hidden,
            Layers = layers,
            Heads = heads,
            KvHeads = kv,
            HeadDim = headDim,
            FfnSize = ffn,
            MaxPositions = positions,
            Norm = NormKind.Rms,
            NormEps = eps,
            Positions = PositionKind.Rope,
            Activation = activation,
            ActivationParameter = parameter,
            Gated = true,
            AttentionBias = file.Tensors.ContainsKey("blk.0.attn_q.bias"),
            OutputBias = file.Tensors.ContainsKey("blk.0.attn_output.bias"),
            Experts = experts == 0 ? null : new ExpertConfig
            {
                Count = experts,
                Active = Math.Min(Size("expert_used_count", 1 << 12), experts),
                Size = SizeOr("expert_feed_forward_length", 1 << 22, ffn),
                Normalised = true,
            },
            TiedHead = !file.Tensors.ContainsKey("output.weight"),
            BosToken = Id(m, "bos", vocabulary),
            EosTokens = [.. new[] { Id(m, "eos", vocabulary), Id(m, "eot", vocabulary) }.OfType<int>().Distinct()],
        };
        if (config.OutputBias == config.AttentionBias) config = config with { OutputBias = null };
        int? window = m.Int32($"{arch}.attention.sliding_window");
        if (window is > 0 && window < positions)
            config = config with { SlidingWindow = window.Value, LayerTraits = [.. Enumerable.Repeat(LayerTraits.Sliding, layers)] };
        RopeConfig rope = Rope(m, file, arch, headDim, positions, Wrong);
        config = config with { RopeTheta = rope.Theta, Rope = rope is { Scaling: RopeScaling.None, Dims: 0 } ? null : rope };
        // llama.cpp turns neighbours and permutes the rows of a Llama for it; Qwen 2 keeps halves.
        TensorNames names = TensorNames.Gguf with { Rotation = arch == "qwen2" ? RotationOrder.Halves : RotationOrder.Neighbours };
        if (file.IsPowerInfer) names = names with { Down = "ffn_down_t", DownByNeuron = true };
        return (config, names);
    }

    /// <summary>The tokenizer, or null where the file brings none.</summary>
    public static VocabularySource? Vocabulary(GgufMetadata m)
    {
        if (m.String("tokenizer.ggml.model") is not { } model || m.Tokens is not { } tokens) return null;
        int? Token(string name) => m.Int32($"tokenizer.ggml.{name}_token_id");
        return new VocabularySource
        {
            Model = model,
            Pre = m.String("tokenizer.ggml.pre"),
            Name = m.String("general.name"),
            Tokens = tokens,
            Scores = m.Scores ?? [],
            TokenTypes = m.TokenTypes ?? [],
            Merges = m.Merges ?? [],
            Bos = Token("bos"),
            Eos = Token("eos"),
            Eot = Token("eot"),
            Unknown = Token("unknown"),
            Padding = Token("padding"),
            AddBos = m.Bool("tokenizer.ggml.add_bos_token"),
            AddEos = m.Bool("tokenizer.ggml.add_eos_token"),
            AddSpacePrefix = m.Bool("tokenizer.ggml.add_space_prefix"),
            ChatTemplate = m.String("tokenizer.chat_template"),
        };
    }

    /// <summary>llama.cpp knows SiLU only for these; a private key says otherwise, and PowerInfer's files are ReLU by nature.</summary>
    private static (Activation, float) Activate(GgufMetadata m, GgufFile file, string arch, Func<string, ModelFormatException> wrong)
    {
        if (arch == "bamboo") return (Activation.DRelu, 0);
        string name = m.String($"{arch}.hidden_activation") ?? (file.IsPowerInfer ? "relu" : "silu");
        return name switch
        {
            "relu" => (Activation.Relu, 0),
            "silu" => (Activation.Silu, 0),
            "drelu" => (Activation.DRelu, 0),
            "fatrelu" when m.Float32($"{arch}.hidden_activation_threshold") is { } threshold && float.IsFinite(threshold) && threshold >= 0 => (Activation.FatRelu, threshold),
            "fatrelu" => throw wrong($"hidden_activation \"fatrelu\" needs a threshold of at least 0 (metadata {arch}.hidden_activation_threshold)"),
            _ => throw wrong($"hidden_activation \"{name}\" is not supported; supported: relu, silu, drelu, fatrelu"),
        };
    }

    private static RopeConfig Rope(GgufMetadata m, GgufFile file, string arch, int headDim, int positions, Func<string, ModelFormatException> wrong)
    {
        double theta = m.Float32($"{arch}.rope.freq_base") ?? 10000;
        int dims = m.Int32($"{arch}.rope.dimension_count") ?? headDim;
        if (dims < 2 || dims > headDim || dims % 2 != 0) throw wrong($"metadata {arch}.rope.dimension_count is {dims} where a head has {headDim} numbers");
        if (!double.IsFinite(theta) || theta <= 0) throw wrong($"metadata {arch}.rope.freq_base is {theta}");
        var rope = new RopeConfig { Theta = theta, Dims = dims == headDim ? 0 : dims };
        if (file.Tensors.ContainsKey("rope_freqs.weight"))
        {
            // Llama 3: the scaling comes as a divisor for each pair.
            float[] divisors = new float[dims / 2];
            file.ReadRows(file.Require("rope_freqs.weight", dims / 2), 0, 1, divisors);
            if (divisors.Any(static f => !float.IsFinite(f) || f <= 0)) throw wrong("tensor rope_freqs.weight holds divisors that are not above 0");
            double[] all = [.. divisors.Select(static f => (double)f)];
            return rope with { Scaling = RopeScaling.LongRope, OriginalPositions = positions, ShortFactors = all, LongFactors = all };
        }
        string? scaling = m.String($"{arch}.rope.scaling.type");
        float factor = m.Float32($"{arch}.rope.scaling.factor") ?? m.Float32($"{arch}.rope.scale_linear") ?? 1;
        if (!float.IsFinite(factor) || factor <= 0) throw wrong($"the factor of rope scaling is {factor}");
        switch (scaling)
        {
            case null or "none" when factor == 1:
                return rope;
            case null or "linear":
                return factor == 1 ? rope : rope with { Scaling = RopeScaling.Linear, Factor = factor };
            case "yarn":
                return rope with
                {
                    Scaling = RopeScaling.Yarn,
                    Factor = factor,
                    OriginalPositions = m.Int32($"{arch}.rope.scaling.original_context_length") ?? positions,
                    AttentionFactor = factor <= 1 ? 1 : 0.1 * Math.Log(factor) + 1,
                };
            default:
                throw wrong($"rope scaling \"{scaling}\" is not supported; supported: none, linear, yarn");
        }
    }

    private static int? Id(GgufMetadata m, string name, int vocabulary) => m.Int32($"tokenizer.ggml.{name}_token_id") is { } id && (uint)id < (uint)vocabulary ? id : null;
}
