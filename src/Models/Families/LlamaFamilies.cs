using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// Llama and what is shaped like it: RMSNorm before attention and feed-forward, rotary positions, grouped-query attention, a gated feed-forward. Most families of
/// the last years are Llama and a few lines.
/// </summary>
internal static class LlamaFamilies
{
    public static readonly Family[] All =
    [
        new("LlamaForCausalLM", "llama", static j => j.Common("llama").Windows(j, slidesByDefault: true), Llama),
        new("MistralForCausalLM", "mistral", static j => j.Common("mistral").Windows(j, slidesByDefault: true), Llama),
        new("Qwen2ForCausalLM", "qwen2", static j => j.Common("qwen2").Windows(j, slidesByDefault: false, firstByDefault: 28) with { AttentionBias = true, OutputBias = false }, Llama),
        new("Qwen3ForCausalLM", "qwen3", static j => j.Common("qwen3").Windows(j, slidesByDefault: false, firstByDefault: 28) with { QkNorm = QkNorm.Head }, Llama),
        new("Phi3ForCausalLM", "phi3", static j => j.Common("phi3").Windows(j, slidesByDefault: true), static _ => TensorNames.Llama with
        {
            Qkv = "self_attn.qkv_proj", GateUp = "mlp.gate_up_proj",
        }),
        new("GemmaForCausalLM", "gemma", static j => Gemma(j, "gemma"), Gemma1Names),
        new("Gemma2ForCausalLM", "gemma2", Gemma2, SandwichNames),
        new("Gemma3ForCausalLM", "gemma3_text", Gemma3, SandwichNames),
        new("Olmo2ForCausalLM", "olmo2", static j => j.Common("olmo2") with { NormPlacement = NormPlacement.Output, QkNorm = QkNorm.Whole }, static _ => TensorNames.Llama with
        {
            AttnOutNorm = "post_attention_layernorm", FfnOutNorm = "post_feedforward_layernorm",
        }),
        new("GraniteForCausalLM", "granite", Granite, Llama),
        new("SmolLM3ForCausalLM", "smollm3", SmolLm3, Llama),
        new("CohereForCausalLM", "cohere", Cohere, static _ => TensorNames.Llama with { Rotation = RotationOrder.Neighbours }),
        new("StableLmForCausalLM", "stablelm", StableLm, static _ => TensorNames.Llama),
        new("SparseLlamaForCausalLM", "sparsellama", static j => j.Common("sparsellama", "fatrelu"), Llama) { KnownCode = true },
        new("BambooForCausalLM", "bamboo", Bamboo, Llama) { KnownCode = true },
    ];

    private static TensorNames Llama(ModelConfig c) => TensorNames.Llama;

    private static TensorNames Gemma1Names(ModelConfig c) => TensorNames.Llama with { NormOffset = 1 };

    private static TensorNames SandwichNames(ModelConfig c) => TensorNames.Llama with
    {
        NormOffset = 1,
        AttnOutNorm = "post_attention_layernorm",
        FfnNorm = "pre_feedforward_layernorm",
        FfnOutNorm = "post_feedforward_layernorm",
    };

    /// <summary>Embeddings times √d, tanh gelu whatever the legacy spelling says; the norms' weights are stored less one.</summary>
    private static ModelConfig Gemma(ConfigJson json, string name, RopeConfig? rope = null)
    {
        string act = json.Text("hidden_activation") ?? json.Text("hidden_act") ?? "gelu_pytorch_tanh";
        json.Refuse(act is not ("gelu" or "gelu_pytorch_tanh"), $"hidden_activation \"{act}\"", "gelu_pytorch_tanh");
        json.Refuse(json.Flag("use_bidirectional_attention", false), "use_bidirectional_attention", "causal attention");
        ModelConfig c = json.Common(name, "gelu_pytorch_tanh", tied: true, rope);
        return c with { Activation = Activation.GeluTanh, EmbeddingScale = MathF.Sqrt(c.HiddenSize) };
    }

    private static ModelConfig Gemma2(ConfigJson json) =>
        // Before layer_types every second layer slid, the first one included.
        Sliding(json, Gemma(json, "gemma2"), i => i % 2 == 0) with
        {
            NormPlacement = NormPlacement.Sandwich,
            AttentionScale = 1 / MathF.Sqrt((float)json.Number("query_pre_attn_scalar", 256)),
            AttentionSoftcap = json.IsNull("attn_logit_softcapping") ? 0 : (float)json.Number("attn_logit_softcapping", 50),
            LogitSoftcap = json.IsNull("final_logit_softcapping") ? 0 : (float)json.Number("final_logit_softcapping", 30),
        };

