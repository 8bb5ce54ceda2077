using System.Runtime.InteropServices;
using System.Text;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Tests;

[CollectionDefinition(nameof(AloneCollection), DisableParallelization = true)]
public sealed class AloneCollection;

/// <summary>An import's memory does not depend on the checkpoint's size: a few blocks, and the one matrix that is turned (at most 128 MiB). Alone, because it looks at the whole heap.</summary>
[Collection(nameof(AloneCollection))]
public sealed class ImportMemoryTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-memory").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public void Memory_stays_at_a_few_blocks_and_a_turned_matrix_whatever_the_checkpoint()
    {
        const int d = 512, n = 6144, layers = 2, vocab = 8192;
        string source = Path.Combine(_folder, "source");
        long bytes = Write(source, d, n, layers, vocab);
        Assert.True(bytes > 80 << 20, $"the checkpoint has only {bytes} bytes");

        var watch = new Watch();
        ImportResult result = Importer.Import(source, Path.Combine(_folder, "m.flash"), new ImportOptions { Quant = "q8" }, watch);

        Assert.True(watch.Samples > 20, $"{watch.Samples} samples");
        Assert.True(watch.Most < 32 << 20, $"{watch.Most >> 20} MiB were alive while {bytes >> 20} MiB were imported");
        Assert.Equal(WeightFormat.Q8, result.Format);
    }

    /// <summary>A Llama of this shape in f32; weights repeat a short pattern.</summary>
    private static long Write(string folder, int d, int n, int layers, int vocab)
    {
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "config.json"), $$"""
            {"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"relu","hidden_size":{{d}},"intermediate_size":{{n}},"num_hidden_layers":{{layers}},
             "num_attention_heads":8,"vocab_size":{{vocab}},"tie_word_embeddings":true}
            """);
        var tensors = new List<(string Name, int[] Shape)> { ("model.embed_tokens.weight", [vocab, d]), ("model.norm.weight", [d]) };
        for (int i = 0; i < layers; i++)
        {
            string p = $"model.layers.{i}.";
            tensors.Add((p + "input_layernorm.weight", [d]));
            tensors.Add((p + "post_attention_layernorm.weight", [d]));
            foreach (string a in new[] { "q", "k", "v", "o" }) tensors.Add(($"{p}self_attn.{a}_proj.weight", [d, d]));
            tensors.Add((p + "mlp.gate_proj.weight", [n, d]));
            tensors.Add((p + "mlp.up_proj.weight", [n, d]));
            tensors.Add((p + "mlp.down_proj.weight", [d, n]));
        }
        long end = 0;
        var header = new StringBuilder("{");
        foreach ((string name, int[] shape) in tensors)
        {
            long size = shape.Aggregate(4L, (a, b) => a * b);
            header.Append($"{(end > 0 ? "," : "")}\"{name}\":{{\"dtype\":\"F32\",\"shape\":[{string.Join(',', shape)}],\"data_offsets\":[{end},{end + size}]}}");
            end += size;
        }
        byte[] json = Encoding.UTF8.GetBytes(header.Append('}').ToString());
        float[] pattern = [.. Enumerable.Range(0, 64 * 1024).Select(i => MathF.Sin(i * 0.37f))];
        using FileStream file = File.Create(Path.Combine(folder, "model.safetensors"));
        file.Write(BitConverter.GetBytes((long)json.Length));
        file.Write(json);
        for (long done = 0; done < end;)
        {
            ReadOnlySpan<byte> piece = MemoryMarshal.AsBytes(pattern.AsSpan());
            int count = (int)Math.Min(piece.Length, end - done);
            file.Write(piece[..count]);
            done += count;
        }
        return file.Length;
    }

    /// <summary>Looks at what is alive on the managed heap whenever a few more bytes were written.</summary>
    private sealed class Watch : IProgress<ImportProgress>
    {
        private readonly long _before = GC.GetTotalMemory(forceFullCollection: true);
        private long _last;
        public long Most { get; private set; }
        public int Samples { get; private set; }

        public void Report(ImportProgress value)
        {
            if (value.Done < _last + (1 << 19)) return;
            _last = value.Done;
            Samples++;
            Most = Math.Max(Most, GC.GetTotalMemory(forceFullCollection: true) - _before);
        }
    }
}
