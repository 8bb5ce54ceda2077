using System.Runtime.InteropServices;
using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>
/// SmallThinker by its paper (arXiv 2507.20984) and its configuration's words, since there is no golden: a tiny random checkpoint, and beside it the model written down once more, in double, for this test alone.
/// </summary>
public sealed class SmallThinkerTests : IDisposable
{
    private const int Hidden = 64, Heads = 4, KvHeads = 2, HeadDim = 16, Layers = 4, Experts = 6, Active = 2, Size = 24, Vocabulary = 128, Window = 5;
    private static readonly int[] s_ids = [3, 99, 17, 64, 5, 120, 8, 41, 77, 2, 30, 11, 90];
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-smallthinker-").FullName;
    private readonly Dictionary<string, (int[] Shape, float[] Data)> _tensors = new(StringComparer.Ordinal);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, true)]
    [InlineData(false, false)]
    public void Logits_equal_the_paper_s_model_written_down_independently(bool softmax, bool early)
    {
        using var imported = Create(softmax, early);
        double[][] expected = Logits(softmax, early);
        List<float[]> reference = ReferenceModel.FromPackage(imported.Package).Run(s_ids).Logits;
        for (int i = 0; i < s_ids.Length; i++)
            for (int t = 0; t < Vocabulary; t++) Assert.Equal(expected[i][t], reference[i][t], 2e-4);
        foreach ((int id, float logit) in Run(imported.Package, "auto", 0.3, 4, threads: 2)) Assert.Equal(expected[^1][id], logit, 2e-4);
    }

    [Fact]
    public void With_room_for_all_experts_for_two_or_for_one_the_bits_are_the_same()
    {
        using var imported = Create(softmax: false, early: true);
        (int, float)[] plain = Run(imported.Package, "scalar", 1, 64, threads: 1);
        foreach (string kernels in Kernels.Available)
            foreach (int held in new[] { Experts, 2, 1 })
                foreach (int threads in new[] { 1, 3 })
                    Assert.Equal(plain, Run(imported.Package, kernels, (double)held / Experts, threads == 1 ? 1 : 5, threads));
    }

    /// <summary>What the early router asks for is what the feed-forward then needs: nothing is read in vain, nothing is missed.</summary>
    [Fact]
    public void The_early_router_fetches_the_experts_that_are_needed_and_no_others()
    {
        using var imported = Create(softmax: false, early: true);
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 1 });
        using var session = engine.OpenSession();
        Assert.Equal(5, session.Generate(s_ids, 5, Sampling.Greedy).Count());
        foreach (var layer in engine.Layers)
        {
            Assert.True(layer.Stats.PrefetchIssued > 0);
            Assert.Equal(0, layer.Stats.PrefetchWasted);
            // Layer 0 reads rows of the embedding on demand.
            if (layer.Index > 0) Assert.Equal(0, layer.Stats.DemandReads);
        }
    }

    private static (int, float)[] Run(FlashPackage package, string kernels, double window, int chunk, int threads)
    {
        using var engine = new LocalEngine(package, new() { Kernels = kernels, Threads = threads }, new() { Window = window });
        using var session = engine.OpenSession();
        session.Timeline.Append(s_ids);
        return session.Run(Sampling.Greedy, SlotFlags.Sample, Vocabulary, chunk).Top!;
    }

    private ImportedPackage Create(bool softmax, bool early)
    {
        var random = new Random(7);
        void Add(string name, float scale, params int[] shape) =>
            _tensors[name] = (shape, [.. Enumerable.Range(0, shape.Aggregate(1, (a, b) => a * b)).Select(_ => shape.Length == 1 ? 1 + 0.2f * (random.NextSingle() - 0.5f) : scale * 2 * (random.NextSingle() - 0.5f))]);
        Add("model.embed_tokens.weight", 1, Vocabulary, Hidden);
        Add("model.norm.weight", 1, Hidden);
        for (int i = 0; i < Layers; i++)
        {
            string l = $"model.layers.{i}.";
            Add(l + "input_layernorm.weight", 1, Hidden);
            Add(l + "post_attention_layernorm.weight", 1, Hidden);
            Add(l + "self_attn.q_proj.weight", 0.3f, Heads * HeadDim, Hidden);
            Add(l + "self_attn.k_proj.weight", 0.3f, KvHeads * HeadDim, Hidden);
            Add(l + "self_attn.v_proj.weight", 0.3f, KvHeads * HeadDim, Hidden);
            Add(l + "self_attn.o_proj.weight", 0.3f, Hidden, Heads * HeadDim);
            Add(l + "block_sparse_moe.primary_router.weight", 0.5f, Experts, Hidden);
            for (int e = 0; e < Experts; e++)
            {
                Add(l + $"block_sparse_moe.experts.{e}.gate.weight", 0.3f, Size, Hidden);
                Add(l + $"block_sparse_moe.experts.{e}.up.weight", 0.3f, Size, Hidden);
                Add(l + $"block_sparse_moe.experts.{e}.down.weight", 0.4f, Hidden, Size);
            }
        }
        string checkpoint = Path.Combine(_folder, $"{softmax}-{early}");
        Directory.CreateDirectory(checkpoint);
        File.WriteAllText(Path.Combine(checkpoint, "config.json"), JsonSerializer.Serialize(new Dictionary<string, object>
        {
            ["architectures"] = new[] { "SmallThinkerForCausalLM" },
            ["model_type"] = "smallthinker",
            ["auto_map"] = new Dictionary<string, string> { ["AutoModelForCausalLM"] = "modeling_smallthinker.SmallThinkerForCausalLM" },
            ["vocab_size"] = Vocabulary,
            ["hidden_size"] = Hidden,
            ["num_hidden_layers"] = Layers,
            ["num_attention_heads"] = Heads,
            ["num_key_value_heads"] = KvHeads,
            ["head_dim"] = HeadDim,
            ["max_position_embeddings"] = 256,
            ["rms_norm_eps"] = 1e-6,
            ["rope_layout"] = new[] { 0, 1, 1, 1 },
            ["sliding_window_layout"] = new[] { 0, 1, 1, 1 },
            ["sliding_window_size"] = Window,
            ["moe_num_primary_experts"] = Experts,
            ["moe_num_active_primary_experts"] = Active,
            ["moe_ffn_hidden_size"] = Size,
            ["moe_primary_router_apply_softmax"] = softmax,
            ["moe_enable_early_router"] = early,
        }));
        WriteSafetensors(Path.Combine(checkpoint, "model.safetensors"));
        return ImportedPackage.Create(checkpoint, "f32");
    }

    private void WriteSafetensors(string path)
    {
        long at = 0;
        var header = new Dictionary<string, object>();
        foreach ((string name, (int[] shape, float[] data)) in _tensors)
            header[name] = new Dictionary<string, object> { ["dtype"] = "F32", ["shape"] = shape, ["data_offsets"] = new[] { at, at += data.Length * 4L } };
        byte[] json = JsonSerializer.SerializeToUtf8Bytes(header);
        using FileStream file = File.Create(path);
        file.Write(BitConverter.GetBytes((long)json.Length));
        file.Write(json);
        foreach ((_, float[] data) in _tensors.Values) file.Write(MemoryMarshal.AsBytes<float>(data));
    }

    // ---------------------------------------------------------------- the model, once more

    private double[][] Logits(bool softmax, bool early)
    {
        double[][] stream = [.. s_ids.Select(id => Row("model.embed_tokens.weight", id))];
        for (int i = 0; i < Layers; i++)
        {
            string l = $"model.layers.{i}.";
            double[][] entering = stream, normed = [.. stream.Select(x => Norm(x, l + "input_layernorm.weight"))];
            double[][] k = [.. normed.Select((x, t) => Turned(Times(l + "self_attn.k_proj.weight", x), t, i > 0))], v = [.. normed.Select(x => Times(l + "self_attn.v_proj.weight", x))];
            stream = [.. stream.Select((x, t) => Sum(x, Times(l + "self_attn.o_proj.weight", Attend(Turned(Times(l + "self_attn.q_proj.weight", normed[t]), t, i > 0), k, v, i > 0 ? Math.Max(0, t - Window + 1) : 0, t))))];
            stream = [.. stream.Select((x, t) =>
            {
                double[] input = Norm(x, l + "post_attention_layernorm.weight");
                return Sum(x, Feed(l + "block_sparse_moe.", input, early ? entering[t] : input, softmax));
            })];
        }
        return [.. stream.Select(x => Times("model.embed_tokens.weight", Norm(x, "model.norm.weight")))];
    }

    private double[] Feed(string l, double[] x, double[] routed, bool softmax)
    {
        double[] logits = Times(l + "primary_router.weight", routed), y = new double[Hidden];
        int[] best = [.. Enumerable.Range(0, Experts).OrderByDescending(e => logits[e]).Take(Active)];
        double[] weights = [.. best.Select(e => softmax ? Math.Exp(logits[e]) : 1 / (1 + Math.Exp(-logits[e])))];
        for (int b = 0; b < Active; b++)
        {
            string e = l + $"experts.{best[b]}.";
            double[] gate = Times(e + "gate.weight", x), up = Times(e + "up.weight", x);
            double[] down = Times(e + "down.weight", [.. gate.Zip(up, static (g, u) => Math.Max(g, 0) * u)]);
            for (int j = 0; j < Hidden; j++) y[j] += weights[b] / weights.Sum() * down[j];
        }
        return y;
    }

    private static double[] Attend(double[] q, double[][] k, double[][] v, int first, int last)
    {
        double[] y = new double[Heads * HeadDim];
        for (int h = 0; h < Heads; h++)
        {
            int kv = h / (Heads / KvHeads) * HeadDim;
            double[] share = [.. Enumerable.Range(first, last - first + 1).Select(t => Math.Exp(Enumerable.Range(0, HeadDim).Sum(j => q[h * HeadDim + j] * k[t][kv + j]) / Math.Sqrt(HeadDim)))];
            for (int t = first; t <= last; t++)
                for (int j = 0; j < HeadDim; j++) y[h * HeadDim + j] += share[t - first] / share.Sum() * v[t][kv + j];
        }
        return y;
    }

    private static double[] Turned(double[] x, int position, bool rotates)
    {
        double[] y = [.. x];
        for (int at = 0; rotates && at < x.Length; at += HeadDim)
            for (int j = 0; j < HeadDim / 2; j++)
            {
                double angle = position * Math.Pow(1e6, -2.0 * j / HeadDim), a = x[at + j], b = x[at + j + HeadDim / 2];
                (y[at + j], y[at + j + HeadDim / 2]) = (a * Math.Cos(angle) - b * Math.Sin(angle), b * Math.Cos(angle) + a * Math.Sin(angle));
            }
        return y;
    }

    private double[] Norm(double[] x, string weight)
    {
        double size = Math.Sqrt(x.Sum(static a => a * a) / x.Length + 1e-6);
        return [.. x.Select((a, j) => a / size * _tensors[weight].Data[j])];
    }

    private double[] Times(string matrix, double[] x)
    {
        (int[] shape, float[] data) = _tensors[matrix];
        return [.. Enumerable.Range(0, shape[0]).Select(r => Enumerable.Range(0, shape[1]).Sum(c => (double)data[r * shape[1] + c] * x[c]))];
    }

    private double[] Row(string matrix, int row) => [.. _tensors[matrix].Data.AsSpan(row * Hidden, Hidden).ToArray().Select(static f => (double)f)];

    private static double[] Sum(double[] a, double[] b) => [.. a.Zip(b, static (x, y) => x + y)];
}
