using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

/// <summary>What an import finds out by running the model on a short text.</summary>
public sealed class CalibrationTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-calibration").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public void A_relu_model_that_its_configuration_calls_silu_is_noticed_and_the_option_named()
    {
        string source = Emberling("silu");
        ImportResult wrong = Importer.Import(source, Package);
        Assert.Equal(Activation.Silu, wrong.Config.Activation);
        Assert.Contains(wrong.Notes, n => n.Contains("--activation relu", StringComparison.Ordinal));
        Assert.True(wrong.Measured is { OtherFits: true, Other: Activation.Relu } && wrong.Measured.OtherNll < wrong.Measured.Nll - 0.1);
        Assert.All(wrong.Measured.Zeros, z => Assert.InRange(z, 0, 0.001));

        ImportResult right = Importer.Import(source, Package, new ImportOptions { Activation = "relu" });
        Assert.DoesNotContain(right.Notes, n => n.Contains("--activation", StringComparison.Ordinal));
        Assert.True(right.Measured is { OtherFits: false, Other: Activation.Silu });
        Assert.All(right.Measured.Zeros, z => Assert.InRange(z, 0.8, 0.99));
        // The same two runs, the other way round, but for how down is rounded: a model that may be sparse lies row by row.
        Assert.Equal(wrong.Measured.Nll!.Value, right.Measured.OtherNll!.Value, 0.01);
        Assert.Equal(wrong.Measured.OtherNll!.Value, right.Measured.Nll!.Value, 0.01);
    }

    [Fact]
    public void What_was_measured_is_in_the_manifest_and_in_its_hash()
    {
        ImportResult result = Importer.Import(Emberling("relu"), Package, new ImportOptions { Name = "m" });
        using FlashPackage package = FlashPackage.Open(Package);
        Assert.Equal(result.Hash, package.Hash);
        Assert.Equivalent(result.Measured, package.Manifest.Measured, strict: true);
        Assert.Equal(package.Config.Layers, package.Manifest.Measured!.Zeros.Count);
        Assert.NotEqual(result.Hash, Importer.Import(Emberling("relu"), Package, new ImportOptions { Name = "m", Measure = false }).Hash);
        using FlashPackage unmeasured = FlashPackage.Open(Package);
        Assert.Null(unmeasured.Manifest.Measured);
    }

    [Fact]
    public void Without_a_tokenizer_zeros_are_measured_and_nothing_is_said_about_the_activation()
    {
        ImportResult result = Importer.Import(TestData.Golden("llama-relu"), Package);
        Assert.True(result.Measured is { Nll: null, Other: null, OtherFits: false });
        Assert.All(result.Measured.Zeros, z => Assert.InRange(z, 0.2, 0.95));
    }

    [Fact]
    public void A_silu_model_is_taken_as_what_it_is_and_not_as_relu()
    {
        string source = TestData.Shared("models", "smollm2-135m-instruct-q4_1.gguf");
        ImportResult right = Importer.Import(source, Package);
        Assert.DoesNotContain(right.Notes, n => n.Contains("--activation", StringComparison.Ordinal));
        Assert.All(right.Measured!.Zeros, z => Assert.InRange(z, 0, 0.001));

        ImportResult wrong = Importer.Import(source, Package, new ImportOptions { Activation = "relu" });
        Assert.Contains(wrong.Notes, n => n.Contains("--activation silu", StringComparison.Ordinal));
        Assert.True(wrong.Measured!.Zeros.Average() > 0.2);
    }

    [Theory]
    [InlineData(0.05f, 0.0f, false)]
    [InlineData(0.5f, 0.0f, true)]
    [InlineData(0.5f, 3.0f, false)]
    [InlineData(-2.0f, 0.0f, false)]
    public void Better_means_by_a_tenth_of_a_nat_and_beyond_chance(float gain, float noise, bool clear)
    {
        float[] nll = [.. Enumerable.Range(0, 64).Select(i => 3f + i % 2 * noise)], than = [.. Enumerable.Range(0, 64).Select(i => 3f + gain + (i + 1) % 2 * noise)];
        Assert.Equal(clear, Calibration.IsClearlyBetter(nll, than));
    }

    private string Package => Path.Combine(_folder, "m.flash");

    /// <summary>The bundled model, its activation under another name.</summary>
    private string Emberling(string activation)
    {
        string source = TestData.Repo("models", "emberling"), folder = Path.Combine(_folder, activation);
        Directory.CreateDirectory(folder);
        foreach (string file in Directory.GetFiles(source)) File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), overwrite: true);
        string config = Path.Combine(folder, "config.json"), text = File.ReadAllText(config);
        Assert.Contains("\"hidden_act\": \"relu\"", text, StringComparison.Ordinal);
        File.WriteAllText(config, text.Replace("\"hidden_act\": \"relu\"", $"\"hidden_act\": \"{activation}\"", StringComparison.Ordinal));
        return folder;
    }
}
