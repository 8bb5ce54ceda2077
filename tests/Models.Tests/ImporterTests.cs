using System.Text.Json.Nodes;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

public sealed class ImporterTests : IDisposable
{
    private static readonly string[] s_golden = ["llama", "llama-relu", "llama-relu-bf16", "opt"];
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-import").FullName;

    public static readonly TheoryData<string, string> GoldenCases = Combine(s_golden);
    public static readonly TheoryData<string, string> Cases = Combine([.. s_golden, "emberling"]);

    public void Dispose() => Directory.Delete(_folder, true);

    /// <summary>Every tensor of the package against the checkpoint's: the same for f32, within the format's error for the others.</summary>
    [Theory, MemberData(nameof(Cases))]
    public void A_package_holds_the_numbers_of_its_checkpoint(string model, string quant)
    {
        ImportResult result = Importer.Import(Source(model), Package, new ImportOptions { Quant = quant });
        using FlashPackage package = FlashPackage.Open(Package);
        using Checkpoint checkpoint = Checkpoint.Open(Source(model));
        var stored = new PackageTensors(package);

        Assert.Equal(quant == "q4" && package.Config.HiddenSize % 256 == 0 ? "q4k" : quant, PackageLayout.FormatName(package.Format));
        Assert.Equivalent(checkpoint.Config, package.Config, strict: true);
        Assert.Equal(result.Hash, package.Hash);
        foreach (string name in checkpoint.Tensors)
        {
            float[] expected = checkpoint.Read(name), actual = stored.Read(name);
            bool matrix = !name.EndsWith(".weight", StringComparison.Ordinal) && !name.EndsWith(".bias", StringComparison.Ordinal) && name != "positions";
            if (!matrix || quant == "f32" || (quant == "bf16" && model == "llama-relu-bf16")) Assert.Equal(expected, actual);
            else if (name.EndsWith("ffn.down", StringComparison.Ordinal) && package.Config.Activation == Activation.Silu) AssertWithin(quant, Turned(expected), Turned(actual), name);
            else AssertWithin(quant, expected, actual, name);

            // In slabs blocks are of neurons.
            float[] Turned(float[] rows)
            {
                (int n, int d) = checkpoint.Shape(name);
                return [.. Enumerable.Range(0, rows.Length).Select(i => rows[i % n * d + i / n])];
            }
        }
    }

    /// <summary>The rows that decide are there twice, in bundles and as resident panels: the engine relies on their being the same numbers.</summary>
    [Theory, MemberData(nameof(GoldenCases))]
    public void Selector_panels_and_bundles_hold_the_same_numbers(string model, string quant)
    {
        Importer.Import(Source(model), Package, new ImportOptions { Quant = quant });
        using FlashPackage package = FlashPackage.Open(Package);
        var stored = new PackageTensors(package);
        for (int i = 0; i < package.Config.Layers; i++)
        {
            using PackageFile slice = package.OpenSlice(i);
            Assert.Equal(package.Config.Activation == Activation.Relu, slice.Has("ffn.selector"));
            if (slice.Has("ffn.selector"))
                Assert.Equal(stored.Read($"layers.{i}.{(package.Config.Gated ? "ffn.gate" : "ffn.up")}"), stored.Read($"layers.{i}.ffn.selector"));
        }
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("llama-relu")]
    [InlineData("llama-relu-bf16")]
    [InlineData("opt")]
    public void A_reference_model_of_an_f32_package_gives_the_same_bits_as_one_of_the_checkpoint(string model)
    {
        Importer.Import(Source(model), Package, new ImportOptions { Quant = "f32" });
        using FlashPackage package = FlashPackage.Open(Package);
        using Checkpoint checkpoint = Checkpoint.Open(Source(model));
        int[] ids = [3, 1, 4, 1, 5, 9, 2, 6];
        Assert.Equal(new ReferenceModel(checkpoint.Config, checkpoint.Read).Run(ids).Logits, ReferenceModel.FromPackage(package).Run(ids).Logits);
    }

    [Fact]
    public void The_import_reports_what_each_kind_of_matrix_lost()
    {
        ImportResult f32 = Importer.Import(Source("emberling"), Package, new ImportOptions { Quant = "f32" });
        Assert.All(f32.Errors, e => Assert.Equal((0.0, 0.0), (e.Mean, e.WorstRow)));
        ImportResult q8 = Importer.Import(Source("emberling"), Package);
        ImportResult q4 = Importer.Import(Source("emberling"), Package, new ImportOptions { Quant = "q4" });
        Assert.Equal(["embed", "attn.qkv", "attn.o", "ffn.up", "ffn.down", "ffn.gate"], q8.Errors.Select(e => e.Kind));
        foreach ((QuantizationError eight, QuantizationError four) in q8.Errors.Zip(q4.Errors))
        {
            Assert.InRange(eight.Mean, 1e-4, 0.01);
            Assert.InRange(four.Mean, 0.01, 0.12);
            Assert.True(eight.WorstRow >= eight.Mean && four.WorstRow >= four.Mean);
        }
    }