    /// <summary>As Gemma 2 with normalised queries and keys; sliding layers rotate by a base of their own.</summary>
    private static ModelConfig Gemma3(ConfigJson json)
    {
        json.Refuse(json.Has("attn_logit_softcapping") || json.Has("final_logit_softcapping"), "softcapping in gemma3", "none");
        (int hidden, int heads) = json.Widths();
        int headDim = json.HeadDim(hidden, heads);
        // One object for each kind of layer, or flat keys for the global ones and one for the base of the local ones.
        ConfigJson? global = json.Object("rope_parameters")?.Object("full_attention"), local = json.Object("rope_parameters")?.Object("sliding_attention");
        int pattern = json.Size("sliding_window_pattern", 1 << 16, absent: json.Size("_sliding_window_pattern", 1 << 16, absent: 6));
        return Sliding(json, Gemma(json, "gemma3", json.Rope(headDim, global)), i => (i + 1) % pattern != 0) with
        {
            NormPlacement = NormPlacement.Sandwich,
            QkNorm = QkNorm.Head,
            AttentionScale = 1 / MathF.Sqrt((float)json.Number("query_pre_attn_scalar", 256)),
            SlidingRope = local is { } l ? json.Rope(headDim, l) : new RopeConfig { Theta = json.Number("rope_local_base_freq", 10000) },
        };
    }

    private static ModelConfig Sliding(ConfigJson json, ModelConfig c, Func<int, bool> slides)
    {
        if (json.Texts("layer_types").Count > 0) return c.Windows(json, slidesByDefault: true);
        int window = json.Size("sliding_window", int.MaxValue, absent: 4096);
        return c with { SlidingWindow = window, LayerTraits = [.. Enumerable.Range(0, c.Layers).Select(i => slides(i) ? LayerTraits.Sliding : LayerTraits.None)] };
    }

    private static ModelConfig Granite(ConfigJson json) => Multipliers(json, json.Common("granite"));

    /// <summary>Granite's four multipliers.</summary>
    public static ModelConfig Multipliers(ConfigJson json, ModelConfig c) => c with
    {
        EmbeddingScale = (float)json.Number("embedding_multiplier", 1),
        AttentionScale = (float)json.Number("attention_multiplier", 1),
        ResidualScale = (float)json.Number("residual_multiplier", 1),
        LogitScale = (float)(1 / json.Number("logits_scaling", 1)),
    };

    /// <summary>Some layers do not rotate: 1 in no_rope_layers means that a layer does.</summary>
    private static ModelConfig SmolLm3(ConfigJson json)
    {
        ModelConfig c = json.Common("smollm3", tied: true).Windows(json, slidesByDefault: false);
        IReadOnlyList<double> rotates = json.Has("no_rope_layers") ? json.Numbers("no_rope_layers") : [];
        if (rotates.Count > 0 && rotates.Count != c.Layers) throw json.Wrong($"no_rope_layers has {rotates.Count} entries for {c.Layers} layers");
        int interval = json.Size("no_rope_layer_interval", 1 << 16, absent: 4);
        LayerTraits[] traits = [.. Enumerable.Range(0, c.Layers).Select(i =>
            (i < c.LayerTraits.Count ? c.LayerTraits[i] : LayerTraits.None) | ((rotates.Count > 0 ? rotates[i] == 0 : (i + 1) % interval == 0) ? LayerTraits.NoRope : LayerTraits.None))];
        return c with { LayerTraits = traits };
    }

    /// <summary>One LayerNorm without bias feeds attention and feed-forward side by side; neighbours are rotated.</summary>
    private static ModelConfig Cohere(ConfigJson json)
    {
        json.Refuse(json.Flag("use_qk_norm", false), "use_qk_norm", "false");
        return json.Common("cohere", tied: true) with
        {
            Norm = NormKind.Layer,
            NormBias = false,
            NormEps = (float)json.Number("layer_norm_eps", 1e-5),
            Parallel = true,
            SharedNorm = true,
            LogitScale = (float)json.Number("logit_scale", 0.0625),
        };
    }

    private static ModelConfig StableLm(ConfigJson json)
    {
        json.Refuse(json.Flag("qk_layernorm", false), "qk_layernorm", "false");
        json.Refuse(json.Flag("use_parallel_residual", false), "use_parallel_residual", "false");
        (int hidden, int heads) = json.Widths();
        return json.Common("stablelm", rope: json.Rope(json.HeadDim(hidden, heads), partialByDefault: 0.25)) with { Norm = NormKind.Layer, NormEps = (float)json.Number("layer_norm_eps", 1e-5), AttentionBias = json.Flag("use_qkv_bias", false), OutputBias = false };
    }

    /// <summary>Bamboo and TurboSparse: ReLU on gate and up.</summary>
    private static ModelConfig Bamboo(ConfigJson json)
    {
        ModelConfig c = json.Common("bamboo", "relu").Windows(json, slidesByDefault: true);
        json.Refuse(c.Activation != Activation.Relu, $"hidden_act \"{json.Text("hidden_act")}\"", "relu");
        return c with { Activation = Activation.DRelu };
    }
}
