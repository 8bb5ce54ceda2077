using System.Text.Json;
using FlashOrleans.Models;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>
/// Golden checkpoints written as GGUF files, by what llama.cpp's converter does for their architecture. It goes from the checkpoint's own tensors and config.json, past
/// everything that an import knows. Where the format cannot say what the tiny model does, the weights are rearranged so that what it can say computes the same.
/// </summary>
internal sealed class GgufTwin
{
    /// <summary>Golden model and architecture.</summary>
    public static readonly (string Golden, string Architecture)[] All =
    [
        ("llama", "llama"), ("llama-linear-rope", "llama"), ("llama3-rope", "llama"), ("llama-yarn", "llama"), ("mistral", "llama"), ("mixtral", "llama"),
        ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("qwen3-moe", "qwen3moe"), ("gemma", "gemma"), ("gemma2", "gemma2"), ("gemma3-text", "gemma3"), ("phi", "phi2"),
        ("phi3", "phi3"), ("phi3-longrope", "phi3"), ("falcon", "falcon"), ("falcon-7b-like", "falcon"), ("gpt2", "gpt2"), ("starcoder2", "starcoder2"),
        ("stablelm", "stablelm"), ("olmo2", "olmo2"), ("olmoe", "olmoe"), ("cohere", "command-r"), ("granite", "granite"), ("smollm3", "smollm3"), ("gpt-oss", "gpt-oss"),
        ("qwen2-moe", "qwen2moe"), ("granite-moe", "granitemoe"), ("glm4-moe", "glm4moe"), ("ernie4_5-moe", "ernie4_5-moe"), ("deepseek-v2", "deepseek2"),
    ];

