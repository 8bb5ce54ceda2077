using System.IO.Hashing;

namespace FlashOrleans.Flash.Tests;

public sealed unsafe class PackageRoundTripTests
{
    public static TheoryData<WeightFormat, bool, bool> Shapes()
    {
        TheoryData<WeightFormat, bool, bool> shapes = [];
        foreach (WeightFormat format in Enum.GetValues<WeightFormat>())
        {
            foreach (bool gated in new[] { true, false })
            {
                // Narrow rows do not fill a super-block.
                if (format != WeightFormat.Q4K) shapes.Add(format, gated, false);
                shapes.Add(format, gated, true);
            }
        }
        return shapes;
    }

    private static ModelConfig Shape(bool gated, bool wide)
    {
        ModelConfig config = gated ? PackageTiny.Gated : PackageTiny.Ungated;
        return wide ? PackageTiny.Wide(config) : config;
    }

    [Theory, MemberData(nameof(Shapes))]
    public void What_was_written_is_read_back(WeightFormat format, bool gated, bool wide)
    {
        using TemporaryFolder folder = new();
        ModelConfig config = Shape(gated, wide);
        string hash = PackageTiny.Write(folder["tiny.flash"], config, format);
        using FlashPackage package = FlashPackage.Open(folder["tiny.flash"]);

        Assert.Equal(hash, package.Hash);
        Assert.Equal(("tiny", format), (package.Name, package.Format));
        Assert.Equivalent(config, package.Config, strict: true);
        Assert.Equal("{}\n"u8.ToArray(), package.SideFile("tokenizer.json"));
        Assert.Null(package.SideFile("other.json"));
        Assert.Equal("made by the tests", package.Manifest.Provenance.Source);

        MemoryLedger ledger = new();
        using PackageFile edge = package.OpenEdge();
        Assert.Null(edge.Bundles);
        CheckSections(edge, "edge", ledger);
        for (int layer = 0; layer < config.Layers; layer++)
        {
            using PackageFile slice = package.OpenSlice(layer);
            CheckSections(slice, "slice" + layer, ledger);
        }
        Assert.Equal(0, ledger.Total);
    }

    [Theory, MemberData(nameof(Shapes))]
    public void Every_unit_brings_its_neurons_and_its_checksums_catch_any_changed_byte(WeightFormat format, bool gated, bool wide)
    {
        using TemporaryFolder folder = new();
        ModelConfig config = Shape(gated, wide);
        PackageTiny.Write(folder["tiny.flash"], config, format);
        using FlashPackage package = FlashPackage.Open(folder["tiny.flash"]);
        using PackageFile slice = package.OpenSlice(1);
        BundleLayout layout = slice.Bundles!;
        Assert.Equal(config.FfnSize, layout.Neurons);
        Assert.True(layout.Stride % 512 == 0 && layout.UsedBytes <= layout.Stride && layout.Units * layout.Group >= layout.Neurons);
        Assert.Equal(layout.BundleBytes > 256 ? 1 : 512 / layout.BundleBytes, layout.Group);

        UnitRegion whole = slice.BundleUnits(whole: true), part = slice.BundleUnits(whole: false);
        Assert.Equal(layout.UsedBytes, whole.PartBytes);
        Assert.Equal(layout.Group > 1 ? layout.UsedBytes : (gated ? layout.UpBytes : 0) + layout.DownBytes, part.PartBytes);
        for (int unit = 0; unit < layout.Units; unit++)
        {
            byte[] bytes = Read(whole, unit), some = Read(part, unit);
            for (int j = 0; j < layout.Group && unit * layout.Group + j < layout.Neurons; j++)
            {
                byte[] bundle = PackageTiny.Bundle(1, "slice1", unit * layout.Group + j, layout);
                Assert.Equal(bundle, bytes.AsSpan(layout.UpOffset(j), layout.BundleBytes).ToArray());
                Assert.Equal(layout.DownOffset(j) - layout.UpOffset(j), layout.UpBytes);
            }
            Assert.Equal(bytes.AsSpan(part.PartOffset, part.PartBytes).ToArray(), some);
        }
        foreach (UnitRegion region in new[] { whole, part })
        {
            byte[] bytes = Read(region, region.Count - 1);
            for (int i = 0; i < bytes.Length; i++)
            {
                bytes[i] ^= 0x10;
                Assert.Equal(ReadFault.Checksum, Verify(region, region.Count - 1, bytes));
                bytes[i] ^= 0x10;
            }
        }
    }

