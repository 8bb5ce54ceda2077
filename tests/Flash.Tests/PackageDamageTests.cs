using System.Buffers.Binary;
using System.Text.Json.Nodes;
using CsCheck;

namespace FlashOrleans.Flash.Tests;

/// <summary>One good package for all tests of damage; nobody changes it.</summary>
public sealed class GoodPackage : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    public GoodPackage() => PackageTiny.Write(Path, PackageTiny.Gated, WeightFormat.Q8, predictors: PackageTiny.Predictors);
    public string Path => _folder["good.flash"];
    public void Dispose() => _folder.Dispose();
}

public sealed unsafe class PackageDamageTests : IClassFixture<GoodPackage>, IDisposable
{
    private const string Slice0 = "layers/000.slice", Slice1 = "layers/001.slice";
    private static readonly int[] Extremes = [0, 1, -1, 512, 4096, int.MaxValue, int.MinValue, 1 << 30];
    private readonly TemporaryFolder _folder = new();
    private readonly string _good, _package;

    public PackageDamageTests(GoodPackage good)
    {
        _good = good.Path;
        _package = _folder["tiny.flash"];
        PackageForge.Copy(_good, _package);
    }

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("manifest.json"), InlineData("tokenizer.json"), InlineData("edge.bin"), InlineData(Slice0), InlineData(Slice1)]
    public void Any_flipped_bit_is_found_and_named_by_file(string relative)
    {
        string path = Path.Combine(_package, relative);
        byte[] good = File.ReadAllBytes(path);
        Gen.Select(Gen.Int[0, good.Length - 1], Gen.Int[0, 7]).Sample((at, bit) =>
        {
            byte[] bad = [.. good];
            bad[at] ^= (byte)(1 << bit);
            File.WriteAllBytes(path, bad);
            Assert.Contains(path, Refused(Twin).Message, StringComparison.Ordinal);
        }, iter: 150, threads: 1);
    }

    [Theory]
    [InlineData("manifest.json"), InlineData("tokenizer.json"), InlineData("edge.bin"), InlineData(Slice0), InlineData(Slice1)]
    public void Truncated_lengthened_and_shifted_files_are_refused(string relative)
    {
        string path = Path.Combine(_package, relative);
        byte[] good = File.ReadAllBytes(path);
        Gen.Select(Gen.Int[0, good.Length - 1], Gen.Int[1, 5000], Gen.Int[0, 2], Gen.Byte).Sample((at, count, how, fill) =>
        {
            byte[] bad = how switch
            {
                0 => good[..at],
                1 => [.. good[..at], .. Enumerable.Repeat(fill, count), .. good[at..]],
                _ => [.. good[..at], .. good[Math.Min(at + count, good.Length)..]],
            };
            File.WriteAllBytes(path, bad);
            Assert.Contains(path, Refused(Twin).Message, StringComparison.Ordinal);
        }, iter: 150, threads: 1);
    }

    [Theory]
    [InlineData("manifest.json"), InlineData("tokenizer.json"), InlineData("edge.bin"), InlineData(Slice0), InlineData(Slice1)]
    public void A_missing_file_is_named(string relative)
    {
        File.Delete(Path.Combine(_package, relative));
        string message = Refused().Message;
        Assert.Contains(relative, message, StringComparison.Ordinal);
        Assert.Contains("missing", message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_folder_without_a_package_is_refused() =>
        Assert.Contains("no package folder", Assert.Throws<FlashException>(() => FlashPackage.Open(_folder["nothing.flash"])).Message, StringComparison.Ordinal);

    [Fact]
    public void A_folder_in_place_of_a_slice_is_refused()
    {
        File.Delete(Path.Combine(_package, Slice0));
        Directory.CreateDirectory(Path.Combine(_package, Slice0));
        Assert.Contains(Slice0, Refused().Message, StringComparison.Ordinal);
    }

    [Theory, InlineData(3), InlineData(6), InlineData(0), InlineData(99)]
    public void Another_version_is_told_how_to_import_again(int version)
    {
        PackageForge.Manifest(_package, root => root["formatVersion"] = version);
        string message = Refused().Message;
        Assert.Contains($"format version {version}", message, StringComparison.Ordinal);
        Assert.Contains("flash import PATH --name NAME", message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_slice_of_another_version_is_refused_at_its_version()
    {
        PackageForge.File_(_package, Slice0, bytes => { bytes[8] = 6; return bytes; });
        Assert.Contains($"{Slice0} at byte 8: format version 6", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Swapped_slices_are_told_apart()
    {
        File.Copy(Path.Combine(_good, Slice1), Path.Combine(_package, Slice0), overwrite: true);
        File.Copy(Path.Combine(_good, Slice0), Path.Combine(_package, Slice1), overwrite: true);
        Assert.Contains("this is the slice of layer 1, the slice of layer 0 was expected", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_edge_file_in_place_of_a_slice_is_told()
    {
        File.Copy(Path.Combine(_good, "edge.bin"), Path.Combine(_package, Slice0), overwrite: true);
        PackageForge.Manifest(_package, root => root["files"]![1]!["bytes"] = new FileInfo(Path.Combine(_good, "edge.bin")).Length);
        Refused();
    }

    [Fact]
    public void The_same_layer_of_another_import_is_refused()
    {
        PackageTiny.Write(_folder["other.flash"], PackageTiny.Gated, WeightFormat.Q8, seed: 2, predictors: PackageTiny.Predictors);
        File.Copy(_folder["other.flash/" + Slice1], Path.Combine(_package, Slice1), overwrite: true);
        Assert.Contains("belongs to another import", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_package_replaced_while_open_gives_no_slice_of_the_new_one()
    {
        using FlashPackage package = FlashPackage.Open(_package);
        PackageTiny.Write(_package, PackageTiny.Gated, WeightFormat.Q8, seed: 2, predictors: PackageTiny.Predictors);
        Assert.Contains("belongs to another import", Assert.Throws<FlashException>(() => package.OpenSlice(0)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Overlapping_sections_are_refused()
    {
        long selector = 0;
        PackageForge.Entry(_package, Slice0, "ffn.selector", (b, at) => selector = BinaryPrimitives.ReadInt64LittleEndian(b.AsSpan(at + 64)));
        PackageForge.Entry(_package, Slice0, "bundles", (b, at) => BinaryPrimitives.WriteInt64LittleEndian(b.AsSpan(at + 64), selector + 512));
        Assert.Contains("overlap", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Two_sections_of_one_name_are_refused()
    {
        PackageForge.Entry(_package, Slice0, "ffn_norm.weight", static (b, at) => "attn_norm.weight"u8.CopyTo(b.AsSpan(at)));
        Assert.Contains("appears twice", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_renamed_section_is_missing()
    {
        PackageForge.Entry(_package, Slice0, "ffn.selector", static (b, at) => b[at] = (byte)'g');
        Assert.Contains("section ffn.selector is missing", Refused().Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(64, 100L, "inside the header"), InlineData(64, 0L, "inside the header"), InlineData(64, -512L, "inside the header"), InlineData(64, 4097L, "no multiple of 512")]
    [InlineData(64, 1L << 40, "beyond the end"), InlineData(64, long.MaxValue - 511, "beyond the end"), InlineData(72, long.MaxValue, "beyond the end"), InlineData(72, -1L, "beyond the end")]
    [InlineData(72, 512L, "the model needs")]
    public void Impossible_places_of_a_section_are_refused(int field, long value, string why)
    {
        PackageForge.Entry(_package, Slice0, "bundles", (b, at) => BinaryPrimitives.WriteInt64LittleEndian(b.AsSpan(at + field), value));
        string message = Refused().Message;
        Assert.Contains(why, message, StringComparison.Ordinal);
        Assert.Contains(Slice0 + " at byte ", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(48, 2), InlineData(52, 0), InlineData(56, 22), InlineData(60, 64), InlineData(88, 1), InlineData(92, 0), InlineData(92, 1024), InlineData(96, 2), InlineData(100, 1)]
    public void Bundles_of_another_shape_than_the_models_are_refused(int field, int value)
    {
        PackageForge.Entry(_package, Slice0, "bundles", (b, at) => BinaryPrimitives.WriteInt32LittleEndian(b.AsSpan(at + field), value));
        Assert.Contains("the model needs", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Forged_tables_never_crash()
    {
        byte[] good = File.ReadAllBytes(Path.Combine(_package, Slice0));
        Gen.Select(Gen.Int[2, (SectionTable.PrefixBytes + 13 * SectionTable.EntryBytes) / 4], Gen.Int[0, Extremes.Length - 1]).Sample((word, extreme) =>
        {
            byte[] forged = [.. good];
            BinaryPrimitives.WriteInt32LittleEndian(forged.AsSpan(word * 4), Extremes[extreme]);
            PackageForge.File_(_package, Slice0, _ => forged);
            Attempt();
        }, iter: 150, threads: 1);
    }

    [Fact]
    public void Forged_manifests_never_crash()
    {
        JsonObject root = JsonNode.Parse(File.ReadAllBytes(Path.Combine(_good, PackageLayout.ManifestPath)))!.AsObject();
        List<string[]> places = [];
        Collect(root, [], places);
        string[] values = ["null", "0", "-1", "1", "7", "2147483647", "-9223372036854775808", "1e300", "0.5", "\"x\"", "\"../../etc/passwd\"", "\"relu\"", "[null]", "{}"];
        foreach (string[] place in places)
        {
            foreach (string value in values)
            {
                File.Copy(Path.Combine(_good, PackageLayout.ManifestPath), Path.Combine(_package, PackageLayout.ManifestPath), overwrite: true);
                PackageForge.Manifest(_package, forged => Replace(forged, place, JsonNode.Parse(value)));
                Attempt();
            }
        }
        Assert.True(places.Count > 40);
    }

    [Fact]
    public void A_section_of_a_later_version_is_left_alone_but_its_bytes_are_checked()
    {
        PackageForge.File_(_package, Slice0, static bytes =>
        {
            byte[] longer = [.. bytes, .. new byte[PackageLayout.Page]];
            BinaryPrimitives.WriteInt64LittleEndian(longer.AsSpan(24), longer.Length);
            int count = BinaryPrimitives.ReadInt32LittleEndian(longer.AsSpan(20)), at = SectionTable.PrefixBytes + count * SectionTable.EntryBytes;
            BinaryPrimitives.WriteInt32LittleEndian(longer.AsSpan(20), count + 1);
            "ffn.novelty"u8.CopyTo(longer.AsSpan(at));
            BinaryPrimitives.WriteInt32LittleEndian(longer.AsSpan(at + 48), 77);
            BinaryPrimitives.WriteInt32LittleEndian(longer.AsSpan(at + 56), int.MaxValue);
            BinaryPrimitives.WriteInt64LittleEndian(longer.AsSpan(at + 64), bytes.Length);
            BinaryPrimitives.WriteInt64LittleEndian(longer.AsSpan(at + 72), 100);
            BinaryPrimitives.WriteUInt64LittleEndian(longer.AsSpan(at + 80), System.IO.Hashing.XxHash3.HashToUInt64(new byte[100]));
            return longer;
        });
        using (FlashPackage package = FlashPackage.Open(_package))
        {
            using PackageFile slice = package.OpenSlice(0);
            Assert.False(slice.Has("ffn.novelty"));
        }
        string path = Path.Combine(_package, Slice0);
        byte[] file = File.ReadAllBytes(path);
        file[^(PackageLayout.Page - 50)] = 1;
        File.WriteAllBytes(path, file);
        Assert.Contains("ffn.novelty", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_damaged_bundle_is_named_by_its_unit()
    {
        string path = Path.Combine(_package, Slice1);
        byte[] file = File.ReadAllBytes(path);
        long offset = BinaryPrimitives.ReadInt64LittleEndian(file.AsSpan(PackageForge.At(file, "bundles") + 64));
        file[offset + 2 * 512 + 7] ^= 1;
        File.WriteAllBytes(path, file);
        Assert.Contains($"{Slice1} at byte {offset + 1024}: unit 2 of {Slice1} bundles is damaged", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_large_package_checks_resident_parts_when_opened_and_bundles_when_read()
    {
        string path = Path.Combine(_package, Slice1);
        byte[] file = File.ReadAllBytes(path);
        int bundles = (int)BinaryPrimitives.ReadInt64LittleEndian(file.AsSpan(PackageForge.At(file, "bundles") + 64));
        int selector = (int)BinaryPrimitives.ReadInt64LittleEndian(file.AsSpan(PackageForge.At(file, "ffn.selector") + 64));
        file[bundles + 512] ^= 1;
        File.WriteAllBytes(path, file);
        using (FlashPackage package = FlashPackage.Open(_package, null, everything: false, null))
        {
            using PackageFile slice = package.OpenSlice(1);
            UnitRegion units = slice.BundleUnits(whole: false);
            using FileScan scan = new(new MemoryLedger());
            fixed (byte* part = scan.Read(slice.File, units.Start(1), units.PartBytes)) Assert.Equal(ReadFault.Checksum, units.Verify(1, part));
            fixed (byte* part = scan.Read(slice.File, units.Start(2), units.PartBytes)) Assert.Equal(ReadFault.None, units.Verify(2, part));
        }
        Assert.Throws<FlashException>(() => PackageVerifier.Verify(_package));
        file[bundles + 512] ^= 1;
        file[selector + 5] ^= 1;
        File.WriteAllBytes(path, file);
        Assert.Contains("section ffn.selector", Assert.Throws<FlashException>(() => FlashPackage.Open(_package, null, everything: false, null)).Message, StringComparison.Ordinal);
    }

    [Theory, InlineData(1), InlineData(512), InlineData(4096)]
    public void Short_interrupted_and_once_failing_reads_do_not_matter(int alignment)
    {
        using FlashPackage package = FlashPackage.Open(_package, path =>
        {
            MemoryFile file = new(File.ReadAllBytes(path), alignment, path);
            file.Inject(new MemoryFault { Read = 0, ShortBytes = 700 });
            file.Inject(new MemoryFault { Read = 1, Errno = 4 });
            file.Inject(new MemoryFault { Read = 2, Errno = 5 });
            return file;
        });
        MemoryLedger ledger = new();
        using PackageFile edge = package.OpenEdge();
        using NativeBuffer embed = edge.Load("embed", ledger, "embed");
        Assert.Equal(PackageTiny.Bytes(1, "edge", "embed", embed.Length), embed.Span.ToArray());
    }

    [Fact]
    public void A_failing_device_is_one_error_with_its_place_and_leaks_nothing()
    {
        MemoryLedger ledger = new();
        using FlashPackage package = FlashPackage.Open(_package, Twin);
        using PackageFile slice = package.OpenSlice(0);
        ((MemoryFile)slice.File).Inject(new MemoryFault { Errno = 5, Times = MemoryFault.Always });
        FlashException fault = Assert.Throws<FlashException>(() => slice.Load("attn.qkv", ledger, "qkv"));
        Assert.Contains($"{Slice0} at byte {slice.Section("attn.qkv").Offset}", fault.Message, StringComparison.Ordinal);
        Assert.Equal(0, ledger.Total);
    }

    /// <summary>In memory where a test opens hundreds of packages: a direct read of a file just written waits for the disk.</summary>
    private static FlashFile Twin(string path) => new MemoryFile(File.ReadAllBytes(path), 512, path);

    private FlashException Refused(Func<string, FlashFile>? open = null)
    {
        FlashException fault = Assert.Throws<FlashException>(() => FlashPackage.Open(_package, open));
        Assert.DoesNotContain('\n', fault.Message);
        return fault;
    }

    /// <summary>Success or a FlashException; anything else fails the test.</summary>
    private void Attempt()
    {
        try
        {
            FlashPackage.Open(_package, Twin).Dispose();
        }
        catch (FlashException e)
        {
            Assert.DoesNotContain('\n', e.Message);
        }
    }

    private static void Collect(JsonNode? node, string[] place, List<string[]> places)
    {
        if (place.Length > 0) places.Add(place);
        if (node is JsonObject o)
        {
            foreach ((string key, JsonNode? child) in o) Collect(child, [.. place, key], places);
        }
        else if (node is JsonArray a)
        {
            for (int i = 0; i < a.Count; i++) Collect(a[i], [.. place, i.ToString(System.Globalization.CultureInfo.InvariantCulture)], places);
        }
    }

    private static void Replace(JsonObject root, string[] place, JsonNode? value)
    {
        JsonNode parent = root;
        foreach (string step in place[..^1]) parent = parent is JsonArray a ? a[int.Parse(step, System.Globalization.CultureInfo.InvariantCulture)]! : parent[step]!;
        if (parent is JsonArray array) array[int.Parse(place[^1], System.Globalization.CultureInfo.InvariantCulture)] = value;
        else parent[place[^1]] = value;
    }
}
