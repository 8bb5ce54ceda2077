using System.Buffers.Binary;
using System.Text;
using System.Text.Json;

namespace FlashOrleans.Cli.Tests;

/// <summary>A checkpoint of many gigabytes that takes no room: its one file is a hole. Nothing reads it to the end before a signal arrives.</summary>
internal static class HugeCheckpoint
{
    private const int Vocabulary = 1 << 24, Hidden = 256, Ffn = 64;

    public static void Create(string folder)
    {
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "config.json"), JsonSerializer.Serialize(new Dictionary<string, object>
        {
            ["architectures"] = new[] { "LlamaForCausalLM" },
            ["model_type"] = "llama",
            ["hidden_act"] = "relu",
            ["hidden_size"] = Hidden,
            ["intermediate_size"] = Ffn,
            ["num_hidden_layers"] = 1,
            ["num_attention_heads"] = 1,
            ["num_key_value_heads"] = 1,
            ["head_dim"] = Hidden,
            ["rms_norm_eps"] = 1e-5,
            ["rope_theta"] = 10000.0,
            ["vocab_size"] = Vocabulary,
            ["tie_word_embeddings"] = true,
            ["max_position_embeddings"] = 64,
            ["eos_token_id"] = 2,
        }));
        const string layer = "model.layers.0.";
        (string Name, int[] Shape)[] tensors =
        [
            ("model.embed_tokens.weight", [Vocabulary, Hidden]), ("model.norm.weight", [Hidden]),
            (layer + "input_layernorm.weight", [Hidden]), (layer + "post_attention_layernorm.weight", [Hidden]),
            (layer + "self_attn.q_proj.weight", [Hidden, Hidden]), (layer + "self_attn.k_proj.weight", [Hidden, Hidden]),
            (layer + "self_attn.v_proj.weight", [Hidden, Hidden]), (layer + "self_attn.o_proj.weight", [Hidden, Hidden]),
            (layer + "mlp.gate_proj.weight", [Ffn, Hidden]), (layer + "mlp.up_proj.weight", [Ffn, Hidden]), (layer + "mlp.down_proj.weight", [Hidden, Ffn]),
        ];
        var header = new Dictionary<string, object>();
        long end = 0;
        foreach (var (name, shape) in tensors)
        {
            long start = end;
            end += shape.Aggregate(4L, static (bytes, n) => bytes * n);
            header[name] = new { dtype = "F32", shape, data_offsets = new[] { start, end } };
        }
        byte[] json = Encoding.UTF8.GetBytes(JsonSerializer.Serialize(header));
        byte[] length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, json.Length);
        using var file = File.Create(Path.Combine(folder, "model.safetensors"));
        file.Write(length);
        file.Write(json);
        file.SetLength(8 + json.Length + end);
    }
}
