using System.Text.Json.Nodes;

namespace FlashOrleans.Flash.Tests;

/// <summary>Trained predictors as optional sections: what the manifest says of them, and that both must agree. Damage to them is among <see cref="PackageDamageTests"/>.</summary>
public sealed class PackagePredictorTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(WeightFormat.Q4, WeightFormat.Q8, WeightFormat.BF16)]
    [InlineData(WeightFormat.F32, WeightFormat.F32, WeightFormat.F32)]
    public void Predictors_come_back_with_rank_threshold_and_every_number(WeightFormat quant, WeightFormat divides, WeightFormat odd)
    {
        PackageTiny.Write(Package, PackageTiny.Gated, quant, predictors: PackageTiny.Predictors);
        PackageVerifier.Verify(Package);
        using FlashPackage package = FlashPackage.Open(Package);
        Assert.Equivalent(PackageTiny.Predictors, package.Manifest.Predictors, strict: true);
        Assert.Equal(("selector", 2), (package.Manifest.Predictor, package.Manifest.FormatVersion));
        Assert.Equal(PackageLayout.EstimateBytes(PackageTiny.Gated, quant, 512, PackageTiny.Predictors), package.Manifest.Files.Sum(static f => f.Bytes));
        using PackageFile first = package.OpenSlice(0), second = package.OpenSlice(1);
        Assert.False(first.Has("lookahead.fc1"));
        Check(first, "slice0", "predictor.fc1", divides, 32, 32);
        Check(first, "slice0", "predictor.fc2", divides, 21, 32);
        Check(second, "slice1", "predictor.fc1", divides, 5, 32);
        Check(second, "slice1", "predictor.fc2", odd, 21, 5);
        Check(second, "slice1", "lookahead.fc1", divides, 7, 32);
        Check(second, "slice1", "lookahead.fc2", odd, 21, 7);
        PackageTiny.Write(_folder["bare.flash"], PackageTiny.Gated, quant);
        using FlashPackage bare = FlashPackage.Open(_folder["bare.flash"]);
        using PackageFile plain = bare.OpenSlice(1);
        Assert.True(second.ResidentBytes > plain.ResidentBytes, "predictors are resident");
    }

    /// <summary>To a build that does not know them, the manifest's property and the sections are not there.</summary>
    [Fact]
    public void A_reader_that_does_not_know_predictors_opens_the_package_without_them()
    {
        PackageTiny.Write(Package, PackageTiny.Gated, WeightFormat.Q8, predictors: PackageTiny.Predictors);
        PackageForge.Manifest(Package, static root => root.Remove("predictors"));
        PackageVerifier.Verify(Package);
        using FlashPackage package = FlashPackage.Open(Package);
        using PackageFile slice = package.OpenSlice(1);
        Assert.False(slice.Has("predictor.fc1"));
    }

    [Theory]
    [InlineData("layers", """[{"rank": 32, "threshold": 0.5}]""", "1 predictors where this model needs 2")]
    [InlineData("layers", """[{"rank": 33, "threshold": 0.5}, {"rank": 5, "threshold": -1}]""", "section predictor.fc1 is Panels 32 x 32")]
    [InlineData("layers", """[{"rank": 0, "threshold": 0.5}, {"rank": 5, "threshold": -1}]""", "predictors of rank 0, which is outside")]
    [InlineData("layers", """[null, {"rank": 5, "threshold": -1}]""", "predictors of rank")]
    [InlineData("layers", """[{"rank": 32, "threshold": 1e99}, {"rank": 5, "threshold": -1}]""", "threshold that is not a number of use")]
    [InlineData("lookahead", "[]", "0 look-ahead predictors where this model needs 1")]
    [InlineData("kind", "\"forest\"", "predictors of the kind 'forest' are none this version knows")]
    [InlineData("kind", "\"svd\"", "predictors of the kind svd have no look-ahead of their own")]
    [InlineData("kind", "\"sketch\"", "predictors of the kind sketch with no bits")]
    [InlineData("bits", "4", "predictors of the kind lowrank with 4 bits")]
    [InlineData("layers", """[{"rank": 32, "threshold": 0.5, "core": 22}, {"rank": 5, "threshold": -1}]""", "predictors with 22 neurons of 21 that are always computed")]
    [InlineData("layers", """[{"rank": 32, "threshold": 0.5, "core": 3}, {"rank": 5, "threshold": -1}]""", "section predictor.core is missing")]
    public void A_manifest_that_says_something_else_than_the_slices_is_refused(string property, string value, string says)
    {
        PackageTiny.Write(Package, PackageTiny.Gated, WeightFormat.Q8, predictors: PackageTiny.Predictors);
        PackageForge.Manifest(Package, root => root["predictors"]![property] = JsonNode.Parse(value));
        Assert.Contains(says, Assert.Throws<FlashException>(() => FlashPackage.Open(Package)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_sketch_and_a_core_come_back_and_are_resident()
    {
        var sketch = new PredictorConfig { Kind = PredictorConfig.SketchKind, Bits = 3, Recall = 0.97, Tokens = 100, Layers = [new LowRank(0, 0.5f) { Core = 4, Recall = 0.971, Taken = 1.5 }, new LowRank(0, -1)] };
        PackageTiny.Write(Package, PackageTiny.Gated, WeightFormat.F32, predictors: sketch);
        PackageVerifier.Verify(Package);
        using FlashPackage package = FlashPackage.Open(Package);
        Assert.Equivalent(sketch, package.Manifest.Predictors, strict: true);
        using PackageFile first = package.OpenSlice(0), second = package.OpenSlice(1);
        // Four bits whatever the rest is stored in.
        Check(first, "slice0", "predictor.sketch", WeightFormat.Q4, 21, 32);
        Assert.Equal((SectionKind.Plain, 4), (first.Section("predictor.core").Kind, first.Section("predictor.core").Cols));
        Assert.False(second.Has("predictor.core"));
        Assert.False(first.Has("predictor.fc1"));
        Assert.All(first.Sections.Where(static s => s.Name.StartsWith("predictor.", StringComparison.Ordinal)), static s => Assert.True(s.IsResident));
        foreach (Section section in PackageLayout.Sections(package.Manifest, 0)) Assert.Equal((section.Offset, section.Bytes), (first.Section(section.Name).Offset, first.Section(section.Name).Bytes));
    }

    [Fact]
    public void Neurons_in_another_order_say_which_they_were_and_an_unknown_order_is_refused()
    {
        PackageSpec spec = PackageTiny.Spec(PackageTiny.Gated, WeightFormat.Q8) with { Permutation = PackageLayout.Popularity };
        using (PackageWriter writer = PackageWriter.Create(Package, spec))
        {
            PackageTiny.Fill(writer, PackageTiny.Gated, WeightFormat.Q8, 1, permuted: true);
            writer.Complete();
        }
        PackageVerifier.Verify(Package);
        using (FlashPackage package = FlashPackage.Open(Package))
        {
            using PackageFile slice = package.OpenSlice(1);
            Assert.Equal((PackageLayout.Popularity, PackageLayout.Popularity), (package.Manifest.Permutation, slice.Bundles!.Permutation));
            Section from = slice.Section("bundles.permutation");
            Assert.Equal((SectionKind.Plain, 21, false), (from.Kind, from.Cols, from.IsResident));
        }
        PackageForge.Manifest(Package, static root => root["permutation"] = "identity");
        Assert.Contains("section bundles is", Assert.Throws<FlashException>(() => FlashPackage.Open(Package)).Message, StringComparison.Ordinal);
        PackageForge.Manifest(Package, static root => root["permutation"] = "alphabet");
        Assert.Contains("neuron order 'alphabet' is none this version knows", Assert.Throws<FlashException>(() => FlashPackage.Open(Package)).Message, StringComparison.Ordinal);
        PackageTiny.Write(_folder["silu.flash"], PackageTiny.Gated with { Activation = Activation.Silu }, WeightFormat.Q8);
        PackageForge.Manifest(_folder["silu.flash"], static root => root["permutation"] = "popularity");
        Assert.Contains("is of ReLU models without experts", Assert.Throws<FlashException>(() => FlashPackage.Open(_folder["silu.flash"])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Predictors_of_a_model_without_zeros_are_refused_before_anything_is_written()
    {
        ModelConfig silu = PackageTiny.Gated with { Activation = Activation.Silu };
        var e = Assert.Throws<FlashException>(() => PackageWriter.Create(Package, PackageTiny.Spec(silu, WeightFormat.Q8, predictors: PackageTiny.Predictors)).Dispose());
        Assert.Contains("activation Silu has no zeros", e.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(_folder.Path));
    }

    private string Package => _folder["tiny.flash"];

    private static void Check(PackageFile slice, string file, string name, WeightFormat format, int rows, int cols)
    {
        Section section = slice.Section(name);
        Assert.Equal((SectionKind.Panels, format, rows, cols), (section.Kind, section.Format, section.Rows, section.Cols));
        using NativeBuffer bytes = slice.Load(name, new MemoryLedger(), "weights");
        Assert.Equal(PackageTiny.Bytes(1, file, name, section.Bytes), bytes.Span.ToArray());
    }
}
