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
}