    private static readonly (string Theirs, string Gguf)[] s_names =
    [
        ("embed_tokens", "token_embd"), ("wte", "token_embd"), ("word_embeddings", "token_embd"), ("wpe", "position_embd"), ("lm_head", "output"),
        ("norm", "output_norm"), ("ln_f", "output_norm"), ("final_layernorm", "output_norm"),
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.o_proj", "attn_output"), ("self_attn.dense", "attn_output"), ("attn.c_proj", "attn_output"), ("self_attention.dense", "attn_output"), ("self_attn.sinks", "attn_sinks.weight"),
        ("self_attn.qkv_proj", "attn_qkv"), ("attn.c_attn", "attn_qkv"), ("self_attention.query_key_value", "attn_qkv"),
        ("input_layernorm", "attn_norm"), ("ln_1", "attn_norm"), ("ln_mlp", "attn_norm"), ("ln_attn", "attn_norm_2"),
        ("post_attention_layernorm", "ffn_norm"), ("ln_2", "ffn_norm"), ("pre_feedforward_layernorm", "ffn_norm"), ("post_feedforward_layernorm", "post_ffw_norm"),
        ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"), ("mlp.gate_up_proj", "ffn_up"), ("mlp.fc1", "ffn_up"), ("mlp.fc2", "ffn_down"),
        ("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down"), ("mlp.dense_h_to_4h", "ffn_up"), ("mlp.dense_4h_to_h", "ffn_down"),
        ("block_sparse_moe.gate", "ffn_gate_inp"), ("mlp.gate", "ffn_gate_inp"), ("mlp.router", "ffn_gate_inp"), ("block_sparse_moe.router.layer", "ffn_gate_inp"),
        ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"), ("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias"), ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
        ("self_attn.q_a_proj", "attn_q_a"), ("self_attn.q_a_layernorm", "attn_q_a_norm"), ("self_attn.q_b_proj", "attn_q_b"), ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
        ("self_attn.kv_a_layernorm", "attn_kv_a_norm"), ("self_attn.kv_b_proj", "attn_kv_b"), ("block_sparse_moe.primary_router", "ffn_gate_inp"),
        ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"), ("mlp.shared_expert.up_proj", "ffn_up_shexp"), ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
        ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"), ("mlp.shared_experts.up_proj", "ffn_up_shexp"), ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ];

    private readonly string _architecture;
    private readonly JsonElement _config;
    private readonly int _hidden, _heads, _kv, _headDim, _layers;
    /// <summary>By name, shape with the longest step first.</summary>
    private readonly Dictionary<string, (int[] Shape, float[] Data)> _tensors = new(StringComparer.Ordinal);
    private readonly GgufBuilder _file = new();
    private int _foretelling;
    private bool _older;

    private GgufTwin(string checkpoint, string architecture)
    {
        _architecture = architecture;
        _config = TestData.Json(Path.Combine(checkpoint, "config.json"));
        (_hidden, _heads, _layers) = (Int("hidden_size", Int("n_embd")), Int("num_attention_heads", Int("n_head")), Int("num_hidden_layers", Int("n_layer")));
        _kv = Int("num_key_value_heads", Int("num_kv_heads", architecture == "falcon" ? 1 : _heads));
        _headDim = Int("head_dim", _hidden / _heads);
        using var weights = SafetensorsFile.Open(Path.Combine(checkpoint, "model.safetensors"));
        foreach (TensorInfo tensor in weights.Tensors.Values)
        {
            float[] data = new float[tensor.Elements];
            weights.ReadRows(tensor, 0, (int)(tensor.Elements / tensor.Shape[^1]), data);
            _tensors[Renamed(tensor.Name)] = ([.. tensor.Shape.Select(n => (int)n)], data);
        }
    }

    /// <summary>The file's bytes; experts may be stored in four bits, or as the numbers that four bits can say.</summary>
    public static byte[] Write(string golden, string architecture, bool mxfp4 = false, bool rounded = false, int foretelling = 0)
    {
        var twin = new GgufTwin(TestData.Golden(golden), architecture) { _foretelling = foretelling };
        return twin.Build(mxfp4, rounded);
    }

    /// <summary>Any checkpoint; <paramref name="older"/>: as files of deepseek2 were before keys and values of latents had tensors of their own.</summary>
    public static byte[] WriteFolder(string checkpoint, string architecture, bool older = false) => new GgufTwin(checkpoint, architecture) { _older = older }.Build();

    private byte[] Build(bool mxfp4 = false, bool rounded = false)
    {
        Arrange();
        for (int i = 0; i < _foretelling; i++) _tensors[$"blk.{_layers + i}.nextn.eh_proj.weight"] = ([_hidden, 2 * _hidden], new float[2 * _hidden * _hidden]);
        Keys();
        foreach ((string name, (int[] shape, float[] data)) in _tensors)
        {
            long[] dims = [.. shape.Reverse().Select(n => (long)n)];
            bool experts = (mxfp4 || rounded) && name.EndsWith("_exps.weight", StringComparison.Ordinal);
            if (experts && mxfp4) _file.Tensor(name, GgufType.MXFP4, dims, Mxfp4.Encode(data));
            else _file.Tensor(name, dims, experts ? Mxfp4.Decode(Mxfp4.Encode(data)) : data);
        }
        return _file.Build();
    }

    /// <summary>What is stored another way than in the checkpoint.</summary>
    private void Arrange()
    {
        if (_architecture == "gpt2")
            foreach (string name in Named(".attn_qkv.weight", ".attn_output.weight", ".ffn_up.weight", ".ffn_down.weight")) Change(name, (shape, data) => ([shape[1], shape[0]], Transposed(data, shape[0], shape[1])));
        if (_architecture == "falcon")
            foreach (string name in Named(".attn_qkv.weight")) Change(name, (shape, data) => (shape, Grouped(data)));
        if (_architecture is "llama" or "granite" or "granitemoe" or "smollm3")
            foreach (string name in Named(".attn_q.weight", ".attn_k.weight")) Change(name, (shape, data) => (shape, Permuted(data, shape[1])));
        if (_architecture.StartsWith("gemma", StringComparison.Ordinal))
            foreach (string name in _tensors.Keys.Where(n => n.EndsWith("norm.weight", StringComparison.Ordinal)).ToList()) Change(name, (shape, data) => (shape, [.. data.Select(x => x + 1)]));
        if (_architecture is "gemma2")
        {
            // The scale of the queries is that of their size: what differs goes into their weights.
            float scale = MathF.Sqrt(_headDim / (float)Int("query_pre_attn_scalar"));
            foreach (string name in Named(".attn_q.weight")) Change(name, (shape, data) => (shape, [.. data.Select(x => x * scale)]));
        }
        if (_architecture == "deepseek2" && !_older)
            foreach (string name in Named(".attn_kv_b.weight")) SplitLatent(name);
        if (_architecture == "gpt-oss") SplitExperts();
        else if (_architecture == "granitemoe") UnpairExperts();
        else if (Experts > 0) StackExperts();
        foreach (string name in Named(".exp_probs_b.bias", ".ffn_gate_inp_shexp.weight")) Change(name, (_, data) => ([data.Length], data));
        // Layers that add nothing bring the others to where the architecture slides, or does not rotate.
        if (_architecture == "gemma3") Place(0, 1, -1, -1, -1, 2);
        if (_architecture == "smollm3") Place(0, -1, -1, 1, 2);
    }

    private void Keys()
    {
        int layers = _tensors.Keys.Where(n => n.StartsWith("blk.", StringComparison.Ordinal)).Select(n => int.Parse(n.Split('.')[1], System.Globalization.CultureInfo.InvariantCulture)).Max() + 1;
        _file.Key("general.architecture", _architecture).Key("tokenizer.ggml.model", "no_vocab");
        Key("vocab_size", (uint)Int("vocab_size"));
        Key("context_length", (uint)Int("max_position_embeddings", Int("n_positions")));
        Key("embedding_length", (uint)_hidden);
        Key("block_count", (uint)layers);
        Key("feed_forward_length", (uint)Int("intermediate_size", Int("ffn_hidden_size", Int("moe_ffn_hidden_size", 4 * _hidden))));
        Key("attention.head_count", (uint)_heads);
        if (_architecture != "gpt2") Key("attention.head_count_kv", (uint)(_architecture == "deepseek2" && !_older ? 1 : _kv));
        if (_architecture == "deepseek2") LatentKeys();
        if (Has("rms_norm_eps")) Key("attention.layer_norm_rms_epsilon", Float("rms_norm_eps"));
        else Key("attention.layer_norm_epsilon", Float(Has("layer_norm_eps") ? "layer_norm_eps" : Has("norm_epsilon") ? "norm_epsilon" : "layer_norm_epsilon"));
        if (Has("head_dim")) Key("attention.key_length", (uint)_headDim).Key("attention.value_length", (uint)_headDim);
        // The converters of these write no base: it is 10000.
        if (Has("rope_theta") && _architecture is not ("gemma" or "gemma2" or "phi2" or "falcon" or "stablelm")) Key("rope.freq_base", Float("rope_theta"));
        if (_architecture == "smallthinker") Key("attention.sliding_window", (uint)Int("sliding_window_size"));
        if (_architecture is "llama" or "granite" or "granitemoe" or "smollm3" or "phi3" or "smallthinker") Key("rope.dimension_count", (uint)_headDim);
        if (Has("partial_rotary_factor")) Key("rope.dimension_count", (uint)(Float("partial_rotary_factor") * _headDim));
        if (Has("sliding_window") && _architecture != "dots1" && !(_config.TryGetProperty("use_sliding_window", out JsonElement uses) && !uses.GetBoolean())) Key("attention.sliding_window", (uint)Int("sliding_window"));
        if (Experts > 0)
        {
            Key("expert_count", (uint)Experts).Key("expert_used_count", (uint)Int("num_experts_per_tok", Int("moe_k", Int("moe_num_active_primary_experts"))));
            if (_architecture is not ("llama" or "olmoe" or "granitemoe")) Key("expert_feed_forward_length", (uint)_tensors[$"blk.{Leading}.ffn_gate_exps.weight"].Shape[1]);
            if (_architecture == "qwen2moe") Key("expert_shared_feed_forward_length", (uint)Int("shared_expert_intermediate_size"));
            if (Leading > 0)
            {
                Key("leading_dense_block_count", (uint)Leading);
                Key("expert_shared_count", (uint)Int("n_shared_experts", Int("moe_num_shared_experts")));
            }
            if (_architecture == "ernie4_5-moe") Key("interleave_moe_layer_step", (uint)Int("moe_layer_interval"));
            if (_architecture == "smallthinker") Key("expert_gating_func", _config.GetProperty("moe_primary_router_apply_softmax").GetBoolean() ? 1u : 2u);
            if (Int("n_group") > 1) Key("expert_group_count", (uint)Int("n_group")).Key("expert_group_used_count", (uint)Int("topk_group"));
            if (_architecture == "deepseek2")
            {
                Key("expert_weights_scale", Float("routed_scaling_factor"));
                if (_config.GetProperty("norm_topk_prob").GetBoolean()) Key("expert_weights_norm", true);
                if (_config.GetProperty("scoring_func").GetString() == "sigmoid") Key("expert_gating_func", 2u);
            }
            else if (Has("routed_scaling_factor")) Key("expert_weights_scale", Float("routed_scaling_factor")).Key("expert_weights_norm", _config.GetProperty("norm_topk_prob").GetBoolean()).Key("expert_gating_func", 2u);
            if (Has("num_nextn_predict_layers")) Key("nextn_predict_layers", (uint)(Int("num_nextn_predict_layers") + _foretelling));
        }
        if (_architecture == "gemma2") Key("attn_logit_softcapping", Float("attn_logit_softcapping")).Key("final_logit_softcapping", Float("final_logit_softcapping"));
        if (_architecture == "command-r") Key("logit_scale", Float("logit_scale")).Key("rope.scaling.type", "none");
        if (_architecture == "stablelm") Key("use_parallel_residual", false);
        if (_architecture == "falcon") Key("tensor_data_layout", "jploski");
        if (_architecture is "granite" or "granitemoe")
            Key("attention.scale", Float("attention_multiplier")).Key("embedding_scale", Float("embedding_multiplier"))
                .Key("residual_scale", Float("residual_multiplier")).Key("logit_scale", Float("logits_scaling"));
        if (_config.TryGetProperty("rope_scaling", out JsonElement scaling) && scaling.ValueKind == JsonValueKind.Object) Scaling(scaling);
        else if (_architecture == "phi3") Key("rope.scaling.original_context_length", (uint)Int("original_max_position_embeddings"));
    }

    private void Scaling(JsonElement s)
    {
        string kind = (s.TryGetProperty("rope_type", out JsonElement type) ? type : s.GetProperty("type")).GetString()!;
        float Number(string key) => s.GetProperty(key).GetSingle();
        float[] List(string key) => [.. s.GetProperty(key).EnumerateArray().Select(e => e.GetSingle())];
        switch (kind)
        {
            case "linear":
                Key("rope.scaling.type", "linear").Key("rope.scaling.factor", Number("factor"));
                break;
            case "yarn":
                Key("rope.scaling.type", "yarn").Key("rope.scaling.factor", Number("factor"));
                Key("rope.scaling.original_context_length", (uint)Number("original_max_position_embeddings"));
                if (s.TryGetProperty("mscale_all_dim", out _)) Key("rope.scaling.yarn_log_multiplier", 0.1f * Number("mscale_all_dim"));
                if (s.TryGetProperty("beta_fast", out _)) Key("rope.scaling.yarn_beta_fast", Number("beta_fast"));
                if (s.TryGetProperty("beta_slow", out _)) Key("rope.scaling.yarn_beta_slow", Number("beta_slow"));
                break;
            case "llama3":
                _tensors["rope_freqs.weight"] = ([_headDim / 2], Llama3(Number("factor"), Number("low_freq_factor"), Number("high_freq_factor"), Number("original_max_position_embeddings")));
                break;
            case "longrope":
                int original = Int("original_max_position_embeddings");
                float stretch = Int("max_position_embeddings") / (float)original;
                Key("rope.scaling.original_context_length", (uint)original).Key("rope.scaling.attn_factor", MathF.Sqrt(1 + MathF.Log(stretch) / MathF.Log(original)));
                _tensors["rope_factors_long.weight"] = ([_headDim / 2], List("long_factor"));
                _tensors["rope_factors_short.weight"] = ([_headDim / 2], List("short_factor"));
                break;
            default: throw new ArgumentException(kind);
        }
    }

    /// <summary>Low frequencies are divided by the factor, high ones stay, those between in proportion.</summary>
    private float[] Llama3(double factor, double low, double high, double original) => [.. Enumerable.Range(0, _headDim / 2).Select(i =>
    {
        double turns = original / (2 * Math.PI * Math.Pow(Float("rope_theta"), 2.0 * i / _headDim)), smooth = Math.Clamp((turns - low) / (high - low), 0, 1);
        return (float)(1 / ((1 - smooth) / factor + smooth));
    })];

    /// <summary>One tensor for a kind, experts outermost; a layer without experts becomes one of equal experts, and all are as wide as the widest.</summary>
    private void StackExperts()
    {
        string inner = _architecture is "llama" or "smallthinker" ? "block_sparse_moe.experts" : "mlp.experts";
        int size = Int("moe_intermediate_size", Int("intermediate_size", Int("moe_ffn_hidden_size")));
        if (Leading == 0 && _tensors.Keys.Any(n => n.EndsWith(".ffn_gate.weight", StringComparison.Ordinal))) size = Int("intermediate_size");
        // Equal experts get equal shares: of all of them where the chosen ones are not scaled to sum 1.
        float share = _architecture == "qwen2moe" ? Experts / (float)Int("num_experts_per_tok") : 1;
        for (int i = Leading; i < _layers; i++)
        {
            bool dense = _tensors.ContainsKey($"blk.{i}.ffn_gate.weight");
            foreach ((string kind, string theirs) in _architecture == "llama" ? new[] { ("gate", "w1"), ("up", "w3"), ("down", "w2") } : _architecture == "smallthinker" ? [("gate", "gate"), ("up", "up"), ("down", "down")] : [("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")])
            {
                var all = new List<float>();
                for (int e = 0; e < Experts; e++)
                {
                    string name = dense ? $"blk.{i}.ffn_{kind}.weight" : $"blk.{i}.{inner}.{e}.{theirs}.weight";
                    (int[] shape, float[] data) = _tensors[name];
                    if (dense && kind == "down") data = [.. data.Select(x => x * share)];
                    all.AddRange(kind == "down" ? Padded(data, shape[0], shape[1], shape[0], size) : Padded(data, shape[0], shape[1], size, shape[1]));
                    if (!dense) _tensors.Remove(name);
                }
                _tensors.Remove($"blk.{i}.ffn_{kind}.weight");
                _tensors[$"blk.{i}.ffn_{kind}_exps.weight"] = (kind == "down" ? [Experts, _hidden, size] : [Experts, size, _hidden], [.. all]);
            }
            if (!dense) continue;
            _tensors[$"blk.{i}.ffn_gate_inp.weight"] = ([Experts, _hidden], new float[Experts * _hidden]);
            if (_architecture != "qwen2moe") continue;
            int shared = Int("shared_expert_intermediate_size");
            foreach (string kind in new[] { "gate", "up", "down" })
                _tensors[$"blk.{i}.ffn_{kind}_shexp.weight"] = (kind == "down" ? [_hidden, shared] : [shared, _hidden], new float[shared * _hidden]);
            _tensors[$"blk.{i}.ffn_gate_inp_shexp.weight"] = ([_hidden], new float[_hidden]);
        }
    }

    /// <summary>Of each head the key's part, inputs first, and the value's.</summary>
    private void SplitLatent(string name)
    {
        (int[] shape, float[] data) = _tensors[name];
        int own = Int("qk_nope_head_dim"), value = Int("v_head_dim"), rank = shape[1], one = (own + value) * rank;
        _tensors.Remove(name);
        _tensors[name.Replace("kv_b", "k_b", StringComparison.Ordinal)] = ([_heads, rank, own], [.. Enumerable.Range(0, _heads).SelectMany(h => Transposed(data[(h * one)..(h * one + own * rank)], own, rank))]);
        _tensors[name.Replace("kv_b", "v_b", StringComparison.Ordinal)] = ([_heads, value, rank], [.. Enumerable.Range(0, _heads).SelectMany(h => data[(h * one + own * rank)..((h + 1) * one)])]);
    }

    private void LatentKeys()
    {
        int rank = Int("kv_lora_rank"), turned = Int("qk_rope_head_dim"), key = Int("qk_nope_head_dim") + turned, value = Int("v_head_dim");
        Key("attention.kv_lora_rank", (uint)rank).Key("rope.dimension_count", (uint)turned);
        if (Has("q_lora_rank")) Key("attention.q_lora_rank", (uint)Int("q_lora_rank"));
        if (_older) Key("attention.key_length", (uint)key).Key("attention.value_length", (uint)value);
        else Key("attention.key_length", (uint)(rank + turned)).Key("attention.value_length", (uint)rank).Key("attention.key_length_mla", (uint)key).Key("attention.value_length_mla", (uint)value);
    }

    /// <summary>Gate and up lie behind each other for each expert.</summary>
    private void UnpairExperts()
    {
        int one = Int("intermediate_size") * _hidden;
        for (int i = 0; i < _layers; i++)
        {
            string s = $"blk.{i}.block_sparse_moe.";
            float[] both = _tensors[s + "input_linear.weight"].Data;
            foreach ((string kind, int turn) in new[] { ("gate", 0), ("up", 1) })
                _tensors[$"blk.{i}.ffn_{kind}_exps.weight"] = ([Experts, one / _hidden, _hidden], [.. Enumerable.Range(0, Experts).SelectMany(e => both.AsSpan((2 * e + turn) * one, one).ToArray())]);
            _tensors[$"blk.{i}.ffn_down_exps.weight"] = _tensors[s + "output_linear.weight"];
            _tensors.Remove(s + "input_linear.weight");
            _tensors.Remove(s + "output_linear.weight");
        }
    }

    /// <summary>Gate and up come in turn and inputs first; their biases likewise. Widened to whole blocks of 32, by neurons that add nothing.</summary>
    private void SplitExperts()
    {
        int n = Int("intermediate_size"), size = (n + 31) / 32 * 32;
        for (int i = 0; i < _layers; i++)
        {
            string s = $"blk.{i}.mlp.experts.";
            float[] both = _tensors[s + "gate_up_proj"].Data, biases = _tensors[s + "gate_up_proj_bias"].Data, down = _tensors[s + "down_proj"].Data, downBias = _tensors[s + "down_proj_bias"].Data;
            foreach ((string kind, int turn) in new[] { ("gate", 0), ("up", 1) })
            {
                float[] data = new float[Experts * size * _hidden], bias = new float[Experts * size];
                for (int e = 0; e < Experts; e++)
                    for (int j = 0; j < n; j++)
                    {
                        bias[e * size + j] = biases[e * 2 * n + 2 * j + turn];
                        for (int k = 0; k < _hidden; k++) data[(e * size + j) * _hidden + k] = both[(e * _hidden + k) * 2 * n + 2 * j + turn];
                    }
                _tensors[$"blk.{i}.ffn_{kind}_exps.weight"] = ([Experts, size, _hidden], data);
                _tensors[$"blk.{i}.ffn_{kind}_exps.bias"] = ([Experts, size], bias);
            }
            var turned = new List<float>();
            for (int e = 0; e < Experts; e++) turned.AddRange(Padded(Transposed(down[(e * n * _hidden)..((e + 1) * n * _hidden)], n, _hidden), _hidden, n, _hidden, size));
            _tensors[$"blk.{i}.ffn_down_exps.weight"] = ([Experts, _hidden, size], [.. turned]);
            _tensors[$"blk.{i}.ffn_down_exps.bias"] = ([Experts, _hidden], downBias);
            foreach (string part in new[] { "gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias" }) _tensors.Remove(s + part);
        }
    }

    /// <summary>Puts the layers into these places; -1 is a layer whose two branches end in zeros.</summary>
    private void Place(params ReadOnlySpan<int> places)
    {
        var old = _tensors.Where(t => t.Key.StartsWith("blk.", StringComparison.Ordinal)).ToList();
        foreach ((string name, _) in old) _tensors.Remove(name);
        for (int i = 0; i < places.Length; i++)
        {
            string from = $"blk.{Math.Max(places[i], 0)}.";
            foreach ((string name, (int[] shape, float[] data)) in old.Where(t => t.Key.StartsWith(from, StringComparison.Ordinal)))
            {
                string part = name[from.Length..];
                _tensors[$"blk.{i}.{part}"] = (shape, places[i] < 0 && part is ("attn_output.weight" or "ffn_down.weight") ? new float[data.Length] : data);
            }
        }
    }

    /// <summary>Rows j and j + headDim/2 of each head become rows 2j and 2j + 1.</summary>
    private float[] Permuted(float[] rows, int cols)
    {
        float[] turned = new float[rows.Length];
        for (int r = 0; r < rows.Length / cols; r++)
        {
            int j = r % _headDim, half = _headDim / 2, to = r - j + (j < half ? 2 * j : 2 * (j - half) + 1);
            rows.AsSpan(r * cols, cols).CopyTo(turned.AsSpan(to * cols));
        }
        return turned;
    }

    /// <summary>Each key head lies behind its queries and before its value: all queries, all keys, all values.</summary>
    private float[] Grouped(float[] data)
    {
        int one = _headDim * _hidden, group = _heads / _kv;
        var all = new List<float>();
        for (int h = 0; h < _heads; h++) all.AddRange(data.AsSpan((h / group * (group + 2) + h % group) * one, one));
        for (int h = 0; h < _kv; h++) all.AddRange(data.AsSpan((h * (group + 2) + group) * one, one));
        for (int h = 0; h < _kv; h++) all.AddRange(data.AsSpan((h * (group + 2) + group + 1) * one, one));
        return [.. all];
    }

    private static float[] Transposed(float[] data, int rows, int cols)
    {
        float[] turned = new float[data.Length];
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < cols; c++) turned[c * rows + r] = data[r * cols + c];
        return turned;
    }

