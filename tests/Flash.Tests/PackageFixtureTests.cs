namespace FlashOrleans.Flash.Tests;

/// <summary>
/// The packages of tests/data/packages were written by each version of the format when it was new (by <see cref="PackageTiny.Write"/>) and are never written again: packages
/// outlive builds.
/// </summary>
public sealed class PackageFixtureTests
{
    /// <summary>Version 1: one format for all matrices.</summary>
    private const string V1 = "v1-tiny.flash", V1Hash = "b52e61ee5cf7fa0a8eff5ec69b22fd02";
    /// <summary>Version 2: exceptions to the format, by kind and in one layer.</summary>
    private const string V2 = "v2-tiny.flash", V2Hash = "edb0d6518a8d4e1c9cbf7aa19ea245a7";

    /// <summary>Version 2 since it may hold trained predictors.</summary>
    private const string Predictors = "v2-predictors.flash", PredictorsHash = "8c9814f5d60c1230d02798d3625bcb33";

    /// <summary>Version 3: feed-forwards that are never sparse lie sixteen by sixteen; none opens any more.</summary>
    private const string V3 = "v3-tiny.flash";
    /// <summary>Version 4: they lie in slabs.</summary>
    private const string V4 = "v4-tiny.flash", V4Hash = "4b66b20eec4db945e3dc63d2fd4db554";

    /// <summary>Version 5: bundles without the rows that decide.</summary>
    private const string V5 = "v5-tiny.flash", V5Hash = "4a30888f4323fb9bb07839b939d82985";

    private static ModelConfig Model(string name) => name == V4 ? PackageTiny.Gated with { Activation = Activation.Silu, FfnSize = 130 } : PackageTiny.Gated;

    private static WeightFormats Mixed => new(WeightFormat.Q4, [new("ffn.down", WeightFormat.Q8), new("layers.1.attn.v", WeightFormat.BF16), new("layers.1.ffn.gate", WeightFormat.F32)]);

    private static string Folder(string name)
    {
        DirectoryInfo? at = new(AppContext.BaseDirectory);
        while (at is not null && !File.Exists(Path.Combine(at.FullName, "FlashOrleans.sln"))) at = at.Parent;
        return Path.Combine(at?.FullName ?? throw new InvalidOperationException("the tests run outside the repository"), "tests/data/packages", name);
    }

    [Theory]
    [InlineData(V1, V1Hash, WeightFormat.Q8)]
    [InlineData(V2, V2Hash, WeightFormat.Q4)]
    [InlineData(Predictors, PredictorsHash, WeightFormat.Q4)]
    public void An_old_file_still_opens_with_its_identity_and_every_number(string name, string hash, WeightFormat format)
    {
        PackageVerifier.Verify(Folder(name));
        using FlashPackage package = FlashPackage.Open(Folder(name));
        Assert.Equal((hash, "tiny", format), (package.Hash, package.Name, package.Format));
        Assert.Equivalent(PackageTiny.Gated, package.Config, strict: true);
        MemoryLedger ledger = new();
        using PackageFile slice = package.OpenSlice(1);
        foreach (Section section in slice.Sections.Where(static s => s.Kind is SectionKind.Plain or SectionKind.Panels))
        {
            using NativeBuffer buffer = slice.Load(section.Name, ledger, "weights");
            Assert.Equal(PackageTiny.Bytes(1, "slice1", section.Name, buffer.Length), buffer.Span.ToArray());
        }
        Assert.Equal(name != V1, slice.Has("attn.v"));
        Assert.Equal(name == Predictors, slice.Has("predictor.fc1"));
        BundleLayout layout = slice.Bundles!;
        Assert.Equal((21, 32, 3), (layout.Neurons, layout.Cols, layout.Rows));
        if (name == V1) Assert.Equal((WeightFormat.Q8, WeightFormat.Q8, WeightFormat.Q8, 48, 3, 512, 7), (layout.Up, layout.Down, layout.Gate, layout.UpBytes, layout.Group, layout.Stride, layout.Units));
        else Assert.Equal((WeightFormat.Q4, WeightFormat.Q8, WeightFormat.F32, 32, 48, 128, 2, 512, 11), (layout.Up, layout.Down, layout.Gate, layout.UpBytes, layout.DownBytes, layout.GateBytes, layout.Group, layout.Stride, layout.Units));
        using FileScan scan = new(ledger);
        Assert.Equal(PackageTiny.Bundle(1, "slice1", layout.Group + 1, layout), scan.Read(slice.File, layout.Offset + layout.Stride + layout.UpOffset(1), layout.BundleBytes).ToArray());
    }

