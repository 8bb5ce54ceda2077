namespace FlashOrleans.Engine.Tests;

/// <summary>
/// SmallThinker by its paper (arXiv 2507.20984) and its configuration's words, since there is no golden: a tiny random checkpoint, and beside it the model written down once more, in double, for this test alone.
/// </summary>
public sealed class SmallThinkerTests : PaperModel
{
    private const int Hidden = 64, Heads = 4, KvHeads = 2, HeadDim = 16, Layers = 4, Experts = 6, Active = 2, Vocabulary = 128, Window = 5;

    /// <summary>Neurons of an expert: part of a slab, and no multiple of a panel; with lean bundles a multiple of those.</summary>
    private int _size = 24;

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, true)]
    [InlineData(false, false)]
    public void Logits_equal_the_paper_s_model_written_down_independently(bool softmax, bool early)
    {
        using var imported = Create(softmax, early);
        AssertLogits(Logits(softmax, early), imported.Package);
    }

    [Fact]
    public void With_room_for_all_experts_for_two_or_for_one_the_bits_are_the_same()
    {
        using var imported = Create(softmax: false, early: true);
        AssertBits(imported.Package);
    }

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, true)]
    [InlineData(false, false)]
    public void Neuron_by_neuron_they_equal_it_too_with_the_same_bits_in_every_window(bool softmax, bool early)
    {
        _size = 48;
        using var lean = ImportedPackage.Create(Checkpoint(softmax, early), "f32", lean: true);
        Assert.True(lean.Package.Config.Experts!.ByNeuron && lean.Package.Manifest.Lean);
        AssertLogits(Logits(softmax, early), lean.Package);
        AssertBits(lean.Package);
        // About half of the chosen experts' neurons are zero, and nothing is known of the others.
        Assert.All(lean.Package.Manifest.Measured!.Zeros, static z => Assert.InRange(1 - z, 0.25 * Active / Experts, 0.75 * Active / Experts));
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public void A_GGUF_file_computes_what_its_checkpoint_computes(bool softmax, bool lean)
    {
        _size = 32;
        string checkpoint = Checkpoint(softmax, early: true), file = PathOf("m.gguf");
        File.WriteAllBytes(file, GgufTwin.WriteFolder(checkpoint, "smallthinker"));
        using var plain = ImportedPackage.Create(checkpoint, "f32", lean: lean);
        using var gguf = ImportedPackage.Create(file, "f32", lean: lean);
        Assert.Equal(plain.Package.Config.Experts, gguf.Package.Config.Experts);
        Assert.Equal(plain.Package.Config.LayerTraits, gguf.Package.Config.LayerTraits);
        Assert.Equal(Run(plain.Package, "auto", 0.3, 4, threads: 2), Run(gguf.Package, "auto", 0.3, 4, threads: 2));
    }

    /// <summary>What the early router asks for is what the feed-forward then needs: nothing is read in vain, nothing is missed.</summary>
    [Fact]
    public void The_early_router_fetches_the_experts_that_are_needed_and_no_others()
    {
        using var imported = Create(softmax: false, early: true);
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 1 });
        using var session = engine.OpenSession();
        Assert.Equal(5, session.Generate(Ids, 5, Sampling.Greedy).Count());
        foreach (var layer in engine.Layers)
        {
            Assert.True(layer.Stats.PrefetchIssued > 0);
            Assert.Equal(0, layer.Stats.PrefetchWasted);
            // Layer 0 reads rows of the embedding on demand.
            if (layer.Index > 0) Assert.Equal(0, layer.Stats.DemandReads);
        }
    }

    private ImportedPackage Create(bool softmax, bool early) => ImportedPackage.Create(Checkpoint(softmax, early), "f32");

    private string Checkpoint(bool softmax, bool early)
    {
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
                Add(l + $"block_sparse_moe.experts.{e}.gate.weight", 0.3f, _size, Hidden);
                Add(l + $"block_sparse_moe.experts.{e}.up.weight", 0.3f, _size, Hidden);
                Add(l + $"block_sparse_moe.experts.{e}.down.weight", 0.4f, Hidden, _size);
            }
        }
        return Write($"{softmax}-{early}", new()
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
            ["rope_theta"] = 1e6,
            ["rope_layout"] = new[] { 0, 1, 1, 1 },
            ["sliding_window_layout"] = new[] { 0, 1, 1, 1 },
            ["sliding_window_size"] = Window,
            ["moe_num_primary_experts"] = Experts,
            ["moe_num_active_primary_experts"] = Active,
            ["moe_ffn_hidden_size"] = _size,
            ["moe_primary_router_apply_softmax"] = softmax,
            ["moe_enable_early_router"] = early,
        });
    }

    // ---------------------------------------------------------------- the model, once more

    private double[][] Logits(bool softmax, bool early)
    {
        double[][] stream = [.. Ids.Select(id => Row("model.embed_tokens.weight", id))];
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
}
