using System.Runtime.InteropServices;
using System.Text.Json;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>Every architecture of GGUF files that is supported, by its golden model written as such a file (<see cref="GgufTwin"/>): imported, computed from flash, against Hugging Face.</summary>
public sealed class GgufArchitectureTests : IDisposable
{
    private const float Tolerance = 2e-4f;
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-gguf-twin-").FullName;

    public static readonly TheoryData<string, string> Twins = new(GgufTwin.All.Select(t => (t.Golden, t.Architecture)));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory, MemberData(nameof(Twins))]
    public void A_GGUF_file_computes_the_logits_and_continuations_of_its_checkpoint(string golden, string architecture)
    {
        using var imported = ImportedPackage.Create(File(golden, architecture), "f32");
        using var expected = SafetensorsFile.Open(Path.Combine(TestData.Golden(golden), "golden.safetensors"));
        float[] logits = MemoryMarshal.Cast<byte, float>(expected.ReadBytes(expected.Tensors["logits"])).ToArray();
        JsonElement[] prompts = [.. TestData.Json(Path.Combine(TestData.Golden(golden), "golden.json")).GetProperty("prompts").EnumerateArray()];
        int[] ids = TestData.Ints(prompts[^1].GetProperty("ids"));
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 0.3 });
        int vocabulary = imported.Package.Config.VocabSize;

        List<float[]> actual = ReferenceModel.FromPackage(imported.Package).Run(ids).Logits;
        for (int i = 0; i < ids.Length; i++)
            for (int t = 0; t < vocabulary; t++)
                Assert.True(MathF.Abs(actual[i][t] - logits[i * vocabulary + t]) <= Tolerance, $"position {i}, token {t}: {actual[i][t]} instead of {logits[i * vocabulary + t]}");
        foreach (JsonElement prompt in prompts)
        {
            int[] greedy = TestData.Ints(prompt.GetProperty("greedy"));
            using var session = engine.OpenSession();
            Assert.Equal(greedy, session.Generate(TestData.Ints(prompt.GetProperty("ids")), greedy.Length, Sampling.Greedy).Select(r => r.Token));
        }
    }

    /// <summary>The format has no word for its windows: the numbers are the same, and all else that the configuration says.</summary>
    [Fact]
    public void Dots1_as_a_GGUF_file_has_the_numbers_of_its_checkpoint()
    {
        using Checkpoint gguf = Checkpoint.Open(File("dots1", "dots1")), safetensors = Checkpoint.Open(TestData.Golden("dots1"));
        Assert.Equal(safetensors.Config.Experts, gguf.Config.Experts);
        Assert.Equal(safetensors.Config.LayerTraits.Select(static t => t & LayerTraits.Dense), gguf.Config.LayerTraits);
        Assert.Equal(safetensors.Tensors.Order(StringComparer.Ordinal), gguf.Tensors.Order(StringComparer.Ordinal));
        foreach (string name in safetensors.Tensors) Assert.Equal(safetensors.Read(name), gguf.Read(name));
    }

    [Fact]
    public void Layers_that_foretell_further_tokens_are_left_out()
    {
        string file = Path.Combine(_folder, "nextn.gguf");
        System.IO.File.WriteAllBytes(file, GgufTwin.Write("glm4-moe", "glm4moe", foretelling: 1));
        using Checkpoint more = Checkpoint.Open(file), plain = Checkpoint.Open(TestData.Golden("glm4-moe"));
        Assert.Equal(plain.Config.Layers, more.Config.Layers);
        foreach (string name in plain.Tensors) Assert.Equal(plain.Read(name), more.Read(name));
    }

    /// <summary>As gpt-oss is published: the file's four bits are the numbers, whatever the package makes of them.</summary>
    [Fact]
    public void Experts_in_MXFP4_compute_what_their_numbers_compute_in_floats()
    {
        int[] ids = [5, 17, 200, 3, 99, 42];
        List<float[]> Logits(bool mxfp4, bool rounded, string quant)
        {
            string file = Path.Combine(_folder, $"{mxfp4}.gguf");
            System.IO.File.WriteAllBytes(file, GgufTwin.Write("gpt-oss", "gpt-oss", mxfp4, rounded));
            using var imported = ImportedPackage.Create(file, quant);
            return ReferenceModel.FromPackage(imported.Package).Run(ids).Logits;
        }
        List<float[]> floats = Logits(mxfp4: false, rounded: true, "f32");
        Assert.Equal(floats, Logits(mxfp4: true, rounded: false, "f32"));
        float[] kept = Logits(mxfp4: true, rounded: false, "keep")[^1];
        double error = kept.Zip(floats[^1], static (k, f) => (k - f) * (double)(k - f)).Sum(), size = floats[^1].Sum(static f => f * (double)f);
        Assert.True(Math.Sqrt(error / size) < 0.05, $"relative error {Math.Sqrt(error / size)}");
    }

    private string File(string golden, string architecture)
    {
        string file = Path.Combine(_folder, golden + ".gguf");
        System.IO.File.WriteAllBytes(file, GgufTwin.Write(golden, architecture));
        return file;
    }
}