    [Fact]
    public void Auto_is_q8_and_where_rows_do_not_divide_f32_with_a_note()
    {
        Assert.Equal(WeightFormat.Q8, Importer.Import(Source("llama"), Package).Format);
        ImportResult tiny = Importer.Import(TestData.Repo("tests", "data", "bad", "ok-checkpoint"), Package);
        Assert.Equal(WeightFormat.F32, tiny.Format);
        Assert.Contains(tiny.Notes, n => n.Contains("f32", StringComparison.Ordinal));
        Assert.Contains(tiny.Notes, n => n.Contains("token ids", StringComparison.Ordinal));
        using FlashPackage package = FlashPackage.Open(Package);
    }

    [Theory]
    [InlineData("q8")]
    [InlineData("q4")]
    public void Rows_that_do_not_divide_are_refused_with_the_way_out(string quant)
    {
        var e = Assert.Throws<ModelFormatException>(() => Importer.Import(TestData.Repo("tests", "data", "bad", "ok-checkpoint"), Package, new ImportOptions { Quant = quant }));
        Assert.Contains("--quant bf16 or f32", e.Message, StringComparison.Ordinal);
        AssertNothingLeft();
    }

    [Fact]
    public void Four_bits_are_super_blocks_where_rows_come_in_256_and_no_larger()
    {
        ImportResult q4 = Importer.Import(Source("emberling"), Package, new ImportOptions { Quant = "q4" });
        ImportResult blocks = Importer.Import(Source("emberling"), Package, new ImportOptions { Quant = "q4", Formats = _ => WeightFormat.Q4 });
        Assert.Equal((WeightFormat.Q4K, 0), (q4.Format, q4.Formats.Exceptions.Count));
        Assert.InRange(q4.Bytes, blocks.Bytes * 0.99, blocks.Bytes * 1.01);
        foreach ((QuantizationError a, QuantizationError b) in q4.Errors.Zip(blocks.Errors)) Assert.True(a.Mean < 0.9 * b.Mean, $"{a} {b}");
        Assert.Equal(WeightFormat.Q4, Importer.Import(Source("llama"), Package, new ImportOptions { Quant = "q4" }).Format);
    }

    [Fact]
    public void What_lies_at_the_target_and_is_not_a_package_stays()
    {
        Directory.CreateDirectory(Package);
        File.WriteAllText(Path.Combine(Package, "mine.txt"), "x");
        Assert.Throws<ModelFormatException>(() => Importer.Import(Source("llama"), Package));
        Assert.Throws<ModelFormatException>(() => Importer.Import(Source("llama"), Path.Combine(Package, "mine.txt")));
        Assert.Equal([Path.Combine(Package, "mine.txt")], Directory.GetFiles(_folder, "*", SearchOption.AllDirectories));
    }

