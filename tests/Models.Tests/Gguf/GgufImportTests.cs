using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Gguf;

/// <summary>GGUF files as checkpoints: what is wrong with one is a clear line, and what is right has the numbers of its safetensors twin.</summary>
public sealed class GgufImportTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-gguf-import-").FullName;

    public static TheoryData<string, string> Bad => new(TestData.Json(TestData.Repo("tests", "data", "gguf", "bad", "index.json")).EnumerateArray()
        .Select(e => (e.GetProperty("path").GetString()!, e.GetProperty("expect").GetString()!)));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory, MemberData(nameof(Bad))]
    public void A_malformed_file_is_refused_as_a_checkpoint_with_one_line_and_little_memory(string path, string expect)
    {
        string file = TestData.Repo("tests", "data", "gguf", "bad", path);
        if (expect == "ok")
        {
            ReadAll(file);
            return;
        }
        long before = GC.GetAllocatedBytesForCurrentThread();
        var e = Assert.Throws<ModelFormatException>(() => ReadAll(file));
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 4 << 20, "much memory was taken before it was refused");
        Assert.DoesNotContain('\n', e.Message);
        Assert.Contains(path, e.Message, StringComparison.Ordinal);
    }

    /// <summary>PowerInfer's layout: down rows by neuron, q and k rows permuted as llama.cpp does, ReLU without a word in the metadata.</summary>
    [Theory]
    [InlineData("llama-relu", "llama")]
    [InlineData("bamboo", "bamboo")]
    public void A_PowerInfer_file_has_the_numbers_and_the_activation_of_its_safetensors_twin(string golden, string architecture)
    {
        using Checkpoint twin = Checkpoint.Open(TestData.Golden(golden));
        string file = Path.Combine(_folder, "model.powerinfer.gguf");
        File.WriteAllBytes(file, PowerInfer(twin, architecture));
        using Checkpoint checkpoint = Checkpoint.Open(file);
        Assert.Equal((twin.Config.Activation, twin.Config.FfnSize, twin.Config.KvHeads, twin.Config.TiedHead), (checkpoint.Config.Activation, checkpoint.Config.FfnSize, checkpoint.Config.KvHeads, checkpoint.Config.TiedHead));
        Assert.Equal(twin.Tensors.Order(), checkpoint.Tensors.Order());
        foreach (string name in twin.Tensors) Assert.Equal(twin.Read(name), checkpoint.Read(name));
    }

    [Fact]
    public void The_predictors_of_a_PowerInfer_file_go_into_the_package_by_themselves()
    {
        using Checkpoint twin = Checkpoint.Open(TestData.Golden("llama-relu"));
        string file = Path.Combine(_folder, "model.powerinfer.gguf"), target = Path.Combine(_folder, "m.flash");
        File.WriteAllBytes(file, PowerInfer(twin, "llama", threshold: -0.5f));
        ImportResult result = Importer.Import(file, target, new ImportOptions { Quant = "f32" });
        using FlashPackage package = FlashPackage.Open(target);
        Assert.Equivalent(new PredictorConfig { Layers = [.. Enumerable.Repeat(new LowRank(8, -0.5f), twin.Config.Layers)] }, package.Manifest.Predictors, strict: true);
        var stored = new PackageTensors(package);
        for (int i = 0; i < twin.Config.Layers; i++)
        {
            Assert.Equal(Numbers(8 * twin.Config.HiddenSize, i), stored.Read($"layers.{i}.predictor.fc1"));
            Assert.Equal(Numbers(8 * twin.Config.FfnSize, -i), stored.Read($"layers.{i}.predictor.fc2"));
        }
        Assert.Equivalent(package.Manifest.Predictors, result.Predictors, strict: true);
        // Told to be no ReLU model, it has no use for them.
        ImportPlan silu = Importer.Plan(file, new ImportOptions { Activation = "silu" });
        Assert.Null(silu.Predictors);
        Assert.Contains(silu.Notes, static n => n.Contains("predictors in the file are left out", StringComparison.Ordinal));
        // Nor where bundles lack the rows that it would compute by them.
        ImportPlan lean = Importer.Plan(file, new ImportOptions { Lean = true });
        Assert.Null(lean.Predictors);
        Assert.Contains(lean.Notes, static n => n.Contains("predictors in the file are left out: mode predicted needs whole bundles", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("blk.1.fc2.weight", "has predictors, but no tensor blk.1.fc2.weight")]
    [InlineData("blk.1.fc1.weight", "has predictors, but no tensor blk.1.fc1.weight")]
    [InlineData("wide", "inputs and")]
    [InlineData("rank", "do not fit: the rows of fc2 must be as long as fc1 has rows")]
    public void Predictors_of_a_PowerInfer_file_that_do_not_fit_are_refused(string fault, string says)
    {
        using Checkpoint twin = Checkpoint.Open(TestData.Golden("llama-relu"));
        string file = Path.Combine(_folder, "model.powerinfer.gguf");
        File.WriteAllBytes(file, PowerInfer(twin, "llama", fault: fault));
        Assert.Contains(says, Assert.Throws<ModelFormatException>(() => Importer.Plan(file)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Experts_of_a_GGUF_file_are_those_of_its_safetensors_twin()
    {
        using Checkpoint twin = Checkpoint.Open(TestData.Golden("mixtral"));
        string file = Path.Combine(_folder, "mixtral.gguf");
        File.WriteAllBytes(file, Mixtral(twin).Build());
        using Checkpoint checkpoint = Checkpoint.Open(file);
        Assert.Equal(twin.Config.Experts, checkpoint.Config.Experts);
        foreach (string name in twin.Tensors) Assert.Equal(twin.Read(name), checkpoint.Read(name));
    }

    [Theory]
    [InlineData("blk.1.ffn_up_shexp.weight")]
    [InlineData("blk.0.attn_q.scale")]
    [InlineData("blk.1.attn_v.bias")]
    [InlineData("blk.0.fc1.weight")]
    public void A_tensor_that_the_model_would_be_computed_without_is_refused_by_name(string tensor)
    {
        using Checkpoint twin = Checkpoint.Open(TestData.Golden("mixtral"));
        string file = Path.Combine(_folder, "more.gguf");
        File.WriteAllBytes(file, Mixtral(twin).Tensor(tensor, [32], new float[32]).Build());
        var e = Assert.Throws<ModelFormatException>(() => Checkpoint.Open(file));
        Assert.Contains($"tensor {tensor} belongs to nothing that is supported for llama", e.Message, StringComparison.Ordinal);
    }

    private static GgufBuilder Mixtral(Checkpoint twin)
    {
        ModelConfig c = twin.Config;
        ExpertConfig e = c.Experts!;
        var builder = new GgufBuilder();
        Common(builder, c, "llama").Key("llama.expert_count", (uint)e.Count).Key("llama.expert_used_count", (uint)e.Active);
        Attention(builder, twin);
        for (int i = 0; i < c.Layers; i++)
        {
            string o = $"layers.{i}.", s = $"blk.{i}.";
            builder.Tensor(s + "ffn_gate_inp.weight", [c.HiddenSize, e.Count], twin.Read(o + "ffn.router"));
            builder.Tensor(s + "ffn_gate_exps.weight", [c.HiddenSize, e.Size, e.Count], twin.Read(o + "ffn.gate"));
            builder.Tensor(s + "ffn_up_exps.weight", [c.HiddenSize, e.Size, e.Count], twin.Read(o + "ffn.up"));
            float[] down = twin.Read(o + "ffn.down"), turned = new float[down.Length];
            for (int x = 0; x < e.Count; x++)
                for (int j = 0; j < e.Size; j++)
                    for (int k = 0; k < c.HiddenSize; k++) turned[(x * c.HiddenSize + k) * e.Size + j] = down[(x * e.Size + j) * c.HiddenSize + k];
            builder.Tensor(s + "ffn_down_exps.weight", [e.Size, c.HiddenSize, e.Count], turned);
        }
        return builder;
    }

    private static float[] Numbers(int count, int seed) => [.. Enumerable.Range(0, count).Select(i => (i * 7 + seed) % 31 / 31f - 0.5f)];

    private static byte[] PowerInfer(Checkpoint twin, string architecture, float? threshold = null, string fault = "")
    {
        ModelConfig c = twin.Config;
        var builder = new GgufBuilder { Magic = "PWRI" };
        Common(builder, c, architecture);
        Attention(builder, twin);
        for (int i = 0; i < c.Layers; i++)
        {
            foreach ((string ours, string theirs) in new[] { ("ffn.gate", "ffn_gate"), ("ffn.up", "ffn_up"), ("ffn.down", "ffn_down_t") })
                builder.Tensor($"blk.{i}.{theirs}.weight", [c.HiddenSize, c.FfnSize], twin.Read($"layers.{i}.{ours}"));
            int wide = c.HiddenSize + (fault == "wide" ? 1 : 0), rank = fault == "rank" ? 9 : 8;
            if (fault != $"blk.{i}.fc1.weight") builder.Tensor($"blk.{i}.fc1.weight", [wide, 8], Numbers(8 * wide, i));
            if (fault != $"blk.{i}.fc2.weight") builder.Tensor($"blk.{i}.fc2.weight", [rank, c.FfnSize], Numbers(rank * c.FfnSize, -i));
        }
        if (threshold is { } t) builder.Key("powerinfer.sparse_threshold", t);
        return builder.Build();
    }

    private static GgufBuilder Common(GgufBuilder builder, ModelConfig c, string architecture) => builder
        .Key("general.architecture", architecture)
        .Key($"{architecture}.context_length", (uint)c.MaxPositions)
        .Key($"{architecture}.embedding_length", (uint)c.HiddenSize)
        .Key($"{architecture}.block_count", (uint)c.Layers)
        .Key($"{architecture}.feed_forward_length", (uint)c.FfnSize)
        .Key($"{architecture}.attention.head_count", (uint)c.Heads)
        .Key($"{architecture}.attention.head_count_kv", (uint)c.KvHeads)
        .Key($"{architecture}.attention.layer_norm_rms_epsilon", c.NormEps)
        .Key($"{architecture}.rope.freq_base", (float)c.RopeTheta);

    private static void Attention(GgufBuilder builder, Checkpoint twin)
    {
        ModelConfig c = twin.Config;
        int d = c.HiddenSize, q = c.Heads * c.HeadDim, kv = c.KvHeads * c.HeadDim;
        builder.Tensor("token_embd.weight", [d, c.VocabSize], twin.Read("embed")).Tensor("output_norm.weight", [d], twin.Read("final_norm.weight"));
        if (!c.TiedHead) builder.Tensor("output.weight", [d, c.VocabSize], twin.Read("head"));
        for (int i = 0; i < c.Layers; i++)
        {
            string o = $"layers.{i}.", s = $"blk.{i}.";
            float[] qkv = twin.Read(o + "attn.qkv");
            builder.Tensor(s + "attn_q.weight", [d, q], Neighbours(qkv[..(q * d)], c.HeadDim, d));
            builder.Tensor(s + "attn_k.weight", [d, kv], Neighbours(qkv[(q * d)..((q + kv) * d)], c.HeadDim, d));
            builder.Tensor(s + "attn_v.weight", [d, kv], qkv[((q + kv) * d)..]);
            builder.Tensor(s + "attn_output.weight", [q, d], twin.Read(o + "attn.o"));
            builder.Tensor(s + "attn_norm.weight", [d], twin.Read(o + "attn_norm.weight")).Tensor(s + "ffn_norm.weight", [d], twin.Read(o + "ffn_norm.weight"));
        }
    }

    /// <summary>Rows j and j + headDim/2 of each head become rows 2j and 2j + 1.</summary>
    private static float[] Neighbours(float[] rows, int headDim, int cols)
    {
        float[] turned = new float[rows.Length];
        for (int r = 0; r < rows.Length / cols; r++)
        {
            int head = r / headDim, j = r % headDim, half = headDim / 2;
            int to = head * headDim + (j < half ? 2 * j : 2 * (j - half) + 1);
            rows.AsSpan(r * cols, cols).CopyTo(turned.AsSpan(to * cols));
        }
        return turned;
    }

    private static void ReadAll(string file)
    {
        using Checkpoint checkpoint = Checkpoint.Open(file);
        foreach (string name in checkpoint.Tensors) checkpoint.Read(name);
    }
}