    [Fact]
    public void Slabs_of_the_first_day_still_open_with_every_number()
    {
        PackageVerifier.Verify(Folder(V4));
        using FlashPackage package = FlashPackage.Open(Folder(V4));
        Assert.Equal((V4Hash, 4), (package.Hash, package.Manifest.FormatVersion));
        Assert.Equivalent(Model(V4), package.Config, strict: true);
        using PackageFile slice = package.OpenSlice(1);
        BundleLayout layout = slice.Bundles!;
        Assert.Equal((true, 128, 2, WeightFormat.Q8), (layout.Slabs, layout.Group, layout.Units, layout.Down));
        // f32 rows of the gate, four bits up, and 32 rows down of 128 in eight bits.
        Assert.Equal((128 * 32 * 4, 128 * 18, 32 * (128 + 8)), (layout.SlabGateBytes, layout.SlabUpBytes, layout.SlabDownBytes));
        using FileScan scan = new(new MemoryLedger());
        Assert.Equal(PackageTiny.Slab(1, "slice1", 128, layout), scan.Read(slice.File, layout.Offset + layout.Stride, layout.SlabBytes).ToArray());
    }

    [Fact]
    public void Lean_bundles_of_the_first_day_still_open_with_every_number()
    {
        PackageVerifier.Verify(Folder(V5));
        using FlashPackage package = FlashPackage.Open(Folder(V5));
        Assert.Equal((V5Hash, 5, true), (package.Hash, package.Manifest.FormatVersion, package.Manifest.Lean));
        Assert.Equivalent(Model(V5), package.Config, strict: true);
        using PackageFile slice = package.OpenSlice(1);
        BundleLayout layout = slice.Bundles!;
        // Four bits up and eight bits down; the gate's row in f32 is in the selector alone.
        Assert.Equal((2, 32, 48, 0, 6, 512, 4), (layout.Rows, layout.UpBytes, layout.DownBytes, layout.GateBytes, layout.Group, layout.Stride, layout.Units));
        Assert.Equal((WeightFormat.F32, 21, 32), (slice.Section("ffn.selector").Format, slice.Section("ffn.selector").Rows, slice.Section("ffn.selector").Cols));
        using FileScan scan = new(new MemoryLedger());
        Assert.Equal(PackageTiny.Bundle(1, "slice1", layout.Group + 1, layout), scan.Read(slice.File, layout.Offset + layout.Stride + layout.UpOffset(1), layout.BundleBytes).ToArray());
        // Builds of before look at the version and at nothing else.
        Assert.All(Directory.EnumerateFiles(Folder(V5), "*.*", SearchOption.AllDirectories).Where(static f => Path.GetExtension(f) is ".bin" or ".slice"), static f => Assert.Equal(5, File.ReadAllBytes(f)[8]));
    }

    [Fact]
    public void A_package_whose_feed_forwards_lie_otherwise_today_says_how_to_make_it_anew()
    {
        var error = Assert.Throws<FlashException>(() => FlashPackage.Open(Folder(V3)));
        Assert.Contains("format version 3, this build reads 1, 2, 4 and 5: import the model again (flash import PATH --name NAME)", error.Message, StringComparison.Ordinal);
        using TemporaryFolder folder = new();
        using PackageWriter writer = PackageWriter.Create(folder["tiny.flash"], PackageTiny.Spec(Model(V4), WeightFormat.Q8) with { Version = 2 });
        PackageTiny.Fill(writer, Model(V4), WeightFormat.Q8, seed: 1);
        // A package is opened before it takes its place.
        error = Assert.Throws<FlashException>(writer.Complete);
        Assert.Contains("format version 2, in which feed-forwards that use all of their neurons lay otherwise: import the model again", error.Message, StringComparison.Ordinal);
    }

    [Theory, InlineData(V2), InlineData(Predictors), InlineData(V4), InlineData(V5)]
    public void The_writer_of_today_makes_the_same_bytes(string name)
    {
        using TemporaryFolder folder = new();
        PackageTiny.Write(folder["tiny.flash"], Model(name), Mixed, predictors: name == Predictors ? PackageTiny.Predictors : null, lean: name == V5);
        foreach (string file in Directory.EnumerateFiles(Folder(name), "*", SearchOption.AllDirectories))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(Path.Combine(folder["tiny.flash"], Path.GetRelativePath(Folder(name), file))));
    }
}
