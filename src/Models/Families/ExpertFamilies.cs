using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>Mixtures of experts: a router chooses a few feed-forwards for each token. The rest is Llama. Routers differ in numbers and names alone: <see cref="ExpertConfig"/>.</summary>
internal static class ExpertFamilies
{
    public static readonly Family[] All =
    [
        new("MixtralForCausalLM", "mixtral", Mixtral, static _ => TensorNames.Llama with
        {
            Router = "block_sparse_moe.gate", Experts = "block_sparse_moe.experts.{0}.", ExpertGate = "w1", ExpertUp = "w3", ExpertDown = "w2",
        }),
        new("Qwen3MoeForCausalLM", "qwen3_moe", Qwen3, Named),
        new("OlmoeForCausalLM", "olmoe", Olmoe, Named),
        new("Qwen2MoeForCausalLM", "qwen2_moe", Qwen2, static c => Named(c) with
        {
            SharedGate = "mlp.shared_expert.gate_proj", SharedUp = "mlp.shared_expert.up_proj", SharedDown = "mlp.shared_expert.down_proj", SharedMix = "mlp.shared_expert_gate", SharedMixIsRow = true,
        }),
        new("GraniteMoeForCausalLM", "granitemoe", Granite, static _ => TensorNames.Llama with
        {
            Router = "block_sparse_moe.router.layer", PairedExperts = "block_sparse_moe.input_linear", ExpertDown = "block_sparse_moe.output_linear",
        }),
        new("Glm4MoeForCausalLM", "glm4_moe", Glm4, static c => WithShared(c)),
        new("Dots1ForCausalLM", "dots1", Dots1, static c => WithShared(c)),
        new("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", Ernie, static c => WithShared(c) with
        {
            ChoiceBias = "mlp.moe_statics.e_score_correction_bias", ChoiceBiasIsRow = true, Rotation = RotationOrder.Neighbours,
        }),
        new("DeepseekV2ForCausalLM", "deepseek_v2", DeepSeek2, static c => WithShared(c) with { Rotation = RotationOrder.Neighbours }) { KnownCode = true },
        new("DeepseekV3ForCausalLM", "deepseek_v3", DeepSeek3, static c => WithShared(c) with { Rotation = RotationOrder.Neighbours }) { KnownCode = true },
        new("SmallThinkerForCausalLM", "smallthinker", SmallThinker, static _ => TensorNames.Llama with
        {
            Router = "block_sparse_moe.primary_router", Experts = "block_sparse_moe.experts.{0}.", ExpertGate = "gate", ExpertUp = "up", ExpertDown = "down",
        }) { KnownCode = true },
        new("GptOssForCausalLM", "gpt_oss", GptOss, static _ => TensorNames.Llama with { Router = "mlp.router", Sinks = "self_attn.sinks", FusedExperts = "mlp.experts." }),
    ];

    private static TensorNames Named(ModelConfig c) => TensorNames.Llama with
    {
        Router = "mlp.gate",
        Experts = "mlp.experts.{0}.",
        ExpertGate = "gate_proj",
        ExpertUp = "up_proj",
        ExpertDown = "down_proj",
    };

    private static TensorNames WithShared(ModelConfig c) => Named(c) with
    {
        ChoiceBias = "mlp.gate.e_score_correction_bias",
        SharedGate = "mlp.shared_experts.gate_proj",
        SharedUp = "mlp.shared_experts.up_proj",
        SharedDown = "mlp.shared_experts.down_proj",
    };

    /// <summary>Softmax over the chosen logits: that is the softmax over all, scaled to sum 1.</summary>
    private static ModelConfig Mixtral(ConfigJson json)
    {
        ModelConfig c = json.Common("mixtral").Windows(json, slidesByDefault: true);
        return c with { Experts = Experts(json, json.Size("num_local_experts", 1 << 12, absent: 8), c.FfnSize, normalised: true) };
    }

