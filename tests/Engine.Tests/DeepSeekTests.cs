namespace FlashOrleans.Engine.Tests;

/// <summary>
/// What the golden of DeepSeek-V2 has not: queries of a latent, yarn with factors of its own, experts chosen in groups, and the router of V3. By the papers (arXiv 2405.04434, 2412.19437, yarn 2309.00071):
/// tiny random checkpoints, and beside them the model written down once more, in double, for this test alone.
/// </summary>
public sealed class DeepSeekTests : PaperModel
{
    private const int Hidden = 64, Heads = 4, Own = 16, Turned = 8, Value = 12, Rank = 24, QueryRank = 20, Layers = 3, Dense = 1, Wide = 96, Experts = 8, Groups = 4, UsedGroups = 2, Active = 3, Size = 20, Shared = 2, Vocabulary = 128, Positions = 32;
    private const double Factor = 8, Theta = 10000;

    [Theory]
    [InlineData(false, true, 0.707, 0.707)]
    [InlineData(false, false, 0, 0)]
    [InlineData(true, true, 1, 1)]
    [InlineData(true, true, 1, 0.4)]
    public void Logits_equal_the_paper_s_model_written_down_independently(bool third, bool compressed, double mscale, double mscaleAll)
    {
        using var imported = ImportedPackage.Create(Checkpoint(third, compressed, mscale, mscaleAll), "f32");
        AssertLogits(Logits(third, compressed, mscale, mscaleAll), imported.Package);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void With_room_for_all_experts_for_two_or_for_one_the_bits_are_the_same(bool third)
    {
        using var imported = ImportedPackage.Create(Checkpoint(third, true, 1, 1), "f32");
        AssertBits(imported.Package);
    }

    /// <summary>Else the theory above would show nothing of them.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Groups_change_which_experts_are_chosen(bool third)
    {
        Checkpoint(third, true, 1, 1);
        double[][] grouped = Logits(third, true, 1, 1), free = Logits(third, true, 1, 1, used: Groups);
        Assert.Contains(Enumerable.Range(0, Ids.Length), i => Math.Abs(grouped[i][0] - free[i][0]) > 1e-3);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    public void A_GGUF_file_computes_what_its_checkpoint_computes(bool third, bool older)
    {
        string checkpoint = Checkpoint(third, true, 0.707, 0.707), file = PathOf("m.gguf");
        File.WriteAllBytes(file, GgufTwin.WriteFolder(checkpoint, "deepseek2", older));
        using var plain = ImportedPackage.Create(checkpoint, "f32");
        using var gguf = ImportedPackage.Create(file, "f32");
        Assert.Equal(plain.Package.Config.Experts, gguf.Package.Config.Experts);
        Assert.Equal(plain.Package.Config.Latent, gguf.Package.Config.Latent);
        // The file says the scores' factor in 32 bits.
        Assert.Equal(plain.Package.Config.AttentionScale, gguf.Package.Config.AttentionScale, 1e-6f);
        AssertLogits(Logits(third, true, 0.707, 0.707), gguf.Package);
    }

    private string Checkpoint(bool third, bool compressed, double mscale, double mscaleAll)
    {
        Add("model.embed_tokens.weight", 1, Vocabulary, Hidden);
        Add("model.norm.weight", 1, Hidden);
        Add("lm_head.weight", 0.4f, Vocabulary, Hidden);
        for (int i = 0; i < Layers; i++)
        {
            string l = $"model.layers.{i}.", a = l + "self_attn.", m = l + "mlp.";
            Add(l + "input_layernorm.weight", 1, Hidden);
            Add(l + "post_attention_layernorm.weight", 1, Hidden);
            if (compressed)
            {
                Add(a + "q_a_proj.weight", 0.3f, QueryRank, Hidden);
                Add(a + "q_a_layernorm.weight", 1, QueryRank);
                Add(a + "q_b_proj.weight", 0.5f, Heads * (Own + Turned), QueryRank);
            }
            else Add(a + "q_proj.weight", 0.3f, Heads * (Own + Turned), Hidden);
            Add(a + "kv_a_proj_with_mqa.weight", 0.3f, Rank + Turned, Hidden);
            Add(a + "kv_a_layernorm.weight", 1, Rank);
            Add(a + "kv_b_proj.weight", 0.5f, Heads * (Own + Value), Rank);
            Add(a + "o_proj.weight", 0.4f, Hidden, Heads * Value);
            if (i < Dense)
            {
                AddFeedForward(m, Wide);
                continue;
            }
            Add(m + "gate.weight", 0.5f, Experts, Hidden);
            if (third) AddBias(m + "gate.e_score_correction_bias", 0.3f, Experts);
            for (int e = 0; e < Experts; e++) AddFeedForward(m + $"experts.{e}.", Size);
            AddFeedForward(m + "shared_experts.", Shared * Size);
        }
        var config = new Dictionary<string, object>
        {
            ["architectures"] = new[] { third ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM" },
            ["model_type"] = third ? "deepseek_v3" : "deepseek_v2",
            ["vocab_size"] = Vocabulary,
            ["hidden_size"] = Hidden,
            ["intermediate_size"] = Wide,
            ["num_hidden_layers"] = Layers,
            ["num_attention_heads"] = Heads,
            ["num_key_value_heads"] = Heads,
            ["max_position_embeddings"] = (int)(Positions * Factor),
            ["rms_norm_eps"] = 1e-6,
            ["rope_theta"] = Theta,
            ["tie_word_embeddings"] = false,
            ["kv_lora_rank"] = Rank,
            ["qk_nope_head_dim"] = Own,
            ["qk_rope_head_dim"] = Turned,
            ["v_head_dim"] = Value,
            ["moe_intermediate_size"] = Size,
            ["n_routed_experts"] = Experts,
            ["n_shared_experts"] = Shared,
            ["num_experts_per_tok"] = Active,
            ["n_group"] = Groups,
            ["topk_group"] = UsedGroups,
            ["topk_method"] = third ? "noaux_tc" : "group_limited_greedy",
            ["scoring_func"] = third ? "sigmoid" : "softmax",
            ["norm_topk_prob"] = third,
            ["routed_scaling_factor"] = 2.5,
            ["first_k_dense_replace"] = Dense,
        };
        config["q_lora_rank"] = compressed ? QueryRank : null!;
        if (mscale != 0)
            config["rope_scaling"] = new Dictionary<string, object> { ["type"] = "yarn", ["factor"] = Factor, ["original_max_position_embeddings"] = Positions, ["beta_fast"] = 4, ["beta_slow"] = 1, ["mscale"] = mscale, ["mscale_all_dim"] = mscaleAll };
        return Write($"{third}-{compressed}-{mscale}-{mscaleAll}", config);
    }

    private void AddFeedForward(string at, int size)
    {
        Add(at + "gate_proj.weight", 0.3f, size, Hidden);
        Add(at + "up_proj.weight", 0.3f, size, Hidden);
        Add(at + "down_proj.weight", 0.4f, Hidden, size);
    }

    // ---------------------------------------------------------------- the model, once more

    private double[][] Logits(bool third, bool compressed, double mscale, double mscaleAll, int used = UsedGroups)
    {
        bool scaled = mscale != 0;
        // Yarn's temperature of the scores, once for each of the two words of the configuration.
        double turnedBy = scaled ? Stretch(mscale) / Stretch(mscaleAll) : 1, scale = (scaled ? Math.Pow(Stretch(mscaleAll), 2) : 1) / Math.Sqrt(Own + Turned);
        double[][] stream = [.. Ids.Select(id => Row("model.embed_tokens.weight", id))];
        for (int i = 0; i < Layers; i++)
        {
            string l = $"model.layers.{i}.";
            double[][] attended = Attend([.. stream.Select(x => Norm(x, l + "input_layernorm.weight"))], l + "self_attn.", compressed, scaled, turnedBy, scale);
            stream = [.. stream.Zip(attended, Sum)];
            stream = [.. stream.Select(x =>
            {
                double[] input = Norm(x, l + "post_attention_layernorm.weight");
                return Sum(x, i < Dense ? Feed(l + "mlp.", input) : Route(l + "mlp.", input, third, used));
            })];
        }
        return [.. stream.Select(x => Times("lm_head.weight", Norm(x, "model.norm.weight")))];
    }

    private static double Stretch(double mscale) => 1 + 0.1 * mscale * Math.Log(Factor);

    private double[][] Attend(double[][] inputs, string a, bool compressed, bool scaled, double turnedBy, double scale)
    {
        var keys = new List<double[][]>();
        var values = new List<double[][]>();
        var all = new List<double[]>();
        for (int t = 0; t < inputs.Length; t++)
        {
            double[] q = compressed ? Times(a + "q_b_proj.weight", Norm(Times(a + "q_a_proj.weight", inputs[t]), a + "q_a_layernorm.weight")) : Times(a + "q_proj.weight", inputs[t]);
            double[] latent = Times(a + "kv_a_proj_with_mqa.weight", inputs[t]), shared = Turn(latent[Rank..], t, scaled, turnedBy);
            double[] kv = Times(a + "kv_b_proj.weight", Norm(latent[..Rank], a + "kv_a_layernorm.weight"));
            keys.Add([.. kv.Chunk(Own + Value).Select(h => h[..Own].Concat(shared).ToArray())]);
            values.Add([.. kv.Chunk(Own + Value).Select(h => h[Own..])]);
            double[][] queries = [.. q.Chunk(Own + Turned).Select(h => h[..Own].Concat(Turn(h[Own..], t, scaled, turnedBy)).ToArray())];
            var mixed = new List<double>();
            for (int h = 0; h < Heads; h++)
            {
                double[] share = Softmax(Enumerable.Range(0, t + 1).Select(p => scale * queries[h].Zip(keys[p][h], static (x, y) => x * y).Sum()));
                mixed.AddRange(Enumerable.Range(0, Value).Select(j => Enumerable.Range(0, t + 1).Sum(p => share[p] * values[p][h][j])));
            }
            all.Add(Times(a + "o_proj.weight", [.. mixed]));
        }
        return [.. all];
    }

    /// <summary>Neighbours are turned as pairs.</summary>
    private static double[] Turn(double[] x, int position, bool scaled, double by)
    {
        double[] y = new double[x.Length];
        double Pair(double turns) => x.Length * Math.Log(Positions / (turns * 2 * Math.PI)) / (2 * Math.Log(Theta));
        double low = Math.Max(Math.Floor(Pair(4)), 0), high = Math.Min(Math.Ceiling(Pair(1)), x.Length - 1);
        for (int j = 0; j < x.Length / 2; j++)
        {
            double frequency = Math.Pow(Theta, -2.0 * j / x.Length);
            // Pairs that turn often stay, those that turn seldom are stretched.
            if (scaled) frequency *= 1 + (1 / Factor - 1) * Math.Clamp((j - low) / (high - low), 0, 1);
            double cos = Math.Cos(position * frequency) * by, sin = Math.Sin(position * frequency) * by;
            (y[2 * j], y[2 * j + 1]) = (x[2 * j] * cos - x[2 * j + 1] * sin, x[2 * j + 1] * cos + x[2 * j] * sin);
        }
        return y;
    }

    private double[] Feed(string at, double[] x) =>
        Times(at + "down_proj.weight", [.. Times(at + "gate_proj.weight", x).Zip(Times(at + "up_proj.weight", x), static (g, u) => g / (1 + Math.Exp(-g)) * u)]);

    private double[] Route(string at, double[] x, bool third, int used)
    {
        double[] logits = Times(at + "gate.weight", x), score = third ? [.. logits.Select(static s => 1 / (1 + Math.Exp(-s)))] : Softmax(logits);
        double[] choice = third ? Sum(score, Vector(at + "gate.e_score_correction_bias")) : score;
        const int each = Experts / Groups;
        int[] groups = [.. Enumerable.Range(0, Groups).OrderByDescending(g => choice[(g * each)..((g + 1) * each)].OrderDescending().Take(third ? 2 : 1).Sum()).Take(used)];
        int[] chosen = [.. Enumerable.Range(0, Experts).Where(e => groups.Contains(e / each)).OrderByDescending(e => choice[e]).Take(Active)];
        double[] y = Feed(at + "shared_experts.", x);
        foreach (int e in chosen)
        {
            double weight = 2.5 * score[e] / (third ? chosen.Sum(c => score[c]) : 1);
            y = Sum(y, [.. Feed(at + $"experts.{e}.", x).Select(v => weight * v)]);
        }
        return y;
    }
}
