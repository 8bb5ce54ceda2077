using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>Families with LayerNorm and an ungated feed-forward: OPT, GPT-2, Falcon, Phi, Persimmon, StarCoder 2.</summary>
internal static class ClassicFamilies
{
    public static readonly Family[] All =
    [
        new("OPTForCausalLM", "opt", Opt, static _ => TensorNames.Classic with
        {
            Prefixes = ["model.decoder.", "decoder."],
            Positions = "embed_positions",
            ProjectIn = "project_in",
            ProjectOut = "project_out",
            FinalNorm = "final_layer_norm",
            AttnNorm = "self_attn_layer_norm",
            FfnNorm = "final_layer_norm",
            O = "self_attn.out_proj",
            Up = "fc1",
            Down = "fc2",
        }),
        new("GPT2LMHeadModel", "gpt2", Gpt2, static _ => TensorNames.Classic with
        {
            Prefixes = ["transformer.", ""],
            Embedding = "wte",
            Positions = "wpe",
            FinalNorm = "ln_f",
            Layer = "h",
            AttnNorm = "ln_1",
            FfnNorm = "ln_2",
            Qkv = "attn.c_attn",
            O = "attn.c_proj",
            Up = "mlp.c_fc",
            Down = "mlp.c_proj",
            InputsFirst = true,
        }),
        new("FalconForCausalLM", "falcon", Falcon, static c => TensorNames.Classic with
        {
            Prefixes = ["transformer.", ""],
            Embedding = "word_embeddings",
            FinalNorm = "ln_f",
            Layer = "h",
            AttnNorm = c.SharedNorm ? "input_layernorm" : "ln_attn",
            FfnNorm = "ln_mlp",
            Qkv = "self_attention.query_key_value",
            // One key head lies behind all query heads; several lie each behind its own.
            QkvOrder = c.KvHeads == 1 ? QkvOrder.Stacked : QkvOrder.ByKeyHead,
            O = "self_attention.dense",
            Up = "mlp.dense_h_to_4h",
            Down = "mlp.dense_4h_to_h",
        }),
        new("PhiForCausalLM", "phi", Phi, static _ => TensorNames.Classic with { FinalNorm = "final_layernorm", O = "self_attn.dense", Up = "mlp.fc1", Down = "mlp.fc2" }),
        new("PersimmonForCausalLM", "persimmon", Persimmon, static _ => TensorNames.Classic with
        {
            FinalNorm = "final_layernorm",
            Qkv = "self_attn.query_key_value",
            QkvOrder = QkvOrder.ByKeyHead,
            O = "self_attn.dense",
            QNorm = "self_attn.q_layernorm",
            KNorm = "self_attn.k_layernorm",
            Up = "mlp.dense_h_to_4h",
            Down = "mlp.dense_4h_to_h",
        }),
        new("Starcoder2ForCausalLM", "starcoder2", StarCoder2, static _ => TensorNames.Classic with { Up = "mlp.c_fc", Down = "mlp.c_proj" }),
    ];

    /// <summary>Learned positions (table rows begin at 2), ReLU; small ones normalise after the sums, and 350m embeds in a narrower space.</summary>
    private static ModelConfig Opt(ConfigJson json)
    {
        (int hidden, int heads) = json.Widths();
        json.Refuse(!json.Flag("layer_norm_elementwise_affine", true), "layer_norm_elementwise_affine false", "true");
        (Activation activation, _) = json.Activation("activation_function", "relu");
        int embedded = json.Size("word_embed_proj_dim", 1 << 18, absent: hidden);
        bool bias = json.Flag("enable_bias", true), before = json.Flag("do_layer_norm_before", true);
        return Base(json, "opt", hidden, heads) with
        {
            FfnSize = json.Size("ffn_dim", 1 << 24),
            MaxPositions = json.Size("max_position_embeddings", 1 << 24),
            NormEps = 1e-5f, // not in the configuration
            NormPlacement = before ? NormPlacement.Pre : NormPlacement.Post,
            FinalNorm = before && !json.Flag("_remove_final_layer_norm", false),
            Positions = PositionKind.Learned,
            PositionOffset = 2, // the table has two rows nobody uses before that of position 0
            Activation = activation,
            AttentionBias = bias,
            FfnBias = bias,
            EmbeddingSize = embedded == hidden ? 0 : embedded,
            TiedHead = json.Flag("tie_word_embeddings", true),
        };
    }