    private static ModelConfig Qwen3(ConfigJson json)
    {
        ModelConfig c = json.Common("qwen3-moe").Windows(json, slidesByDefault: false, firstByDefault: 28) with { QkNorm = QkNorm.Head };
        int count = json.Size("num_experts", 1 << 12, absent: json.Size("num_local_experts", 1 << 12, absent: 128));
        return EveryStep(json, c with { Experts = Experts(json, count, json.Size("moe_intermediate_size", 1 << 22), json.Flag("norm_topk_prob", false)) });
    }

    /// <summary>Biases on queries, keys and values, and an expert that all tokens use, by a share of its own.</summary>
    private static ModelConfig Qwen2(ConfigJson json)
    {
        ModelConfig c = json.Common("qwen2-moe").Windows(json, slidesByDefault: false, firstByDefault: 28) with { AttentionBias = json.Flag("qkv_bias", true), OutputBias = false };
        ExpertConfig experts = Experts(json, json.Size("num_experts", 1 << 12, absent: 60), json.Size("moe_intermediate_size", 1 << 22, absent: 1408), json.Flag("norm_topk_prob", false), active: 4);
        return EveryStep(json, c with { Experts = experts with { SharedSize = json.Size("shared_expert_intermediate_size", 1 << 22, absent: 5632), SharedGate = true } });
    }

    /// <summary>Qwen: each so many layers one has experts, unless it is named.</summary>
    private static ModelConfig EveryStep(ConfigJson json, ModelConfig c)
    {
        int step = json.Size("decoder_sparse_step", 1 << 14, absent: 1);
        IReadOnlyList<double> dense = json.Numbers("mlp_only_layers");
        return DenseWhere(c, i => dense.Contains(i) || (i + 1) % step != 0);
    }

    private static ModelConfig DenseWhere(ModelConfig c, Func<int, bool> dense)
    {
        LayerTraits[] traits = [.. Enumerable.Range(0, c.Layers).Select(i => (i < c.LayerTraits.Count ? c.LayerTraits[i] : LayerTraits.None) | (dense(i) ? LayerTraits.Dense : LayerTraits.None))];
        return c with { LayerTraits = traits.All(static t => t == LayerTraits.None) ? [] : traits };
    }

    /// <summary>Granite's four multipliers; softmax over the chosen logits.</summary>
    private static ModelConfig Granite(ConfigJson json)
    {
        ModelConfig c = LlamaFamilies.Multipliers(json, json.Common("granite-moe"));
        return c with { Experts = Experts(json, json.Size("num_local_experts", 1 << 12, absent: 8), c.FfnSize, normalised: true) };
    }

    /// <summary>Half of each head is rotated; biases on queries, keys and values alone.</summary>
    private static ModelConfig Glm4(ConfigJson json)
    {
        (int hidden, int heads) = json.Widths();
        ModelConfig c = json.Common("glm4-moe", rope: json.Rope(json.HeadDim(hidden, heads), partialByDefault: 0.5)) with { OutputBias = false, QkNorm = json.Flag("use_qk_norm", false) ? QkNorm.Head : QkNorm.None };
        return SigmoidExperts(json, c, count: 128, active: 8);
    }

    private static ModelConfig Dots1(ConfigJson json) =>
        SigmoidExperts(json, json.Common("dots1").Windows(json, slidesByDefault: true, firstByDefault: 62) with { QkNorm = QkNorm.Head }, count: 128, active: 6);

    /// <summary>What descends from DeepSeek-V3: sigmoids, a bias of the choice, groups by their two best, a scale, shared experts as one; the first layers are dense.</summary>
    private static ModelConfig SigmoidExperts(ConfigJson json, ModelConfig c, int count, int active)
    {
        int size = json.Size("moe_intermediate_size", 1 << 22, absent: 1408);
        ExpertConfig experts = Experts(json, json.Size("n_routed_experts", 1 << 12, absent: count), size, json.Flag("norm_topk_prob", true), active) with
        {
            Score = RouterScore.Sigmoid,
            ChoiceBias = true,
            SumEps = 1e-20f,
            Scale = Scale(json),
            SharedSize = Shared(json, "n_shared_experts", size, absent: 1),
        };
        experts = Grouped(json, experts, best: 2);
        int dense = json.Whole("first_k_dense_replace") ?? 1;
        return DenseWhere(c with { Experts = experts }, i => i < dense);
    }

