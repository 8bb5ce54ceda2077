namespace FlashOrleans.Flash.Tests;

/// <summary>tests/data/packages/v1-tiny.flash was written by the first version of the format (by <see cref="PackageTiny.Write"/>) and is never written again: packages outlive builds.</summary>
public sealed class PackageFixtureTests
{
    private const string Hash = "b52e61ee5cf7fa0a8eff5ec69b22fd02";

    private static string Folder
    {
        get
        {
            DirectoryInfo? at = new(AppContext.BaseDirectory);
            while (at is not null && !File.Exists(Path.Combine(at.FullName, "FlashOrleans.sln"))) at = at.Parent;
            return Path.Combine(at?.FullName ?? throw new InvalidOperationException("the tests run outside the repository"), "tests/data/packages/v1-tiny.flash");
        }
    }

    [Fact]
    public void An_old_file_still_opens_with_its_identity_and_every_number()
    {
        PackageVerifier.Verify(Folder);
        using FlashPackage package = FlashPackage.Open(Folder);
        Assert.Equal((Hash, "tiny", WeightFormat.Q8), (package.Hash, package.Name, package.Format));
        Assert.Equivalent(PackageTiny.Gated, package.Config, strict: true);
        MemoryLedger ledger = new();
        using PackageFile slice = package.OpenSlice(1);
        foreach (string name in new[] { "attn_norm.weight", "attn.qkv", "attn.o", "ffn_norm.weight", "ffn.selector" })
        {
            using NativeBuffer buffer = slice.Load(name, ledger, "weights");
            Assert.Equal(PackageTiny.Bytes(1, "slice1", name, buffer.Length), buffer.Span.ToArray());
        }
        BundleLayout layout = slice.Bundles!;
        Assert.Equal((21, 32, 3, 48, 3, 512, 7), (layout.Neurons, layout.Cols, layout.Rows, layout.RowBytes, layout.Group, layout.Stride, layout.Units));
        using FileScan scan = new(ledger);
        Assert.Equal(PackageTiny.Bundle(1, "slice1", 4, layout), scan.Read(slice.File, layout.Offset + layout.Stride + layout.UpOffset(1), layout.BundleBytes).ToArray());
    }

    [Fact]
    public void The_writer_of_today_makes_the_same_bytes()
    {
        using TemporaryFolder folder = new();
        PackageTiny.Write(folder["tiny.flash"], PackageTiny.Gated, WeightFormat.Q8);
        foreach (string file in Directory.EnumerateFiles(Folder, "*", SearchOption.AllDirectories))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(Path.Combine(folder["tiny.flash"], Path.GetRelativePath(Folder, file))));
    }
}
