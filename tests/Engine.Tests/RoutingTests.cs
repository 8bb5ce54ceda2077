using FlashOrleans.Flash;
using FlashOrleans.Models.Synthetic;

namespace FlashOrleans.Engine.Tests;

/// <summary>Experts that are drawn: of trained models' locality, the same for the same session whoever asks and when, and no help to who looks ahead beyond what is stated.</summary>
public sealed class RoutingTests
{
    private static readonly ExpertConfig s_experts = new() { Count = 64, Active = 8, Size = 32, Normalised = true };

    [Fact]
    public void A_tokens_experts_depend_on_session_position_and_layer_alone()
    {
        var config = new RoutingConfig { Seed = 3 };
        RoutingModel one = new(config, 2, s_experts), other = new(config, 2, s_experts);
        ulong key = one.Key(7);
        int[] late = one.Draw(key, 500).ToArray();
        for (int t = 0; t < 40; t++) other.Draw(other.Key(8), t);
        Assert.Equal(late, other.Draw(key, 500).ToArray());
        Assert.Equal(8, late.Distinct().Count());
        Assert.NotEqual(late, new RoutingModel(config, 3, s_experts).Draw(key, 500).ToArray());
        Assert.NotEqual(late, one.Draw(one.Key(8), 500).ToArray());
    }

    [Fact]
    public void Drawn_experts_win_whatever_the_router_said_and_keep_their_order_of_weight()
    {
        RoutingModel model = new(new RoutingConfig(), 0, s_experts);
        float[] logits = [.. Enumerable.Range(0, 64).Select(static i => 5 - i * 0.15f)];
        int[] drawn = model.Draw(model.Key(1), 9).ToArray();
        model.Choose(model.Key(1), 9, logits);
        int[] chosen = [.. Enumerable.Range(0, 64).OrderByDescending(i => logits[i]).Take(8)];
        Assert.Equal(drawn.Order(), chosen.Order());
        Assert.Equal(chosen.Order(), chosen);
    }

    [Fact]
    public void A_guess_names_as_many_experts_and_is_right_as_often_as_stated()
    {
        RoutingModel model = new(new RoutingConfig { AheadRecall = 0.8 }, 1, s_experts);
        ulong key = model.Key(5);
        int right = 0;
        const int Tokens = 2000;
        for (int t = 0; t < Tokens; t++)
        {
            float[] logits = new float[64];
            model.Guess(key, t, logits);
            int[] guessed = [.. Enumerable.Range(0, 64).Where(i => logits[i] > 0)];
            Assert.Equal(8, guessed.Length);
            right += guessed.Intersect(model.Draw(key, t).ToArray()).Count();
        }
        Assert.InRange(right / (8.0 * Tokens), 0.78, 0.82);
    }

    /// <summary>The hit rates that the budget's plan expects of experts (docs/adr/0025).</summary>
    [Theory]
    [InlineData(0.4)]
    [InlineData(0.5)]
    [InlineData(0.75)]
    public void Hits_by_recency_are_those_that_plans_expect(double share)
    {
        RoutingModel model = new(new RoutingConfig(), 4, s_experts);
        ulong key = model.Key(1);
        int[] last = new int[64];
        Array.Fill(last, -1);
        int hits = 0, uses = 0;
        for (int t = 0; t < 1500; t++)
        {
            int[] set = model.Draw(key, t).ToArray();
            foreach (int e in set)
            {
                if (t < 300) continue;
                uses++;
                hits += last.Count(l => l > last[e]) < share * 64 ? 1 : 0;
            }
            foreach (int e in set) last[e] = t;
        }
        Assert.InRange(1 - Firing.Experts(0.125).MissedWith(share, 1) / 0.125, hits / (double)uses - 0.06, hits / (double)uses + 0.06);
    }

    /// <summary>A shape as `flash synth` makes it: whatever is held of the drawn experts, the tokens are the same, and a layer never holds more than it may.</summary>
    [Fact]
    public void A_synthetic_model_says_the_same_with_room_for_all_experts_of_a_layer_for_two_and_for_one()
    {
        string folder = Directory.CreateTempSubdirectory("flash-routing-").FullName;
        try
        {
            string shape = Path.Combine(folder, "shape.json"), path = Path.Combine(folder, "m.flash");
            File.WriteAllText(shape, """
                {"architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","hidden_act":"silu","vocab_size":512,"hidden_size":256,"intermediate_size":512,"moe_intermediate_size":64,"num_hidden_layers":3,
                 "num_attention_heads":4,"num_key_value_heads":2,"head_dim":64,"num_experts":16,"num_experts_per_tok":4,"norm_topk_prob":true,"max_position_embeddings":512,"rms_norm_eps":1e-6,"tie_word_embeddings":false}
                """);
            SyntheticModel.Create(path, new SyntheticOptions { Shape = shape, Activity = "auto", Name = "m" });
            using FlashPackage package = FlashPackage.Open(path);
            Assert.NotNull(package.Manifest.Routing);
            int[]? said = null;
            foreach (int held in new[] { 16, 2, 1 })
                foreach (bool prefetch in new[] { true, false })
                {
                    using var engine = new LocalEngine(package, new() { Threads = 2 }, new() { Window = held / 16.0, Prefetch = prefetch });
                    using var session = engine.OpenSession();
                    int[] tokens = [.. session.Generate([1, 2, 3, 4, 5, 6, 7], 12, Sampling.Greedy).Select(r => r.Token)];
                    Assert.Equal(said ??= tokens, tokens);
                    Assert.All(engine.Layers, l => Assert.True(l.Stats.WindowUsed <= held));
                    Assert.All(engine.Layers, l => Assert.True(held == 16 || l.Stats.UnitsHit < l.Stats.UnitsNeeded));
                }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
