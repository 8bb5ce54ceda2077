using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>Mixtures of experts: a router chooses a few feed-forwards for each token. The rest is Llama.</summary>
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

    /// <summary>Softmax over the chosen logits: that is the softmax over all, scaled to sum 1.</summary>
    private static ModelConfig Mixtral(ConfigJson json)
    {
        ModelConfig c = json.Common("mixtral").Windows(json, slidesByDefault: true);
        return c with { Experts = Experts(json, json.Size("num_local_experts", 1 << 12, absent: 8), c.FfnSize, normalised: true) };
    }

    private static ModelConfig Qwen3(ConfigJson json)
    {
        ModelConfig c = json.Common("qwen3-moe").Windows(json, slidesByDefault: false, firstByDefault: 28) with { QkNorm = QkNorm.Head };
        int step = json.Size("decoder_sparse_step", 1 << 14, absent: 1);
        IReadOnlyList<double> dense = json.Numbers("mlp_only_layers");
        LayerTraits[] traits = [.. Enumerable.Range(0, c.Layers).Select(i =>
            (i < c.LayerTraits.Count ? c.LayerTraits[i] : LayerTraits.None) | (dense.Contains(i) || (i + 1) % step != 0 ? LayerTraits.Dense : LayerTraits.None))];
        return c with
        {
            Experts = Experts(json, json.Size("num_experts", 1 << 12, absent: json.Size("num_local_experts", 1 << 12, absent: 128)), json.Size("moe_intermediate_size", 1 << 22), json.Flag("norm_topk_prob", false)),
            LayerTraits = traits.All(t => t == LayerTraits.None) ? [] : traits,
        };
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

    private static ExpertConfig Experts(ConfigJson json, int count, int size, bool normalised)
    {
        int active = json.Size("num_experts_per_tok", 1 << 12, absent: json.Size("experts_per_token", 1 << 12, absent: 2));
        if (active > count) throw json.Wrong($"{active} experts a token of {count}");
        return new ExpertConfig { Count = count, Active = active, Size = size, Normalised = normalised };
    }
}
