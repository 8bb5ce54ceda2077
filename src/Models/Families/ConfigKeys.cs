using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>What the configurations of many families have in common, key by key. Everything that would change the computation and is not known here is refused by name.</summary>
internal static class ConfigKeys
{
    /// <summary>Refuses an option that the family knows and this version does not compute.</summary>
    public static void Refuse(this ConfigJson json, bool wrong, string option, string supported)
    {
        if (wrong) throw json.Wrong($"{option} is not supported; supported: {supported}");
    }

    /// <summary>The keys that nearly every configuration spells alike; families change what is different. RMSNorm, rotary positions, gated.</summary>
    public static ModelConfig Common(this ConfigJson json, string architecture, string defaultActivation = "silu", bool tied = false, RopeConfig? rope = null, int? ffn = null)
    {
        (int hidden, int heads) = json.Widths();
        int layers = json.Size("num_hidden_layers", 1 << 14);
        (Activation activation, float parameter) = json.Activation("hidden_act", defaultActivation);
        rope ??= json.Rope(json.HeadDim(hidden, heads));
        return new ModelConfig
        {
            Architecture = architecture,
            VocabSize = json.Size("vocab_size", 1 << 24),
            HiddenSize = hidden,
            Layers = layers,
            Heads = heads,
            KvHeads = json.Size("num_key_value_heads", 1 << 16, absent: heads),
            HeadDim = json.HeadDim(hidden, heads),
            FfnSize = ffn ?? json.Size("intermediate_size", 1 << 24),
            MaxPositions = json.Positions(rope),
            Norm = NormKind.Rms,
            NormEps = (float)json.Number("rms_norm_eps", 1e-6),
            Positions = PositionKind.Rope,
            RopeTheta = rope.Theta,
            Rope = rope is { Scaling: RopeScaling.None, Dims: 0 } ? null : rope,
            Activation = activation,
            ActivationParameter = parameter,
            Gated = true,
            AttentionBias = json.Flag("attention_bias", false),
            FfnBias = json.Flag("mlp_bias", false),
            TiedHead = json.Flag("tie_word_embeddings", tied),
        };
    }

    public static (int Hidden, int Heads) Widths(this ConfigJson json, string hiddenKey = "hidden_size", string headsKey = "num_attention_heads")
    {
        int heads = json.Size(headsKey, 1 << 16), hidden = json.Size(hiddenKey, 1 << 18);
        if (!json.Has("head_dim") && hidden % heads != 0)
            throw json.Wrong($"{hiddenKey} {hidden} does not divide among {heads} heads, and there is no head_dim");
        return (hidden, heads);
    }

    public static int HeadDim(this ConfigJson json, int hidden, int heads) => json.Size("head_dim", 1 << 16, absent: Math.Max(1, hidden / heads));

    /// <summary>Positions a session may use: with dynamic scaling a multiple of what the configuration says.</summary>
    private static int Positions(this ConfigJson json, RopeConfig rope)
    {
        int positions = json.Size("max_position_embeddings", 1 << 30, absent: 2048);
        return rope.Scaling == RopeScaling.Dynamic ? (int)Math.Min(positions * rope.Factor, 1 << 24) : positions;
    }

    /// <summary>Which layers slide: all of them (an old key), or those that <c>layer_types</c> names.</summary>
    public static ModelConfig Windows(this ModelConfig c, ConfigJson json, bool slidesByDefault, int firstByDefault = 0)
    {
        IReadOnlyList<string> types = json.Texts("layer_types");
        string? other = types.FirstOrDefault(t => t is not ("full_attention" or "sliding_attention"));
        json.Refuse(other != null, $"layer type \"{other}\"", "full_attention, sliding_attention");
        if (types.Count > 0 && types.Count != c.Layers) throw json.Wrong($"layer_types has {types.Count} entries for {c.Layers} layers");
        bool uses = json.Flag("use_sliding_window", slidesByDefault) || types.Contains("sliding_attention");
        // Where it is not used it may say anything.
        if (!uses || !json.Has("sliding_window")) return c;
        int w = json.Size("sliding_window", int.MaxValue);
        // Qwen: layers slide from max_window_layers on.
        int first = json.Has("max_window_layers") && json.Whole("max_window_layers") is { } n ? n : firstByDefault;
        LayerTraits[] traits = [.. Enumerable.Range(0, c.Layers).Select(i =>
            (types.Count == 0 ? i >= first : types[i] == "sliding_attention") ? LayerTraits.Sliding : LayerTraits.None)];
        // A window that no sequence outgrows is none.
        return w >= c.MaxPositions || !traits.Contains(LayerTraits.Sliding) ? c : c with { SlidingWindow = w, LayerTraits = traits };
    }

