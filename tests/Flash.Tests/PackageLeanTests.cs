namespace FlashOrleans.Flash.Tests;

/// <summary>Packages whose bundles lack the rows that decide: what is left is what `exact` reads, and nothing lies between neighbours.</summary>
public sealed unsafe class PackageLeanTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public static TheoryData<WeightFormat, bool, bool> Shapes => PackageRoundTripTests.Shapes();

    public void Dispose() => _folder.Dispose();

    [Theory, MemberData(nameof(Shapes))]
    public void Every_unit_brings_what_exact_reads_and_one_checksum_catches_any_changed_byte(WeightFormat format, bool gated, bool wide)
    {
        ModelConfig config = Shape(gated, wide);
        PackageTiny.Write(Path, config, format, lean: true);
        PackageVerifier.Verify(Path);
        using FlashPackage package = FlashPackage.Open(Path);
        Assert.Equal((5, "lean", true), (package.Manifest.FormatVersion, package.Manifest.Bundles, package.Manifest.Lean));
        using PackageFile slice = package.OpenSlice(1);
        BundleLayout layout = slice.Bundles!;
        int row = WeightLayout.RowBytes(format, config.HiddenSize), bundle = gated ? 2 * row : row;
        Assert.Equal((gated ? 2 : 1, bundle, gated ? row : 0, 0), (layout.Rows, layout.BundleBytes, layout.DownOffset(0), layout.GateBytes));
        Assert.Equal((bundle > 256 ? 1 : 512 / bundle, 0), (layout.Group, layout.Stride % 512));
        Assert.InRange(layout.Stride, layout.UsedBytes, layout.UsedBytes + 511);
        Assert.Equal((layout.DownOffset(0), layout.BundleBytes), (new RowOffsets(layout).Down, new RowOffsets(layout).Of(1)));
        Assert.Equal((SectionKind.Panels, config.FfnSize), (slice.Section("ffn.selector").Kind, slice.Section("ffn.selector").Rows));

        UnitRegion whole = slice.BundleUnits(whole: true), part = slice.BundleUnits(whole: false);
        Assert.Equal((0, layout.UsedBytes, 1), (part.PartOffset, part.PartBytes, part.Checks.Count));
        Assert.Equal((part.PartOffset, part.PartBytes, part.Checks.Count), (whole.PartOffset, whole.PartBytes, whole.Checks.Count));
        Assert.Equal(layout.Group > 1 ? [] : gated ? [row, row] : [row], part.Rows);
        Assert.Equal(part.Rows, whole.Rows);
        Assert.Equal((part.Count, part.SlotBytes, part.PartBytes, layout.Group), PackageLayout.BundleSlots(package.Manifest, 1, whole: false, slice.File.Alignment));
        for (int unit = 0; unit < layout.Units; unit++)
        {
            byte[] bytes = Read(part, unit);
            for (int j = 0; j < layout.Group && unit * layout.Group + j < layout.Neurons; j++)
                Assert.Equal(PackageTiny.Bundle(1, "slice1", unit * layout.Group + j, layout), bytes.AsSpan(layout.UpOffset(j), bundle).ToArray());
        }
        byte[] last = Read(part, part.Count - 1);
        for (int i = 0; i < last.Length; i++)
        {
            last[i] ^= 0x10;
            fixed (byte* p = last) Assert.Equal(ReadFault.Checksum, part.Verify(part.Count - 1, p));
            last[i] ^= 0x10;
        }
    }

    [Theory, InlineData(true), InlineData(false)]
    public void The_size_is_known_before_writing_and_is_that_of_the_whole_package_without_the_rows_that_decide(bool gated)
    {
        ModelConfig config = Shape(gated, wide: true);
        PackageTiny.Write(Path, config, WeightFormat.F32, lean: true);
        using FlashPackage package = FlashPackage.Open(Path);
        Assert.Equal(PackageLayout.EstimateBytes(config, WeightFormat.F32, 512, lean: true), package.Manifest.Files.Sum(static f => f.Bytes));
        long rows = (long)config.Layers * config.FfnSize * WeightLayout.RowBytes(WeightFormat.F32, config.HiddenSize);
        Assert.Equal(rows, PackageLayout.StreamedBytes(config, WeightFormat.F32) - PackageLayout.StreamedBytes(config, WeightFormat.F32, lean: true));
        Assert.Equal(PackageLayout.EstimateBytes(config, WeightFormat.F32, 512, lean: true), PackageWriter.Plan(PackageTiny.Spec(config, WeightFormat.F32, lean: true)).Bytes);
    }

    [Theory, InlineData(true), InlineData(false)]
    public void Damage_is_named_by_its_unit_and_found_in_every_byte_of_a_slice(bool gated)
    {
        PackageTiny.Write(Path, Shape(gated, wide: true), WeightFormat.Q8, lean: true);
        string slice = System.IO.Path.Combine(Path, "layers/001.slice");
        long offset;
        int stride;
        using (FlashPackage package = FlashPackage.Open(Path))
        {
            using PackageFile file = package.OpenSlice(1);
            (offset, stride) = (file.Bundles!.Offset, file.Bundles.Stride);
        }
        byte[] bytes = File.ReadAllBytes(slice);
        bytes[offset + 2 * stride + 7] ^= 1;
        File.WriteAllBytes(slice, bytes);
        Assert.Contains($"at byte {offset + 2 * stride}: unit 2 of layers/001.slice bundles is damaged", Assert.Throws<FlashException>(() => FlashPackage.Open(Path)).Message, StringComparison.Ordinal);
        bytes[offset + 2 * stride + 7] ^= 1;
        foreach (int at in Enumerable.Range(0, bytes.Length / 401).Select(static i => 401 * i))
        {
            bytes[at] ^= 1;
            Assert.Throws<FlashException>(() => FlashPackage.Open(Path, p => new MemoryFile(p.EndsWith("001.slice", StringComparison.Ordinal) ? bytes : File.ReadAllBytes(p), 512, p)));
            bytes[at] ^= 1;
        }
    }

    [Fact]
    public void Whole_packages_say_the_version_they_said_and_nothing_of_bundles()
    {
        PackageTiny.Write(Path, PackageTiny.Gated, WeightFormat.Q8);
        using FlashPackage package = FlashPackage.Open(Path);
        Assert.Equal((2, null, false), (package.Manifest.FormatVersion, package.Manifest.Bundles, package.Manifest.Lean));
        Assert.DoesNotContain("bundles\"", File.ReadAllText(System.IO.Path.Combine(Path, PackageLayout.ManifestPath)), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("formatVersion", "2", "format version 2, in which bundles hold every row of a neuron")]
    [InlineData("formatVersion", "4", "format version 4, in which bundles hold every row of a neuron")]
    [InlineData("bundles", "\"thin\"", "bundles 'thin' are none this version knows")]
    [InlineData("bundles", "\"whole\"", "bundles 'whole' are none this version knows")]
    [InlineData("bundles", "null", "do not fit the model")]
    [InlineData("predictors", """{"kind":"lowrank","layers":[{"rank":8,"threshold":0},{"rank":8,"threshold":0}]}""", "lean bundles lack the rows that who goes by predictors reads")]
    public void A_manifest_that_contradicts_itself_is_refused_in_one_line(string property, string value, string why)
    {
        PackageTiny.Write(Path, PackageTiny.Gated, WeightFormat.Q8, lean: true);
        PackageForge.Manifest(Path, root => root[property] = System.Text.Json.Nodes.JsonNode.Parse(value));
        FlashException e = Assert.Throws<FlashException>(() => FlashPackage.Open(Path));
        Assert.Contains(why, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void Experts_by_neuron_are_lean_and_have_ReLU_gates_that_end_with_a_panel()
    {
        ModelConfig config = PackageTiny.Gated with { Experts = new ExpertConfig { Count = 4, Active = 2, Size = 32, Normalised = true, ByNeuron = true } };
        PackageLayout.Validate(config, WeightFormat.Q8);
        Assert.True(config.HasSelector(0));
        Assert.False((config with { Experts = config.Experts! with { ByNeuron = false } }).HasSelector(0));
        const string says = "neurons of experts are read one by one where their gates are ReLU and an expert has a multiple of 16 of them";
        foreach (ModelConfig other in (ModelConfig[])[config with { Activation = Activation.Silu }, config with { Gated = false }, config with { Experts = config.Experts with { Size = 24 } }])
            Assert.Equal(says, Assert.Throws<FlashException>(() => PackageLayout.Validate(other, WeightFormat.Q8)).Message);
        Manifest whole = PackageWriter.Plan(PackageTiny.Spec(config, WeightFormat.Q8));
        Assert.Null(whole.Bundles);
        using PackageWriter writer = PackageWriter.Create(Path, PackageTiny.Spec(config, WeightFormat.Q8));
        PackageTiny.Fill(writer, config, WeightFormat.Q8, seed: 1);
        Assert.Contains("neurons of experts are read one by one from lean bundles; these are whole", Assert.Throws<FlashException>(writer.Complete).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_model_without_a_selector_cannot_be_written_with_lean_bundles()
    {
        ModelConfig config = PackageTiny.Gated with { Activation = Activation.Silu };
        using PackageWriter writer = PackageWriter.Create(Path, PackageTiny.Spec(config, WeightFormat.Q8, lean: true));
        PackageTiny.Fill(writer, config, WeightFormat.Q8, seed: 1);
        Assert.Contains("lean bundles are of ReLU models, whose", Assert.Throws<FlashException>(writer.Complete).Message, StringComparison.Ordinal);
    }

    private string Path => _folder["tiny.flash"];

    private static ModelConfig Shape(bool gated, bool wide)
    {
        ModelConfig config = gated ? PackageTiny.Gated : PackageTiny.Ungated;
        return wide ? PackageTiny.Wide(config) : config;
    }

    private static byte[] Read(UnitRegion region, int unit)
    {
        using FileScan scan = new(new MemoryLedger());
        byte[] bytes = scan.Read(region.File, region.Start(unit), region.PartBytes).ToArray();
        fixed (byte* p = bytes) Assert.Equal(ReadFault.None, region.Verify(unit, p));
        return bytes;
    }
}