    [Theory, MemberData(nameof(Shapes))]
    public void Neurons_that_are_always_used_lie_in_slabs(WeightFormat format, bool gated, bool wide)
    {
        using TemporaryFolder folder = new();
        // Neurons that do not fill the last slab.
        ModelConfig config = Shape(gated, wide) with { Activation = Activation.Silu, FfnSize = 200 };
        PackageTiny.Write(folder["tiny.flash"], config, format);
        using FlashPackage package = FlashPackage.Open(folder["tiny.flash"]);
        using PackageFile slice = package.OpenSlice(1);
        BundleLayout layout = slice.Bundles!;
        Assert.Equal((4, true, 128, 2), (package.Manifest.FormatVersion, layout.Slabs, layout.Group, layout.Units));
        // Of 256 columns form K has its blocks; a slab is narrower.
        Assert.Equal(format == WeightFormat.Q4K ? WeightFormat.Q4B : format, layout.Down);
        int gate = gated ? (int)WeightLayout.MatrixBytes(format, 128, layout.Cols) : 0, up = (int)WeightLayout.MatrixBytes(format, 128, layout.Cols), down = (int)WeightLayout.MatrixBytes(layout.Down, layout.Cols, 128);
        Assert.Equal((gate, gate + up, gate + up + down), (new RowOffsets(layout).Up, new RowOffsets(layout).Down, layout.SlabBytes));
        UnitRegion region = slice.BundleUnits(whole: true);
        for (int unit = 0; unit < layout.Units; unit++)
            Assert.Equal(PackageTiny.Slab(1, "slice1", unit * 128, layout), Read(region, unit).AsSpan(0, layout.SlabBytes).ToArray());
    }

    [Theory, MemberData(nameof(Shapes))]
    public void Embedding_rows_are_units_of_a_panel_or_a_row(WeightFormat format, bool gated, bool wide)
    {
        using TemporaryFolder folder = new();
        ModelConfig config = Shape(gated, wide);
        PackageTiny.Write(folder["tiny.flash"], config, format);
        using FlashPackage package = FlashPackage.Open(folder["tiny.flash"]);
        using PackageFile edge = package.OpenEdge();
        UnitRegion units = edge.SectionUnits("embed");
        bool panels = format is not (WeightFormat.F32 or WeightFormat.BF16);
        Assert.Equal(panels ? 3 : 37, units.Count);
        byte[] all = PackageTiny.Bytes(1, "edge", "embed", edge.Section("embed").Bytes);
        for (int unit = 0; unit < units.Count; unit++) Assert.Equal(all.AsSpan(unit * units.Stride, units.PartBytes).ToArray(), Read(units, unit));
    }

    [Fact]
    public void The_size_is_known_before_writing()
    {
        using TemporaryFolder folder = new();
        foreach (WeightFormat format in Enum.GetValues<WeightFormat>())
        {
            ModelConfig config = Shape(gated: false, wide: format == WeightFormat.Q4K);
            PackageTiny.Write(folder["tiny.flash"], config, format);
            using FlashPackage package = FlashPackage.Open(folder["tiny.flash"]);
            Assert.Equal(PackageLayout.EstimateBytes(config, format, 512), package.Manifest.Files.Sum(static f => f.Bytes));
        }
    }

    [Fact]
    public void The_same_model_gives_the_same_package_and_another_one_another_hash()
    {
        using TemporaryFolder folder = new();
        string one = PackageTiny.Write(folder["a.flash"], PackageTiny.Gated, WeightFormat.Q8, seed: 1);
        string same = PackageTiny.Write(folder["b.flash"], PackageTiny.Gated, WeightFormat.Q8, seed: 1);
        string other = PackageTiny.Write(folder["c.flash"], PackageTiny.Gated, WeightFormat.Q8, seed: 2);
        Assert.Equal(one, same);
        Assert.NotEqual(one, other);
        Assert.Equal(32, one.Length);
    }

