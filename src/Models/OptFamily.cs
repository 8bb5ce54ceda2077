using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>OPT, pre-norm: LayerNorm with bias, learned positions (table rows begin at 2), biases everywhere, ungated ReLU.</summary>
internal sealed class OptFamily : Family
{
    /// <summary>The position table has two rows nobody uses before that of position 0.</summary>
    private const int Offset = 2;

    public override string Architecture => "OPTForCausalLM";
    public override string ModelType => "opt";
    public override IReadOnlyList<string> Prefixes => ["model.decoder.", "decoder."];
    public override string Embedding => "embed_tokens.weight";

    public override ModelConfig ReadConfig(ConfigJson json)
    {
        string act = json.Text("activation_function") ?? "relu";
        Refuse(json, act != "relu", $"activation_function \"{act}\"", "relu");
        Refuse(json, !json.Flag("do_layer_norm_before", true), "do_layer_norm_before false", "true");
        Refuse(json, json.Flag("_remove_final_layer_norm", false), "_remove_final_layer_norm true", "false");
        Refuse(json, !json.Flag("layer_norm_elementwise_affine", true), "layer_norm_elementwise_affine false", "true");
        int hidden = json.Size("hidden_size", 1 << 18);
        int embedded = json.Size("word_embed_proj_dim", 1 << 18, absent: hidden);
        Refuse(json, embedded != hidden, $"word_embed_proj_dim {embedded}", $"hidden_size ({hidden})");
        int heads = json.Size("num_attention_heads", 1 << 16);
        if (hidden % heads != 0) throw json.Wrong($"hidden_size {hidden} does not divide among {heads} heads");
        bool bias = json.Flag("enable_bias", true);
        return new ModelConfig
        {
            Architecture = ModelType,
            VocabSize = json.Size("vocab_size", 1 << 24),
            HiddenSize = hidden,
            Layers = json.Size("num_hidden_layers", 1 << 14),
            Heads = heads,
            KvHeads = heads,
            HeadDim = hidden / heads,
            FfnSize = json.Size("ffn_dim", 1 << 24),
            MaxPositions = json.Size("max_position_embeddings", 1 << 24),
            Norm = NormKind.Layer,
            NormEps = 1e-5f, // not in the configuration
            Positions = PositionKind.Learned,
            PositionOffset = Offset,
            Activation = Activation.Relu,
            Gated = false,
            AttentionBias = bias,
            FfnBias = bias,
            TiedHead = json.Flag("tie_word_embeddings", true),
        };
    }

    public override IEnumerable<TensorMap> Tensors(ModelConfig c, string prefix)
    {
        int d = c.HiddenSize;
        yield return One("embed", prefix + Embedding, c.VocabSize, d);
        yield return One("positions", prefix + "embed_positions.weight", Offset + c.MaxPositions, d);
        yield return Vector("final_norm.weight", prefix + "final_layer_norm.weight", d);
        yield return Vector("final_norm.bias", prefix + "final_layer_norm.bias", d);
        if (!c.TiedHead) yield return One("head", "lm_head.weight", c.VocabSize, d);
        for (int i = 0; i < c.Layers; i++)
        {
            string o = $"layers.{i}.", s = $"{prefix}layers.{i}.", a = s + "self_attn.";
            yield return Vector(o + "attn_norm.weight", s + "self_attn_layer_norm.weight", d);
            yield return Vector(o + "attn_norm.bias", s + "self_attn_layer_norm.bias", d);
            yield return Vector(o + "ffn_norm.weight", s + "final_layer_norm.weight", d);
            yield return Vector(o + "ffn_norm.bias", s + "final_layer_norm.bias", d);
            yield return new TensorMap(o + "attn.qkv", c.QkvRows, d, [(a + "q_proj.weight", d), (a + "k_proj.weight", d), (a + "v_proj.weight", d)]);
            yield return One(o + "attn.o", a + "out_proj.weight", d, d);
            yield return One(o + "ffn.up", s + "fc1.weight", c.FfnSize, d);
            yield return One(o + "ffn.down", s + "fc2.weight", c.FfnSize, d) with { Transposed = true };
            if (!c.FfnBias) continue;
            yield return new TensorMap(o + "attn.qkv.bias", 1, c.QkvRows, [(a + "q_proj.bias", d), (a + "k_proj.bias", d), (a + "v_proj.bias", d)]) { IsVector = true };
            yield return Vector(o + "attn.o.bias", a + "out_proj.bias", d);
            yield return Vector(o + "ffn.up.bias", s + "fc1.bias", c.FfnSize);
            yield return Vector(o + "ffn.down.bias", s + "fc2.bias", d);
        }
    }
}
