using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Synthetic;

/// <summary>
/// Shapes that random weights can have: those of published models by name, as their configurations say them, and any file in the layout of config.json. They are read like a
/// checkpoint's, so that what the file gets wrong is one line.
/// </summary>
internal static class SyntheticShapes
{
    private static readonly (string Name, string Config)[] s_known =
    [
        ("opt-6.7b", """
            {"architectures":["OPTForCausalLM"],"model_type":"opt","vocab_size":50272,"hidden_size":4096,"ffn_dim":16384,"num_hidden_layers":32,"num_attention_heads":32,
             "max_position_embeddings":2048,"activation_function":"relu","do_layer_norm_before":true,"word_embed_proj_dim":4096,"bos_token_id":2,"eos_token_id":2}
            """),
        ("llama-2-7b", Llama("LlamaForCausalLM", "llama", 4096, 11008, 32, 32, 32)),
        ("prosparse-7b", Llama("SparseLlamaForCausalLM", "sparsellama", 4096, 11008, 32, 32, 32, "\"hidden_act\":\"fatrelu\",\"hidden_act_param\":0.01,")),
        ("bamboo-7b", Llama("BambooForCausalLM", "bamboo", 4096, 14336, 32, 32, 8, "\"hidden_act\":\"relu\",")),
        ("tinyllama-1.1b", Llama("LlamaForCausalLM", "llama", 2048, 5632, 22, 32, 4, positions: 2048)),
        ("llama-2-13b", Llama("LlamaForCausalLM", "llama", 5120, 13824, 40, 40, 40)),
        ("olmoe-7b", """
            {"architectures":["OlmoeForCausalLM"],"model_type":"olmoe","hidden_act":"silu","vocab_size":50304,"hidden_size":2048,"intermediate_size":1024,"num_hidden_layers":16,"num_attention_heads":16,
             "num_key_value_heads":16,"num_experts":64,"num_experts_per_tok":8,"norm_topk_prob":false,"max_position_embeddings":4096,"rms_norm_eps":1e-5,"rope_theta":10000.0,"eos_token_id":50279}
            """),
        ("qwen3-30b-a3b", """
            {"architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","hidden_act":"silu","vocab_size":151936,"hidden_size":2048,"intermediate_size":6144,"moe_intermediate_size":768,"num_hidden_layers":48,
             "num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"num_experts":128,"num_experts_per_tok":8,"norm_topk_prob":true,"decoder_sparse_step":1,"mlp_only_layers":[],
             "max_position_embeddings":40960,"rms_norm_eps":1e-6,"rope_theta":1000000.0,"tie_word_embeddings":false,"bos_token_id":151643,"eos_token_id":151645}
            """),
        ("gpt-oss-20b", """
            {"architectures":["GptOssForCausalLM"],"model_type":"gpt_oss","hidden_act":"silu","vocab_size":201088,"hidden_size":2880,"intermediate_size":2880,"num_hidden_layers":24,"num_attention_heads":64,
             "num_key_value_heads":8,"head_dim":64,"num_local_experts":32,"num_experts_per_tok":4,"swiglu_limit":7.0,"attention_bias":true,"sliding_window":128,"max_position_embeddings":131072,
             "rms_norm_eps":1e-5,"rope_theta":150000,"rope_scaling":{"rope_type":"yarn","factor":32.0,"beta_fast":32.0,"beta_slow":1.0,"original_max_position_embeddings":4096,"truncate":false},
             "layer_types":[SLIDING],"eos_token_id":200002}
            """.Replace("SLIDING", string.Join(',', Enumerable.Range(0, 24).Select(static i => i % 2 == 0 ? "\"sliding_attention\"" : "\"full_attention\"")), StringComparison.Ordinal)),
        ("mixtral-8x7b", """
            {"architectures":["MixtralForCausalLM"],"model_type":"mixtral","hidden_act":"silu","vocab_size":32000,"hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,
             "num_key_value_heads":8,"num_local_experts":8,"num_experts_per_tok":2,"sliding_window":null,"max_position_embeddings":32768,"rms_norm_eps":1e-5,"rope_theta":1000000.0,"bos_token_id":1,"eos_token_id":2}
            """),
        ("smallthinker-4b-a0.6b", SmallThinker(1536, 32, 12, 2, 32, 4, 32768, tied: true, slides: false)),
        ("smallthinker-21b-a3b", SmallThinker(2560, 52, 28, 4, 64, 6, 16384, tied: false, slides: true)),
    ];