    public static (Activation Activation, float Parameter) Activation(this ConfigJson json, string key, string absent)
    {
        string name = json.Text(key) ?? absent;
        Activation activation = name switch
        {
            "relu" => Flash.Activation.Relu,
            "silu" or "swish" => Flash.Activation.Silu,
            "gelu" => Flash.Activation.Gelu,
            "gelu_new" or "gelu_pytorch_tanh" or "gelu_fast" => Flash.Activation.GeluTanh,
            "relu2" or "relu_squared" => Flash.Activation.Relu2,
            "fatrelu" => Flash.Activation.FatRelu,
            _ => throw json.Wrong($"{key} \"{name}\" is not supported; supported: relu, silu, gelu, gelu_new, gelu_pytorch_tanh, relu2, fatrelu"),
        };
        return (activation, activation == Flash.Activation.FatRelu ? (float)json.Number("hidden_act_param", 0.01) : 0);
    }

    /// <summary>
    /// Version 5 keeps everything about rotation in one object, earlier ones in two keys; version 5 also reads the old keys.
    /// </summary>
    public static RopeConfig Rope(this ConfigJson json, int headDim, ConfigJson? of = null, double partialByDefault = 1, bool mscale = false, double thetaByDefault = 10000)
    {
        ConfigJson? r = of ?? json.Object("rope_parameters") ?? json.Object("rope_scaling");
        string kind = r?.Text("rope_type") ?? r?.Text("type") ?? "default";
        double theta = r is { } own && own.Has("rope_theta") ? own.Number("rope_theta", thetaByDefault) : json.Number("rope_theta", thetaByDefault);
        double partial = r is { } p && p.Has("partial_rotary_factor") ? p.Number("partial_rotary_factor", 1) : json.Number("partial_rotary_factor", partialByDefault);
        int dims = (int)(headDim * partial);
        if (partial > 1 || dims < 2 || dims % 2 != 0) throw json.Wrong($"partial_rotary_factor {partial} of a head of {headDim} leaves {dims} numbers to rotate; an even part of the head is expected");
        var rope = new RopeConfig { Theta = theta, Dims = dims == headDim ? 0 : dims };
        if (kind == "default" || r is not { } s) return rope;
        int positions = json.Size("max_position_embeddings", 1 << 30, absent: 2048);
        int original = s.Size("original_max_position_embeddings", 1 << 30, absent: json.Size("original_max_position_embeddings", 1 << 30, absent: positions));
        double factor = s.Number("factor", kind == "longrope" || kind == "su" ? (double)positions / original : 1);
        rope = rope with { Factor = factor, OriginalPositions = original };
        switch (kind)
        {
            case "linear":
                return rope with { Scaling = RopeScaling.Linear, OriginalPositions = 0 };
            case "llama3":
                return rope with { Scaling = RopeScaling.Llama3, LowFrequencyFactor = s.Number("low_freq_factor", 1), HighFrequencyFactor = s.Number("high_freq_factor", 4) };
            case "dynamic":
                return rope with { Scaling = RopeScaling.Dynamic, OriginalPositions = positions };
            case "yarn":
                json.Refuse(!mscale && (s.Has("mscale") || s.Has("mscale_all_dim")), "rope scaling yarn with mscale", "yarn without it");
                return rope with
                {
                    Scaling = RopeScaling.Yarn,
                    BetaFast = s.Number("beta_fast", 32),
                    BetaSlow = s.Number("beta_slow", 1),
                    Truncate = s.Flag("truncate", true),
                    AttentionFactor = s.Number("attention_factor", factor <= 1 ? 1 : 0.1 * Math.Log(factor) + 1),
                };
            case "longrope" or "su":
                json.Refuse(s.Has("short_mscale") || s.Has("long_mscale"), "rope scaling longrope with mscale", "longrope without it");
                IReadOnlyList<double> shorts = s.Numbers("short_factor"), longs = s.Numbers("long_factor");
                if (shorts.Count != dims / 2 || longs.Count != dims / 2) throw json.Wrong($"short_factor and long_factor have {shorts.Count} and {longs.Count} numbers; {dims / 2} are expected");
                double stretch = (double)positions / original;
                return rope with
                {
                    Scaling = RopeScaling.LongRope,
                    Factor = stretch,
                    ShortFactors = shorts,
                    LongFactors = longs,
                    AttentionFactor = s.Number("attention_factor", stretch <= 1 ? 1 : Math.Sqrt(1 + Math.Log(stretch) / Math.Log(original))),
                };
            default:
                throw json.Wrong($"rope scaling \"{kind}\" is not supported; supported: default, linear, llama3, yarn, dynamic, longrope");
        }
    }
}
