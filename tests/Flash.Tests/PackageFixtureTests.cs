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

    /// <summary>Version 3: feed-forwards that are never sparse lie in panels and tiles.</summary>
    private const string V3 = "v3-tiny.flash", V3Hash = "591221ec5088564ba83a287892a6aeda";

    private static ModelConfig Model(string name) => name == V3 ? PackageTiny.Wide(PackageTiny.Gated) with { Activation = Activation.Silu, Layers = 1, HiddenSize = 288, HeadDim = 72 } : PackageTiny.Gated;

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
    public void Panels_of_the_first_day_still_open_with_every_number()
    {
        PackageVerifier.Verify(Folder(V3));
        using FlashPackage package = FlashPackage.Open(Folder(V3));
        Assert.Equal((V3Hash, 3), (package.Hash, package.Manifest.FormatVersion));
        Assert.Equivalent(Model(V3), package.Config, strict: true);
        using PackageFile slice = package.OpenSlice(0);
        BundleLayout layout = slice.Bundles!;
        Assert.Equal((true, 16, 2, 16 * 162, 16 * (272 + 48)), (layout.Panels, layout.Group, layout.Units, layout.UpPanelBytes, layout.TilesBytes));
        using FileScan scan = new(new MemoryLedger());
        // The gate row of the second neuron of the second unit, and its down row's first tile.
        byte[] bundle = PackageTiny.Bundle(1, "slice0", 17, layout), row = new byte[layout.GateBytes];
        ReadOnlySpan<byte> sixteen = scan.Read(slice.File, layout.Offset + layout.Stride, layout.SixteenBytes);
        Panel.Unpack(layout.Gate, sixteen, 1, layout.Cols, row);
        Assert.Equal(bundle.AsSpan(layout.UpBytes + layout.DownBytes, 162).ToArray(), row.AsSpan(0, 162).ToArray());
        Assert.Equal(bundle.AsSpan(layout.UpBytes, 256).ToArray(), sixteen.Slice(layout.GatePanelBytes + layout.UpPanelBytes + 272, 256).ToArray());
    }

    [Theory, InlineData(V2), InlineData(Predictors), InlineData(V3)]
    public void The_writer_of_today_makes_the_same_bytes(string name)
    {
        using TemporaryFolder folder = new();
        PackageTiny.Write(folder["tiny.flash"], Model(name), Mixed, predictors: name == Predictors ? PackageTiny.Predictors : null);
        foreach (string file in Directory.EnumerateFiles(Folder(name), "*", SearchOption.AllDirectories))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(Path.Combine(folder["tiny.flash"], Path.GetRelativePath(Folder(name), file))));
    }
}