    public static IReadOnlyList<string> Names => [.. s_known.Select(static s => s.Name)];

    /// <summary>The model of a name or of a file (…json).</summary>
    /// <param name="shape">Which.</param>
    /// <param name="layers">Another number of layers than the shape has.</param>
    public static ModelConfig Read(string shape, int? layers)
    {
        string? known = s_known.FirstOrDefault(s => s.Name == shape).Config;
        if (known == null && !File.Exists(shape))
            throw new ModelFormatException($"shape '{shape}' is none; there are {string.Join(", ", Names)}, or give a file in the layout of config.json");
        using JsonDocument document = known == null ? ConfigReader.Parse(shape) : JsonDocument.Parse(known);
        var json = new ConfigJson(shape, document.RootElement);
        (ModelConfig config, _) = ConfigReader.Read(json);
        config = config with
        {
            BosToken = json.TokenId("bos_token_id") is { } bos && (uint)bos < (uint)config.VocabSize ? bos : null,
            EosTokens = [.. json.TokenIds("eos_token_id").Where(id => (uint)id < (uint)config.VocabSize).Distinct()],
        };
        if (layers is not { } n) return config;
        return config with { Layers = n, LayerTraits = config.LayerTraits.Count == 0 ? [] : [.. Enumerable.Range(0, n).Select(i => config.LayerTraits[i % config.Layers])] };
    }

    /// <summary>Three of four layers rotate and slide where any does.</summary>
    private static string SmallThinker(int hidden, int layers, int heads, int keyHeads, int experts, int active, int positions, bool tied, bool slides)
    {
        string Layout(int others) => string.Join(',', Enumerable.Range(0, layers).Select(i => !slides || i % 4 > 0 ? others : 0));
        return $$"""
            {"architectures":["SmallThinkerForCausalLM"],"model_type":"smallthinker","vocab_size":151936,"hidden_size":{{hidden}},"num_hidden_layers":{{layers}},"num_attention_heads":{{heads}},"num_key_value_heads":{{keyHeads}},
             "head_dim":128,"max_position_embeddings":{{positions}},"rms_norm_eps":1e-6,"rope_theta":1500000.0,"rope_layout":[{{Layout(1)}}],"sliding_window_layout":[{{Layout(slides ? 1 : 0)}}],"sliding_window_size":4096,
             "moe_num_primary_experts":{{experts}},"moe_num_active_primary_experts":{{active}},"moe_ffn_hidden_size":768,"moe_primary_router_apply_softmax":false,"moe_enable_early_router":true,
             "tie_word_embeddings":{{(tied ? "true" : "false")}},"bos_token_id":151643,"eos_token_id":151645}
            """;
    }

    private static string Llama(string architecture, string type, int hidden, int ffn, int layers, int heads, int keyHeads, string act = "", int positions = 4096) => $$"""
        {"architectures":["{{architecture}}"],"model_type":"{{type}}",{{act}}"vocab_size":32000,"hidden_size":{{hidden}},"intermediate_size":{{ffn}},"num_hidden_layers":{{layers}},
         "num_attention_heads":{{heads}},"num_key_value_heads":{{keyHeads}},"max_position_embeddings":{{positions}},"rms_norm_eps":1e-5,"rope_theta":10000.0,"bos_token_id":1,"eos_token_id":2}
        """;
}
