using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>The limits of a step, with round numbers.</summary>
public sealed class RooflineTests
{
    internal static readonly DeviceRates Rates = new() { Memory = 10e9, OneToken = 20e9, ManyTokens = 20e9, Reads = [new(4000, 20e-6), new(8000, 40e-6), new(100_000, 100e-6)], Source = "given" };

    [Fact]
    public void The_largest_of_three_times_is_the_limit_and_the_fraction_is_its_share_of_the_step()
    {
        var needs = new StepNeeds { Tokens = 1, MemoryBytes = 1e9, Shared = 2e9, Alone = 1e9, FlashBytes = 4e6, FlashReads = 1000 };
        var limits = Roofline.Of(needs, Rates);
        Assert.Equal(0.1, limits.MemorySeconds, 1e-12);
        Assert.Equal(0.15, limits.ComputeSeconds, 1e-12);
        Assert.Equal(0.02, limits.FlashSeconds, 1e-12);
        Assert.Equal("compute", limits.Limit);
        Assert.Equal(0.5, limits.Fraction(0.3), 1e-12);
        Assert.Equal("memory", Roofline.Of(needs with { Shared = 0 }, Rates).Limit);
        Assert.Equal("flash", Roofline.Of(needs with { FlashReads = 10_000, FlashBytes = 4e7 }, Rates).Limit);
        Assert.Equal(0, Roofline.Of(needs with { FlashReads = 0, FlashBytes = 0 }, Rates).FlashSeconds);
    }

    [Theory]
    // Work and reading in milliseconds, what each keeps beside the other, what both take.
    [InlineData(30, 60, 1, 1, 60)]
    [InlineData(30, 60, 0.75, 0.5, 80)]
    [InlineData(60, 30, 0.5, 0.75, 80)]
    [InlineData(30, 60, 0.4, 0.4, 90)]
    [InlineData(30, 0, 0.9, 0.5, 30)]
    [InlineData(0, 60, 0.9, 0.5, 60)]
    public void Side_by_side_each_goes_at_what_the_other_leaves_of_its_rate_then_the_rest_alone(double work, double reading, double memory, double flash, double expected) =>
        Assert.Equal(expected, new AtOnce(memory, flash).Seconds(work, reading), 1e-9);

    [Theory]
    [InlineData(1000, 20)]
    [InlineData(4000, 20)]
    [InlineData(6000, 30)]
    [InlineData(54_000, 70)]
    [InlineData(200_000, 200)]
    public void Between_measured_sizes_a_read_costs_what_lies_between_and_beyond_them_what_its_bytes_cost(int bytes, double micros) =>
        Assert.Equal(micros, 1e6 * ReadCost.Of(Rates.Reads, bytes), 1e-9);

    [Fact]
    public void Of_reads_that_were_measured_twice_the_better_counts_and_how_much_they_differ_is_known()
    {
        DeviceRates twice = Rates.Better([new(4000, 30e-6), new(8000, 20e-6), new(100_000, 100e-6)]);
        Assert.Equal([new(4000, 20e-6), new(8000, 20e-6), new(100_000, 100e-6)], twice.Reads);
        Assert.Equal(2, twice.ReadsChanged!.Value, 1e-9);
        // Other sizes cannot be compared.
        Assert.Same(Rates, Rates.Better([new(4000, 1e-6)]));
    }

    [Fact]
    public void A_matrix_gets_faster_with_tokens_from_the_rate_of_one_to_that_of_many()
    {
        var rates = Rates with { OneToken = 10e9, ManyTokens = 40e9 };
        Assert.Equal(10e9, rates.MultiplyAdds(1), 1);
        Assert.Equal(40e9, rates.MultiplyAdds(DeviceRates.Many), 1);
        for (int n = 1; n < 128; n++) Assert.True(rates.MultiplyAdds(n + 1) > rates.MultiplyAdds(n));
        // A machine that was disturbed while many were measured: never slower a token than one alone.
        Assert.Equal(10e9, (rates with { ManyTokens = 5e9 }).MultiplyAdds(64), 1);
    }

