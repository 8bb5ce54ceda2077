using FlashOrleans.Flash;

namespace FlashOrleans.Models.Gguf;

/// <summary>Architectures of experts whose routers are more than a softmax, or that share an expert; beside them <see cref="GgufArchitecture"/> has Mixtral, Qwen3-MoE, OLMoE and gpt-oss.</summary>
internal static class GgufExpertArchitectures
{
    public static readonly GgufArchitecture[] All =
    [
        new("qwen2moe", static k => k.Common("qwen2-moe").Experts(k, k.Size("expert_feed_forward_length", 1 << 22), normalised: false), static (k, _) => k.Names()),
        // Experts are as wide as the feed-forward that there is none of; rows of queries and keys are permuted as Llama's.
        new("granitemoe", static k => GgufArchitecture.Multipliers(k, k.Common("granite-moe")).Experts(k, k.Size("feed_forward_length", 1 << 22), normalised: true),
            static (k, _) => k.Names(RotationOrder.Neighbours)),
        new("glm4moe", Glm4, static (k, _) => k.Names() with { FfnNorm = "post_attention_norm" }),
        new("dots1", static k => k.Common("dots1").Sigmoids(k) with { QkNorm = QkNorm.Head }, static (k, _) => k.Names()),
        new("deepseek2", DeepSeek, static (k, _) => k.Names(RotationOrder.Neighbours) with { KeysFromLatent = k.HasTensor("blk.0.attn_k_b.weight") ? "attn_k_b" : null }),
        new("smallthinker", SmallThinker, static (k, _) => k.Names()),
        new("ernie4_5-moe", static k => Ernie(k), static (k, _) => k.Names(RotationOrder.Neighbours)),
    ];

    /// <summary>Queries and keys are normalised in some of the models. Layers behind the last one foretell tokens further on: they are not computed.</summary>
    private static ModelConfig Glm4(GgufKeys k)
    {
        ModelConfig c = k.Common("glm4-moe");
        int more = k.Whole("nextn_predict_layers") ?? 0;
        if (more >= c.Layers) throw k.Wrong($"{more} of {c.Layers} layers foretell tokens further on: none is left");
        for (int i = c.Layers - more; i < c.Layers; i++) k.LeaveOut($"blk.{i}.");
        return (c with { Layers = c.Layers - more }).Sigmoids(k) with { QkNorm = k.HasTensor("blk.0.attn_q_norm.weight") ? QkNorm.Head : QkNorm.None };
    }

    /// <summary>Scores by sigmoid unless the file says softmax; a scale and the norm of the chosen as it says.</summary>
    private static ModelConfig Sigmoids(this ModelConfig c, GgufKeys k)
    {
        c = c.Experts(k, k.Size("expert_feed_forward_length", 1 << 22), normalised: null, RouterScore.Sigmoid);
        return c with { Experts = c.Experts! with { SumEps = 1e-20f } };
    }

    /// <summary>Each so many layers one has experts, from a first one on.</summary>
    private static ModelConfig Ernie(GgufKeys k)
    {
        ModelConfig c = k.Common("ernie4_5-moe").Experts(k, k.Size("expert_feed_forward_length", 1 << 22), normalised: true);
        return c with { Experts = c.Experts! with { SumFloor = 1e-12f } };
    }

    /// <summary>
    /// DeepSeek-V2 and V3: attention by latents. Newer files give the lengths of a head twice, once as llama.cpp computes with latents and once (mla) as the paper has them; older ones have the paper's alone.
    /// The factor of cosines and sines is 1 in llama.cpp whatever the two of the configuration are, which are equal in all published models; the scores' comes as a tenth of the second one.
    /// </summary>
    private static ModelConfig DeepSeek(GgufKeys k)
    {
        string mla = k.Has("attention.key_length_mla") ? "_mla" : "";
        int key = k.Size("attention.key_length" + mla, 1 << 12), value = k.Size("attention.value_length" + mla, 1 << 12), turned = k.Size("rope.dimension_count", 1 << 12);
        _ = (k.Whole("attention.key_length"), k.Whole("attention.value_length"));
        ModelConfig c = k.Common("deepseek", head: (key, value));
        RopeConfig rope = (c.Rope ?? new RopeConfig { Theta = c.RopeTheta }) with { Dims = turned };
        double multiplier = k.Float("rope.scaling.yarn_log_multiplier") ?? 0, stretch = 1;
        if (rope.Scaling == RopeScaling.Yarn)
        {
            k.Refuse(!(multiplier > 0), "rope.scaling.yarn_log_multiplier", "a number above 0 where positions are scaled by yarn");
            stretch = 1 + multiplier * Math.Log(Math.Max(rope.Factor, 1));
            rope = rope with { AttentionFactor = 1 };
        }
        c = c with
        {
            KvHeads = c.Heads,
            Rope = rope,
            AttentionScale = stretch == 1 ? 0 : (float)(stretch * stretch / Math.Sqrt(key)),
            Latent = new LatentConfig { KvRank = k.Size("attention.kv_lora_rank", 1 << 16), RopeDim = turned, QueryRank = k.Whole("attention.q_lora_rank") ?? 0 },
        };
        c = c.Experts(k, k.Size("expert_feed_forward_length", 1 << 22), normalised: null);
        bool sigmoids = c.Experts!.Score == RouterScore.Sigmoid;
        return c with { Architecture = sigmoids ? "deepseek-v3" : "deepseek-v2", Experts = c.Experts with { SumEps = sigmoids ? 1e-20f : 0 } };
    }

    /// <summary>A router that reads what enters the layer, and gates by ReLU. Where there is a window, every fourth layer from the first on sees everything and does not rotate; no key says so.</summary>
    private static ModelConfig SmallThinker(GgufKeys k)
    {
        ModelConfig c = k.Common("smallthinker") with { Activation = Activation.Relu };
        c = c.Experts(k, k.Size("expert_feed_forward_length", 1 << 22, absent: c.FfnSize), normalised: null, RouterScore.Sigmoid);
        c = c with { Experts = c.Experts! with { Early = true, Normalised = true } };
        if (k.Whole("attention.sliding_window") is not > 0) return c;
        int window = k.Size("attention.sliding_window", int.MaxValue);
        // A window that no sequence outgrows is none.
        LayerTraits sees = window < c.MaxPositions ? LayerTraits.Sliding : LayerTraits.None;
        return c with { SlidingWindow = sees == LayerTraits.None ? 0 : window, LayerTraits = [.. Enumerable.Range(0, c.Layers).Select(i => i % 4 == 0 ? LayerTraits.NoRope : sees)] };
    }
}