    [Fact]
    public void A_separator_at_the_end_of_the_target_changes_nothing()
    {
        Assert.Equal("m", Importer.Import(Source("llama"), Package + Path.DirectorySeparatorChar).Name);
        Assert.Equal([Package], Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public void An_unknown_quantisation_is_refused() =>
        Assert.Throws<ModelFormatException>(() => Importer.Import(Source("llama"), Package, new ImportOptions { Quant = "q3" }));

    [Fact]
    public void Side_files_and_provenance_travel_with_the_package()
    {
        Importer.Import(Source("emberling"), Package, new ImportOptions { Name = "ember" });
        using FlashPackage package = FlashPackage.Open(Package);
        Assert.Equal("ember", package.Name);
        foreach (string file in new[] { "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json" })
            Assert.Equal(File.ReadAllBytes(Path.Combine(Source("emberling"), file)), package.SideFile(file));
        Provenance p = package.Manifest.Provenance;
        Assert.Equal("emberling", p.Source);
        SourceFile weights = p.Files.Single(f => f.Name == "model.safetensors");
        Assert.Equal(13906320, weights.Bytes);
        Assert.Equal(Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(File.ReadAllBytes(Path.Combine(Source("emberling"), "model.safetensors")))), weights.Sha256);
    }

    [Fact]
    public void The_same_checkpoint_gives_the_same_package()
    {
        string first = Importer.Import(Source("llama-relu"), Package).Hash;
        string second = Importer.Import(Source("llama-relu"), Path.Combine(_folder, "other.flash"), new ImportOptions { Name = "m" }).Hash;
        Assert.Equal(first, second);
    }

    [Fact]
    public void Progress_names_its_steps_and_ends_at_the_total()
    {
        var seen = new Collected();
        Importer.Import(Source("emberling"), Package, progress: seen);
        Assert.Contains("embedding", seen.Reports.Select(r => r.Step));
        Assert.Contains("layer 6 of 6", seen.Reports.Select(r => r.Step));
        Assert.Equal(seen.Reports[^1].Total, seen.Reports[^1].Done);
        ImportProgress[] written = [.. seen.Reports.Where(r => r.Total > 0)];
        Assert.True(written.Zip(written.Skip(1)).All(p => p.First.Done <= p.Second.Done));
    }

    [Theory]
    [InlineData("checksums")]
    [InlineData("embedding")]
    [InlineData("layer 2 of 6")]
    [InlineData("layer 6 of 6")]
    [InlineData("measuring, layer 2 of 6")]
    [InlineData("measuring with silu, layer 6 of 6")]
    public void A_cancelled_import_leaves_nothing_behind(string step)
    {
        using var cancel = new CancellationTokenSource();
        var canceller = new Collected { OnReport = r => { if (r.Step == step) cancel.Cancel(); } };
        Assert.ThrowsAny<OperationCanceledException>(() => Importer.Import(Source("emberling"), Package, null, canceller, cancel.Token));
        AssertNothingLeft();
    }

    /// <summary>The last tensor of the last layer is at fault: everything before it was written already.</summary>
    [Fact]
    public void A_fault_found_late_leaves_nothing_behind_and_the_old_package_in_place()
    {
        string source = Path.Combine(_folder, "source");
        Directory.CreateDirectory(source);
        foreach (string file in Directory.GetFiles(Source("llama-relu"))) File.Copy(file, Path.Combine(source, Path.GetFileName(file)));
        string hash = Importer.Import(source, Package).Hash;
        long offset;
        using (var file = SafetensorsFile.Open(Path.Combine(source, "model.safetensors"))) offset = file.Tensors["model.layers.1.mlp.down_proj.weight"].Offset;
        using (FileStream weights = File.OpenWrite(Path.Combine(source, "model.safetensors")))
        {
            weights.Position = offset + 4 * 77;
            weights.Write(BitConverter.GetBytes(float.NaN));
        }
        var e = Assert.Throws<ModelFormatException>(() => Importer.Import(source, Package));
        Assert.Contains("model.layers.1.mlp.down_proj.weight", e.Message, StringComparison.Ordinal);
        Assert.Equal([Package, source], Directory.GetFileSystemEntries(_folder).Order(StringComparer.Ordinal));
        using FlashPackage package = FlashPackage.Open(Package);
        Assert.Equal(hash, package.Hash);
    }

    [Fact]
    public void Every_malformed_checkpoint_leaves_nothing_behind()
    {
        string bad = TestData.Repo("tests", "data", "bad");
        foreach (JsonNode? entry in JsonNode.Parse(File.ReadAllText(Path.Combine(bad, "index.json")))!.AsArray())
        {
            if (entry!["expect"]!.GetValue<string>() == "ok") continue;
            Assert.Throws<ModelFormatException>(() => Importer.Import(Path.Combine(bad, entry["path"]!.GetValue<string>()), Package));
            AssertNothingLeft();
        }
    }

    private static TheoryData<string, string> Combine(string[] models) => new(from model in models from quant in new[] { "f32", "bf16", "q8", "q4" } select (model, quant));

    private string Package => Path.Combine(_folder, "m.flash");

    private static string Source(string model) => model == "emberling" ? TestData.Repo("models", "emberling") : TestData.Golden(model);

    private void AssertNothingLeft() => Assert.Empty(Directory.GetFileSystemEntries(_folder));

    /// <summary>bf16 keeps 8 bits of each number; q8 and q4 are off by half a step of the block's scale, and a little for the scale's own rounding to f16.</summary>
    private static void AssertWithin(string quant, float[] expected, float[] actual, string name)
    {
        Assert.Equal(expected.Length, actual.Length);
        bool blocks = quant is "q8" or "q4";
        for (int b = 0; b < expected.Length; b += 32)
        {
            float largest = 0;
            for (int k = b; k < b + 32; k++) largest = MathF.Max(largest, MathF.Abs(expected[k]));
            for (int k = b; k < b + 32; k++)
            {
                // q4 may give up some of the largest number for a finer grid: at most 2 steps of 1/6.
                float allowed = blocks ? largest * (quant == "q8" ? 0.505f / 127 + 1e-3f : 0.34f) + 1e-6f : MathF.Abs(expected[k]) / 256;
                if (MathF.Abs(expected[k] - actual[k]) > allowed) Assert.Fail($"{name}[{k}] is {actual[k]}, the checkpoint has {expected[k]} (block maximum {largest})");
            }
        }
    }

    private sealed class Collected : IProgress<ImportProgress>
    {
        public List<ImportProgress> Reports { get; } = [];
        public Action<ImportProgress>? OnReport { get; init; }
        public void Report(ImportProgress value)
        {
            Reports.Add(value);
            OnReport?.Invoke(value);
        }
    }
}
