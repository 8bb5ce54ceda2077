using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

public sealed class LayerByLayerTests
{
    [Theory]
    [InlineData("llama", "q8")]
    [InlineData("llama-relu", "f32")]
    [InlineData("llama-dynamic-rope", "f32")]
    [InlineData("bamboo", "q8")]
    [InlineData("opt-350m-like", "f32")]
    [InlineData("gpt-oss", "f32")]
    public void A_layer_at_a_time_gives_the_bits_of_the_whole_engine(string family, string quant)
    {
        using var imported = ImportedPackage.Create(TestData.Golden(family), quant);
        int[] ids = Ids(imported.Package);
        using var engine = new LocalEngine(imported.Package);
        using var session = engine.OpenSession();
        session.Timeline.Append(ids);
        var nll = new List<float>();
        session.Run(Sampling.Greedy, SlotFlags.Score, 0, 64, r => nll.AddRange(r.Nll!));
        Assert.Equal(nll[..^1], LayerByLayer.Run(imported.Package, ids).Nll);
    }

    [Theory]
    [InlineData("llama-relu")]
    [InlineData("opt")]
    [InlineData("falcon-relu")]
    public void Its_zeros_are_the_neurons_that_exact_mode_skips(string family)
    {
        using var imported = ImportedPackage.Create(TestData.Golden(family), "f32");
        int[] ids = Ids(imported.Package);
        using var engine = new LocalEngine(imported.Package);
        using var session = engine.OpenSession();
        session.Timeline.Append(ids);
        session.Run(Sampling.Greedy);
        double[] expected = [.. engine.Layers.Select(l => 1 - (double)l.Stats.NeuronsActive / l.Stats.NeuronsDense)];
        Assert.All(expected, e => Assert.InRange(e, 0.1, 0.99));
        Assert.Equal(expected, LayerByLayer.Run(imported.Package, ids).Zeros.Select(z => Math.Round(z, 12)), (a, b) => Math.Abs(a - b) < 1e-9);
    }

    [Fact]
    public void Another_activation_gives_what_a_package_of_it_gives()
    {
        // In floats: what may be sparse lies row by row and what is not in slabs, and down is rounded in other blocks.
        using var relu = ImportedPackage.Create(TestData.Golden("llama-relu"), "f32");
        using var silu = ImportedPackage.Create(TestData.Golden("llama-relu"), "f32", "silu");
        Assert.Equal((Activation.Relu, Activation.Silu), (relu.Package.Config.Activation, silu.Package.Config.Activation));
        int[] ids = Ids(relu.Package);
        Assert.Equal(LayerByLayer.Run(silu.Package, ids).Nll, LayerByLayer.Run(relu.Package, ids, Activation.Silu).Nll, Near);
        Assert.Equal(LayerByLayer.Run(relu.Package, ids).Nll, LayerByLayer.Run(silu.Package, ids, Activation.Relu).Nll, Near);
        Assert.All(LayerByLayer.Run(silu.Package, ids).Zeros, z => Assert.Equal(0, z));

        static bool Near(float a, float b) => MathF.Abs(a - b) < 1e-3f;
    }

    [Fact]
    public void Cancelled_between_layers_it_ends()
    {
        using var imported = ImportedPackage.Create(TestData.Golden("llama-relu"), "q8");
        using var cancel = new CancellationTokenSource();
        var seen = new List<int>();
        Assert.ThrowsAny<OperationCanceledException>(() => LayerByLayer.Run(imported.Package, Ids(imported.Package), null, layer =>
        {
            seen.Add(layer);
            if (layer == 1) cancel.Cancel();
        }, cancel.Token));
        Assert.Equal([0, 1], seen);
    }

    private static int[] Ids(FlashPackage package) => [.. Enumerable.Range(0, Math.Min(90, package.Config.MaxPositions)).Select(i => i * 31 % package.Config.VocabSize)];
}
