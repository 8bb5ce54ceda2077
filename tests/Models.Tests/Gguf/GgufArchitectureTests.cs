using FlashOrleans.Flash;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Gguf;

/// <summary>What the metadata of a GGUF file say, and what is refused: by architecture, key and value. What the supported ones compute is tested against golden logits elsewhere.</summary>
public sealed class GgufArchitectureTests : IDisposable
{
    private readonly string _file = Path.Combine(Directory.CreateTempSubdirectory("flash-gguf-keys-").FullName, "m.gguf");

    public void Dispose() => Directory.Delete(Path.GetDirectoryName(_file)!, recursive: true);

    [Theory]
    [InlineData("gptneox", false)]
    [InlineData("llama4", false)]
    [InlineData("bamboo", false)]
    [InlineData("gemma2", true)]
    public void An_architecture_that_is_not_supported_is_refused_with_those_that_are(string architecture, bool powerInfer)
    {
        string message = Refused(architecture, powerInfer: powerInfer);
        Assert.Contains($"architecture {architecture} is not supported", message, StringComparison.Ordinal);
        Assert.Contains("supported: llama, ", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("llama", "attention.clamp_kqv", 8f, "8")]
    [InlineData("llama", "attention.causal", false, "false")]
    [InlineData("llama", "attention.sliding_window_pattern", 4u, "4")]
    [InlineData("llama", "attention.value_length", 8u, "8")]
    [InlineData("llama", "hidden_activation", "gelu", "\"gelu\"")]
    [InlineData("llama", "logit_scale", 0.5f, "0.5")]
    [InlineData("llama", "rope.scaling.attn_factor", 1.25f, "1.25")]
    [InlineData("llama", "rope.scaling.yarn_log_multiplier", 0.5f, "0.5")]
    [InlineData("qwen3", "pooling_type", 3u, "3")]
    [InlineData("qwen3moe", "expert_gating_func", 2u, "2")]
    [InlineData("qwen3moe", "expert_weights_norm", false, "false")]
    [InlineData("qwen3moe", "expert_weights_scale", 2.5f, "2.5")]
    [InlineData("olmoe", "expert_weights_norm", true, "true")]
    [InlineData("olmoe", "expert_shared_count", 1u, "1")]
    [InlineData("olmo2", "attention.sliding_window", 64u, "64")]
    [InlineData("gemma3", "attn_logit_softcapping", 50f, "50")]
    [InlineData("granite", "rope.scaling.finetuned", false, "false")]
    [InlineData("falcon", "attention.max_alibi_bias", 8f, "8")]
    public void An_option_that_is_not_computed_is_refused_by_its_key_and_value(string architecture, string key, object value, string shown) =>
        Assert.Contains($"metadata {architecture}.{key} is {shown}", Refused(architecture, (key, value)), StringComparison.Ordinal);

    [Fact]
    public void Lists_are_refused_where_the_layers_differ()
    {
        Assert.Contains("metadata llama.feed_forward_length is a list of 2", Refused("llama", ("feed_forward_length", new uint[] { 64, 128 })), StringComparison.Ordinal);
        Assert.Contains("metadata granite.deepstack_mapping is a list of 2", Refused("granite", ("deepstack_mapping", new[] { -1, 1 })), StringComparison.Ordinal);
        Assert.Contains("gemma2.attention.sliding_window_pattern has 3 entries for 2 layers", Refused("gemma2", ("attention.sliding_window_pattern", new[] { true, false, true })), StringComparison.Ordinal);
        Assert.Equal(64, Read("llama", ("feed_forward_length", new uint[] { 64, 64 })).FfnSize);
    }

    [Fact]
    public void An_option_that_is_off_is_none()
    {
        ModelConfig c = Read("llama", ("attention.clamp_kqv", 0f), ("expert_count", 0u), ("expert_shared_count", 0u), ("attention.causal", true), ("use_parallel_residual", false), ("logit_scale", 0f),
            ("rope.dimension_sections", new[] { 0, 0, 0, 0 }), ("rope.scaling.yarn_ext_factor", -1f));
        Assert.Equal((null, 1f), (c.Experts, c.LogitScale));
    }

    [Fact]
    public void A_StableLM_without_a_norm_before_the_feed_forward_is_refused() =>
        Assert.Contains("a parallel residual is not supported for stablelm", Refused("stablelm"), StringComparison.Ordinal);

    /// <summary>d for each head of the 27B models, 1/√(5376/32); the size of a head for the others.</summary>
    [Theory]
    [InlineData("gemma2", 26, 0)]
    [InlineData("gemma2", 46, 16)]
    [InlineData("gemma3", 34, 0)]
    [InlineData("gemma3", 62, 16)]
    public void The_scale_of_a_Gemmas_queries_follows_from_its_size(string architecture, int layers, int scalar) =>
        Assert.Equal(scalar == 0 ? 0 : 1 / MathF.Sqrt(scalar), Read(architecture, ("block_count", (uint)layers), ("attention.key_length", 24u), ("attention.value_length", 24u)).AttentionScale);

    [Fact]
    public void Which_layers_slide_is_the_files_pattern_or_the_architectures()
    {
        static string Slides(ModelConfig c) => string.Concat(Enumerable.Range(0, c.Layers).Select(i => c.Has(i, LayerTraits.Sliding) ? 's' : '-'));
        (string, object) layers = ("block_count", 8u), window = ("attention.sliding_window", 16u);
        ModelConfig gemma3 = Read("gemma3", layers, window);
        Assert.Equal("sssss-ss", Slides(gemma3));
        Assert.Equal(10000, gemma3.SlidingRope!.Theta);
        Assert.Equal("--------", Slides(Read("gemma3", layers)));
        Assert.Equal("ss-ss-ss", Slides(Read("gemma3", layers, window, ("attention.sliding_window_pattern", 3u))));
        Assert.Equal("-s-s--ss", Slides(Read("gemma3", layers, window, ("attention.sliding_window_pattern", new[] { false, true, false, true, false, false, true, true }))));
        ModelConfig gemma2 = Read("gemma2", layers);
        Assert.Equal(("s-s-s-s-", 4096), (Slides(gemma2), gemma2.SlidingWindow));
        Assert.Equal("s-s-s-s-", Slides(Read("gpt-oss", layers, window)));
        Assert.Equal("ssssssss", Slides(Read("phi3", layers, window)));
        Assert.Equal("--------", Slides(Read("phi3", layers, ("attention.sliding_window", 0u))));
        Assert.Equal("--------", Slides(Read("phi3", layers, ("attention.sliding_window", 100_000u))));
    }

    [Fact]
    public void Every_fourth_layer_of_SmolLM3_does_not_rotate()
    {
        ModelConfig c = Read("smollm3", ("block_count", 8u));
        Assert.Equal([3, 7], Enumerable.Range(0, 8).Where(i => c.RopeOf(i) == null));
    }

    [Fact]
    public void Yarn_takes_its_betas_from_the_file_and_its_factor_from_the_scale()
    {
        (string, object)[] keys = [("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4f), ("rope.scaling.original_context_length", 64u), ("rope.scaling.yarn_beta_fast", 8f)];
        RopeConfig rope = Read("qwen3", keys).Rope!;
        Assert.Equal((RopeScaling.Yarn, 64, 8.0, 1.0, true), (rope.Scaling, rope.OriginalPositions, rope.BetaFast, rope.BetaSlow, rope.Truncate));
        Assert.Equal(0.1 * Math.Log(4) + 1, rope.AttentionFactor, 12);
        Assert.False(Read("gpt-oss", keys).Rope!.Truncate);
        Assert.Equal(rope, Read("qwen3", [.. keys, ("rope.scaling.yarn_ext_factor", -1f), ("rope.scaling.yarn_attn_factor", 1f)]).Rope);
        Assert.Contains("metadata qwen3.rope.scaling.yarn_ext_factor is 0,", Refused("qwen3", [.. keys, ("rope.scaling.yarn_ext_factor", 0f)]), StringComparison.Ordinal);
        Assert.Contains("metadata qwen3.rope.scaling.yarn_attn_factor is 1.5, which is not supported; supported: 1, or 1.13863", Refused("qwen3", [.. keys, ("rope.scaling.yarn_attn_factor", 1.5f)]), StringComparison.Ordinal);
    }

    [Fact]
    public void A_scaling_of_positions_that_is_not_known_or_lacks_its_factors_is_refused()
    {
        foreach (string scaling in new[] { "longrope", "dynamic" })
            Assert.Contains($"rope scaling \"{scaling}\" is not supported", Refused("phi3", ("rope.scaling.type", scaling)), StringComparison.Ordinal);
    }

    private string Refused(string architecture, params (string Key, object Value)[] keys) => Refused(architecture, false, keys);

    private string Refused(string architecture, bool powerInfer, params (string Key, object Value)[] keys)
    {
        var e = Assert.Throws<ModelFormatException>(() => Read(architecture, powerInfer, keys));
        Assert.DoesNotContain('\n', e.Message);
        return e.Message;
    }

    private ModelConfig Read(string architecture, params (string Key, object Value)[] keys) => Read(architecture, false, keys);

    /// <summary>The configuration of a file that has an embedding and, where not given, these keys.</summary>
    private ModelConfig Read(string architecture, bool powerInfer, params (string Key, object Value)[] keys)
    {
        var all = new Dictionary<string, object>
        {
            ["context_length"] = 256u,
            ["embedding_length"] = 64u,
            ["block_count"] = 2u,
            ["feed_forward_length"] = 64u,
            ["attention.head_count"] = 4u,
            ["attention.head_count_kv"] = 2u,
            ["attention.layer_norm_rms_epsilon"] = 1e-5f,
            ["attention.layer_norm_epsilon"] = 1e-5f,
        };
        if (architecture is "qwen3moe" or "olmoe" or "gpt-oss") (all["expert_count"], all["expert_used_count"]) = (4u, 2u);
        if (architecture is "qwen3moe" or "gpt-oss") all["expert_feed_forward_length"] = 32u;
        if (architecture == "granite") all["logit_scale"] = 8f;
        foreach ((string key, object value) in keys) all[key] = value;
        var builder = new GgufBuilder { Magic = powerInfer ? "PWRI" : "GGUF" }.Key("general.architecture", architecture);
        foreach ((string key, object value) in all) builder.Key($"{architecture}.{key}", value);
        File.WriteAllBytes(_file, builder.Tensor("token_embd.weight", [64, 16], new float[64 * 16]).Build());
        using GgufFile file = GgufFile.Open(_file);
        return GgufConfig.Read(file).Config;
    }
}
