using System.Text.Json.Nodes;
using CsCheck;
using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

public sealed class ConfigReaderTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-config").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    public static TheoryData<string> Families => [.. Directory.EnumerateDirectories(TestData.Repo("tests", "data", "golden", "models")).Where(f => File.Exists(Path.Combine(f, "config.v5.json"))).Select(f => Path.GetFileName(f))];

    [Theory, MemberData(nameof(Families))]
    public void Both_config_layouts_say_the_same(string family) =>
        Assert.Equivalent(ConfigReader.Read(TestData.Golden(family)), ConfigReader.Read(TestData.Golden(family), "config.v5.json"), strict: true);

    [Fact]
    public void Emberling_is_read_with_the_end_tokens_of_its_generation_config()
    {
        ModelConfig c = ConfigReader.Read(TestData.Repo("models", "emberling"));
        Assert.Equal([2, 0], c.EosTokens);
        Assert.Equal(new ModelConfig
        {
            Architecture = "llama",
            VocabSize = 4096,
            HiddenSize = 256,
            Layers = 6,
            Heads = 8,
            KvHeads = 4,
            HeadDim = 32,
            FfnSize = 1024,
            MaxPositions = 1024,
            Norm = NormKind.Rms,
            NormEps = 1e-5f,
            Positions = PositionKind.Rope,
            RopeTheta = 10000,
            Activation = Activation.Relu,
            Gated = true,
            TiedHead = true,
            BosToken = 0,
            EosTokens = c.EosTokens,
        }, c);
    }

    [Fact]
    public void Rope_theta_is_found_in_both_places()
    {
        Assert.Equal(500000, Read("llama", c => c["rope_theta"] = 500000.0).RopeTheta);
        Assert.Equal(500000, Read("llama", c => { c.Remove("rope_theta"); c["rope_parameters"] = new JsonObject { ["rope_type"] = "default", ["rope_theta"] = 500000.0 }; }).RopeTheta);
        Assert.Equal(10000, Read("llama", c => c.Remove("rope_theta")).RopeTheta);
    }

    [Fact]
    public void Defaults_of_the_family_apply_where_a_key_is_absent()
    {
        ModelConfig c = Read("llama", c =>
        {
            foreach (string key in new[] { "num_key_value_heads", "rms_norm_eps", "hidden_act", "max_position_embeddings", "tie_word_embeddings", "eos_token_id" }) c.Remove(key);
        });
        Assert.Equal((4, 1e-6f, Activation.Silu, 2048, false), (c.KvHeads, c.NormEps, c.Activation, c.MaxPositions, c.TiedHead));
        Assert.Empty(c.EosTokens);
        Assert.True(Read("opt", c => c.Remove("tie_word_embeddings")).TiedHead);
    }

    [Fact]
    public void End_tokens_are_one_id_or_a_list_and_ids_outside_the_vocabulary_are_dropped()
    {
        Assert.Equal([5], Read("llama", c => c["eos_token_id"] = 5).EosTokens);
        Assert.Equal([5, 6], Read("llama", c => c["eos_token_id"] = new JsonArray(5, 6, 5, -1, 384)).EosTokens);
    }

    [Theory]
    [InlineData("llama", "rope_scaling", """{"type":"spiral","factor":2.0}""", "spiral")]
    [InlineData("llama", "rope_scaling", """{"type":"yarn","factor":2.0,"mscale":1.0}""", "mscale")]
    [InlineData("llama", "rope_scaling", """{"type":"linear","factor":-2.0}""", "factor")]
    [InlineData("phi3-longrope", "rope_scaling", """{"type":"longrope","short_factor":[1],"long_factor":[1]}""", "short_factor")]
    [InlineData("llama", "hidden_act", "\"frobnicate\"", "frobnicate")]
    [InlineData("llama", "layer_types", """["full_attention","chunked_attention"]""", "chunked_attention")]
    [InlineData("llama", "layer_types", """["full_attention"]""", "layer_types")]
    [InlineData("llama", "partial_rotary_factor", "1.5", "partial_rotary_factor")]
    [InlineData("llama", "head_dim", "15", "partial_rotary_factor")]
    [InlineData("llama", "hidden_size", "66", "head_dim")]
    [InlineData("llama", "architectures", """["ReformerModelWithLMHead"]""", "ReformerModelWithLMHead is not supported; docs/MODELS.md")]
    [InlineData("llama", "model_type", "\"mistral\"", "mistral")]
    [InlineData("llama", "auto_map", """{"AutoModelForCausalLM":"modeling_x.X"}""", "auto_map")]
    [InlineData("llama", "quantization_config", """{"quant_method":"gptq"}""", "gptq")]
    [InlineData("llama", "rms_norm_eps", "-1", "rms_norm_eps")]
    [InlineData("llama", "tie_word_embeddings", "1", "tie_word_embeddings")]
    [InlineData("llama", "eos_token_id", "\"x\"", "eos_token_id")]
    [InlineData("llama", "vocab_size", null, "vocab_size is missing")]
    [InlineData("opt", "activation_function", "\"mish\"", "mish")]
    [InlineData("opt", "layer_norm_elementwise_affine", "false", "layer_norm_elementwise_affine")]
    [InlineData("gpt2", "scale_attn_by_inverse_layer_idx", "true", "scale_attn_by_inverse_layer_idx")]
    [InlineData("falcon-7b-like", "alibi", "true", "alibi")]
    [InlineData("falcon-7b-like", "parallel_attn", "false", "parallel_attn")]
    [InlineData("falcon", "num_ln_in_parallel_attn", "1", "num_ln_in_parallel_attn")]
    [InlineData("phi", "qk_layernorm", "true", "qk_layernorm")]
    [InlineData("starcoder2", "norm_type", "\"rms_norm\"", "rms_norm")]
    [InlineData("cohere", "use_qk_norm", "true", "use_qk_norm")]
    [InlineData("stablelm", "use_parallel_residual", "true", "use_parallel_residual")]
    [InlineData("smollm3", "no_rope_layers", "[1]", "no_rope_layers")]
    [InlineData("gemma", "hidden_activation", "\"relu\"", "hidden_activation")]
    [InlineData("gemma3-text", "final_logit_softcapping", "30.0", "softcapping")]
    [InlineData("bamboo", "hidden_act", "\"silu\"", "silu")]
    [InlineData("olmoe", "clip_qkv", "8.0", "clip_qkv")]
    [InlineData("mixtral", "num_experts_per_tok", "9", "9 experts")]
    [InlineData("gpt-oss", "swiglu_alpha", "1.5", "swiglu_alpha")]
    [InlineData("gpt-oss", "layer_types", null, "layer_types")]
    public void What_is_not_computed_is_refused_by_name(string family, string key, string? value, string named)
    {
        var e = Assert.Throws<ModelFormatException>(() => Read(family, c => c[key] = value == null ? null : JsonNode.Parse(value)));
        Assert.Contains(named, e.Message, StringComparison.Ordinal);
        Assert.Contains(_folder, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("attention_bias", "model.layers.0.self_attn.q_proj.bias")]
    [InlineData("mlp_bias", "model.layers.0.mlp.gate_proj.bias")]
    public void Biases_that_the_configuration_promises_must_be_there(string key, string tensor)
    {
        Read("llama", c => c[key] = true);
        File.Copy(Path.Combine(TestData.Golden("llama"), "model.safetensors"), Path.Combine(_folder, "model.safetensors"));
        var e = Assert.Throws<ModelFormatException>(() => Checkpoint.Open(_folder));
        Assert.Contains(tensor + " is missing", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_key_given_twice_is_refused()
    {
        File.WriteAllText(Path.Combine(_folder, "config.json"), """{"model_type":"llama","hidden_size":8,"hidden_size":16}""");
        Assert.Throws<ModelFormatException>(() => ConfigReader.Read(_folder));
    }

    [Theory]
    [InlineData("{\n\"model_type\":\"lla\u00ffma\"}", "line 2, byte 14")]
    [InlineData("{\"architectures\":[\"\\ud800\"]}", "line 1, byte 19")]
    [InlineData("{\"model_type\":\"llama\",\"rope_scaling\":{\"\\udc00type\":1}}", "no valid text")]
    public void Strings_that_are_no_text_are_refused(string latin1, string says)
    {
        File.WriteAllBytes(Path.Combine(_folder, "config.json"), System.Text.Encoding.Latin1.GetBytes(latin1));
        Assert.Contains(says, Assert.Throws<ModelFormatException>(() => ConfigReader.Read(_folder)).Message, StringComparison.Ordinal);
    }

    /// <summary>CsCheck_Iter in the environment sets the number of cases.</summary>
    [Fact]
    public void Damaged_configurations_are_read_or_refused_and_nothing_else()
    {
        byte[][] good = [.. Directory.EnumerateFiles(TestData.Repo("tests", "data", "golden", "models"), "config*.json", SearchOption.AllDirectories).Order(StringComparer.Ordinal).Select(File.ReadAllBytes)];
        string[] words = ["llama", "gpt2", "gemma2", "mixtral", "gpt-oss", "relu", "silu", "gelu_new", "linear", "dynamic", "yarn", "longrope", "sliding_attention"];
        Gen.Select(Gen.Int[0, good.Length - 1], Gen.Int[0, good.Length - 1], Gen.Int).Sample((which, donor, seed) =>
        {
            File.WriteAllBytes(Path.Combine(_folder, "config.json"), JsonMutations.Make(good[which], good[donor], words, new Random(seed)));
            long before = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                ConfigReader.Read(_folder);
            }
            catch (ModelFormatException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
        }, iter: Math.Max(Check.Iter, 500), threads: 1);
    }

    private ModelConfig Read(string family, Action<JsonObject> change)
    {
        JsonObject json = JsonNode.Parse(File.ReadAllText(Path.Combine(TestData.Golden(family), "config.json")))!.AsObject();
        change(json);
        File.WriteAllText(Path.Combine(_folder, "config.json"), json.ToJsonString());
        return ConfigReader.Read(_folder);
    }
}