    [Fact]
    public void Sections_and_bundles_may_be_written_side_by_side_and_in_any_order()
    {
        using TemporaryFolder folder = new();
        string straight = PackageTiny.Write(folder["a.flash"], PackageTiny.Gated, WeightFormat.F32);
        using (PackageWriter writer = PackageWriter.Create(folder["b.flash"], PackageTiny.Spec(PackageTiny.Gated, WeightFormat.F32)))
        {
            for (int layer = 1; layer >= 0; layer--)
            {
                writer.BeginSlice(layer);
                SectionEntry[] sections = [.. PackageLayout.Slice(PackageTiny.Gated, WeightFormat.F32, layer).Where(static s => s.Kind is SectionKind.Plain or SectionKind.Panels).Reverse()];
                SectionWriter[] writers = [.. sections.Select(s => writer.BeginSection(s.Name, s.Format, s.Rows, s.Cols))];
                BundleLayout layout = BundleLayout.For(PackageTiny.Gated, WeightFormat.F32, layer);
                using (BundleWriter bundles = writer.BeginBundles())
                {
                    PackageTiny.Write(bundles, 1, "slice" + layer);
                }
                for (int i = 0; i < sections.Length; i++)
                {
                    writers[i].Write(PackageTiny.Bytes(1, "slice" + layer, sections[i].Name, sections[i].Bytes));
                    writers[i].Dispose();
                }
            }
            writer.BeginEdge();
            foreach (SectionEntry s in PackageLayout.Edge(PackageTiny.Gated, WeightFormat.F32).Where(static s => s.Kind != SectionKind.Hashes))
            {
                using SectionWriter section = writer.BeginSection(s.Name, s.Format, s.Rows, s.Cols);
                section.Write(PackageTiny.Bytes(1, "edge", s.Name, s.Bytes));
            }
            writer.AddSideFile("tokenizer.json", "{}\n"u8);
            Assert.Equal(straight, writer.Complete());
        }
        PackageVerifier.Verify(folder["b.flash"]);
    }

    [Fact]
    public void Verifying_tells_its_progress_up_to_the_end()
    {
        using TemporaryFolder folder = new();
        PackageTiny.Write(folder["tiny.flash"], PackageTiny.Gated, WeightFormat.Q4);
        List<(long Done, long Total)> told = [];
        Manifest manifest = PackageVerifier.Verify(folder["tiny.flash"], (done, total) => told.Add((done, total)));
        Assert.Equal("q4", manifest.Quant);
        Assert.NotEmpty(told);
        Assert.True(told.Zip(told.Skip(1)).All(static p => p.First.Done <= p.Second.Done) && told.All(static t => t.Done <= t.Total));
    }

    private static void CheckSections(PackageFile file, string label, MemoryLedger ledger)
    {
        foreach (Section section in file.Sections)
        {
            if (section.Kind is SectionKind.Hashes or SectionKind.Bundles) continue;
            Assert.True(file.Has(section.Name));
            Assert.Equal(section, file.Section(section.Name));
            using NativeBuffer buffer = file.Load(section.Name, ledger, "weights");
            Assert.Equal(section.Bytes, buffer.Length);
            Assert.Equal(buffer.Length, ledger.Held("weights"));
            Assert.Equal(PackageTiny.Bytes(1, label, section.Name, section.Bytes), buffer.Span.ToArray());
            Assert.Equal(XxHash3.HashToUInt64(buffer.Span).ToString("x16"), section.Hash);
        }
        Assert.False(file.Has("nonsense"));
        Assert.Throws<FlashException>(() => file.Section("nonsense"));
        Assert.Throws<FlashException>(() => file.Load("nonsense", ledger, "weights"));
    }

    private static byte[] Read(UnitRegion region, int unit)
    {
        using FileScan scan = new(new MemoryLedger());
        byte[] bytes = scan.Read(region.File, region.Start(unit), region.PartBytes).ToArray();
        Assert.Equal(ReadFault.None, Verify(region, unit, bytes));
        return bytes;
    }

    private static ReadFault Verify(UnitRegion region, int unit, byte[] part)
    {
        fixed (byte* p = part) return region.Verify(unit, p);
    }
}