    /// <summary>
    /// SmallThinker (arXiv 2507.20984): the router reads what enters the layer, so that experts can be fetched while attention computes; gates are ReLU; some layers see a window and rotate, others see
    /// everything and do not.
    /// </summary>
    private static ModelConfig SmallThinker(ConfigJson json)
    {
        json.Refuse(json.Flag("use_qk_norm", false), "use_qk_norm", "false");
        json.Refuse(json.Flag("moe_enable_secondary_experts", false), "moe_enable_secondary_experts", "false");
        json.Refuse(json.Whole("moe_shared_primary_experts") is > 0, "moe_shared_primary_experts", "0");
        json.Refuse(json.Numbers("moe_layer_layout").Contains(0), "moe_layer_layout with dense layers", "experts in every layer");
        int size = json.Size("moe_ffn_hidden_size", 1 << 22, absent: 768);
        (int hidden, int heads) = json.Widths();
        RopeConfig rope = json.Rope(json.HeadDim(hidden, heads), thetaByDefault: 1e6);
        ModelConfig c = json.Common("smallthinker", "relu", tied: true, rope, ffn: size);
        json.Refuse(c.Activation != Activation.Relu, "hidden_act", "relu");
        IReadOnlyList<double> rotates = json.Numbers("rope_layout"), slides = json.Numbers("sliding_window_layout");
        foreach ((string key, int count) in new[] { ("rope_layout", rotates.Count), ("sliding_window_layout", slides.Count) })
            if (count > 0 && count != c.Layers) throw json.Wrong($"{key} has {count} entries for {c.Layers} layers");
        int window = json.Size("sliding_window_size", int.MaxValue, absent: 4096);
        // A window that no sequence outgrows is none.
        bool bounded = slides.Any(static s => s != 0) && window < c.MaxPositions;
        LayerTraits[] traits = [.. Enumerable.Range(0, c.Layers).Select(i =>
            (rotates.Count > 0 && rotates[i] == 0 ? LayerTraits.NoRope : LayerTraits.None) | (bounded && slides[i] != 0 ? LayerTraits.Sliding : LayerTraits.None))];
        ExpertConfig experts = Experts(json, json.Size("moe_num_primary_experts", 1 << 12, absent: 32), size, normalised: true, active: 4, key: "moe_num_active_primary_experts") with
        {
            Score = json.Flag("moe_primary_router_apply_softmax", false) ? RouterScore.Softmax : RouterScore.Sigmoid,
            Early = json.Flag("moe_enable_early_router", true),
        };
        return c with { Experts = experts, SlidingWindow = bounded ? window : 0, LayerTraits = traits.All(static t => t == LayerTraits.None) ? [] : traits };
    }

    /// <summary>Groups of experts where there are several and not all of them are used; <paramref name="best"/>: by how many of its experts a group is judged.</summary>
    private static ExpertConfig Grouped(ConfigJson json, ExpertConfig experts, int best)
    {
        int groups = json.Size("n_group", 1 << 12, absent: 1), used = json.Size("topk_group", 1 << 12, absent: groups);
        if (groups == 1 || used >= groups) return experts;
        if (experts.Count % groups != 0 || experts.Active > used * (experts.Count / groups)) throw json.Wrong($"{used} of {groups} groups (n_group, topk_group) do not give {experts.Active} of {experts.Count} experts");
        return experts with { Groups = groups, UsedGroups = used, GroupBest = Math.Min(best, experts.Count / groups) };
    }

