using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>Llama 1-2 and what is shaped like it, ReLU variants (ReLULLaMA) included: RMSNorm, rotary halves, grouped-query attention, gated feed-forward.</summary>
internal sealed class LlamaFamily : Family
{
    public override string Architecture => "LlamaForCausalLM";
    public override string ModelType => "llama";
    public override IReadOnlyList<string> Prefixes => ["model.", ""];
    public override string Embedding => "embed_tokens.weight";

    public override ModelConfig ReadConfig(ConfigJson json)
    {
        string act = json.Text("hidden_act") ?? "silu";
        Refuse(json, act is not ("relu" or "silu"), $"hidden_act \"{act}\"", "relu, silu");
        // Version 5 keeps everything about rotation in one object, earlier ones in two keys; version 5 also reads the old keys.
        ConfigJson? rope = json.Object("rope_parameters") ?? json.Object("rope_scaling");
        string scaling = rope?.Text("rope_type") ?? rope?.Text("type") ?? "default";
        Refuse(json, scaling != "default", $"rope scaling \"{scaling}\"", "default");
        double partial = rope?.Number("partial_rotary_factor", 1) ?? 1;
        Refuse(json, partial != 1 || json.Number("partial_rotary_factor", 1) != 1, "partial_rotary_factor other than 1", "1");
        int heads = json.Size("num_attention_heads", 1 << 16);
        int hidden = json.Size("hidden_size", 1 << 18);
        if (!json.Has("head_dim") && hidden % heads != 0)
            throw json.Wrong($"hidden_size {hidden} does not divide among {heads} heads, and there is no head_dim");
        int positions = json.Size("max_position_embeddings", 1 << 30, absent: 2048);
        Refuse(json, json.Has("sliding_window") && json.Flag("use_sliding_window", true) && json.Size("sliding_window", int.MaxValue) < positions,
            "sliding_window", "full attention");
        string? other = json.Texts("layer_types").FirstOrDefault(t => t != "full_attention");
        Refuse(json, other != null, $"layer type \"{other}\"", "full_attention");
        return new ModelConfig
        {
            Architecture = ModelType,
            VocabSize = json.Size("vocab_size", 1 << 24),
            HiddenSize = hidden,
            Layers = json.Size("num_hidden_layers", 1 << 14),
            Heads = heads,
            KvHeads = json.Size("num_key_value_heads", 1 << 16, absent: heads),
            HeadDim = json.Size("head_dim", 1 << 16, absent: hidden / heads),
            FfnSize = json.Size("intermediate_size", 1 << 24),
            MaxPositions = positions,
            Norm = NormKind.Rms,
            NormEps = (float)json.Number("rms_norm_eps", 1e-6),
            Positions = PositionKind.Rope,
            RopeTheta = rope is { } r && r.Has("rope_theta") ? r.Number("rope_theta", 10000) : json.Number("rope_theta", 10000),
            Activation = act == "relu" ? Activation.Relu : Activation.Silu,
            Gated = true,
            AttentionBias = json.Flag("attention_bias", false),
            FfnBias = json.Flag("mlp_bias", false),
            TiedHead = json.Flag("tie_word_embeddings", false),
        };
    }

    public override IEnumerable<TensorMap> Tensors(ModelConfig c, string prefix)
    {
        int d = c.HiddenSize, q = c.Heads * c.HeadDim, kv = c.KvHeads * c.HeadDim;
        yield return One("embed", prefix + Embedding, c.VocabSize, d);
        yield return Vector("final_norm.weight", prefix + "norm.weight", d);
        if (!c.TiedHead) yield return One("head", "lm_head.weight", c.VocabSize, d);
        for (int i = 0; i < c.Layers; i++)
        {
            string o = $"layers.{i}.", s = $"{prefix}layers.{i}.", a = s + "self_attn.", m = s + "mlp.";
            yield return Vector(o + "attn_norm.weight", s + "input_layernorm.weight", d);
            yield return Vector(o + "ffn_norm.weight", s + "post_attention_layernorm.weight", d);
            yield return new TensorMap(o + "attn.qkv", c.QkvRows, d, [(a + "q_proj.weight", q), (a + "k_proj.weight", kv), (a + "v_proj.weight", kv)]);
            yield return One(o + "attn.o", a + "o_proj.weight", d, q);
            yield return One(o + "ffn.gate", m + "gate_proj.weight", c.FfnSize, d);
            yield return One(o + "ffn.up", m + "up_proj.weight", c.FfnSize, d);
            yield return One(o + "ffn.down", m + "down_proj.weight", c.FfnSize, d) with { Transposed = true };
            if (c.AttentionBias)
            {
                yield return new TensorMap(o + "attn.qkv.bias", 1, c.QkvRows, [(a + "q_proj.bias", q), (a + "k_proj.bias", kv), (a + "v_proj.bias", kv)]) { IsVector = true };
                yield return Vector(o + "attn.o.bias", a + "o_proj.bias", d);
            }
            if (c.FfnBias)
            {
                yield return Vector(o + "ffn.gate.bias", m + "gate_proj.bias", c.FfnSize);
                yield return Vector(o + "ffn.up.bias", m + "up_proj.bias", c.FfnSize);
                yield return Vector(o + "ffn.down.bias", m + "down_proj.bias", d);
            }
        }
    }
}
