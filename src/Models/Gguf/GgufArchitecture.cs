using FlashOrleans.Flash;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// An architecture of GGUF files as data, what a <see cref="Family"/> is for safetensors: how its metadata read, and what its tensors are called. The keys and tensors are those
/// that llama.cpp's converter writes; what neither says (the scale of Gemma 2's queries, which layers of SmolLM 3 rotate) is what the published models of that name compute.
/// </summary>
internal sealed record GgufArchitecture(string Name, Func<GgufKeys, ModelConfig> ReadConfig, Func<GgufKeys, ModelConfig, TensorNames> Names)
{
    private static readonly GgufArchitecture[] s_all =
    [
        new("llama", Llama, static (k, _) => Turned(k)),
        new("bamboo", static k => k.Common("bamboo").Windows(k) with { Activation = Activation.DRelu }, static (k, _) => Turned(k)),
        new("qwen2", static k => k.Common("qwen2").Windows(k), Plain),
        new("qwen3", static k => k.Common("qwen3") with { QkNorm = QkNorm.Head }, Plain),
        new("qwen3moe", static k => k.Common("qwen3-moe").Experts(k, k.Size("expert_feed_forward_length", 1 << 22), normalised: true) with { QkNorm = QkNorm.Head }, Plain),
        new("gemma", static k => Gemma(k, "gemma"), Plain),
        new("gemma2", Gemma2, Sandwich),
        new("gemma3", Gemma3, Sandwich),
        new("phi2", static k => k.Common("phi", NormKind.Layer) with { Parallel = true, SharedNorm = true, Activation = Activation.GeluTanh, Gated = false }, Plain),
        new("phi3", static k => k.Common("phi3").Windows(k), static (k, _) => k.Names() with { GateUp = "ffn_up" }),
        new("falcon", Falcon, static (k, c) => c.SharedNorm ? k.Names() : k.Names() with { AttnNorm = "attn_norm_2", FfnNorm = "attn_norm" }),
        new("gpt2", static k => k.Common("gpt2", NormKind.Layer) with { Positions = PositionKind.Learned, Rope = null, RopeTheta = 10000, Activation = Activation.GeluTanh, Gated = false }, Plain),
        new("starcoder2", static k => k.Common("starcoder2", NormKind.Layer).Windows(k) with { Activation = Activation.GeluTanh, Gated = false }, Plain),
        new("stablelm", StableLm, Plain),
        new("olmo2", static k => k.Common("olmo2") with { NormPlacement = NormPlacement.Output, QkNorm = QkNorm.Whole }, Sandwich),
        new("olmoe", static k => k.Common("olmoe").Experts(k, k.Size("feed_forward_length", 1 << 22), normalised: false) with { QkNorm = QkNorm.Whole }, Plain),
        new("command-r", CommandR, static (k, _) => k.Names(RotationOrder.Neighbours)),
        new("granite", Granite, static (k, _) => Turned(k)),
        new("smollm3", SmolLm3, static (k, _) => Turned(k)),
        new("gpt-oss", GptOss, static (k, _) => k.Names() with { FfnNorm = "post_attention_norm", Sinks = "attn_sinks.weight" }),
        .. GgufExpertArchitectures.All,
    ];

    /// <summary>Names, for messages: one line has to hold them.</summary>
    public static IReadOnlyList<string> Supported => [.. s_all.Select(static a => a.Name)];

    public static GgufArchitecture For(GgufKeys k)
    {
        string supported = string.Join(", ", Supported);
        GgufArchitecture found = s_all.FirstOrDefault(a => a.Name == k.Architecture)
            ?? throw k.Wrong($"architecture {k.Architecture} is not supported as GGUF; supported: {supported}. The safetensors checkpoint of the model may be");
        if (k.IsPowerInfer ? found.Name is not ("llama" or "bamboo") : found.Name == "bamboo")
            throw k.Wrong($"architecture {k.Architecture} is not supported in a {(k.IsPowerInfer ? "PowerInfer" : "GGUF")} file; supported: {(k.IsPowerInfer ? "llama, bamboo" : supported)}");
        return found;
    }

    private static TensorNames Plain(GgufKeys k, ModelConfig c) => k.Names();

    /// <summary>llama.cpp turns neighbours in what descends from Llama, and its converter permutes the rows of queries and keys for it. PowerInfer stores down by neuron.</summary>
    private static TensorNames Turned(GgufKeys k) =>
        k.IsPowerInfer ? k.Names(RotationOrder.Neighbours) with { Down = "ffn_down_t", DownByNeuron = true } : k.Names(RotationOrder.Neighbours);

    private static TensorNames Sandwich(GgufKeys k, ModelConfig c) => k.Names() with { AttnOutNorm = "post_attention_norm", FfnOutNorm = "post_ffw_norm" };

