using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Pickle;
using FlashOrleans.Models.Tests.Pickle;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

/// <summary>A folder of trained predictors beside a checkpoint becomes sections of the package.</summary>
public sealed class PredictorImportTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Predictors_of_a_folder_become_sections_of_the_slices_with_every_number()
    {
        ModelConfig c = Write(rank: 24, ahead: 32);
        var options = new ImportOptions { Quant = "f32", Predictors = Predictors };
        ImportResult result = Importer.Import(Source, Package, options);
        using FlashPackage package = FlashPackage.Open(Package);
        Assert.Equivalent(new PredictorConfig { Layers = [.. Enumerable.Repeat(new LowRank(24, 0.5f), c.Layers)], Lookahead = [.. Enumerable.Repeat(new LowRank(32, 0.5f), c.Layers - 1)] }, package.Manifest.Predictors, strict: true);
        Assert.Equivalent(package.Manifest.Predictors, result.Predictors, strict: true);
        var stored = new PackageTensors(package);
        using PredictorFolder folder = PredictorFolder.Open(Predictors);
        for (int i = 0; i < c.Layers; i++)
        {
            Assert.Equal(folder.Layers[i].ReadFc1(), stored.Read($"layers.{i}.predictor.fc1"));
            Assert.Equal(folder.Layers[i].ReadFc2(), stored.Read($"layers.{i}.predictor.fc2"));
            if (i == 0) continue;
            Assert.Equal(folder.Lookahead!.Layers[i - 1].ReadFc1(), stored.Read($"layers.{i}.lookahead.fc1"));
            Assert.Equal(folder.Lookahead!.Layers[i - 1].ReadFc2(), stored.Read($"layers.{i}.lookahead.fc2"));
        }
        // Their files are part of where the package came from.
        Assert.Equal(2 * c.Layers - 1, package.Manifest.Provenance.Files.Count(static f => f.Name.StartsWith("model_", StringComparison.Ordinal)));

        ImportPlan with = Importer.Plan(Source, options), without = Importer.Plan(Source, options with { Predictors = null });
        Assert.Equal(package.Manifest.Files.Sum(static f => f.Bytes), with.Bytes);
        Assert.True(with.ResidentBytes > without.ResidentBytes && with.StreamedBytes == without.StreamedBytes, "predictors are resident");
    }

    [Fact]
    public void Where_rows_divide_into_blocks_predictors_are_q8_else_bf16_and_the_error_is_told()
    {
        Write(rank: 24, ahead: 32);
        ImportResult result = Importer.Import(Source, Package, new ImportOptions { Predictors = Predictors });
        using FlashPackage package = FlashPackage.Open(Package);
        using PackageFile slice = package.OpenSlice(1);
        Assert.Equal([WeightFormat.Q8, WeightFormat.BF16, WeightFormat.Q8, WeightFormat.Q8],
            new[] { "predictor.fc1", "predictor.fc2", "lookahead.fc1", "lookahead.fc2" }.Select(s => slice.Section(s).Format));
        foreach (string kind in (string[])["predictor.fc1", "predictor.fc2", "lookahead.fc1", "lookahead.fc2"])
            Assert.InRange(result.Errors.Single(e => e.Kind == kind).Mean, 1e-5, 0.01);
    }

    [Fact]
    public void A_sketch_that_there_is_none_of_is_refused_with_the_names_of_those_there_are()
    {
        foreach (string name in (string[])["sketch9", "sketch"])
        {
            var e = Assert.Throws<ModelFormatException>(() => Importer.Import(TestData.Golden("llama-relu"), Package, new ImportOptions { Predictors = name }));
            Assert.Contains("the sketches are sketch4, sketch3 and sketch2", e.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Predictors_that_were_trained_for_another_model_are_refused_with_one_line()
    {
        ModelConfig c = Write(rank: 8);
        File.Delete(Path.Combine(Predictors, $"model_{c.Layers - 1}.pt"));
        Refused(Source, $"the predictors are for {c.Layers - 1} layers, {c.HiddenSize} inputs and {c.FfnSize} neurons; the model has {c.Layers}");
        Write(rank: 8, neurons: 1);
        Refused(Source, $"{c.HiddenSize} inputs and {c.FfnSize + 1} neurons; the model has {c.Layers}, {c.HiddenSize} and {c.FfnSize}");
        Write(rank: 8, inputs: 1);
        Refused(Source, $"{c.HiddenSize + 1} inputs");
        Write(rank: 8);
        Refused(TestData.Golden("llama"), "activation Silu has no exact zeros");
        Refused(TestData.Golden("mixtral"), "it has experts");
        _folder.Write("predictors/model_1.pt", TorchArchive.Predictor(8, c.HiddenSize, c.FfnSize, static _ => 0, static i => i == 17 ? float.NaN : 0));
        Refused(Source, "fc2.weight holds NaN in row 2", planned: false);
    }

    [Fact]
    public void The_published_predictors_of_emberling_go_into_its_package()
    {
        string folder = TestData.Shared("models", "emberling-predictor");
        ImportResult result = Importer.Import(TestData.Repo("models", "emberling"), Package, new ImportOptions { Predictors = folder });
        Assert.Equal((6, 128, 0f, 5, 256), (result.Predictors!.Layers.Count, result.Predictors.Layers[2].Rank, result.Predictors.Layers[2].Threshold, result.Predictors.Lookahead!.Count, result.Predictors.Lookahead[0].Rank));
        // q8: half a step of 1/127 of a block's largest number, spread evenly.
        Assert.All(result.Errors.Where(static e => e.Kind.Contains("fc", StringComparison.Ordinal)), static e => Assert.InRange(e.Mean, 1e-3, 0.01));
        PackageVerifier.Verify(Package);
    }

    private static string Source => TestData.Golden("llama-relu");
    private string Package => Path.Combine(_folder.Path, "m.flash");
    private string Predictors => Path.Combine(_folder.Path, "predictors");

    /// <summary>A folder for the golden model, wider by so much than it should be.</summary>
    private ModelConfig Write(int rank, int ahead = 0, int inputs = 0, int neurons = 0)
    {
        using Checkpoint checkpoint = Checkpoint.Open(Source);
        ModelConfig c = checkpoint.Config;
        for (int i = 0; i < c.Layers; i++)
        {
            _folder.Write($"predictors/model_{i}.pt", Random(rank, i));
            if (ahead > 0 && i > 0) _folder.Write($"predictors/lookahead/model_{i}.pt", Random(ahead, 100 + i));
        }
        _folder.Write("predictors/config.json", """{"sparse_threshold": 0.5}"""u8.ToArray());
        return c;

        byte[] Random(int r, int seed)
        {
            var random = new Random(seed);
            return TorchArchive.Predictor(r, c.HiddenSize + inputs, c.FfnSize + neurons, _ => random.NextSingle() - 0.5f, _ => random.NextSingle() - 0.5f);
        }
    }

    private void Refused(string source, string says, bool planned = true)
    {
        var options = new ImportOptions { Predictors = Predictors };
        var e = Assert.Throws<ModelFormatException>(() => Importer.Import(source, Package, options));
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
        Assert.False(Path.Exists(Package));
        if (planned) Assert.Equal(e.Message, Assert.Throws<ModelFormatException>(() => Importer.Plan(source, options)).Message);
    }
}
