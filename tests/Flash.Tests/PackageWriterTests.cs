using System.Diagnostics;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Flash.Tests;

public sealed class PackageWriterTests : IDisposable
{
    private static readonly Action<SafeFileHandle, ReadOnlyMemory<byte>, long> ToDisk = static (file, bytes, offset) => RandomAccess.Write(file, bytes.Span, offset);
    private readonly TemporaryFolder _folder = new();
    private string Target => _folder["tiny.flash"];

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void An_import_given_up_leaves_nothing_behind()
    {
        using (PackageWriter writer = Create())
        {
            writer.BeginEdge();
            using SectionWriter section = writer.BeginSection("embed", WeightFormat.Q8, 37, 32);
            section.Write(new byte[100]);
            Assert.NotEmpty(Directory.EnumerateFileSystemEntries(_folder.Path));
        }
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder.Path));
    }

    [Fact]
    public void A_cancelled_import_stops_at_the_next_write_and_leaves_nothing_behind()
    {
        using CancellationTokenSource cancel = new();
        using (PackageWriter writer = PackageWriter.Create(Target, Spec, (done, _) => { if (done > 10_000) cancel.Cancel(); }, cancel.Token))
            Assert.Throws<OperationCanceledException>(() => Finish(writer));
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder.Path));
    }

    [Fact]
    public void A_disk_that_fills_at_any_write_is_one_clear_error_and_the_old_package_stays()
    {
        string old = PackageTiny.Write(Target, PackageTiny.Gated, WeightFormat.Q8, seed: 9);
        int writes = 0;
        bool completed = false;
        for (int full = 0; !completed; full++)
        {
            int left = full;
            using (PackageWriter writer = Create(sink: (file, bytes, offset) =>
            {
                if (left-- == 0) throw new IOException("No space left on device", 28);
                ToDisk(file, bytes, offset);
            }))
            {
                try
                {
                    Finish(writer);
                    completed = true;
                    continue;
                }
                catch (FlashException e)
                {
                    writes++;
                    Assert.Contains("the disk is full; the package needs", e.Message, StringComparison.Ordinal);
                    Assert.Contains(writer.FolderPath, e.Message, StringComparison.Ordinal);
                }
            }
            Assert.Equal([Target], Directory.EnumerateFileSystemEntries(_folder.Path));
            Assert.Equal(old, FlashPackage.ReadManifest(Target).Hash);
        }
        Assert.True(writes > 20);
        Assert.NotEqual(old, FlashPackage.ReadManifest(Target).Hash);
    }

    [Fact]
    public void Another_failure_of_the_device_says_file_and_offset()
    {
        using PackageWriter writer = Create(sink: static (_, _, _) => throw new IOException("Input/output error", 5));
        FlashException fault = Assert.Throws<FlashException>(() => Finish(writer));
        Assert.Contains("edge.bin at byte ", fault.Message, StringComparison.Ordinal);
        Assert.Contains("cannot be written: Input/output error", fault.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_real_full_file_system_is_the_same_clear_error()
    {
        string small = Directory.CreateDirectory(_folder["small"]).FullName;
        if (Run("mount", "-t", "tmpfs", "-o", "size=24k", "none", small) != 0) Assert.Skip("mounting a small tmpfs is not permitted here; the injected twin of this test runs");
        try
        {
            using (PackageWriter writer = Create(path: Path.Combine(small, "tiny.flash")))
                Assert.Contains("the disk is full", Assert.Throws<FlashException>(() => Finish(writer)).Message, StringComparison.Ordinal);
            Assert.Empty(Directory.EnumerateFileSystemEntries(small));
        }
        finally
        {
            Run("umount", small);
        }
    }

    [Fact]
    public void Too_little_room_is_refused_before_anything_is_written()
    {
        FlashException fault = Assert.Throws<FlashException>(() => Create(free: 1 << 20));
        Assert.Contains("the package needs 2 MiB and the disk has 1 MiB free", fault.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder.Path));
    }

    [Fact]
    public void The_free_space_of_the_targets_own_file_system_counts()
    {
        ModelConfig huge = PackageTiny.Gated with { HiddenSize = 1 << 17, FfnSize = 1 << 22, Layers = 1 << 12 };
        Assert.True(PackageLayout.EstimateBytes(huge, WeightFormat.F32) > 1L << 50);
        Assert.Contains("make room", Assert.Throws<FlashException>(() => PackageWriter.Create(Target, PackageTiny.Spec(huge, WeightFormat.F32))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_new_import_replaces_the_old_package_and_nothing_else_remains()
    {
        string old = PackageTiny.Write(Target, PackageTiny.Gated, WeightFormat.Q8, seed: 1);
        using FlashPackage open = FlashPackage.Open(Target);
        using PackageFile slice = open.OpenSlice(0);
        string fresh = PackageTiny.Write(Target, PackageTiny.Ungated, WeightFormat.F32, seed: 2);
        Assert.NotEqual(old, fresh);
        Assert.Equal(fresh, PackageVerifier.Verify(Target).Hash);
        Assert.Equal([Target], Directory.EnumerateFileSystemEntries(_folder.Path));
        Assert.Equal(["edge.bin", "layers", "manifest.json", "tokenizer.json"], Directory.EnumerateFileSystemEntries(Target).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        // A running layer keeps reading the file it opened.
        using NativeBuffer still = slice.Load("attn.qkv", new MemoryLedger(), "qkv");
        Assert.Equal(PackageTiny.Bytes(1, "slice0", "attn.qkv", still.Length), still.Span.ToArray());
    }

    [Fact]
    public void Remains_of_dead_imports_go_and_living_imports_stay()
    {
        string dead = Target + ".tmp-0123456789abcdef", empty = Target + ".tmp-00000000000000aa", replaced = Target + ".tmp-00000000000000bb", other = _folder["tiny2.flash.tmp-0123456789abcdef"];
        foreach (string path in new[] { dead, empty, replaced, other }) Directory.CreateDirectory(path);
        File.WriteAllBytes(Path.Combine(dead, ".importing"), []);
        File.WriteAllBytes(Path.Combine(dead, "edge.bin"), new byte[10]);
        File.WriteAllBytes(Path.Combine(replaced, "manifest.json"), new byte[10]);
        using (PackageWriter living = Create())
        {
            Assert.False(Directory.Exists(dead) || Directory.Exists(empty) || Directory.Exists(replaced));
            using PackageWriter second = Create();
            Assert.True(Directory.Exists(living.FolderPath) && Directory.Exists(second.FolderPath));
            Finish(second);
            Finish(living);
        }
        PackageVerifier.Verify(Target);
        Assert.Equal([Target, other], Directory.EnumerateFileSystemEntries(_folder.Path).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void A_package_that_was_set_aside_when_its_import_died_comes_back()
    {
        string hash = PackageTiny.Write(Target, PackageTiny.Gated, WeightFormat.Q8);
        Directory.Move(Target, Target + ".old-0123456789abcdef");
        PackageFolder.RemoveStale(Target);
        Assert.Equal(hash, PackageVerifier.Verify(Target).Hash);
    }

    [Fact]
    public void A_slash_at_the_end_of_the_path_changes_nothing()
    {
        PackageTiny.Write(Target + "/", PackageTiny.Gated, WeightFormat.Q8);
        using FlashPackage package = FlashPackage.Open(Target + "/");
        Assert.Equal(Target, package.Path);
        Assert.Equal([Target], Directory.EnumerateFileSystemEntries(_folder.Path));
    }

    [Fact]
    public void A_package_can_be_looked_at_and_measured_before_it_has_its_name()
    {
        using PackageWriter writer = PackageWriter.Create(_folder["m.flash"], PackageTiny.Spec(PackageTiny.Gated, WeightFormat.Q8));
        PackageTiny.Fill(writer, PackageTiny.Gated, WeightFormat.Q8, seed: 1);
        string before;
        using (FlashPackage package = writer.Open())
        {
            before = package.Hash;
            using PackageFile slice = package.OpenSlice(1);
            Assert.Equal(21, slice.Bundles!.Neurons);
        }
        Assert.False(Directory.Exists(_folder["m.flash"]));
        writer.Measured = new Measured { Tokens = 9, Zeros = [0.5, 0.25], Nll = 2.5, Other = Activation.Silu, OtherNll = 3.5 };
        string hash = writer.Complete();
        using FlashPackage named = FlashPackage.Open(_folder["m.flash"]);
        Assert.Equal(hash, named.Hash);
        Assert.NotEqual(before, hash);
        Assert.Equivalent(writer.Measured, named.Manifest.Measured, strict: true);
    }

    [Theory]
    [InlineData(0.5)]
    [InlineData(0.5, 1.5)]
    [InlineData(0.5, 0.5, 0.5)]
    public void Measured_zeros_that_are_no_shares_of_the_layers_are_refused(params double[] zeros)
    {
        using PackageWriter writer = PackageWriter.Create(_folder["m.flash"], PackageTiny.Spec(PackageTiny.Gated, WeightFormat.Q8));
        PackageTiny.Fill(writer, PackageTiny.Gated, WeightFormat.Q8, seed: 1);
        writer.Measured = new Measured { Tokens = 9, Zeros = zeros };
        Assert.Throws<FlashException>(writer.Complete);
        Assert.False(Directory.Exists(_folder["m.flash"]));
    }

    [Fact]
    public void A_section_gets_exactly_its_bytes()
    {
        using PackageWriter writer = Create();
        writer.BeginEdge();
        using (SectionWriter norm = writer.BeginSection("final_norm.weight", WeightFormat.F32, 1, 32))
        {
            norm.Write(new byte[128]);
            Assert.Throws<InvalidOperationException>(() => norm.Write(new byte[1]));
        }
        using (SectionWriter embed = writer.BeginSection("embed", WeightFormat.Q8, 37, 32)) embed.Write(new byte[1]);
        Assert.Contains("embed", Assert.Throws<InvalidOperationException>(() => writer.BeginSlice(0)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Misuse_is_refused()
    {
        using PackageWriter writer = Create();
        Assert.Throws<InvalidOperationException>(() => writer.BeginSection("embed", WeightFormat.Q8, 37, 32));
        writer.BeginEdge();
        Assert.Throws<FlashException>(() => writer.BeginSection("embed", WeightFormat.Q4, 37, 32));
        Assert.Throws<FlashException>(() => writer.BeginSection("embed", WeightFormat.Q8, 36, 32));
        Assert.Throws<FlashException>(() => writer.BeginSection("head", WeightFormat.Q8, 37, 32));
        Assert.Throws<InvalidOperationException>(() => writer.BeginSection("embed.hashes", WeightFormat.F32, 3, 1));
        Assert.Throws<FlashException>(writer.BeginBundles);
        using (SectionWriter first = writer.BeginSection("embed", WeightFormat.Q8, 37, 32))
            Assert.Throws<InvalidOperationException>(() => writer.BeginSection("embed", WeightFormat.Q8, 37, 32));
        Assert.Throws<FlashException>(() => writer.AddSideFile("../evil", "x"u8));
        Assert.Throws<FlashException>(() => writer.AddSideFile("manifest.json", "x"u8));
        Assert.Throws<ArgumentOutOfRangeException>(() => writer.BeginSlice(2));
        Assert.Throws<FlashException>(() => PackageWriter.Create(Target, Spec with { Name = "../x" }));
        Assert.Contains("--quant bf16 or f32", Assert.Throws<FlashException>(() => PackageWriter.Create(Target, Spec with { Config = PackageTiny.Gated with { HiddenSize = 40 } })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_package_without_all_its_slices_does_not_complete()
    {
        using PackageWriter writer = Create();
        writer.BeginEdge();
        foreach (SectionEntry s in PackageLayout.Edge(PackageTiny.Gated, WeightFormat.Q8).Where(static s => s.Kind != SectionKind.Hashes))
        {
            using SectionWriter section = writer.BeginSection(s.Name, s.Format, s.Rows, s.Cols);
            section.Write(new byte[s.Bytes]);
        }
        Assert.Contains("layers/000.slice was not written", Assert.Throws<InvalidOperationException>(writer.Complete).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Memory_does_not_grow_with_the_model()
    {
        ModelConfig config = PackageTiny.Gated with { HiddenSize = 1024, VocabSize = 16_000, Layers = 1 };
        long written = 0;
        using PackageWriter writer = PackageWriter.Create(Target, PackageTiny.Spec(config, WeightFormat.F32), null, static _ => long.MaxValue, (_, bytes, _) => written += bytes.Length);
        writer.BeginEdge();
        byte[] row = new byte[4096];
        long before = GC.GetAllocatedBytesForCurrentThread();
        using (SectionWriter embed = writer.BeginSection("embed", WeightFormat.F32, 16_000, 1024))
        {
            for (int i = 0; i < 16_000; i++) embed.Write(row);
        }
        Assert.True(written >= 16_000L * 4096);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 4 << 20);
    }

    [Fact]
    public void Progress_ends_at_the_total()
    {
        long last = 0, all = 0;
        using (PackageWriter writer = PackageWriter.Create(Target, Spec, (done, total) =>
        {
            Assert.True(done >= last && done <= total);
            (last, all) = (done, total);
        })) Finish(writer);
        Assert.True(all > 0 && last == all);
    }

    private static PackageSpec Spec => PackageTiny.Spec(PackageTiny.Gated, WeightFormat.Q8);

    private PackageWriter Create(string? path = null, long free = long.MaxValue, Action<SafeFileHandle, ReadOnlyMemory<byte>, long>? sink = null) =>
        PackageWriter.Create(path ?? Target, Spec, null, _ => free, sink);

    private static void Finish(PackageWriter writer)
    {
        PackageTiny.Fill(writer, PackageTiny.Gated, WeightFormat.Q8, 3);
        writer.Complete();
    }

    private static int Run(string program, params string[] arguments)
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
            process.WaitForExit();
            return process.ExitCode;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return -1;
        }
    }
}