    /// <summary>SiLU unless a private key says otherwise; PowerInfer's files are ReLU by nature. Mixtral is a Llama with experts.</summary>
    private static ModelConfig Llama(GgufKeys k)
    {
        string act = k.Text("hidden_activation") ?? (k.IsPowerInfer ? "relu" : "silu");
        k.Refuse(act is not ("relu" or "silu" or "drelu" or "fatrelu"), "hidden_activation", "relu, silu, drelu, fatrelu");
        ModelConfig c = k.Common("llama").Windows(k) with
        {
            Activation = act switch { "relu" => Activation.Relu, "drelu" => Activation.DRelu, "fatrelu" => Activation.FatRelu, _ => Activation.Silu },
            ActivationParameter = act == "fatrelu" ? (float)k.Number("hidden_activation_threshold") : 0,
        };
        return k.Whole("expert_count") is null or 0 ? c : c.Experts(k, k.Size("expert_feed_forward_length", 1 << 22, absent: c.FfnSize), normalised: true) with { Architecture = "mixtral" };
    }

    /// <summary>Embeddings times √d. The norms' weights are whole: the converter added the one that the checkpoint leaves out.</summary>
    private static ModelConfig Gemma(GgufKeys k, string family)
    {
        ModelConfig c = k.Common(family);
        return c with { Activation = Activation.GeluTanh, EmbeddingScale = MathF.Sqrt(c.HiddenSize) };
    }

    /// <summary>Every second layer slides, the first one included.</summary>
    private static ModelConfig Gemma2(GgufKeys k) => QueryScale(Gemma(k, "gemma2"), largest: 46).Windows(k, period: 2, absent: 4096) with
    {
        NormPlacement = NormPlacement.Sandwich,
        AttentionSoftcap = (float)k.Factor("attn_logit_softcapping", 0),
        LogitSoftcap = (float)k.Factor("final_logit_softcapping", 0),
    };

    /// <summary>Five layers of six slide; those rotate by a base of their own and without scaling.</summary>
    private static ModelConfig Gemma3(GgufKeys k)
    {
        ModelConfig c = QueryScale(Gemma(k, "gemma3"), largest: 62).Windows(k, period: 6) with { NormPlacement = NormPlacement.Sandwich, QkNorm = QkNorm.Head };
        return c with
        {
            LogitSoftcap = (float)k.Factor("final_logit_softcapping", 0),
            SlidingRope = c.SlidingWindow == 0 ? null : new RopeConfig { Theta = k.Number("rope.freq_base_swa", 10000), Dims = c.Rope?.Dims ?? 0 },
        };
    }

    /// <summary>The metadata do not say query_pre_attn_scalar. It is the size of a head but for the 27B models, where it is what d has for each head.</summary>
    private static ModelConfig QueryScale(ModelConfig c, int largest) => c.Layers == largest ? c with { AttentionScale = 1 / MathF.Sqrt(c.HiddenSize / c.Heads) } : c;

    /// <summary>Attention and feed-forward side by side; the new decoder has a norm for each, the old one shares it. Its gelu is the exact one.</summary>
    private static ModelConfig Falcon(GgufKeys k) => k.Common("falcon", NormKind.Layer) with
    {
        Parallel = true,
        SharedNorm = !k.HasTensor("blk.0.attn_norm_2.weight"),
        Activation = Activation.Gelu,
        Gated = false,
    };

    private static ModelConfig StableLm(GgufKeys k)
    {
        // The 12B model has no norm before the feed-forward: its key says so, but also for models that have one.
        if (!k.HasTensor("blk.0.ffn_norm.weight")) throw k.Wrong("tensor blk.0.ffn_norm.weight is missing: a parallel residual is not supported for stablelm");
        return k.Common("stablelm", NormKind.Layer);
    }

    private static ModelConfig CommandR(GgufKeys k) => k.Common("cohere", NormKind.Layer) with { Parallel = true, SharedNorm = true, LogitScale = (float)k.Factor("logit_scale", 1) };

    private static ModelConfig Granite(GgufKeys k) => Multipliers(k, k.Common("granite"));

    /// <summary>Granite's four multipliers; logits are divided by theirs.</summary>
    public static ModelConfig Multipliers(GgufKeys k, ModelConfig c)
    {
        k.Refuse(k.Flag("rope.scaling.finetuned") == false, "rope.scaling.finetuned", "true (rotary positions)");
        return c with
        {
            EmbeddingScale = (float)k.Factor("embedding_scale", 1),
            AttentionScale = (float)k.Factor("attention.scale", 0),
            ResidualScale = (float)k.Factor("residual_scale", 1),
            LogitScale = (float)(1 / k.Number("logit_scale")),
        };
    }

    /// <summary>Every fourth layer does not rotate; no key says so.</summary>
    private static ModelConfig SmolLm3(GgufKeys k)
    {
        ModelConfig c = k.Common("smollm3");
        return c with { LayerTraits = [.. GgufKeys.EachBut(4, c.Layers).Select(static rotates => rotates ? LayerTraits.None : LayerTraits.NoRope)] };
    }

    /// <summary>Attention sinks, sliding and full layers in turn, the first one slides; a gate clamped at 7. Its yarn does not round the range of pairs.</summary>
    private static ModelConfig GptOss(GgufKeys k)
    {
        ModelConfig c = k.Common("gpt-oss");
        c = c with { Rope = c.Rope is { Scaling: RopeScaling.Yarn } yarn ? yarn with { Truncate = false } : c.Rope };
        return c.Windows(k, period: 2).Experts(k, k.Size("expert_feed_forward_length", 1 << 22), normalised: true) with { Activation = Activation.ClampedSwiglu, ActivationParameter = 7, Sinks = true };
    }
}
