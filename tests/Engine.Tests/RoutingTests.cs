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
    public void A_window_hits_as_often_as_plans_expect(double share) =>
        Assert.InRange(Hits(1, Retained((int)(share * 64))), 1 - Firing.Experts(0.125).MissedWith(share, 1) / 0.125 - 0.06, 1 - Firing.Experts(0.125).MissedWith(share, 1) / 0.125 + 0.06);

    /// <summary>The last ten tokens or so say more than the last one that used it, and with several sessions much more.</summary>
    [Theory]
    [InlineData(1, 0.25, 0.005)]
    [InlineData(1, 0.44, 0.005)]
    [InlineData(4, 0.25, 0.04)]
    [InlineData(4, 0.44, 0.03)]
    [InlineData(8, 0.44, 0.04)]
    public void A_window_of_experts_hits_more_than_recency_does(int sessions, double share, double atLeast)
    {
        double window = Hits(sessions, Retained((int)(share * 64))), recency = Hits(sessions, Recent((int)(share * 64)));
        TestContext.Current.TestOutputHelper?.WriteLine($"{sessions} sessions, {share:P0}: window {window:P1}, recency {recency:P1}");
        Assert.True(window >= recency + atLeast, $"window {window:P1}, recency {recency:P1}");
    }

    /// <summary>Share of the experts that steps of so many sessions need which the rule held. The rule is given each step's experts, ascending, and how many sessions use each, and says how many it held.</summary>
    private static double Hits(int sessions, Func<SortedDictionary<int, int>, int> rule)
    {
        RoutingModel model = new(new RoutingConfig(), 4, s_experts);
        long hits = 0, uses = 0;
        for (int t = 0; t < 1500 / sessions; t++)
        {
            SortedDictionary<int, int> needed = [];
            for (int s = 0; s < sessions; s++)
                foreach (int e in model.Draw(model.Key((ulong)s), t)) needed[e] = needed.GetValueOrDefault(e) + 1;
            int held = rule(needed);
            if (t < 100) continue;
            hits += held;
            uses += needed.Count;
        }
        return hits / (double)uses;
    }

    /// <summary>The engine's own window, one unit under way at a time.</summary>
    private static Func<SortedDictionary<int, int>, int> Retained(int slots)
    {
        var window = new Window(64, slots, Window.LongUnit, new(), "test", retention: Retention.Experts);
        return needed =>
        {
            window.Tick();
            foreach (int e in needed.Keys)
                if (window.Find(e) is >= 0 and int slot) window.Need(slot);
            int held = 0;
            foreach (var (e, uses) in needed)
            {
                int slot = window.Find(e);
                if (slot >= 0)
                {
                    held++;
                    window.Pin(slot);
                }
                else
                {
                    slot = window.Reserve(e);
                    window.Filled(slot);
                }
                window.Touch(slot, uses);
                window.Unpin(slot);
            }
            return held;
        };
    }

    /// <summary>By definition: the least recently used goes, of those not needed later in the step.</summary>
    private static Func<SortedDictionary<int, int>, int> Recent(int slots)
    {
        List<int> order = [];
        return needed =>
        {
            HashSet<int> later = [.. needed.Keys];
            int held = 0;
            foreach (int e in needed.Keys)
            {
                later.Remove(e);
                if (order.Remove(e)) held++;
                else if (order.Count == slots) order.RemoveAt(Math.Max(0, order.FindIndex(x => !later.Contains(x))));
                order.Add(e);
            }
            return held;
        };
    }

    /// <summary>A prompt needs most experts of a layer. What it leaves behind is what its last tokens used, not what it came to last.</summary>
    [Fact]
    public void After_a_prompt_a_window_holds_what_its_last_tokens_used()
    {
        string folder = Directory.CreateTempSubdirectory("flash-routing-").FullName;
        try
        {
            string shape = Path.Combine(folder, "shape.json"), path = Path.Combine(folder, "m.flash");
            File.WriteAllText(shape, """
                {"architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","hidden_act":"silu","vocab_size":512,"hidden_size":256,"intermediate_size":512,"moe_intermediate_size":384,"num_hidden_layers":4,
                 "num_attention_heads":4,"num_key_value_heads":2,"head_dim":64,"num_experts":64,"num_experts_per_tok":8,"norm_topk_prob":true,"max_position_embeddings":512,"rms_norm_eps":1e-6,"tie_word_embeddings":false}
                """);
            SyntheticModel.Create(path, new SyntheticOptions { Shape = shape, Activity = "auto", Name = "m" });
            using FlashPackage package = FlashPackage.Open(path);
            using var engine = new LocalEngine(package, new() { Threads = 2 }, new() { Window = 24 / 64.0, Prefetch = false });
            using var session = engine.OpenSession();
            _ = session.Generate([.. Enumerable.Range(1, 64)], 1, Sampling.Greedy).ToList();
            double held = 0, high = 0;
            foreach (var layer in engine.Layers)
            {
                RoutingModel routing = new(package.Manifest.Routing!, layer.Index, package.Config.ExpertsOf(layer.Index)!);
                for (int t = 52; t < 64; t++)
                    foreach (int e in routing.Draw(routing.Key(Sampling.Greedy.Seed), t))
                        if (layer.Bundles!.Window.Find(e) >= 0) held += 1 / (12.0 * 8 * engine.Layers.Count);
                for (int e = 32; e < 64; e++)
                    if (layer.Bundles!.Window.Find(e) >= 0) high += 1 / (24.0 * engine.Layers.Count);
            }
            // 24 of 64 by chance: .38. The last by number: all above 32.
            Assert.True(held > 0.6, $"{held:P0} of the experts of the last twelve tokens are held");
            Assert.InRange(high, 0.3, 0.75);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
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
