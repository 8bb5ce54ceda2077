using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

/// <summary>What a dry run says about errors, against what an import then has.</summary>
public sealed class ImportSampleTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-sample").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData("q8")]
    [InlineData("q4")]
    public void A_few_rows_tell_the_error_of_all(string quant)
    {
        string source = TestData.Repo("models", "emberling");
        ImportResult real = Import(source, quant);
        using Checkpoint checkpoint = Checkpoint.Open(source);
        (IReadOnlyList<QuantizationError> sampled, double share) = ImportSample.Measure(checkpoint, real.Formats, CancellationToken.None, numbers: 200_000);
        Assert.InRange(share, 0.01, 0.1);
        Assert.Equal(real.Errors.Select(e => e.Kind), sampled.Select(e => e.Kind));
        foreach ((QuantizationError all, QuantizationError some) in real.Errors.Zip(sampled))
        {
            Assert.InRange(some.Mean, all.Mean * 0.9, all.Mean * 1.1);
            Assert.True(some.WorstRow <= all.WorstRow);
        }
    }

    [Theory]
    [InlineData("llama-relu", "q4")]
    [InlineData("qwen3-moe", "bf16")]
    public void A_small_checkpoint_is_looked_at_whole(string model, string quant)
    {
        ImportPlan plan = Importer.Plan(TestData.Golden(model), new ImportOptions { Quant = quant });
        Assert.Equal(1, plan.Sampled);
        AssertSame(Import(TestData.Golden(model), quant), plan);
    }

    [Fact]
    public void What_is_kept_costs_nothing_and_is_not_read()
    {
        string file = TestData.Repo("tests", "data", "gguf", "llama-Q4_0.gguf");
        ImportPlan plan = Importer.Plan(file);
        Assert.All(plan.Errors, e => Assert.Equal(0, e.Mean));
        AssertSame(Import(file, "auto"), plan);
    }

    private static void AssertSame(ImportResult real, ImportPlan plan)
    {
        Assert.Equal(real.Errors.Select(e => (e.Kind, e.WorstRow)), plan.Errors.Select(e => (e.Kind, e.WorstRow)));
        foreach ((QuantizationError a, QuantizationError b) in real.Errors.Zip(plan.Errors)) Assert.Equal(a.Mean, b.Mean, 1e-9);
    }

    private ImportResult Import(string source, string quant) => Importer.Import(source, Path.Combine(_folder, "m.flash"), new ImportOptions { Quant = quant, Measure = false });
}