    private static ModelConfig Gpt2(ConfigJson json)
    {
        (int hidden, int heads) = json.Widths("n_embd", "n_head");
        json.Refuse(!json.Flag("scale_attn_weights", true), "scale_attn_weights false", "true");
        json.Refuse(json.Flag("scale_attn_by_inverse_layer_idx", false), "scale_attn_by_inverse_layer_idx", "false");
        (Activation activation, _) = json.Activation("activation_function", "gelu_new");
        return Base(json, "gpt2", hidden, heads, "n_layer") with
        {
            FfnSize = json.Size("n_inner", 1 << 24, absent: 4 * hidden),
            MaxPositions = json.Size("n_positions", 1 << 24, absent: 1024),
            NormEps = (float)json.Number("layer_norm_epsilon", 1e-5),
            Positions = PositionKind.Learned,
            Activation = activation,
            AttentionBias = true,
            FfnBias = true,
            TiedHead = json.Flag("tie_word_embeddings", true),
        };
    }

    /// <summary>Attention and feed-forward side by side; the new decoder has a norm for each, the old one shares it.</summary>
    private static ModelConfig Falcon(ConfigJson json)
    {
        (int hidden, int heads) = json.Widths();
        json.Refuse(json.Flag("alibi", false), "alibi", "rotary positions");
        bool decoder = json.Flag("new_decoder_architecture", false);
        json.Refuse(!decoder && !json.Flag("parallel_attn", true), "parallel_attn false", "true");
        bool one = decoder && (json.Whole("num_ln_in_parallel_attn") ?? 2) == 1;
        json.Refuse(one, "num_ln_in_parallel_attn 1", "2");
        int kv = decoder ? json.Size("num_kv_heads", 1 << 16, absent: heads) : json.Flag("multi_query", true) ? 1 : heads;
        (Activation activation, _) = json.Activation("activation", "gelu");
        RopeConfig rope = json.Rope(hidden / heads);
        bool bias = json.Flag("bias", false);
        return Base(json, "falcon", hidden, heads) with
        {
            KvHeads = kv,
            FfnSize = json.Size("ffn_hidden_size", 1 << 24, absent: 4 * hidden),
            MaxPositions = json.Size("max_position_embeddings", 1 << 24, absent: 2048),
            NormEps = (float)json.Number("layer_norm_epsilon", 1e-5),
            Parallel = true,
            SharedNorm = !decoder,
            RopeTheta = rope.Theta,
            Rope = rope.Scaling == RopeScaling.None ? null : rope,
            Activation = activation,
            AttentionBias = bias,
            FfnBias = bias,
            TiedHead = json.Flag("tie_word_embeddings", true),
        };
    }

    private static ModelConfig Phi(ConfigJson json)
    {
        json.Refuse(json.Flag("qk_layernorm", false), "qk_layernorm", "false");
        (int hidden, int heads) = json.Widths();
        return json.Common("phi", "gelu_new", rope: json.Rope(json.HeadDim(hidden, heads), partialByDefault: 0.5)) with
        {
            Norm = NormKind.Layer,
            NormEps = (float)json.Number("layer_norm_eps", 1e-5),
            Parallel = true,
            SharedNorm = true,
            Gated = false,
            AttentionBias = true,
            FfnBias = true,
            HeadBias = true,
        };
    }

    private static ModelConfig Persimmon(ConfigJson json)
    {
        (int hidden, int heads) = json.Widths();
        return json.Common("persimmon", "relu2", rope: json.Rope(json.HeadDim(hidden, heads), partialByDefault: 0.5)) with
        {
            Norm = NormKind.Layer,
            NormEps = (float)json.Number("layer_norm_eps", 1e-5),
            Gated = false,
            AttentionBias = true,
            FfnBias = true,
            QkNorm = json.Flag("qk_layernorm", true) ? QkNorm.Head : QkNorm.None,
        };
    }

    private static ModelConfig StarCoder2(ConfigJson json)
    {
        string norm = json.Text("norm_type") ?? "layer_norm", mlp = json.Text("mlp_type") ?? "default";
        json.Refuse(norm != "layer_norm", $"norm_type \"{norm}\"", "layer_norm");
        json.Refuse(mlp != "default", $"mlp_type \"{mlp}\"", "default");
        bool bias = json.Flag("use_bias", true);
        return json.Common("starcoder2", "gelu_pytorch_tanh", tied: true).Windows(json, slidesByDefault: true) with
        {
            Norm = NormKind.Layer,
            NormEps = (float)json.Number("norm_epsilon", 1e-5),
            Gated = false,
            AttentionBias = bias,
            FfnBias = bias,
        };
    }

    private static ModelConfig Base(ConfigJson json, string architecture, int hidden, int heads, string layersKey = "num_hidden_layers") => new()
    {
        Architecture = architecture,
        VocabSize = json.Size("vocab_size", 1 << 24),
        HiddenSize = hidden,
        Layers = json.Size(layersKey, 1 << 14),
        Heads = heads,
        KvHeads = heads,
        HeadDim = hidden / heads,
        FfnSize = 1,
        MaxPositions = 1,
        Norm = NormKind.Layer,
        NormEps = 1e-5f,
        Positions = PositionKind.Rope,
        Activation = Activation.Relu,
        Gated = false,
        TiedHead = true,
    };
}