    [Fact]
    public void Needs_of_a_step_are_its_matrices_once_its_units_and_its_keys_and_values()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2, hidden: 64, ffn: 320), WeightFormat.F32);
        ModelConfig c = tiny.Package.Config;
        var shape = StepShape.Of(tiny.Package.Manifest, new LayerOptions());
        double attention = (c.QkvRows + c.Heads * c.HeadDim) * 64.0, selector = 320 * 64.0;
        Assert.All(shape.Layers, l => Assert.Equal(attention + selector, l.Weights));
        // f32, and two norms of 64.
        Assert.All(shape.Layers, l => Assert.Equal(4 * (attention + selector + 2 * 64), l.ResidentBytes));
        // The selector has done the gate's product.
        Assert.All(shape.Layers, l => Assert.Equal(2 * 64, l.NeuronWeights));
        Assert.Equal(c.VocabSize * 64.0, shape.HeadWeights);
        LayerWork[] work = [new(1, 2, 2, 10, 30), new(1, 2, 2, 20, 50)];
        var needs = shape.Needs(work, sampled: 2, context: 100, flashBytes: 5000, flashReads: 7);
        Assert.Equal(2, needs.Tokens);
        Assert.Equal(2 * (2 * (attention + selector) + shape.HeadWeights), needs.Shared);
        Assert.Equal(80 * 2 * 64 + 2 * 2 * 100 * shape.PositionWeights, needs.Alone);
        Assert.Equal(shape.HeadBytes + shape.Layers.Sum(static l => l.ResidentBytes) + 30 * shape.Layers[0].UnitBytes + 2 * 2 * 100 * shape.PositionBytes, needs.MemoryBytes, 1e-6);
        var dense = StepShape.Of(tiny.Package.Manifest, new LayerOptions { Mode = FeedForwardMode.Dense });
        Assert.Equal(attention, dense.Layers[0].Weights);
        Assert.Equal(3 * 64, dense.Layers[0].NeuronWeights);
        Assert.True(dense.Layers[0].Shared);
    }

    [Fact]
    public void Multiply_adds_bound_the_expected_speed_of_many_sessions()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2, hidden: 64, ffn: 320), WeightFormat.F32);
        var plan = BudgetPlan.Of(tiny.Package, new EngineOptions { Threads = 1, Budget = new() { Size = BudgetSize.OfBytes(1L << 30), Sessions = 8, Host = BudgetHost.Engine } }, new());
        Assert.True(plan.Fits);
        // Everything is in the window: nothing is read from flash.
        var fast = Expectation.Of(plan, Rates with { OneToken = 1e15, ManyTokens = 1e15 }, 8);
        var slow = Expectation.Of(plan, Rates with { OneToken = 1e6, ManyTokens = 1e6 }, 8);
        Assert.Equal("memory", fast.Times.Limit);
        Assert.Equal("compute", slow.Times.Limit);
        Assert.Equal(8 / (slow.Needs.MultiplyAdds / 1e6), slow.TokensPerSecond, 1e-9);
    }

    [Fact]
    public void A_step_that_was_tried_says_what_layers_head_and_hops_of_the_whole_model_take()
    {
        // Two layers of 2 ms, a last one with a head of 4 ms more for a thousand tokens, and 4 ms between them all; the first waits longer than the others do.
        StepTrial trial = StepTrial.Of(1, 0.021, [0.002, 0.002, 0.006], [0.003, 0.001, 0.003], 1000);
        Assert.Equal(0.002 + 0.002, trial.LayerSeconds, 1e-12);
        Assert.Equal(0.001, trial.HopSeconds, 1e-12);
        ModelConfig model = TinyPackage.Llama(layers: 10, hidden: 64, ffn: 320) with { VocabSize = 2000 };
        Assert.Equal(10 * 0.004 + 0.008 + 11 * 0.001, trial.Seconds(model), 1e-12);
    }

    [Fact]
    public void Layers_that_worked_beside_each_other_share_the_step_that_was_tried()
    {
        StepTrial trial = StepTrial.Of(8, 0.006, [0.002, 0.002, 0.006], [0.001, 0.0005, 0.0005], 1000);
        Assert.Equal(0, trial.HopSeconds);
        Assert.Equal(0.5 * 0.0025, trial.LayerSeconds, 1e-12);
        Assert.Equal(0.5 * 0.004 / 1000, trial.HeadSecondsPerToken, 1e-12);
    }
}