    /// <summary>Attention by latents, choice by softmax: greedy, or in groups by the best of each.</summary>
    private static ModelConfig DeepSeek2(ConfigJson json)
    {
        string method = json.Text("topk_method") ?? "greedy";
        json.Refuse(method is not ("greedy" or "group_limited_greedy"), "topk_method", "greedy, group_limited_greedy");
        json.Refuse((json.Text("scoring_func") ?? "softmax") != "softmax", "scoring_func", "softmax");
        int size = json.Size("moe_intermediate_size", 1 << 22, absent: 1407);
        ModelConfig c = Latents(json, "deepseek-v2");
        ExpertConfig experts = Experts(json, json.Size("n_routed_experts", 1 << 12, absent: 64), size, normalised: false) with
        {
            Scale = Scale(json),
            SharedSize = Shared(json, "n_shared_experts", size, absent: 2),
        };
        // The families' code never divides by the sum, whatever the configuration says.
        json.Refuse(json.Flag("norm_topk_prob", false), "norm_topk_prob", "false");
        int dense = json.Whole("first_k_dense_replace") ?? 0;
        return DenseWhere(c with { Experts = method == "greedy" ? experts : Grouped(json, experts, best: 1) }, i => i < dense);
    }

    /// <summary>Attention by latents, choice by sigmoids and a bias. Layers that foretell further tokens are not among those that the configuration counts.</summary>
    private static ModelConfig DeepSeek3(ConfigJson json)
    {
        json.Refuse((json.Text("topk_method") ?? "noaux_tc") != "noaux_tc", "topk_method", "noaux_tc");
        json.Refuse((json.Text("scoring_func") ?? "sigmoid") != "sigmoid", "scoring_func", "sigmoid");
        json.Refuse(!json.Flag("rope_interleave", true), "rope_interleave", "true");
        return SigmoidExperts(json, Latents(json, "deepseek-v3"), count: 256, active: 8);
    }

    /// <summary>DeepSeek without its experts.</summary>
    private static ModelConfig Latents(ConfigJson json, string architecture)
    {
        json.Refuse(json.Size("moe_layer_freq", 1 << 12, absent: 1) != 1, "moe_layer_freq", "1");
        json.Refuse(json.Flag("attention_bias", false), "attention_bias", "false");
        int turned = json.Size("qk_rope_head_dim", 1 << 12, absent: 64), own = json.Size("qk_nope_head_dim", 1 << 12, absent: 128);
        (RopeConfig rope, double attention) = LatentRope(json, turned);
        ModelConfig c = json.Common(architecture, rope: rope) with
        {
            HeadDim = own + turned,
            ValueDim = json.Size("v_head_dim", 1 << 12, absent: 128),
            Rope = rope with { Dims = turned },
            AttentionScale = attention == 1 ? 0 : (float)(attention * attention / Math.Sqrt(own + turned)),
            Latent = new LatentConfig { KvRank = json.Size("kv_lora_rank", 1 << 16, absent: 512), RopeDim = turned, QueryRank = json.IsNull("q_lora_rank") ? 0 : json.Size("q_lora_rank", 1 << 16, absent: 1536) },
        };
        json.Refuse(c.KvHeads != c.Heads, "num_key_value_heads", "as many as num_attention_heads");
        return c;
    }

    /// <summary>Yarn of DeepSeek stretches the scores by a factor of its own: that of cosines and sines is the quotient of two, the scores' the square of the second.</summary>
    private static (RopeConfig Rope, double Attention) LatentRope(ConfigJson json, int turned)
    {
        ConfigJson? scaling = json.Object("rope_parameters") ?? json.Object("rope_scaling");
        if (scaling is not { } s || (s.Text("rope_type") ?? s.Text("type")) != "yarn") return (json.Rope(turned), 1);
        double factor = s.Number("factor", 1), all = s.Number("mscale_all_dim", 0);
        double Stretch(double mscale) => factor <= 1 ? 1 : 0.1 * mscale * Math.Log(factor) + 1;
        RopeConfig rope = json.Rope(turned, mscale: true);
        return (rope with { AttentionFactor = Stretch(s.Number("mscale", 1)) / Stretch(all) }, Stretch(all));
    }