    private static float[] Padded(float[] data, int rows, int cols, int toRows, int toCols)
    {
        float[] wide = new float[toRows * toCols];
        for (int r = 0; r < rows; r++) data.AsSpan(r * cols, cols).CopyTo(wide.AsSpan(r * toCols));
        return wide;
    }

    private string Renamed(string name)
    {
        foreach (string prefix in new[] { "model.", "transformer." })
            if (name.StartsWith(prefix, StringComparison.Ordinal)) name = name[prefix.Length..];
        string layer = "";
        if (name.Split('.') is ["layers" or "h", var number, ..] parts) (layer, name) = ($"blk.{number}.", string.Join('.', parts[2..]));
        foreach ((string theirs, string gguf) in s_names)
        {
            if (name != theirs && name != theirs + ".weight" && name != theirs + ".bias") continue;
            bool after = theirs == "post_attention_layernorm" && _architecture is ("gemma2" or "gemma3" or "olmo2" or "gpt-oss" or "glm4moe");
            return layer + (after ? "post_attention_norm" : gguf) + name[theirs.Length..];
        }
        return layer + name;
    }

    private List<string> Named(params string[] endings) => [.. _tensors.Keys.Where(n => endings.Any(e => n.EndsWith(e, StringComparison.Ordinal)))];

    private void Change(string name, Func<int[], float[], (int[], float[])> how) => _tensors[name] = how(_tensors[name].Shape, _tensors[name].Data);

    private GgufTwin Key(string key, object value)
    {
        _file.Key($"{_architecture}.{key}", value);
        return this;
    }

    private int Experts => Int("num_local_experts", Int("num_experts", Int("n_routed_experts", Int("moe_num_experts", Int("moe_num_primary_experts")))));
    /// <summary>Dense layers before the first one of experts.</summary>
    private int Leading => Int("first_k_dense_replace", Int("moe_layer_start_index"));
    private bool Has(string key) => _config.TryGetProperty(key, out JsonElement value) && value.ValueKind != JsonValueKind.Null;
    private int Int(string key, int absent = 0) => Has(key) ? _config.GetProperty(key).GetInt32() : absent;
    private float Float(string key) => _config.GetProperty(key).GetSingle();
}
