using FlashOrleans.Flash;
using FlashOrleans.Models.Synthetic;

namespace FlashOrleans.Engine.Tests;

/// <summary>Weights that only look ahead are so many bytes less of windows: the plan says when they go.</summary>
public sealed class LookAheadPlanTests
{
    private static EngineOptions Engine(long bytes, int context) => new()
    {
        Threads = 2,
        Budget = new BudgetOptions { Size = BudgetSize.OfBytes(bytes), Context = context, Host = BudgetHost.Grains },
    };

    /// <summary>prosparse-7b where it was measured: hardly any windows, windows for four fifths of what a step needs, and for nearly all.</summary>
    [Theory]
    [InlineData(0.527, 384, false)]
    [InlineData(0.68, 64, true)]
    [InlineData(0.78, 64, false)]
    public void Weights_for_looking_ahead_go_where_windows_are_tiny_and_where_they_hold_nearly_all(double share, int context, bool stay)
    {
        Manifest manifest = SyntheticModel.Plan("prosparse-7b", "q4");
        BudgetPlan Plan(long bytes, bool prefetch) => BudgetPlan.Of(manifest, 512, Engine(bytes, context), new LayerOptions { Mode = FeedForwardMode.Exact, Kv = KvType.Q8, Prefetch = prefetch });
        BudgetPlan plan = Plan((long)(manifest.Bytes * share), prefetch: true), without = Plan((long)(manifest.Bytes * share), prefetch: false);
        Assert.True(plan.Fits, plan.Refusal);
        Assert.Equal(stay, plan.LooksAhead);
        Assert.Equal(stay, plan.Native - plan.Windows > without.Native - without.Windows);
        Assert.Equal(stay, plan.Windows < without.Windows);
        // The least that would do is the same whatever is asked, and does.
        Assert.Equal(without.Minimum, plan.Minimum);
        Assert.False(Plan(plan.Minimum, prefetch: true).LooksAhead);
        Assert.True(Plan(plan.Minimum, prefetch: true).Fits);
        Assert.False(Plan(plan.Minimum - 1, prefetch: true).Fits);
    }

    [Fact]
    public void Layers_that_were_planned_without_do_not_load_them_and_say_the_same()
    {
        string folder = Directory.CreateTempSubdirectory("flash-lookahead-").FullName;
        try
        {
            string shape = Path.Combine(folder, "shape.json"), path = Path.Combine(folder, "m.flash");
            File.WriteAllText(shape, """
                {"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"relu","vocab_size":320,"hidden_size":64,"intermediate_size":512,"num_hidden_layers":3,
                 "num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":128,"rms_norm_eps":1e-5,"bos_token_id":1,"eos_token_id":2}
                """);
            SyntheticModel.Create(path, new SyntheticOptions { Shape = shape, Activity = "paper", Name = "m" });
            using FlashPackage package = FlashPackage.Open(path);
            List<int[]> said = [];
            foreach (EngineOptions options in new[] { new EngineOptions { Threads = 2 }, Engine(256 << 20, 64) })
            {
                using var engine = new LocalEngine(package, options, new LayerOptions { Mode = FeedForwardMode.Exact });
                using var session = engine.OpenSession();
                said.Add([.. session.Generate([1, 2, 3, 4, 5], 12, Sampling.Greedy).Select(static r => r.Token)]);
                bool budget = options.Budget != null;
                Assert.All(engine.Layers, l => Assert.Equal(!budget, l.Options.Prefetch));
                Assert.Equal(!budget, engine.Layers[1].Weights!.Lookahead.Exists);
                Assert.Equal(budget, engine.Layers[1].Stats.PredictedUnits == 0);
            }
            Assert.Equal(said[0], said[1]);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