    private static float? Scale(ConfigJson json) => json.Number("routed_scaling_factor", 1) is var scale && scale != 1 ? (float)scale : null;

    /// <summary>Shared experts are one of their widths together.</summary>
    private static int Shared(ConfigJson json, string key, int size, int absent)
    {
        long neurons = (long)(json.Has(key) ? json.Whole(key)!.Value : json.IsNull(key) ? 0 : absent) * size;
        return neurons <= 1 << 22 ? (int)neurons : throw json.Wrong($"{key} asks for a shared expert of {neurons} neurons");
    }

    /// <summary>Softmax scores; which layers have experts is said by the first, the last, and a step.</summary>
    private static ModelConfig Ernie(ConfigJson json)
    {
        json.Refuse(json.Flag("use_bias", false), "use_bias", "false");
        ModelConfig c = json.Common("ernie4_5-moe", tied: true);
        int size = json.Size("moe_intermediate_size", 1 << 22, absent: 1536), interval = json.Size("moe_layer_interval", 1 << 14, absent: 1);
        int first = json.Whole("moe_layer_start_index") ?? 1, last = json.Find("moe_layer_end_index") is { ValueKind: JsonValueKind.Number } end && end.TryGetInt32(out int n) && n >= 0 ? n : c.Layers - 1;
        ExpertConfig experts = Experts(json, json.Size("moe_num_experts", 1 << 12, absent: 64), size, normalised: true, active: 6, key: "moe_k") with
        {
            ChoiceBias = true,
            SumFloor = (float)json.Number("moe_norm_min", 1e-12),
            SharedSize = Shared(json, "moe_num_shared_experts", size, absent: 2),
        };
        return DenseWhere(c with { Experts = experts }, i => i < first || i > last || (i + 1) % interval != 0);
    }

    private static ModelConfig Olmoe(ConfigJson json)
    {
        json.Refuse(json.Has("clip_qkv"), "clip_qkv", "none");
        ModelConfig c = json.Common("olmoe") with { QkNorm = QkNorm.Whole };
        return c with { Experts = Experts(json, json.Size("num_experts", 1 << 12, absent: json.Size("num_local_experts", 1 << 12, absent: 64)), c.FfnSize, json.Flag("norm_topk_prob", false)) };
    }

    /// <summary>Attention sinks, biases everywhere, sliding and full layers in turn, a clamped gate.</summary>
    private static ModelConfig GptOss(ConfigJson json)
    {
        json.Refuse(json.Number("swiglu_alpha", 1.702) != 1.702, "swiglu_alpha other than 1.702", "1.702");
        ModelConfig c = json.Common("gpt-oss");
        if (json.Texts("layer_types").Count == 0) throw json.Wrong("layer_types is missing");
        return c.Windows(json, slidesByDefault: true) with
        {
            Activation = Activation.ClampedSwiglu,
            ActivationParameter = (float)json.Number("swiglu_limit", 7),
            AttentionBias = json.Flag("attention_bias", true),
            FfnBias = true,
            Sinks = true,
            Experts = Experts(json, json.Size("num_local_experts", 1 << 12, absent: 128), c.FfnSize, normalised: true) with { RouterBias = true },
        };
    }

    private static ExpertConfig Experts(ConfigJson json, int count, int size, bool normalised, int active = 2, string key = "num_experts_per_tok")
    {
        active = json.Size(key, 1 << 12, absent: json.Size("experts_per_token", 1 << 12, absent: active));
        if (active > count) throw json.Wrong($"{active} experts a token of {count}");
        return new ExpertConfig { Count = count, Active = active, Size = size, Normalised = normalised };
    }
}
