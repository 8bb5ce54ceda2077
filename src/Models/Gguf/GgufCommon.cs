using System.Globalization;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Gguf;

/// <summary>What the metadata of all architectures have in common, key by key. What depends on tensors being there or not (biases, a head of its own) is read off the first layer.</summary>
internal static class GgufCommon
{
    /// <summary>The keys that every architecture spells alike; architectures change what is different. RMSNorm, rotary positions, gated SiLU.</summary>
    public static ModelConfig Common(this GgufKeys k, string family, NormKind norm = NormKind.Rms, (int Key, int Value)? head = null)
    {
        int hidden = k.Size("embedding_length", 1 << 18), layers = k.Size("block_count", 1 << 14), heads = k.Size("attention.head_count", 1 << 16);
        if (hidden % heads != 0 && !k.Has("attention.key_length")) throw k.Wrong($"{k.Architecture}.embedding_length {hidden} does not divide among {heads} heads");
        int headDim = head?.Key ?? k.Size("attention.key_length", 1 << 16, absent: hidden / heads), kv = k.Size("attention.head_count_kv", 1 << 16, absent: heads);
        k.Refuse(head == null && k.Size("attention.value_length", 1 << 16, absent: headDim) != headDim, "attention.value_length", "the same as key_length");
        if (heads % kv != 0) throw k.Wrong($"{heads} attention heads do not divide among {kv} key/value heads");
        if (headDim % 2 != 0) throw k.Wrong($"rotary positions need an even head size, not {headDim}");
        k.Refuse(k.Flag("attention.causal") == false, "attention.causal", "true");
        GgufTensor embedding = k.Tensor("token_embd.weight");
        if (embedding.Dims.Count != 2 || embedding.Rows > 1 << 24) throw k.Wrong($"tensor token_embd.weight is {embedding.DimsText}; a matrix is expected");
        int vocabulary = (int)embedding.Rows, positions = k.Size("context_length", 1 << 24);
        RopeConfig rope = k.Rope(headDim, positions);
        bool bias = k.HasTensor("blk.0.attn_q.bias") || k.HasTensor("blk.0.attn_qkv.bias"), outputBias = k.HasTensor("blk.0.attn_output.bias");
        return new ModelConfig
        {
            Architecture = family,
            VocabSize = vocabulary,
            HiddenSize = hidden,
            Layers = layers,
            Heads = heads,
            KvHeads = kv,
            HeadDim = headDim,
            ValueDim = head?.Value ?? 0,
            FfnSize = k.Size("feed_forward_length", 1 << 24),
            MaxPositions = positions,
            Norm = norm,
            NormEps = (float)k.Number(norm == NormKind.Rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"),
            NormBias = norm == NormKind.Rms || k.HasTensor("output_norm.bias"),
            Positions = PositionKind.Rope,
            RopeTheta = rope.Theta,
            Rope = rope is { Scaling: RopeScaling.None, Dims: 0 } ? null : rope,
            Activation = Activation.Silu,
            Gated = true,
            AttentionBias = bias,
            OutputBias = outputBias == bias ? null : outputBias,
            FfnBias = k.HasTensor("blk.0.ffn_up.bias") || k.HasTensor("blk.0.ffn_up_exps.bias"),
            TiedHead = !k.HasTensor("output.weight"),
            HeadBias = k.HasTensor("output.bias"),
            BosToken = k.Token("bos", vocabulary),
            EosTokens = [.. new[] { k.Token("eos", vocabulary), k.Token("eot", vocabulary) }.OfType<int>().Distinct()],
        };
    }

    /// <summary>Names that hold for all architectures: one fused matrix for queries, keys and values, or three.</summary>
    public static TensorNames Names(this GgufKeys k, RotationOrder rotation = RotationOrder.Halves) =>
        TensorNames.Gguf with { Rotation = rotation, Qkv = k.HasTensor("blk.0.attn_qkv.weight") ? "attn_qkv" : null };

    /// <summary>All layers slide, where there is a window that a sequence can outgrow.</summary>
    public static ModelConfig Windows(this ModelConfig c, GgufKeys k) =>
        k.Whole("attention.sliding_window") is { } window && window > 0 && window < c.MaxPositions ? c.Slide(window, GgufKeys.EachBut(0, c.Layers)) : c;

    /// <summary>Layers slide as the file's pattern says, else all but the last of each <paramref name="period"/>; a base of their own turns them where there is one.</summary>
    public static ModelConfig Windows(this ModelConfig c, GgufKeys k, int period, int? absent = null)
    {
        int window = k.Whole("attention.sliding_window") ?? absent ?? 0;
        bool[] slides = k.Pattern("attention.sliding_window_pattern", c.Layers) ?? GgufKeys.EachBut(period, c.Layers);
        double theta = k.Number("rope.freq_base_swa", c.RopeTheta);
        if (window == 0 || !slides.Contains(true)) return c;
        return c.Slide(window, slides) with { SlidingRope = theta == c.RopeTheta ? null : (c.Rope ?? new RopeConfig()) with { Theta = theta } };
    }

    private static ModelConfig Slide(this ModelConfig c, int window, bool[] slides) =>
        c with { SlidingWindow = window, LayerTraits = [.. slides.Select(static s => s ? LayerTraits.Sliding : LayerTraits.None)] };

    /// <summary>
    /// A router and its experts. What scores are, and whether the chosen weights are scaled to sum 1, is a matter of the architecture; a file may only agree, but where that is null. Which layers are
    /// dense the keys say; biases and the shared expert are read off the first layer of experts.
    /// </summary>
    public static ModelConfig Experts(this ModelConfig c, GgufKeys k, int size, bool? normalised, RouterScore score = RouterScore.Softmax)
    {
        int count = k.Size("expert_count", 1 << 12), active = k.Size("expert_used_count", 1 << 12);
        if (active > count) throw k.Wrong($"{active} experts a token of {count}");
        int function = k.Whole("expert_gating_func") ?? 0;
        k.Refuse(function > 2, "expert_gating_func", "1 (softmax), 2 (sigmoid)");
        k.Refuse(normalised != null && function > 0 && (RouterScore)(function - 1) != score, "expert_gating_func", score == RouterScore.Softmax ? "1 (softmax)" : "2 (sigmoid)");
        k.Refuse(k.Flag("expert_weights_norm") is { } norm && norm != (normalised ?? norm), "expert_weights_norm", normalised == true ? "true" : "false");
        (int groups, int used) = (k.Whole("expert_group_count") ?? 0, k.Whole("expert_group_used_count") ?? 0);
        if (groups <= 1 || used == 0 || used >= groups) (groups, used) = (0, 0);
        else if (count % groups != 0 || active > used * (count / groups)) throw k.Wrong($"{used} of {groups} groups (expert_group_used_count, expert_group_count) do not give {active} of {count} experts");
        int dense = k.Whole("leading_dense_block_count") ?? 0, step = k.Size("interleave_moe_layer_step", 1 << 14, absent: 1);
        bool[] isDense = [.. Enumerable.Range(0, c.Layers).Select(i => i < dense || (i + 1) % step != 0)];
        int first = Array.IndexOf(isDense, false);
        if (first < 0) throw k.Wrong($"metadata {k.Architecture}.leading_dense_block_count leaves none of {c.Layers} layers with experts");
        string layer = $"blk.{first}.";
        long shared = k.HasTensor(layer + "ffn_up_shexp.weight") ? k.Tensor(layer + "ffn_up_shexp.weight").Rows : 0;
        // How many experts were joined and how wide they were together: the tensor says it.
        if (shared > 0) _ = (k.Whole("expert_shared_count"), k.Whole("expert_shared_feed_forward_length"));
        double scale = k.Factor("expert_weights_scale", 1);
        k.Refuse(normalised != null && scale != 1, "expert_weights_scale", "1");
        return c with
        {
            Experts = new ExpertConfig
            {
                Count = count,
                Active = active,
                Size = size,
                Normalised = normalised ?? k.Flag("expert_weights_norm") ?? false,
                RouterBias = k.HasTensor(layer + "ffn_gate_inp.bias"),
                Score = function > 0 ? (RouterScore)(function - 1) : score,
                Groups = groups,
                UsedGroups = used,
                // No key says it: those who choose by softmax take a group's best, those by sigmoids its two best.
                GroupBest = groups == 0 ? 0 : (function > 0 ? (RouterScore)(function - 1) : score) == RouterScore.Softmax ? 1 : Math.Min(2, count / groups),
                ChoiceBias = k.HasTensor(layer + "exp_probs_b.bias"),
                Scale = scale == 1 ? null : (float)scale,
                SharedSize = (int)Math.Min(shared, 1 << 22),
                SharedGate = shared > 0 && k.HasTensor(layer + "ffn_gate_inp_shexp.weight"),
            },
            LayerTraits = isDense.Contains(true) ? [.. isDense.Select((d, i) => (i < c.LayerTraits.Count ? c.LayerTraits[i] : LayerTraits.None) | (d ? LayerTraits.Dense : LayerTraits.None))] : c.LayerTraits,
        };
    }

    private static RopeConfig Rope(this GgufKeys k, int headDim, int positions)
    {
        double theta = k.Number("rope.freq_base", 10000), factor = k.Factor("rope.scaling.factor", k.Factor("rope.scale_linear", 1));
        int dims = k.Whole("rope.dimension_count") ?? headDim, original = k.Size("rope.scaling.original_context_length", 1 << 24, absent: positions);
        if (dims < 2 || dims > headDim || dims % 2 != 0) throw k.Wrong($"metadata {k.Architecture}.rope.dimension_count is {dims} where a head has {headDim} numbers");
        var rope = new RopeConfig { Theta = theta, Dims = dims == headDim ? 0 : dims };
        string? scaling = k.Text("rope.scaling.type");
        double attention = k.Factor("rope.scaling.attn_factor", 1), mscale = factor <= 1 ? 1 : 0.1 * Math.Log(factor) + 1;
        // Writers may set these without yarn too, where they mean nothing; -1 is llama.cpp's word for its default.
        double fast = k.Factor("rope.scaling.yarn_beta_fast", 32), slow = k.Factor("rope.scaling.yarn_beta_slow", 1), said = k.Factor("rope.scaling.yarn_attn_factor", 1);
        float? mix = k.Float("rope.scaling.yarn_ext_factor");
        if (k.HasTensor("rope_freqs.weight"))
        {
            // Llama 3: the scaling comes as a divisor for each pair.
            double[] all = k.Divisors("rope_freqs.weight", dims / 2);
            return rope with { Scaling = RopeScaling.LongRope, OriginalPositions = positions, ShortFactors = all, LongFactors = all };
        }
        if (k.HasTensor("rope_factors_long.weight"))
        {
            double[] shorts = k.Divisors("rope_factors_short.weight", dims / 2), longs = k.Divisors("rope_factors_long.weight", dims / 2);
            return rope with { Scaling = RopeScaling.LongRope, Factor = (double)positions / original, OriginalPositions = original, ShortFactors = shorts, LongFactors = longs, AttentionFactor = attention };
        }
        k.Refuse(attention != 1, "rope.scaling.attn_factor", "1 where there are no rope_factors_long.weight");
        switch (scaling)
        {
            case null or "linear":
                return factor == 1 ? rope : rope with { Scaling = RopeScaling.Linear, Factor = factor };
            case "none":
                return rope;
            case "yarn":
                k.Refuse(mix is not (null or 1 or -1), "rope.scaling.yarn_ext_factor", "1");
                k.Refuse(said != 1 && Math.Abs(said - mscale) > 1e-5, "rope.scaling.yarn_attn_factor", string.Create(CultureInfo.InvariantCulture, $"1, or {mscale:0.#####} that follows from the factor"));
                return rope with { Scaling = RopeScaling.Yarn, Factor = factor, OriginalPositions = original, BetaFast = fast, BetaSlow = slow, AttentionFactor = mscale };
            default:
                throw k.Wrong($"rope scaling \"{scaling}\" is not supported; supported: none, linear, yarn, longrope with its factors");
        }
    }
}
