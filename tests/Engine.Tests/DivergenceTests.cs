using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

public sealed class DivergenceTests
{
    [Fact]
    public void It_is_what_a_plain_computation_from_all_logits_gives()
    {
        using var exact = ImportedPackage.Create(TestData.Golden("llama-relu"), "f32");
        using var coarse = ImportedPackage.Create(TestData.Golden("llama-relu"), "q4");
        using var reference = new LocalEngine(exact.Package);
        using var model = new LocalEngine(coarse.Package);
        // More than one chunk, and a start that is not the beginning.
        int[] ids = [.. Enumerable.Range(0, 75).Select(i => i * 31 % exact.Package.Config.VocabSize)];
        var measured = new Divergence();
        measured.Run(reference, model, ids, first: 5);

        double[][] p = LogProbabilities(reference, ids), q = LogProbabilities(model, ids);
        int[] positions = [.. Enumerable.Range(5, ids.Length - 6)];
        double[] kl = [.. positions.Select(i => p[i].Zip(q[i], (a, b) => Math.Exp(a) * (a - b)).Sum())];
        Assert.Equal(positions.Length, measured.Positions);
        Assert.Equal(kl.Average(), measured.Mean, 1e-9);
        Assert.Equal(kl.Max(), measured.Most, 1e-9);
        Assert.Equal(kl.Order().ElementAt(65), measured.At95, 1e-9);
        Assert.Equal(positions.Average(i => Best(p[i]) == Best(q[i]) ? 1.0 : 0), measured.SameBest, 1e-9);
        Assert.Equal(positions.Average(i => -q[i][ids[i + 1]]), measured.Nll, 1e-6);
        Assert.Equal(positions.Average(i => -p[i][ids[i + 1]]), measured.ReferenceNll, 1e-6);
        Assert.True(measured.Mean > 1e-4);
    }

    [Fact]
    public void A_model_does_not_diverge_from_itself()
    {
        using var imported = ImportedPackage.Create(TestData.Golden("opt"), "q8");
        using var one = new LocalEngine(imported.Package);
        using var other = new LocalEngine(imported.Package);
        var measured = new Divergence();
        measured.Run(one, other, [3, 1, 4, 1, 5, 9, 2, 6]);
        Assert.Equal((7, 0.0, 1.0), (measured.Positions, measured.Most, measured.SameBest));
        Assert.Equal(measured.ReferenceNll, measured.Nll);
    }

    [Fact]
    public void Other_vocabularies_cannot_be_compared()
    {
        var measured = new Divergence();
        Assert.Throws<ArgumentException>(() => measured.Add([1, 2, 3], [1, 2], 0));
    }

    private static double[][] LogProbabilities(LocalEngine engine, int[] ids)
    {
        int vocabulary = engine.Package.Config.VocabSize;
        using var session = engine.OpenSession();
        return [.. ids.Select(id =>
        {
            session.Timeline.Append([id]);
            double[] logits = [.. session.Run(Sampling.Greedy, SlotFlags.Sample, vocabulary).Top!.OrderBy(t => t.Id).Select(t => (double)t.Logit)];
            double sum = Math.Log(logits.Sum(Math.Exp));
            return logits.Select(l => l - sum).ToArray();
        })];
    }

    private static int Best(double[] values) => Array.IndexOf(values, values.Max());
}
