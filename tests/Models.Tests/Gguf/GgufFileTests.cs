using System.Globalization;
using System.Text.Json;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Gguf;

public sealed class GgufFileTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("llama-Q4_0")]
    [InlineData("qwen2-Q8_0")]
    [InlineData("llama-relu-Q8_0")]
    public void A_model_has_the_tensors_and_metadata_that_it_was_made_with(string name) => CheckGolden(TestData.Repo("tests", "data", "gguf", name));

    [Fact]
    public void All_models_of_the_larger_set_have_the_tensors_and_metadata_that_they_were_made_with()
    {
        string[] files = Directory.GetFiles(TestData.Shared("golden", "gguf"), "*.gguf");
        Assert.True(files.Length > 20, $"only {files.Length} models");
        foreach (string file in files) CheckGolden(file[..^".gguf".Length]);
    }

    [Fact]
    public void A_published_checkpoint_opens_with_little_memory_and_gives_its_vocabulary()
    {
        string path = TestData.Shared("models", "smollm2-135m-instruct-q4_1.gguf");
        long before = GC.GetAllocatedBytesForCurrentThread();
        using GgufFile file = GgufFile.Open(path);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
        GgufMetadata metadata = file.Metadata;
        Assert.Equal(("llama", "smollm", 30), (metadata.Architecture, metadata.String("tokenizer.ggml.pre"), metadata.Int32("llama.block_count")));
        Assert.Equal((49152, 48900), (metadata.Tokens!.Length, metadata.Merges!.Length));
        Assert.Equal(GgufType.Q4_1, file.Require("blk.29.ffn_up.weight", 576, 1536).Type);
        file.Require("token_embd.weight", 576, 49152);
    }

    [Fact]
    public void Rows_read_in_pieces_are_the_rows_read_at_once_and_the_stored_blocks_dequantised()
    {
        using GgufFile file = GgufFile.Open(TestData.Repo("tests", "data", "gguf", "llama-relu-Q8_0.gguf"));
        foreach (GgufTensor tensor in file.Tensors.Values)
        {
            int rows = (int)tensor.Rows, cols = (int)tensor.Columns;
            float[] whole = new float[rows * cols], row = new float[cols], again = new float[cols];
            byte[] raw = new byte[tensor.RowBytes];
            file.ReadRows(tensor, 0, rows, whole);
            for (int r = 0; r < rows; r++)
            {
                file.ReadRows(tensor, r, 1, row);
                file.ReadRaw(tensor, r, 1, raw);
                GgufDequantizer.Dequantize(tensor.Type, raw, again);
                Assert.Equal(whole[(r * cols)..((r + 1) * cols)], row);
                Assert.Equal(row, again);
            }
            Assert.Contains(whole, static x => x != 0);
        }
    }

    [Fact]
    public void Many_threads_may_read_one_file()
    {
        using GgufFile file = GgufFile.Open(TestData.Repo("tests", "data", "gguf", "llama-Q4_0.gguf"));
        GgufTensor tensor = file.Tensors["token_embd.weight"];
        float[] whole = new float[tensor.Rows * tensor.Columns];
        file.ReadRows(tensor, 0, (int)tensor.Rows, whole);
        Parallel.For(0, (int)tensor.Rows, new ParallelOptions { MaxDegreeOfParallelism = 8 }, r =>
        {
            float[] row = new float[tensor.Columns];
            file.ReadRows(tensor, r, 1, row);
            Assert.Equal(whole[(r * row.Length)..((r + 1) * row.Length)], row);
        });
    }

    [Fact]
    public void Rows_longer_than_the_scratch_buffer_are_read_whole_and_expert_tensors_row_by_row()
    {
        // 2 experts of 3 rows of 200 000 halves.
        const int Cols = 200_000, Rows = 6;
        byte[] data = new byte[Cols * Rows * 2];
        for (int i = 0; i < Cols * Rows; i++) BitConverter.TryWriteBytes(data.AsSpan(i * 2), BitConverter.HalfToUInt16Bits((Half)(i / Cols * 100 + i % 97)));
        string path = _folder.Write("long.gguf", new GgufBuilder().Tensor("one", [1], [7f]).Tensor("experts", GgufType.F16, [Cols, 3, 2], data).Build());
        using GgufFile file = GgufFile.Open(path);
        GgufTensor experts = file.Require("experts", Cols, 3, 2);
        Assert.Equal((Rows, Cols, Cols * 2L), (experts.Rows, experts.Columns, experts.RowBytes));
        float[] rows = new float[Cols * 2];
        file.ReadRows(experts, 4, 2, rows);
        for (int i = 0; i < rows.Length; i++)
        {
            int n = 4 * Cols + i;
            Assert.Equal(n / Cols * 100 + n % 97, rows[i]);
        }
        Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadRows(experts, 5, 2, rows));
        Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadRows(experts, -1, 2, rows));
        Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadRows(experts, 0, 1, rows));
        Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadRaw(experts, 0, 1, new byte[Cols]));
    }

    [Fact]
    public void Whole_numbers_are_read_as_bytes_and_refused_as_weights()
    {
        string path = _folder.Write("index.gguf", new GgufBuilder().Tensor("blk.0.gpu_idx", GgufType.I32, [3], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).Build());
        using GgufFile file = GgufFile.Open(path);
        GgufTensor index = file.Tensors["blk.0.gpu_idx"];
        byte[] raw = new byte[12];
        file.ReadRaw(index, 0, 1, raw);
        Assert.Equal(1, raw[8]);
        var e = Assert.Throws<ModelFormatException>(() => file.ReadRows(index, 0, 1, new float[3]));
        Assert.Contains("blk.0.gpu_idx", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_vocabulary_without_tensors_may_end_with_its_metadata()
    {
        string path = _folder.Write("vocab.gguf", new GgufBuilder { Alignment = 1 }.Key("general.architecture", "llama").Key("tokenizer.ggml.tokens", new[] { "a", "b" }).Build());
        using GgufFile file = GgufFile.Open(path);
        Assert.Empty(file.Tensors);
        Assert.Equal(["a", "b"], file.Metadata.Tokens!);
    }

    [Fact]
    public void A_file_of_version_2_is_read()
    {
        using GgufFile file = GgufFile.Open(_folder.Write("two.gguf", new GgufBuilder { Version = 2 }.Tensor("w", [2], [1f, -2f]).Build()));
        float[] w = new float[2];
        file.ReadRows(file.Tensors["w"], 0, 1, w);
        Assert.Equal([1f, -2f], w);
        Assert.Equal(2u, file.Version);
    }

    [Fact]
    public void A_PowerInfer_file_says_so_and_gives_its_predictors()
    {
        float[] fc1 = [1, 2, 3, 4, 5, 6, 7, 8], fc2 = [.. Enumerable.Range(0, 6).Select(static i => (float)i)];
        string path = _folder.Write("model.powerinfer.gguf", new GgufBuilder { Magic = "PWRI" }
            .Key("general.architecture", "llama").Key("powerinfer.sparse_threshold", 0.25f)
            .Tensor("blk.0.fc1.weight", [4, 2], fc1).Tensor("blk.0.fc2.weight", [2, 3], fc2)
            .Tensor("blk.0.ffn_down_t.weight", [4, 3], new float[12]).Build());
        Assert.True(GgufFile.IsGguf(path));
        using GgufFile file = GgufFile.Open(path);
        Assert.True(file.IsPowerInfer);
        Assert.Equal(0.25f, file.Metadata.Float32("powerinfer.sparse_threshold"));
        GgufTensor tensor = file.Require("blk.0.fc2.weight", 2, 3);
        float[] read = new float[6];
        file.ReadRows(tensor, 0, 3, read);
        Assert.Equal(fc2, read);
        file.Require("blk.0.ffn_down_t.weight", 4, 3);
        using GgufFile plain = GgufFile.Open(TestData.Repo("tests", "data", "gguf", "llama-Q4_0.gguf"));
        Assert.False(plain.IsPowerInfer);
    }

    [Fact]
    public void What_is_no_GGUF_file_is_told_by_its_first_bytes()
    {
        Assert.False(GgufFile.IsGguf(_folder.Write("a", [])));
        Assert.False(GgufFile.IsGguf(_folder.Write("b", "GGML 12345"u8.ToArray())));
        Assert.False(GgufFile.IsGguf(Path.Combine(_folder.Path, "none")));
        Assert.True(GgufFile.IsGguf(_folder.Write("c", "GGUF"u8.ToArray())));
        Assert.Throws<ModelFormatException>(() => GgufFile.Open(Path.Combine(_folder.Path, "none")));
        Assert.Throws<ModelFormatException>(() => GgufFile.Open(_folder.Path));
    }

    private static void CheckGolden(string stem)
    {
        JsonElement golden = TestData.Json(stem + ".golden.json"), config = golden.GetProperty("config");
        using GgufFile file = GgufFile.Open(stem + ".gguf");
        Dictionary<string, string> types = golden.GetProperty("tensor_types").EnumerateObject().ToDictionary(static p => p.Name, static p => p.Value.GetString()!);
        Assert.Equal(types.Keys.Order(StringComparer.Ordinal), file.Tensors.Keys.Order(StringComparer.Ordinal));
        foreach (GgufTensor tensor in file.Tensors.Values)
        {
            Assert.Equal(types[tensor.Name], tensor.Type.ToString());
            float[] row = new float[tensor.Columns];
            file.ReadRows(tensor, tensor.Rows - 1, 1, row);
            Assert.All(row, static x => Assert.True(float.IsFinite(x)));
        }
        GgufMetadata metadata = file.Metadata;
        string arch = config.GetProperty("model_type").GetString()!;
        Assert.Equal(arch, metadata.Architecture);
        Assert.Equal(Path.GetFileName(stem), metadata.String("general.name"));
        foreach ((string key, string name) in new[] { ("embedding_length", "hidden_size"), ("block_count", "num_hidden_layers"), ("feed_forward_length", "intermediate_size"), ("attention.head_count", "num_attention_heads"), ("attention.head_count_kv", "num_key_value_heads") })
            Assert.Equal(config.GetProperty(name).GetInt32(), metadata.RequireInt32($"{arch}.{key}"));
        Assert.Equal(config.GetProperty("rms_norm_eps").GetSingle(), metadata.RequireFloat32($"{arch}.attention.layer_norm_rms_epsilon"));
        int d = config.GetProperty("hidden_size").GetInt32(), ff = config.GetProperty("intermediate_size").GetInt32(), vocab = config.GetProperty("vocab_size").GetInt32();
        file.Require("token_embd.weight", d, vocab);
        file.Require("blk.0.ffn_down.weight", ff, d);
        Assert.Equal(vocab, metadata.Tokens!.Length);
        Assert.Equal(vocab, metadata.TokenTypes!.Length);
        Assert.Equal(arch == "llama", metadata.Scores?.Length == vocab);
        Assert.Equal(arch == "qwen2", metadata.Merges?.Length > 10);
        if (stem.EndsWith("llama-relu-Q8_0", StringComparison.Ordinal)) Assert.Equal(64, metadata.Int32("general.alignment"));
        if (arch == "qwen2") Assert.All(metadata.Merges!, static m => Assert.Equal(2, m.Split(' ').Length));
        if (arch == "llama") Assert.Contains("<0x0A>", metadata.Tokens);
    }
}
