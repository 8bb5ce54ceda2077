namespace FlashOrleans.Models;

/// <summary>Which numbers of a head the checkpoint turns as a pair.</summary>
internal enum RotationOrder
{
    /// <summary>j and j + rotated/2.</summary>
    Halves,
    /// <summary>2j and 2j + 1.</summary>
    Neighbours,
}

/// <summary>The order of heads in a fused query-key-value matrix.</summary>
internal enum QkvOrder
{
    /// <summary>All queries, all keys, all values.</summary>
    Stacked,
    /// <summary>For each key head: its queries, itself, its values.</summary>
    ByKeyHead,
}

/// <summary>What a family calls its tensors, without <c>.weight</c>; null: it has none. <see cref="TensorMaps"/> turns them into the package's.</summary>
internal sealed record TensorNames
{
    /// <summary>What names may begin with; the first under which the embedding exists is taken.</summary>
    public IReadOnlyList<string> Prefixes { get; init; } = ["model.", ""];
    public string Embedding { get; init; } = "embed_tokens";
    public string? Positions { get; init; }
    public string? ProjectIn { get; init; }
    public string? ProjectOut { get; init; }
    public string FinalNorm { get; init; } = "norm";
    /// <summary>Never prefixed.</summary>
    public string Head { get; init; } = "lm_head";

    /// <summary>Before the number of a layer.</summary>
    public string Layer { get; init; } = "layers";
    public string AttnNorm { get; init; } = "input_layernorm";
    public string? AttnOutNorm { get; init; }
    public string FfnNorm { get; init; } = "post_attention_layernorm";
    public string? FfnOutNorm { get; init; }
    /// <summary>Added to the weights of RMS norms: Gemma stores them less one.</summary>
    public float NormOffset { get; init; }

    public string Q { get; init; } = "self_attn.q_proj";
    public string K { get; init; } = "self_attn.k_proj";
    public string V { get; init; } = "self_attn.v_proj";
    /// <summary>One matrix for all three.</summary>
    public string? Qkv { get; init; }
    public QkvOrder QkvOrder { get; init; }
    public RotationOrder Rotation { get; init; }
    public string QNorm { get; init; } = "self_attn.q_norm";
    public string KNorm { get; init; } = "self_attn.k_norm";
    public string? Sinks { get; init; }
    public string O { get; init; } = "self_attn.o_proj";
    /// <summary>The latent of the queries, its norm, and queries from it.</summary>
    public string QLatent { get; init; } = "self_attn.q_a_proj";
    public string QLatentNorm { get; init; } = "self_attn.q_a_layernorm";
    public string QFromLatent { get; init; } = "self_attn.q_b_proj";
    /// <summary>The latent of keys and values, and behind it the rotated part of every key; its norm.</summary>
    public string KvLatent { get; init; } = "self_attn.kv_a_proj_with_mqa";
    public string KvLatentNorm { get; init; } = "self_attn.kv_a_layernorm";
    /// <summary>For each head the key's own part and the value.</summary>
    public string KvFromLatent { get; init; } = "self_attn.kv_b_proj";
    /// <summary>GGUF: the two of them apart, [heads, latent, key's part] and [heads, value, latent].</summary>
    public string? KeysFromLatent { get; init; }
    public string ValuesFromLatent { get; init; } = "";

    public string Gate { get; init; } = "mlp.gate_proj";
    public string Up { get; init; } = "mlp.up_proj";
    public string Down { get; init; } = "mlp.down_proj";
    /// <summary>One matrix, gate rows first.</summary>
    public string? GateUp { get; init; }
    /// <summary>The down matrix is stored a row for each neuron (PowerInfer).</summary>
    public bool DownByNeuron { get; init; }
    /// <summary>Matrices are stored [inputs, outputs].</summary>
    public bool InputsFirst { get; init; }

    public string? Router { get; init; }
    /// <summary>The bias of the choice, whole.</summary>
    public string? ChoiceBias { get; init; }
    /// <summary>Of the expert that all tokens use.</summary>
    public string SharedGate { get; init; } = "";
    public string SharedUp { get; init; } = "";
    public string SharedDown { get; init; } = "";
    public string? SharedMix { get; init; }
    /// <summary>These vectors are matrices of one row.</summary>
    public bool ChoiceBiasIsRow { get; init; }
    public bool SharedMixIsRow { get; init; }
    /// <summary>Before the three names below; {0} is the expert.</summary>
    public string? Experts { get; init; }
    public string ExpertGate { get; init; } = "";
    public string ExpertUp { get; init; } = "";
    public string ExpertDown { get; init; } = "";
    /// <summary>GGUF: one tensor each for gate, up and down, experts outermost; {0} is which.</summary>
    public string? StackedExperts { get; init; }
    /// <summary>Granite: gate and up in one tensor [experts, 2 n, d], gate rows first; the name of down is <see cref="ExpertDown"/>.</summary>
    public string? PairedExperts { get; init; }
    /// <summary>gpt-oss: gate_up_proj [experts, d, 2 n] with gate and up in turn, down_proj [experts, n, d], and their biases.</summary>
    public string? FusedExperts { get; init; }

    public static TensorNames Llama { get; } = new();
    public static TensorNames Classic { get; } = new();
    /// <summary>Names of a GGUF file.</summary>
    public static TensorNames Gguf { get; } = new()
    {
        Prefixes = [""],
        Embedding = "token_embd",
        Positions = "position_embd",
        FinalNorm = "output_norm",
        Head = "output",
        Layer = "blk",
        AttnNorm = "attn_norm",
        FfnNorm = "ffn_norm",
        Q = "attn_q",
        K = "attn_k",
        V = "attn_v",
        QNorm = "attn_q_norm",
        KNorm = "attn_k_norm",
        O = "attn_output",
        QLatent = "attn_q_a",
        QLatentNorm = "attn_q_a_norm",
        QFromLatent = "attn_q_b",
        KvLatent = "attn_kv_a_mqa",
        KvLatentNorm = "attn_kv_a_norm",
        KvFromLatent = "attn_kv_b",
        ValuesFromLatent = "attn_v_b",
        Gate = "ffn_gate",
        Up = "ffn_up",
        Down = "ffn_down",
        Router = "ffn_gate_inp",
        ChoiceBias = "exp_probs_b.bias",
        StackedExperts = "ffn_{0}_exps",
        SharedGate = "ffn_gate_shexp",
        SharedUp = "ffn_up_shexp",
        SharedDown = "ffn_down_shexp",
        SharedMix = "ffn_gate_inp_shexp",
    };
}
